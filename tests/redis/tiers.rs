//! Memory in front of Redis: it is right within its bound, whatever changes behind it and whatever becomes of the word of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tower_response_cache::store::{
    Selection, Store, Tiered,
    contract::{self, Subject},
};

use crate::{
    body, fill, key, patient,
    proxy::{Proxy, Way},
    record,
    server::Server,
};

fn tiered(url: impl Into<String>) -> Tiered {
    Tiered::new(patient(url).build().unwrap(), 8 << 20)
}

/// With word of changes coming.
async fn tracked(url: impl Into<String>) -> Tiered {
    let store = tiered(url);
    store.get(&key(999)).await.unwrap();
    crate::until(async || store.status().tracked).await;
    store
}

async fn read(store: &Tiered, number: u64) -> Option<String> {
    body(store.get(&key(number)).await.unwrap())
}

/// Reads until the record is served from memory.
async fn warm(store: &Tiered, number: u64) {
    crate::until(async || {
        let before = store.status().hits;
        assert!(read(store, number).await.is_some());
        store.status().hits > before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tiered_store_keeps_the_contract() {
    let server = Server::start();
    let made = AtomicUsize::new(0);
    contract::run(async || {
        let prefix = format!("contract-{}", made.fetch_add(1, Ordering::SeqCst));
        let store = Tiered::new(patient(server.url()).prefix(prefix).lease(Some(crate::contract::LEASE)).build().unwrap(), 64 << 20);
        store.get(&key(0)).await.unwrap();
        crate::until(async || store.status().tracked).await;
        Subject::new(store).with_live_streams()
    })
    .await;
}

#[tokio::test]
async fn a_record_that_was_read_is_served_without_asking_redis_again() {
    let server = Server::start();
    // The proof holds for longer than a busy machine may take.
    let store = tiered(server.url()).heartbeat(Duration::from_secs(20));
    store.get(&key(999)).await.unwrap();
    crate::until(async || store.status().tracked).await;
    assert!(fill(store.redis(), &key(1), record("one")).await);
    warm(&store, 1).await;
    let () = server.run(&["CONFIG", "RESETSTAT"]);
    for _ in 0..100 {
        assert_eq!(read(&store, 1).await.as_deref(), Some("one"));
    }
    assert!(!server.run::<String>(&["INFO", "commandstats"]).contains("cmdstat_getrange"));
    // And so it is while Redis does not answer, for as long as the last proof holds.
    server.freeze();
    assert_eq!(read(&store, 1).await.as_deref(), Some("one"));
    server.thaw();
}

#[tokio::test]
async fn whatever_another_does_to_a_record_is_seen() {
    let server = Server::start();
    let other = patient(server.url()).build().unwrap();
    let store = tracked(server.url()).await;
    let name = {
        assert!(fill(&other, &key(1), record("x")).await);
        server.records("t").remove(0)
    };
    let removed = |selection| {
        let other = other.clone();
        async move { other.remove_where(&selection).await.map(|_| ()).unwrap() }
    };
    for what in ["replace", "remove", "tag", "all", "del", "expire", "flush"] {
        assert!(fill(&other, &key(1), crate::tagged("before", &["tag"], &[])).await);
        warm(&store, 1).await;
        let mut expected = None;
        match what {
            "replace" => {
                assert!(fill(&other, &key(1), record("after")).await);
                expected = Some("after");
            }
            "remove" => assert!(other.remove(&key(1)).await.unwrap()),
            "tag" => removed(Selection::Tag("tag".into())).await,
            "all" => removed(Selection::All).await,
            "del" => server.run(&["DEL", &name]),
            "expire" => server.run(&["PEXPIRE", &name, "1"]),
            _ => server.run(&["FLUSHALL"]),
        }
        crate::until(async || read(&store, 1).await.as_deref() == expected).await;
        // And never again.
        for _ in 0..100 {
            assert_eq!(read(&store, 1).await.as_deref(), expected, "{what}");
        }
    }
}

#[tokio::test]
async fn evicted_records_go_from_memory_too() {
    let server = Server::start();
    let store = tracked(server.url()).await;
    assert!(fill(store.redis(), &key(1), record("one")).await);
    warm(&store, 1).await;
    let () = server.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "1"]);
    let _ = redis::cmd("SET").arg("other").arg("x").query::<()>(&mut server.admin());
    let () = server.run(&["CONFIG", "SET", "maxmemory", "0"]);
    crate::until(async || read(&store, 1).await.is_none()).await;
}

#[tokio::test]
async fn when_the_connection_of_word_breaks_nothing_old_is_served_and_it_is_made_anew() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let other = patient(server.url()).build().unwrap();
    let store = tracked(proxy.url()).await;
    assert!(fill(&other, &key(1), record("before")).await);
    warm(&store, 1).await;
    proxy.set(Way::Refuse);
    proxy.reset();
    crate::until(async || !store.status().tracked).await;
    assert!(fill(&other, &key(1), record("after")).await);
    proxy.set(Way::Open);
    crate::until(async || store.status().tracked && store.get(&key(1)).await.is_ok()).await;
    assert_eq!(read(&store, 1).await.as_deref(), Some("after"));
    warm(&store, 1).await;
}

