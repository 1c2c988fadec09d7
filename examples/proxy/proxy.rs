//! From a request on a connection to its answer.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use tower::ServiceExt as _;
use tower_response_cache::{BoxError, Cache, HttpPolicy, store::Store};

use crate::{
    fields,
    listener::{ArrivalError, Arriving, names_one_host},
    origin::{Origin, OriginError},
};

pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A cache with the manners of a proxy around it.
pub struct Proxy<St> {
    cache: Cache<Origin, St, HttpPolicy>,
    via: Arc<str>,
    forwarded: bool,
}

impl<St> Clone for Proxy<St> {
    fn clone(&self) -> Self {
        let Self { cache, via, forwarded } = self;
        Self { cache: cache.clone(), via: Arc::clone(via), forwarded: *forwarded }
    }
}

impl<St> Proxy<St>
where
    St: Store,
{
    pub fn new(cache: Cache<Origin, St, HttpPolicy>, name: &str, forwarded: bool) -> Result<Self, BoxError> {
        HeaderValue::from_str(name)?;
        Ok(Self { cache, via: name.into(), forwarded })
    }

    pub async fn answer(&self, request: Request<Arriving>, peer: SocketAddr) -> Result<Response<Body>, Infallible> {
        if request.method() == Method::CONNECT || request.uri().path() == "*" {
            return Ok(plain(StatusCode::NOT_IMPLEMENTED, "this proxy forwards to one origin, and answers for nothing else"));
        }
        let (mut parts, body) = request.into_parts();
        if !names_one_host(&parts) {
            return Ok(plain(StatusCode::BAD_REQUEST, "a request has to name one host"));
        }
        if let Err(problem) = fields::forward(&mut parts, &self.via, self.forwarded.then_some(peer), self.cache.inner().authority()) {
            return Ok(plain(StatusCode::BAD_REQUEST, problem));
        }
        let mut response = match self.cache.clone().oneshot(Request::from_parts(parts, body)).await {
            Ok(response) => response.map(|body| body.boxed_unsync()),
            Err(error) => {
                tracing::warn!(error = %error, source = std::error::Error::source(&error).map(tracing::field::display));
                match error {
                    OriginError::Slow => plain(StatusCode::GATEWAY_TIMEOUT, "the origin took too long to answer"),
                    OriginError::Broken(error) => match ArrivalError::behind(&*error) {
                        Some(arrival) => unasked(arrival),
                        None => plain(StatusCode::BAD_GATEWAY, "the origin gave no answer that makes sense"),
                    },
                }
            }
        };
        let received = response.version();
        fields::answer(response.headers_mut(), received, &self.via);
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }
}

/// An answer of the proxy's own.
pub fn plain(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut text = text.into();
    text.push('\n');
    let mut response = Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// To whoever did not send all of a request.
fn unasked(arrival: &ArrivalError) -> Response<Body> {
    let status = match arrival {
        ArrivalError::Broken(_) => StatusCode::BAD_REQUEST,
        ArrivalError::Idle(_) => StatusCode::REQUEST_TIMEOUT,
        ArrivalError::Draining => StatusCode::SERVICE_UNAVAILABLE,
    };
    plain(status, arrival.to_string())
}
