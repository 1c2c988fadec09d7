//! The real program with a real Redis, and with one that is not there.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::Response;
use http_body_util::BodyExt;
use serde_json::json;

use crate::{
    clusters::Cluster,
    harness::{Upstream, chat, document, with},
    program::Running,
    redis::{Server, free_port},
};

async fn start(upstream: &Upstream, url: &str) -> Running {
    Running::start_with(&["--upstream", &upstream.url()], &[("REDIS_URL", url), ("REDIS_MAX_CONNECTIONS", "4")]).await
}

#[tokio::test]
async fn routers_with_one_redis_answer_from_each_others_cache() {
    let redis = Server::start();
    let upstream = Upstream::signed().await;
    let (one, other) = (start(&upstream, &redis.url()).await, start(&upstream, &redis.url()).await);
    let canary = |request| with(request, "authorization", "Bearer canary");
    let first = one.ask(canary(chat("hello"))).await;
    assert_eq!((first.status, first.cache()), (200, "fwd=miss"));
    while one.stats().await["stored"] != 1 {
        tokio::task::yield_now().await;
    }
    let second = other.ask(canary(chat("hello"))).await;
    assert_eq!((second.cache(), &second.body), ("hit", &first.body));
    assert_eq!(other.ask(chat("hello")).await.cache(), "fwd=miss", "another caller");
    assert_eq!(upstream.calls(), 2);
    for router in [one, other] {
        router.signal("TERM");
        let (status, log) = router.end().await;
        assert!(status.success() && log.contains("store=\"redis"), "{log}");
        assert!(!log.contains("canary") && !log.contains("redis://"), "{log}");
    }
}

#[tokio::test]
async fn upstreams_of_one_name_and_host_in_different_places_share_nothing() {
    let redis = Server::start();
    let upstream = Upstream::signed().await;
    let [one, other] = ["one", "other"].map(|account| format!("{}/{account}", upstream.url()));
    let environment = [("REDIS_URL", redis.url()), ("ROUTER_SHARING", "shared".to_owned())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let (one, other) =
        (Running::start_with(&["--upstream", &one], &environment).await, Running::start_with(&["--upstream", &other], &environment).await);
    assert_eq!(one.ask(chat("hello")).await.json()["target"], "/one/v1/chat/completions");
    while one.stats().await["stored"] != 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(one.ask(chat("hello")).await.cache(), "hit");
    assert_eq!(other.ask(chat("hello")).await.json()["target"], "/other/v1/chat/completions");
}

#[tokio::test]
async fn routers_with_one_cluster_answer_from_each_others_cache_and_know_how_it_is() {
    let mut cluster = Cluster::start();
    let upstream = Upstream::signed().await;
    let (one, other) = (start(&upstream, &cluster.url()).await, start(&upstream, &cluster.url()).await);
    for number in 0..12 {
        let first = one.ask(chat(&number.to_string())).await;
        assert_eq!((first.status, first.cache()), (200, "fwd=miss"));
        while one.stats().await["stored"] != number + 1 {
            tokio::task::yield_now().await;
        }
        let second = other.ask(chat(&number.to_string())).await;
        assert_eq!((second.cache(), &second.body), ("hit", &first.body));
    }
    assert!(cluster.primaries.iter().all(|primary| !primary.records("trc").is_empty()));
    assert_eq!(one.stats().await["redis"]["link"], "closed");
    // One of them is gone, and its copy is slow to take over: its answers are made anew, the others' are still there.
    cluster.primaries[0].kill();
    let mut again = Vec::new();
    for number in 0..12 {
        let answer = other.ask(chat(&number.to_string())).await;
        assert_eq!(answer.status, 200);
        again.push(answer.cache().to_owned());
    }
    assert!(again.iter().any(|cache| cache == "hit"), "{again:?}");
    for router in [one, other] {
        router.signal("TERM");
        let (status, log) = router.end().await;
        assert!(status.success() && log.contains("store=\"redis") && !log.contains("redis-cluster://"), "{log}");
    }
}

/// With hits, misses, coalesced, bypassed and failed requests.
#[tokio::test]
async fn the_books_of_two_routers_on_one_redis_balance_and_both_tell_the_same() {
    const PRICE: f64 = 0.25;
    let redis = Server::start();
    let priced = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&priced);
    let upstream = Upstream::new(move |call| {
        let counter = Arc::clone(&counter);
        async move {
            let body = call.body.collect().await.unwrap().to_bytes();
            if body.windows(6).any(|part| part == b"broken") {
                return Response::builder().status(500).body(document("{}").into_body()).unwrap();
            }
            counter.fetch_add(1, Ordering::SeqCst);
            document(json!({"object": "chat.completion", "model": "m", "choices": [{"index": 0, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}}))
        }
    })
    .await;
    let prices = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&prices, json!({"m": {"input_cost_per_token": PRICE}}).to_string()).unwrap();
    let url = redis.url();
    let start = async || {
        let environment = [("REDIS_URL", url.as_str()), ("ROUTER_PRICES", prices.path().to_str().unwrap()), ("RUST_LOG", "off")];
        Running::start_with(&["--upstream", &upstream.url()], &environment).await
    };
    let routers = [start().await, start().await];
    let mut asked = 0;
    for round in 0..5 {
        let mut clients = Vec::new();
        for router in &routers {
            for question in 0..8 {
                clients.push(router.ask(chat(&format!("{}", question % 4 + round))));
            }
            clients.push(router.ask(chat("broken")));
            clients.push(router.ask(with(chat("ranged"), "range", "bytes=0-1")));
        }
        asked += clients.len() as u64;
        futures_util::future::join_all(clients).await;
    }
    let told = async |router: &Running, what: &str| router.told(what).await;
    // Each says that its own is there before the other is asked.
    for router in &routers {
        told(router, "/cache/metrics?hours=1").await;
    }
    let [one, other] = [told(&routers[0], "/cache/metrics?hours=1").await, told(&routers[1], "/cache/metrics?hours=1").await];
    assert_eq!((&one, &one["of_all_processes"], &one["records_dropped"]), (&other, &json!(true), &json!(0)));
    assert_eq!(one["requests"], asked, "{one}");
    let outcome = |name: &str| one["by_outcome"][name].as_u64().unwrap_or_default();
    assert_eq!(outcome("bypass"), 10);
    assert_eq!(outcome("hit") + outcome("miss") + outcome("collapsed") + outcome("bypass"), asked, "{one}");
    let usd = |name: &str| one[name].as_f64().unwrap();
    assert_eq!(usd("cost_usd"), priced.load(Ordering::SeqCst) as f64 * PRICE, "each call is billed once: {one}");
    assert_eq!(usd("cost_usd") + usd("saved_usd"), 90.0 * PRICE, "without the cache, each request would have been a call");
    let records = told(&routers[0], "/cache/records?limit=1000").await;
    let sum = |name: &str| records.as_array().unwrap().iter().filter_map(|record| record[name].as_f64()).sum::<f64>();
    assert_eq!((records.as_array().unwrap().len() as u64, sum("cost_usd"), sum("saved_usd")), (asked, usd("cost_usd"), usd("saved_usd")));
}

