//! A scripted inner service, and bodies that a test feeds frame by frame.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, request};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tower::Service;
use tower_response_cache::BoxError;

pub type OriginBody = UnsyncBoxBody<Bytes, OriginError>;
type Reply = Pin<Box<dyn Future<Output = Result<Response<OriginBody>, OriginError>> + Send>>;

/// What an origin fails with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginError(pub String);

impl std::fmt::Display for OriginError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OriginError {}

impl From<&str> for OriginError {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// One call that reached the origin.
pub struct Call {
    /// 1 for the first.
    pub number: usize,
    pub head: request::Parts,
    pub body: Bytes,
    pub trailers: Option<http::HeaderMap>,
}

/// A service that answers as its script says, and counts.
pub struct Origin {
    script: Arc<dyn Fn(Call) -> Reply + Send + Sync>,
    calls: Arc<AtomicUsize>,
    ready: bool,
}

impl Origin {
    pub fn new<F, R>(script: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response<OriginBody>, OriginError>> + Send + 'static,
    {
        Self { script: Arc::new(move |call| Box::pin(script(call))), calls: Arc::default(), ready: false }
    }

    /// Answers with a body that names the call and the request: what a response is an answer to can be told from it.
    pub fn signed() -> Self {
        Self::new(|call| async move {
            let body = format!("call {} to {} with {}", call.number, call.head.uri.path(), String::from_utf8_lossy(&call.body));
            Ok(text(body))
        })
    }

    /// Answers each call with a body of which the test sends the frames: the [`Feed`] of each comes when it is called.
    pub fn fed() -> (Self, mpsc::UnboundedReceiver<Feed>) {
        let (feeds, fed) = mpsc::unbounded_channel();
        let origin = Self::new(move |_| {
            let (feed, response) = streamed();
            feeds.send(feed).expect("the test waits for it");
            async { Ok(response) }
        });
        (origin, fed)
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Clone for Origin {
    /// As with any service, a clone has not been readied.
    fn clone(&self) -> Self {
        Self { script: Arc::clone(&self.script), calls: Arc::clone(&self.calls), ready: false }
    }
}

impl<B> Service<Request<B>> for Origin
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<OriginBody>;
    type Error = OriginError;
    type Future = Reply;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), OriginError>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Reply {
        assert!(std::mem::take(&mut self.ready), "called without having been ready, or twice for one readiness");
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let script = Arc::clone(&self.script);
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let collected = body.collect().await.map_err(|error| OriginError(error.into().to_string()))?;
            let trailers = collected.trailers().cloned();
            script(Call { number, head, body: collected.to_bytes(), trailers }).await
        })
    }
}

/// A whole response, as a client library hands it over.
pub fn text(body: impl Into<Bytes>) -> Response<OriginBody> {
    let body = body.into();
    Response::builder()
        .header("content-type", "text/plain")
        .header("content-length", body.len())
        .body(Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync())
        .unwrap()
}

/// The end that a test feeds: `Ok` frames and errors. Dropped, the body ends cleanly.
pub type Feed = mpsc::Sender<Result<Frame<Bytes>, OriginError>>;

/// A response of which the test sends the frames. It is chunked, as a client library would say.
pub fn streamed() -> (Feed, Response<OriginBody>) {
    let (feed, frames) = mpsc::channel(1024);
    let body = StreamBody::new(ReceiverStream::new(frames)).boxed_unsync();
    let response = Response::builder().header("content-type", "text/plain").header("transfer-encoding", "chunked").body(body).unwrap();
    (feed, response)
}

/// The same with a length, as one that is not chunked has it.
pub fn promised(mut response: Response<OriginBody>, length: u64) -> Response<OriginBody> {
    response.headers_mut().remove("transfer-encoding");
    response.headers_mut().insert("content-length", length.into());
    response
}

pub fn data(chunk: impl Into<Bytes>) -> Result<Frame<Bytes>, OriginError> {
    Ok(Frame::data(chunk.into()))
}
