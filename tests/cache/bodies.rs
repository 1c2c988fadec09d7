//! Bodies in both directions: limits, trailers, memory, readers of different speed.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    ApiPolicy, CacheLayer, Sharing,
    status::{Miss, Outcome},
    store::Memory,
};

use crate::{
    ask, layer,
    origin::{Origin, data, streamed, text},
    outcome, post, send,
};

type Upload = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn upload(frames: Vec<Frame<Bytes>>) -> Request<Upload> {
    let frames: Vec<_> = frames.into_iter().map(Ok).collect();
    Request::post("http://origin/").body(StreamBody::new(futures_util::stream::iter(frames))).unwrap()
}

#[tokio::test]
async fn a_request_body_reaches_the_inner_service_byte_for_byte_whatever_its_length() {
    for len in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let origin = Origin::new(move |call| async move {
            assert!(call.body.iter().enumerate().all(|(i, byte)| *byte == (i % 251) as u8));
            assert_eq!(call.trailers.unwrap()["x-sum"], "7");
            Ok(text(call.body.len().to_string()))
        });
        let bytes: Bytes = (0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>().into();
        let mut frames: Vec<_> = bytes.chunks(65_537).map(|chunk| Frame::data(Bytes::copy_from_slice(chunk))).collect();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        frames.push(Frame::trailers(trailers));
        let answer = send(&layer().layer(origin), upload(frames)).await;
        let expected = if len > 1 << 20 {
            "tower-response-cache; fwd=bypass; detail=request-too-large"
        } else {
            "tower-response-cache; fwd=miss; fwd-status=200; stored"
        };
        assert_eq!(answer.headers()["cache-status"], expected, "{len}");
        assert_eq!(crate::read(answer).await, len.to_string());
    }
}

#[tokio::test]
async fn a_request_body_that_breaks_off_breaks_off_for_the_inner_service_too() {
    let body = StreamBody::new(futures_util::stream::iter([data("half"), Err("cut".into())]));
    let request = Request::post("http://origin/").body(body).unwrap();
    let error = layer().layer(Origin::signed()).oneshot(request).await.unwrap_err();
    assert_eq!(error.to_string(), "cut");
}

#[tokio::test]
async fn a_request_over_the_limit_is_streamed_and_not_collected() {
    // An endless upload: whoever tried to read it whole would not return.
    let endless = futures_util::stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0; 65_536]))));
    let request = Request::post("http://origin/").body(StreamBody::new(endless)).unwrap();
    let cache = layer().layer(tower::service_fn(|request: Request<tower_response_cache::RequestBody<_>>| async move {
        let mut body = std::pin::pin!(request.into_body());
        let mut len = 0;
        while len < 64 << 20 {
            len += body.as_mut().frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
        Ok::<_, std::convert::Infallible>(text(len.to_string()))
    }));
    let answer = cache.oneshot(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), (64 << 20).to_string());
}

