//! The way to the upstreams: the service that the cache asks.

use std::{
    error::Error as _,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response, StatusCode, Uri, Version, header, uri::PathAndQuery};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::time::timeout;
use tower::{Service, ServiceExt as _};
use tower_response_cache::{
    BoxError, RequestBody,
    key::{CREDENTIAL_HEADERS, CREDENTIAL_PARAMETERS},
};

use super::{
    app::StartError,
    body::{Answer, Upload},
    cli::SimulatorPace,
    config::Settings,
    listener::ArrivalError,
    problem::Problem,
    simulator::{Pace, Simulator},
    upstream::{Destination, Upstream},
};

type Body = RequestBody<Upload>;

/// Asks the upstream that a request's [`Target`] names.
///
/// Nothing is asked twice. The one exception is harmless: a pooled connection that turns out to be closed before a byte of the request went out is replaced.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    http: legacy::Client<Connect, Body>,
    simulator: Simulator,
    /// Until the head of an answer.
    patience: Option<Duration>,
    /// Fields that are for the router and nobody behind it.
    internal: Option<http::HeaderName>,
}

/// Whom a request is for; travels in its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Target(pub(crate) Arc<Upstream>);

impl Client {
    pub(crate) fn new(settings: &Settings, internal: Option<http::HeaderName>) -> Result<Self, StartError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(settings.connect_timeout));
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls(settings)?).https_or_http().enable_http1().enable_http2().wrap_connector(tcp);
        let http = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .build(Connect { https, patience: settings.connect_timeout });
        let pace = match settings.pace {
            SimulatorPace::Realistic => Pace::default(),
            SimulatorPace::Instant => Pace::instant(),
        };
        Ok(Self(Arc::new(Inner { http, simulator: Simulator::new(pace), patience: settings.upstream_timeout, internal })))
    }
}

/// TLS as the platform verifies it. Certificates are only looked for where an upstream needs them.
fn tls(settings: &Settings) -> Result<ClientConfig, StartError> {
    let failed = |error: rustls::Error| {
        StartError::run(format!("TLS cannot be set up: {error}; are the system's root certificates installed (`ca-certificates`)?"))
    };
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(failed)?;
    let is_https = |upstream: &Arc<Upstream>| matches!(&upstream.destination, Destination::Http(base) if base.is_https());
    if settings.directory.all().any(is_https) {
        Ok(builder.with_platform_verifier().map_err(failed)?.with_no_client_auth())
    } else {
        Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
    }
}

impl Inner {
    async fn ask(&self, request: Request<Body>) -> Result<Response<Answer>, Failure> {
        let (mut head, body) = request.into_parts();
        let Some(Target(upstream)) = head.extensions.remove::<Target>() else { return Err(Failure::new("", Kind::Broken)) };
        if let Some(name) = &self.internal {
            head.headers.remove(name);
        }
        if upstream.has_credentials() {
            for name in CREDENTIAL_HEADERS {
                head.headers.remove(*name);
            }
            if let Some(uri) = without_credentials(&head.uri) {
                head.uri = uri;
            }
        }
        for (name, value) in &upstream.headers {
            head.headers.insert(name.clone(), value.clone());
        }
        let call = async {
            match &upstream.destination {
                Destination::Simulator => {
                    let request = Request::from_parts(head, body);
                    let mut response = self.simulator.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
                    // In one process no body breaks off unnoticed: each says that it ends, as in HTTP/2.
                    *response.version_mut() = Version::HTTP_2;
                    Ok(response.map(Answer::Simulated))
                }
                Destination::Http(base) => {
                    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
                    head.uri = base.join(&path).map_err(|_| Failure::new(&upstream.name, Kind::Broken))?;
                    // The client sets both as the connection needs them.
                    head.headers.remove(header::HOST);
                    head.version = Version::HTTP_11;
                    let response = self.http.request(Request::from_parts(head, body)).await;
                    let response = response.map_err(|error| Failure::of(&upstream.name, error))?;
                    // Nobody asked for it: `Upgrade` is not forwarded.
                    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                        let detail = "101 without a request to upgrade".to_owned();
                        return Err(Failure { detail, ..Failure::new(&upstream.name, Kind::Broken) });
                    }
                    Ok(response.map(Answer::Http))
                }
            }
        };
        match self.patience {
            None => call.await,
            Some(patience) => timeout(patience, call).await.unwrap_or_else(|_| Err(Failure::new(&upstream.name, Kind::Silent))),
        }
        .inspect_err(|failure| tracing::warn!(upstream = failure.upstream, error = failure.detail, "{failure}"))
    }
}

