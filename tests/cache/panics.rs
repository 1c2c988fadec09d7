//! Panics in code that is not the cache's: the request is served, the flight is released, others go on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, request, response};
use tower::Layer;
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheOptions, Clock, Error, NanoUsd, Policy, Sharing,
    cost::Call,
    entry::{Entry, Record},
    inspect::{Findings, Inspect, Inspector},
    key::{Envelope, Identity, Key, Scope},
    policy::{Abandoned, Admission, Bypass, Moment, NotStored, Reuse, Storing},
    store::{Claim, Generation, Lookup, Memory, Store},
};

use crate::{
    ask,
    origin::{Origin, text},
    post, until,
};

/// The API policy, broken in one method.
struct Broken {
    policy: ApiPolicy,
    method: &'static str,
    struck: Arc<AtomicBool>,
}

impl Broken {
    fn strike(&self, method: &str) {
        if method == self.method {
            self.struck.store(true, Ordering::SeqCst);
            panic!("{method}: broken by a test");
        }
    }
}

impl Policy for Broken {
    fn admit(&self, request: &mut request::Parts, options: &mut CacheOptions) -> Admission {
        self.strike("admit");
        self.policy.admit(request, options)
    }

    fn body_limit(&self) -> usize {
        self.strike("body_limit");
        self.policy.body_limit()
    }

    fn identify(
        &self,
        envelope: &Envelope,
        head: &request::Parts,
        body: &[u8],
        options: &CacheOptions,
        slot: u32,
    ) -> Result<Identity, Bypass> {
        self.strike("identify");
        self.policy.identify(envelope, head, body, options, slot)
    }

    fn slots(&self) -> u32 {
        self.strike("slots");
        self.policy.slots()
    }

    fn variant(&self, envelope: &Envelope, primary: &Key, request: &request::Parts, fields: &[HeaderName]) -> Option<Key> {
        self.strike("variant");
        self.policy.variant(envelope, primary, request, fields)
    }

    fn reuse(&self, request: &request::Parts, options: &CacheOptions, entry: &Entry, moment: Moment) -> Reuse {
        self.strike("reuse");
        self.policy.reuse(request, options, entry, moment)
    }

    fn prepare(&self, request: &mut request::Parts) {
        self.strike("prepare");
        self.policy.prepare(request);
    }

    fn store(
        &self,
        request: &request::Parts,
        options: &CacheOptions,
        response: &response::Parts,
        len: Option<u64>,
        moment: Moment,
    ) -> Result<Storing, NotStored> {
        self.strike("store");
        let mut storing = self.policy.store(request, options, response, len, moment)?;
        if self.method == "variant" {
            storing.vary = Some(vec![http::header::ACCEPT]);
        }
        Ok(storing)
    }

    fn complete(&self, response: &response::Parts, trailers: Option<&HeaderMap>) -> Result<(), NotStored> {
        self.strike("complete");
        self.policy.complete(response, trailers)
    }

    fn is_failure(&self, response: &response::Parts) -> bool {
        self.strike("is_failure");
        self.policy.is_failure(response)
    }

    fn shares(&self, reason: &NotStored) -> bool {
        self.strike("shares");
        self.policy.shares(reason)
    }

    fn abandoned(&self) -> Abandoned {
        self.strike("abandoned");
        Policy::abandoned(&self.policy)
    }
}

#[tokio::test]
async fn a_panic_in_any_method_of_a_policy_costs_no_request_and_holds_no_flight() {
    let methods = [
        "admit",
        "body_limit",
        "identify",
        "slots",
        "variant",
        "reuse",
        "prepare",
        "store",
        "complete",
        "is_failure",
        "shares",
        "abandoned",
    ];
    for method in methods {
        let struck = Arc::new(AtomicBool::new(false));
        let clock = Clock::movable();
        let policy = ApiPolicy::new(Sharing::Shared)
            .ttl(std::time::Duration::from_secs(10))
            .stale_if_error(std::time::Duration::from_secs(100))
            .store_if(move |_| method != "shares");
        let policy = Broken { policy, method, struck: Arc::clone(&struck) };
        let layer = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), policy).clock(clock.clone());
        let handle = layer.handle();
        let cache = layer.layer(Origin::signed());
        for round in 0..3 {
            let both = futures_util::future::join(ask_anything(&cache), ask_anything(&cache)).await;
            for body in [both.0, both.1] {
                assert!(body.starts_with("call ") && body.ends_with(" to / with x"), "{method}, round {round}: {body}");
            }
            // What was stored, if it was, is stale in the third round.
            crate::calm().await;
            if round == 1 {
                clock.advance(std::time::Duration::from_secs(11));
            }
        }
        assert!(struck.load(Ordering::SeqCst), "{method} was never asked");
        assert!(handle.stats().await.panics > 0, "{method}");
        assert!(handle.shutdown(std::time::Duration::from_secs(30)).await, "{method}: a task is left");
    }
}

