//! Requests that do not arrive, or not as they should: on sockets of the tests' own, byte by byte.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    harness::{CHAT, Router, Upstream, nobody, settings},
    program::Running,
};

const GEMINI: &str = "/v1beta/models/gemini-2.5-pro:generateContent";

/// A connection on which this much was sent.
async fn sent(address: &str, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// All that comes until the other side hangs up: the head, and the body.
async fn rest(stream: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    // A reset is an end, too: it comes where not all that was sent was read.
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.to_ascii_lowercase(), body.to_owned())
}

/// A head that announces more of a body than follows.
fn half(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: router\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{\"model\": \"x\", ")
}

/// A router in front of nobody who gives up on bodies at once.
async fn impatient() -> Router {
    let mut settings = settings(&["--upstream", &nobody().await]);
    settings.body_idle = Duration::from_millis(50);
    Router::with(settings).await
}

#[tokio::test]
async fn a_body_that_does_not_go_on_is_a_408_in_the_dialect_of_the_caller_and_ends_the_connection() {
    let router = impatient().await;
    let address = router.app.public.to_string();
    for (path, pointer, code) in [
        (CHAT, "/error/code", json!("request_timeout")),
        ("/v1/messages", "/error/type", json!("invalid_request_error")),
        (GEMINI, "/error/code", json!(408)),
    ] {
        let (head, body) = rest(&mut sent(&address, &half(path)).await).await;
        assert!(head.starts_with("http/1.1 408 ") && head.contains("connection: close"), "{path}: {head}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body.pointer(pointer), Some(&code), "{path}: {body}");
        assert!(body.to_string().contains("did not go on for 0.05 s"), "{body}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_go_on_is_a_408_where_it_is_passed_through_too() {
    let upstream = Upstream::signed().await;
    let mut settings = settings(&["--upstream", &upstream.url()]);
    settings.body_idle = Duration::from_millis(50);
    let router = Router::with(settings).await;
    let (head, body) = rest(&mut sent(&router.app.public.to_string(), &half("/v1/files")).await).await;
    assert!(head.starts_with("http/1.1 408 ") && head.contains("connection: close"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["error"]["code"], "request_timeout");
}

#[tokio::test]
async fn a_body_that_breaks_off_makes_no_call() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    for path in [CHAT, GEMINI] {
        let mut stream = sent(&router.app.public.to_string(), &half(path)).await;
        stream.shutdown().await.unwrap();
        rest(&mut stream).await;
    }
    assert_eq!(upstream.calls(), 0);
}

#[tokio::test]
async fn a_request_that_does_not_name_one_host_is_a_400_in_the_dialect_of_the_caller() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    let address = router.app.public.to_string();
    for hosts in ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: me@a\r\n", "Host: a/b\r\n"] {
        for (path, pointer) in [(CHAT, "/error/code"), ("/v1/messages", "/request_id"), (GEMINI, "/error/status")] {
            let request = format!("POST {path} HTTP/1.1\r\n{hosts}Connection: close\r\nContent-Length: 2\r\n\r\n{{}}");
            let (head, body) = rest(&mut sent(&address, &request).await).await;
            assert!(head.starts_with("http/1.1 400 "), "{hosts:?}: {head}");
            let body: Value = serde_json::from_str(&body).unwrap();
            assert!(body.pointer(pointer).is_some() && body.to_string().contains("has to name one host"), "{hosts:?}: {body}");
        }
    }
    assert_eq!(upstream.calls(), 0);
    for (version, hosts) in [("1.0", ""), ("1.1", "Host: a:80\r\n"), ("1.1", "Host: [::1]:80\r\n"), ("1.1", "Host:\r\n")] {
        let request = format!("POST {CHAT} HTTP/{version}\r\n{hosts}Connection: close\r\nContent-Length: 2\r\n\r\n{{}}");
        let (head, _) = rest(&mut sent(&address, &request).await).await;
        assert!(head.contains(" 200 "), "{version} {hosts:?}: {head}");
    }
}

/// The bound of the drain is far beyond that of the test.
#[tokio::test]
async fn told_to_end_it_does_not_wait_for_what_has_not_arrived() {
    let upstream = Upstream::signed().await;
    let router = Running::start(&["--upstream", &upstream.url(), "--drain-seconds", "3600", "--body-idle-seconds", "3600"]).await;
    let address = router.public.strip_prefix("http://").unwrap().to_owned();
    let mut begun = sent(&address, &half(CHAT)).await;
    let mut passed = sent(&address, &half("/v1/files")).await;
    let mut head_only = sent(&address, "POST /v1/chat/completions HTTP/1.1\r\nHost: ro").await;
    let mut nothing = sent(&address, "").await;
    // Connections are accepted in their order.
    let mut last = sent(&address, "GET /healthz HTTP/1.1\r\nHost: router\r\nConnection: close\r\n\r\n").await;
    assert!(rest(&mut last).await.0.starts_with("http/1.1 200 "));
    while upstream.calls() == 0 {
        tokio::task::yield_now().await;
    }
    router.signal("TERM");
    for stream in [&mut begun, &mut passed] {
        let (head, body) = rest(stream).await;
        assert!(head.starts_with("http/1.1 503 ") && head.contains("connection: close"), "{head}");
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["error"]["code"], "shutting_down");
    }
    assert_eq!(rest(&mut head_only).await.0, "");
    assert_eq!(rest(&mut nothing).await.0, "");
    let (status, log) = router.end().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("drained"), "{log}");
}
