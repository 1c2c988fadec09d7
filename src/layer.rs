use std::{fmt, sync::Arc, time::Duration};

use tower::Layer;

use crate::{
    clock::Clock,
    cost::CostModel,
    handle::Handle,
    key::Envelope,
    observe::Observer,
    policy::Policy,
    service::Cache,
    shared::{Core, Settings, Shared},
    store::Store,
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

impl<St, P> CacheLayer<St, P>
where
    P: Policy,
{
    /// A layer that keeps answers in `store`, as `policy` says.
    pub fn new(store: St, policy: P) -> Self {
        let settings = Arc::new(Settings::of(&policy));
        Self { shared: Shared { core: Arc::new(Core::new(store, policy, Arc::clone(&settings.counters))), settings } }
    }
}

impl<St, P> CacheLayer<St, P> {
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

    /// Serves what is stored, and stores nothing: no answers, no refreshes, no leases. Requests that ask for a refresh bypass the cache. What is removed is
    /// removed all the same: by a [`Handle`], and by unsafe requests (RFC 9111 section 4.4). For a process that shares a store with those that fill it,
    /// or a deployment that is to change nothing. Default: off.
    #[must_use]
    pub fn read_only(mut self, on: bool) -> Self {
        self.settings().read_only = on;
        self
    }

    /// Shortens the time for which each stored answer is fresh by a part of it at random, up to this fraction, so that answers that were stored together
    /// do not all go stale together. Never lengthens it. A fraction is from 0 to 1. Default: 0.
    #[must_use]
    pub fn ttl_jitter(mut self, fraction: f64) -> Self {
        self.settings().ttl_jitter = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        self
    }

    /// Sets how long a reader may hold up the others on a response that is too long to keep, before it is cut off with an error: so long it may take to read what is held
    /// back for it, 1 MiB, or 64 KiB where memory is short. Default: 10 s.
    #[must_use]
    pub fn stall_limit(mut self, limit: Duration) -> Self {
        self.settings().stall_limit = limit;
        self
    }

    /// Sets the name under which the cache appears in `cache-status` (RFC 9211). It has to be a token. Default: `tower-response-cache`.
    #[must_use]
    pub fn name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.settings().rename(name.into());
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

impl<S, St, P> Layer<S> for CacheLayer<St, P>
where
    St: Store,
{
    type Service = Cache<S, St, P>;

    fn layer(&self, inner: S) -> Self::Service {
        self.shared.watch();
        Cache { inner, shared: self.shared.clone() }
    }
}
