//! Bodies in both directions: limits, trailers, memory, readers of different speed.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

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
    origin::{Origin, data, promised, streamed, text},
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

/// A response of 4 MiB, too long to keep, and two who read it: one at once, the other at a pace of its own.
async fn at_a_pace(pause: Duration) -> Result<usize, tower_response_cache::BoxError> {
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
    let slow = tokio::spawn(async move {
        let (mut body, mut read) = (slow.into_body(), 0);
        loop {
            tokio::time::sleep(pause).await;
            let Some(frame) = body.frame().await else { return Ok(read) };
            read += frame?.into_data().unwrap().len();
        }
    });
    for _ in 0..64 {
        feed.send(data(vec![0; 1 << 16])).await.unwrap();
    }
    drop(feed);
    assert_eq!(fast.await.unwrap(), 4 << 20);
    slow.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_a_long_response_is_cut_off_and_the_others_are_not() {
    // One that does not read at all while the others do, and one that never stops for as long as it may.
    for pause in [3600, 4] {
        let error = at_a_pace(Duration::from_secs(pause)).await.unwrap_err();
        assert!(error.to_string().contains("too slow"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_reads_in_time_what_is_held_back_for_it_is_not_cut_off() {
    assert_eq!(at_a_pace(Duration::from_millis(500)).await.unwrap(), 4 << 20);
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

#[tokio::test]
async fn a_request_with_trailers_leaves_room_for_them() {
    let frames = || vec![Frame::data(Bytes::from_static(b"body")), Frame::trailers(HeaderMap::new())];
    for (frames, exact) in [(vec![frames().remove(0)], Some(4)), (frames(), None)] {
        let cache = layer().layer(tower::service_fn(|request: Request<tower_response_cache::RequestBody<_>>| async move {
            // A known length becomes a `content-length`, after which HTTP/1.1 sends no trailers.
            let hint = request.body().size_hint();
            Ok::<_, Infallible>(text(format!("{} {:?}", hint.lower(), hint.exact())))
        }));
        let answer = cache.oneshot(upload(frames)).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), format!("4 {exact:?}"));
    }
}

/// A body that says that it is over before anyone has asked it for a frame.
struct Over(crate::origin::OriginBody);

impl http_body::Body for Over {
    type Data = Bytes;
    type Error = crate::origin::OriginError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn an_answer_without_a_body_is_known_to_have_none_as_soon_as_its_head_is_there() {
    let (feed_of, mut feeds) = tokio::sync::mpsc::unbounded_channel();
    let over = move |len| {
        let feed_of = feed_of.clone();
        Origin::new(move |_| {
            let (feed, response) = streamed();
            feed_of.send(feed).unwrap();
            async move { Ok(promised(response, len).map(|body| Over(body).boxed_unsync())) }
        })
    };
    // On HTTP/2 its head ends the stream then: what gRPC calls trailers alone.
    let cache = layer().layer(over(0));
    let answer = send(&cache, post("/", "")).await;
    assert!(answer.body().is_end_stream());
    drop(feeds.recv().await);
    crate::calm().await;
    assert_eq!(ask(&cache, post("/", "")).await, (Outcome::Hit, String::new()));
    // One that is said to have a body breaks off instead.
    let cut = layer().layer(over(5));
    let answer = send(&cut, post("/", "")).await;
    assert!(!answer.body().is_end_stream());
    drop(feeds.recv().await);
    answer.into_body().collect().await.unwrap_err();
}

#[tokio::test]
async fn parts_are_put_together_also_where_there_is_no_room_to_keep_them() {
    const FRAME: usize = 8 << 20;
    let large = Bytes::from(vec![0; FRAME]);
    let origin = Origin::new(move |call| {
        let large = large.clone();
        async move {
            let part = |range: &str, body: &'static str| {
                let mut response = text(body);
                *response.status_mut() = http::StatusCode::PARTIAL_CONTENT;
                response.headers_mut().insert("content-range", HeaderValue::from_str(range).unwrap());
                response
            };
            let mut response = match call.head.headers.get("range").map(HeaderValue::as_bytes) {
                Some(b"bytes=0-4") => part("bytes 0-4/10", "01234"),
                Some(b"bytes=5-") => part("bytes 5-9/10", "56789"),
                _ => {
                    // As long as all that is on its way may be together.
                    let frames = futures_util::stream::iter((0..(256 << 20) / FRAME).map(move |_| data(large.clone())));
                    Response::new(StreamBody::new(frames).boxed_unsync())
                }
            };
            response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=60"));
            response.headers_mut().insert("etag", HeaderValue::from_static("\"a\""));
            Ok(response)
        }
    });
    let policy = tower_response_cache::HttpPolicy::shared().max_body(1 << 30);
    let cache = CacheLayer::new(Memory::new(1 << 20), policy).layer(origin.clone());
    let get = |path: &str| Request::get(format!("http://origin{path}")).body(http_body_util::Full::<Bytes>::default()).unwrap();
    let mut first = get("/parts");
    first.headers_mut().insert("range", HeaderValue::from_static("bytes=0-4"));
    assert_eq!(ask(&cache, first).await.1, "01234");
    crate::calm().await;
    let full = send(&cache, get("/full")).await;
    crate::calm().await;
    let both = tokio::spawn({
        let cache = cache.clone();
        async move { ask(&cache, get("/parts")).await.1 }
    });
    crate::until(|| both.is_finished()).await;
    assert_eq!((both.await.unwrap().as_str(), origin.calls()), ("0123456789", 3));
    drop(full);
}

/// A buffer that tells when it is gone.
struct Buffer {
    bytes: Vec<u8>,
    gone: Arc<AtomicBool>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn what_is_stored_keeps_nothing_else_alive_of_the_buffer_that_it_was_read_into() {
    const LEN: usize = 3000;
    for len in [0, 1, LEN] {
        let gone = Arc::new(AtomicBool::new(false));
        let read = Arc::clone(&gone);
        // As a client reads: head and body are parts of one buffer, which may be much larger than they are.
        let origin = Origin::new(move |_| {
            let buffer = Bytes::from_owner(Buffer { bytes: vec![b'x'; 1 << 20], gone: Arc::clone(&read) });
            async move {
                let mut response = text(buffer.slice(100..100 + len));
                response.headers_mut().insert("x-from", HeaderValue::from_maybe_shared(buffer.slice(..100)).unwrap());
                Ok(response)
            }
        });
        let cache = layer().layer(origin);
        let answer = send(&cache, post("/", "")).await;
        assert_eq!(crate::read(answer).await.len(), len);
        crate::until(|| gone.load(Ordering::SeqCst)).await;
        let hit = send(&cache, post("/", "")).await;
        assert_eq!((outcome(&hit), hit.headers()["x-from"].len()), (Outcome::Hit, 100));
        assert_eq!(crate::read(hit).await.len(), len);
    }
}

#[tokio::test]
async fn what_a_validation_says_anew_keeps_no_more_alive_than_that_either() {
    let gone = Arc::new(AtomicBool::new(false));
    let read = Arc::clone(&gone);
    let origin = Origin::new(move |call| {
        let buffer = Bytes::from_owner(Buffer { bytes: vec![b'x'; 1 << 20], gone: Arc::clone(&read) });
        async move {
            let mut response = text(if call.number == 1 { "body" } else { "" });
            if call.number > 1 {
                *response.status_mut() = http::StatusCode::NOT_MODIFIED;
                response.headers_mut().remove("content-length");
                response.headers_mut().insert("x-from", HeaderValue::from_maybe_shared(buffer.slice(..100)).unwrap());
            }
            response.headers_mut().insert("etag", HeaderValue::from_static("\"a\""));
            response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=10"));
            Ok(response)
        }
    });
    let clock = tower_response_cache::Clock::movable();
    let cache = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), tower_response_cache::HttpPolicy::shared())
        .clock(clock.clone())
        .layer(origin);
    let get = || Request::get("http://origin/").body(http_body_util::Full::<Bytes>::default()).unwrap();
    assert_eq!(ask(&cache, get()).await.1, "body");
    crate::calm().await;
    clock.advance(Duration::from_secs(11));
    gone.store(false, Ordering::SeqCst);
    let answer = send(&cache, get()).await;
    assert_eq!((outcome(&answer), answer.headers()["x-from"].len()), (Outcome::Revalidated(Miss::Stale), 100));
    assert_eq!(crate::read(answer).await, "body");
    crate::until(|| gone.load(Ordering::SeqCst)).await;
    assert_eq!(send(&cache, get()).await.headers()["x-from"].len(), 100);
}
