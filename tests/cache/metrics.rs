//! What the adapter for metrics emits is what is documented, and what OpenTelemetry calls it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use http::HeaderValue;
use metrics::Unit;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tower::Layer;
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheOptions, HttpPolicy, NanoUsd, Sharing,
    cost::Call,
    entry::Usage,
    inspect::{Findings, Inspect, Inspector},
    observe::{Event, LinkChange, MetricsObserver, Observer},
    store::{Memory, Store},
};

use crate::{
    ask,
    origin::{Origin, text},
    post, read, send,
    store::{Fault, Scripted},
};

/// Finds what the path of the request says: `/operation/model`, `-` for none.
struct ByPath;

impl Inspect for ByPath {
    fn begin(&self, request: &http::request::Parts, _: &http::response::Parts) -> Option<Box<dyn Inspector>> {
        let mut said = request.uri.path().split('/').skip(1).map(|part| Some(part.to_owned()).filter(|part| part != "-"));
        Some(Box::new(Said { operation: said.next().flatten(), model: said.next().flatten() }))
    }
}

struct Said {
    operation: Option<String>,
    model: Option<String>,
}

impl Inspector for Said {
    fn frame(&mut self, _: &[u8]) {}

    fn end(self: Box<Self>) -> Findings {
        let usage = Usage { input_uncached: 20, cache_read: 3, output: 7, ..Usage::default() };
        let usage = Some(usage).filter(|_| self.model.as_deref() != Some("silent"));
        Findings { operation: self.operation.map(Into::into), model: self.model, usage, ..Findings::default() }
    }
}

struct Watched {
    observer: Arc<MetricsObserver>,
    snapshotter: Snapshotter,
}

impl Watched {
    fn new() -> Self {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        Self { observer: Arc::new(MetricsObserver::with_recorder(Arc::new(recorder))), snapshotter }
    }

    /// Asks for these paths in turn, of a provider.
    async fn ask(&self, store: impl Store, provider: &str, paths: &[&str]) {
        let observer = Arc::clone(&self.observer);
        let cache = CacheLayer::new(store, ApiPolicy::new(Sharing::Shared).inspector(ByPath))
            .cost(|call: &Call<'_>| Some(NanoUsd(call.usage?.output)))
            .observer(move |event: &Event<'_>| observer.on_event(event))
            .layer(Origin::new(|_| async { Ok(text("answer")) }));
        for path in paths {
            let mut request = post(path, "");
            request.extensions_mut().insert(CacheOptions::new().label("provider", provider));
            ask(&cache, request).await;
            // What was asked is stored, and told of, before more is asked.
            tokio::task::yield_now().await;
        }
    }

    /// What all counters of a name have counted since the last time.
    fn counted(&self, name: &str) -> u64 {
        let values = self.snapshotter.snapshot().into_vec();
        let of_name = values.into_iter().filter(|(key, ..)| key.key().name() == name);
        of_name.map(|(.., value)| if let DebugValue::Counter(count) = value { count } else { 0 }).sum()
    }

    /// Samples of histograms since the last time, by name and the values of their labels.
    fn samples(&self) -> BTreeMap<String, BTreeMap<String, Vec<f64>>> {
        let mut all = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            if let DebugValue::Histogram(samples) = value {
                let labels = key.key().labels().map(|label| label.value()).collect::<Vec<_>>().join(" ");
                let samples = samples.into_iter().map(f64::from).collect();
                all.entry(key.key().name().to_owned()).or_default().insert(labels, samples);
            }
        }
        all
    }
}

/// Type, unit and labels by name, with underscores for dots.
type Names = BTreeMap<String, (String, Option<Unit>, BTreeSet<String>)>;

fn plain(name: &str) -> String {
    name.replace('.', "_")
}

/// What stands in the table of a document.
fn documented(document: &str) -> Names {
    let lines = document.lines().map(|line| line.trim_start_matches("/// "));
    let table =
        lines.skip_while(|line| !line.starts_with("| name | type | unit | labels |")).skip(2).take_while(|line| line.starts_with('|'));
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(plain).collect::<Vec<_>>();
    table
        .map(|row| {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let unit = match cells[3] {
                "bytes" => Unit::Bytes,
                "microseconds" => Unit::Microseconds,
                "seconds" => Unit::Seconds,
                _ => Unit::Count,
            };
            (quoted(cells[1]).remove(0), (cells[2].to_owned(), Some(unit), quoted(cells[4]).into_iter().collect()))
        })
        .collect()
}

#[tokio::test]
async fn every_metric_is_in_the_tables_of_the_documents_and_nothing_else_is() {
    let watched = Watched::new();
    // A miss, a hit, and trouble with the store.
    watched.ask(Memory::new(1 << 20), "p", &["/chat/m", "/chat/m"]).await;
    watched.ask(Scripted::new(Memory::new(1 << 20)).on_get(Fault::Fails), "p", &["/chat/m"]).await;
    watched.observer.on_event(&Event::Link(&LinkChange::new("open", Some("lost"))));
    let mut emitted = Names::new();
    for (key, unit, text, _) in watched.snapshotter.snapshot().into_vec() {
        assert!(text.is_some(), "{} is not described", key.key().name());
        let kind = format!("{:?}", key.kind()).to_lowercase();
        let entry = emitted.entry(plain(key.key().name())).or_insert_with(|| (kind.clone(), unit, BTreeSet::new()));
        assert_eq!((&entry.0, entry.1), (&kind, unit));
        entry.2.extend(key.key().labels().map(|label| plain(label.key())));
    }
    assert_eq!(emitted.len(), 15);
    for (name, document) in [
        ("the documentation", include_str!("../../src/observe/metrics/mod.rs")),
        ("README.md", include_str!("../../README.md")),
        ("examples/router/README.md", include_str!("../../examples/router/README.md")),
    ] {
        assert_eq!(documented(document), emitted, "{name}");
    }
}

#[tokio::test]
async fn calls_of_models_are_told_apart_by_operation_provider_and_model_as_opentelemetry_names_them() {
    let watched = Watched::new();
    let store = || Memory::new(1 << 20);
    // Each twice: the second is a hit, and no call.
    watched.ask(store(), "gemini", &["/generate_content/m", "/generate_content/m", "/embeddings/m", "/embeddings/m"]).await;
    watched
        .ask(
            store(),
            "openai",
            &["/chat/m", "/text_completion/m", "/transcription/-", "/chat/silent", "/-/m", "/word-of-ones-own/m", "/-/-"],
        )
        .await;
    let samples = watched.samples();
    let calls = &samples["gen_ai.client.operation.duration"];
    let counts: Vec<_> = calls.iter().map(|(labels, samples)| (labels.clone(), samples.len())).collect();
    let of = |expected: &[(&str, usize)]| expected.iter().map(|(labels, count)| ((*labels).to_owned(), *count)).collect::<Vec<_>>();
    assert_eq!(
        counts,
        of(&[
            ("chat openai m", 1),
            ("chat openai silent", 1),
            ("embeddings gcp.gemini m", 1),
            ("generate_content gcp.gemini m", 1),
            ("other openai m", 2),
            ("text_completion openai m", 1),
            ("transcription openai unknown", 1),
        ])
    );
    let tokens = &samples["gen_ai.client.token.usage"];
    assert_eq!(tokens["generate_content gcp.gemini m input"], [23.0], "what is cached at the provider is input");
    assert_eq!(tokens["generate_content gcp.gemini m output"], [7.0]);
    assert_eq!(tokens["other openai m output"], [7.0, 7.0]);
    assert!(tokens["chat openai silent input"].is_empty());
}

#[tokio::test]
async fn pairs_beyond_the_bound_are_counted_together_and_those_within_it_stay() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let observer = Arc::new(MetricsObserver::with_recorder(Arc::new(recorder)).models(3));
    let watched = Watched { observer, snapshotter };
    let store = Memory::new(1 << 20);
    watched.ask(store, "p", &["/chat/c", "/chat/a", "/chat/b", "/chat/e", "/chat/d", "/chat/a", "/chat/e"]).await;
    let calls = watched.samples().remove("gen_ai.client.operation.duration").unwrap();
    let names: Vec<_> = calls.iter().map(|(labels, samples)| (labels.as_str(), samples.len())).collect();
    assert_eq!(names, [("chat other other", 2), ("chat p a", 1), ("chat p b", 1), ("chat p c", 1)]);
}

