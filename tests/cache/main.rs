//! What the cache promises, one module per kind of promise, through the public API.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a test, and each uses a part of what tests share"
)]

#[path = "../support/log.rs"]
mod log;
#[path = "../support/origin.rs"]
mod origin;
#[path = "../support/store.rs"]
mod store;

mod adapters;
mod answers;
mod bodies;
mod cost;
mod dashboard;
mod drops;
mod explain;
mod flights;
mod golden;
mod grpc;
mod history;
mod keys;
mod live;
mod metrics;
mod observed;
mod others;
mod panics;
mod policies;
mod secrets;
mod serving;
mod soft;
mod variants;
mod wire;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;
use tower_response_cache::{ApiPolicy, BoxError, Cache, CacheLayer, CacheStatus, ResponseBody, Sharing, status::Outcome, store::Memory};

use origin::{Origin, OriginBody};

pub type Answer = Response<ResponseBody<OriginBody>>;

/// A cache in memory that all callers share.
pub fn layer() -> CacheLayer<Memory, ApiPolicy> {
    CacheLayer::new(Memory::new(64 << 20), ApiPolicy::new(Sharing::Shared))
}

pub fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(format!("http://origin{path}")).header("content-type", "text/plain").body(Full::new(body.into())).unwrap()
}

/// Sends a request and takes the head of the answer.
pub async fn send<St, P, B>(cache: &Cache<Origin, St, P>, request: Request<B>) -> Answer
where
    St: tower_response_cache::store::Store,
    P: tower_response_cache::Policy,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError> + Send + 'static,
{
    cache.clone().oneshot(request).await.unwrap()
}

/// Sends a request, takes all of the answer, and says where it came from.
pub async fn ask<St, P>(cache: &Cache<Origin, St, P>, request: Request<Full<Bytes>>) -> (Outcome, String)
where
    St: tower_response_cache::store::Store,
    P: tower_response_cache::Policy,
{
    let answer = send(cache, request).await;
    let outcome = outcome(&answer);
    (outcome, read(answer).await)
}

pub fn outcome(answer: &Answer) -> Outcome {
    answer.extensions().get::<CacheStatus>().expect("what did not bypass has a status").outcome
}

pub async fn read(answer: Answer) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Waits until every upstream call has ended, stored or not.
pub async fn until_flown<P: tower_response_cache::Policy>(handle: &tower_response_cache::Handle<Memory, P>) {
    for _ in 0..100_000 {
        let stats = handle.stats().await;
        if stats.stored + stats.not_stored >= stats.misses {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("an upstream call never ended");
}

/// Lets tasks in the background get as far as they can without the test.
pub async fn calm() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

/// Lets tasks in the background run until a condition holds. The bound is a guard against hanging, not a measurement.
pub async fn until(condition: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if condition() {
            return;
        }
        tokio::task::yield_now().await;
        if !condition() {
            tokio::time::sleep(std::time::Duration::from_micros(100)).await;
        }
    }
    panic!("the condition never held");
}