#[tokio::test]
async fn without_its_redis_it_serves_all_the_same_and_says_so() {
    let upstream = Upstream::signed().await;
    let router = start(&upstream, &format!("redis://:hush@127.0.0.1:{}/0", free_port())).await;
    for _ in 0..2 {
        let answer = router.ask(chat("hello")).await;
        assert_eq!((answer.status, answer.cache()), (200, "fwd=miss"));
    }
    router.logged("the store does not answer").await;
    let stats = router.stats().await;
    assert!(stats["store_errors"].as_u64().unwrap() > 0 && stats["memory_human"].is_null(), "{stats}");
    assert!(stats["redis"]["last_error"] == "lost" && stats["redis"]["memory_tier"]["tracked"] == false, "{stats}");
    router.signal("TERM");
    let (status, log) = router.end().await;
    assert!(status.success(), "{log}");
    assert!(!log.contains("hush"), "{log}");
}

#[tokio::test]
async fn in_front_of_redis_answers_are_in_memory_unless_that_is_turned_off() {
    let redis = Server::start();
    let upstream = Upstream::signed().await;
    for (tier, is_asked_again) in [("64MiB", false), ("0", true)] {
        let env = [("REDIS_URL", redis.url()), ("ROUTER_MEMORY_TIER", tier.to_owned())];
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let router = Running::start_with(&["--upstream", &upstream.url()], &env).await;
        let ask = || router.ask(chat("hello"));
        while ask().await.cache() != "hit" {}
        // The connection of word is made in the background. From then on, Redis is asked for no record.
        let reads = || {
            let calls: String = redis.run(&["INFO", "commandstats"]);
            calls
                .lines()
                .find(|line| line.starts_with("cmdstat_getrange:"))
                .map(|line| line.split(',').next().unwrap_or_default().to_owned())
        };
        let mut rounds = 0;
        let asked_again = loop {
            let before = reads();
            assert_eq!(ask().await.cache(), "hit");
            if reads() == before {
                break false;
            }
            rounds += 1;
            if rounds == 2000 || (is_asked_again && rounds == 50) {
                break true;
            }
        };
        assert_eq!(asked_again, is_asked_again, "{tier}");
        router.signal("TERM");
        router.end().await;
    }
}
