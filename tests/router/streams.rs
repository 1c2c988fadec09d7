//! Bodies stream both ways, whole and unchanged.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, sync::mpsc};

use crate::harness::{Answer, Body, CHAT, Feed, Router, Upstream, chat, document, events, fed, next, post};

/// An upstream whose event streams the test feeds.
async fn streaming() -> (Upstream, mpsc::UnboundedReceiver<Feed>) {
    let (feeds, fed) = mpsc::unbounded_channel();
    let upstream = Upstream::new(move |_| {
        let feeds = feeds.clone();
        async move {
            let (feed, response) = events();
            feeds.send(feed).unwrap_or_else(|_| panic!("the test is over"));
            response
        }
    })
    .await;
    (upstream, fed)
}

const CHUNKS: [&str; 3] = [
    "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n",
    "data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
    "data: [DONE]\n\n",
];

fn question() -> Request<Body> {
    post(CHAT, json!({"model": "gpt-4o", "stream": true, "messages": []}))
}

#[tokio::test]
async fn a_chunk_reaches_the_caller_before_the_next_one_is_said() {
    let (upstream, mut fed) = streaming().await;
    let router = Router::before(&upstream, &[]).await;
    for request in [question(), post("/v1/other", "{}")] {
        let (response, feed) = tokio::join!(router.send(request), fed.recv());
        let (mut body, feed) = (response.into_body(), feed.unwrap());
        for chunk in CHUNKS {
            feed.send(chunk).await;
            assert_eq!(next(&mut body).await.unwrap(), chunk);
        }
        drop(feed);
        assert_eq!(next(&mut body).await, None);
    }
}

#[tokio::test]
async fn a_stream_is_replayed_byte_for_byte_and_one_who_comes_late_joins_it_from_the_start() {
    let (upstream, mut fed) = streaming().await;
    let router = Router::before(&upstream, &[]).await;
    let (response, feed) = tokio::join!(router.send(question()), fed.recv());
    let (mut first, feed) = (response.into_body(), feed.unwrap());
    feed.send(CHUNKS[0]).await;
    assert_eq!(next(&mut first).await.unwrap(), CHUNKS[0]);
    let late = router.send(question()).await;
    let collapsed = late.headers()["cache-status"].to_str().unwrap().contains("collapsed");
    assert!(collapsed, "{:?}", late.headers());
    for chunk in &CHUNKS[1..] {
        feed.send(*chunk).await;
    }
    drop(feed);
    let rest = first.collect().await.unwrap().to_bytes();
    assert_eq!(rest, CHUNKS[1..].concat());
    assert_eq!(Answer::of(late).await.text(), CHUNKS.concat());
    router.settled(1).await;
    let hit = router.ask(question()).await;
    assert_eq!((hit.cache(), hit.text()), ("hit", CHUNKS.concat().as_str()));
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_off_breaks_off_for_the_caller_and_is_not_kept() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(format!("{head}{:x}\r\n{}\r\n", CHUNKS[0].len(), CHUNKS[0]).as_bytes()).await.unwrap();
        }
    });
    let router = Router::start(&["--upstream", &url]).await;
    for n in 1..=2 {
        let response = router.send(question()).await;
        assert!(response.headers()["cache-status"].to_str().unwrap().contains("fwd=miss"));
        response.into_body().collect().await.unwrap_err();
        router.settled(n).await;
    }
}

/// Bodies of so many bytes that all of them cannot be the same by chance.
fn payload(len: usize) -> Bytes {
    (0..len).map(|n| ((n / 256) ^ n) as u8).collect()
}

#[tokio::test]
async fn a_body_over_the_limit_arrives_byte_for_byte_at_the_upstream_for_its_model() {
    let echo = |name: &'static str| async move {
        Upstream::new(move |call| async move {
            let body = call.body.collect().await.unwrap().to_bytes();
            let mut response = document("");
            response.headers_mut().insert("x-name", name.parse().unwrap());
            *response.body_mut() = Full::new(body).boxed_unsync();
            response
        })
        .await
    };
    let (a, b) = (echo("a").await, echo("b").await);
    let table = |name: &str, upstream: &Upstream, models: &str| {
        format!("[[upstream]]\nname = \"{name}\"\nurl = \"{}\"\nmodels = [{models}]\n", upstream.url())
    };
    let config = format!("default = \"a\"\n{}{}", table("a", &a, ""), table("b", &b, "\"b-\""));
    let router = Router::configured(&config, &["--max-request", "64KiB"]).await;

    let filler = "x".repeat(200 << 10);
    for (json, upstream) in [
        (format!("{{\"model\":\"b-1\",\"input\":\"{filler}\"}}"), "b"),
        // Official SDKs write the model behind the messages.
        (format!("{{\"input\":\"{filler}\",\"model\":\"b-1\"}}"), "b"),
        (format!("{{\"input\":\"{filler}\",\"model\":\"b-1\",\"more\":\"{filler}{filler}{filler}\"}}"), "b"),
        (format!("{{\"input\":\"{filler}\"}}"), "a"),
        (format!("{{\"model\":\"b-1\",\"input\":\"{}\"}}", "x".repeat((64 << 10) - 26)), "b"),
    ] {
        for chunked in [false, true] {
            let over = json.len() > 64 << 10;
            let request = if chunked {
                let (feed, body) = fed();
                let bytes = Bytes::from(json.clone());
                tokio::spawn(async move {
                    for start in (0..bytes.len()).step_by(10_000) {
                        feed.send(bytes.slice(start..bytes.len().min(start + 10_000))).await;
                    }
                });
                Request::post(CHAT).header("content-type", "application/json").body(body).unwrap()
            } else {
                post(CHAT, &json)
            };
            let answer = router.ask(request).await;
            assert_eq!((answer.status, answer.header("x-name")), (200, Some(upstream)));
            assert!(answer.body == json, "{} bytes of {}", answer.body.len(), json.len());
            let bypassed = answer.header("cache-status").unwrap().contains("detail=");
            assert_eq!(bypassed, over, "{answer:?}");
        }
    }
    let other = payload(300 << 10);
    let request = Request::post(CHAT).body(Full::new(other.clone()).boxed_unsync()).unwrap();
    assert!(router.ask(request).await.body == other);
}

