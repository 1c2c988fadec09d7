//! One upstream call for identical requests in flight, and everything that can become of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::{Barrier, Semaphore};
use tower::{Layer, Service, ServiceExt};
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheOptions, Mode, Sharing,
    policy::Abandoned,
    status::{Miss, Outcome},
    store::{Memory, Selection},
};

use crate::{
    ask, layer,
    origin::{Feed, Origin, data, streamed, text},
    outcome, post, read, send,
    store::{Fault, Scripted},
    until,
};

const MISS: Outcome = Outcome::Miss(Miss::Absent);

/// An origin whose calls wait at a gate, and the gate.
fn gated(
    answer: impl Fn(usize) -> Result<http::Response<crate::origin::OriginBody>, &'static str> + Send + Sync + 'static,
) -> (Origin, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let answer = Arc::new(answer);
    let origin = {
        let gate = Arc::clone(&gate);
        Origin::new(move |call| {
            let (gate, answer) = (Arc::clone(&gate), Arc::clone(&answer));
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(answer(call.number)?)
            }
        })
    };
    (origin, gate)
}

/// An origin whose answers a test feeds by hand.
fn fed() -> (Origin, tokio::sync::mpsc::UnboundedReceiver<Feed>) {
    let (feeds, fed) = tokio::sync::mpsc::unbounded_channel();
    let origin = Origin::new(move |_| {
        let feeds = feeds.clone();
        async move {
            let (feed, response) = streamed();
            feeds.send(feed).unwrap();
            Ok(response)
        }
    });
    (origin, fed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_identical_misses_make_one_call_and_all_have_the_answer() {
    let (origin, gate) = gated(|n| Ok(text(format!("answer {n}"))));
    let cache = layer().layer(origin.clone());
    let barrier = Arc::new(Barrier::new(1001));
    let tasks: Vec<_> = (0..1000)
        .map(|_| {
            let (cache, barrier) = (cache.clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                barrier.wait().await;
                ask(&cache, post("/", "same")).await
            })
        })
        .collect();
    barrier.wait().await;
    gate.add_permits(1000);
    for task in tasks {
        assert_eq!(task.await.unwrap().1, "answer 1");
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn different_keys_do_not_wait_for_one_another() {
    let (origin, mut feeds) = fed();
    let cache = layer().layer(origin);
    let _stuck = send(&cache, post("/stuck", "")).await;
    let _feed = feeds.recv().await.unwrap();
    let free = send(&cache, post("/free", "")).await;
    let feed = feeds.recv().await.unwrap();
    feed.send(data("done")).await.unwrap();
    drop(feed);
    assert_eq!(read(free).await, "done");
}

#[tokio::test]
async fn a_late_joiner_reads_from_the_first_frame_while_the_answer_goes_on() {
    let (origin, mut feeds) = fed();
    let cache = layer().layer(origin.clone());
    let mut first = send(&cache, post("/", "")).await.into_body();
    let feed = feeds.recv().await.unwrap();
    feed.send(data("one ")).await.unwrap();
    assert_eq!(first.frame().await.unwrap().unwrap().into_data().unwrap(), "one ");

    let late = send(&cache, post("/", "")).await;
    assert_eq!(outcome(&late), Outcome::Collapsed);
    let mut late = late.into_body();
    assert_eq!(late.frame().await.unwrap().unwrap().into_data().unwrap(), "one ");
    feed.send(data("two")).await.unwrap();
    drop(feed);
    // The first reader has not moved on; the late one does not wait for it.
    assert_eq!(late.collect().await.unwrap().to_bytes(), Bytes::from("two"));
    assert_eq!(first.collect().await.unwrap().to_bytes(), Bytes::from("two"));
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn a_leader_that_leaves_disturbs_nobody() {
    for leaves in ["before the head", "after the head", "in the body"] {
        let gate = Arc::new(Semaphore::new(0));
        let (feeds, mut fed) = tokio::sync::mpsc::unbounded_channel();
        let origin = {
            let gate = Arc::clone(&gate);
            Origin::new(move |_| {
                let (gate, feeds) = (Arc::clone(&gate), feeds.clone());
                async move {
                    gate.acquire().await.unwrap().forget();
                    let (feed, response) = streamed();
                    feeds.send(feed).unwrap();
                    Ok(response)
                }
            })
        };
        let cache = layer().layer(origin.clone());
        let leader = tokio::spawn({
            let cache = cache.clone();
            async move { send(&cache, post("/", "")).await }
        });
        until(|| origin.calls() == 1).await;
        let waiter = tokio::spawn({
            let cache = cache.clone();
            async move { ask(&cache, post("/", "")).await }
        });
        tokio::task::yield_now().await;
        if leaves == "before the head" {
            leader.abort();
            assert!(leader.await.unwrap_err().is_cancelled());
            gate.add_permits(1);
            let feed = fed.recv().await.unwrap();
            feed.send(data("whole ")).await.unwrap();
            feed.send(data("answer")).await.unwrap();
        } else {
            gate.add_permits(1);
            let mut answer = leader.await.unwrap().into_body();
            let feed = fed.recv().await.unwrap();
            feed.send(data("whole ")).await.unwrap();
            if leaves == "in the body" {
                answer.frame().await.unwrap().unwrap();
            }
            drop(answer);
            feed.send(data("answer")).await.unwrap();
        }
        assert_eq!(waiter.await.unwrap().1, "whole answer", "{leaves}");
        assert_eq!(origin.calls(), 1, "{leaves}");
    }
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_finished_and_stored_or_cancelled_as_the_policy_says() {
    for (abandoned, stored) in [(Abandoned::Finish { within: Duration::from_secs(600) }, true), (Abandoned::Cancel, false)] {
        let (origin, mut feeds) = fed();
        let cache = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).abandoned(abandoned)).layer(origin.clone());
        drop(send(&cache, post("/", "")).await);
        let feed = feeds.recv().await.unwrap();
        if stored {
            feed.send(data("paid for")).await.unwrap();
            drop(feed);
            until_hit(&cache).await;
            assert_eq!(ask(&cache, post("/", "")).await, (Outcome::Hit, "paid for".to_owned()));
            assert_eq!(origin.calls(), 1);
        } else {
            // The upstream sees that its body is no longer read.
            feed.closed().await;
            let _again = send(&cache, post("/", "")).await;
            assert_eq!(origin.calls(), 2);
        }
    }
}

async fn until_hit(cache: &tower_response_cache::Cache<Origin, Memory, ApiPolicy>) {
    for _ in 0..1000 {
        if outcome(&send(cache, post("/", "")).await) == Outcome::Hit {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("nothing was stored");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_ends_within_its_bound() {
    let (origin, mut feeds) = fed();
    let policy = ApiPolicy::new(Sharing::Shared).abandoned(Abandoned::Finish { within: Duration::from_secs(30) });
    let cache = CacheLayer::new(Memory::new(1 << 20), policy).layer(origin);
    drop(send(&cache, post("/", "")).await);
    let feed = feeds.recv().await.unwrap();
    feed.send(data("and then nothing")).await.unwrap();
    feed.closed().await;
}

#[tokio::test]
async fn when_the_leader_fails_one_waiter_takes_over_and_the_next_burst_runs_in_parallel() {
    let (origin, gate) = gated(|n| if n == 1 { Err("the first fails") } else { Ok(text(format!("answer {n}"))) });
    let cache = layer().layer(origin.clone());
    let leader = tokio::spawn({
        let cache = cache.clone();
        async move { cache.oneshot(post("/", "")).await }
    });
    until(|| origin.calls() == 1).await;
    let waiters: Vec<_> = (0..10)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { ask(&cache, post("/", "")).await.1 })
        })
        .collect();
    // All of them wait by now: this runtime has one thread, and they were polled in turn.
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(100);
    assert_eq!(leader.await.unwrap().unwrap_err().to_string(), "the first fails", "the error is the upstream's own");
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), "answer 2");
    }
    assert_eq!(origin.calls(), 2);
}

