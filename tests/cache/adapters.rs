//! Adapters from what observers are told to what others read.

use std::sync::Arc;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tower::Layer;
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheOptions, NanoUsd, Sharing,
    cost::Call,
    entry::Usage,
    inspect::{Findings, Inspect, Inspector},
    observe::{Channel, Event, LinkChange, MetricsObserver, Observer, Told, TracingObserver},
    status::Outcome,
    store::Memory,
};
use tracing::{Instrument, field::Empty};

use crate::{
    ask, layer,
    log::Log,
    origin::{Origin, text},
    post, read, send, until,
};

fn shown(snapshotter: &Snapshotter) -> Vec<(String, DebugValue)> {
    let line = |key: metrics_util::CompositeKey| {
        let labels = key.key().labels().map(|label| format!("{}={}", label.key(), label.value())).collect::<Vec<_>>().join(" ");
        format!("{} {labels}", key.key().name())
    };
    snapshotter.snapshot().into_vec().into_iter().map(|(key, _, _, value)| (line(key), value)).collect()
}

fn counted(all: &[(String, DebugValue)], wanted: &str) -> u64 {
    match all.iter().find(|(line, _)| line == wanted) {
        Some((_, DebugValue::Counter(count))) => *count,
        other => panic!("{wanted}: {other:?}"),
    }
}

fn samples(all: &[(String, DebugValue)], wanted: &str) -> Vec<f64> {
    match all.iter().find(|(line, _)| line == wanted) {
        Some((_, DebugValue::Histogram(samples))) => samples.iter().map(|sample| sample.into_inner()).collect(),
        other => panic!("{wanted}: {other:?}"),
    }
}

