//! Parameters that make no difference (draft-ietf-httpbis-no-vary-search).

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{sync::Semaphore, time::timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{CacheLayer, HttpPolicy, RequestBody, observe::Stats, store::Memory};

use crate::script::run;

#[tokio::test]
async fn a_response_answers_all_queries_that_differ_in_nothing_that_counts() {
    let page = "200 | Cache-Control: max-age=60 | ETag: \"a\" | No-Vary-Search: params=(\"utm\") | @1";
    let first = format!("> GET /a?utm=1&b=2\n< {page}\n= Cache-Status: ~uri-miss\n");
    let cases: Vec<(&str, String)> = [
        ("the same", "> GET /a?utm=1&b=2\n= #fresh | @1\n"),
        ("another value", "> GET /a?utm=2&b=2\n= #fresh | @1\n"),
        ("without it", "> GET /a?b=2\n= #fresh | @1\n"),
        ("in another place", "> GET /a?b=2&utm=3\n= #fresh | @1\n"),
        ("the head", "> HEAD /a?b=2\n= 200 | #fresh\n"),
        ("a part", "> GET /a?b=2 | Range: bytes=0-0\n= 206 | #fresh | @1\n"),
        ("what counts differs", "> GET /a?utm=1&b=3\n< 200 | @2\n= #origin | @2\n"),
        ("what counts is not there", "> GET /a\n< 200 | @2\n= #origin | @2\n"),
        ("another path", "> GET /b?utm=1&b=2\n< 200 | @2\n= #origin | @2\n"),
        ("validated", "+ 70\n> GET /a?utm=9&b=2\n< 304 | ETag: \"a\"\n~ /a?utm=9&b=2 | If-None-Match: \"a\"\n= 200 | @1\n> GET /a?b=2\n= #fresh | @1\n"),
        ("validated, and said again", "+ 70\n> GET /a?b=2\n< 304 | ETag: \"a\" | No-Vary-Search: params=(\"utm\")\n= 200 | @1\n"),
        ("a 304 that says otherwise", "+ 70\n> GET /a?b=2\n< 304 | ETag: \"a\" | No-Vary-Search: params=(\"b\")\n< 200 | Cache-Control: max-age=60 | No-Vary-Search: params=(\"b\") | @2\n~ !If-None-Match\n= @2\n> GET /a?b=3\n= #fresh | @2\n"),
        ("an unsafe request voids it", "> POST /a?b=2 | @x\n< 200\n> GET /a?utm=1&b=2\n< 200 | @2\n= #origin | @2\n"),
        ("an unsafe request with another value voids it", "> POST /a?utm=7&b=2 | @x\n< 200\n> GET /a?utm=1&b=2\n< 200 | @2\n= #origin | @2\n"),
        ("an unsafe request names it", "> POST /c | @x\n< 200 | Location: /a?b=2\n> GET /a?utm=1&b=2\n< 200 | @2\n= #origin | @2\n"),
        ("an unsafe request for something else does not", "> POST /a?b=3 | @x\n< 200\n> GET /a?utm=1&b=2\n= #fresh | @1\n"),
        ("the rule changes", "> GET /a?b=3\n< 200 | Cache-Control: max-age=60 | No-Vary-Search: params=(\"b\") | @2\n> GET /a?b=4\n= #fresh | @2\n> GET /a?utm=1&b=2\n< 200 | @3\n= #origin\n"),
        ("a page without a rule", "> GET /a?b=3\n< 200 | Cache-Control: max-age=60 | @2\n> GET /a?b=3\n= #fresh | @2\n> GET /a?b=3&utm=1\n< 200 | @3\n= #origin | @3\n"),
        ("an error without a rule leaves it", "> GET /a?b=3\n< 404 | Cache-Control: max-age=60 | @no\n> GET /a?b=2\n= #fresh | @1\n> GET /a?b=3\n< 404 | @no\n= #origin | @no\n"),
        ("an answer to a post", "> POST /a?utm=1&b=3 | @x\n< 200 | Cache-Control: max-age=60 | No-Vary-Search: params=(\"utm\") | Content-Location: /a?utm=1&b=3 | @made\n= #kept\n> GET /a?b=3\n= #fresh | @made\n"),
    ]
    .into_iter()
    .map(|(name, then)| (name, format!("{first}{then}")))
    .chain([
        ("order", "> GET /a?b=1&c=2\n< 200 | Cache-Control: max-age=60 | No-Vary-Search: key-order | @1\n> GET /a?c=2&b=1\n= #fresh | @1\n> GET /a?c=1&b=2\n< 200\n= #origin".to_owned()),
        ("all", "> GET /a?b=1\n< 200 | Cache-Control: max-age=60 | No-Vary-Search: params | @1\n> GET /a\n= #fresh | @1\n> GET /a?c=2&b=1\n= #fresh | @1".to_owned()),
        ("all but one", "> GET /a?b=1&c=2\n< 200 | Cache-Control: max-age=60 | No-Vary-Search: params, except=(\"b\") | @1\n> GET /a?b=1\n= #fresh | @1\n> GET /a?b=2\n< 200\n= #origin".to_owned()),
        ("no dictionary", "> GET /a?b=1\n< 200 | Cache-Control: max-age=60 | No-Vary-Search: params=( | @1\n> GET /a?b=1\n= #fresh | @1\n> GET /a?b=2\n< 200\n= #origin".to_owned()),
        ("variants", "> GET /a?b=1 | Foo: 1\n< 200 | Cache-Control: max-age=60 | Vary: Foo | No-Vary-Search: params | @1\n> GET /a?b=2 | Foo: 1\n= #fresh | @1\n> GET /a?b=2 | Foo: 2\n< 200 | Cache-Control: max-age=60 | Vary: Foo | No-Vary-Search: params | @2\n= #origin | @2\n> GET /a | Foo: 2\n= #fresh | @2\n> GET /a?b=3 | Foo: 1\n= #fresh | @1".to_owned()),
        ("not stored, not learned", "> GET /a?b=1\n< 200 | Cache-Control: no-store | No-Vary-Search: params | @1\n> GET /a?b=1\n< 200 | Cache-Control: max-age=60 | @2\n> GET /a?b=2\n< 200\n= #origin".to_owned()),
    ])
    .collect();
    run(HttpPolicy::shared().no_vary_search(true), &cases.iter().map(|(name, case)| (*name, case.as_str())).collect::<Vec<_>>()).await;
    run(
        HttpPolicy::shared(),
        &[(
            "not by default",
            "> GET /a?b=1\n< 200 | Cache-Control: max-age=60 | No-Vary-Search: params | @1\n> GET /a?b=2\n< 200\n= #origin",
        )],
    )
    .await;
}

#[tokio::test]
async fn what_is_voided_while_it_is_fetched_is_not_stored_by_a_rule_that_it_brings() {
    let (calls, came, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (counted, arrived, opened) = (Arc::clone(&calls), Arc::clone(&came), Arc::clone(&gate));
    let origin = service_fn(move |request: Request<RequestBody<Full<Bytes>>>| {
        let (counted, arrived, opened) = (Arc::clone(&counted), Arc::clone(&arrived), Arc::clone(&opened));
        async move {
            if request.method() == Method::GET {
                counted.fetch_add(1, Ordering::SeqCst);
                arrived.add_permits(1);
                opened.acquire().await.unwrap().forget();
            }
            let response = Response::builder().header("cache-control", "max-age=60").header("no-vary-search", "params");
            Ok::<_, Infallible>(response.body(Full::<Bytes>::from("page")).unwrap())
        }
    });
    let layer = CacheLayer::new(Memory::new(1 << 20), HttpPolicy::shared().no_vary_search(true));
    let (handle, cache) = (layer.handle(), layer.layer(origin));
    let ask = |method: Method, target: &str| {
        let request = Request::builder().method(method).uri(format!("http://host{target}")).body(Full::<Bytes>::default()).unwrap();
        let cache = cache.clone();
        tokio::spawn(async move { cache.oneshot(request).await.unwrap().into_body().collect().await.unwrap() })
    };
    let asking = ask(Method::GET, "/?a=1");
    came.acquire().await.unwrap().forget();
    ask(Method::POST, "/?a=1").await.unwrap();
    gate.add_permits(1);
    asking.await.unwrap();
    let until = async |done: fn(&Stats) -> bool| {
        while !done(&handle.stats().await) {
            tokio::task::yield_now().await;
        }
    };
    let long = Duration::from_secs(20);
    timeout(long, until(|stats| stats.not_stored == 1)).await.expect("it is not stored");
    // The one after it is stored, and answers more than itself.
    gate.add_permits(1);
    ask(Method::GET, "/?a=1").await.unwrap();
    timeout(long, until(|stats| stats.stored == 1)).await.expect("it is stored");
    ask(Method::GET, "/?a=2").await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}
