//! The service among others, from outside the request path, and at its end.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer};
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheOptions, Error, Sharing,
    policy::NotStored,
    status::Outcome,
    store::{Memory, Selection},
};

use crate::{
    ask, layer,
    origin::{Origin, OriginError, data, streamed, text},
    post, read, send, until,
};

fn bytes(path: &str, body: &'static str) -> Request<Bytes> {
    Request::post(format!("http://origin{path}")).header("content-type", "text/plain").body(Bytes::from_static(body.as_bytes())).unwrap()
}

#[tokio::test]
async fn a_hit_holds_no_permit_and_a_miss_waits_for_its_turn() {
    let gate = Arc::new(Semaphore::new(1));
    let origin = {
        let gate = Arc::clone(&gate);
        Origin::new(move |call| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(text(format!("answer {}", call.number)))
            }
        })
    };
    // One at a time behind the cache: `Origin` panics if it is called without having been ready.
    let failed = |error: tower::BoxError| OriginError(error.to_string());
    let inner =
        ServiceBuilder::new().map_err(failed).layer(BufferLayer::new(1)).layer(ConcurrencyLimitLayer::new(1)).service(origin.clone());
    let cache = layer().layer(inner);
    let all = |cache: tower_response_cache::Cache<_, _, _>, path: &'static str| {
        let answer = cache.oneshot(post(path, "")).boxed();
        async move { answer.await.unwrap().into_body().collect().await.unwrap().to_bytes() }
    };
    assert_eq!(all(cache.clone(), "/cached").await, "answer 1");
    crate::calm().await;
    // The only permit is taken now.
    let stuck = tokio::spawn(all(cache.clone(), "/stuck"));
    until(|| origin.calls() == 2).await;
    for _ in 0..100 {
        assert_eq!(all(cache.clone(), "/cached").await, "answer 1");
    }
    gate.add_permits(10);
    assert_eq!(stuck.await.unwrap(), "answer 2");
}

#[tokio::test]
async fn an_inner_service_that_sheds_load_is_not_asked_for_a_hit_and_its_error_is_its_own() {
    let origin = Origin::new(|call| async move {
        if call.number > 1 {
            std::future::pending::<()>().await;
        }
        Ok(text("answer"))
    });
    let inner = ServiceBuilder::new().layer(LoadShedLayer::new()).layer(ConcurrencyLimitLayer::new(1)).service(origin.clone());
    let mut cache = layer().layer(inner);
    let answer = ServiceExt::<Request<Full<Bytes>>>::ready(&mut cache).await.unwrap().call(post("/", "")).await.unwrap();
    answer.into_body().collect().await.unwrap();
    crate::calm().await;
    let stuck = tokio::spawn(cache.clone().oneshot(post("/stuck", "")));
    until(|| origin.calls() == 2).await;
    cache.clone().oneshot(post("/", "")).await.unwrap();
    let shed = cache.clone().oneshot(post("/other", "")).await.unwrap_err();
    assert!(shed.is::<tower::load_shed::error::Overloaded>(), "{shed}");
    stuck.abort();
}

