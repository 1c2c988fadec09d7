//! The same rules on Redis, with and without memory in front of it: conditional hits, parts, variants, updates and invalidation work on what went through the wire.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::{sync::Semaphore, time::timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_response_cache::{
    CacheLayer, HttpPolicy, RequestBody,
    store::{BoxStore, Redis, Tiered},
};

use crate::{
    script::{MakeStore, run_in},
    server::Server,
};

#[tokio::test]
async fn what_holds_in_memory_holds_on_redis() {
    hold(BoxStore::new).await;
}

#[tokio::test]
async fn what_holds_in_memory_holds_in_two_tiers() {
    hold(|redis| BoxStore::new(Tiered::new(redis, 4 << 20))).await;
}

async fn hold(boxed: impl Fn(Redis) -> BoxStore + Send + Sync + 'static) {
    let server = Server::start();
    let (url, long) = (server.url(), Duration::from_secs(20));
    let number = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    // A prefix for each case: all ask for the same targets.
    let store: MakeStore = Arc::new(move |clock| {
        let prefix = format!("case{}", number.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        let redis = Redis::builder(&*url).prefix(prefix).read_deadline(long).write_deadline(long).connect_deadline(long);
        boxed(redis.clock(clock.clone()).build().unwrap())
    });
    let fresh = "Cache-Control: max-age=60";
    let v = "Cache-Control: max-age=60 | Vary: Foo";
    run_in(
        &store,
        HttpPolicy::shared().elect_variants(true).no_vary_search(true),
        &[
            ("fields", &format!("> \n< 200 | {fresh} | X: 1 | X: 2 | X-Odd: \u{e4}\u{ff} | @body\n+ 5\n> \n= #fresh | X: 1, 2 | X-Odd: \u{e4}\u{ff} | Age: 5 | @body")),
            ("conditional", &format!("> \n< 200 | {fresh} | ETag: \"a\" | @1\n> | If-None-Match: W/\"a\"\n= 304 | #fresh\n> HEAD /\n= 200 | #fresh | Content-Length: 1")),
            ("validated", "> \n< 200 | Cache-Control: max-age=5 | ETag: \"a\" | X: 1 | @1\n+ 9\n> \n< 304 | ETag: \"a\" | X: 2\n~ If-None-Match: \"a\"\n= @1 | X: 2\n> \n= #fresh | @1 | X: 2"),
            ("head", &format!("> \n< 200 | {fresh} | ETag: \"a\" | @1\n> HEAD / | Cache-Control: no-cache\n< 200 | ETag: \"a\" | X: 2 | Content-Length: 1\n> \n= #fresh | X: 2 | @1")),
            ("part", &format!("> \n< 200 | {fresh} | @0123456789\n> | Range: bytes=2-3\n= 206 | #fresh | @23")),
            (
                "parts",
                "> | Range: bytes=0-4\n< 206 | Cache-Control: max-age=60 | ETag: \"a\" | Content-Range: bytes 0-4/10 | @01234
                 > \n< 206 | ETag: \"a\" | Content-Range: bytes 5-9/10 | @56789\n~ Range: bytes=5-\n= 200 | @0123456789\n> \n= 200 | #fresh | @0123456789",
            ),
            (
                "variants",
                &format!("> | Foo: 1\n< 200 | {v} | @1\n> | Foo: 2\n< 200 | {v} | @2\n= #origin | Cache-Status: ~vary-miss\n> | Foo: 1\n= #fresh | @1\n> | Foo: 2\n= #fresh | @2
                 > POST / | @x\n< 200\n> | Foo: 1\n< 200 | {v} | @3\n= #origin\n> | Foo: 2\n< 200 | {v} | @4\n= #origin"),
            ),
            ("a variant that the origin elects", &format!("> | Foo: 1\n< 200 | {v} | ETag: \"1\" | @1\n> | Foo: 2\n< 304 | ETag: \"1\"\n~ If-None-Match: \"1\"\n= 200 | @1\n> | Foo: 2\n= #fresh | @1")),
            ("what does not count of a query", &format!("> GET /a?b=1\n< 200 | {fresh} | No-Vary-Search: params | @1\n> GET /a?b=2\n= #fresh | @1\n> POST /a?b=3 | @x\n< 200\n> GET /a?b=1\n< 200 | @2\n= #origin")),
            ("group", &format!("> GET /a\n< 200 | {fresh} | Cache-Groups: \"x\"\n> GET /a\n= #fresh\n> POST /c | @x\n< 200 | Cache-Group-Invalidation: \"x\"\n> GET /a\n< 200\n= #origin")),
            ("stale while it is refreshed", "> \n< 200 | Cache-Control: max-age=5, stale-while-revalidate=20 | @1\n+ 9\n> \n& 200 | Cache-Control: max-age=5 | @2\n= @1 | #fresh\n> \n= #fresh | @2"),
            ("stale if there is no answer", "> \n< 200 | Cache-Control: max-age=5 | @1\n+ 9\n> \n< #hangup\n= 200 | @1 | Age: 9"),
            ("post", &format!("> POST /a | @x\n< 200 | {fresh} | Content-Location: /a | @made\n= #kept\n> GET /a\n= #fresh | @made")),
        ],
    )
    .await;
}

/// What everyone has to ask for is asked for by everyone at once: no process waits for another's answer, which it could not use.
#[tokio::test]
async fn processes_do_not_queue_for_a_page_that_is_stale_at_birth() {
    const PROCESSES: usize = 4;
    let long = Duration::from_secs(20);
    let server = Server::start();
    let (arrived, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let calls = Arc::new(AtomicUsize::new(0));
    let (came, opened, counted) = (Arc::clone(&arrived), Arc::clone(&gate), Arc::clone(&calls));
    let origin = service_fn(move |request: Request<RequestBody<Full<Bytes>>>| {
        let (came, opened, counted) = (Arc::clone(&came), Arc::clone(&opened), Arc::clone(&counted));
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            came.add_permits(1);
            opened.acquire().await.unwrap().forget();
            let known = request.headers().contains_key("if-none-match");
            let response = Response::builder().status(if known { 304 } else { 200 }).header("cache-control", "no-cache");
            Ok::<_, Infallible>(response.header("etag", "\"a\"").body(Full::<Bytes>::from(if known { "" } else { "page" })).unwrap())
        }
    });
    // As many caches with connections, listeners and flights of their own as there would be processes.
    let caches: Vec<_> = (0..PROCESSES)
        .map(|_| {
            let redis = Redis::builder(&*server.url()).read_deadline(long).write_deadline(long).connect_deadline(long).build().unwrap();
            let layer = CacheLayer::new(redis, HttpPolicy::shared()).patience(long);
            layer.layer(origin.clone())
        })
        .collect();
    let ask = |cache: usize| {
        let cache = caches[cache].clone();
        tokio::spawn(async move {
            let response = cache.oneshot(Request::get("http://host/").body(Full::<Bytes>::default()).unwrap()).await.unwrap();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "page");
        })
    };
    let all_arrive = async |many: usize, when: &str| {
        let all = arrived.acquire_many(u32::try_from(many).unwrap());
        timeout(long, all).await.unwrap_or_else(|_| panic!("{when}: some wait for others")).unwrap().forget();
    };
    for round in 0..3 {
        let asking: Vec<_> = (0..PROCESSES).map(ask).collect();
        if round == 0 {
            // Nobody knows what it is. One asks, and then they know.
            all_arrive(1, "cold").await;
            gate.add_permits(1);
            all_arrive(PROCESSES - 1, "once one has the answer").await;
            gate.add_permits(PROCESSES - 1);
        } else {
            all_arrive(PROCESSES, "warm").await;
            gate.add_permits(PROCESSES);
        }
        for asking in asking {
            asking.await.unwrap();
        }
        assert_eq!(calls.load(Ordering::SeqCst), (1 + round) * PROCESSES);
    }
}
