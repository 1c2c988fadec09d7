use std::{fmt, sync::Arc, time::Duration};

use http::HeaderValue;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Layer;

use crate::{
    body::tape::Budget,
    clock::Clock,
    cost::{Call, CostModel, NanoUsd},
    flight::Flights,
    flow::contain,
    handle::Handle,
    key::Envelope,
    observe::{Counters, Observer, Sink},
    policy::Bypass,
    service::Cache,
    status::{CacheStatus, Outcome},
};

/// Puts a [`Cache`] in front of a service.
///
/// The two things that are a decision have no default: where answers are kept, and what may be shared with whom.
///
/// ```
/// use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, store::Memory};
///
/// let layer = CacheLayer::new(Memory::new(64 << 20), ApiPolicy::new(Sharing::PerCredential));
/// # let _ = layer;
/// ```
///
/// Clones, and all services made from them, share one store and one table of requests in flight.
pub struct CacheLayer<St, P> {
    pub(crate) shared: Shared<St, P>,
}

impl<St, P> CacheLayer<St, P> {
    /// A layer that keeps answers in `store`, as `policy` says.
    pub fn new(store: St, policy: P) -> Self {
        Self { shared: Shared { core: Arc::new(Core::new(store, policy)), settings: Arc::default() } }
    }

    /// Sets a namespace, which goes into every key: caches of different namespaces share nothing, even on one store.
    /// Default: empty.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.settings().envelope = Envelope::new(namespace);
        self
    }

    /// Adds an observer, which is told what happens to each request. Default: none.
    #[must_use]
    pub fn observer(mut self, observer: impl Observer) -> Self {
        let settings = self.settings();
        settings.observers = settings.observers.iter().cloned().chain([Arc::new(observer) as Arc<dyn Observer>]).collect();
        self
    }

    /// Sets what calls cost, and with it what answers from the cache save: see [`cost`](crate::cost). Default: nothing is known of that.
    #[must_use]
    pub fn cost(mut self, model: impl CostModel) -> Self {
        self.settings().cost = Some(Arc::new(model));
        self
    }

    /// Tells callers what an answer from the cache cost, `x-cache-cost-usd: 0`, and, where it is known, what it saved: `x-cache-saved-usd: 0.00071`. Of answers from upstream the cost is known only
    /// when they have ended. Default: off.
    #[must_use]
    pub fn cost_headers(mut self, on: bool) -> Self {
        self.settings().cost_headers = on;
        self
    }

    /// Sets how long a request waits for the response head of an upstream call that another request made, before it makes one of
    /// its own. Default: 60 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.settings().patience = patience;
        self
    }

    /// Lets identical requests in flight share one upstream call. Default: on.
    #[must_use]
    pub fn collapse(mut self, collapse: bool) -> Self {
        self.settings().collapse = collapse;
        self
    }

    /// Sets how long a reader may hold up the others on a response that is too long to keep, before it is cut off with an error. Default: 10 s.
    #[must_use]
    pub fn stall_limit(mut self, limit: Duration) -> Self {
        self.settings().stall_limit = limit;
        self
    }

    /// Sets the name under which the cache appears in `cache-status` (RFC 9211). It has to be a token. Default: `tower-response-cache`.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        let settings = self.settings();
        settings.name = name.into();
        settings.bypass_status = bypass_status(&settings.name);
        self
    }

    /// Sends `cache-status` (RFC 9211) with every response. Default: on.
    #[must_use]
    pub fn status_header(mut self, on: bool) -> Self {
        self.settings().status_header = on;
        self
    }

    /// Shows the key in `cache-status`, with which an entry can be invalidated. Default: off.
    #[must_use]
    pub fn show_key(mut self, on: bool) -> Self {
        self.settings().show_key = on;
        self
    }

    /// Sets the source of time. Default: the system's.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings().clock = clock;
        self
    }

    /// What can be done with the cache from outside the path of requests.
    pub fn handle(&self) -> Handle<St, P> {
        Handle { shared: self.shared.clone() }
    }

    fn settings(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.shared.settings)
    }
}

impl<St, P> Clone for CacheLayer<St, P> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<St, P> fmt::Debug for CacheLayer<St, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheLayer").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl<S, St, P> Layer<S> for CacheLayer<St, P> {
    type Service = Cache<S, St, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Cache { inner, shared: self.shared.clone() }
    }
}

