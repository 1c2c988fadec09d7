//! For clients that are services over requests and responses of their own.
//!
//! The cache speaks `http::Request` and `http::Response`. So do hyper-util's client and tonic's channel. reqwest's client has types of its
//! own, which convert from and to these: one line, and the cache goes around it.
//!
//! ```
//! use tower::ServiceBuilder;
//! use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, convert::ConvertLayer, store::Memory};
//!
//! # let _ = rustls::crypto::ring::default_provider().install_default();
//! let client = ServiceBuilder::new()
//!     .layer(CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::PerCredential)))
//!     .layer(ConvertLayer::new(reqwest::Body::wrap))
//!     .service(reqwest::Client::new());
//! # async fn ask(client: impl tower::Service<http::Request<reqwest::Body>>) {}
//! # let _ = ask(client);
//! ```

use std::{
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

/// Puts a [`Convert`] in front of a client.
pub struct ConvertLayer<F, Req, RB> {
    wrap: F,
    types: PhantomData<fn(Req) -> RB>,
}

impl<F, Req, RB> ConvertLayer<F, Req, RB> {
    /// A layer that makes bodies of the client's own with `wrap`.
    pub const fn new(wrap: F) -> Self {
        Self { wrap, types: PhantomData }
    }
}

impl<S, F, Req, RB> Layer<S> for ConvertLayer<F, Req, RB>
where
    F: Clone,
{
    type Service = Convert<S, F, Req, RB>;

    fn layer(&self, inner: S) -> Self::Service {
        Convert { inner, wrap: self.wrap.clone(), types: PhantomData }
    }
}

/// A client that takes `http::Request` and gives `http::Response`.
///
/// A request that the client's own type cannot hold, such as one without an absolute URI, fails with the client's error.
pub struct Convert<S, F, Req, RB> {
    inner: S,
    wrap: F,
    types: PhantomData<fn(Req) -> RB>,
}

impl<S, F, Req, RB, B, W> Service<Request<B>> for Convert<S, F, Req, RB>
where
    S: Service<Req>,
    S::Response: Into<Response<RB>>,
    F: FnMut(B) -> W,
    Request<W>: TryInto<Req>,
    <Request<W> as TryInto<Req>>::Error: Into<S::Error>,
{
    type Response = Response<RB>;
    type Error = S::Error;
    type Future = ConvertFuture<S::Future, S::Error, RB>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let kind = match request.map(&mut self.wrap).try_into() {
            Ok(request) => Kind::Call { call: self.inner.call(request) },
            Err(error) => Kind::Refused { error: Some(error.into()) },
        };
        ConvertFuture { kind, types: PhantomData }
    }
}

pin_project! {
    /// The response of a [`Convert`], to come.
    pub struct ConvertFuture<Fut, E, RB> {
        #[pin]
        kind: Kind<Fut, E>,
        types: PhantomData<fn() -> RB>,
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind<Fut, E> {
        Call { #[pin] call: Fut },
        Refused { error: Option<E> },
    }
}

impl<Fut, R, E, RB> Future for ConvertFuture<Fut, E, RB>
where
    Fut: Future<Output = Result<R, E>>,
    R: Into<Response<RB>>,
{
    type Output = Result<Response<RB>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().kind.project() {
            KindProjection::Call { call } => ready!(call.poll(cx)).map(Into::into),
            KindProjection::Refused { error } => {
                let Some(error) = error.take() else { unreachable!("a future is not polled after it is ready") };
                Err(error)
            }
        })
    }
}

impl<S, F, Req, RB> Clone for Convert<S, F, Req, RB>
where
    S: Clone,
    F: Clone,
{
    fn clone(&self) -> Self {
        let Self { inner, wrap, types } = self;
        Self { inner: inner.clone(), wrap: wrap.clone(), types: *types }
    }
}

impl<F, Req, RB> Clone for ConvertLayer<F, Req, RB>
where
    F: Clone,
{
    fn clone(&self) -> Self {
        let Self { wrap, types } = self;
        Self { wrap: wrap.clone(), types: *types }
    }
}

impl<S, F, Req, RB> fmt::Debug for Convert<S, F, Req, RB>
where
    S: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Convert").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<F, Req, RB> fmt::Debug for ConvertLayer<F, Req, RB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConvertLayer(..)")
    }
}

impl<Fut, E, RB> fmt::Debug for ConvertFuture<Fut, E, RB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConvertFuture(..)")
    }
}
