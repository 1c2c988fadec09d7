//! What bypasses the cache, and why; what trusted callers may say.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::Full;
use tower::Layer;
use tower_response_cache::{
    ApiPolicy, Cache, CacheLayer, Sharing,
    status::{Miss, Outcome},
    store::{Memory, Selection},
};

use crate::{ask, origin::Origin, post, read, send};

fn cache(policy: ApiPolicy) -> (Origin, Cache<Origin, Memory, ApiPolicy>) {
    let origin = Origin::signed();
    (origin.clone(), CacheLayer::new(Memory::new(1 << 20), policy).layer(origin))
}

fn json(body: &'static str) -> Request<Full<Bytes>> {
    Request::post("http://origin/").header("content-type", "application/json").body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()
}

#[tokio::test]
async fn what_is_not_to_be_cached_passes_through_with_its_reason() {
    let with = |name: &'static str, value: &'static str| {
        let mut request = post("/", "");
        request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        request
    };
    let get = || Request::get("http://origin/").body(Full::new(Bytes::from_static(b"fat"))).unwrap();
    let cases: Vec<(&str, ApiPolicy, Request<Full<Bytes>>)> = vec![
        ("method", ApiPolicy::new(Sharing::Shared), get()),
        ("upgrade", ApiPolicy::new(Sharing::Shared), with("upgrade", "websocket")),
        ("range", ApiPolicy::new(Sharing::Shared), with("range", "bytes=0-1")),
        ("path", ApiPolicy::new(Sharing::Shared).paths(|path| path.starts_with("/v1")), post("/v2", "")),
        ("predicate", ApiPolicy::new(Sharing::Shared).bypass_if(|request| request.headers.contains_key("x-live")), with("x-live", "1")),
        ("request-too-large", ApiPolicy::new(Sharing::Shared).request_limit(3), post("/", "four")),
        ("panic", ApiPolicy::new(Sharing::Shared).paths(|_| panic!("broken by a test")), post("/", "")),
        ("panic", ApiPolicy::new(Sharing::by(|_| panic!("broken by a test"))), post("/", "")),
        ("stateful", ApiPolicy::new(Sharing::Shared), json(r#"{"model":"m","previous_response_id":"resp_1"}"#)),
        ("stateful", ApiPolicy::new(Sharing::Shared), json(r#"{"model":"m","conversation":{"id":"c"}}"#)),
        ("stateful", ApiPolicy::new(Sharing::Shared), json(r#"{"model":"m","background":true}"#)),
        ("stateful", ApiPolicy::new(Sharing::Shared).canonical_json(false), json(r#"{"model":"m","b\u0061ckground":true}"#)),
        ("stateful", ApiPolicy::new(Sharing::Shared), post("/", r#"{"model":"m","background":true}"#)),
        ("stateful", ApiPolicy::new(Sharing::Shared), json(r#"{"background":true,"background":false}"#)),
        ("stateful", ApiPolicy::new(Sharing::Shared), json(r#"{"model":"m","previous_interaction_id":"i"}"#)),
        ("stateful", ApiPolicy::new(Sharing::Shared), json(r#"{"model":"m","container":"container_01"}"#)),
        ("stateful", ApiPolicy::new(Sharing::Shared), json(r#"{"model":"m","container":{"id":"container_01","skills":[]}}"#)),
        ("stateful", ApiPolicy::new(Sharing::Shared), json(r#"{"model":"m","deferred":true}"#)),
        ("unreadable", ApiPolicy::new(Sharing::Shared), json(r#"{"model":"m",,"background":true}"#)),
        ("temperature", ApiPolicy::new(Sharing::Shared).max_temperature(0.5), json(r#"{"model":"m","temperature":0.7}"#)),
    ];
    for (reason, policy, request) in cases {
        let (origin, cache) = cache(policy);
        for n in 1..=2 {
            let answer = send(&cache, request.clone()).await;
            assert_eq!(answer.headers()["cache-status"], format!("tower-response-cache; fwd=bypass; detail={reason}"));
            assert!(read(answer).await.starts_with(&format!("call {n} ")));
        }
        assert_eq!(origin.calls(), 2, "{reason}");
    }
}

#[tokio::test]
async fn what_only_looks_stateful_is_cached() {
    for body in [
        r#"{"model":"m","previous_response_id":null,"background":false}"#,
        r#"{"model":"m","messages":[{"background":true,"content":"previous_response_id"}]}"#,
        r#"{"model":"m","temperature":0.5}"#,
        r#"{"model":"m","container":{"skills":[{"type":"anthropic"}]},"deferred":false}"#,
        r#"{"container":"crate","image":"container ship"}"#,
        r#"{"model":"no JSON, and nothing in it that matters"#,
    ] {
        let (_, cache) = cache(ApiPolicy::new(Sharing::Shared).max_temperature(0.5));
        assert_eq!(ask(&cache, json(body)).await.0, Outcome::Miss(Miss::Absent), "{body}");
    }
}

#[tokio::test]
async fn the_upstream_is_asked_for_a_plain_body_and_sees_all_else_as_it_came() {
    let origin = Origin::new(|call| async move {
        assert_eq!(call.head.headers["accept-encoding"], "identity");
        assert_eq!(call.head.headers["x-mine"], "1");
        assert_eq!(call.head.headers["cache-control"], "no-cache", "who is not trusted controls nothing, and is not edited");
        assert_eq!(call.head.extensions.get::<u32>(), Some(&7));
        Ok(crate::origin::text("fine"))
    });
    let cache = crate::layer().layer(origin);
    let mut request = post("/", "body");
    request.headers_mut().insert("accept-encoding", HeaderValue::from_static("gzip"));
    request.headers_mut().insert("x-mine", HeaderValue::from_static("1"));
    request.headers_mut().insert("cache-control", HeaderValue::from_static("no-cache"));
    request.extensions_mut().insert(7_u32);
    assert_eq!(ask(&cache, request).await.1, "fine");
}

#[tokio::test]
async fn trusted_callers_control_the_cache_and_the_upstream_does_not_see_it() {
    let origin = Origin::new(|call| async move {
        assert!(!call.head.headers.contains_key("cache-control") && !call.head.headers.contains_key("x-ttl"));
        Ok(crate::origin::text(format!("answer {}", call.number)))
    });
    let policy = ApiPolicy::new(Sharing::Shared).trust_request_headers(Some(HeaderName::from_static("x-ttl")));
    let cache = CacheLayer::new(Memory::new(1 << 20), policy).layer(origin.clone());
    let with = |name: &'static str, value: &'static str| {
        let mut request = post("/", "");
        request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        request
    };
    assert_eq!(ask(&cache, with("cache-control", "only-if-cached")).await.0, Outcome::Unsatisfied);
    ask(&cache, with("x-ttl", "100")).await;
    crate::calm().await;
    let hit = send(&cache, post("/", "")).await;
    assert_eq!(hit.headers()["cache-status"], "tower-response-cache; hit; ttl=99");
    assert_eq!(ask(&cache, with("cache-control", "no-cache")).await, (Outcome::Miss(Miss::Request), "answer 2".to_owned()));
    crate::calm().await;
    assert_eq!(ask(&cache, post("/", "")).await, (Outcome::Hit, "answer 2".to_owned()));
    let off = send(&cache, with("cache-control", "no-store")).await;
    assert_eq!(off.headers()["cache-status"], "tower-response-cache; fwd=bypass; detail=off");
    assert_eq!(ask(&cache, with("cache-control", "max-age=nonsense")).await.0, Outcome::Miss(Miss::Request));
}

#[tokio::test]
async fn several_answers_are_kept_for_those_who_want_diversity() {
    let policy = ApiPolicy::new(Sharing::Shared).variants(3);
    let layer = CacheLayer::new(Memory::new(1 << 20), policy);
    let handle = layer.handle();
    let origin = Origin::signed();
    let cache = layer.layer(origin.clone());
    let mut answers = std::collections::HashSet::new();
    for _ in 0..200 {
        answers.insert(ask(&cache, post("/", "")).await.1);
        tokio::task::yield_now().await;
    }
    assert_eq!((answers.len(), origin.calls()), (3, 3));
    let request = Request::post("http://origin/").header("content-type", "text/plain").body(Bytes::new()).unwrap();
    assert_eq!(handle.invalidate_request(&request).await.unwrap(), 3);
}

#[tokio::test]
async fn what_is_reflected_from_unkeyed_fields_is_not_replayed_to_others() {
    // The upstream reflects the caller's origin, as CORS does.
    let origin = Origin::new(|call| async move {
        let mut response = crate::origin::text("same");
        if let Some(origin) = call.head.headers.get("origin") {
            response.headers_mut().insert("access-control-allow-origin", origin.clone());
            response.headers_mut().insert("vary", HeaderValue::from_static("origin"));
        }
        Ok(response)
    });
    let cache = crate::layer().layer(origin);
    let mut request = post("/", "");
    request.headers_mut().insert("origin", HeaderValue::from_static("https://evil.example"));
    ask(&cache, request).await;
    crate::calm().await;
    let hit = send(&cache, post("/", "")).await;
    assert_eq!(crate::outcome(&hit), Outcome::Hit);
    assert!(!hit.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn tags_of_the_response_are_taken_if_told_to_and_too_many_are_not_stored() {
    let answering = |line: String| {
        Origin::new(move |_| {
            let mut answer = crate::origin::text("x");
            answer.headers_mut().insert("surrogate-key", HeaderValue::from_static("blue  red"));
            answer.headers_mut().insert("cache-tag", HeaderValue::from_str(&line).unwrap());
            async { Ok(answer) }
        })
    };
    for (on, line, stored, removed) in [
        (true, "team green,blue".to_owned(), true, 1),
        (false, "team green,blue".to_owned(), true, 0),
        (true, "x,".repeat(255), false, 0),
        (true, "x".repeat(1025), false, 0),
        (true, "x".repeat(1024), true, 1),
    ] {
        let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).response_tags(on));
        let (cache, handle) = (layer.layer(answering(line.clone())), layer.handle());
        ask(&cache, post("/", "")).await;
        for tag in ["blue", "red", if line.contains("green") { "team green" } else { &line }] {
            // What was removed is fetched anew.
            crate::until_flown(&handle).await;
            let asked = handle.invalidate(&Selection::Tag(tag.to_owned())).await.unwrap();
            assert_eq!(asked, removed, "{on} {line} {tag}");
            let expected = if stored && removed == 0 { Outcome::Hit } else { Outcome::Miss(Miss::Absent) };
            assert_eq!(ask(&cache, post("/", "")).await.0, expected, "{on} {line} {tag}");
        }
        crate::until_flown(&handle).await;
        let inserted = handle
            .insert(
                &post("/other", "").map(|_| Bytes::new()),
                {
                    let mut answer = http::Response::new(Bytes::from_static(b"x"));
                    answer.headers_mut().insert("surrogate-key", HeaderValue::from_static("inserted"));
                    answer
                },
                None,
            )
            .await
            .unwrap();
        assert!(inserted.is_ok());
        assert_eq!(handle.invalidate(&Selection::Tag("inserted".to_owned())).await.unwrap(), u64::from(on));
    }
}
