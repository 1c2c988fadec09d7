//! What is measured: one answer of 8 KB, without the cache, and by each way through it.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use http::{Method, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::runtime::Runtime;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_response_cache::{ApiPolicy, BoxError, CacheLayer, CacheOptions, HttpPolicy, Mode, Sharing, store::Memory};

pub(crate) const ANSWER: usize = 8 << 10;

/// One kind of request, to one service.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    /// Makes it once, and reads the answer to its end.
    pub(crate) once: Box<dyn Fn() -> LocalBoxFuture<'static, ()>>,
}

/// All of them, each answered once before.
pub(crate) fn all(runtime: &Runtime) -> Vec<Subject> {
    let plain = CacheLayer::new(Memory::default(), policy()).layer(origin());
    let http = CacheLayer::new(Memory::default(), HttpPolicy::shared()).layer(origin());
    let raw = CacheLayer::new(Memory::default(), policy().canonical_json(false)).layer(origin());
    let bypass = CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::Shared)).layer(origin());
    let subjects = vec![
        subject("no cache, GET", origin(), get),
        subject("hit, memory, GET", plain.clone(), get),
        subject("hit, memory, GET, HTTP policy", http, get),
        subject("no cache, POST 1 KB", origin(), post),
        subject("hit, memory, POST 1 KB canonical", plain.clone(), post),
        subject("hit, memory, POST 1 KB raw", raw, post),
        subject("miss, memory, POST 1 KB", plain, || with(Mode::WriteOnly, post())),
        subject("bypass, GET", bypass, get),
    ];
    runtime.block_on(async {
        for subject in &subjects {
            (subject.once)().await;
        }
        // What the first of them brought is stored behind their backs.
        tokio::time::sleep(Duration::from_millis(20)).await;
    });
    subjects
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn subject<S, B>(name: &'static str, service: S, request: impl Fn() -> Request<Full<Bytes>> + 'static) -> Subject
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible> + Clone + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    Subject { name, once: Box::new(move || Box::pin(drain(service.clone(), request()))) }
}

async fn drain<S, B>(service: S, request: Request<Full<Bytes>>)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let response = service.oneshot(request).await.unwrap();
    let body = response.into_body().collect().await.map_err(Into::into).unwrap();
    assert_eq!(body.to_bytes().len(), ANSWER);
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

fn policy() -> ApiPolicy {
    ApiPolicy::new(Sharing::PerCredential).methods([Method::GET, Method::POST])
}

fn with(mode: Mode, mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    request.extensions_mut().insert(CacheOptions::new().mode(mode));
    request
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

fn chat() -> Bytes {
    let turn = r#"{"role":"user","content":"Tell me about the history of the lighthouse, in a few sentences."},"#;
    format!(
        r#"{{"model":"gpt-4o-mini","temperature":0.7,"messages":[{}{{"role":"user","content":"Go on."}}],"stream":false}}"#,
        turn.repeat(9)
    )
    .into()
}
