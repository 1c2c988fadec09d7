use std::{
    future::Future,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tower_response_cache::{
    Clock,
    entry::{Entry, Lifetime, Metadata, Record},
    key::Key,
    store::{
        BoxStore, Memory, Selection, Store,
        contract::{self, Subject},
    },
};

async fn subject() -> Subject<Memory> {
    let clock = Clock::movable();
    Subject::new(Memory::default().clock(clock.clone())).clock(clock)
}

async fn boxed() -> Subject<BoxStore> {
    let clock = Clock::movable();
    Subject::new(BoxStore::new(Memory::default().clock(clock.clone()))).clock(clock)
}

mod contract_of_memory {
    crate::contract!(super::subject());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_boxed_store_keeps_the_contract_too() {
    contract::run(boxed).await;
}

#[tokio::test]
async fn without_a_movable_clock_expiry_is_waited_for() {
    contract::records_expire(&Subject::new(Memory::default())).await;
}

fn key(n: u64) -> Key {
    let mut bytes = [0; 32];
    for (at, part) in bytes.chunks_exact_mut(8).enumerate() {
        part.copy_from_slice(&n.wrapping_add(at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    Key::from_bytes(bytes)
}

fn record(len: usize) -> Record {
    let lifetime = Lifetime::fresh(SystemTime::now(), Duration::from_secs(3600));
    let body = Bytes::from(vec![b'x'; len]).into();
    Record::Response(Arc::new(Entry {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body,
        trailers: None,
        lifetime,
        metadata: Metadata::default(),
    }))
}

#[tokio::test]
async fn a_million_distinct_keys_stay_within_the_bound() {
    const BOUND: u64 = 4 << 20;
    let (store, record) = (Memory::new(BOUND), record(16));
    // Keys that nothing was ever removed of are all of one generation here.
    let generation = store.get(&key(0)).await.unwrap().generation;
    for n in 0..1_000_000 {
        assert!(store.put(&key(n), record.clone(), generation).await.unwrap());
        if n % 1000 == 0 {
            assert!(store.usage().await.unwrap().bytes.unwrap() <= BOUND);
        }
    }
    let usage = store.usage().await.unwrap();
    assert!(usage.bytes.unwrap() <= BOUND);
    assert!(usage.bytes.unwrap() > BOUND / 2, "the bound is used");
}

#[tokio::test]
async fn a_put_over_what_was_evicted_is_accepted() {
    let (store, first) = (Memory::new(1 << 20), key(0));
    let generation = store.get(&first).await.unwrap().generation;
    assert!(store.put(&first, record(16), generation).await.unwrap());
    let seen = store.get(&first).await.unwrap().generation;
    for n in 1.. {
        let generation = store.get(&key(n)).await.unwrap().generation;
        store.put(&key(n), record(1024), generation).await.unwrap();
        // Used as often as the first: what is never used again would always go before it.
        store.get(&key(n)).await.unwrap();
        if store.metadata(&first).await.unwrap().is_none() {
            break;
        }
        assert!(n < 100_000, "nothing is ever evicted");
    }
    assert!(store.put(&first, record(16), seen).await.unwrap());
}

#[tokio::test]
async fn an_entry_that_is_too_large_is_not_stored_and_evicts_nothing() {
    let store = Memory::new(1 << 20);
    for (key, len, stored) in [(key(1), 1024, true), (key(2), 2 << 20, false)] {
        let generation = store.get(&key).await.unwrap().generation;
        assert_eq!(store.put(&key, record(len), generation).await.unwrap(), stored);
    }
    assert!(store.get(&key(1)).await.unwrap().record.is_some());
}

/// Runs code when the last handle of a buffer goes.
struct WhenDropped<F: Fn()>(F);

impl<F: Fn()> AsRef<[u8]> for WhenDropped<F> {
    fn as_ref(&self) -> &[u8] {
        b"body"
    }
}

impl<F: Fn()> Drop for WhenDropped<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// What `Memory` does, it does at the first poll.
fn now<T>(work: impl Future<Output = Result<T, tower_response_cache::Error>>) -> T {
    futures_util::FutureExt::now_or_never(work).unwrap().unwrap()
}

fn record_of(body: Bytes) -> Record {
    Record::Response(Arc::new(Entry {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: body.into(),
        trailers: None,
        lifetime: Lifetime::fresh(SystemTime::now(), Duration::from_secs(600)),
        metadata: Metadata::default(),
    }))
}

/// Of many records that are removed at once, one goes first: whoever looks up another at that moment still sees it, and must not be able to
/// store what it makes of it.
#[test]
fn a_look_up_amid_the_removal_of_many_is_void() {
    for selection in [Selection::All, Selection::Pattern("*".to_owned())] {
        let store = Arc::new(Memory::new(1 << 20));
        let keys = [Key::from_bytes([1; 32]), Key::from_bytes([2; 32])];
        let seen = Arc::new(Mutex::new(Vec::new()));
        for key in keys {
            let (looked_up, seen) = (Arc::downgrade(&store), Arc::clone(&seen));
            let body = Bytes::from_owner(WhenDropped(move || {
                let Some(store) = looked_up.upgrade() else { return };
                for key in keys {
                    let found = now(store.get(&key));
                    if found.record.is_some() {
                        seen.lock().unwrap().push((key, found.generation));
                    }
                }
            }));
            let generation = now(store.get(&key)).generation;
            assert!(now(store.put(&key, record_of(body), generation)));
        }
        assert_eq!(now(store.remove_where(&selection)), 2);
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert!(!seen.is_empty(), "nobody looked while the removal was half done");
        for (key, generation) in seen {
            assert!(!now(store.put(&key, record_of(Bytes::from_static(b"late")), generation)), "{selection:?}");
            assert!(now(store.get(&key)).record.is_none());
        }
    }
}

/// As close together as two threads can come, again and again.
#[test]
fn a_look_up_that_races_a_removal_and_sees_the_record_is_void() {
    const ROUNDS: usize = 1000;
    let store = Arc::new(Memory::new(1 << 20));
    let key = Key::from_bytes([7; 32]);
    let together = Arc::new(Barrier::new(2));
    let seen = Arc::new(Mutex::new(None));
    let looks = std::thread::spawn({
        let (store, together, seen) = (Arc::clone(&store), Arc::clone(&together), Arc::clone(&seen));
        move || {
            for _ in 0..ROUNDS {
                together.wait();
                let mut last = None;
                loop {
                    let found = now(store.get(&key));
                    if found.record.is_none() {
                        break;
                    }
                    last = Some(found.generation);
                }
                *seen.lock().unwrap() = last;
                together.wait();
            }
        }
    });
    let mut met = 0;
    for round in 0..ROUNDS {
        let generation = now(store.get(&key)).generation;
        assert!(now(store.put(&key, record_of(Bytes::from_static(b"before")), generation)));
        together.wait();
        std::thread::yield_now();
        now(store.remove(&key));
        together.wait();
        if let Some(generation) = seen.lock().unwrap().take() {
            let stored = now(store.put(&key, record_of(Bytes::from_static(b"late")), generation));
            assert!(!stored, "stored on the word of a look-up that saw what was removed, in round {round}");
            met += 1;
        }
    }
    looks.join().unwrap();
    assert!(met > 0, "no look-up ever met a removal");
}

/// How often others have their turn while a future goes on.
async fn turns<F: Future>(work: F) -> usize {
    let turns = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&turns);
    let others = tokio::spawn(async move {
        loop {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
    });
    work.await;
    others.abort();
    turns.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_removal_of_many_lets_others_have_their_turn() {
    let (store, record) = (Memory::default(), record(16));
    let generation = store.get(&key(0)).await.unwrap().generation;
    for n in 0..50_000 {
        assert!(store.put(&key(n), record.clone(), generation).await.unwrap());
    }
    assert!(turns(store.remove_where(&Selection::Tag("none".to_owned()))).await >= 10);
    assert!(turns(store.cleanup()).await >= 10);
    assert!(turns(async { assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 50_000) }).await >= 20);
}
