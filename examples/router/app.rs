//! The parts put together: two listeners around one cache, and their end.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::Layer as _;
use tower_response_cache::{
    ApiPolicy, CacheLayer, Handle,
    observe::{TracingObserver, analytics::Analytics},
    store::BoxStore,
};

use super::{
    admin,
    client::Client,
    config::{Settings, Shared},
    gateway::Gateway,
    listener::Listeners,
    metrics::Metrics,
    store,
};

/// A router that serves.
pub(crate) struct App {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    handle: Handle<BoxStore, ApiPolicy>,
    analytics: Analytics,
    listeners: Listeners,
}

/// How long pending writes get at the end, even if open responses took all the time there was.
const LEAST_FOR_WRITES: Duration = Duration::from_secs(1);

/// So many of the newest requests are kept in Redis.
const RECORDS: usize = 100_000;

/// How long a request waits for another's call where upstreams have no bound.
const PATIENCE: Duration = Duration::from_secs(600);

impl App {
    /// Starts to serve. What it returns accepts connections already.
    pub(crate) async fn start(settings: Settings) -> Result<Self, StartError> {
        let tenant = match &settings.sharing {
            Shared::Header(name) => Some(name.clone()),
            _ => None,
        };
        let client = Client::new(&settings, tenant.clone())?;
        let (store, redis) = store::open(&settings)?;
        let mut analytics = Analytics::builder().keep(settings.metrics_ttl);
        if tenant.is_some() {
            analytics = analytics.label("tenant");
        }
        if let Some(redis) = redis {
            analytics = analytics.redis(redis, RECORDS, settings.metrics_ttl);
        }
        let analytics = analytics.spawn();
        let metrics = Metrics::new();
        // An answer that takes minutes is paid for: who asks for the same waits for it as long as the one who asked first.
        let layer = CacheLayer::new(store, store::policy(&settings))
            .patience(settings.upstream_timeout.unwrap_or(PATIENCE))
            .read_only(settings.read_only)
            .ttl_jitter(settings.ttl_jitter)
            .cost(settings.prices)
            .cost_headers(settings.cost_headers)
            .observer(TracingObserver)
            .observer(analytics.clone())
            .observer(metrics.observer());
        let handle = layer.handle();

        let listener = listen(settings.listen, "--listen").await?;
        let admin_listener = listen(settings.admin_listen, "--admin-listen").await?;
        let (public, admin) = (address(&listener)?, address(&admin_listener)?);
        tracing::info!(
            models = settings.directory.describe(),
            store = store::describe(&settings.store),
            sharing = ?settings.sharing,
            ttl_seconds = settings.ttl.as_secs(),
            trusted_headers = settings.trust.is_some(),
            admin_token = settings.admin_token.is_some(),
            "routing"
        );

        if !settings.idle.is_empty() {
            tracing::warn!(settings = settings.idle.join("; "), "these settings have no effect, or leave nothing to the cache");
        }

        let stop = CancellationToken::new();
        let listeners = Listeners::new(settings.body_idle, stop.clone());
        let gateway = Gateway::new(layer.layer(client), settings.directory, settings.max_request, tenant);
        let admin_router =
            TowerToHyperService::new(admin::router(handle.clone(), analytics.clone(), metrics.clone(), settings.admin_token.as_deref()));
        listeners.serve(listener, move |_| gateway.clone());
        listeners.serve(admin_listener, move |_| admin_router.clone());
        tokio::spawn(stop.run_until_cancelled_owned(metrics.keep_up()));
        tokio::spawn({
            let handle = handle.clone();
            async move {
                if handle.stats().await.store.is_none() {
                    tracing::warn!("the store does not answer: until it does, requests go to their upstreams");
                }
            }
        });
        Ok(Self { public, admin, handle, analytics, listeners })
    }

    /// Accepts nothing more, lets open responses and pending writes finish within the bound, and says whether they did.
    pub(crate) async fn drain(self, within: Duration) -> bool {
        let start = Instant::now();
        let answered = self.listeners.drain(within).await;
        // The store is what carries them, and ends with the cache. Its own deadlines bound this.
        self.analytics.flush().await;
        let written = self.handle.shutdown(within.saturating_sub(start.elapsed()).max(LEAST_FOR_WRITES)).await;
        answered && written
    }
}

async fn listen(address: SocketAddr, option: &str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::run(format!("cannot listen on {address} ({option}): {error}")))
}

fn address(listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|error| StartError::run(format!("cannot tell the address of a listener: {error}")))
}

/// Why the router does not run, in one line.
#[derive(Debug)]
pub(crate) struct StartError {
    usage: bool,
    message: String,
}

impl StartError {
    /// What it was told is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { usage: true, message: message.into() }
    }

    /// What it was told cannot be done here and now.
    pub(crate) fn run(message: impl Into<String>) -> Self {
        Self { usage: false, message: message.into() }
    }

    pub(crate) fn is_usage(&self) -> bool {
        self.usage
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}
