//! Around clients: reqwest's as a service and with middleware, hyper-util's. What streams is not held up, and what they fail with is theirs.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, body::Body, extract::Request, response::Redirect, routing::post};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheOptions, CacheStatus, Mode, RequestBody, Sharing, convert::ConvertLayer, status::Outcome, store::Memory,
};

/// An origin over a socket, and how often it was called.
#[derive(Clone)]
struct Origin {
    url: String,
    calls: Arc<AtomicUsize>,
}

impl Origin {
    async fn start() -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let number = {
            let calls = calls.clone();
            move |body: Bytes| {
                let call = calls.fetch_add(1, Ordering::SeqCst) + 1;
                async move { format!("call {call} with {} bytes", body.len()) }
            }
        };
        let failing = {
            let calls = calls.clone();
            move || {
                calls.fetch_add(1, Ordering::SeqCst);
                std::future::ready(http::StatusCode::SERVICE_UNAVAILABLE)
            }
        };
        let app = Router::new()
            .route("/number", post(number))
            .route("/failing", post(failing))
            // Each chunk comes back before the next is sent.
            .route("/echo", post(async |request: Request| Body::new(request.into_body())))
            .route("/moved", post(async || Redirect::temporary("/number")));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, calls }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

fn layer() -> CacheLayer<Memory, ApiPolicy> {
    CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared))
}

fn reqwest() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn with_middleware() -> ClientWithMiddleware {
    ClientBuilder::new(reqwest()).with(layer()).build()
}

/// A body that the test feeds.
fn fed() -> (mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>, reqwest::Body) {
    let (feed, frames) = mpsc::channel(1);
    (feed, reqwest::Body::wrap(StreamBody::new(ReceiverStream::new(frames))))
}

/// Feeds three chunks, each when the one before has come back.
async fn converse(feed: mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>, mut answers: impl AsyncFnMut() -> Option<Bytes>) {
    for word in ["one", "two", "three"] {
        feed.send(Ok(Frame::data(Bytes::from_static(word.as_bytes())))).await.unwrap();
        assert_eq!(answers().await.unwrap(), word);
    }
    drop(feed);
    assert_eq!(answers().await, None);
}

#[tokio::test]
async fn a_streaming_request_of_reqwests_that_bypasses_is_not_held_up() {
    let origin = Origin::start().await;
    let mut client = ServiceBuilder::new().layer(layer()).layer(ConvertLayer::new(reqwest::Body::wrap)).service(reqwest());
    let (feed, body) = fed();
    let off = CacheOptions::new().mode(Mode::Off);
    let request = http::Request::post(format!("{}/echo", origin.url)).extension(off).body(body).unwrap();
    let mut body = client.call(request).await.unwrap().into_body();
    converse(feed, async || body.frame().await.map(|frame| frame.unwrap().into_data().unwrap())).await;
}

#[tokio::test]
async fn a_streaming_request_with_middleware_that_bypasses_is_not_held_up() {
    let origin = Origin::start().await;
    let (feed, body) = fed();
    let request = with_middleware().post(format!("{}/echo", origin.url)).with_extension(CacheOptions::new().mode(Mode::Off)).body(body);
    let mut answer = request.send().await.unwrap();
    converse(feed, async || answer.chunk().await.unwrap()).await;
}

#[tokio::test]
async fn a_streamed_request_body_that_is_cached_arrives_whole() {
    let origin = Origin::start().await;
    let client = with_middleware();
    for _ in 0..2 {
        let (feed, body) = fed();
        tokio::spawn(async move {
            for _ in 0..10 {
                feed.send(Ok(Frame::data(Bytes::from_static(&[7; 1000])))).await.unwrap();
            }
        });
        let answer = client.post(format!("{}/number", origin.url)).body(body).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "call 1 with 10000 bytes");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_passes_through_reqwest_streamed() {
    let origin = Origin::start().await;
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).request_limit(1000));
    let mut client = ServiceBuilder::new().layer(layer).layer(ConvertLayer::new(reqwest::Body::wrap)).service(reqwest());
    for call in 1..=2 {
        let (feed, body) = fed();
        tokio::spawn(async move {
            for _ in 0..10 {
                feed.send(Ok(Frame::data(Bytes::from_static(&[7; 1000])))).await.unwrap();
            }
        });
        let answer = client.call(http::Request::post(format!("{}/number", origin.url)).body(body).unwrap()).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), format!("call {call} with 10000 bytes"));
    }
}

#[tokio::test]
async fn what_was_buffered_can_be_sent_again_after_a_redirect() {
    let origin = Origin::start().await;
    let answer = with_middleware().post(format!("{}/moved", origin.url)).body("12345").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "call 1 with 5 bytes");

    let bytes = |body: RequestBody<Full<Bytes>>| match body.as_bytes() {
        Some(bytes) => bytes.clone().into(),
        None => reqwest::Body::wrap(body),
    };
    let mut client = ServiceBuilder::new().layer(layer()).layer(ConvertLayer::new(bytes)).service(reqwest());
    let request = http::Request::post(format!("{}/moved", origin.url)).body(Full::from("1234567")).unwrap();
    assert_eq!(client.call(request).await.unwrap().into_body().collect().await.unwrap().to_bytes(), "call 2 with 7 bytes");
}

