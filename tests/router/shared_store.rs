//! The real program with a real Redis, and with one that is not there.

use crate::{
    harness::{Upstream, chat, with},
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
