//! What observers are told, and what is never told.

use std::sync::{Arc, Mutex};

use http::HeaderValue;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheOptions, Sharing,
    observe::{Ending, Event, FillRecord, RequestRecord},
    policy::{Bypass, NotStored},
    status::{Miss, Outcome},
    store::Memory,
};

use crate::{
    ask,
    origin::{Origin, data, streamed, text},
    post, read, send,
    store::{Fault, Scripted},
    until,
};

#[derive(Clone, Default)]
struct Log {
    requests: Arc<Mutex<Vec<RequestRecord>>>,
    fills: Arc<Mutex<Vec<FillRecord>>>,
    text: Arc<Mutex<String>>,
}

impl Log {
    fn observer(&self) -> impl Fn(&Event<'_>) + Send + Sync + use<> {
        let log = self.clone();
        move |event| {
            log.text.lock().unwrap().push_str(&format!("{event:?}\n"));
            match event {
                Event::Request(record) => log.requests.lock().unwrap().push((*record).clone()),
                Event::Fill(record) => log.fills.lock().unwrap().push((*record).clone()),
                _ => {}
            }
        }
    }

    fn last(&self) -> RequestRecord {
        self.requests.lock().unwrap().last().unwrap().clone()
    }

    fn len(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

#[tokio::test]
async fn every_request_is_recorded_once_with_its_outcome() {
    let log = Log::default();
    let (feeds, mut fed) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::new(move |call| {
        let feeds = feeds.clone();
        async move {
            match call.head.uri.path() {
                "/fed" => {
                    let (feed, response) = streamed();
                    feeds.send(feed).unwrap();
                    Ok(response)
                }
                "/fails" => Err("down".into()),
                _ => Ok(text("answer")),
            }
        }
    });
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared)).observer(log.observer());
    let handle = layer.handle();
    let cache = layer.layer(origin);

    let mut request = post("/", "question");
    request.extensions_mut().insert(CacheOptions::new().request_id("r-1").label("provider", "p"));
    ask(&cache, request).await;
    let miss = log.last();
    assert_eq!((miss.outcome, miss.ending, miss.bytes, log.len()), (Outcome::Miss(Miss::Absent), Ending::Complete, 6, 1));
    assert_eq!((miss.request_id.as_deref(), miss.labels.get("provider")), (Some("r-1"), Some("p")));
    assert!(miss.timings.total >= miss.timings.first_byte.unwrap());
    until(|| log.fills.lock().unwrap().len() == 1).await;
    assert_eq!(log.fills.lock().unwrap()[0].not_stored, None);

    ask(&cache, post("/", "question")).await;
    let hit = log.last();
    assert_eq!((hit.outcome, hit.digest()), (Outcome::Hit, miss.digest()));
    assert!(hit.saved_time.is_some());

    let mut bypass = post("/", "question");
    bypass.headers_mut().insert("range", HeaderValue::from_static("bytes=0-1"));
    read(send(&cache, bypass).await).await;
    assert_eq!((log.last().outcome, log.last().ending), (Outcome::Bypass(Bypass::Range), Ending::Complete));

    cache.clone().oneshot(post("/fails", "")).await.unwrap_err();
    assert_eq!((log.last().ending, log.len()), (Ending::Failed, 4));

    // One reads to the end, one leaves in the middle.
    let leader = send(&cache, post("/fed", "")).await;
    let feed = fed.recv().await.unwrap();
    let joined = send(&cache, post("/fed", "")).await;
    feed.send(data("some")).await.unwrap();
    drop(leader);
    feed.send(Err("reset".into())).await.unwrap();
    joined.into_body().collect().await.unwrap_err();
    until(|| log.len() == 6).await;
    let both = log.requests.lock().unwrap()[4..].iter().map(|record| (record.outcome, record.ending)).collect::<Vec<_>>();
    assert_eq!(both, [(Outcome::Miss(Miss::Absent), Ending::Dropped), (Outcome::Collapsed, Ending::Failed)]);

    let stats = handle.stats().await;
    assert_eq!((stats.hits, stats.misses, stats.coalesced, stats.stored), (1, 3, 1, 1));
    assert_eq!(stats.bypassed, [("range", 1)]);
    assert_eq!(stats.hit_rate(), 2.0 / 5.0);
}

