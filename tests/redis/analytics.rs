//! Sums of several processes.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    ApiPolicy, Cache, CacheLayer, CacheOptions, NanoUsd, Sharing,
    cost::Call,
    observe::analytics::{Analytics, Period},
    store::Memory,
};

use crate::{origin::Origin, patient, server::Server};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// One that adds up with others, as another process would: it has connections of its own.
fn analytics(url: &str) -> Analytics {
    Analytics::builder().redis(patient(url).build().unwrap(), 100, DAY).spawn()
}

fn cache(analytics: &Analytics) -> Cache<Origin, Memory, ApiPolicy> {
    CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared))
        .cost(|call: &Call<'_>| Some(NanoUsd(if call.status.is_success() { 100 } else { 0 })))
        .observer(analytics.clone())
        .layer(Origin::signed())
}

async fn ask(cache: &Cache<Origin, Memory, ApiPolicy>, question: &str, model: &str) {
    let mut request = Request::post("http://origin/").body(Full::new(Bytes::from(question.to_owned()))).unwrap();
    request.extensions_mut().insert(CacheOptions::new().request_id(question).label("model", model).label("route", "r"));
    cache.clone().oneshot(request).await.unwrap().into_body().collect().await.unwrap();
    // What was asked is stored before it is asked again.
    tokio::task::yield_now().await;
}

fn values(period: &Period, dimension: &str) -> Vec<(String, u64)> {
    let of = period.groups.iter().filter(|group| group.dimension == dimension);
    of.map(|group| (group.value.clone(), group.totals.requests)).collect()
}

#[tokio::test]
async fn all_who_share_a_redis_tell_the_same_sums_and_records() {
    let server = Server::start();
    all_tell_the_same(&server.url()).await;
    // Nothing stays for ever, and the store's own keys are not among it.
    for key in server.keys() {
        let key = String::from_utf8(key).unwrap();
        assert!(key.starts_with("t:{sums}:"), "{key}");
        assert!(server.run::<i64>(&["PTTL", &key]) > 0, "{key}");
    }
}

pub async fn all_tell_the_same(url: &str) {
    let both = [analytics(url), analytics(url)];
    for (place, analytics) in both.iter().enumerate() {
        let cache = cache(analytics);
        for question in ["a", "b", "a", "a"] {
            ask(&cache, question, ["m0", "m\0é"][place]).await;
        }
        analytics.last(HOUR).await;
    }
    let [one, other] = [both[0].last(HOUR).await, both[1].last(HOUR).await];
    for period in [&one, &other] {
        assert!(period.shared);
        let totals = &period.totals;
        assert_eq!((totals.requests, totals.hits, totals.misses), (8, 4, 4));
        assert_eq!((totals.billed(), totals.saved()), (NanoUsd(400), NanoUsd(400)));
        assert_eq!((period.hit_latency.count(), period.miss_latency.count()), (4, 4));
        assert_eq!(values(period, "model"), [("m\0é".to_owned(), 4), ("m0".to_owned(), 4)]);
        assert_eq!(values(period, "route"), [("r".to_owned(), 8)]);
        assert_eq!(period.by_outcome, [("hit".to_owned(), 4), ("miss".to_owned(), 4), ("miss/absent".to_owned(), 4)]);
    }
    assert_eq!((one.totals, &one.hit_latency, &one.groups), (other.totals, &other.hit_latency, &other.groups));
    let recent = both[0].recent(100).await;
    assert_eq!((recent.len(), &recent), (8, &both[1].recent(100).await));
    assert_eq!((recent[0].request_id.as_deref(), &*recent[0].outcome, recent[0].model.as_deref()), (Some("a"), "hit", Some("m\0é")));
    assert_eq!((recent[0].saved, recent[0].billed, recent[0].status), (Some(NanoUsd(100)), Some(NanoUsd::ZERO), Some(200)));
    assert_eq!(both[0].recent(3).await, recent[..3]);
    let now = SystemTime::now();
    let series = both[0].series(now - HOUR..now, Duration::from_secs(60)).await;
    assert_eq!(series.iter().map(|(_, slice)| slice.totals.requests).sum::<u64>(), 8);
    assert_eq!(both[0].last(7 * DAY).await.totals.requests, 8, "by the hour as well");
}

#[tokio::test]
async fn a_batch_whose_fate_is_unknown_is_tried_again_and_counts_once() {
    let server = Server::start();
    let store = patient(server.url()).write_deadline(Duration::from_millis(300)).read_deadline(Duration::from_millis(300)).build().unwrap();
    let analytics = Analytics::builder().redis(store, 100, DAY).spawn();
    let cache = cache(&analytics);
    ask(&cache, "a", "m").await;
    assert_eq!(analytics.last(HOUR).await.totals.requests, 1);
    // It will read what is sent now, but answer too late.
    server.freeze();
    ask(&cache, "a", "m").await;
    let alone = analytics.last(HOUR).await;
    assert_eq!((alone.shared, alone.totals.requests), (false, 2), "this process' own");
    server.thaw();
    let all = loop {
        let all = analytics.last(HOUR).await;
        if all.shared && all.totals.requests > 1 {
            break all;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((all.totals.requests, all.totals.hits, analytics.dropped()), (2, 1, 0));
    assert_eq!(analytics.last(HOUR).await.totals.requests, 2);
}

#[tokio::test]
async fn records_and_told_apart_values_are_bounded_in_redis_too() {
    let server = Server::start();
    let analytics = analytics(&server.url());
    let cache = cache(&analytics);
    let total = 1500;
    for number in 0..total {
        ask(&cache, &number.to_string(), &format!("model-{number}")).await;
        if number % 100 == 0 {
            analytics.last(HOUR).await;
        }
    }
    let period = analytics.last(HOUR).await;
    assert!(period.shared);
    let models = values(&period, "model");
    assert!(models.len() <= 65, "{}", models.len());
    assert_eq!(models.iter().map(|(_, requests)| requests).sum::<u64>(), total);
    let kept: u64 = server.run(&["XLEN", "t:{sums}:records"]);
    // Redis trims by whole nodes of a hundred.
    assert!((100..=300).contains(&kept), "{kept}");
    assert_eq!(analytics.recent(10).await[0].model.as_deref(), Some("model-1499"));
}

#[tokio::test]
async fn without_its_redis_it_tells_of_this_process_and_holds_nobody_up() {
    let url = format!("redis://127.0.0.1:{}/0", crate::server::free_port());
    let analytics = Analytics::builder().redis(tower_response_cache::store::Redis::connect(&url).unwrap(), 100, DAY).spawn();
    let cache = cache(&analytics);
    for _ in 0..3 {
        ask(&cache, "a", "m").await;
    }
    let period = analytics.last(HOUR).await;
    assert_eq!((period.shared, period.totals.requests), (false, 3));
    assert_eq!(analytics.recent(10).await.len(), 3);
    assert_eq!(analytics.dropped(), 0);
}
