//! The service under the cache, and what becomes of a call of it.

use std::{any::Any, future::Future, pin::Pin, sync::Arc};

use http::{Request, Response, StatusCode, request, response};
use http_body::Body;
use tower::Service;

use crate::{
    body::{RequestBody, Whole, tape::Reader},
    entry::Entry,
    error::BoxError,
    flight::Live,
};

/// A service that a cache can stand in front of.
pub(crate) trait Upstream<B>:
    Service<Request<RequestBody<B>>, Response = Response<Self::ResponseBody>, Error: Send + 'static, Future: Send + 'static>
    + Clone
    + Send
    + 'static
where
    B: Body,
{
    type ResponseBody: Body<Error: Into<BoxError>> + Send + 'static;
}

impl<S, B, RB> Upstream<B> for S
where
    S: Service<Request<RequestBody<B>>, Response = Response<RB>, Error: Send + 'static, Future: Send + 'static> + Clone + Send + 'static,
    B: Body,
    RB: Body<Error: Into<BoxError>> + Send + 'static,
{
    type ResponseBody = RB;
}

/// A body that a cache can buffer.
pub(crate) trait Upload: Body<Data: Send, Error: Send + 'static> + Send + 'static {}

impl<B> Upload for B where B: Body<Data: Send, Error: Send + 'static> + Send + 'static {}

/// What became of an upstream call, for the one who leads it.
pub(crate) enum Opening<RB, E> {
    /// The response is on its way; `upstream` is the status of the upstream's own, of which it may be a part.
    Live { head: response::Parts, upstream: StatusCode, reader: Reader, storing: bool },
    /// The response is on its way in another process, and from there to here.
    Joined { live: Arc<Live>, reader: Reader },
    /// What is stored still holds.
    Freshened(Arc<Entry>),
    /// Another process made the answer. The request comes back.
    LookAgain { request: Box<request::Parts>, body: Whole },
    /// There is none.
    Failed(Failure<E>),
    /// The cache shuts down: the call goes on without it.
    Yours(Call<RB, E>),
}

/// Why there is no response.
pub(crate) enum Failure<E> {
    /// The inner service failed.
    Error(E),
    /// It panicked.
    Panic(Box<dyn Any + Send>),
    /// It answered with a failure that a stale answer stands in for.
    Response,
}

impl<E> Failure<E> {
    pub(crate) fn is_response(&self) -> bool {
        matches!(self, Self::Response)
    }
}

/// A call of the inner service, guarded against panics.
pub(crate) type Call<RB, E> = Pin<Box<dyn Future<Output = Result<Result<Response<RB>, E>, Box<dyn Any + Send>>> + Send>>;

/// The head of a request without its extensions, for decisions that come after it went upstream.
pub(crate) fn head_of(request: &request::Parts) -> request::Parts {
    let mut head = Request::new(()).into_parts().0;
    head.method = request.method.clone();
    head.uri = request.uri.clone();
    head.version = request.version;
    head.headers = request.headers.clone();
    head
}

/// The head of a response without its extensions.
pub(crate) fn response_head_of(response: &response::Parts) -> response::Parts {
    let mut head = Response::new(()).into_parts().0;
    head.status = response.status;
    head.version = response.version;
    head.headers = response.headers.clone();
    head
}