#[tokio::test]
async fn when_word_stops_coming_unnoticed_old_records_are_served_no_longer_than_the_bound() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let other = patient(server.url()).build().unwrap();
    let heartbeat = Duration::from_millis(100);
    let store = Tiered::new(patient(proxy.url()).build().unwrap(), 8 << 20).heartbeat(heartbeat);
    store.get(&key(999)).await.unwrap();
    crate::until(async || store.status().tracked).await;
    assert!(fill(&other, &key(1), record("before")).await);
    warm(&store, 1).await;
    // Half open: nobody says a word, and the kernel has none to say for minutes.
    proxy.forget();
    assert!(fill(&other, &key(1), record("after")).await);
    crate::until(async || !store.status().tracked).await;
    assert!(store.tier_serves_nothing(&key(1)).await);
}

/// Does the tier have nothing to say of a key? Told without waiting for a Redis that does not answer.
trait ServesNothing {
    async fn tier_serves_nothing(&self, key: &tower_response_cache::key::Key) -> bool;
}

impl ServesNothing for Tiered {
    async fn tier_serves_nothing(&self, key: &tower_response_cache::key::Key) -> bool {
        let hits = self.status().hits;
        let looked = tokio::time::timeout(Duration::from_millis(50), self.get(key)).await;
        let body = looked.ok().and_then(Result::ok).and_then(body);
        self.status().hits == hits && body.as_deref() != Some("before")
    }
}

#[tokio::test]
async fn without_the_permission_to_track_records_are_kept_for_a_moment_only() {
    let server = Server::start();
    let () = server.run(&["ACL", "SETUSER", "cache", "on", ">password", "~*", "+@all", "-client|tracking"]);
    let store = tiered(format!("redis://cache:password@127.0.0.1:{}/0", server.port()));
    let other = patient(server.url()).build().unwrap();
    assert!(fill(&other, &key(1), record("before")).await);
    warm(&store, 1).await;
    assert!(!store.status().tracked);
    assert!(fill(&other, &key(1), record("after")).await);
    crate::until(async || read(&store, 1).await.as_deref() == Some("after")).await;
}

