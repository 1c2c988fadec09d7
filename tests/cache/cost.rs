//! What calls cost and answers save: every call is billed once, and nothing twice.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    ApiPolicy, Cache, CacheLayer, CacheOptions, Clock, NanoUsd, Sharing,
    cost::Call,
    entry::Usage,
    inspect::{Findings, Inspect, Inspector},
    observe::{Ending, Event, FillRecord, RequestRecord},
    policy::Bypass,
    status::{Miss, Outcome, Stale},
    store::Memory,
};

use crate::{
    ask,
    origin::{Origin, data, text},
    post, read, send, until,
};

#[derive(Clone, Default)]
struct Books {
    requests: Arc<Mutex<Vec<RequestRecord>>>,
    fills: Arc<Mutex<Vec<FillRecord>>>,
}

impl Books {
    fn observer(&self) -> impl Fn(&Event<'_>) + Send + Sync + use<> {
        let books = self.clone();
        move |event| match event {
            Event::Request(record) => books.requests.lock().unwrap().push((*record).clone()),
            Event::Fill(record) => books.fills.lock().unwrap().push((*record).clone()),
            _ => {}
        }
    }

    fn requests(&self) -> Vec<RequestRecord> {
        self.requests.lock().unwrap().clone()
    }

    fn fills(&self) -> Vec<FillRecord> {
        self.fills.lock().unwrap().clone()
    }

    fn last(&self) -> RequestRecord {
        self.requests().pop().unwrap()
    }

    async fn wait_for(&self, requests: usize, fills: usize) {
        until(|| self.requests.lock().unwrap().len() >= requests && self.fills.lock().unwrap().len() >= fills).await;
    }
}

/// The price of a path: `/7/..` costs 7 nano-dollars.
fn price_of(path: &str) -> Option<NanoUsd> {
    path.split('/').nth(1)?.parse().ok().map(NanoUsd)
}

fn by_path(call: &Call<'_>) -> Option<NanoUsd> {
    price_of(call.request.uri.path())
}

/// Says that whatever was said took as many tokens as it has bytes.
#[derive(Clone, Copy)]
struct PerByte(u64);

impl Inspect for PerByte {
    fn begin(&self, _: &http::request::Parts, _: &http::response::Parts) -> Option<Box<dyn Inspector>> {
        Some(Box::new(*self))
    }
}

impl Inspector for PerByte {
    fn frame(&mut self, data: &[u8]) {
        self.0 += data.len() as u64;
    }

    fn end(self: Box<Self>) -> Findings {
        let usage = Usage { output: self.0, ..Usage::default() };
        Findings { model: Some("m".into()), usage: Some(usage), service_tier: Some("flex".into()), ..Findings::default() }
    }
}

fn tokens(n: u64) -> Option<Usage> {
    Some(Usage { output: n, ..Usage::default() })
}

fn by_token(call: &Call<'_>) -> Option<NanoUsd> {
    let factor = if call.service_tier? == "flex" { 5 } else { 10 };
    Some(NanoUsd(call.usage?.output * factor))
}