#[tokio::test]
async fn the_handle_finds_inserts_lists_and_removes_what_the_layer_does() {
    let layer = layer();
    let handle = layer.handle();
    let origin = Origin::signed();
    let cache = layer.layer(origin.clone());
    let question = bytes("/", "question");
    assert!(handle.get(&question).await.unwrap().is_none());
    let key =
        handle.insert(&question, Response::new(Bytes::from_static(b"by hand")), Some(Duration::from_secs(60))).await.unwrap().unwrap();
    assert_eq!(ask(&cache, post("/", "question")).await, (Outcome::Hit, "by hand".to_owned()));
    assert_eq!(handle.get(&question).await.unwrap().unwrap().body.concat(), "by hand");

    let listing = handle.metadata(&key).await.unwrap().unwrap();
    assert_eq!((listing.key, listing.body_len, listing.lifetime.fresh_for), (key, 7, Duration::from_secs(60)));
    let error = Response::builder().status(500).body(Bytes::new()).unwrap();
    assert_eq!(handle.insert(&question, error, None).await.unwrap(), Err(NotStored::Status));
    assert_eq!(handle.invalidate_request(&question).await.unwrap(), 1);
    assert_eq!(handle.invalidate_key(&key).await.unwrap(), 0);
    assert!(handle.metadata(&key).await.unwrap().is_none());
    let get = Request::get("http://origin/").body(Bytes::new()).unwrap();
    assert!(matches!(handle.get(&get).await, Err(error) if Error::is_unsupported(&error)));

    for (path, model) in [("/a", "gpt-4o"), ("/b", "gpt-4o-mini"), ("/c", "claude")] {
        let mut request = post(path, "");
        request.extensions_mut().insert(CacheOptions::new().label("model", model).tag("all").tag(format!("path:{path}")));
        ask(&cache, request).await;
    }
    until(|| origin.calls() == 3).await;
    crate::calm().await;
    assert_eq!(handle.invalidate(&Selection::Pattern("model=gpt-4o*".to_owned())).await.unwrap(), 2);
    assert_eq!(handle.invalidate(&Selection::Tag("path:/a".to_owned())).await.unwrap(), 0);
    assert_eq!(handle.invalidate(&Selection::Tag("all".to_owned())).await.unwrap(), 1);
    assert_eq!(handle.invalidate(&Selection::All).await.unwrap(), 0);
    assert_eq!(handle.stats().await.store.unwrap().entries, Some(0));
}

#[tokio::test]
async fn shutdown_finishes_what_is_under_way_and_stores_it() {
    let (origin, mut fed) = Origin::fed();
    let layer = layer();
    let handle = layer.handle();
    let cache = layer.layer(origin.clone());
    let answer = send(&cache, post("/", "")).await;
    let feed = fed.recv().await.unwrap();
    let ending = tokio::spawn({
        let handle = handle.clone();
        async move { handle.shutdown(Duration::from_secs(600)).await }
    });
    tokio::task::yield_now().await;
    // Who comes now passes through.
    let late = send(&cache, post("/late", "")).await;
    assert_eq!(late.headers()["cache-status"], "tower-response-cache; fwd=bypass; detail=shutdown");
    drop(fed.recv().await.unwrap());
    read(late).await;
    feed.send(data("whole")).await.unwrap();
    drop(feed);
    assert_eq!(read(answer).await, "whole");
    assert!(ending.await.unwrap());
    assert_eq!(handle.get(&bytes("/", "")).await.unwrap().unwrap().body.concat(), "whole");
}

#[tokio::test(start_paused = true)]
async fn shutdown_gives_up_what_does_not_end_within_the_bound() {
    let origin = Origin::new(|call| async move {
        if call.head.uri.path() == "/no-head" {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            return Ok(text("late, but there"));
        }
        let (feed, response) = streamed();
        feed.send(data("and then nothing")).await.unwrap();
        tokio::spawn(async move { feed.closed().await });
        Ok(response)
    });
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared));
    let handle = layer.handle();
    let cache = layer.layer(origin.clone());
    let streaming = send(&cache, post("/stream", "")).await;
    let waiting = tokio::spawn({
        let cache = cache.clone();
        async move { read(send(&cache, post("/no-head", "")).await).await }
    });
    until(|| origin.calls() == 2).await;
    assert!(!handle.shutdown(Duration::from_secs(5)).await, "not all was done");
    // What has begun breaks off; what has not goes on without the cache: a request is never failed by it.
    streaming.into_body().collect().await.unwrap_err();
    assert_eq!(waiting.await.unwrap(), "late, but there");
}

/// Counts what is held against the contract of `Service`: called without having been ready, or twice for one readiness; and how many were
/// made ready and never called, which would hold a permit for nothing.
#[derive(Default)]
struct Ledger {
    readied: std::sync::atomic::AtomicUsize,
    called: std::sync::atomic::AtomicUsize,
    wasted: std::sync::atomic::AtomicUsize,
}