#[tokio::test]
async fn an_endless_response_is_streamed_in_bounded_memory_and_stops_when_nobody_reads() {
    let made = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let origin = {
        let made = std::sync::Arc::clone(&made);
        Origin::new(move |_| {
            let made = std::sync::Arc::clone(&made);
            async move {
                let frames = futures_util::stream::repeat_with(move || {
                    made.fetch_add(65_536, std::sync::atomic::Ordering::SeqCst);
                    data(Bytes::from_static(&[0; 65_536]))
                });
                Ok(Response::builder().header("transfer-encoding", "chunked").body(StreamBody::new(frames).boxed_unsync()).unwrap())
            }
        })
    };
    let policy = ApiPolicy::new(Sharing::Shared).max_body(1 << 20);
    let cache = CacheLayer::new(Memory::new(64 << 20), policy).layer(origin.clone());
    let mut body = send(&cache, post("/", "")).await.into_body();
    let mut read = 0;
    while read < 64 << 20 {
        read += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
        let ahead = made.load(std::sync::atomic::Ordering::SeqCst) - read;
        assert!(ahead <= 4 << 20, "{ahead} bytes ahead of the only reader");
    }
    drop(body);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let when_left = made.load(std::sync::atomic::Ordering::SeqCst);
    crate::calm().await;
    assert_eq!(made.load(std::sync::atomic::Ordering::SeqCst), when_left, "the upstream is not read for nobody");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_a_long_response_is_cut_off_and_the_others_are_not() {
    let (feed_of, mut feeds) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::new(move |_| {
        let feed_of = feed_of.clone();
        async move {
            let (feed, response) = streamed();
            feed_of.send(feed).unwrap();
            Ok(response)
        }
    });
    let policy = ApiPolicy::new(Sharing::Shared).max_body(1 << 20);
    let cache = CacheLayer::new(Memory::new(64 << 20), policy).layer(origin);
    let slow = send(&cache, post("/", "")).await;
    let feed = feeds.recv().await.unwrap();
    let fast = send(&cache, post("/", "")).await;
    assert_eq!(outcome(&fast), Outcome::Collapsed);
    let fast = tokio::spawn(async move { fast.into_body().collect().await.unwrap().to_bytes().len() });
    for _ in 0..64 {
        feed.send(data(vec![0; 1 << 16])).await.unwrap();
    }
    drop(feed);
    assert_eq!(fast.await.unwrap(), 4 << 20);
    let error = slow.into_body().collect().await.unwrap_err();
    assert!(error.to_string().contains("too slow"), "{error}");
}

#[tokio::test]
async fn the_length_of_an_answer_is_known_where_the_upstream_knew_it() {
    let cache = layer().layer(Origin::new(|_| async { Ok(text("0123456789")) }));
    let answer = send(&cache, post("/", "")).await;
    assert_eq!(answer.body().size_hint().exact(), Some(10));
    assert_eq!(ask(&cache, post("/", "")).await.1, "0123456789");
    let empty = layer().layer(Origin::new(|_| async { Ok(text("")) }));
    let answer = send(&empty, post("/", "")).await;
    assert_eq!(outcome(&answer), Outcome::Miss(Miss::Absent));
    assert_eq!(answer.body().size_hint().exact(), Some(0));
}

#[tokio::test]
async fn many_long_responses_that_nobody_reads_share_one_bound() {
    const FRAME: usize = 1 << 16;
    let made = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let origin = Origin::new({
        let made = std::sync::Arc::clone(&made);
        move |_| {
            let made = std::sync::Arc::clone(&made);
            async move {
                let frames = futures_util::stream::repeat_with(move || {
                    made.fetch_add(FRAME, std::sync::atomic::Ordering::SeqCst);
                    data(Bytes::from_static(&[0; FRAME]))
                });
                Ok(Response::builder().header("transfer-encoding", "chunked").body(StreamBody::new(frames).boxed_unsync()).unwrap())
            }
        }
    });
    let cache = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).max_body(1 << 16)).layer(origin.clone());
    let mut answers = Vec::new();
    for i in 0..600 {
        answers.push(send(&cache, post(&format!("/{i}"), "")).await);
    }
    // Until the writers stand still.
    let mut before = usize::MAX;
    while before != made.load(std::sync::atomic::Ordering::SeqCst) {
        before = made.load(std::sync::atomic::Ordering::SeqCst);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    // 256 MiB for all, and of each response that came after that what a connection would hold without a cache, and one frame under way.
    assert!(before <= (256 << 20) + 600 * 3 * FRAME, "{} MiB are held for readers that do not read", before >> 20);
    // They all go on as soon as they are read.
    for answer in answers.iter_mut().rev().take(3) {
        let mut body = std::pin::pin!(answer.body_mut());
        let mut read = 0;
        while read < 4 << 20 {
            read += body.as_mut().frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
    }
}
