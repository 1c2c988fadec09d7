//! Operations that are given up disturb no other.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
};

use tower_response_cache::store::{LinkState, Redis, Store};

use crate::{body, fill, key, patient, record, server::Server};

const READERS: u64 = 64;

/// Polls a future that often, and then drops it. Says whether it came to its end.
async fn given_up_after<F>(polls: u32, future: F) -> bool
where
    F: Future,
{
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cancellations_cross_no_replies() {
    let server = Server::start();
    cross_no_replies(&server.url()).await;
}

pub async fn cross_no_replies(url: &str) {
    // One connection for all.
    let store: Redis = patient(url).max_connections(1).build().unwrap();
    for number in 0..READERS {
        assert!(fill(&store, &key(number), record(format!("value {number}"))).await);
    }
    let (done, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> = (0..READERS)
        .map(|number| {
            let (store, done, reads) = (store.clone(), Arc::clone(&done), Arc::clone(&reads));
            tokio::spawn(async move {
                while !done.load(Ordering::SeqCst) {
                    let found = body(store.get(&key(number)).await.unwrap());
                    assert_eq!(found, Some(format!("value {number}")));
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let cancellers: Vec<_> = (0..16)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let (mut finished, mut cancelled) = (0, 0);
                while cancelled < 625 {
                    let random = fastrand::u64(..);
                    let polls = 1 + (random >> 8) as u32 % 3;
                    let other = key(READERS + random % 16);
                    let ended = match random % 5 {
                        0..=2 => given_up_after(polls, store.get(&key(random % READERS))).await,
                        3 => given_up_after(polls, store.remove(&other)).await,
                        _ => given_up_after(polls, fill(&store, &other, record("other"))).await,
                    };
                    if ended {
                        finished += 1
                    } else {
                        cancelled += 1
                    }
                    if random.is_multiple_of(16) {
                        tokio::task::yield_now().await;
                    }
                }
                finished
            })
        })
        .collect();
    let mut finished = 0;
    for canceller in cancellers {
        finished += canceller.await.unwrap();
    }
    assert!(finished > 0, "some got through, too");
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
    assert!(reads.load(Ordering::SeqCst) >= READERS);
    let status = store.status();
    assert_eq!((status.state, status.in_flight, status.opened), (LinkState::Closed, 0, 0));
}

#[tokio::test]
async fn who_waits_for_a_connection_and_leaves_does_not_end_the_attempt() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(!given_up_after(1, store.get(&key(1))).await);
    assert_eq!(store.status().in_flight, 0);
    crate::until(async || server.run::<String>(&["CLIENT", "LIST"]).lines().count() == 2).await;
    // The next one of that connection uses it: two connections for look-ups, so two attempts in all.
    for _ in 0..10 {
        store.get(&key(1)).await.unwrap();
    }
    assert_eq!(store.status().dials, 2);
}

#[tokio::test]
async fn operations_that_all_are_given_up_do_not_pile_up_on_a_server_that_does_not_answer() {
    let server = Server::start();
    let store = patient(server.url()).max_connections(1).build().unwrap();
    store.get(&key(1)).await.unwrap();
    server.freeze();
    // Nobody waits for long enough to see a timeout.
    for _ in 0..1100 {
        let key = key(1);
        let mut operation = std::pin::pin!(store.get(&key));
        assert!(!given_up_after(1, operation.as_mut()).await);
        // It is sent.
        tokio::task::yield_now().await;
    }
    server.thaw();
    crate::until(async || store.get(&key(1)).await.is_ok()).await;
    assert!(store.status().dials > 1, "the connection was made anew: {:?}", store.status());
    assert_eq!(store.status().in_flight, 0);
}