/// The URI without query parameters that carry credentials; `None` if it has none.
fn without_credentials(uri: &Uri) -> Option<Uri> {
    let is_credential = |part: &&str| {
        let name = part.split_once('=').map_or(*part, |(name, _)| name);
        CREDENTIAL_PARAMETERS.iter().any(|credential| name.eq_ignore_ascii_case(credential))
    };
    let query = uri.query()?;
    if !query.split('&').any(|part| is_credential(&part)) {
        return None;
    }
    let kept: Vec<&str> = query.split('&').filter(|part| !is_credential(part)).collect();
    let path = uri.path();
    if kept.is_empty() { path.parse().ok() } else { format!("{path}?{}", kept.join("&")).parse().ok() }
}

impl Service<Request<Body>> for Client {
    type Response = Response<Answer>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { inner.ask(request).await })
    }
}

/// Why an upstream did not answer.
#[derive(Debug)]
pub(crate) struct Failure {
    upstream: String,
    kind: Kind,
    /// For the log alone.
    detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Unreachable,
    /// Connecting took too long.
    Slow,
    /// Its answer did not begin in time.
    Silent,
    /// It hung up, or spoke nonsense.
    Broken,
    /// It was never asked in whole.
    Unasked(Problem),
}

impl Failure {
    fn new(upstream: &str, kind: Kind) -> Self {
        Self { upstream: upstream.to_owned(), kind, detail: String::new() }
    }

    fn of(upstream: &str, error: legacy::Error) -> Self {
        if let Some(arrival) = ArrivalError::behind(&error) {
            return Self::new(upstream, Kind::Unasked(arrival.into()));
        }
        let mut detail = error.to_string();
        let mut kind = if error.is_connect() { Kind::Unreachable } else { Kind::Broken };
        let mut source = error.source();
        while let Some(error) = source {
            detail = format!("{detail}: {error}");
            if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut) {
                kind = Kind::Slow;
            }
            source = error.source();
        }
        Self { upstream: upstream.to_owned(), kind, detail }
    }

    pub(crate) fn problem(&self) -> Problem {
        let (status, code) = match &self.kind {
            Kind::Unasked(problem) => return problem.clone(),
            Kind::Unreachable => (StatusCode::BAD_GATEWAY, "upstream_unreachable"),
            Kind::Broken => (StatusCode::BAD_GATEWAY, "upstream_failed"),
            Kind::Slow | Kind::Silent => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"),
        };
        Problem::new(status, code, self.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.kind {
            Kind::Unreachable => "cannot be reached",
            Kind::Slow => "could not be connected to in time",
            Kind::Silent => "did not begin to answer in time",
            Kind::Broken => "broke off before it answered, or made no sense",
            Kind::Unasked(problem) => return write!(f, "the upstream `{}` was not asked: {}", self.upstream, problem.message),
        };
        write!(f, "the upstream `{}` {what}", self.upstream)
    }
}

impl std::error::Error for Failure {}

/// Connects within a bound, TLS included.
#[derive(Clone)]
struct Connect {
    https: HttpsConnector<HttpConnector>,
    patience: Duration,
}

impl Service<Uri> for Connect {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = timeout(self.patience, self.https.call(uri));
        Box::pin(async move {
            connecting.await.unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "connecting took too long").into()))
        })
    }
}
