//! A router in this process, a client, and scripted upstreams, all on loopback.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, Request, Response, request};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::router::{app::App, cli::Args, config::Settings};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A router in this process.
pub(crate) struct Router {
    pub(crate) app: App,
    client: Client<HttpConnector, Body>,
}

/// What the router runs with, by command line; ports are free ones.
pub(crate) fn settings(args: &[&str]) -> Settings {
    // An empty URL of a Redis is none, whatever the environment of the tests says.
    let fixed = ["router", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--redis-url", "", "--simulator-pace", "instant"];
    let args = Args::try_parse_from(fixed.iter().chain(args)).unwrap_or_else(|error| panic!("{error}"));
    Settings::read(args).unwrap_or_else(|error| panic!("{error}"))
}

impl Router {
    pub(crate) async fn start(args: &[&str]) -> Self {
        Self::with(settings(args)).await
    }

    /// With a file.
    pub(crate) async fn configured(toml: &str, args: &[&str]) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, toml).unwrap();
        let config = ["--config", file.path().to_str().unwrap()];
        Self::with(settings(&[&config, args].concat())).await
    }

    /// That sends all to one upstream.
    pub(crate) async fn before(upstream: &Upstream, args: &[&str]) -> Self {
        Self::start(&[&["--upstream", &upstream.url()], args].concat()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let app = App::start(settings).await.unwrap_or_else(|error| panic!("{error}"));
        Self { app, client: client() }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.app.public)
    }

    pub(crate) async fn send(&self, mut request: Request<Body>) -> Response<Incoming> {
        *request.uri_mut() = self.url(&request.uri().to_string()).parse().unwrap();
        self.client.request(request).await.unwrap()
    }

    /// Sends a request to the public listener and takes all of the answer.
    pub(crate) async fn ask(&self, request: Request<Body>) -> Answer {
        Answer::of(self.send(request).await).await
    }

    /// Sends a request to the admin listener and takes all of the answer.
    pub(crate) async fn admin(&self, mut request: Request<Body>) -> Answer {
        *request.uri_mut() = format!("http://{}{}", self.app.admin, request.uri()).parse().unwrap();
        Answer::of(self.client.request(request).await.unwrap()).await
    }

    pub(crate) async fn stats(&self) -> Value {
        self.admin(get("/cache/stats")).await.json()
    }

    /// Waits until so many upstream calls have ended, stored or not.
    pub(crate) async fn settled(&self, fills: u64) {
        loop {
            let stats = self.stats().await;
            if stats["stored"].as_u64().unwrap() + stats["not_stored"].as_u64().unwrap() >= fills {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// What `/cache/metrics` says when so many requests are on record: records are made off the callers' path.
    pub(crate) async fn recorded(&self, requests: u64) -> Value {
        loop {
            let metrics = self.admin(get("/cache/metrics?hours=1")).await.json();
            if metrics["requests"].as_u64().unwrap() >= requests {
                return metrics;
            }
            tokio::task::yield_now().await;
        }
    }
}

pub(crate) fn client() -> Client<HttpConnector, Body> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// An answer with all of its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status.as_u16(), headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// What the cache did, in a word.
    pub(crate) fn cache(&self) -> &str {
        let status = self.header("cache-status").unwrap_or_default();
        let words = ["; hit", "fwd=miss; collapsed", "fwd=miss", "fwd=request", "fwd=bypass"];
        words.into_iter().find(|word| status.contains(word)).unwrap_or("").trim_start_matches("; ")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Full::default().boxed_unsync()).unwrap()
}

/// A POST of JSON.
pub(crate) fn post(path: &str, json: impl ToString) -> Request<Body> {
    let body = Full::new(Bytes::from(json.to_string())).boxed_unsync();
    Request::post(path).header("content-type", "application/json").body(body).unwrap()
}

/// Adds a header.
pub(crate) fn with(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

/// A call that reached an upstream.
pub(crate) struct Call {
    /// 1 for the first.
    pub(crate) number: usize,
    pub(crate) head: request::Parts,
    pub(crate) body: Incoming,
}

/// What an upstream was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
}

type Script = Arc<dyn Fn(Call) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync>;

/// An upstream that answers as its script says.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Upstream {
    pub(crate) async fn new<F, R>(script: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let script: Script = Arc::new(move |call| Box::pin(script(call)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (head, body) = request.into_parts();
                    let number = {
                        let mut log = log.lock().unwrap();
                        log.push(Asked { method: head.method.to_string(), target: head.uri.to_string(), headers: head.headers.clone() });
                        log.len()
                    };
                    let answer = script(Call { number, head, body });
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                tokio::spawn(async move { Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok() });
            }
        });
        Self { address, asked }
    }

    /// Answers with a document that names the call and what was asked: no two answers are the same.
    pub(crate) async fn signed() -> Self {
        Self::new(|call| async move {
            let target = call.head.uri.to_string();
            let body = call.body.collect().await.unwrap().to_bytes();
            let asked = String::from_utf8_lossy(&body).into_owned();
            document(serde_json::json!({"call": call.number, "target": target, "asked": asked}))
        })
        .await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// The last call.
    pub(crate) fn last(&self) -> Asked {
        self.asked.lock().unwrap().last().expect("a call").clone()
    }
}

/// A whole answer in JSON.
pub(crate) fn document(json: impl ToString) -> Response<Body> {
    let body = Full::new(Bytes::from(json.to_string())).boxed_unsync();
    Response::builder().header("content-type", "application/json").body(body).unwrap()
}

/// The end of a body that a test feeds; dropped, the body ends cleanly.
pub(crate) struct Feed(mpsc::Sender<Result<Frame<Bytes>, Infallible>>);

impl Feed {
    pub(crate) async fn send(&self, chunk: impl Into<Bytes>) {
        self.0.send(Ok(Frame::data(chunk.into()))).await.unwrap_or_else(|_| panic!("nobody reads"));
    }
}

pub(crate) fn fed() -> (Feed, Body) {
    let (feed, frames) = mpsc::channel(64);
    (Feed(feed), StreamBody::new(ReceiverStream::new(frames)).boxed_unsync())
}

/// An event stream that a test feeds.
pub(crate) fn events() -> (Feed, Response<Body>) {
    let (feed, body) = fed();
    (feed, Response::builder().header("content-type", "text/event-stream").body(body).unwrap())
}

/// The next piece of a body.
pub(crate) async fn next(body: &mut Incoming) -> Option<Bytes> {
    body.frame().await.map(|frame| frame.unwrap().into_data().unwrap())
}

pub(crate) const CHAT: &str = "/v1/chat/completions";

pub(crate) fn chat(question: &str) -> Request<Body> {
    post(CHAT, serde_json::json!({"model": "gpt-4o", "messages": [{"role": "user", "content": question}]}))
}

/// An address at which nobody listens.
pub(crate) async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
