//! Among the middleware of `tower` and `tower-http`, on either side. The table in the guide says which side is meant.

use std::{
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::sync::Semaphore;
use tower::{
    BoxError, Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, limit::ConcurrencyLimitLayer, load_shed::error::Overloaded,
    retry::Policy,
};
use tower_http::{
    ServiceBuilderExt as _, compression::CompressionLayer, decompression::DecompressionLayer, set_header::SetResponseHeaderLayer,
    trace::TraceLayer, validate_request::ValidateRequestHeaderLayer,
};
use tower_response_cache::{ApiPolicy, CacheLayer, RequestBody, Sharing, store::Memory};

use crate::origin::{Origin, OriginBody, OriginError, text};

fn layer() -> CacheLayer<Memory, ApiPolicy> {
    layer_of(ApiPolicy::new(Sharing::Shared))
}

fn layer_of(policy: ApiPolicy) -> CacheLayer<Memory, ApiPolicy> {
    CacheLayer::new(Memory::new(1 << 20), policy)
}

fn post(path: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://origin{path}")).body(Full::default()).unwrap()
}

fn with(name: header::HeaderName, value: &'static str) -> Request<Full<Bytes>> {
    let mut request = post("/");
    request.headers_mut().insert(name, HeaderValue::from_static(value));
    request
}

/// The head of the answer, and its body.
async fn ask<S, B>(service: &S, request: Request<Full<Bytes>>) -> (http::response::Parts, Bytes)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone,
    S::Error: std::fmt::Debug,
    B: Body<Data: Send>,
    B::Error: std::fmt::Debug,
{
    let (head, body) = service.clone().oneshot(request).await.unwrap().into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

/// Does the cache say so?
fn says(head: &http::response::Parts, what: &str) -> bool {
    head.headers["cache-status"].to_str().unwrap().contains(what)
}

/// Long enough to be worth compressing.
fn long() -> Origin {
    Origin::new(|call| async move { Ok(text(format!("call {} {}", call.number, "again and ".repeat(100)))) })
}

/// Answers when it is let.
fn gated() -> (Origin, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let origin = Origin::new({
        let gate = gate.clone();
        move |call| {
            let gate = gate.clone();
            async move {
                if call.head.uri.path() == "/slow" {
                    gate.acquire().await.unwrap().forget();
                }
                Ok(text(format!("call {}", call.number)))
            }
        }
    });
    (origin, gate)
}

#[tokio::test]
async fn compression_outside_serves_one_stored_answer_in_every_coding() {
    let origin = long();
    let service = ServiceBuilder::new().layer(CompressionLayer::new()).layer(layer()).service(origin.clone());
    let (_, plain) = ask(&service, post("/")).await;
    let (head, packed) = ask(&service, with(header::ACCEPT_ENCODING, "gzip")).await;
    assert_eq!(head.headers[header::CONTENT_ENCODING], "gzip");
    assert!(says(&head, "hit") && packed.len() < plain.len());
    let (head, again) = ask(&service, post("/")).await;
    assert!(!head.headers.contains_key(header::CONTENT_ENCODING));
    assert_eq!((again, origin.calls()), (plain, 1));
}

#[tokio::test]
async fn compression_inside_does_nothing_unless_the_policy_stores_what_is_encoded() {
    let inside = |policy| ServiceBuilder::new().layer(layer_of(policy)).layer(CompressionLayer::new()).service(long());
    let service = inside(ApiPolicy::new(Sharing::Shared));
    for accepted in ["gzip", "identity", "gzip"] {
        let (head, body) = ask(&service, with(header::ACCEPT_ENCODING, accepted)).await;
        assert!(!head.headers.contains_key(header::CONTENT_ENCODING) && body.starts_with(b"call 1"));
    }
    // A body that is made on the way has no length that could prove that it is whole; in this process it cannot break off unnoticed.
    let service = inside(ApiPolicy::new(Sharing::Shared).store_encoded(true).store_close_delimited(true));
    for (accepted, encoded, hit) in [("gzip", true, false), ("identity", false, false), ("gzip", true, true), ("identity", false, true)] {
        let (head, _) = ask(&service, with(header::ACCEPT_ENCODING, accepted)).await;
        assert_eq!((head.headers.contains_key(header::CONTENT_ENCODING), says(&head, "hit")), (encoded, hit), "{accepted}");
    }
}

#[tokio::test]
async fn decompression_inside_makes_what_an_upstream_encodes_unasked_storable() {
    // An upstream that encodes whatever it is asked for.
    let stubborn = || {
        ServiceBuilder::new()
            .map_request(|mut request: Request<_>| {
                request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
                request
            })
            .layer(CompressionLayer::new())
            .service(long())
    };
    let policy = ApiPolicy::new(Sharing::Shared).store_close_delimited(true);
    let inside = ServiceBuilder::new().layer(layer_of(policy)).layer(DecompressionLayer::new()).service(stubborn());
    for (call, hit) in [("call 1", false), ("call 1", true)] {
        let (head, body) = ask(&inside, post("/")).await;
        assert!(body.starts_with(call.as_bytes()));
        assert_eq!((head.headers.contains_key(header::CONTENT_ENCODING), says(&head, "hit")), (false, hit));
    }
    // Outside, the cache sees what is encoded, and stores none of it.
    let outside = ServiceBuilder::new().layer(DecompressionLayer::new()).layer(layer()).service(stubborn());
    for call in ["call 1", "call 2"] {
        assert!(ask(&outside, post("/")).await.1.starts_with(call.as_bytes()));
    }
}

#[tokio::test]
async fn authentication_outside_guards_what_is_stored() {
    let origin = long();
    let service = ServiceBuilder::new().layer(ValidateRequestHeaderLayer::custom(good_only)).layer(layer()).service(origin.clone());
    for token in ["Bearer bad", "Bearer good", "Bearer bad", "Bearer good"] {
        let expected = if token == "Bearer good" { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(ask(&service, with(header::AUTHORIZATION, token)).await.0.status, expected);
    }
    assert_eq!(origin.calls(), 1);
}

/// Refuses whoever does not come with the good token.
#[allow(clippy::result_large_err, reason = "what the layer asks for")]
fn good_only<B, RB>(request: &mut Request<B>) -> Result<(), Response<RB>>
where
    RB: Default,
{
    let allowed = request.headers().get(header::AUTHORIZATION).is_some_and(|token| token == "Bearer good");
    if allowed { Ok(()) } else { Err(Response::builder().status(StatusCode::UNAUTHORIZED).body(RB::default()).unwrap()) }
}

/// Why authentication stands outside: this is what happens where it does not.
#[tokio::test]
async fn authentication_inside_is_passed_by_with_every_hit_on_what_is_shared() {
    let inside = |sharing| {
        ServiceBuilder::new()
            .layer(layer_of(ApiPolicy::new(sharing)))
            .layer(ValidateRequestHeaderLayer::custom(good_only::<RequestBody<Full<Bytes>>, OriginBody>))
            .service(long())
    };
    let service = inside(Sharing::Shared);
    for (token, status) in [("Bearer bad", 401), ("Bearer good", 200), ("Bearer bad", 200)] {
        assert_eq!(ask(&service, with(header::AUTHORIZATION, token)).await.0.status.as_u16(), status, "the hit is for all");
    }
    // Who shares with nobody but himself is safe with it, as long as his token is not withdrawn.
    let service = inside(Sharing::PerCredential);
    for (token, status) in [("Bearer bad", 401), ("Bearer good", 200), ("Bearer bad", 401)] {
        assert_eq!(ask(&service, with(header::AUTHORIZATION, token)).await.0.status.as_u16(), status);
    }
}

#[tokio::test]
async fn credentials_of_the_service_are_added_inside_where_they_are_no_part_of_the_key() {
    let origin = Origin::new(|call| async move { Ok(text(format!("{:?} {}", call.head.headers[header::AUTHORIZATION], call.number))) });
    let add = |token| tower_http::auth::AddAuthorizationLayer::bearer(token);
    let layer = layer_of(ApiPolicy::new(Sharing::PerCredential));
    let service = |token| ServiceBuilder::new().layer(layer.clone()).layer(add(token)).service(origin.clone());
    // A token that rotates costs no hit.
    for token in ["old", "new"] {
        assert_eq!(ask(&service(token), post("/")).await.1, "\"Bearer old\" 1");
    }
    let outside = |token| ServiceBuilder::new().layer(add(token)).layer(layer.clone()).service(origin.clone());
    for (token, answer) in [("old", "\"Bearer old\" 2"), ("new", "\"Bearer new\" 3"), ("new", "\"Bearer new\" 3")] {
        assert_eq!(ask(&outside(token), post("/")).await.1, answer);
    }
}

#[tokio::test]
async fn a_refusal_from_authentication_inside_is_not_stored_and_reaches_its_credentials_alone() {
    let inside = Origin::new(|call| async move {
        let mut answer = text("fine");
        if call.head.headers[header::AUTHORIZATION] != "Bearer good" {
            *answer.status_mut() = StatusCode::UNAUTHORIZED;
        }
        Ok(answer)
    });
    let service = ServiceBuilder::new().layer(layer_of(ApiPolicy::new(Sharing::PerCredential))).service(inside.clone());
    for (token, status, calls) in [("Bearer bad", 401, 1), ("Bearer bad", 401, 2), ("Bearer good", 200, 3), ("Bearer good", 200, 3)] {
        assert_eq!(ask(&service, with(header::AUTHORIZATION, token)).await.0.status.as_u16(), status);
        assert_eq!(inside.calls(), calls);
    }
}

#[tokio::test]
async fn a_header_set_outside_is_set_anew_and_one_set_inside_is_stored() {
    fn numbered<B>(name: &'static str) -> SetResponseHeaderLayer<impl Fn(&Response<B>) -> Option<HeaderValue> + Clone> {
        let count = Arc::new(AtomicU32::new(0));
        SetResponseHeaderLayer::overriding(header::HeaderName::from_static(name), move |_: &Response<B>| {
            Some(HeaderValue::from(count.fetch_add(1, Ordering::SeqCst) + 1))
        })
    }
    let service = ServiceBuilder::new().layer(numbered("x-outside")).layer(layer()).layer(numbered("x-inside")).service(long());
    for n in ["1", "2"] {
        let (head, _) = ask(&service, post("/")).await;
        assert_eq!((&head.headers["x-outside"], &head.headers["x-inside"]), (&HeaderValue::from_static(n), &HeaderValue::from_static("1")));
    }
}

#[tokio::test]
async fn tracing_fits_on_either_side() {
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(layer())
        .layer(TraceLayer::new_for_http())
        .map_request_body(|body: RequestBody<Full<Bytes>>| body.boxed_unsync())
        .service(long());
    for hit in [false, true] {
        assert_eq!(says(&ask(&service, post("/")).await.0, "hit"), hit);
    }
}

#[tokio::test]
async fn a_hit_takes_no_place_in_a_limit_or_a_buffer_inside() {
    let (origin, gate) = gated();
    let service =
        ServiceBuilder::new().layer(layer()).layer(BufferLayer::new(1)).layer(ConcurrencyLimitLayer::new(1)).service(origin.clone());
    ask(&service, post("/fast")).await;
    let slow = tokio::spawn(service.clone().oneshot(post("/slow")));
    while origin.calls() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(says(&ask(&service, post("/fast")).await.0, "hit"), "while the one place is taken");
    gate.add_permits(1);
    slow.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_limit_and_a_buffer_outside_count_hits_too() {
    let (origin, gate) = gated();
    let service =
        ServiceBuilder::new().layer(BufferLayer::new(4)).layer(ConcurrencyLimitLayer::new(1)).layer(layer()).service(origin.clone());
    ask(&service, post("/fast")).await;
    let slow = tokio::spawn(service.clone().oneshot(post("/slow")));
    while origin.calls() < 2 {
        tokio::task::yield_now().await;
    }
    let hit = tokio::spawn(service.clone().oneshot(post("/fast")));
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert!(!hit.is_finished(), "it waits for the one place");
    gate.add_permits(1);
    slow.await.unwrap().unwrap();
    assert!(hit.await.unwrap().unwrap().headers()["cache-status"].to_str().unwrap().contains("hit"));
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_inside_slows_misses_alone() {
    let service = ServiceBuilder::new().layer(layer()).buffer(8).rate_limit(1, Duration::from_secs(3600)).service(long());
    ask(&service, post("/a")).await;
    // Paused time would jump an hour ahead if anything waited for the limit.
    let before = tokio::time::Instant::now();
    for _ in 0..10 {
        assert!(says(&ask(&service, post("/a")).await.0, "hit"));
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    ask(&service, post("/b")).await;
    assert!(before.elapsed() >= Duration::from_secs(3599), "a miss does wait");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_ends_a_wait_and_not_the_call() {
    let (origin, gate) = gated();
    let service = ServiceBuilder::new().timeout(Duration::from_secs(1)).layer(layer()).service(origin.clone());
    let error = service.clone().oneshot(post("/slow")).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>());
    gate.add_permits(1);
    let (_, body) = ask(&service, post("/slow")).await;
    assert_eq!(
        (body, origin.calls()),
        (Bytes::from_static(b"call 1"), 1),
        "the call went on, and this request joined it or found its answer"
    );
}

#[tokio::test(start_paused = true)]
async fn a_timeout_inside_ends_the_call_for_all_and_its_error_is_passed_on() {
    let (origin, _gate) = gated();
    let service = ServiceBuilder::new().layer(layer()).timeout(Duration::from_secs(1)).service(origin);
    let error = service.clone().oneshot(post("/slow")).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>());
    ask(&service, post("/fast")).await;
    assert!(says(&ask(&service, post("/fast")).await.0, "hit"));
}

#[tokio::test]
async fn load_that_is_shed_inside_fails_misses_and_no_hit() {
    let (origin, gate) = gated();
    let service = ServiceBuilder::new().layer(layer()).load_shed().concurrency_limit(1).service(origin.clone());
    ask(&service, post("/fast")).await;
    let slow = tokio::spawn(service.clone().oneshot(post("/slow")));
    while origin.calls() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(says(&ask(&service, post("/fast")).await.0, "hit"));
    let shed = service.clone().oneshot(post("/other")).await.unwrap_err();
    assert!(shed.is::<Overloaded>());
    gate.add_permits(1);
    slow.await.unwrap().unwrap();
}

/// Tries again after a failure, once.
#[derive(Clone)]
struct Once(bool);

impl<B, RB> Policy<Request<B>, Response<RB>, BoxError> for Once
where
    B: Clone,
{
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut Request<B>, result: &mut Result<Response<RB>, BoxError>) -> Option<Ready<()>> {
        let again = result.is_err() && !std::mem::replace(&mut self.0, true);
        again.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        Some(request.clone())
    }
}

/// Fails at first.
fn flaky() -> Origin {
    Origin::new(
        |call| async move { if call.number == 1 { Err(OriginError::from("reset")) } else { Ok(text(format!("call {}", call.number))) } },
    )
}

#[tokio::test]
async fn retries_fit_on_either_side() {
    let origin = flaky();
    let outside = ServiceBuilder::new().retry(Once(false)).map_err(BoxError::from).layer(layer()).service(origin.clone());
    assert_eq!(ask(&outside, post("/")).await.1, "call 2");
    assert!(says(&ask(&outside, post("/")).await.0, "hit"));

    // Inside, what was buffered for the key can be sent again.
    let origin = flaky();
    let inside = ServiceBuilder::new()
        .layer(layer())
        .map_request_body(|body: RequestBody<Full<Bytes>>| Full::new(body.as_bytes().cloned().unwrap_or_default()))
        .retry(Once(false))
        .map_err(BoxError::from)
        .service(origin.clone());
    assert_eq!(ask(&inside, post("/")).await.1, "call 2");
    assert!(says(&ask(&inside, post("/")).await.0, "hit"));
    assert_eq!(origin.calls(), 2);
}
