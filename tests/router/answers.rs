//! What is asked again is answered from the cache.

use std::sync::Arc;

use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::harness::{Answer, CHAT, Router, Upstream, chat, document, get, post, with};

#[tokio::test]
async fn the_same_question_gets_the_same_bytes_from_the_cache() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    let first = router.ask(chat("hello")).await;
    assert_eq!((first.status, first.cache()), (200, "fwd=miss"));
    router.settled(1).await;
    let second = router.ask(chat("hello")).await;
    assert_eq!((second.status, second.cache()), (200, "hit"));
    assert_eq!(first.body, second.body);
    assert_eq!(second.header("content-type"), Some("application/json"));
    assert_eq!(router.ask(chat("good bye")).await.cache(), "fwd=miss");
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn every_route_for_llm_calls_is_cached_and_no_other() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    let cached = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
        "/v1beta/models/gemini-2.5-pro:generateContent",
        "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
        "/v1/models/gemini-2.5-pro:generateContent",
    ];
    for (n, path) in (1..).zip(cached) {
        let first = router.ask(post(path, json!({"model": "m"}))).await;
        router.settled(n).await;
        let second = router.ask(post(path, json!({"model": "m"}))).await;
        assert_eq!((first.cache(), second.cache()), ("fwd=miss", "hit"), "{path}");
        assert_eq!(first.body, second.body, "{path}");
        assert_eq!(first.json()["target"], path);
    }
    for path in ["/v1/messages/count_tokens", "/v1beta/models/m:countTokens", "/v1/files", "/v1/chat/completions/x"] {
        for _ in 0..2 {
            assert_eq!(router.ask(post(path, json!({"model": "m"}))).await.cache(), "fwd=bypass", "{path}");
        }
    }
    assert_eq!(upstream.calls(), cached.len() + 8);
}

#[tokio::test]
async fn without_configuration_the_simulator_answers_in_every_dialect() {
    let router = Router::start(&[]).await;
    let messages = json!([{"role": "user", "content": "hello"}]);
    let contents = json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]});
    let calls = [
        (CHAT, json!({"model": "gpt-4o", "messages": messages}), "/choices/0/message/content"),
        ("/v1/messages", json!({"model": "claude", "max_tokens": 4096, "messages": messages}), "/content/0/text"),
        ("/v1beta/models/gemini-2.5-pro:generateContent", contents, "/candidates/0/content/parts/0/text"),
        ("/v1/responses", json!({"model": "gpt-4o", "input": "hello"}), "/output/0/content/0/text"),
        ("/v1/embeddings", json!({"model": "text-embedding-3-small", "input": "hello"}), "/data/0/embedding"),
    ];
    for (n, (path, body, pointer)) in (1..).zip(calls) {
        let ask = || router.ask(with(post(path, &body), "anthropic-version", "2023-06-01"));
        let first = ask().await;
        router.settled(n).await;
        let second = ask().await;
        assert_eq!((first.status, first.cache(), second.cache()), (200, "fwd=miss", "hit"), "{path}: {first:?}");
        assert_eq!(first.body, second.body);
        assert!(first.json().pointer(pointer).is_some(), "{path}: {}", first.text());
    }
    let unknown = router.ask(get("/nowhere")).await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.json()["error"]["message"].is_string(), "{}", unknown.text());
}

#[tokio::test]
async fn simulated_streams_are_replayed_in_every_dialect() {
    let router = Router::start(&[]).await;
    let messages = json!([{"role": "user", "content": "hello"}]);
    let contents = json!({"contents": [{"role": "user", "parts": [{"text": "hello"}]}]});
    let calls = [
        (CHAT, json!({"model": "gpt-4o", "stream": true, "messages": messages})),
        ("/v1/messages", json!({"model": "claude", "stream": true, "max_tokens": 4096, "messages": messages})),
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse", contents.clone()),
        ("/v1beta/models/gemini-2.5-pro:streamGenerateContent", contents),
        ("/v1/responses", json!({"model": "gpt-4o", "stream": true, "input": "hello"})),
    ];
    for (n, (path, body)) in (1..).zip(calls) {
        let ask = || router.ask(with(post(path, &body), "anthropic-version", "2023-06-01"));
        let first = ask().await;
        router.settled(n).await;
        let second = ask().await;
        assert_eq!((first.status, first.cache(), second.cache()), (200, "fwd=miss", "hit"), "{path}: {first:?}");
        assert_eq!(first.body, second.body);
    }
}

