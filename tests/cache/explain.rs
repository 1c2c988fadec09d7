//! "Why is this never a hit?": the commonest surprises, and what the cache has to say about them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, Version};
use tower_response_cache::{
    ApiPolicy, CacheLayer, Clock, Sharing,
    explain::{Decision, Explanation, Verdict},
    store::Memory,
};

const SECRET: &str = "canary-secret";

fn chat() -> Request<Bytes> {
    Request::post("http://api.example/v1/chat?session=canary-secret")
        .header("content-type", "application/json")
        .header("authorization", "Bearer canary-secret")
        .header("openai-organization", SECRET)
        .body(Bytes::from_static(br#"{"model":"m","user":"canary-secret"}"#))
        .unwrap()
}

fn with(name: &'static str, value: &'static str) -> Request<Bytes> {
    let mut request = chat();
    request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    request
}

fn ok(name: &'static str, value: &'static str) -> Response<Bytes> {
    Response::builder().header("content-length", 4).header(name, value).body(Bytes::from_static(b"fine")).unwrap()
}

async fn explain(policy: ApiPolicy, request: Request<Bytes>, response: Option<&Response<Bytes>>) -> Explanation {
    let explanation = CacheLayer::new(Memory::new(1 << 20), policy).handle().explain(&request, response).await;
    let said = format!("{explanation} {explanation:?}");
    assert!(!said.contains(SECRET), "{said}");
    explanation
}

fn policy() -> ApiPolicy {
    ApiPolicy::new(Sharing::PerCredential)
}

#[tokio::test]
async fn requests_that_never_touch_the_cache_say_why() {
    let get = Request::get("http://api.example/").body(Bytes::new()).unwrap();
    let stateful = chat().map(|_| Bytes::from_static(br#"{"model":"m","previous_response_id":"r"}"#));
    for (policy, request, expected) in [
        (policy(), get, "bypass: method. The policy does not cache this method"),
        (policy().paths(|path| path == "/v2"), chat(), "bypass: path. The policy does not cache this path"),
        (policy().request_limit(10), chat(), "bypass: request-too-large. The request body is over the policy's limit (`request_limit`)"),
        (policy(), stateful, "bypass: stateful. It goes on from state at the upstream"),
    ] {
        let explanation = explain(policy, request, None).await;
        assert!(matches!(explanation.decision, Decision::Bypass(_)));
        assert!(explanation.to_string().starts_with(expected), "{explanation}");
    }
}

#[tokio::test]
async fn responses_that_are_never_stored_say_why() {
    let mut missing = ok("x", "y");
    *missing.status_mut() = http::StatusCode::NOT_FOUND;
    for (policy, response, expected) in [
        (policy(), missing, "response not stored: status. The policy does not store this status"),
        (policy(), ok("cache-control", "no-store"), "response not stored: no-store. The response says `no-store`"),
        (
            policy(),
            ok("vary", "x-tenant"),
            "response not stored: vary. It varies by a request field that is not in the key: add it (`key_header`)",
        ),
        (policy(), ok("content-encoding", "gzip"), "response not stored: encoded. It is encoded"),
        (policy().max_body(3), ok("x", "y"), "response not stored: response-too-large. Its body is over the policy's limit (`max_body`)"),
    ] {
        let explanation = explain(policy, chat(), Some(&response)).await;
        assert!(matches!(explanation.response, Some(Verdict::NotStored(_))));
        assert!(explanation.to_string().contains(expected), "{explanation}");
    }
}

#[tokio::test]
async fn a_stream_of_a_handler_in_this_process_needs_someone_to_vouch_for_it() {
    let mut stream = Response::new(Bytes::from_static(b"fine"));
    let doubtful = explain(policy(), chat(), Some(&stream)).await;
    assert_eq!(doubtful.response, Some(Verdict::Stored { fresh_for: Duration::from_secs(3600), needs_proof: true }));
    assert!(doubtful.to_string().contains("`store_close_delimited` vouches for that"));
    let sure = Some(Verdict::Stored { fresh_for: Duration::from_secs(3600), needs_proof: false });
    assert_eq!(explain(policy().store_close_delimited(true), chat(), Some(&stream)).await.response, sure);
    *stream.version_mut() = Version::HTTP_2;
    assert_eq!(explain(policy(), chat(), Some(&stream)).await.response, sure);
}

#[tokio::test]
async fn two_requests_that_do_not_share_say_in_what_they_differ() {
    let base = explain(policy(), chat(), None).await;
    let changed = |body: &'static str| chat().map(|_| Bytes::from_static(body.as_bytes()));
    let host = {
        let mut request = chat();
        *request.uri_mut() = "http://other.example/v1/chat?session=canary-secret".parse().unwrap();
        request
    };
    let query = {
        let mut request = chat();
        *request.uri_mut() = "http://api.example/v1/chat?session=canary-secret&t=1".parse().unwrap();
        request
    };
    for (request, expected) in [
        (chat(), &[][..]),
        (with("authorization", "Bearer rotated"), &["scope"]),
        (changed(r#"{"model":"m","user":"other"}"#), &["json body"]),
        (with("accept", "text/event-stream"), &["header accept"]),
        (with("openai-organization", "other"), &["header openai-organization"]),
        (host, &["authority"]),
        (query, &["query"]),
        (with("content-type", "text/plain"), &["body", "header content-type", "json body"]),
    ] {
        assert_eq!(base.differences(&explain(policy(), request, None).await), expected);
    }
    assert!(base.fields.iter().any(|field| field.name == "path" && field.value == r#""/v1/chat""#));
}

#[tokio::test]
async fn what_is_stored_explains_hits_and_what_a_request_refuses() {
    let clock = Clock::movable();
    let layer =
        CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), policy().stale_if_error(Duration::from_secs(7200))).clock(clock.clone());
    let handle = layer.handle();
    let absent = handle.explain(&chat(), None).await;
    assert!(absent.to_string().starts_with("miss: nothing is stored under this key."), "{absent}");
    assert_eq!(absent.identity.unwrap().key, handle.keys(&chat()).unwrap()[0], "the key that requests have");

    handle.insert(&chat(), ok("x", "y"), None).await.unwrap().unwrap();
    clock.advance(Duration::from_secs(10));
    let hit = handle.explain(&chat(), None).await;
    assert!(hit.to_string().starts_with("hit: 10 s old, fresh for another 3589 s."), "{hit}");

    let mut young = chat();
    young.extensions_mut().insert(tower_response_cache::CacheOptions::new().max_age(Duration::from_secs(5)));
    let refused = handle.explain(&young, None).await;
    assert!(refused.to_string().starts_with("miss: something is stored, and the request does not accept it"), "{refused}");

    clock.advance(Duration::from_secs(3600));
    let stale = handle.explain(&chat(), None).await;
    assert!(stale.to_string().starts_with("miss: what is stored has gone stale"), "{stale}");
    assert_eq!(handle.stats().await.hits, 0, "explaining counts as no request");
}