#[tokio::test]
async fn a_miss_is_billed_and_a_hit_saves_what_the_same_would_cost_today() {
    let books = Books::default();
    let today = Arc::new(Mutex::new(1));
    let model = {
        let today = Arc::clone(&today);
        move |call: &Call<'_>| by_token(call).map(|cost| NanoUsd(cost.0 * *today.lock().unwrap()))
    };
    let policy = ApiPolicy::new(Sharing::Shared).inspector(PerByte(0));
    let layer = CacheLayer::new(Memory::new(1 << 20), policy).cost(model).observer(books.observer());
    let handle = layer.handle();
    let cache = layer.layer(Origin::new(|_| async { Ok(text("answer")) }));
    let request = |id: &str| {
        let mut request = post("/", "question");
        request.extensions_mut().insert(CacheOptions::new().request_id(id).label("provider", "p").label("model", "asked for"));
        request
    };

    ask(&cache, request("first")).await;
    books.wait_for(1, 1).await;
    let miss = books.last();
    assert_eq!((miss.billed, miss.saved, miss.usage, miss.saved_usage), (Some(NanoUsd(30)), None, tokens(6), None));
    assert_eq!((miss.model.as_deref(), miss.provider.as_deref(), miss.cached_since), (Some("m"), Some("p"), None));
    let fill = &books.fills()[0];
    assert_eq!((fill.cost, fill.provider.as_deref(), fill.service_tier.as_deref()), (Some(NanoUsd(30)), Some("p"), Some("flex")));

    *today.lock().unwrap() = 3;
    ask(&cache, request("second")).await;
    let hit = books.last();
    assert_eq!((hit.billed, hit.saved, hit.usage, hit.saved_usage), (Some(NanoUsd::ZERO), Some(NanoUsd(90)), None, tokens(6)));
    assert_eq!((hit.model.as_deref(), hit.provider.as_deref()), (Some("m"), Some("p")));
    assert_eq!((hit.request_id.as_deref(), hit.original_request_id.as_deref()), (Some("second"), Some("first")));
    assert!(hit.cached_since.unwrap() <= hit.at && hit.saved_time.is_some());

    let stats = handle.stats().await;
    assert_eq!((stats.billed, stats.saved, stats.unpriced), (NanoUsd(30), NanoUsd(90), 0));
}

#[tokio::test]
async fn what_has_no_price_is_unknown_and_counted_and_a_panic_of_the_model_hurts_nobody() {
    for panics in [false, true] {
        let books = Books::default();
        let model = move |_: &Call<'_>| {
            assert!(!panics, "broken by a test");
            None
        };
        let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared)).cost(model).observer(books.observer());
        let handle = layer.handle();
        let cache = layer.layer(Origin::signed());
        ask(&cache, post("/", "")).await;
        books.wait_for(1, 1).await;
        ask(&cache, post("/", "")).await;
        let [miss, hit] = <[_; 2]>::try_from(books.requests()).unwrap();
        assert_eq!((miss.billed, miss.saved), (None, None));
        assert_eq!((hit.billed, hit.saved), (Some(NanoUsd::ZERO), None));
        let stats = handle.stats().await;
        assert_eq!((stats.unpriced, stats.billed, stats.panics), (2, NanoUsd::ZERO, if panics { 2 } else { 0 }));
    }
}

#[tokio::test]
async fn callers_are_told_what_an_answer_saved_if_that_is_wanted() {
    for (told, model) in [(false, Some(710_000)), (true, Some(710_000)), (true, None)] {
        let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared));
        let layer = layer.cost(move |_: &Call<'_>| model.map(NanoUsd)).cost_headers(told);
        // What an upstream says of itself under these names is not what this cache says.
        let cache = layer.layer(Origin::new(|_| async {
            let mut response = text("answer");
            response.headers_mut().insert("x-cache-saved-usd", HeaderValue::from_static("upstream's"));
            Ok(response)
        }));
        ask(&cache, post("/", "")).await;
        let hit = send(&cache, post("/", "")).await;
        let saved = hit.headers().get("x-cache-saved-usd").map(|value| value.to_str().unwrap().to_owned());
        let expected = if told { model.map(|_| "0.00071") } else { Some("upstream's") };
        assert_eq!((saved.as_deref(), hit.headers().contains_key("x-cache-cost-usd")), (expected, told));
    }
}

#[tokio::test]
async fn without_a_cost_model_nothing_is_said_of_money() {
    let books = Books::default();
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared)).observer(books.observer());
    let handle = layer.handle();
    let cache = layer.layer(Origin::signed());
    ask(&cache, post("/", "")).await;
    books.wait_for(1, 1).await;
    assert_eq!((books.last().billed, books.fills()[0].cost, handle.stats().await.unpriced), (None, None, 0));
}

