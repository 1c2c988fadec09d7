//! What a hit in Redis costs, beside a bare `GET` of the same value on a connection of the same client, in one run.

#![allow(clippy::unwrap_used, reason = "a panic is how a bench fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a bench, and it uses a part of what tests share"
)]

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    ApiPolicy, CacheLayer, Sharing,
    entry::{Entry, Frames, Lifetime, Metadata, Record, record::Compression},
    key::Key,
    store::{Redis, Store},
};

#[path = "../tests/support/redis.rs"]
#[allow(dead_code)]
mod server;

fn post() -> Request<Full<Bytes>> {
    Request::post("http://origin/v1").header("content-type", "text/plain").body(Full::from("question")).unwrap()
}

fn redis(criterion: &mut Criterion) {
    let server = server::Server::start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let patience = Duration::from_secs(10);
    let store =
        Redis::builder(server.url()).compression(Compression::Off).read_deadline(patience).write_deadline(patience).build().unwrap();
    for (size, len) in [("8 KB", 8 << 10), ("60 KB", 60_000), ("1 MB", 1 << 20)] {
        let mut group = criterion.benchmark_group(size);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
        let body = Bytes::from(vec![b'x'; len]);
        let key = Key::from_bytes([7; 32]);
        let record = Record::Response(Arc::new(Entry {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Frames::from(body.clone()),
            trailers: None,
            lifetime: Lifetime::fresh(SystemTime::now(), Duration::from_secs(3600)),
            metadata: Metadata::default(),
        }));
        let mut bare = runtime.block_on(async {
            store.remove(&key).await.unwrap();
            let generation = store.get(&key).await.unwrap().generation;
            assert!(store.put(&key, record.clone(), generation).await.unwrap());
            redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
        });
        let name = server.records("trc").remove(0);
        let get = || {
            let mut command = redis::cmd("GET");
            command.arg(&name);
            command
        };
        group.bench_function("bare GET", |bencher| {
            bencher.iter_custom(|rounds| {
                runtime.block_on(async {
                    let start = std::time::Instant::now();
                    for _ in 0..rounds {
                        let value: Vec<u8> = get().query_async(&mut bare).await.unwrap();
                        assert!(value.len() > len);
                    }
                    start.elapsed()
                })
            });
        });
        group.bench_function("store, hit", |bencher| {
            bencher.to_async(&runtime).iter(async || assert!(store.get(&key).await.unwrap().record.is_some()));
        });
        group.bench_function("store, put", |bencher| {
            bencher.to_async(&runtime).iter(async || {
                let generation = store.get(&key).await.unwrap().generation;
                assert!(store.put(&key, record.clone(), generation).await.unwrap());
            });
        });

        let origin = tower::service_fn(move |_| {
            let response = Response::builder().header("content-type", "text/plain").body(Full::new(body.clone())).unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let cache = CacheLayer::new(store.clone(), ApiPolicy::new(Sharing::Shared)).namespace(size).layer(origin);
        let ask = async || cache.clone().oneshot(post()).await.unwrap().into_body().collect().await.unwrap().to_bytes().len();
        runtime.block_on(async {
            ask().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        });
        group.bench_function("layer, hit", |bencher| bencher.to_async(&runtime).iter(async || assert_eq!(ask().await, len)));
        group.finish();
        runtime.block_on(store.remove_where(&tower_response_cache::store::Selection::All)).unwrap();
    }
}

criterion_group!(benches, redis);
criterion_main!(benches);
