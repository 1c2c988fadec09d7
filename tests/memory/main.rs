//! Memory stays bounded: whatever goes through the cache, the process grows by no more than the bounds that were set, and a little.
//!
//! The resident set is that of the whole process, so this crate has one test.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a test, and each uses a part of what tests share"
)]
#![cfg(target_os = "linux")]

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{ApiPolicy, CacheLayer, RequestBody, Sharing, store::Memory};

const GIGABYTE: u64 = 1 << 30;
const SLACK: u64 = 16 << 20;
const STORE: u64 = 8 << 20;

/// A body of clones of one buffer.
struct Endless {
    left: u64,
    frame: Bytes,
}

impl Endless {
    fn new(len: u64, frame: usize) -> Self {
        static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
        Self { left: len, frame: Bytes::from_static(&ZEROS[..frame]) }
    }
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let len = self.left.min(self.frame.len() as u64);
        self.left -= len;
        Poll::Ready(Some(Ok(Frame::data(self.frame.slice(..len as usize)))))
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// Bytes that the process holds in memory now.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// The most that the process held since the peak was reset.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

async fn drain<B>(mut body: B) -> u64
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        len += frame.unwrap().into_data().map_or(0, |data| data.len() as u64);
    }
    len
}

/// By its path, the upstream is told what to answer; it reads all that it is sent.
async fn upstream<B>(request: Request<RequestBody<B>>) -> Result<Answer, Infallible>
where
    B: Body<Error: std::fmt::Debug> + Send + 'static,
{
    let (head, body) = request.into_parts();
    let read = drain(Box::pin(body)).await;
    let body = match head.uri.path() {
        "/upload" => Full::from(read.to_string()).boxed_unsync(),
        "/download" => Endless::new(10 * GIGABYTE, 1 << 20).boxed_unsync(),
        // As many frames as bytes.
        "/crumbs" => Endless::new(2 << 20, 1).boxed_unsync(),
        _ => Full::new(Bytes::from_static(&[b'x'; 8192])).boxed_unsync(),
    };
    Ok(Response::builder().version(http::Version::HTTP_2).body(body).unwrap())
}

#[tokio::test]
async fn the_process_grows_by_little_more_than_its_bounds_whatever_goes_through_it() {
    let layer = CacheLayer::new(Memory::new(STORE), ApiPolicy::new(Sharing::Shared).max_body(1 << 20));
    let handle = layer.handle();
    let cache = layer.layer(service_fn(upstream));
    let ask = |path: &str, body| {
        let (cache, request) = (cache.clone(), Request::post(format!("http://a{path}")).body(body).unwrap());
        async move { cache.oneshot(request).await.unwrap() }
    };
    // Once through everything, for what is allocated once.
    drain(ask("/", Endless::new(1 << 20, 1 << 16)).await.into_body()).await;
    let before = resident();
    let grown = |what: &str, bound: u64| {
        let grown = peak().saturating_sub(before);
        assert!(grown < bound + SLACK, "{what}: grown by {} KiB at its peak", grown >> 10);
    };

    reset_peak();
    let answer = ask("/upload", Endless::new(10 * GIGABYTE, 1 << 20)).await;
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), (10 * GIGABYTE).to_string());
    grown("an upload of 10 GB", 0);

    reset_peak();
    assert_eq!(drain(ask("/download", Endless::new(0, 1)).await.into_body()).await, 10 * GIGABYTE);
    grown("a response of 10 GB", 0);

    reset_peak();
    assert_eq!(drain(ask("/crumbs", Endless::new(0, 1)).await.into_body()).await, 2 << 20);
    grown("a response in single bytes", 0);

    // A request body in single bytes is within its limit of 1 MiB, and so is what it takes.
    reset_peak();
    let answer = ask("/upload", Endless::new(1 << 20, 1)).await;
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), (1 << 20).to_string());
    grown("an upload in single bytes", 0);

    reset_peak();
    // A million reach the store in a test of its own.
    for i in 0..8_000 {
        let answer = ask(&format!("/{i}"), Endless::new(0, 1)).await;
        assert_eq!(drain(answer.into_body()).await, 8192);
    }
    grown("many keys", STORE);
    let usage = handle.stats().await.store.unwrap();
    assert!(usage.bytes.unwrap() <= STORE && usage.entries.unwrap() > 500, "{usage:?}");

    // Nothing is left under way.
    assert!(handle.shutdown(std::time::Duration::from_secs(30)).await);
}