#[tokio::test]
async fn long_bodies_that_do_not_begin_with_their_model_are_held_up_to_a_bound() {
    let (a, b) = (Upstream::signed().await, Upstream::signed().await);
    let config = format!(
        "default = \"a\"\n[[upstream]]\nname = \"a\"\nurl = \"{}\"\n[[upstream]]\nname = \"b\"\nurl = \"{}\"\nmodels = [\"b-\"]\n",
        a.url(),
        b.url()
    );
    let router = Router::configured(&config, &["--max-request", "1KiB"]).await;
    let filler = "x".repeat(2048);
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = tokio::net::TcpStream::connect(router.app.public).await.unwrap();
        let start = format!("POST {CHAT} HTTP/1.1\r\nhost: h\r\ncontent-length: 100000\r\n\r\n{{\"input\":\"{filler}");
        stream.write_all(start.as_bytes()).await.unwrap();
        held.push(stream);
    }
    // More than arrives at once.
    let long = "x".repeat(1 << 20);
    let ask = || router.ask(post(CHAT, format!("{{\"input\":\"{long}\",\"model\":\"b-1\"}}")));
    let refused = loop {
        let answer = ask().await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &"too_many_long_requests".into()));
    // One that begins with its model is not held, nor one that is short.
    assert_eq!(router.ask(post(CHAT, format!("{{\"model\":\"b-1\",\"input\":\"{filler}\"}}"))).await.status, 200);
    assert_eq!(router.ask(chat("hello")).await.status, 200);
    drop(held);
    while ask().await.status != 200 {
        tokio::task::yield_now().await;
    }
    assert!(a.calls() == 1, "all but the one that names no model of b's went to b");
}

#[tokio::test]
async fn a_body_over_the_limit_streams_and_may_be_answered_before_it_ends() {
    let upstream = Upstream::new(|mut call| async move {
        let (feed, response) = events();
        tokio::spawn(async move {
            while let Some(chunk) = next(&mut call.body).await {
                feed.send(chunk).await;
            }
        });
        response
    })
    .await;
    let router = Router::before(&upstream, &["--max-request", "1KiB"]).await;
    for path in [CHAT, "/v1/other"] {
        let (feed, body) = fed();
        let start = payload(2048);
        feed.send(start.clone()).await;
        let response = router.send(Request::post(path).body(body).unwrap()).await;
        let mut answer = response.into_body();
        let mut got = Vec::new();
        while got.len() < start.len() {
            got.extend_from_slice(&next(&mut answer).await.unwrap());
        }
        assert!(got == start);
        for chunk in ["more", "and more"] {
            feed.send(chunk).await;
            assert_eq!(next(&mut answer).await.unwrap(), chunk);
        }
        drop(feed);
        assert_eq!(next(&mut answer).await, None);
    }
}

#[tokio::test]
async fn draining_lets_open_streams_end_and_stores_them_and_accepts_nobody() {
    let (upstream, mut fed) = streaming().await;
    let router = Router::before(&upstream, &[]).await;
    let public = router.app.public;
    let (response, feed) = tokio::join!(router.send(question()), fed.recv());
    let (mut body, feed) = (response.into_body(), feed.unwrap());
    feed.send(CHUNKS[0]).await;
    assert_eq!(next(&mut body).await.unwrap(), CHUNKS[0]);
    let draining = tokio::spawn(router.app.drain(Duration::from_secs(600)));
    while tokio::net::TcpStream::connect(public).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!draining.is_finished(), "a response is open");
    for chunk in &CHUNKS[1..] {
        feed.send(*chunk).await;
        assert_eq!(next(&mut body).await.unwrap(), *chunk);
    }
    drop(feed);
    assert_eq!(next(&mut body).await, None);
    assert!(draining.await.unwrap());
}

#[tokio::test]
async fn draining_ends_at_its_bound() {
    let (upstream, mut fed) = streaming().await;
    let router = Router::before(&upstream, &[]).await;
    let (response, feed) = tokio::join!(router.send(question()), fed.recv());
    let feed = feed.unwrap();
    feed.send(CHUNKS[0]).await;
    assert!(!router.app.drain(Duration::ZERO).await, "a response was open");
    drop((response, feed));
}
