//! Several processes, one cache: one upstream call per question, whoever asks, stops or dies.

use std::{
    collections::HashMap,
    process::{Child, Command, Stdio},
    time::Duration,
};

use http::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tower::Layer;
use tower_response_cache::{
    Cache, CacheLayer,
    status::Outcome,
    store::{Claim, Redis, RedisBuilder, Store, Tiered},
};

use crate::{
    ask,
    clusters::Cluster,
    key, layer,
    origin::{Call, Origin, text},
    patient, post,
    server::Server,
};

/// An origin that counts its calls in Redis, and answers when it is let.
fn counting(server: &str, name: &'static str, hold: impl Fn(&str) -> bool + Send + Sync + 'static) -> Origin {
    answering(server, name, StatusCode::OK, hold)
}

fn answering(server: &str, name: &'static str, status: StatusCode, hold: impl Fn(&str) -> bool + Send + Sync + 'static) -> Origin {
    let client = redis::Client::open(server).unwrap();
    Origin::new(move |call: Call| {
        let (client, path) = (client.clone(), call.head.uri.path().to_owned());
        let hold = hold(&path);
        async move {
            let mut connection = crate::unhurried(&client).await;
            let () = redis::cmd("HINCRBY").arg("calls").arg(&path).arg(1).query_async(&mut connection).await.unwrap();
            while hold && !redis::cmd("EXISTS").arg("go").query_async::<bool>(&mut connection).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let mut answer = text(format!("{path} by {name}"));
            *answer.status_mut() = status;
            Ok(answer)
        }
    })
}

pub fn calls(server: &Server) -> HashMap<String, u64> {
    server.run(&["HGETALL", "calls"])
}

fn member(url: &str, name: &'static str, lease: Duration, hold: impl Fn(&str) -> bool + Send + Sync + 'static) -> (crate::Service, Redis) {
    counted_member(url, url, name, lease, hold)
}

