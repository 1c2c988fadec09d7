//! Requests that wait for one call share its response only if it is one to all of them (RFC 9111 section 4).

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{CacheLayer, HttpPolicy, RequestBody, store::Memory};

type Fields = &'static [(&'static str, &'static str)];

fn headers(fields: Fields) -> HeaderMap {
    fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// By which variants are told apart.
fn foo(headers: &HeaderMap) -> String {
    headers.get("foo").map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
}

/// How many calls three requests make that are there before the first response is.
async fn calls(policy: HttpPolicy, asked: [Fields; 3], answered: Fields) -> usize {
    let calls = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let (counted, opened) = (Arc::clone(&calls), Arc::clone(&gate));
    let answered = headers(answered);
    let origin = service_fn(move |request: Request<RequestBody<Full<Bytes>>>| {
        let (counted, opened, answered) = (Arc::clone(&counted), Arc::clone(&opened), answered.clone());
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            opened.acquire().await.unwrap().forget();
            let mut response = Response::new(Full::<Bytes>::from(format!("for {}", foo(request.headers()))));
            *response.headers_mut() = answered;
            Ok::<_, Infallible>(response)
        }
    });
    let cache = CacheLayer::new(Memory::new(1 << 20), policy).layer(origin);
    let asking: Vec<_> = asked
        .into_iter()
        .map(|fields| {
            let (cache, fields) = (cache.clone(), headers(fields));
            tokio::spawn(async move {
                let expected = format!("for {}", foo(&fields));
                let mut request = Request::get("http://host/").body(Full::<Bytes>::default()).unwrap();
                *request.headers_mut() = fields;
                let response = cache.oneshot(request).await.unwrap();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, expected, "an answer to another");
            })
        })
        .collect();
    // Time for all of them to arrive; who comes later finds it stored, or asks.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(asking.len());
    for asking in asking {
        asking.await.unwrap();
    }
    calls.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_response_is_shared_if_it_is_one_to_all_who_wait() {
    const NONE: Fields = &[];
    const FRESH: (&str, &str) = ("cache-control", "max-age=60");
    let all = [NONE; 3];
    for (name, asked, answered, expected) in [
        ("fresh", all, &[FRESH][..], 1),
        ("no-store", all, &[("cache-control", "no-store")], 3),
        ("private", all, &[("cache-control", "max-age=60, private")], 3),
        ("a cookie is set", all, &[FRESH, ("set-cookie", "a=1")], 3),
        ("to be validated", all, &[("cache-control", "no-cache"), ("etag", "\"a\"")], 3),
        ("stale", all, &[("cache-control", "max-age=0"), ("etag", "\"a\"")], 3),
        ("too old", all, &[FRESH, ("age", "60"), ("etag", "\"a\"")], 3),
        ("nothing said", all, &[], 3),
        ("everyone is told apart", all, &[FRESH, ("vary", "*")], 3),
        ("variants", [&[("foo", "1")], &[("foo", "1")], &[("foo", "2")]], &[FRESH, ("vary", "foo")], 2),
        ("authorised", [&[("authorization", "1")], &[("authorization", "2")], NONE], &[FRESH], 3),
        ("authorised, public", [&[("authorization", "1")], &[("authorization", "2")], NONE], &[("cache-control", "max-age=60, public")], 1),
        ("cookies", [&[("cookie", "a=1")], &[("cookie", "a=2")], NONE], &[FRESH], 3),
        ("who wants the newest", [NONE, &[("cache-control", "no-cache")], &[("cache-control", "max-age=0")]], &[FRESH], 3),
        ("who does not want it stored", [&[("cache-control", "no-store")], &[("cache-control", "no-store")], NONE], &[FRESH], 3),
    ] {
        assert_eq!(calls(HttpPolicy::shared(), asked, answered).await, expected, "{name}");
    }
    let cookies: [Fields; 3] = [&[("cookie", "a=1")], &[("cookie", "a=2")], NONE];
    assert_eq!(calls(HttpPolicy::shared().rfc(), cookies, &[FRESH]).await, 1);
    assert_eq!(calls(HttpPolicy::private(), all, &[("cache-control", "max-age=60, private")]).await, 1);
}
