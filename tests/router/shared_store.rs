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