#[tokio::test]
async fn a_panic_in_an_observer_hurts_neither_the_request_nor_the_next_observer() {
    let log = Log::default();
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared))
        .observer(|_: &Event<'_>| panic!("broken by a test"))
        .observer(log.observer());
    let handle = layer.handle();
    let cache = layer.layer(Origin::signed());
    ask(&cache, post("/", "")).await;
    assert_eq!(log.len(), 1);
    assert!(handle.stats().await.panics >= 1);
}

#[tokio::test]
async fn trouble_with_the_store_is_told_and_the_request_is_served() {
    let log = Log::default();
    let store = Scripted::new(Memory::new(1 << 20)).on_get(Fault::Fails);
    let layer = CacheLayer::new(store, ApiPolicy::new(Sharing::Shared)).observer(log.observer());
    let handle = layer.handle();
    let cache = layer.layer(Origin::signed());
    ask(&cache, post("/", "")).await;
    assert_eq!(log.last().degraded, 1);
    until(|| log.fills.lock().unwrap().len() == 1).await;
    assert_eq!(log.fills.lock().unwrap()[0].not_stored, Some(NotStored::Store));
    assert_eq!(handle.stats().await.store_errors, 1);
    assert!(log.text.lock().unwrap().contains("broken by a test"));
}

#[tokio::test]
async fn secrets_reach_neither_records_nor_debug_output() {
    const CANARY: &str = "canary-7f3a";
    let log = Log::default();
    let origin = Origin::new(|_| async {
        let mut response = text(format!("body {CANARY}"));
        response.headers_mut().insert("set-cookie", HeaderValue::from_static("s=canary-7f3a"));
        Ok(response)
    });
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::PerCredential)).observer(log.observer());
    let handle = layer.handle();
    let cache = layer.clone().layer(origin);
    for _ in 0..2 {
        let mut request = post(&format!("/{CANARY}?key={CANARY}"), CANARY);
        for name in ["authorization", "cookie", "x-api-key", "x-other"] {
            request.headers_mut().insert(name, HeaderValue::from_static(CANARY));
        }
        let answer = send(&cache, request).await;
        log.text.lock().unwrap().push_str(&format!("{:?} {:?}", answer.extensions(), answer.headers()["cache-status"]));
        log.text.lock().unwrap().push_str(&format!("{:?}", answer.body()));
        read(answer).await;
        crate::calm().await;
    }
    let debug = format!("{layer:?} {handle:?} {:?}", handle.stats().await);
    assert!(!log.text.lock().unwrap().contains(CANARY) && !debug.contains(CANARY));
}

/// Says of every answer what it cost.
struct Costly;

impl tower_response_cache::inspect::Inspect for Costly {
    fn begin(&self, _: &http::request::Parts, _: &http::response::Parts) -> Option<Box<dyn tower_response_cache::inspect::Inspector>> {
        Some(Box::new(Tokens(0)))
    }
}

struct Tokens(u64);

impl tower_response_cache::inspect::Inspector for Tokens {
    fn frame(&mut self, data: &[u8]) {
        self.0 += data.len() as u64;
    }

    fn end(self: Box<Self>) -> tower_response_cache::inspect::Findings {
        let usage = tower_response_cache::entry::Usage { output: self.0, ..Default::default() };
        tower_response_cache::inspect::Findings { proven: true, model: Some("m".to_owned()), usage: Some(usage), ..Default::default() }
    }
}

#[tokio::test]
async fn what_an_answer_cost_is_told_though_it_broke_off_and_it_is_not_stored_though_the_inspector_is_content() {
    for fault in ["reset", "short"] {
        let log = Log::default();
        let origin = Origin::new(move |_| async move {
            let (feed, mut response) = crate::origin::streamed();
            feed.send(data("12345")).await.unwrap();
            match fault {
                "reset" => feed.send(Err("reset".into())).await.unwrap(),
                _ => response = crate::origin::promised(response, 10),
            }
            Ok(response)
        });
        let policy = ApiPolicy::new(Sharing::Shared).inspector(Costly);
        let cache = CacheLayer::new(Memory::new(1 << 20), policy).observer(log.observer()).layer(origin);
        send(&cache, post("/", "")).await.into_body().collect().await.unwrap_err();
        until(|| log.fills.lock().unwrap().len() == 1).await;
        let fill = log.fills.lock().unwrap()[0].clone();
        assert_eq!((fill.not_stored, fill.model.as_deref()), (Some(NotStored::Incomplete), Some("m")), "{fault}");
        assert_eq!(fill.usage.unwrap().output, 5, "{fault}");
    }
}