#[tokio::test]
async fn answers_that_are_cut_off_refused_or_failed_are_not_kept() {
    let router = Router::start(&[]).await;
    let mut fills = 0;
    for fault in ["sim-cut", "sim-refusal", "sim-error-in-stream", "sim-error-500", "sim-error-429"] {
        for stream in [false, true] {
            let question = || post(CHAT, json!({"model": fault, "stream": stream, "messages": [{"role": "user", "content": "hello"}]}));
            for _ in 0..2 {
                assert_eq!(router.ask(question()).await.cache(), "fwd=miss", "{fault}, stream: {stream}");
                fills += 1;
                router.settled(fills).await;
            }
        }
    }
    assert_eq!(router.stats().await["stored"], 0);
}

#[tokio::test]
async fn many_who_ask_the_same_at_once_share_one_call() {
    let gate = Arc::new(Semaphore::new(0));
    let upstream = {
        let gate = Arc::clone(&gate);
        Upstream::new(move |call| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                document(json!({"call": call.number}))
            }
        })
        .await
    };
    let router = Arc::new(Router::before(&upstream, &[]).await);
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let router = Arc::clone(&router);
            tokio::spawn(async move { router.ask(chat("hello")).await })
        })
        .collect();
    while upstream.calls() == 0 {
        tokio::task::yield_now().await;
    }
    // One answer, for however many there are: a second call would wait for ever.
    gate.add_permits(1);
    for caller in callers {
        assert_eq!(caller.await.unwrap().json(), json!({"call": 1}));
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn http_2_without_tls_is_spoken_too_and_shares_with_http_1() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    let first = router.ask(chat("hello")).await;
    router.settled(1).await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let (head, body) = chat("hello").into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    let request = Request::post(router.url(CHAT)).header("content-type", head.headers["content-type"].clone());
    let response = client.request(request.body(Full::new(bytes)).unwrap()).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    let second = Answer::of(response).await;
    assert_eq!((second.cache(), &second.body), ("hit", &first.body));
    // And on to an HTTP/1.1 upstream.
    let request = Request::post(router.url("/v1/other")).body(Full::default()).unwrap();
    assert_eq!(client.request(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn trusted_callers_steer_the_cache_and_others_do_not() {
    for (args, cache) in [(&[][..], "hit"), (&["--trust-cache-headers"][..], "fwd=request")] {
        let upstream = Upstream::signed().await;
        let router = Router::before(&upstream, args).await;
        router.ask(chat("hello")).await;
        router.settled(1).await;
        assert_eq!(router.ask(with(chat("hello"), "cache-control", "no-cache")).await.cache(), cache);
    }
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &["--trust-cache-headers", "--ttl-header", "x-keep"]).await;
    router.ask(with(chat("hello"), "x-keep", "7")).await;
    assert!(upstream.last().headers.get("x-keep").is_none(), "control fields go no further");
    router.settled(1).await;
    let hit = router.ask(chat("hello")).await;
    let ttl: u64 = hit.header("cache-status").unwrap().split("ttl=").nth(1).unwrap().parse().unwrap();
    assert!(ttl <= 7, "{hit:?}");
}

#[tokio::test]
async fn the_health_is_told_on_both_listeners() {
    let router = Router::start(&[]).await;
    for answer in [router.ask(get("/healthz")).await, router.admin(get("/healthz")).await] {
        assert_eq!((answer.status, answer.json()), (200, json!({"status": "ok"})));
    }
    assert_eq!(router.ask(post("/healthz", "{}")).await.status, 405);
}