#[tokio::test]
async fn when_every_call_fails_nobody_queues_behind_the_others() {
    let (origin, gate) = gated(|_| Err("down"));
    let cache = layer().layer(origin.clone());
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.oneshot(post("/", "")).await })
        })
        .collect();
    until(|| origin.calls() == 1).await;
    gate.add_permits(1);
    until(|| origin.calls() == 2).await;
    gate.add_permits(1);
    // Two have failed, one after the other; the rest is under way at once.
    until(|| origin.calls() == 10).await;
    gate.add_permits(100);
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap_err().to_string(), "down");
    }

    // And so is the next burst.
    let gate_closed = gate.available_permits();
    gate.forget_permits(gate_closed);
    let burst: Vec<_> = (0..5)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.oneshot(post("/", "")).await })
        })
        .collect();
    until(|| origin.calls() == 15).await;
    gate.add_permits(5);
    for task in burst {
        task.await.unwrap().unwrap_err();
    }
}

#[tokio::test]
async fn when_the_leader_panics_it_panics_and_the_waiters_go_on() {
    let gate = Arc::new(Semaphore::new(0));
    let origin = {
        let gate = Arc::clone(&gate);
        Origin::new(move |call| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                assert_ne!(call.number, 1, "the first panics");
                Ok(text("answer"))
            }
        })
    };
    let cache = layer().layer(origin.clone());
    let leader = tokio::spawn({
        let cache = cache.clone();
        async move { ask(&cache, post("/", "")).await }
    });
    until(|| origin.calls() == 1).await;
    let waiter = tokio::spawn({
        let cache = cache.clone();
        async move { ask(&cache, post("/", "")).await }
    });
    tokio::task::yield_now().await;
    gate.add_permits(10);
    assert!(leader.await.unwrap_err().is_panic());
    assert_eq!(waiter.await.unwrap().1, "answer");
}

