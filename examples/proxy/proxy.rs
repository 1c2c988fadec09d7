//! From a request on a connection to its answer.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use tower_response_cache::{BoxError, Cache, HttpPolicy, store::Store};

use crate::{
    fields,
    interim::{Hints, Lane, Wire},
    listener::{Answers, ArrivalError, Arriving, Listeners, names_one_host},
    origin::{Origin, OriginError},
};

pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// Who is at the other end of a connection, and a way to tell it something before its answer.
#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    lane: Lane,
}

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
    pub fn new(cache: Cache<Origin, St, HttpPolicy>, name: &str, forwarded: bool) -> Self {
        Self { cache, via: name.into(), forwarded }
    }

    pub async fn answer(&self, request: Request<Arriving>, peer: Peer) -> Result<Response<Body>, Infallible> {
        if request.method() == Method::CONNECT || request.uri().path() == "*" {
            return Ok(plain(StatusCode::NOT_IMPLEMENTED, "this proxy forwards to one origin, and answers for nothing else"));
        }
        let (mut parts, body) = request.into_parts();
        if !names_one_host(&parts) {
            return Ok(plain(StatusCode::BAD_REQUEST, "a request has to name one host"));
        }
        let received = parts.version;
        if let Err(problem) = fields::forward(&mut parts, &self.via, self.forwarded.then_some(peer.address), self.cache.inner().authority())
        {
            return Ok(plain(StatusCode::BAD_REQUEST, problem));
        }
        let mut request = Request::from_parts(parts, body);
        // "A server MUST NOT send a 1xx response to an HTTP/1.0 client" (RFC 9110 section 15.2).
        let hints = (received == Version::HTTP_11).then(|| Hints::of(&mut request, &self.via));
        let answer = self.cache.clone().oneshot(request);
        let answer = match hints {
            Some(hints) => hints.until(answer, &peer.lane).await,
            None => answer.await,
        };
        let mut response = match answer {
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

/// Serves HTTP/1.1 and HTTP/2 from now on, with a service for each connection.
pub fn serve<F, S>(listeners: &Listeners, listener: TcpListener, service: F)
where
    F: Fn(Peer) -> S + Send + 'static,
    S: Answers,
{
    listeners.serve_over(listener, move |stream, address| {
        let lane = Lane::default();
        let service = service(Peer { address, lane: lane.clone() });
        (Wire::new(stream, lane), service)
    });
}
