//! The origin, as a service.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode, Uri, uri};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::time::timeout;
use tower::Service;
use tower_response_cache::{BoxError, RequestBody};

use crate::listener::Arriving;

/// How long a connection is kept for the next request. Short: a request on a connection that the origin is about to close fails, and nothing here
/// asks twice.
const IDLE: Duration = Duration::from_secs(1);

/// Forwards requests to one origin.
#[derive(Clone)]
pub struct Origin {
    client: Client<HttpsConnector<HttpConnector>, RequestBody<Arriving>>,
    scheme: uri::Scheme,
    authority: uri::Authority,
    patience: Duration,
}

/// Why there is no response.
#[derive(Debug)]
pub enum OriginError {
    /// The origin was not reached, or broke off, or what it said is not HTTP.
    Broken(BoxError),
    /// It took too long.
    Slow,
}

/// An origin, as the command line names it: what comes after its authority would be lost.
pub fn base(text: &str) -> Result<Uri, &'static str> {
    let uri: Uri = text.parse().map_err(|_| "not a URL, as in http://127.0.0.1:8000")?;
    let authority = uri.authority().ok_or("a URL without a host")?;
    if !matches!(uri.scheme_str(), None | Some("http" | "https")) {
        return Err("neither an http nor an https URL");
    }
    if authority.as_str().contains('@') {
        return Err("a URL with credentials in it, which would not be sent");
    }
    let port = authority.as_str().strip_prefix(authority.host()).map(|port| port.trim_start_matches(':'));
    if authority.host().is_empty() || port.is_none_or(|port| !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0)) {
        return Err("a URL without a host, or whose port is none");
    }
    if uri.path_and_query().is_some_and(|path| path != "/") {
        return Err("a URL with a path, which would not be sent: requests keep theirs");
    }
    Ok(uri)
}

impl Origin {
    pub fn new(origin: &Uri, http2: bool, patience: Duration) -> Result<Self, BoxError> {
        let scheme = origin.scheme().cloned().unwrap_or(uri::Scheme::HTTP);
        let authority = origin.authority().cloned().ok_or("the origin has no host")?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(Duration::from_secs(5)));
        let tls = tls(scheme == uri::Scheme::HTTPS)?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().enable_http2().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .retry_canceled_requests(false)
            .set_host(false)
            .http2_only(http2)
            .build(connector);
        Ok(Self { client, scheme, authority, patience })
    }

    /// Whom a request is for that does not say it.
    pub fn authority(&self) -> &uri::Authority {
        &self.authority
    }
}

/// TLS as the platform verifies it. Certificates are only looked for where they are needed.
fn tls(needed: bool) -> Result<ClientConfig, BoxError> {
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into()).with_safe_default_protocol_versions()?;
    Ok(if needed {
        builder.with_platform_verifier()?.with_no_client_auth()
    } else {
        builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth()
    })
}

impl Service<Request<RequestBody<Arriving>>> for Origin {
    type Response = Response<Incoming>;
    type Error = OriginError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, OriginError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), OriginError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<RequestBody<Arriving>>) -> Self::Future {
        // The `Host` field goes on saying what the caller asked for.
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        let call = Uri::from_parts(parts).map(|uri| {
            *request.uri_mut() = uri;
            self.client.request(request)
        });
        let patience = self.patience;
        Box::pin(async move {
            let call = call.map_err(|error| OriginError::Broken(error.into()))?;
            match timeout(patience, call).await {
                // Nobody asked for it: `Upgrade` is not forwarded.
                Ok(Ok(answer)) if answer.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    Err(OriginError::Broken("101 without a request to upgrade".into()))
                }
                Ok(answer) => answer.map_err(|error| OriginError::Broken(error.into())),
                Err(_) => Err(OriginError::Slow),
            }
        })
    }
}

impl fmt::Display for OriginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Broken(_) => "the origin gave no response",
            Self::Slow => "the origin took too long",
        })
    }
}

impl std::error::Error for OriginError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Broken(error) => Some(&**error),
            Self::Slow => None,
        }
    }
}