#[tokio::test]
async fn an_answer_that_is_not_stored_is_shared_with_those_who_wait_and_no_others() {
    let (origin, gate) = gated(|n| {
        let mut response = text(format!("busy {n}"));
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        Ok(response)
    });
    let cache = layer().layer(origin.clone());
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { ask(&cache, post("/", "")).await.1 })
        })
        .collect();
    until(|| origin.calls() == 1).await;
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(1);
    for task in tasks {
        assert_eq!(task.await.unwrap(), "busy 1");
    }
    let burst: Vec<_> = (0..5)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { ask(&cache, post("/", "")).await.1 })
        })
        .collect();
    until(|| origin.calls() == 6).await;
    gate.add_permits(5);
    for task in burst {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_for_one_caller_is_not_shared_with_those_who_wait() {
    let (origin, gate) = gated(|n| {
        let mut response = text(format!("yours {n}"));
        response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
        Ok(response)
    });
    let cache = layer().layer(origin.clone());
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { ask(&cache, post("/", "")).await.1 })
        })
        .collect();
    until(|| origin.calls() == 1).await;
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(1);
    // All others are under way at once.
    until(|| origin.calls() == 10).await;
    gate.add_permits(9);
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_patience_of_a_waiter_ends_and_its_own_answer_does_not_replace_the_leaders() {
    let (slow, fast) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let origin = {
        let slow = Arc::clone(&slow);
        let done = Arc::clone(&fast);
        Origin::new(move |call| {
            let (slow, done) = (Arc::clone(&slow), Arc::clone(&done));
            async move {
                if call.number == 1 {
                    slow.acquire().await.unwrap().forget();
                } else {
                    // The one who lost patience is slower still: its answer comes when the leader's is stored.
                    until(|| done.load(Ordering::SeqCst) > 0).await;
                }
                Ok(text(format!("answer {}", call.number)))
            }
        })
    };
    let cache = layer().patience(Duration::from_secs(5)).layer(origin.clone());
    let leader = tokio::spawn({
        let cache = cache.clone();
        async move { ask(&cache, post("/", "")).await }
    });
    until(|| origin.calls() == 1).await;
    let waiter = tokio::spawn({
        let cache = cache.clone();
        async move { ask(&cache, post("/", "")).await }
    });
    until(|| origin.calls() == 2).await;
    slow.add_permits(1);
    assert_eq!(leader.await.unwrap(), (MISS, "answer 1".to_owned()));
    until_hit(&cache).await;
    fast.store(1, Ordering::SeqCst);
    assert_eq!(waiter.await.unwrap(), (MISS, "answer 2".to_owned()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(ask(&cache, post("/", "")).await, (Outcome::Hit, "answer 1".to_owned()));
}

#[tokio::test]
async fn different_credentials_share_neither_a_flight_nor_an_answer() {
    let (origin, gate) = gated(|n| Ok(text(format!("answer {n}"))));
    let cache = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::PerCredential)).layer(origin.clone());
    let with = |token: &str| {
        let mut request = post("/", "");
        request.headers_mut().insert("authorization", HeaderValue::from_str(token).unwrap());
        request
    };
    let tasks: Vec<_> = ["Bearer a", "Bearer b", "Bearer a", "Bearer b"]
        .map(|token| {
            let (cache, request) = (cache.clone(), with(token));
            tokio::spawn(async move { (token, ask(&cache, request).await.1) })
        })
        .into();
    until(|| origin.calls() == 2).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(2);
    let mut answers = std::collections::HashMap::new();
    for task in tasks {
        let (token, answer) = task.await.unwrap();
        let known = answers.entry(token).or_insert_with(|| answer.clone());
        assert_eq!(*known, answer);
    }
    assert_eq!(origin.calls(), 2);
    assert_ne!(answers["Bearer a"], answers["Bearer b"]);
}

