//! Callers that leave, at every point at which they can.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http_body_util::{BodyExt, StreamBody};
use tower::{Layer, ServiceExt};
use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, observe::Event, policy::Abandoned, status::Outcome, store::Memory};

use crate::{
    ask,
    origin::{Origin, data},
    post, until,
};

/// Lets a future be polled `left` times more, and then no more.
struct Limited<F> {
    future: Pin<Box<F>>,
    left: usize,
}

impl<F: Future> Future for Limited<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        let answer = self.future.as_mut().poll(cx).map(Some);
        if answer.is_pending() && self.left == 0 { Poll::Ready(None) } else { answer }
    }
}

const WHOLE: &str = "frame 0;frame 1;frame 2;frame 3;";

/// An upstream that yields at every step, so that there are many polls to leave after.
fn halting() -> Origin {
    Origin::new(|call| async move {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        let frames = futures_util::stream::unfold(0, |i| async move {
            tokio::task::yield_now().await;
            (i < 4).then(|| (data(format!("frame {i};")), i + 1))
        });
        let body = StreamBody::new(Box::pin(frames)).boxed_unsync();
        let response = http::Response::builder().header("transfer-encoding", "chunked").header("x-call", call.number);
        Ok(response.body(body).unwrap())
    })
}

#[tokio::test]
async fn a_caller_that_leaves_after_any_poll_leaves_nothing_behind() {
    for abandoned in [Abandoned::Cancel, Abandoned::Finish { within: std::time::Duration::from_secs(600) }] {
        for polls in 1..60 {
            let records = Arc::new(AtomicUsize::new(0));
            let origin = halting();
            let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).abandoned(abandoned)).observer({
                let records = Arc::clone(&records);
                move |event: &Event<'_>| {
                    records.fetch_add(usize::from(matches!(event, Event::Request(_))), Ordering::SeqCst);
                }
            });
            let handle = layer.handle();
            let cache = layer.layer(origin.clone());
            let whole = {
                let cache = cache.clone();
                async move { cache.oneshot(post("/", "")).await.unwrap().into_body().collect().await.unwrap().to_bytes() }
            };
            let left = Limited { future: Box::pin(whole), left: polls }.await;
            assert!(left.is_none_or(|body| body == WHOLE));
            until(|| records.load(Ordering::SeqCst) == 1).await;

            // The next request succeeds, whole, whether it joins, hits or starts anew.
            assert_eq!(ask(&cache, post("/", "")).await.1, WHOLE, "after {polls} polls");
            until(|| records.load(Ordering::SeqCst) == 2).await;
            assert!(handle.shutdown(std::time::Duration::from_secs(60)).await, "every task ended by itself");
        }
    }
}

#[tokio::test]
async fn two_callers_that_leave_at_any_two_points_leave_nothing_behind() {
    for first in (1..40).step_by(3) {
        for second in (1..40).step_by(3) {
            let cache = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).abandoned(Abandoned::Cancel));
            let handle = cache.handle();
            let cache = cache.layer(halting());
            let leave = |polls| {
                let cache = cache.clone();
                let whole = async move { cache.oneshot(post("/", "")).await.unwrap().into_body().collect().await.unwrap().to_bytes() };
                Limited { future: Box::pin(whole), left: polls }
            };
            futures_util::future::join(pin!(leave(first)), pin!(leave(second))).await;
            assert_eq!(ask(&cache, post("/", "")).await.1.len(), 32);
            assert!(handle.shutdown(std::time::Duration::from_secs(60)).await);
        }
    }
}

/// Lets tasks in the background come to their ends.
async fn settle() {
    for _ in 0..60 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_follower_that_leaves_after_any_poll_disturbs_nobody() {
    for abandoned in [Abandoned::Cancel, Abandoned::Finish { within: std::time::Duration::from_secs(600) }] {
        for polls in 0..40 {
            let origin = halting();
            let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).abandoned(abandoned));
            let handle = layer.handle();
            let cache = layer.layer(origin.clone());
            let whole = |cache: tower_response_cache::Cache<Origin, Memory, ApiPolicy>| async move {
                cache.oneshot(post("/", "")).await.unwrap().into_body().collect().await.unwrap().to_bytes()
            };
            let leader = tokio::spawn(whole(cache.clone()));
            until(|| origin.calls() == 1).await;
            Limited { future: Box::pin(whole(cache.clone())), left: polls }.await;
            assert_eq!(leader.await.unwrap(), WHOLE, "the follower left after {polls} polls");
            assert_eq!(ask(&cache, post("/", "")).await.1, WHOLE);
            assert_eq!(origin.calls(), 1);
            assert!(handle.shutdown(std::time::Duration::from_secs(60)).await);
        }
    }
}

#[tokio::test]
async fn a_caller_that_leaves_in_any_frame_of_a_body_leaves_nothing_behind() {
    // From the store and from the tape, after each frame and before the first.
    for frames in 0..6 {
        for hit in [false, true] {
            let records = Arc::new(AtomicUsize::new(0));
            let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared)).observer({
                let records = Arc::clone(&records);
                move |event: &Event<'_>| {
                    records.fetch_add(usize::from(matches!(event, Event::Request(_))), Ordering::SeqCst);
                }
            });
            let handle = layer.handle();
            let cache = layer.layer(halting());
            if hit {
                ask(&cache, post("/", "")).await;
                settle().await;
            }
            let asked = usize::from(hit);
            let mut body = cache.clone().oneshot(post("/", "")).await.unwrap().into_body();
            for _ in 0..frames {
                body.frame().await.transpose().unwrap();
            }
            drop(body);
            assert_eq!(records.load(Ordering::SeqCst), asked + 1, "once, at the drop at the latest");
            assert_eq!(ask(&cache, post("/", "")).await.1, WHOLE, "after {frames} frames");
            assert!(handle.shutdown(std::time::Duration::from_secs(60)).await);
        }
    }
}

#[tokio::test]
async fn a_caller_that_leaves_while_a_stale_answer_is_refreshed_does_not_end_the_refresh() {
    let clock = tower_response_cache::Clock::movable();
    for polls in 1..12 {
        let policy = ApiPolicy::new(Sharing::Shared)
            .ttl(std::time::Duration::from_secs(10))
            .stale_while_revalidate(std::time::Duration::from_secs(100))
            .abandoned(Abandoned::Cancel);
        let origin = halting();
        let layer = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), policy).clock(clock.clone());
        let handle = layer.handle();
        let cache = layer.layer(origin.clone());
        ask(&cache, post("/", "")).await;
        settle().await;
        clock.advance(std::time::Duration::from_secs(20));
        let whole = {
            let cache = cache.clone();
            async move { cache.oneshot(post("/", "")).await.unwrap().into_body().collect().await.unwrap().to_bytes() }
        };
        Limited { future: Box::pin(whole), left: polls }.await;
        settle().await;
        let (outcome, body) = ask(&cache, post("/", "")).await;
        assert_eq!((outcome, body.as_str(), origin.calls()), (Outcome::Hit, WHOLE, 2), "after {polls} polls");
        assert!(handle.shutdown(std::time::Duration::from_secs(60)).await);
    }
}