#[tokio::test]
async fn a_call_past_the_cache_is_one_of_a_model_too() {
    let watched = Watched::new();
    let observer = Arc::clone(&watched.observer);
    let cache = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).inspector(ByPath))
        .observer(move |event: &Event<'_>| observer.on_event(event))
        .layer(Origin::new(|_| async { Ok(text("answer")) }));
    let mut request = post("/chat/m", "");
    request.headers_mut().insert("range", HeaderValue::from_static("bytes=0-1"));
    request.extensions_mut().insert(CacheOptions::new().label("provider", "openai"));
    read(send(&cache, request).await).await;
    let samples = watched.samples();
    assert_eq!(samples["gen_ai.client.operation.duration"]["chat openai m"].len(), 1);
    assert_eq!(samples["gen_ai.client.token.usage"]["chat openai m input"], [23.0]);
    assert_eq!(samples["gen_ai.client.token.usage"]["chat openai m output"], [7.0]);
}

#[tokio::test]
async fn a_call_whose_answer_is_stored_as_that_to_another_request_is_billed_once() {
    let watched = Watched::new();
    let observer = Arc::clone(&watched.observer);
    let layer = CacheLayer::new(Memory::new(1 << 20), HttpPolicy::shared()).cost(|_: &Call<'_>| Some(NanoUsd(5)));
    let handle = layer.handle();
    let cache = layer.observer(move |event: &Event<'_>| observer.on_event(event)).layer(Origin::new(|_| async {
        let mut response = text("made");
        response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=60"));
        response.headers_mut().insert("content-location", HeaderValue::from_static("/"));
        Ok(response)
    }));
    read(send(&cache, post("/", "")).await).await;
    assert!(handle.shutdown(std::time::Duration::from_secs(30)).await);
    assert_eq!((handle.stats().await.stored, handle.stats().await.billed), (1, NanoUsd(5)));
    assert_eq!(watched.counted("cache_billed_nanousd_total"), 5);
}