/// What all services of one layer have in common.
pub(crate) struct Shared<St, P> {
    pub(crate) core: Arc<Core<St, P>>,
    pub(crate) settings: Arc<Settings>,
}

impl<St, P> Clone for Shared<St, P> {
    fn clone(&self) -> Self {
        let Self { core, settings } = self;
        Self { core: Arc::clone(core), settings: Arc::clone(settings) }
    }
}

/// State.
pub(crate) struct Core<St, P> {
    pub(crate) store: St,
    pub(crate) policy: P,
    pub(crate) flights: Arc<Flights>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) budget: Arc<Budget>,
    /// Fills that may go on although nobody waits for them.
    pub(crate) orphans: Arc<Semaphore>,
    /// Refreshes in the background.
    pub(crate) refreshes: Arc<Semaphore>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl<St, P> Core<St, P> {
    fn new(store: St, policy: P) -> Self {
        Self {
            store,
            policy,
            flights: Arc::new(Flights::new()),
            counters: Arc::default(),
            budget: Budget::new(IN_FLIGHT),
            orphans: Arc::new(Semaphore::new(ORPHANS)),
            refreshes: Arc::new(Semaphore::new(REFRESHES)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }
}

/// Bytes that all responses on their way may hold together before further ones are streamed without being recorded.
const IN_FLIGHT: usize = 256 << 20;

/// Fills that may go on at a time although nobody waits for them.
const ORPHANS: usize = 64;

/// Refreshes in the background at a time.
const REFRESHES: usize = 256;

/// Settings.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) envelope: Envelope,
    pub(crate) observers: Arc<[Arc<dyn Observer>]>,
    pub(crate) cost: Option<Arc<dyn CostModel>>,
    pub(crate) cost_headers: bool,
    pub(crate) patience: Duration,
    pub(crate) collapse: bool,
    pub(crate) stall_limit: Duration,
    pub(crate) name: Arc<str>,
    pub(crate) status_header: bool,
    pub(crate) show_key: bool,
    pub(crate) clock: Clock,
    bypass_status: Arc<[HeaderValue]>,
}

/// `cache-status` for every kind of bypass, made beforehand: a bypass allocates nothing.
fn bypass_status(name: &str) -> Arc<[HeaderValue]> {
    let status = |reason: &Bypass| CacheStatus::of(Outcome::Bypass(*reason)).member(name, false);
    Bypass::ALL.iter().map(|reason| status(reason).unwrap_or(HeaderValue::from_static("tower-response-cache; fwd=bypass"))).collect()
}

impl Settings {
    /// What a call costs, if there is a model and it knows. What it does not know is counted.
    pub(crate) fn price(&self, counters: &Counters, call: &Call<'_>) -> Option<NanoUsd> {
        let model = self.cost.as_ref()?;
        let cost = contain(counters, || model.cost(call)).flatten();
        if cost.is_none() {
            counters.unpriced.add(1);
        }
        cost
    }

    pub(crate) fn bypass_status(&self, reason: Bypass) -> HeaderValue {
        self.bypass_status[reason as usize].clone()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            envelope: Envelope::new(""),
            observers: Arc::default(),
            cost: None,
            cost_headers: false,
            patience: Duration::from_secs(60),
            collapse: true,
            stall_limit: Duration::from_secs(10),
            name: Arc::from("tower-response-cache"),
            status_header: true,
            show_key: false,
            clock: Clock::system(),
            bypass_status: bypass_status("tower-response-cache"),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("observers", &self.observers.len())
            .field("cost", &self.cost.is_some())
            .field("cost_headers", &self.cost_headers)
            .field("patience", &self.patience)
            .field("collapse", &self.collapse)
            .field("stall_limit", &self.stall_limit)
            .field("name", &self.name)
            .field("status_header", &self.status_header)
            .field("show_key", &self.show_key)
            .finish_non_exhaustive()
    }
}

impl<St, P> Shared<St, P> {
    pub(crate) fn sink(&self) -> Sink {
        Sink {
            counters: Arc::clone(&self.core.counters),
            settings: Arc::clone(&self.settings),
            #[cfg(feature = "tracing")]
            span: if self.settings.observers.is_empty() { tracing::Span::none() } else { tracing::Span::current() },
        }
    }
}