#[tokio::test]
async fn what_is_invalidated_while_it_is_fetched_is_not_stored_and_not_joined() {
    let (origin, mut feeds) = fed();
    let layer = layer();
    let handle = layer.handle();
    let cache = layer.layer(origin.clone());
    let old = send(&cache, post("/", "")).await;
    let feed = feeds.recv().await.unwrap();
    let key = handle.keys(&post_bytes("/")).unwrap()[0];
    for selection in [None, Some(Selection::All)] {
        match selection {
            None => handle.invalidate_key(&key).await.unwrap(),
            Some(selection) => handle.invalidate(&selection).await.unwrap(),
        };
    }
    // Whoever asks after that does not get the old answer.
    let new = send(&cache, post("/", "")).await;
    assert_eq!(outcome(&new), MISS);
    let new_feed = feeds.recv().await.unwrap();
    feed.send(data("old")).await.unwrap();
    drop(feed);
    assert_eq!(read(old).await, "old");
    new_feed.send(data("new")).await.unwrap();
    drop(new_feed);
    assert_eq!(read(new).await, "new");
    until_hit(&cache).await;
    assert_eq!(ask(&cache, post("/", "")).await, (Outcome::Hit, "new".to_owned()));
}

fn post_bytes(path: &str) -> http::Request<Bytes> {
    http::Request::post(format!("http://origin{path}")).header("content-type", "text/plain").body(Bytes::new()).unwrap()
}

#[tokio::test]
async fn a_late_writer_never_replaces_a_newer_answer() {
    let (slow, permits) = (Scripted::new(Memory::new(1 << 20)), Arc::new(Semaphore::new(0)));
    // The first writer is stopped in front of the store, and wakes up when another has stored.
    let slow_store = slow.clone().on_put(Fault::Waits(Arc::clone(&permits)));
    let origin = Origin::signed();
    let late = CacheLayer::new(slow_store, ApiPolicy::new(Sharing::Shared)).layer(origin.clone());
    let prompt = CacheLayer::new(slow, ApiPolicy::new(Sharing::Shared)).layer(origin.clone());
    assert_eq!(ask(&late, post("/", "")).await.1, "call 1 to / with ");
    assert_eq!(ask(&prompt, post("/", "")).await.1, "call 2 to / with ");
    until_stored(&prompt).await;
    permits.add_permits(1);
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert_eq!(ask(&prompt, post("/", "")).await, (Outcome::Hit, "call 2 to / with ".to_owned()));
    }
}

async fn until_stored<St: tower_response_cache::store::Store>(cache: &tower_response_cache::Cache<Origin, St, ApiPolicy>) {
    for _ in 0..1000 {
        if ask(cache, post("/", "")).await.0 == Outcome::Hit {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("nothing was stored");
}

#[tokio::test]
async fn a_store_that_fails_or_panics_costs_no_request() {
    for fault in [Fault::Fails, Fault::Panics] {
        for (get, put) in [(fault.clone(), Fault::None), (Fault::None, fault.clone())] {
            let origin = Origin::signed();
            let store = Scripted::new(Memory::new(1 << 20)).on_get(get).on_put(put);
            let cache = CacheLayer::new(store, ApiPolicy::new(Sharing::Shared)).layer(origin.clone());
            for _ in 0..3 {
                let (_, answer) = ask(&cache, post("/", "")).await;
                assert!(answer.starts_with("call "));
            }
        }
    }
}

#[tokio::test]
async fn the_service_is_ready_whatever_the_inner_service_is() {
    // `Origin` panics if it is called without having been ready; a pending inner service must not keep a hit waiting.
    let origin = Origin::signed();
    let mut cache = layer().layer(origin);
    read(ServiceExt::<http::Request<http_body_util::Full<Bytes>>>::ready(&mut cache).await.unwrap().call(post("/", "")).await.unwrap())
        .await;
    until_hit(&cache).await;
}

/// Who could not join a call may yet have read its answer, and is to find it stored.
#[tokio::test]
async fn an_answer_that_nobody_could_join_is_found_by_whoever_has_read_it() {
    let permits = Arc::new(Semaphore::new(0));
    let store = Scripted::new(Memory::new(1 << 20)).on_put(Fault::Waits(Arc::clone(&permits)));
    let origin = Origin::signed();
    let cache = CacheLayer::new(store.clone(), ApiPolicy::new(Sharing::Shared)).layer(origin.clone());
    let mut refresh = post("/", "");
    refresh.extensions_mut().insert(CacheOptions::new().mode(Mode::WriteOnly));
    assert_eq!(read(send(&cache, refresh).await).await, "call 1 to / with ");
    until(|| store.puts.load(Ordering::SeqCst) == 1).await;
    let gets = store.gets.load(Ordering::SeqCst);
    let next = tokio::spawn({
        let cache = cache.clone();
        async move { ask(&cache, post("/", "")).await }
    });
    // It has looked, and found nothing.
    until(|| store.gets.load(Ordering::SeqCst) > gets).await;
    permits.add_permits(1);
    assert_eq!(next.await.unwrap(), (Outcome::Hit, "call 1 to / with ".to_owned()));
    assert_eq!(origin.calls(), 1);
}
