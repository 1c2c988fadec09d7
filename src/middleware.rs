//! The layer as a middleware of `reqwest-middleware`, with reqwest's own way to write requests.
//!
//! The rest of such a chain is lent to a middleware for one request, while an upstream call of the cache belongs to no request: it serves all that wait for
//! it. So the call is made where the chain is at hand, in the future of the request that leads. If that one is dropped before the response head is
//! there, another that waits takes over, as after any failure. Once the head is there, the body goes on by itself.

use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use futures_util::future::{Either, select};
use http::{Extensions, Request, Response};
use reqwest::{Body, ResponseBuilderExt as _};
use reqwest_middleware::{Error, Middleware, Next, Result};
use tokio::sync::{mpsc, oneshot};
use tower::{Layer as _, Service};

use crate::{CacheLayer, CacheOptions, Policy, RequestBody, store::Store};

/// Put it where whatever comes after it, such as retries, is to happen on a miss only.
///
/// [`CacheOptions`] are taken from the extensions of the request (`with_extension`). Responses carry [`CacheStatus`](crate::CacheStatus) in theirs, and the URL that
/// was asked for.
///
/// What needs an upstream call after its request is over does not work here: stale answers are served, and not refreshed in the background. For that,
/// let the cache stand around the client as a tower service ([`convert`](crate::convert)).
///
/// ```
/// use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, store::Memory};
///
/// # let _ = rustls::crypto::ring::default_provider().install_default();
/// let cache = CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::PerCredential));
/// let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).with(cache).build();
/// # let _ = client;
/// ```
#[async_trait::async_trait]
impl<St, P> Middleware for CacheLayer<St, P>
where
    St: Store,
    P: Policy,
{
    async fn handle(&self, request: reqwest::Request, extensions: &mut Extensions, next: Next<'_>) -> Result<reqwest::Response> {
        let url = request.url().clone();
        // Shares the body's bytes; none if it can be read only once.
        let kept = request.try_clone();
        let mut request = Request::<Body>::try_from(request)?;
        if let Some(options) = extensions.remove::<CacheOptions>() {
            request.extensions_mut().insert(options);
        }
        let (relay, mut calls) = mpsc::unbounded_channel();
        let mut answer = self.layer(Relay { calls: relay }).call(request);
        loop {
            // There is one call at a time, two if the first was made on conditions.
            let Relayed { request, reply } = match select(&mut answer, pin!(calls.recv())).await {
                Either::Left((answer, _)) => return Ok(reqwest_response(answer?, url)),
                // The service is gone, and with it all calls: there is nothing to relay any more.
                Either::Right((None, _)) => return Ok(reqwest_response(answer.await?, url)),
                Either::Right((Some(call), _)) => call,
            };
            let request = reqwest_request(request, kept.as_ref())?;
            match select(&mut answer, next.clone().run(request, extensions)).await {
                Either::Left((answer, _)) => return Ok(reqwest_response(answer?, url)),
                // Whoever does not wait for it any more needs nothing.
                Either::Right((response, _)) => drop(reply.send(response)),
            }
        }
    }
}

/// What is all there, or was when it came, can be sent again: after a redirect or by a middleware that retries.
fn reqwest_request(request: Request<RequestBody<Body>>, kept: Option<&reqwest::Request>) -> Result<reqwest::Request> {
    let (head, body) = request.into_parts();
    let body = match (body.as_bytes(), kept.and_then(reqwest::Request::try_clone)) {
        (Some(bytes), _) => Some(bytes.clone().into()),
        (None, Some(mut kept)) => kept.body_mut().take(),
        (None, None) => Some(Body::wrap(body)),
    };
    let mut request = reqwest::Request::try_from(Request::from_parts(head, Body::default()))?;
    *request.body_mut() = body;
    Ok(request)
}

fn reqwest_response<B>(response: Response<B>, url: reqwest::Url) -> reqwest::Response
where
    B: http_body::Body<Data = bytes::Bytes, Error: Into<crate::BoxError>> + Send + Sync + 'static,
{
    let mut response = response.map(Body::wrap);
    if let Ok(with_url) = Response::builder().url(url).body(()) {
        response.extensions_mut().extend(with_url.into_parts().0.extensions);
    }
    response.into()
}

/// A service that has its calls made where the rest of the chain is.
#[derive(Clone)]
struct Relay {
    calls: mpsc::UnboundedSender<Relayed>,
}

struct Relayed {
    request: Request<RequestBody<Body>>,
    reply: oneshot::Sender<Result<reqwest::Response>>,
}

impl Service<Request<RequestBody<Body>>> for Relay {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RequestBody<Body>>) -> Self::Future {
        let (reply, replied) = oneshot::channel();
        let sent = self.calls.send(Relayed { request, reply });
        Box::pin(async move {
            match (sent, replied.await) {
                (Ok(()), Ok(response)) => response.map(Into::into),
                _ => Err(Error::middleware(crate::Error::unavailable("the request that made this call was dropped"))),
            }
        })
    }
}