#[tokio::test]
async fn a_call_is_billed_to_the_one_who_made_it_even_if_it_left_before_the_end() {
    let books = Books::default();
    let (origin, mut fed) = Origin::fed();
    let policy = ApiPolicy::new(Sharing::Shared).inspector(PerByte(0));
    let cache = CacheLayer::new(Memory::new(1 << 20), policy).cost(by_token).observer(books.observer()).layer(origin);

    let leader = send(&cache, post("/", "")).await;
    let joined = send(&cache, post("/", "")).await;
    let feed = fed.recv().await.unwrap();
    feed.send(data("some ")).await.unwrap();
    drop(leader);
    assert_eq!(books.requests().len(), 0, "what it cost is not known yet");
    feed.send(data("more")).await.unwrap();
    drop(feed);
    assert_eq!(read(joined).await, "some more");
    books.wait_for(2, 1).await;
    let [leader, joined] = <[_; 2]>::try_from(books.requests()).unwrap();
    assert_eq!((leader.outcome, leader.ending), (Outcome::Miss(Miss::Absent), Ending::Dropped));
    assert_eq!((leader.billed, leader.usage, leader.saved), (Some(NanoUsd(45)), tokens(9), None));
    assert_eq!((joined.outcome, joined.ending), (Outcome::Collapsed, Ending::Complete));
    assert_eq!((joined.billed, joined.saved, joined.usage, joined.saved_usage), (Some(NanoUsd::ZERO), Some(NanoUsd(45)), None, tokens(9)));
}

#[tokio::test]
async fn one_who_leaves_before_the_head_is_recorded_once_and_billed_for_what_it_began() {
    let books = Books::default();
    let (go, gone) = tokio::sync::watch::channel(false);
    let origin = Origin::new(move |_| {
        let mut gone = gone.clone();
        async move {
            gone.wait_for(|go| *go).await.unwrap();
            Ok(text("answer"))
        }
    });
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared)).cost(by_path).observer(books.observer());
    let cache = layer.layer(origin.clone());
    let mut call = Box::pin(cache.clone().oneshot(post("/8", "")));
    assert!(futures_util::poll!(call.as_mut()).is_pending());
    until(|| origin.calls() == 1).await;
    drop(call);
    go.send(true).unwrap();
    books.wait_for(1, 1).await;
    let record = books.last();
    assert_eq!((record.outcome, record.billed, books.requests().len()), (Outcome::Unanswered, Some(NanoUsd(8)), 1));
}

#[tokio::test]
async fn a_call_past_the_cache_is_billed_by_its_tokens_for_as_much_as_went_by() {
    for (told, expected) in [("whole", (Ending::Complete, 9)), ("left", (Ending::Dropped, 5)), ("broken", (Ending::Failed, 5))] {
        let books = Books::default();
        let (origin, mut fed) = Origin::fed();
        let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).inspector(PerByte(0)));
        let layer = layer.cost(by_token).observer(books.observer());
        let handle = layer.handle();
        let cache = layer.layer(origin);
        let mut request = post("/", "");
        request.headers_mut().insert("range", HeaderValue::from_static("bytes=0-1"));
        request.extensions_mut().insert(CacheOptions::new().label("provider", "p").label("model", "asked for"));

        let mut body = send(&cache, request).await.into_body();
        let feed = fed.recv().await.unwrap();
        feed.send(data("some ")).await.unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "some ");
        assert_eq!(books.requests().len(), 0, "what it cost is not known yet");
        match told {
            "whole" => {
                feed.send(data("more")).await.unwrap();
                drop(feed);
                assert_eq!(body.collect().await.unwrap().to_bytes(), "more");
            }
            "left" => drop(body),
            _ => {
                feed.send(Err("broken by a test".into())).await.unwrap();
                assert!(body.frame().await.unwrap().is_err());
            }
        }
        let record = books.last();
        let (ending, taken) = expected;
        assert_eq!((record.outcome, record.ending), (Outcome::Bypass(Bypass::Range), ending), "{told}");
        assert_eq!((record.billed, record.usage), (Some(NanoUsd(taken * 5)), tokens(taken)), "{told}");
        assert_eq!((record.model.as_deref(), record.provider.as_deref(), record.saved), (Some("m"), Some("p"), None), "{told}");
        let stats = handle.stats().await;
        assert_eq!((stats.billed, stats.unpriced, books.fills().len()), (NanoUsd(taken * 5), 0, 0), "{told}");
    }
}

