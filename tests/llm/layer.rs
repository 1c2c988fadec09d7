//! Through the cache: what inspectors object to is served and not stored, and they never hurt an answer.

use bytes::Bytes;
use http::{Request, request, response};
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    ApiPolicy, Cache, CacheLayer, CacheOptions, CacheStatus, NanoUsd, Sharing,
    inspect::{Findings, Inspect, Inspector},
    llm::{Dialects, LlmPrices},
    observe::{Channel, Event, FillRecord, Told},
    policy::NotStored,
    status::Outcome,
    store::Memory,
};

use crate::{
    EVENTS, JSON, golden,
    origin::{Origin, data, streamed},
};

type Fills = mpsc::UnboundedReceiver<FillRecord>;

/// A cache before an origin that streams these frames, and what is told of its fills.
fn cache(inspector: impl Inspect, content_type: &'static str, frames: Vec<Bytes>) -> (Origin, Cache<Origin, Memory, ApiPolicy>, Fills) {
    let origin = Origin::new(move |_| {
        let frames = frames.clone();
        async move {
            let (feed, mut response) = streamed();
            response.headers_mut().insert("content-type", content_type.parse().unwrap());
            for frame in frames {
                feed.send(data(frame)).await.unwrap();
            }
            Ok(response)
        }
    });
    let (told, fills) = mpsc::unbounded_channel();
    let observer = move |event: &Event<'_>| {
        if let Event::Fill(record) = event {
            // A test that does not listen needs nothing.
            let _ = told.send((*record).clone());
        }
    };
    let policy = ApiPolicy::new(Sharing::Shared).inspector(inspector);
    let cache = CacheLayer::new(Memory::new(64 << 20), policy).observer(observer).layer(origin.clone());
    (origin, cache, fills)
}

/// The frames of the answer, and where it came from.
async fn ask(cache: &Cache<Origin, Memory, ApiPolicy>) -> (Outcome, Vec<Bytes>) {
    let request = Request::post("http://origin/v1/chat/completions").header("content-type", JSON);
    let answer = cache.clone().oneshot(request.body(Full::new(Bytes::from_static(b"{}"))).unwrap()).await.unwrap();
    let outcome = answer.extensions().get::<CacheStatus>().unwrap().outcome;
    let mut body = answer.into_body();
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(frame.unwrap().into_data().unwrap());
    }
    (outcome, frames)
}

fn frames(text: &str, size: usize) -> Vec<Bytes> {
    text.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect()
}

#[tokio::test]
async fn a_whole_stream_is_stored_and_replayed_in_the_chunks_in_which_it_came() {
    for name in ["openai-chat.sse", "openai-responses.sse", "anthropic.sse", "gemini.sse"] {
        let frames = frames(golden(name).text, 97);
        let (origin, cache, mut fills) = cache(Dialects::new(), EVENTS, frames.clone());
        assert_eq!(ask(&cache).await.1, frames);
        let fill = fills.recv().await.unwrap();
        assert_eq!(fill.not_stored, None);
        assert!(fill.model.is_some() && fill.usage.is_some());
        assert_eq!(ask(&cache).await, (Outcome::Hit, frames));
        assert_eq!(origin.calls(), 1);
    }
}