/// One whose calls are counted elsewhere.
fn counted_member(
    url: &str,
    counted: &str,
    name: &'static str,
    lease: Duration,
    hold: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> (crate::Service, Redis) {
    let store = patient(url).lease(Some(lease)).build().unwrap();
    (layer(store.clone()).layer(counting(counted, name, hold)), store)
}

pub const LONG: Duration = Duration::from_secs(60);

// Child processes: this very program, told by its environment to run one test that is a worker then.

const TOLD: &str = "TRC_TEST_WORKER";

/// Reaped when dropped.
pub struct Worker(Child);

impl Worker {
    pub fn start(task: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["fleet::a_worker_asks_for_each_key_and_gets_its_answer", "--exact", "--nocapture"]).env(TOLD, task);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Signals it, and waits until it does nothing more.
    pub async fn halt(&mut self, signal: Signal) {
        self.signal(signal);
        if signal == Signal::KILL {
            self.0.wait().unwrap();
        } else {
            let state = format!("/proc/{}/stat", self.0.id());
            crate::until(async || std::fs::read_to_string(&state).unwrap().contains(") T ")).await;
        }
    }

    pub async fn end(mut self) {
        let status = loop {
            match self.0.try_wait().unwrap() {
                Some(status) => break status,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        assert!(status.success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_asks_for_each_key_and_gets_its_answer() {
    let server;
    let task = match std::env::var(TOLD) {
        Ok(task) => task,
        // Not told, it works for itself.
        Err(_) => {
            server = Server::start();
            format!("burst {} 10", server.url())
        }
    };
    let words: Vec<&str> = task.split(' ').collect();
    let number = || words[2].parse().unwrap();
    // Calls are counted on a server of their own, if one is named.
    let (url, counted) = (words[1], words.get(3).copied().unwrap_or(words[1]));
    match words[0] {
        "burst" => burst(url, counted, number()).await,
        "hold" => {
            let (cache, store) = counted_member(url, counted, "the holder", Duration::from_millis(number()), |_| true);
            let (_, body) = ask(&cache, post("/held")).await;
            assert_eq!(body, "/held by the holder");
            store.shutdown().await;
        }
        "lead" => crate::live::lead(&words).await,
        "follow" => crate::live::follow(&words).await,
        other => panic!("what is {other}?"),
    }
}

/// Asks for all keys, in an order of its own, each three times at once.
async fn burst(url: &str, counted: &str, count: u64) {
    let (cache, store) = counted_member(url, counted, "a worker", LONG, |_| false);
    let mut paths: Vec<String> = (0..count).map(|number| format!("/{number}")).collect();
    fastrand::shuffle(&mut paths);
    for paths in paths.chunks(16) {
        let asking = paths.iter().flat_map(|path| [path; 3]).map(|path| {
            let (cache, path) = (cache.clone(), path.clone());
            tokio::spawn(async move {
                let (_, body) = ask(&cache, post(&path)).await;
                assert_eq!(body, format!("{path} by a worker"));
            })
        });
        for asking in asking.collect::<Vec<_>>() {
            asking.await.unwrap();
        }
    }
    // Leases are given back in the background.
    layer_is_done(&store).await;
}

async fn layer_is_done(store: &Redis) {
    crate::until(async || store.status().in_flight == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_and_a_thousand_keys_make_one_call_per_key() {
    let server = Server::start();
    eight_make_one_call_per_key(&server.url(), &server, 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_that_share_a_cluster_make_one_call_per_key() {
    let (cluster, counted) = (Cluster::start(), Server::start());
    eight_make_one_call_per_key(&cluster.url(), &counted, 500).await;
    assert!(cluster.primaries.iter().all(|primary| primary.records("t").len() > 50));
}

async fn eight_make_one_call_per_key(url: &str, counted: &Server, keys: u64) {
    let workers: Vec<_> = (0..8).map(|_| Worker::start(&format!("burst {url} {keys} {}", counted.url()))).collect();
    for worker in workers {
        worker.end().await;
    }
    let mut histogram: HashMap<u64, u64> = HashMap::new();
    for calls in calls(counted).into_values() {
        *histogram.entry(calls).or_default() += 1;
    }
    assert_eq!(histogram, HashMap::from([(1, keys)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_who_waits_is_woken_and_goes_on_when_the_holder_is_killed() {
    let (cluster, counted) = (Cluster::start(), Server::start());
    let member = |name, hold| counted_member(&cluster.url(), &counted.url(), name, LONG, move |_| hold);
    let [(one, _one), (two, store)] = [member("one", true), member("two", false)];
    for number in 0..6 {
        let path: &'static str = ["/0", "/1", "/2", "/3", "/4", "/5"][number];
        let () = counted.run(&["DEL", "go"]);
        let leading = tokio::spawn({
            let one = one.clone();
            async move { ask(&one, post(path)).await }
        });
        crate::until(async || calls(&counted).get(path) == Some(&1)).await;
        // Who waits asks again once a second at last; word comes sooner, from whichever primary has the key.
        let waiting = tokio::spawn({
            let two = two.clone();
            async move { ask(&two, post(path)).await }
        });
        crate::until(async || store.status().in_flight == 0 && !waiting.is_finished()).await;
        let () = counted.run(&["SET", "go", "1"]);
        assert!(matches!(leading.await.unwrap(), (Outcome::Miss(_), body) if body == format!("{path} by one")));
        assert_eq!(waiting.await.unwrap().1, format!("{path} by one"));
    }
    assert!(calls(&counted).values().all(|calls| *calls == 1));

    let () = counted.run(&["DEL", "go"]);
    let holder = Worker::start(&format!("hold {} 300 {}", cluster.url(), counted.url()));
    crate::until(async || calls(&counted).get("/held") == Some(&1)).await;
    let waiting = tokio::spawn(async move { ask(&two, post("/held")).await });
    holder.signal(Signal::KILL);
    assert_eq!(waiting.await.unwrap().1, "/held by two");
    assert_eq!(calls(&counted)["/held"], 2);
    layer_is_done(&store).await;
}

#[tokio::test]
async fn without_leases_each_process_makes_its_own_call() {
    let server = Server::start();
    let (go, gone) = watch::channel(false);
    let asking = (0..3).map(|_| {
        let store = patient(server.url()).lease(None).build().unwrap();
        let mut gone = gone.clone();
        let url = server.url();
        tokio::spawn(async move {
            let origin = counting(&url, "each", |_| true);
            let cache = layer(store).layer(origin);
            gone.wait_for(|gone| *gone).await.unwrap();
            ask(&cache, post("/")).await
        })
    });
    let asking: Vec<_> = asking.collect();
    go.send_replace(true);
    crate::until(async || calls(&server).get("/") == Some(&3)).await;
    let () = server.run(&["SET", "go", "1"]);
    for asking in asking {
        assert!(matches!(asking.await.unwrap().0, Outcome::Miss(_)));
    }
}

#[tokio::test]
async fn when_the_holder_is_killed_another_goes_on() {
    let server = Server::start();
    let holder = Worker::start(&format!("hold {} 300", server.url()));
    crate::until(async || calls(&server).get("/held") == Some(&1)).await;
    let (cache, store) = member(&server.url(), "another", LONG, |_| false);
    let waiting = tokio::spawn(async move { ask(&cache, post("/held")).await });
    // It asks for the lease, and waits.
    crate::until(async || claims(&server) > 2).await;
    assert!(!waiting.is_finished());
    holder.signal(Signal::KILL);
    assert_eq!(waiting.await.unwrap().1, "/held by another");
    assert_eq!(calls(&server)["/held"], 2);
    layer_is_done(&store).await;
}

/// How often a lease was asked for, about.
fn claims(server: &Server) -> u64 {
    let stats: String = server.run(&["INFO", "commandstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")).unwrap_or("0,");
    line.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_holder_that_was_stopped_beyond_its_lease_does_not_replace_what_came_since() {
    let server = Server::start();
    let holder = Worker::start(&format!("hold {} 300", server.url()));
    crate::until(async || calls(&server).get("/held") == Some(&1)).await;
    holder.signal(Signal::STOP);
    let (cache, store) = member(&server.url(), "another", LONG, |_| false);
    assert_eq!(ask(&cache, post("/held")).await.1, "/held by another");
    crate::until(async || server.records("t").iter().any(|name| !name.ends_with(":lease"))).await;
    let () = server.run(&["SET", "go", "1"]);
    holder.signal(Signal::CONT);
    // It has its own answer for its own caller, and stores it nowhere.
    holder.end().await;
    assert_eq!(ask(&cache, post("/held")).await, (Outcome::Hit, "/held by another".to_owned()));
    assert_eq!(calls(&server)["/held"], 2);
    layer_is_done(&store).await;
}

// Two caches with stores of their own stand for two processes.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_woken_by_the_answer_and_a_lease_lasts_as_long_as_its_call() {
    let server = Server::start();
    let lease = Duration::from_secs(1);
    let [(_, one), (handle, two)] = ["one", "two"].map(|name| {
        let store = patient(server.url()).lease(Some(lease)).live(None).build().unwrap();
        let layer = layer(store);
        (layer.handle(), layer.layer(counting(&server.url(), name, |_| true)))
    });
    let leading = tokio::spawn(async move { ask(&one, post("/")).await });
    crate::until(async || calls(&server).get("/") == Some(&1)).await;
    let waiting = tokio::spawn(async move { ask(&two, post("/")).await });
    // Long enough to have expired several times, were it not renewed.
    let name = lease_names(&server).remove(0);
    let token: Vec<u8> = server.run(&["GET", &name]);
    tokio::time::sleep(lease * 5 / 2).await;
    assert_eq!(server.run::<Vec<u8>>(&["GET", &name]), token);
    let () = server.run(&["SET", "go", "1"]);
    assert!(matches!(leading.await.unwrap(), (Outcome::Miss(_), body) if body == "/ by one"));
    assert_eq!(waiting.await.unwrap(), (Outcome::Hit, "/ by one".to_owned()));
    assert!(handle.stats().await.saved_time < lease, "who waited for almost all of a call has saved no more than the rest");
    assert_eq!(calls(&server)["/"], 1);
    crate::until(async || lease_names(&server).is_empty()).await;
}

fn lease_names(server: &Server) -> Vec<String> {
    server.run(&["KEYS", "t:*:lease"])
}

#[tokio::test]
async fn a_lease_that_nobody_may_know_of_is_short_and_one_that_is_renewed_is_long() {
    let server = Server::start();
    let lasts = Duration::from_secs(36_000);
    let store = patient(server.url()).lease(Some(lasts)).build().unwrap();
    let seen = store.get(&key(1)).await.unwrap().generation;
    let Claim::Granted(token, renew_in) = store.claim(&key(1), seen, LONG).await.unwrap() else { panic!("nobody has it") };
    let left = || Duration::from_millis(server.run(&["PTTL", &lease_names(&server)[0]]));
    assert!(left() <= lasts / 10 && renew_in < lasts / 10);
    // Whoever does not hear that it is asked whether it lives says so unasked.
    assert!(store.renew(&key(1), token).await.unwrap().unwrap() < Duration::from_secs(1));
    assert!(left() > lasts / 2);
    let hearing = tokio::spawn({
        let store = store.clone();
        async move { store.audience(&key(1), token).await }
    });
    crate::until(async || store.renew(&key(1), token).await.unwrap() == Some(lasts / 3)).await;
    hearing.abort();
}

#[tokio::test]
async fn an_answer_that_is_none_to_share_sends_all_who_wait_upstream_at_once() {
    let server = Server::start();
    let failing = |url: &str| {
        let origin = answering(url, "failing", StatusCode::INTERNAL_SERVER_ERROR, |_| true);
        layer(patient(url).lease(Some(LONG)).build().unwrap()).layer(origin)
    };
    let asking: Vec<_> = (0..5)
        .map(|_| {
            let cache = failing(&server.url());
            tokio::spawn(async move { ask(&cache, post("/")).await })
        })
        .collect();
    crate::until(async || claims(&server) >= 10 && calls(&server).get("/") == Some(&1)).await;
    let () = server.run(&["SET", "go", "1"]);
    for asking in asking {
        assert_eq!(asking.await.unwrap().1, "/ by failing");
    }
    assert_eq!(calls(&server)["/"], 5);
    let name = lease_names(&server).remove(0);
    assert_eq!(server.run::<String>(&["GET", &name]), "-");
}

#[tokio::test]
async fn an_invalidation_ends_the_lease_of_what_it_voids() {
    let server = Server::start();
    let (one, store) = member(&server.url(), "one", LONG, |_| true);
    let (two, _two) = member(&server.url(), "two", LONG, |_| false);
    let handle = layer(store.clone()).handle();
    let leading = tokio::spawn(async move { ask(&one, post("/")).await });
    crate::until(async || calls(&server).get("/") == Some(&1)).await;
    let asked = post("/").map(|_| bytes::Bytes::new());
    handle.invalidate_request(&asked).await.unwrap();
    // It does not wait for an answer from before.
    assert_eq!(ask(&two, post("/")).await.1, "/ by two");
    let () = server.run(&["SET", "go", "1"]);
    assert_eq!(leading.await.unwrap().1, "/ by one");
    assert_eq!(ask(&two, post("/")).await.1, "/ by two");
    assert_eq!(calls(&server)["/"], 2);
}

#[tokio::test]
async fn patience_is_bounded_and_who_goes_alone_does_not_replace_the_answer() {
    let server = Server::start();
    let (one, _one) = member(&server.url(), "one", LONG, |_| true);
    let leading = tokio::spawn(async move { ask(&one, post("/")).await });
    crate::until(async || calls(&server).get("/") == Some(&1)).await;
    let store = patient(server.url()).build().unwrap();
    let two: Cache<_, Redis, _> = layer(store).patience(Duration::from_millis(100)).layer(counting(&server.url(), "two", |_| false));
    assert_eq!(ask(&two, post("/")).await.1, "/ by two");
    crate::until(async || server.records("t").iter().any(|name| !name.ends_with(":lease"))).await;
    let () = server.run(&["SET", "go", "1"]);
    assert_eq!(leading.await.unwrap().1, "/ by one");
    // What was stored first stays.
    crate::until(async || lease_names(&server).is_empty()).await;
    assert_eq!(ask(&two, post("/")).await, (Outcome::Hit, "/ by two".to_owned()));
}

#[tokio::test]
async fn with_redis_dead_each_process_makes_one_call() {
    let mut server = Server::start();
    let counted = Server::start();
    let member = |name| {
        let store = Redis::builder(server.url()).prefix("t").build().unwrap();
        layer(store).layer(counting(&counted.url(), name, |_| true))
    };
    let (one, two) = (member("one"), member("two"));
    server.kill();
    let asking: Vec<_> = [one, two]
        .into_iter()
        .flat_map(|cache| vec![cache; 50])
        .map(|cache| tokio::spawn(async move { ask(&cache, post("/")).await.1 }))
        .collect();
    crate::until(async || calls(&counted).get("/") == Some(&2)).await;
    let () = counted.run(&["SET", "go", "1"]);
    for asking in asking {
        asking.await.unwrap();
    }
    assert_eq!(calls(&counted)["/"], 2);
}

#[tokio::test]
async fn memory_in_front_waits_and_finds_the_answer_too() {
    let server = Server::start();
    let tiered = |builder: RedisBuilder| Tiered::new(builder.build().unwrap(), 1 << 20);
    let (one, _one) = member(&server.url(), "one", LONG, |_| true);
    let store = tiered(patient(server.url()));
    store.get(&key(0)).await.unwrap();
    let two = CacheLayer::new(store, tower_response_cache::ApiPolicy::new(tower_response_cache::Sharing::Shared)).layer(counting(
        &server.url(),
        "two",
        |_| true,
    ));
    let leading = tokio::spawn(async move { ask(&one, post("/")).await });
    crate::until(async || calls(&server).get("/") == Some(&1)).await;
    let before = claims(&server);
    let waiting = tokio::spawn(async move {
        let answer = tower::ServiceExt::oneshot(two, post("/")).await.unwrap();
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes()
    });
    crate::until(async || claims(&server) > before).await;
    let () = server.run(&["SET", "go", "1"]);
    assert_eq!(leading.await.unwrap().1, "/ by one");
    assert_eq!(waiting.await.unwrap(), "/ by one");
    assert_eq!(calls(&server)["/"], 1);
}
