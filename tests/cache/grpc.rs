//! gRPC calls: messages, metadata and trailers come back as they were; what failed, and what streams from the client, is not cached.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    Cache, CacheLayer, GrpcPolicy, RequestBody, Sharing,
    observe::Event,
    policy::NotStored,
    status::{Miss, Outcome},
    store::Memory,
};

use crate::{
    Answer,
    origin::{Origin, OriginBody, OriginError, data},
    outcome, send,
};

const MISS: Outcome = Outcome::Miss(Miss::Absent);

fn policy() -> GrpcPolicy {
    GrpcPolicy::new(Sharing::PerCredential).method("l.Library/List")
}

/// A cache, and why what its upstream answers is not stored, fill by fill.
fn cache(origin: &Origin) -> (Cache<Origin, Memory, GrpcPolicy>, mpsc::UnboundedReceiver<Option<NotStored>>) {
    let (told, fills) = mpsc::unbounded_channel();
    let observer = move |event: &Event<'_>| {
        if let Event::Fill(fill) = event {
            let _ = told.send(fill.not_stored.clone());
        }
    };
    (CacheLayer::new(Memory::new(1 << 20), policy()).observer(observer).layer(origin.clone()), fills)
}

fn message(text: &str) -> Bytes {
    let mut message = vec![0];
    message.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
    message.extend(text.as_bytes());
    message.into()
}

fn call(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post("http://books/l.Library/List").header("content-type", "application/grpc").body(Full::new(body.into())).unwrap()
}

fn status(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers.insert("x-cost-bin", HeaderValue::from_static("AAAB"));
    trailers
}

fn respond(frames: Vec<Result<Frame<Bytes>, OriginError>>) -> Response<OriginBody> {
    let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
    Response::builder().header("content-type", "application/grpc").header("x-shelf", "3").body(body).unwrap()
}

/// Answers with these frames, each time.
fn origin(frames: impl Fn() -> Vec<Result<Frame<Bytes>, OriginError>> + Send + Sync + 'static) -> Origin {
    Origin::new(move |_| std::future::ready(Ok(respond(frames()))))
}