struct Probe<S> {
    inner: S,
    ready: bool,
    ledger: Arc<Ledger>,
}

impl<S: Clone> Clone for Probe<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), ready: false, ledger: Arc::clone(&self.ledger) }
    }
}

impl<S> Drop for Probe<S> {
    fn drop(&mut self) {
        self.ledger.wasted.fetch_add(usize::from(self.ready), std::sync::atomic::Ordering::SeqCst);
    }
}

impl<S, R> Service<R> for Probe<S>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        let ready = self.inner.poll_ready(cx);
        if matches!(ready, std::task::Poll::Ready(Ok(()))) && !std::mem::replace(&mut self.ready, true) {
            self.ledger.readied.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        ready
    }

    fn call(&mut self, request: R) -> S::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been ready, or twice for one readiness");
        self.ledger.called.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.inner.call(request)
    }
}

#[tokio::test]
async fn the_inner_service_is_made_ready_once_for_each_call_and_never_for_a_hit() {
    use std::sync::atomic::Ordering;
    let failed = |error: tower::BoxError| OriginError(error.to_string());
    let origin = Origin::signed();
    let limited = ServiceBuilder::new()
        .map_err(failed)
        .layer(BufferLayer::new(1))
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(origin.clone());
    let ledger = Arc::new(Ledger::default());
    let probe = Probe { inner: limited, ready: false, ledger: Arc::clone(&ledger) };
    let cache = layer().layer(probe);
    for path in ["/a", "/b", "/a", "/b", "/a"] {
        let answer = cache.clone().oneshot(post(path, "")).await.unwrap();
        answer.into_body().collect().await.unwrap();
        crate::calm().await;
    }
    // A bypass, and a request of which the caller leaves before the service was ready.
    let mut bypass = post("/a", "");
    bypass.headers_mut().insert("range", http::HeaderValue::from_static("bytes=0-1"));
    cache.clone().oneshot(bypass).await.unwrap().into_body().collect().await.unwrap();
    let count = |counter: &std::sync::atomic::AtomicUsize| counter.load(Ordering::SeqCst);
    assert_eq!((count(&ledger.readied), count(&ledger.called), count(&ledger.wasted), origin.calls()), (3, 3, 0, 3));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_store_that_does_not_answer() {
    use crate::store::{Fault, Scripted};
    let stuck = Arc::new(Semaphore::new(0));
    let store = Scripted::new(Memory::new(1 << 20)).on_put(Fault::Waits(Arc::clone(&stuck)));
    let puts = Arc::clone(&store.puts);
    let layer = CacheLayer::new(store, ApiPolicy::new(Sharing::Shared));
    let handle = layer.handle();
    let cache = layer.layer(Origin::signed());
    ask(&cache, post("/", "")).await;
    until(|| puts.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    assert!(!handle.shutdown(Duration::from_millis(10)).await, "the write was given up");
    assert_eq!(stuck.available_permits(), 0);
}

#[tokio::test]
async fn refreshes_in_the_background_are_bounded_however_many_answers_are_stale() {
    let clock = tower_response_cache::Clock::movable();
    let origin = Origin::new(|call| async move {
        // Every refresh hangs.
        if call.number > 400 {
            std::future::pending::<()>().await;
        }
        Ok(text("old"))
    });
    let policy = ApiPolicy::new(Sharing::Shared).ttl(Duration::from_secs(10)).stale_while_revalidate(Duration::from_secs(1000));
    let layer = CacheLayer::new(Memory::new(16 << 20).clock(clock.clone()), policy).clock(clock.clone());
    let handle = layer.handle();
    let cache = layer.layer(origin.clone());
    for i in 0..400 {
        ask(&cache, post(&format!("/{i}"), "")).await;
    }
    for i in 0..400 {
        // Stored, and so answered without a call.
        while ask(&cache, post(&format!("/{i}"), "")).await.0 != Outcome::Hit {}
    }
    assert_eq!(origin.calls(), 400);
    clock.advance(Duration::from_secs(20));
    for i in 0..400 {
        let (outcome, body) = ask(&cache, post(&format!("/{i}"), "")).await;
        assert_eq!((outcome, body.as_str()), (Outcome::Stale(tower_response_cache::status::Stale::WhileRevalidate), "old"));
    }
    until(|| origin.calls() == 400 + 256).await;
    assert!(!handle.shutdown(Duration::ZERO).await);
}

#[tokio::test]
async fn what_is_inserted_by_hand_has_to_be_whole_and_good_too() {
    let handle = layer().handle();
    let insert = |name: &'static str, value: &'static str| {
        let response = Response::builder().header(name, value).body(Bytes::from_static(b"12345")).unwrap();
        let handle = handle.clone();
        async move { handle.insert(&bytes("/", ""), response, None).await.unwrap().map(|_| ()) }
    };
    assert_eq!(insert("content-length", "4").await, Err(NotStored::Incomplete));
    assert_eq!(insert("content-length", "five").await, Err(NotStored::Incomplete));
    assert_eq!(insert("grpc-status", "14").await, Err(NotStored::GrpcStatus));
    assert_eq!(insert("content-type", "application/grpc").await, Err(NotStored::Incomplete));
    assert_eq!(insert("content-length", "5").await, Ok(()));
}

#[tokio::test]
async fn shutdown_does_not_wait_for_the_write_of_what_was_validated_either() {
    use crate::store::{Fault, Scripted};
    let clock = tower_response_cache::Clock::movable();
    let permits = Arc::new(Semaphore::new(1));
    let store = Scripted::new(Memory::new(1 << 20).clock(clock.clone())).on_put(Fault::Waits(Arc::clone(&permits)));
    let puts = Arc::clone(&store.puts);
    let origin = Origin::new(|call| async move {
        let mut response = text("body");
        if call.number > 1 {
            *response.status_mut() = http::StatusCode::NOT_MODIFIED;
            response = response.map(|_| text("").into_body());
        }
        response.headers_mut().insert("etag", http::HeaderValue::from_static("\"1\""));
        response.headers_mut().insert("cache-control", http::HeaderValue::from_static("max-age=10"));
        Ok(response)
    });
    let layer = CacheLayer::new(store, tower_response_cache::HttpPolicy::shared()).clock(clock.clone());
    let handle = layer.handle();
    let cache = layer.layer(origin);
    let get = || Request::get("http://origin/").body(Full::new(Bytes::new())).unwrap();
    ask(&cache, get()).await;
    until(|| permits.available_permits() == 0).await;
    crate::calm().await;
    clock.advance(Duration::from_secs(11));
    assert_eq!(ask(&cache, get()).await, (Outcome::Revalidated(tower_response_cache::status::Miss::Stale), "body".to_owned()));
    until(|| puts.load(std::sync::atomic::Ordering::SeqCst) == 2).await;
    assert!(!handle.shutdown(Duration::from_millis(10)).await, "the write was given up");
}

/// An origin that waits for leave, and then says its body frame by frame as the test does.
fn gated() -> (Origin, Arc<Semaphore>, tokio::sync::mpsc::UnboundedReceiver<crate::origin::Feed>) {
    let gate = Arc::new(Semaphore::new(0));
    let (feeds, fed) = tokio::sync::mpsc::unbounded_channel();
    let opened = Arc::clone(&gate);
    let origin = Origin::new(move |call| {
        let (opened, feeds) = (Arc::clone(&opened), feeds.clone());
        async move {
            opened.acquire().await.unwrap().forget();
            let (feed, mut response) = streamed();
            response.headers_mut().insert("cache-control", http::HeaderValue::from_static("max-age=60"));
            response.headers_mut().insert("content-location", http::HeaderValue::from_str(call.head.uri.path()).unwrap());
            feeds.send(feed).unwrap();
            Ok(response)
        }
    });
    (origin, gate, fed)
}

#[tokio::test]
async fn who_comes_to_its_call_after_the_shutdown_has_it_without_the_cache() {
    let (origin, gate, mut fed) = gated();
    gate.add_permits(1);
    let layer = layer();
    let handle = layer.handle();
    let cache = layer.layer(origin);
    let (upload, frames) = tokio::sync::mpsc::channel(1);
    let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(frames));
    let request = Request::post("http://origin/").body(body).unwrap();
    let asking = tokio::spawn(async move { send(&cache, request).await });
    upload.send(data("question")).await.unwrap();
    crate::calm().await;
    assert!(handle.shutdown(Duration::from_secs(600)).await, "nothing was under way");
    drop(upload);
    let answer = asking.await.unwrap();
    assert_eq!(answer.headers()["cache-status"], "tower-response-cache; fwd=bypass; detail=shutdown");
    let feed = fed.recv().await.unwrap();
    crate::calm().await;
    feed.send(data("answer")).await.unwrap();
    drop(feed);
    assert_eq!(read(answer).await, "answer");
}

#[tokio::test]
async fn an_answer_that_would_be_kept_and_comes_after_the_shutdown_is_passed_on_whole() {
    let (origin, gate, mut fed) = gated();
    let layer = CacheLayer::new(Memory::new(1 << 20), tower_response_cache::HttpPolicy::shared());
    let handle = layer.handle();
    let cache = layer.layer(origin.clone());
    // Its answer is one to a GET as well.
    let asking = tokio::spawn(async move { send(&cache, post("/made", "")).await });
    until(|| origin.calls() == 1).await;
    assert!(handle.shutdown(Duration::from_secs(600)).await, "nothing was under way");
    gate.add_permits(1);
    let answer = asking.await.unwrap();
    let feed = fed.recv().await.unwrap();
    crate::calm().await;
    feed.send(data("made")).await.unwrap();
    drop(feed);
    assert_eq!(read(answer).await, "made");
}

#[tokio::test]
async fn what_an_unsafe_request_makes_invalid_is_removed_while_the_cache_shuts_down_too() {
    let (origin, gate, mut fed) = gated();
    gate.add_permits(10);
    let layer = CacheLayer::new(Memory::new(1 << 20), tower_response_cache::HttpPolicy::shared());
    let handle = layer.handle();
    let cache = layer.layer(origin);
    let get = |path: &str| Request::get(format!("http://origin{path}")).body(Full::new(Bytes::new())).unwrap();
    let stored = send(&cache, get("/page")).await;
    drop(fed.recv().await.unwrap());
    read(stored).await;
    crate::calm().await;
    // Something is under way, and the shutdown waits for it.
    let streaming = send(&cache, get("/stream")).await;
    let feed = fed.recv().await.unwrap();
    let ending = tokio::spawn({
        let handle = handle.clone();
        async move { handle.shutdown(Duration::from_secs(600)).await }
    });
    crate::calm().await;
    let page = Request::get("http://origin/page").body("").unwrap();
    assert!(handle.get(&page).await.unwrap().is_some());
    let change = send(&cache, Request::delete("http://origin/page").body(Full::new(Bytes::new())).unwrap()).await;
    assert!(handle.get(&page).await.unwrap().is_none());
    drop(fed.recv().await.unwrap());
    read(change).await;
    drop(feed);
    read(streaming).await;
    assert!(ending.await.unwrap());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_removal_that_the_store_does_not_answer() {
    use crate::store::{Fault, Scripted};
    let (origin, gate, _fed) = gated();
    gate.add_permits(1);
    let store = Scripted::new(Memory::new(1 << 20)).on_remove(Fault::Waits(Arc::new(Semaphore::new(0))));
    let layer = CacheLayer::new(store, tower_response_cache::HttpPolicy::shared());
    let handle = layer.handle();
    let cache = layer.layer(origin);
    let asking = tokio::spawn(async move { send(&cache, Request::delete("http://origin/").body(Full::new(Bytes::new())).unwrap()).await });
    crate::calm().await;
    assert!(!handle.shutdown(Duration::from_millis(10)).await, "the removal was given up");
    assert_eq!(asking.await.unwrap().status(), 200);
}
