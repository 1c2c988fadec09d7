//! A private cache, with a browser's cache modes; and QUERY.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{Cache, CacheLayer, CacheOptions, Clock, HttpPolicy, Mode, RequestBody, store::Memory};

use crate::script::run;

#[tokio::test]
async fn a_private_cache_stores_what_is_for_its_user() {
    run(
        HttpPolicy::private(),
        &[
            ("private", "> \n< 200 | Cache-Control: private, max-age=60\n> \n= #fresh"),
            ("authorised", "> | Authorization: x\n< 200 | Cache-Control: max-age=60\n> | Authorization: x\n= #fresh"),
            ("set-cookie", "> \n< 200 | Cache-Control: max-age=60 | Set-Cookie: a=1\n> \n= #fresh | Set-Cookie: a=1"),
            ("private fields", "> \n< 200 | Cache-Control: max-age=60, private=\"x\" | X: 1\n> \n= #fresh | X: 1"),
            ("proxy-revalidate", "> \n< 200 | Cache-Control: max-age=5, proxy-revalidate | @1\n+ 9\n> \n< #hangup\n= 200 | @1"),
            ("not for it", "> \n< 200 | CDN-Cache-Control: max-age=60\n> \n< 200\n= #origin"),
            ("immutable", "> \n< 200 | Cache-Control: max-age=60, immutable\n+ 5\n> | Cache-Control: max-age=0\n= #fresh"),
            ("immutable, by force", "> \n< 200 | Cache-Control: max-age=60, immutable\n+ 5\n> | Cache-Control: no-cache\n< 200\n= #origin"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_query_is_answered_by_what_it_asks() {
    let ask = |body: &str| format!("> QUERY /q | Content-Type: text/plain | @{body}\n");
    run(
        HttpPolicy::shared(),
        &[
            ("same", &format!("{}< 200 | Cache-Control: max-age=60 | @1\n~ QUERY | @one\n= @1\n{}= #fresh | @1", ask("one"), ask("one"))),
            ("other", &format!("{}< 200 | Cache-Control: max-age=60 | @1\n{}< 200 | @2\n= #origin | @2", ask("one"), ask("two"))),
            (
                "does not void",
                &format!("> GET /q\n< 200 | Cache-Control: max-age=60 | @1\n{}< 200 | @2\n> GET /q\n= #fresh | @1", ask("one")),
            ),
        ],
    )
    .await;
}

/// As a browser has it: each request with the mode of its fetch.
#[tokio::test]
async fn the_cache_modes_of_fetch_can_be_expressed() {
    let calls = Arc::new(AtomicUsize::new(0));
    let clock = Clock::stopped(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let counted = Arc::clone(&calls);
    let origin = service_fn(move |request: Request<RequestBody<Full<Bytes>>>| {
        let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
        let known = request.headers().contains_key("if-none-match");
        async move {
            let mut response = Response::new(Full::from(if known { String::new() } else { number.to_string() }));
            if known {
                *response.status_mut() = StatusCode::NOT_MODIFIED;
            }
            response.headers_mut().insert("cache-control", "max-age=60".parse().unwrap());
            response.headers_mut().insert("etag", "\"a\"".parse().unwrap());
            Ok::<_, Infallible>(response)
        }
    });
    let cache = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), HttpPolicy::private()).clock(clock.clone()).layer(origin);
    let plain = CacheOptions::new;

    // default: stores, then answers from what is stored.
    assert_eq!(fetch(&cache, plain(), None).await, (200, "1".into()));
    assert_eq!(fetch(&cache, plain(), None).await, (200, "1".into()));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    // no-cache: asks, on a condition.
    assert_eq!(fetch(&cache, plain(), Some("no-cache")).await, (200, "1".into()));
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    // reload: asks without a condition, and stores.
    assert_eq!(fetch(&cache, plain().mode(Mode::WriteOnly), None).await, (200, "3".into()));
    assert_eq!(fetch(&cache, plain(), None).await, (200, "3".into()));
    // no-store: neither looks nor stores.
    assert_eq!(fetch(&cache, plain().mode(Mode::Off), None).await, (200, "4".into()));
    assert_eq!(fetch(&cache, plain(), None).await, (200, "3".into()));
    // force-cache: whatever is stored, however stale.
    clock.advance(Duration::from_secs(100));
    assert_eq!(fetch(&cache, plain(), Some("max-stale")).await, (200, "3".into()));
    // only-if-cached: or nothing.
    assert_eq!(fetch(&cache, plain().only_if_cached(), None).await.0, 504);
    assert_eq!(calls.load(Ordering::SeqCst), 4);
}

async fn fetch<S>(cache: &Cache<S, Memory, HttpPolicy>, options: CacheOptions, directive: Option<&str>) -> (u16, String)
where
    S: tower::Service<Request<RequestBody<Full<Bytes>>>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let mut request = Request::get("http://host/").body(Full::<Bytes>::default()).unwrap();
    request.extensions_mut().insert(options);
    if let Some(directive) = directive {
        request.headers_mut().insert("cache-control", directive.parse().unwrap());
    }
    let response = cache.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn an_answer_to_a_post_is_kept_only_where_its_request_may_store() {
    let plain = CacheOptions::new;
    let shared = HttpPolicy::shared;
    for (name, policy, options, read_only, kept) in [
        ("plain", shared(), plain(), false, true),
        ("refresh", shared(), plain().mode(Mode::WriteOnly), false, true),
        ("off", shared(), plain().mode(Mode::Off), false, false),
        ("read-only", shared(), plain().mode(Mode::ReadOnly), false, false),
        ("a cache that is read-only", shared(), plain(), true, false),
        ("a refresh of a cache that is read-only", shared(), plain().mode(Mode::WriteOnly), true, false),
        ("bypass", shared().bypass_if(|request| request.method == "POST"), plain(), false, false),
    ] {
        let origin = service_fn(|request: Request<RequestBody<Full<Bytes>>>| async move {
            let response = Response::builder().header("cache-control", "max-age=60").header("content-location", "http://host/");
            Ok::<_, Infallible>(response.body(Full::from(request.method().to_string())).unwrap())
        });
        let cache = CacheLayer::new(Memory::new(1 << 20), policy).read_only(read_only).layer(origin);
        let mut post = Request::post("http://host/").body(Full::<Bytes>::default()).unwrap();
        post.extensions_mut().insert(options);
        let made = cache.clone().oneshot(post).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(made, "POST", "{name}");
        // Whoever asks waits for what is being stored.
        assert_eq!(fetch(&cache, plain(), None).await.1, if kept { "POST" } else { "GET" }, "{name}");
    }
}

/// Without sockets, of which a thousand are more than many machines hand out.
#[tokio::test]
async fn a_thousand_who_ask_for_one_stale_page_cause_one_validation() {
    const MANY: usize = 1000;
    let calls = Arc::new(AtomicUsize::new(0));
    let clock = Clock::stopped(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let gate = Arc::new(tokio::sync::Semaphore::new(1));
    let (counted, opened) = (Arc::clone(&calls), Arc::clone(&gate));
    let origin = service_fn(move |request: Request<RequestBody<Full<Bytes>>>| {
        let (counted, opened) = (Arc::clone(&counted), Arc::clone(&opened));
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            opened.acquire().await.unwrap().forget();
            let known = request.headers().contains_key("if-none-match");
            let response = Response::builder().status(if known { 304 } else { 200 }).header("cache-control", "max-age=60");
            Ok::<_, Infallible>(response.header("etag", "\"a\"").body(Full::from(if known { "" } else { "page" })).unwrap())
        }
    });
    let layer = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), HttpPolicy::shared()).clock(clock.clone());
    let handle = layer.handle();
    let cache = layer.layer(origin);
    assert_eq!(fetch(&cache, CacheOptions::new(), None).await, (200, "page".into()));
    while handle.stats().await.stored == 0 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(100));
    let asking = (0..MANY).map(|_| {
        let cache = cache.clone();
        tokio::spawn(async move { fetch(&cache, CacheOptions::new(), None).await })
    });
    let asking: Vec<_> = asking.collect();
    // All of them wait for the one that asks.
    while calls.load(Ordering::SeqCst) == 1 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(MANY);
    for answer in asking {
        assert_eq!(answer.await.unwrap(), (200, "page".into()));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}