async fn calm() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_panic_in_a_function_of_the_operators_costs_no_request() {
    let policy = || ApiPolicy::new(Sharing::Shared);
    let broken: Vec<(&str, ApiPolicy)> = vec![
        ("paths", policy().paths(|_| panic!("broken by a test"))),
        ("bypass_if", policy().bypass_if(|_| panic!("broken by a test"))),
        ("scope", ApiPolicy::new(Sharing::by(|_| -> Scope { panic!("broken by a test") }))),
        ("store_if", policy().store_if(|_| panic!("broken by a test"))),
        ("begin", policy().inspector(Watching("begin"))),
        ("frame", policy().inspector(Watching("frame"))),
        ("end", policy().inspector(Watching("end"))),
    ];
    for (name, policy) in broken {
        let layer = CacheLayer::new(Memory::new(1 << 20), policy);
        let handle = layer.handle();
        let origin = Origin::signed();
        let cache = layer.layer(origin.clone());
        for call in 1..=3 {
            let answer = ask_anything(&cache).await;
            assert_eq!(answer, format!("call {call} to / with x"), "{name}: what was not judged is not stored");
            crate::calm().await;
        }
        assert!(handle.stats().await.panics >= 3, "{name}");
        assert_eq!(handle.stats().await.stored, 0, "{name}");
        assert!(handle.shutdown(std::time::Duration::from_secs(30)).await, "{name}: a task is left");
    }
}

#[tokio::test]
async fn an_inspector_that_panics_over_what_bypasses_the_cache_costs_no_response() {
    for point in ["begin", "frame", "end"] {
        let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).inspector(Watching(point)));
        let layer = layer.cost(|call: &Call<'_>| Some(NanoUsd(call.usage?.output)));
        let handle = layer.handle();
        let cache = layer.layer(Origin::signed());
        let mut request = post("/", "x");
        request.headers_mut().insert("range", HeaderValue::from_static("bytes=0-1"));
        assert_eq!(crate::read(crate::send(&cache, request).await).await, "call 1 to / with x", "{point}");
        let stats = handle.stats().await;
        assert_eq!((stats.panics, stats.unpriced), (1, 1), "{point}");
    }
}

/// What was bypassed has no status to be taken.
async fn ask_anything<P: Policy>(cache: &tower_response_cache::Cache<Origin, Memory, P>) -> String {
    crate::read(crate::send(cache, post("/", "x")).await).await
}

/// Inspectors that panic at one point.
struct Watching(&'static str);

impl Inspect for Watching {
    fn begin(&self, _: &request::Parts, _: &response::Parts) -> Option<Box<dyn Inspector>> {
        assert_ne!(self.0, "begin", "broken by a test");
        Some(Box::new(Self(self.0)))
    }
}

impl Inspector for Watching {
    fn frame(&mut self, _: &[u8]) {
        assert_ne!(self.0, "frame", "broken by a test");
    }

    fn end(self: Box<Self>) -> Findings {
        assert_ne!(self.0, "end", "broken by a test");
        Findings::default()
    }
}

/// A store that panics in one method before there is a future to poll.
struct Rash(&'static str);

impl Store for Rash {
    #[allow(clippy::manual_async_fn, reason = "an async fn would panic only when it is polled")]
    fn get(&self, _: &Key) -> impl Future<Output = Result<Lookup, Error>> + Send {
        assert_ne!(self.0, "get", "broken by a test");
        async { Ok(Lookup { record: None, generation: Generation([1, 1]) }) }
    }

    async fn put(&self, _: &Key, _: Record, _: Generation) -> Result<bool, Error> {
        Ok(false)
    }

    #[allow(clippy::manual_async_fn, reason = "an async fn would panic only when it is polled")]
    fn claim(&self, _: &Key, _: Generation, _: Duration) -> impl Future<Output = Result<Claim, Error>> + Send {
        assert_ne!(self.0, "claim", "broken by a test");
        async { Ok(Claim::Alone) }
    }

    async fn remove(&self, _: &Key) -> Result<bool, Error> {
        Ok(false)
    }
}

#[tokio::test]
async fn a_store_that_panics_before_it_is_polled_costs_no_request() {
    for method in ["get", "claim"] {
        let layer = CacheLayer::new(Rash(method), ApiPolicy::new(Sharing::Shared));
        let handle = layer.handle();
        let cache = layer.layer(Origin::signed());
        assert_eq!(ask(&cache, post("/", "x")).await.1, "call 1 to / with x");
        assert_eq!(handle.stats().await.panics, 1, "{method}");
    }
}

#[tokio::test]
async fn a_panic_while_a_call_is_made_ready_reaches_the_caller_and_releases_the_flight() {
    struct Fragile {
        origin: Origin,
        clones: Arc<std::sync::atomic::AtomicUsize>,
    }
    impl Clone for Fragile {
        fn clone(&self) -> Self {
            // For the request, for its flow, for the task of the fill, and then in that task, for the call.
            assert_ne!(self.clones.fetch_add(1, Ordering::SeqCst), 3, "broken by a test");
            Self { origin: self.origin.clone(), clones: Arc::clone(&self.clones) }
        }
    }
    impl<B> tower::Service<http::Request<B>> for Fragile
    where
        Origin: tower::Service<http::Request<B>>,
    {
        type Response = <Origin as tower::Service<http::Request<B>>>::Response;
        type Error = <Origin as tower::Service<http::Request<B>>>::Error;
        type Future = <Origin as tower::Service<http::Request<B>>>::Future;

        fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
            self.origin.poll_ready(cx)
        }

        fn call(&mut self, request: http::Request<B>) -> Self::Future {
            self.origin.call(request)
        }
    }
    let origin = Origin::new(|_| async { Ok(text("answer")) });
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared));
    let handle = layer.handle();
    let cache = layer.layer(Fragile { origin: origin.clone(), clones: Arc::default() });
    let broken = tokio::spawn(tower::ServiceExt::oneshot(cache.clone(), post("/", "")));
    assert!(broken.await.unwrap_err().is_panic(), "as without the cache");
    let answer = tower::ServiceExt::oneshot(cache, post("/", "")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    drop(answer);
    until(|| origin.calls() == 1).await;
    assert!(handle.shutdown(std::time::Duration::from_secs(30)).await);
}