#[tokio::test]
async fn a_call_is_billed_to_the_one_who_made_it_however_many_wait_for_the_bill() {
    let books = Books::default();
    let (origin, mut fed) = Origin::fed();
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared)).cost(by_path).observer(books.observer());
    let cache = layer.layer(origin);
    let leader = send(&cache, post("/8", "")).await;
    let feed = fed.recv().await.unwrap();
    // Those who leave wait for the bill, up to a bound.
    for _ in 0..2000 {
        drop(send(&cache, post("/8", "")).await);
    }
    let kept = send(&cache, post("/8", "")).await;
    drop(leader);
    drop(feed);
    read(kept).await;
    books.wait_for(2002, 1).await;
    let requests = books.requests();
    assert_eq!(requests.iter().filter_map(|record| record.billed).sum::<NanoUsd>(), NanoUsd(8));
    assert!(requests.iter().any(|record| record.outcome == Outcome::Collapsed && record.saved.is_none()), "there is a bound");
}

#[tokio::test]
async fn what_has_no_price_is_counted_of_all_who_share_the_call() {
    let books = Books::default();
    let (origin, mut fed) = Origin::fed();
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared)).cost(|_: &Call<'_>| None).observer(books.observer());
    let handle = layer.handle();
    let cache = layer.layer(origin);
    let leader = send(&cache, post("/", "")).await;
    let feed = fed.recv().await.unwrap();
    let joined = [send(&cache, post("/", "")).await, send(&cache, post("/", "")).await];
    drop(feed);
    read(leader).await;
    join_all(joined.map(read)).await;
    books.wait_for(3, 1).await;
    assert_eq!(handle.stats().await.unpriced, 3);
}

#[tokio::test]
async fn what_may_not_be_stored_by_its_head_is_billed_by_its_tokens_all_the_same() {
    for field in ["cache-control", "content-length"] {
        let books = Books::default();
        let policy = ApiPolicy::new(Sharing::Shared).inspector(PerByte(0)).max_body(5);
        let layer = CacheLayer::new(Memory::new(1 << 20), policy).cost(by_token).observer(books.observer());
        let cache = layer.layer(Origin::new(move |_| async move {
            let mut response = text("answer");
            response.headers_mut().insert(field, HeaderValue::from_static(if field == "content-length" { "6" } else { "no-store" }));
            Ok(response)
        }));
        ask(&cache, post("/", "")).await;
        books.wait_for(1, 1).await;
        assert_eq!((books.last().billed, books.last().usage), (Some(NanoUsd(30)), tokens(6)), "{field}");
        let fill = &books.fills()[0];
        assert!(fill.not_stored.is_some() && fill.cost == Some(NanoUsd(30)) && fill.model.as_deref() == Some("m"), "{field}");
    }
}

