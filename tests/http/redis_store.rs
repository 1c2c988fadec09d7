//! The same rules on Redis, with and without memory in front of it: conditional hits, parts, variants, updates and invalidation work on what went through the wire.

use std::{sync::Arc, time::Duration};

use tower_response_cache::{
    HttpPolicy,
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
        HttpPolicy::shared(),
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
            ("group", &format!("> GET /a\n< 200 | {fresh} | Cache-Groups: \"x\"\n> GET /a\n= #fresh\n> POST /c | @x\n< 200 | Cache-Group-Invalidation: \"x\"\n> GET /a\n< 200\n= #origin")),
            ("stale while it is refreshed", "> \n< 200 | Cache-Control: max-age=5, stale-while-revalidate=20 | @1\n+ 9\n> \n& 200 | Cache-Control: max-age=5 | @2\n= @1 | #fresh\n> \n= #fresh | @2"),
            ("stale if there is no answer", "> \n< 200 | Cache-Control: max-age=5 | @1\n+ 9\n> \n< #hangup\n= 200 | @1 | Age: 9"),
            ("post", &format!("> POST /a | @x\n< 200 | {fresh} | Content-Location: /a | @made\n= #kept\n> GET /a\n= #fresh | @made")),
        ],
    )
    .await;
}