#[derive(Clone)]
struct Says(&'static str);

impl Inspect for Says {
    fn begin(&self, request: &http::request::Parts, _: &http::response::Parts) -> Option<Box<dyn Inspector>> {
        Some(Box::new(Model(format!("{}{}", self.0, request.uri.path()))))
    }
}

struct Model(String);

impl Inspector for Model {
    fn frame(&mut self, _: &[u8]) {}

    fn end(self: Box<Self>) -> Findings {
        let usage = Usage {
            input_uncached: 18,
            cache_read: 3,
            cache_write_1h: 2,
            output: 7,
            audio_input: 5,
            audio_cache_read: 1,
            ..Usage::default()
        };
        Findings { model: Some(self.0), usage: Some(usage), operation: Some("chat".into()), ..Findings::default() }
    }
}

#[tokio::test]
async fn the_metrics_facade_gets_requests_money_and_tokens_under_documented_names() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let (channel, mut told) = Channel::new(64);
    let policy = ApiPolicy::new(Sharing::Shared).inspector(Says("m"));
    let cache = CacheLayer::new(Memory::new(1 << 20), policy)
        .cost(|call: &Call<'_>| Some(NanoUsd(call.usage?.output * 100)))
        .observer(MetricsObserver::with_recorder(Arc::new(recorder)).models(2))
        .observer(channel)
        .layer(Origin::new(|_| async { Ok(text("answer")) }));
    for path in ["/a", "/a", "/b", "/c", "/d", "/d"] {
        let mut request = post(path, "");
        request.extensions_mut().insert(CacheOptions::new().label("provider", "p"));
        ask(&cache, request).await;
        // What was asked is stored before it is asked again.
        tokio::task::yield_now().await;
    }
    let mut seen = (0, 0);
    while seen != (6, 4) {
        match told.next().await.unwrap() {
            Told::Request(_) => seen.0 += 1,
            Told::Fill(_) => seen.1 += 1,
            _ => unreachable!(),
        }
    }
    let all = shown(&snapshotter);
    assert_eq!(counted(&all, "cache_requests_total outcome=hit reason="), 2);
    assert_eq!(counted(&all, "cache_requests_total outcome=miss reason=absent"), 4);
    assert_eq!(counted(&all, "cache_response_bytes_total outcome=hit reason="), 12);
    assert_eq!(samples(&all, "cache_request_duration_seconds outcome=hit reason=").len(), 2);
    assert_eq!(samples(&all, "cache_first_byte_seconds outcome=miss reason=absent").len(), 4);
    assert_eq!(counted(&all, "cache_fills_total result=stored"), 4);
    assert_eq!(counted(&all, "cache_billed_nanousd_total provider=p model=m/a"), 700);
    assert_eq!(counted(&all, "cache_saved_nanousd_total provider=p model=m/a"), 700);
    assert_eq!(counted(&all, "cache_billed_nanousd_total provider=other model=other"), 1400, "the third and the fourth");
    assert_eq!(counted(&all, "cache_tokens_total provider=p model=m/b source=upstream type=input"), 23);
    assert_eq!(counted(&all, "cache_tokens_total provider=p model=m/b source=upstream type=output"), 7);
    assert_eq!(counted(&all, "cache_tokens_total provider=other model=other source=cache type=output"), 7);
    let usage =
        "gen_ai.client.token.usage gen_ai.operation.name=chat gen_ai.provider.name=p gen_ai.response.model=m/a gen_ai.token.type=output";
    assert_eq!(samples(&all, usage), [7.0]);
    assert_eq!(
        samples(&all, "gen_ai.client.operation.duration gen_ai.operation.name=chat gen_ai.provider.name=p gen_ai.response.model=m/a").len(),
        1
    );
    assert!(all.iter().all(|(line, _)| !line.contains("m/c") && !line.contains("m/d")));
}

#[tokio::test]
async fn the_span_of_a_request_gets_what_it_declares_although_the_body_is_read_elsewhere() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(log.writer()).finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let policy = ApiPolicy::new(Sharing::Shared).inspector(Says("m"));
    let cache = CacheLayer::new(Memory::new(1 << 20), policy)
        .cost(|_: &Call<'_>| Some(NanoUsd(250_000_000)))
        .observer(TracingObserver)
        .layer(Origin::new(|_| async { Ok(text("answer")) }));
    for _ in 0..2 {
        let span = tracing::info_span!(
            "http",
            cache.outcome = Empty,
            cache.saved_usd = Empty,
            gen_ai.operation.name = Empty,
            gen_ai.provider.name = Empty,
            gen_ai.request.model = Empty,
            gen_ai.response.model = Empty,
            gen_ai.usage.input_tokens = Empty,
            gen_ai.usage.output_tokens = Empty,
            gen_ai.usage.cache_read.input_tokens = Empty,
            gen_ai.usage.cache_creation.input_tokens = Empty,
            gen_ai.usage.reasoning.output_tokens = Empty,
            gen_ai.usage.audio.input_tokens = Empty,
            gen_ai.usage.audio.output_tokens = Empty
        );
        let mut request = post("/a", "");
        request.extensions_mut().insert(CacheOptions::new().label("provider", "xai").label("model", "asked"));
        let answer = send(&cache, request).instrument(span.clone()).await;
        read(answer).await;
        tokio::task::yield_now().await;
    }
    let text = log.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("tower_response_cache: request")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    let names = r#"gen_ai.provider.name="x_ai" gen_ai.request.model="asked" gen_ai.response.model="m/a""#;
    let call = "gen_ai.usage.input_tokens=23 gen_ai.usage.output_tokens=7 gen_ai.usage.cache_read.input_tokens=3 gen_ai.usage.cache_creation.input_tokens=2 gen_ai.usage.audio.input_tokens=6";
    let miss = format!(r#"http{{cache.outcome="miss" gen_ai.operation.name="chat" {names} {call}}}"#);
    assert!(lines[0].contains(&miss), "{text}");
    let hit = format!(r#"http{{cache.outcome="hit" cache.saved_usd=0.25 {names}}}"#);
    assert!(lines[1].contains(&hit), "a hit is no operation of a model: {text}");
    // Their own fields say the same.
    assert!(lines[0].contains(r#" gen_ai.operation.name="chat" "#) && lines[0].matches(call).count() == 2, "{text}");
    assert!(!lines[1].contains("gen_ai.operation.name") && !lines[1].contains("gen_ai.usage"), "{text}");
    assert!(lines[0].contains("billed_usd=0.25") && lines[1].contains("billed_usd=0.0 saved_usd=0.25"), "{text}");
}

#[tokio::test]
async fn a_channel_never_holds_a_request_up_and_counts_what_it_drops() {
    let (channel, mut records) = Channel::new(2);
    let cache = layer().observer(channel.clone()).layer(Origin::signed());
    ask(&cache, post("/", "")).await;
    until(|| records.waiting() == 2).await;
    // Nobody reads.
    for _ in 0..3 {
        ask(&cache, post("/", "")).await;
    }
    assert_eq!((channel.dropped(), records.dropped()), (3, 3));
    let (mut requests, mut fills) = (0, 0);
    for _ in 0..2 {
        match records.next().await.unwrap() {
            Told::Request(record) => {
                assert!(matches!(record.outcome, Outcome::Miss(_)));
                requests += 1;
            }
            Told::Fill(_) => fills += 1,
            _ => unreachable!(),
        }
    }
    assert_eq!((requests, fills), (1, 1));
    ask(&cache, post("/", "")).await;
    assert!(matches!(records.next().await, Some(Told::Request(_))), "there is room again");
    drop(records);
    ask(&cache, post("/", "")).await;
    assert_eq!(channel.dropped(), 4, "nobody will ever read");
    drop(cache);
}

#[test]
fn changes_of_the_way_to_the_store_are_counted_and_its_state_is_shown() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let observer = MetricsObserver::with_recorder(Arc::new(recorder));
    let tell = |state| observer.on_event(&Event::Link(&LinkChange::new(state, Some("lost"))));
    for state in ["open", "probing", "open", "probing"] {
        tell(state);
    }
    let all = shown(&snapshotter);
    let up = |all: &[(String, DebugValue)]| match all.iter().find(|(line, _)| line == "cache_store_link_up ") {
        Some((_, DebugValue::Gauge(up))) => up.into_inner(),
        other => panic!("{other:?}"),
    };
    assert_eq!(counted(&all, "cache_store_link_changes_total state=open"), 2);
    assert_eq!(counted(&all, "cache_store_link_changes_total state=probing"), 2);
    assert_eq!(up(&all), 0.0);
    tell("closed");
    assert_eq!(up(&shown(&snapshotter)), 1.0);
}