#[tokio::test]
async fn the_published_permissions_are_enough_for_memory_in_front() {
    let server = Server::start();
    let permissions = crate::settings::PERMISSIONS;
    let source = include_str!("../../src/store/redis/mod.rs").replace("\n//! ", " ");
    assert!(source.contains(&format!("{permissions}`; to hear of changes, as memory in front of it (`Tiered`) and those who wait for another process do, `+client|tracking +ping` too.")));
    let mut command = vec!["ACL", "SETUSER", "cache", "on", ">password", "~t:*", "+client|tracking", "+ping"];
    command.extend(permissions.split(' '));
    let () = server.run(&command);
    let store = tracked(format!("redis://cache:password@127.0.0.1:{}/0", server.port())).await;
    assert!(fill(store.redis(), &key(1), record("one")).await);
    warm(&store, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_removal_has_returned_nothing_older_is_seen_in_its_process_and_soon_in_others() {
    let server = Server::start();
    let store = tracked(server.url()).await;
    // Its proof holds for longer than a busy machine may take: it goes by word alone.
    let other = tiered(server.url()).heartbeat(Duration::from_secs(20));
    other.get(&key(999)).await.unwrap();
    crate::until(async || other.status().tracked).await;
    let done = Arc::new(AtomicBool::new(false));
    // Readers, who keep what they read in memory as fast as it is written.
    let readers: Vec<_> = [&store, &store, &other, &other]
        .map(|store| {
            let (store, done) = (store.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::SeqCst) {
                    let _ = read(&store, 1).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .into_iter()
        .collect();
    let (start, long) = (std::time::Instant::now(), tight_loop());
    let mut rounds = 0;
    for round in 0u32.. {
        if round >= 300 && start.elapsed() >= long {
            break;
        }
        rounds += 1;
        let seen = store.get(&key(1)).await.unwrap().generation;
        assert!(store.put(&key(1), record(round.to_string()), seen).await.unwrap());
        assert_eq!(read(&store, 1).await, Some(round.to_string()), "an answer from before");
        match round % 10 {
            0 => assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 1),
            _ => assert!(store.remove(&key(1)).await.unwrap()),
        }
        assert_eq!(read(&store, 1).await, None, "an answer from before its removal");
        if round % 50 == 0 {
            crate::until(async || read(&other, 1).await.is_none()).await;
        }
    }
    // Word comes in order: once that of this has come, that of all before has.
    assert!(fill(store.redis(), &key(2), record("last")).await);
    warm(&other, 2).await;
    assert!(store.remove(&key(2)).await.unwrap());
    crate::until(async || read(&other, 2).await.is_none()).await;
    crate::until(async || read(&other, 1).await.is_none()).await;
    for _ in 0..1000 {
        assert_eq!(read(&other, 1).await, None, "another process's answer from before its removal");
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
    println!("{rounds} rounds in {:.0?}", start.elapsed());
}

/// For how long to write and remove at least, in seconds: `TIGHT_LOOP_SECONDS=60 cargo test --test redis nothing_older -- --nocapture`.
fn tight_loop() -> Duration {
    let seconds = std::env::var("TIGHT_LOOP_SECONDS").ok().map(|seconds| seconds.parse().expect("a number of seconds"));
    Duration::from_secs(seconds.unwrap_or(0))
}

#[tokio::test]
async fn memory_stays_within_its_bound() {
    let server = Server::start();
    let store = Tiered::new(patient(server.url()).build().unwrap(), 1 << 20);
    for number in 0..200 {
        assert!(fill(store.redis(), &key(number), record(vec![b'x'; 32 << 10])).await);
        assert!(read(&store, number).await.is_some());
        assert!(store.status().bytes <= 1 << 20);
    }
    // Larger than all of it.
    assert!(fill(store.redis(), &key(500), record(vec![b'x'; 2 << 20])).await);
    assert!(read(&store, 500).await.is_some());
    let status = store.status();
    assert!(status.entries > 5 && status.bytes <= 1 << 20, "{status:?}");
}

#[tokio::test]
async fn after_shutdown_no_connection_is_left_and_memory_is_empty() {
    let server = Server::start();
    let store = tracked(server.url()).await;
    assert!(fill(store.redis(), &key(1), record("one")).await);
    warm(&store, 1).await;
    store.shutdown().await;
    assert_eq!(store.status().entries, 0);
    crate::until(async || server.run::<String>(&["CLIENT", "LIST"]).lines().count() == 1).await;
}