#[tokio::test]
async fn a_request_that_reqwest_cannot_send_fails_with_its_error() {
    let mut client = ServiceBuilder::new().layer(layer()).layer(ConvertLayer::new(reqwest::Body::wrap)).service(reqwest());
    let error = client.call(http::Request::post("/no-host").body(Full::<Bytes>::default()).unwrap()).await.unwrap_err();
    assert!(error.is_builder());
}

#[tokio::test]
async fn hypers_client_needs_no_adapter() {
    let origin = Origin::start().await;
    let client: Client<_, RequestBody<Full<Bytes>>> = Client::builder(TokioExecutor::new()).build_http();
    let client = layer().layer(client);
    for _ in 0..2 {
        let request = http::Request::post(format!("{}/number", origin.url)).body(Full::from("12")).unwrap();
        let answer = client.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "call 1 with 2 bytes");
    }
}

/// A middleware after the cache, which counts, and waits if it is told to.
struct Counted {
    calls: Arc<AtomicUsize>,
    gate: Option<Arc<Semaphore>>,
}

#[async_trait::async_trait]
impl Middleware for Counted {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut http::Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        next.run(request, extensions).await
    }
}

#[tokio::test]
async fn what_comes_after_the_cache_in_a_chain_is_run_on_a_miss_only() {
    let origin = Origin::start().await;
    let calls = Arc::new(AtomicUsize::new(0));
    let client = ClientBuilder::new(reqwest()).with(layer()).with(Counted { calls: calls.clone(), gate: None }).build();
    for _ in 0..3 {
        let answer = client.post(format!("{}/number", origin.url)).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "call 1 with 0 bytes");
    }
    for _ in 0..2 {
        assert_eq!(client.post(format!("{}/failing", origin.url)).send().await.unwrap().status(), 503);
    }
    assert_eq!((calls.load(Ordering::SeqCst), origin.calls()), (3, 3));
}

/// A middleware that keeps a copy of the request, as those do that retry.
struct Retries;

#[async_trait::async_trait]
impl Middleware for Retries {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut http::Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let copy = request.try_clone().ok_or_else(|| reqwest_middleware::Error::Middleware(std::io::Error::other("no copy").into()))?;
        match next.clone().run(copy, extensions).await? {
            answer if answer.status().is_server_error() => next.run(request, extensions).await,
            answer => Ok(answer),
        }
    }
}

#[tokio::test]
async fn what_the_cache_does_not_touch_can_be_sent_again_too() {
    let origin = Origin::start().await;
    let layer = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::Shared).request_limit(4));
    let client = ClientBuilder::new(reqwest()).with(layer).with(Retries).build();

    let answer = client.get(format!("{}/number", origin.url)).send().await.unwrap();
    assert_eq!(answer.headers()["cache-status"], "tower-response-cache; fwd=bypass; detail=method");
    assert_eq!(answer.status(), 405);

    let answer = client.post(format!("{}/failing", origin.url)).body("too large").send().await.unwrap();
    assert_eq!(answer.headers()["cache-status"], "tower-response-cache; fwd=bypass; detail=request-too-large");
    assert_eq!((answer.status().as_u16(), origin.calls()), (503, 2));
    let answer = client.post(format!("{}/moved", origin.url)).body("too large").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "call 3 with 9 bytes");
}

#[tokio::test]
async fn requests_of_a_chain_share_a_call_and_survive_the_one_that_leads() {
    let origin = Origin::start().await;
    let (calls, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let layer = layer();
    let handle = layer.handle();
    let client = ClientBuilder::new(reqwest()).with(layer).with(Counted { calls: calls.clone(), gate: Some(gate.clone()) }).build();
    let ask = || {
        let request = client.post(format!("{}/number", origin.url));
        tokio::spawn(async move {
            let answer = request.send().await.unwrap();
            let outcome = answer.extensions().get::<CacheStatus>().unwrap().outcome;
            (outcome, answer.text().await.unwrap())
        })
    };
    let leader = ask();
    while calls.load(Ordering::SeqCst) < 1 {
        tokio::task::yield_now().await;
    }
    let waiting = [ask(), ask(), ask()];
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1, "the others wait");
    leader.abort();
    while calls.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    gate.add_permits(10);
    let mut outcomes = Vec::new();
    for answer in waiting {
        let (outcome, text) = answer.await.unwrap();
        assert_eq!(text, "call 1 with 0 bytes");
        outcomes.push(outcome);
    }
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Miss(_))).count(), 1, "{outcomes:?}");
    assert_eq!((calls.load(Ordering::SeqCst), origin.calls()), (2, 1));
    assert!(handle.shutdown(std::time::Duration::from_secs(10)).await, "nothing is left behind");
}
