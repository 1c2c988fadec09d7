//! What the cache costs, beside the bare service: hit, miss and bypass of an 8 KB answer, in one run.
//!
//! `cargo bench --bench overhead`

#![allow(clippy::unwrap_used, reason = "a panic is how a bench fails")]

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_response_cache::{ApiPolicy, BoxError, CacheLayer, CacheOptions, HttpPolicy, Mode, Sharing, store::Memory};

const ANSWER: usize = 8 << 10;

fn chat() -> Bytes {
    let turn = r#"{"role":"user","content":"Tell me about the history of the lighthouse, in a few sentences."},"#;
    format!(
        r#"{{"model":"gpt-4o-mini","temperature":0.7,"messages":[{}{{"role":"user","content":"Go on."}}],"stream":false}}"#,
        turn.repeat(9)
    )
    .into()
}

fn get() -> Request<Full<Bytes>> {
    Request::get("http://origin/item").body(Full::default()).unwrap()
}

fn post() -> Request<Full<Bytes>> {
    let request = Request::post("http://origin/v1/chat/completions");
    let request = request.header("content-type", "application/json").header("authorization", "Bearer one");
    request.body(Full::new(CHAT.with(Bytes::clone))).unwrap()
}

thread_local! {
    static CHAT: Bytes = chat();
}

/// The service under the cache: an answer that is there.
fn origin<B>()
-> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> + Clone + Send + Sync + 'static
where
    B: Send + 'static,
{
    let body = Bytes::from(vec![b'x'; ANSWER]);
    service_fn(move |_| {
        let response = Response::builder().header("content-type", "text/plain").header("content-length", ANSWER);
        let response = response.header("cache-control", "max-age=3600").body(Full::new(body.clone()));
        std::future::ready(Ok(response.unwrap()))
    })
}

async fn drain<S, B>(service: S, request: Request<Full<Bytes>>) -> usize
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let response = service.oneshot(request).await.unwrap();
    response.into_body().collect().await.map_err(Into::into).unwrap().to_bytes().len()
}

fn measure<B>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    service: impl Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible> + Clone,
    request: impl Fn() -> Request<Full<Bytes>>,
) where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert_eq!(drain(service.clone(), request()).await, ANSWER);
        tokio::time::sleep(Duration::from_millis(20)).await;
    });
    group.bench_function(name, |bencher| bencher.to_async(&runtime).iter(|| drain(service.clone(), request())));
}

fn policy() -> ApiPolicy {
    ApiPolicy::new(Sharing::PerCredential).methods([Method::GET, Method::POST])
}

fn with(mode: Mode, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    request.extensions_mut().insert(CacheOptions::new().mode(mode));
    request
}

fn overhead(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("8 KB");
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    measure(&mut group, "no cache, GET", origin(), get);
    let plain = CacheLayer::new(Memory::default(), policy()).layer(origin());
    measure(&mut group, "hit, memory, GET", plain.clone(), get);
    let http = CacheLayer::new(Memory::default(), HttpPolicy::shared()).layer(origin());
    measure(&mut group, "hit, memory, GET, HTTP policy", http, get);
    measure(&mut group, "no cache, POST 1 KB", origin(), post);
    measure(&mut group, "hit, memory, POST 1 KB canonical", plain.clone(), post);
    let raw = CacheLayer::new(Memory::default(), policy().canonical_json(false)).layer(origin());
    measure(&mut group, "hit, memory, POST 1 KB raw", raw, post);
    measure(&mut group, "miss, memory, POST 1 KB", plain.clone(), || with(Mode::WriteOnly, post()));
    let bypass = CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::Shared)).layer(origin());
    measure(&mut group, "bypass, GET", bypass, get);
    group.finish();
}

criterion_group!(benches, overhead);
criterion_main!(benches);
