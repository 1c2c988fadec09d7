//! What the Redis store promises, against real servers, real sockets and real faults; one module per kind of promise.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a test, and each uses a part of what tests share"
)]

#[path = "../support/cluster.rs"]
mod clusters;
#[path = "../support/log.rs"]
mod log;
#[path = "../support/origin.rs"]
mod origin;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/resp.rs"]
mod resp;
#[path = "../support/redis.rs"]
mod server;

mod analytics;
mod cancellation;
mod cluster;
mod contract;
mod fleet;
mod generations;
mod history;
mod link_events;
mod listing;
mod live;
mod moving;
mod outages;
mod refusals;
mod removal;
mod settings;
mod tags;
mod tiers;
mod topologies;
mod values;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;
use tower_response_cache::{
    ApiPolicy, Cache, CacheLayer, CacheStatus, Sharing,
    entry::{Entry, Frames, Lifetime, Metadata, Record, record::Compression},
    key::Key,
    status::Outcome,
    store::{Lookup, Redis, RedisBuilder, Store},
};

use origin::Origin;

/// A store whose deadlines no busy machine misses, and whose values are as long as their bodies.
pub fn patient(url: impl Into<String>) -> RedisBuilder {
    let long = Duration::from_secs(20);
    Redis::builder(url).prefix("t").read_deadline(long).write_deadline(long).connect_deadline(long).compression(Compression::Off)
}

pub fn key(number: u64) -> Key {
    // Distinct buckets for small numbers.
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Key::from_bytes(bytes)
}

pub fn tagged(body: impl Into<Bytes>, tags: &[&str], labels: &[(&str, &str)]) -> Record {
    let metadata = Metadata {
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        labels: labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..Metadata::default()
    };
    Record::Response(Arc::new(Entry {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Frames::from(body.into()),
        trailers: None,
        lifetime: Lifetime::fresh(SystemTime::now(), Duration::from_secs(600)),
        metadata,
    }))
}

pub fn record(body: impl Into<Bytes>) -> Record {
    tagged(body, &[], &[])
}

/// Looks up and puts.
pub async fn fill(store: &Redis, key: &Key, record: Record) -> bool {
    let generation = store.get(key).await.unwrap().generation;
    store.put(key, record, generation).await.unwrap()
}

pub fn body(lookup: Lookup) -> Option<String> {
    lookup.record.and_then(Record::response).map(|entry| String::from_utf8(entry.body.concat().to_vec()).unwrap())
}

/// What is stored, by a store without trouble.
pub async fn stored(store: &Redis, key: &Key) -> Option<String> {
    body(store.get(key).await.unwrap())
}

pub type Service = Cache<Origin, Redis, ApiPolicy>;

pub fn layer(store: Redis) -> CacheLayer<Redis, ApiPolicy> {
    CacheLayer::new(store, ApiPolicy::new(Sharing::Shared))
}

pub fn post(path: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://origin{path}")).header("content-type", "text/plain").body(Full::default()).unwrap()
}

/// Sends a request and takes all of the answer. Panics if the request fails, which it never does.
pub async fn ask(cache: &Service, request: Request<Full<Bytes>>) -> (Outcome, String) {
    let answer = cache.clone().oneshot(request).await.unwrap();
    let outcome = answer.extensions().get::<CacheStatus>().unwrap().outcome;
    (outcome, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

/// A connection of the test's own, which no busy machine makes fail.
pub async fn unhurried(client: &redis::Client) -> redis::aio::MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// Tries until a condition holds. The bound is a guard against hanging, not a measurement.
pub async fn until<F>(mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let patience = tokio::time::Instant::now() + Duration::from_secs(30);
    while tokio::time::Instant::now() < patience {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the condition never held");
}