async fn read(answer: Answer) -> (Vec<Bytes>, Option<HeaderMap>) {
    let mut body = answer.into_body();
    let (mut chunks, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => chunks.push(data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    (chunks, trailers)
}

#[tokio::test]
async fn a_stream_of_messages_comes_back_in_its_chunks_with_metadata_and_trailers() {
    let origin = origin(|| vec![data(message("one")), data(message("two")), data(message("")), Ok(Frame::trailers(status("0")))]);
    let (cache, mut fills) = cache(&origin);
    for expected in [MISS, Outcome::Hit] {
        let answer = send(&cache, call(message("q"))).await;
        assert_eq!(outcome(&answer), expected);
        assert_eq!(answer.headers()["x-shelf"], "3");
        assert!(!answer.body().is_end_stream());
        assert_eq!(answer.body().size_hint().exact(), None, "no length, for trailers come");
        let (chunks, trailers) = read(answer).await;
        assert_eq!(chunks, [message("one"), message("two"), message("")]);
        assert_eq!(trailers, Some(status("0")));
        if expected == MISS {
            assert_eq!(fills.recv().await.unwrap(), None);
        }
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_success_without_messages_comes_back_as_a_head_alone_or_with_its_trailers() {
    // In the head, as servers do that have nothing to stream.
    let head_only = Origin::new(|_| async {
        let mut response = respond(Vec::new()).map(|_| Full::default().map_err(|never| match never {}).boxed_unsync());
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("0"));
        Ok(response)
    });
    let (cache_of_heads, mut fills) = cache(&head_only);
    for expected in [MISS, Outcome::Hit] {
        let answer = send(&cache_of_heads, call(message(""))).await;
        assert_eq!((outcome(&answer), &answer.headers()["grpc-status"]), (expected, &HeaderValue::from_static("0")));
        if expected == MISS {
            assert_eq!(fills.recv().await.unwrap(), None);
        } else {
            assert!(answer.body().is_end_stream(), "the head is to end the stream");
        }
        assert_eq!(read(answer).await, (Vec::new(), None));
    }

    // In trailers.
    let trailing = origin(|| vec![Ok(Frame::trailers(status("0")))]);
    let (cache_of_trailers, mut fills) = cache(&trailing);
    for expected in [MISS, Outcome::Hit] {
        let answer = send(&cache_of_trailers, call(message(""))).await;
        assert_eq!(outcome(&answer), expected);
        assert!(!answer.body().is_end_stream());
        assert_eq!(read(answer).await, (Vec::new(), Some(status("0"))));
        if expected == MISS {
            assert_eq!(fills.recv().await.unwrap(), None);
        }
    }
}

#[tokio::test]
async fn what_failed_or_is_not_whole_is_never_stored() {
    let after_one = |end| vec![data(message("one")), end];
    let cases: Vec<(NotStored, Origin)> = vec![
        (NotStored::GrpcStatus, origin(move || after_one(Ok(Frame::trailers(status("13")))))),
        (NotStored::Incomplete, origin(move || vec![data(message("one"))])),
        (NotStored::Incomplete, origin(move || after_one(Ok(Frame::trailers(HeaderMap::new()))))),
        (NotStored::Incomplete, origin(move || after_one(Err("reset".into())))),
        (
            NotStored::Objection("message cut short".into()),
            origin(|| vec![data(message("one").slice(..6)), Ok(Frame::trailers(status("0")))]),
        ),
        (
            NotStored::Objection("compressed message without a coding".into()),
            origin(|| vec![data(&b"\x01\0\0\0\0"[..]), Ok(Frame::trailers(status("0")))]),
        ),
        (
            NotStored::GrpcStatus,
            Origin::new(|_| async {
                let mut response = respond(Vec::new());
                response.headers_mut().extend(status("5"));
                Ok(response)
            }),
        ),
    ];
    for (reason, origin) in cases {
        let (cache, mut fills) = cache(&origin);
        for calls in 1..=2 {
            let answer = send(&cache, call(message(""))).await;
            assert_eq!(outcome(&answer), MISS);
            let _ = answer.into_body().collect().await;
            assert_eq!(fills.recv().await.unwrap(), Some(reason.clone()));
            assert_eq!(origin.calls(), calls);
        }
    }
}

#[tokio::test]
async fn what_a_client_streams_to_a_listed_method_reaches_it_whole_and_uncached() {
    let origin = Origin::new(|call| async move { Ok(respond(vec![data(call.body), Ok(Frame::trailers(status("0")))])) });
    let (cache, _) = cache(&origin);
    let two = [message("one"), message("two")].concat();
    for calls in 1..=2 {
        let answer = send(&cache, call(two.clone())).await;
        assert_eq!(answer.headers()["cache-status"], "tower-response-cache; fwd=bypass; detail=client-streaming");
        assert_eq!(read(answer).await, (vec![Bytes::from(two.clone())], Some(status("0"))));
        assert_eq!(origin.calls(), calls);
    }
}

#[tokio::test]
async fn a_conversation_with_an_unlisted_method_is_not_held_up() {
    // Each message is answered before the next is sent: a cache that waited for the end of the request would stop both.
    let echo = tower::service_fn(|request: Request<RequestBody<StreamBody<ReceiverStream<_>>>>| async move {
        Ok::<_, OriginError>(Response::builder().header("content-type", "application/grpc").body(request.into_body()).unwrap())
    });
    let cache = CacheLayer::new(Memory::new(1 << 20), policy()).layer(echo);
    let (say, words) = mpsc::channel::<Result<Frame<Bytes>, OriginError>>(1);
    let request = Request::post("http://books/l.Library/Talk").header("content-type", "application/grpc");
    let answer = cache.oneshot(request.body(StreamBody::new(ReceiverStream::new(words))).unwrap()).await.unwrap();
    assert_eq!(answer.headers()["cache-status"], "tower-response-cache; fwd=bypass; detail=path");
    let mut body = answer.into_body();
    for word in ["one", "two", "three"] {
        say.send(data(message(word))).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), message(word));
    }
    drop(say);
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait_of_its_caller_and_not_the_call() {
    let gate = Arc::new(Semaphore::new(0));
    let origin = Origin::new({
        let gate = Arc::clone(&gate);
        move |call| {
            let gate = Arc::clone(&gate);
            async move {
                assert_eq!(call.head.headers["grpc-timeout"], "60000000u", "the upstream is given time for all who may wait");
                gate.acquire().await.unwrap().forget();
                Ok(respond(vec![data(message("late")), Ok(Frame::trailers(status("0")))]))
            }
        }
    });
    let (cache, mut fills) = cache(&origin);
    let within = |timeout: &'static str| {
        let mut request = call(message(""));
        request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(timeout));
        request
    };
    let patient = tokio::spawn({
        let (cache, request) = (cache.clone(), within("20S"));
        async move { cache.oneshot(request).await }
    });
    let late = send(&cache, within("250m")).await;
    assert!(!patient.is_finished(), "its time has not come");
    assert_eq!((late.status().as_u16(), &late.headers()["grpc-status"]), (200, &HeaderValue::from_static("4")));
    assert_eq!(late.headers()["content-type"], "application/grpc");
    assert!(late.body().is_end_stream());

    gate.add_permits(1);
    let patient = patient.await.unwrap().unwrap();
    assert_eq!(read(patient).await, (vec![message("late")], Some(status("0"))));
    assert_eq!(fills.recv().await.unwrap(), None);
    assert_eq!(outcome(&send(&cache, within("1m")).await), Outcome::Hit);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn an_answer_without_a_status_cannot_be_inserted_by_hand() {
    let origin = Origin::signed();
    let handle = CacheLayer::new(Memory::new(1 << 20), policy()).handle();
    let request = call(message("")).map(|_| message(""));
    let response = |code: Option<&'static str>| {
        let mut response = Response::builder().header("content-type", "application/grpc").body(Bytes::new()).unwrap();
        response.headers_mut().extend(code.map(status).unwrap_or_default());
        response
    };
    assert_eq!(handle.insert(&request, response(None), None).await.unwrap(), Err(NotStored::Incomplete));
    assert_eq!(handle.insert(&request, response(Some("5")), None).await.unwrap(), Err(NotStored::GrpcStatus));
    assert!(handle.insert(&request, response(Some("0")), None).await.unwrap().is_ok());
    assert_eq!(origin.calls(), 0);
}