#[tokio::test]
async fn nobody_looks_at_what_bypasses_the_cache_if_nobody_asks_what_it_cost() {
    /// Counts the responses that it is shown.
    struct Counting(Arc<AtomicUsize>);

    impl Inspect for Counting {
        fn begin(&self, _: &http::request::Parts, _: &http::response::Parts) -> Option<Box<dyn Inspector>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Some(Box::new(PerByte(0)))
        }
    }

    for (observed, priced, expected) in [(false, false, 0), (true, false, 1), (false, true, 1)] {
        let shown = Arc::<AtomicUsize>::default();
        let mut layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).inspector(Counting(Arc::clone(&shown))));
        if observed {
            layer = layer.observer(|_: &Event<'_>| {});
        }
        if priced {
            layer = layer.cost(by_token);
        }
        let cache = layer.layer(Origin::signed());
        let mut request = post("/", "");
        request.headers_mut().insert("range", HeaderValue::from_static("bytes=0-1"));
        read(send(&cache, request).await).await;
        assert_eq!(shown.load(Ordering::SeqCst), expected, "observed: {observed}, priced: {priced}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_balance_over_a_mixed_load() {
    const CLIENTS: u64 = 8;
    let books = Books::default();
    let clock = Clock::movable();
    let called = Arc::new(Mutex::new(Vec::new()));
    let (open, gate) = tokio::sync::watch::channel(false);
    let origin = {
        let called = Arc::clone(&called);
        Origin::new(move |call| {
            let path = call.head.uri.path().to_owned();
            let (called, mut gate) = (Arc::clone(&called), gate.clone());
            async move {
                if path.ends_with("/held") {
                    gate.wait_for(|open| *open).await.unwrap();
                }
                tokio::task::yield_now().await;
                if path.ends_with("/fails") {
                    return Err("down".into());
                }
                called.lock().unwrap().push(path.clone());
                let mut response = text(format!("an answer to {path}"));
                if path.ends_with("/limited") {
                    *response.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
                }
                Ok(response)
            }
        })
    };
    let policy = ApiPolicy::new(Sharing::Shared).ttl(Duration::from_secs(60)).stale_while_revalidate(Duration::from_secs(600));
    let layer = CacheLayer::new(Memory::new(64 << 20).clock(clock.clone()), policy).clock(clock.clone());
    let layer = layer.cost(by_path).observer(books.observer());
    let handle = layer.handle();
    let cache = layer.layer(origin.clone());

    let mut asked = vec!["/7000000/held"; 3];
    let mut held: Vec<_> = asked.iter().map(|path| Box::pin(one(cache.clone(), post(path, ""), 1))).collect();
    for client in &mut held {
        assert!(futures_util::poll!(client.as_mut()).is_pending(), "one makes the call, the others wait for it");
    }
    open.send(true).unwrap();
    join_all(held).await;
    for round in 0..4 {
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            for path in ["/1/a", "/20/b", "/300/c", "/4000/fails", "/50000/limited", "/600000/bypassed"] {
                asked.push(path);
                let mut request = post(path, format!("{}", client % 3));
                if path.ends_with("bypassed") {
                    request.headers_mut().insert("range", HeaderValue::from_static("bytes=0-1"));
                }
                clients.push(one(cache.clone(), request, client + round));
            }
        }
        join_all(clients.into_iter().map(tokio::spawn)).await.into_iter().for_each(|client| client.unwrap());
        // What was stored is stale in the next round.
        clock.advance(Duration::from_secs(61));
    }
    assert!(handle.shutdown(Duration::from_secs(60)).await);
    books.wait_for(asked.len(), 0).await;

    let (requests, fills) = (books.requests(), books.fills());
    assert_eq!(requests.len(), asked.len(), "one record per request");
    let kind = |wanted: fn(&Outcome) -> bool| requests.iter().filter(|record| wanted(&record.outcome)).count();
    assert!(kind(|outcome| matches!(outcome, Outcome::Stale(Stale::WhileRevalidate))) > 0);
    assert!(kind(|outcome| matches!(outcome, Outcome::Miss(_))) > 0);
    assert!(kind(|outcome| matches!(outcome, Outcome::Collapsed)) > 0);
    assert!(kind(|outcome| matches!(outcome, Outcome::Bypass(Bypass::Range))) > 0);
    assert!(requests.iter().any(|record| record.ending == Ending::Failed));
    assert!(requests.iter().any(|record| record.ending == Ending::Dropped));

    let billed: NanoUsd = requests.iter().filter_map(|record| record.billed).sum();
    let saved: NanoUsd = requests.iter().filter_map(|record| record.saved).sum();
    let refreshed: NanoUsd = fills.iter().filter(|fill| fill.refresh).filter_map(|fill| fill.cost).sum();
    let called: NanoUsd = called.lock().unwrap().iter().filter_map(|path| price_of(path)).sum();
    assert!(refreshed > NanoUsd::ZERO && saved > NanoUsd::ZERO);
    assert_eq!(billed + refreshed, called, "each call is billed once");
    let answered = asked.iter().filter(|path| !path.ends_with("/fails"));
    assert_eq!(billed + saved, answered.filter_map(|path| price_of(path)).sum(), "without the cache, each request would have been a call");
    let stats = handle.stats().await;
    assert_eq!((stats.billed, stats.saved), (called, saved));
}

/// A client that reads to the end, or leaves after the head.
async fn one(cache: Cache<Origin, Memory, ApiPolicy>, request: Request<Full<Bytes>>, luck: u64) {
    let answer: Result<Response<_>, _> = cache.oneshot(request).await;
    if let Ok(answer) = answer
        && !luck.is_multiple_of(5)
    {
        answer.into_body().collect().await.unwrap();
    }
}