#[tokio::test]
async fn what_is_objected_to_is_served_in_full_and_not_stored() {
    let whole = golden("openai-chat.sse");
    for (text, wanted) in [
        (whole.with("data: [DONE]\n\n", ""), "stream ends without its last event"),
        (whole.with("data: [DONE]\n\n", "data: {\"error\":{\"message\":\"overloaded\"}}\n\ndata: [DONE]\n\n"), "error in the stream"),
        (whole.with(r#""finish_reason":"stop""#, r#""finish_reason":"length""#), "answer truncated"),
        (String::new(), "stream without events"),
        (format!("data: {}\n\n", "x".repeat(2 << 20)), "event too long"),
    ] {
        let frames = frames(&text, 8192);
        let (origin, cache, mut fills) = cache(Dialects::new(), EVENTS, frames.clone());
        for calls in 1..=2 {
            let (outcome, got) = ask(&cache).await;
            assert!(matches!(outcome, Outcome::Miss(_)), "{outcome:?}");
            assert_eq!(got, frames);
            assert_eq!(fills.recv().await.unwrap().not_stored, Some(NotStored::Objection(wanted.into())));
            assert_eq!(origin.calls(), calls);
        }
    }
}

#[tokio::test]
async fn what_is_allowed_is_stored() {
    let text = golden("openai-chat.sse").with(r#""finish_reason":"stop""#, r#""finish_reason":"length""#);
    let (_, cache, mut fills) = cache(Dialects::new().store_truncated(true), EVENTS, frames(&text, 500));
    ask(&cache).await;
    assert_eq!(fills.recv().await.unwrap().not_stored, None);
}

#[tokio::test]
async fn a_failing_inspector_never_hurts_an_answer() {
    #[derive(Clone, Copy)]
    enum Fails {
        Begin,
        Frame,
        End,
    }
    impl Inspect for Fails {
        fn begin(&self, _: &request::Parts, _: &response::Parts) -> Option<Box<dyn Inspector>> {
            assert!(!matches!(self, Fails::Begin), "broken by a test");
            Some(Box::new(*self))
        }
    }
    impl Inspector for Fails {
        fn frame(&mut self, _: &[u8]) {
            assert!(!matches!(self, Fails::Frame), "broken by a test");
        }
        fn end(self: Box<Self>) -> Findings {
            panic!("broken by a test");
        }
    }
    for fails in [Fails::Begin, Fails::Frame, Fails::End] {
        let frames = frames(golden("anthropic.sse").text, 97);
        let (origin, cache, mut fills) = cache(fails, EVENTS, frames.clone());
        for calls in 1..=2 {
            assert_eq!(ask(&cache).await.1, frames);
            assert_eq!(fills.recv().await.unwrap().not_stored, Some(NotStored::Panic));
            assert_eq!(origin.calls(), calls);
        }
    }
}

#[tokio::test]
async fn audio_is_billed_and_saved_at_the_same_price_whether_or_not_the_answer_names_its_model() {
    // As LiteLLM has it.
    let file =
        r#"{"gpt-4o-transcribe": {"input_cost_per_audio_token": 6e-06, "input_cost_per_token": 2.5e-06, "output_cost_per_token": 1e-05}}"#;
    for (name, operation, expected) in [
        ("openai-transcription.sse", "transcription", Some(8 * 2500 + 25 * 6000 + 12 * 10_000)),
        ("openai-transcription.json", "transcription", Some(14 * 6000 + 45 * 10_000)),
        ("openai-whisper.json", "transcription", None),
        ("openai-chat-audio.sse", "chat", Some(17 * 2500 + 74 * 32_000 + 14 * 10_000 + 40 * 64_000)),
        ("gemini-audio.sse", "generate_content", Some(320 * 150 + 960 * 500 + 80 * 30 + 640 * 100 + 66 * 1250)),
    ] {
        let golden = golden(name);
        let (channel, mut told) = Channel::new(16);
        let policy = ApiPolicy::new(Sharing::Shared).inspector(Dialects::new());
        let cache = CacheLayer::new(Memory::new(1 << 20), policy)
            .cost(LlmPrices::embedded().with_json(file).unwrap())
            .observer(channel)
            .layer(Origin::new(move |_| async move {
                let response = http::Response::builder().header("content-type", golden.content_type);
                Ok(response.body(crate::origin::text(golden.text).into_body()).unwrap())
            }));
        let (mut calls, mut requests) = (Vec::new(), Vec::new());
        for asked in 1..=2 {
            let mut request = Request::post("http://origin/v1/audio").body(Full::new(Bytes::from_static(b"{}"))).unwrap();
            request.extensions_mut().insert(CacheOptions::new().label("model", "gpt-4o-transcribe"));
            cache.clone().oneshot(request).await.unwrap().into_body().collect().await.unwrap();
            while (requests.len(), calls.len()) != (asked, 1) {
                match told.next().await.unwrap() {
                    Told::Request(record) => requests.push(record),
                    Told::Fill(record) => calls.push(record),
                    _ => unreachable!(),
                }
            }
        }
        let expected = expected.map(NanoUsd);
        let (miss, hit) = (&requests[0], &requests[1]);
        assert_eq!((hit.outcome, miss.billed, hit.saved, calls[0].cost), (Outcome::Hit, expected, expected, expected), "{name}");
        assert_eq!((miss.operation.as_deref(), hit.operation.as_deref()), (Some(operation), None), "{name}");
        assert_eq!((miss.usage, hit.usage), (hit.saved_usage, None), "{name}");
    }
}
