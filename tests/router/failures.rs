//! Failures are passed on as they are, and the router's own are spelled in the caller's dialect.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{CHAT, Router, Upstream, chat, document, get, nobody, post, settings, with};

const GEMINI: &str = "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse&key=hush";

#[tokio::test]
async fn an_unreachable_upstream_is_a_502_in_the_dialect_of_the_caller() {
    let router = Router::start(&["--upstream", &nobody().await]).await;
    let message = "the upstream `upstream` cannot be reached";
    let answers: [(&str, Value); 4] = [
        (CHAT, json!({"error": {"message": message, "type": "upstream_error", "param": null, "code": "upstream_unreachable"}})),
        ("/v1/messages", json!({"type": "error", "error": {"type": "api_error", "message": message}, "request_id": "mine"})),
        (GEMINI, json!({"error": {"code": 502, "message": message, "status": "UNAVAILABLE"}})),
        ("/v1/files", json!({"error": {"message": message, "type": "upstream_error", "param": null, "code": "upstream_unreachable"}})),
    ];
    for (path, expected) in answers {
        let answer = router.ask(with(with(post(path, "{}"), "x-request-id", "mine"), "authorization", "Bearer hush")).await;
        assert_eq!((answer.status, answer.header("content-type")), (502, Some("application/json")), "{path}");
        assert_eq!(answer.header("x-request-id"), Some("mine"));
        assert_eq!(answer.json(), expected);
        assert!(!answer.text().contains("hush") && !answer.text().contains("127.0.0.1"), "{}", answer.text());
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_begin_to_answer_is_a_504_in_the_dialect_of_the_caller() {
    let upstream = Upstream::new(|_| std::future::pending()).await;
    let mut settings = settings(&["--upstream", &upstream.url()]);
    settings.upstream_timeout = Some(Duration::from_millis(20));
    let router = Router::with(settings).await;
    for (path, pointer, kind) in [
        (CHAT, "/error/code", "upstream_timeout"),
        ("/v1/messages", "/error/type", "timeout_error"),
        (GEMINI, "/error/status", "DEADLINE_EXCEEDED"),
    ] {
        let answer = router.ask(post(path, "{}")).await;
        assert_eq!((answer.status, answer.json().pointer(pointer)), (504, Some(&json!(kind))), "{path}");
    }
}

#[tokio::test]
async fn an_upstream_that_hangs_up_is_a_502_and_is_not_asked_twice() {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };
    use tokio::io::AsyncReadExt;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Counted when it was asked, not when it was called upon: clients open connections ahead.
            if stream.read(&mut [0; 4096]).await.unwrap() > 0 {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let router = Router::start(&["--upstream", &url]).await;
    let answer = router.ask(chat("hello")).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &json!("upstream_failed")));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_upgrade_that_nobody_asked_for_is_a_502_in_the_dialect_of_the_caller() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")
                    .await;
                // Open until the router hangs up.
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    let router = Router::start(&["--upstream", &url]).await;
    for request in [chat("hello"), get("/v1/files")] {
        let answer = router.ask(request).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (502, &json!("upstream_failed")));
    }
}

#[tokio::test]
async fn the_failure_of_an_upstream_is_passed_on_as_it_is_and_not_kept() {
    let upstream = Upstream::new(|call| async move {
        let mut response = document(json!({"error": {"message": "slow down", "call": call.number}}));
        *response.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
        response.headers_mut().insert("retry-after", "7".parse().unwrap());
        response
    })
    .await;
    let router = Router::before(&upstream, &[]).await;
    for n in 1..=2 {
        let answer = router.ask(chat("hello")).await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("7")));
        assert_eq!(answer.json(), json!({"error": {"message": "slow down", "call": n}}));
        router.settled(n).await;
    }
}

#[tokio::test]
async fn what_comes_after_a_failure_is_answered() {
    let upstream = Upstream::new(|call| async move {
        if call.number == 1 {
            std::future::pending::<()>().await;
        }
        document(json!({"call": call.number}))
    })
    .await;
    let mut settings = settings(&["--upstream", &upstream.url()]);
    settings.upstream_timeout = Some(Duration::from_millis(20));
    let router = Router::with(settings).await;
    assert_eq!(router.ask(chat("hello")).await.status, 504);
    assert_eq!(router.ask(chat("hello")).await.json(), json!({"call": 2}));
    assert_eq!(router.ask(get("/healthz")).await.status, 200);
}
