//! However Redis fails, no request does; and when it is back, so are hits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tower_response_cache::{
    status::Outcome,
    store::{LinkState, Redis, RedisBuilder, Store},
};

use crate::{
    Service, ask, fill, key, layer,
    origin::Origin,
    patient, post,
    proxy::{Proxy, Way},
    record,
    server::{Server, free_port},
};

/// A store that does not wait for long.
pub fn impatient(url: impl Into<String>) -> RedisBuilder {
    Redis::builder(url).prefix("t").read_deadline(Duration::from_millis(50)).write_deadline(Duration::from_millis(50))
}

pub fn cache(store: &Redis) -> Service {
    tower::Layer::layer(&layer(store.clone()), Origin::signed())
}

/// Requests from several tasks until dropped, each of which has to be answered with what it asked for.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    hits: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub fn on(cache: &Service) -> Self {
        let (stop, answered, hits): (Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let tasks = (0..8)
            .map(|task| {
                let (cache, stop, answered, hits) = (cache.clone(), Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&hits));
                tokio::spawn(async move {
                    for round in 0.. {
                        if stop.load(Ordering::SeqCst) {
                            return;
                        }
                        let path = format!("/{}", (task + round) % 40);
                        let (outcome, body) = ask(&cache, post(&path)).await;
                        assert!(body.ends_with(&format!(" to {path} with ")), "{body} to {path}");
                        hits.fetch_add(u64::from(outcome == Outcome::Hit), Ordering::SeqCst);
                        answered.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        Self { stop, answered, hits, tasks }
    }

    /// Waits for that many more answers.
    pub async fn answers(&self, count: u64) {
        let so_far = self.answered.load(Ordering::SeqCst);
        crate::until(async || self.answered.load(Ordering::SeqCst) >= so_far + count).await;
    }

    /// Waits for that many more hits.
    pub async fn hits(&self, count: u64) {
        let so_far = self.hits.load(Ordering::SeqCst);
        crate::until(async || self.hits.load(Ordering::SeqCst) >= so_far + count).await;
    }

    /// Ends it. Panics if any request failed.
    pub async fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_redis_that_is_absent_or_swallows_all_fails_no_request_and_soon_is_not_asked() {
    let server = Server::start();
    let hole = Proxy::to(server.port()).await;
    hole.set(Way::BlackHole);
    let refusing = format!("redis://127.0.0.1:{}/0", free_port());
    // With a password, making the connection hangs, too.
    let hanging = hole.url().replace("//", "//:secret@");
    for url in [refusing, "redis://no-such-host.invalid/0".to_owned(), hole.url(), hanging] {
        let store = impatient(&url).connect_deadline(Duration::from_millis(100)).build().unwrap();
        let cache = cache(&store);
        for number in 1.. {
            let (outcome, body) = ask(&cache, post("/")).await;
            assert!(matches!(outcome, Outcome::Miss(_)) && body.starts_with(&format!("call {number} ")), "{body}");
            if store.status().state != LinkState::Closed {
                break;
            }
            assert!(number < 100, "{url} never opened the breaker: {:?}", store.status());
        }
        // From now on at once: nothing of the link moves, but for probes.
        let dials = store.status().dials;
        for number in 0..1000 {
            assert!(store.get(&key(number)).await.unwrap_err().is_unavailable());
        }
        let status = store.status();
        assert!(status.opened == 1 && status.dials - dials < 10, "{status:?}");
        let health = store.health().unwrap();
        assert!(health.link != "closed" && health.last_error.is_some() && health.outages == 1, "{health:?}");
        store.shutdown().await;
    }
}

#[tokio::test]
async fn every_operation_ends_within_its_deadline_when_connecting_hangs_and_one_attempt_is_made() {
    let server = Server::start();
    let hole = Proxy::to(server.port()).await;
    hole.set(Way::BlackHole);
    let store = impatient(hole.url().replace("//", "//:secret@"))
        .max_connections(1)
        .breaker_threshold(1000)
        .connect_deadline(Duration::from_secs(60))
        .build()
        .unwrap();
    let operations: Vec<_> = (0..100)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.get(&key(number)).await.unwrap_err().is_timeout() })
        })
        .collect();
    for operation in operations {
        assert!(operation.await.unwrap());
    }
    assert_eq!((store.status().dials, store.status().in_flight), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_under_load_and_started_again_fails_no_request_and_serves_hits_again() {
    let mut server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let store = impatient(proxy.url()).build().unwrap();
    let load = Load::on(&cache(&store));
    load.hits(500).await;
    server.kill();
    crate::until(async || store.status().state != LinkState::Closed).await;
    load.answers(2000).await;
    server.restart();
    load.hits(500).await;
    load.end().await;
    assert_eq!((store.status().state, store.status().in_flight), (LinkState::Closed, 0));
    // Two for look-ups, two for all else, and perhaps one for word of changes.
    assert!(proxy.open() <= 5, "{} connections", proxy.open());
    store.shutdown().await;
    crate::until(async || proxy.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_or_pauses_fails_no_request_and_operations_do_not_pile_up() {
    let server = Server::start();
    let store = impatient(server.url()).max_operations(4).build().unwrap();
    let load = Load::on(&cache(&store));
    load.hits(500).await;
    let stop = || server.freeze();
    let go_on = || server.thaw();
    // It ends by itself: while all clients are paused, none can end it.
    let pause = || server.run::<()>(&["CLIENT", "PAUSE", "1500", "ALL"]);
    let unpause = || ();
    for (harm, heal) in [(&stop as &dyn Fn(), &go_on as &dyn Fn()), (&pause, &unpause)] {
        harm();
        crate::until(async || store.status().state != LinkState::Closed).await;
        load.answers(2000).await;
        // Four look-ups and four others at most.
        assert!(store.status().in_flight <= 8);
        heal();
        load.hits(500).await;
    }
    load.end().await;
    crate::until(async || store.status().in_flight == 0).await;
}

#[tokio::test]
async fn a_half_open_link_is_made_anew_and_a_bare_connection_manager_is_not() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    // The breaker takes no part in this.
    let store = impatient(proxy.url()).breaker_threshold(10_000).build().unwrap();
    crate::until(async || store.get(&key(1)).await.is_ok() && store.get(&key(1)).await.is_ok()).await;
    let timeout = Duration::from_millis(50);
    let config = ConnectionManagerConfig::new().set_response_timeout(Some(timeout)).set_connection_timeout(Some(timeout));
    let mut bare = ConnectionManager::new_with_config(redis::Client::open(proxy.url()).unwrap(), config).await.unwrap();
    let ping = redis::cmd("PING");
    assert!(ping.query_async::<String>(&mut bare).await.is_ok());

    proxy.forget();
    let mut failures = 0;
    while store.get(&key(1)).await.is_err() {
        failures += 1;
        assert!(failures < 30, "{:?}", store.status());
    }
    assert!(failures > 0, "the fault took effect");
    // Three per connection that the store has for look-ups, and as many while the machine is busy.
    for _ in 0..30 {
        assert!(
            ping.query_async::<String>(&mut bare).await.is_err(),
            "the control recovered: the store's own rebuilding is needed no more"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flapping_server_and_five_hundred_tasks_make_few_attempts_at_connections() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let store = patient(proxy.url()).build().unwrap();
    let (stop, tried) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..500)
        .map(|number| {
            let (store, stop, tried) = (store.clone(), Arc::clone(&stop), Arc::clone(&tried));
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let _ = store.get(&key(number)).await;
                    tried.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    const FLAPS: u64 = 4;
    for _ in 0..FLAPS {
        crate::until(async || store.status().state == LinkState::Closed).await;
        proxy.set(Way::Refuse);
        proxy.reset();
        crate::until(async || store.status().state != LinkState::Closed).await;
        // So long it is down.
        tokio::time::sleep(Duration::from_millis(600)).await;
        proxy.set(Way::Open);
    }
    crate::until(async || store.status().state == LinkState::Closed).await;
    stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    // Per flap: until the breaker opens, a handful; then probes at growing intervals.
    let (dials, tried) = (store.status().dials, tried.load(Ordering::SeqCst));
    assert!(dials <= 4 + FLAPS * 20, "{dials} attempts");
    assert!(tried > 10 * dials, "{tried} operations were tried");
}

#[tokio::test]
async fn connections_that_the_server_closed_while_idle_cost_nothing() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("there")).await);
    for round in 2..10 {
        let () = server.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        for _ in 0..2 {
            assert!(store.get(&key(1)).await.unwrap().record.is_some());
        }
        let () = server.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert!(fill(&store, &key(round), record("there")).await);
        let () = server.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        assert!(store.remove(&key(round)).await.unwrap());
    }
    assert_eq!((store.status().state, store.status().opened), (LinkState::Closed, 0));
}

#[tokio::test]
async fn a_large_write_does_not_delay_look_ups() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let store = patient(proxy.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("small")).await);
    let seen = store.get(&key(2)).await.unwrap().generation;
    // The write is stuck on its way; look-ups are not.
    proxy.hold_after(100_000);
    let writing = tokio::spawn({
        let store = store.clone();
        async move { store.put(&key(2), record(vec![b'x'; 5 << 20]), seen).await }
    });
    proxy.held().await;
    for _ in 0..20 {
        assert!(store.get(&key(1)).await.unwrap().record.is_some());
    }
    assert!(!writing.is_finished());
    proxy.release();
    assert!(writing.await.unwrap().unwrap());
}
