//! What all services of one layer have in common: store, policy, state and settings.

use std::{
    fmt,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, Once, PoisonError, Weak},
    time::Duration,
};

use futures_util::FutureExt as _;
use http::{HeaderValue, request, response};
use tokio::sync::Semaphore;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::{
    body::tape::Budget,
    clock::Clock,
    cost::{Call, CostModel, NanoUsd},
    entry::{Entry, Lifetime},
    flight::Flights,
    inspect::{Findings, Inspect},
    key::{Envelope, Key},
    observe::{Counters, Event, LinkChange, Observer, Sink, Trouble},
    options::{CacheOptions, Mode},
    policy::{Admission, Bypass, Moment, OnFailure, Policy, Reuse},
    status::{CacheStatus, Outcome},
    store::{LinkListener, Lookup, Store},
};

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
    teller: Arc<Teller>,
    watched: Once,
}

impl<St, P> Core<St, P> {
    pub(crate) fn new(store: St, policy: P, counters: Arc<Counters>) -> Self {
        Self {
            store,
            policy,
            flights: Arc::new(Flights::new()),
            teller: Arc::default(),
            watched: Once::new(),
            counters,
            budget: Budget::new(IN_FLIGHT),
            orphans: Arc::new(Semaphore::new(ORPHANS)),
            refreshes: Arc::new(Semaphore::new(REFRESHES)),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Leave to begin a task, unless the cache shuts down: whoever waits for all tasks to end waits for this one, too. Not to be held over an await.
    pub(crate) fn enter(&self) -> Option<TaskTrackerToken> {
        let token = self.tasks.token();
        (!self.tasks.is_closed()).then_some(token)
    }
}

/// Tells observers of changes of the way to the store.
#[derive(Default)]
struct Teller {
    /// Those that services were last made with. An observer may hold the store, which holds this: so it does not keep them.
    settings: Mutex<Weak<Settings>>,
}

impl LinkListener for Teller {
    fn changed(&self, change: LinkChange) {
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        let Some(settings) = settings else { return };
        Sink {
            settings,
            #[cfg(feature = "tracing")]
            span: None,
        }
        .tell(&Event::Link(&change));
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
    /// The policy's.
    pub(crate) inspect: Option<Arc<dyn Inspect>>,
    pub(crate) cost_headers: bool,
    pub(crate) patience: Duration,
    pub(crate) collapse: bool,
    pub(crate) read_only: bool,
    /// From 0 to 1.
    pub(crate) ttl_jitter: f64,
    pub(crate) stall_limit: Duration,
    pub(crate) name: Arc<str>,
    pub(crate) status_header: bool,
    pub(crate) show_key: bool,
    pub(crate) clock: Clock,
    /// Those of the [core](Core), for whoever holds the settings alone.
    pub(crate) counters: Arc<Counters>,
    bypass_status: Arc<[HeaderValue]>,
}

/// `cache-status` for every kind of bypass, made beforehand: a bypass allocates nothing.
fn bypass_status(name: &str) -> Arc<[HeaderValue]> {
    let status = |reason: &Bypass| CacheStatus::of(Outcome::Bypass(*reason)).member(name, false);
    Bypass::ALL.iter().map(|reason| status(reason).unwrap_or(HeaderValue::from_static("tower-response-cache; fwd=bypass"))).collect()
}

impl Settings {
    /// The defaults.
    pub(crate) fn of(policy: &impl Policy) -> Self {
        Self { inspect: policy.inspect(), ..Self::default() }
    }

    /// The name, and what is made of it beforehand.
    pub(crate) fn rename(&mut self, name: Arc<str>) {
        self.bypass_status = bypass_status(&name);
        self.name = name;
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment { now: self.clock.now(), luck: fastrand::f64(), waited: Duration::ZERO }
    }

    /// What becomes of a request where nothing is stored. A refresh would be of no use to anyone.
    pub(crate) fn restrict(&self, admission: Admission, options: &mut CacheOptions) -> Admission {
        match options.wishes().mode {
            Mode::WriteOnly if self.read_only && admission == Admission::Cache => return Admission::Bypass(Bypass::Off),
            Mode::ReadWrite | Mode::WriteOnly if self.read_only => options.wish().mode = Mode::ReadOnly,
            _ => {}
        }
        admission
    }

    /// A lifetime as it is stored: never longer, and never over at once if it was not.
    pub(crate) fn jittered(&self, lifetime: Lifetime) -> Lifetime {
        if self.ttl_jitter == 0.0 {
            return lifetime;
        }
        let less = Duration::try_from_secs_f64(lifetime.fresh_for.as_secs_f64() * self.ttl_jitter * fastrand::f64());
        let left = less.ok().and_then(|less| lifetime.fresh_for.checked_sub(less)).filter(|left| !left.is_zero());
        Lifetime { fresh_for: left.unwrap_or(lifetime.fresh_for), ..lifetime }
    }

    /// Does anyone ask what calls cost that no answer is stored of?
    pub(crate) fn keeps_books(&self) -> bool {
        self.cost.is_some() || (self.inspect.is_some() && !self.observers.is_empty())
    }

    /// What the policy's inspector finds in a body that is at hand.
    pub(crate) fn inspected(&self, request: &request::Parts, response: &response::Parts, body: &[u8]) -> Findings {
        let inspector = self.inspect.as_ref().and_then(|inspect| inspect.begin(request, response));
        inspector.map_or_else(Findings::default, |mut inspector| {
            inspector.frame(body);
            inspector.end()
        })
    }

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
            inspect: None,
            cost_headers: false,
            patience: Duration::from_secs(60),
            collapse: true,
            read_only: false,
            ttl_jitter: 0.0,
            stall_limit: Duration::from_secs(10),
            name: Arc::from("tower-response-cache"),
            status_header: true,
            show_key: false,
            clock: Clock::system(),
            counters: Arc::default(),
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
            .field("read_only", &self.read_only)
            .field("ttl_jitter", &self.ttl_jitter)
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
            settings: Arc::clone(&self.settings),
            #[cfg(feature = "tracing")]
            span: if self.settings.observers.is_empty() {
                None
            } else {
                Some(tracing::Span::current()).filter(|span| !span.is_none()).map(Box::new)
            },
        }
    }
}

impl<St, P> Shared<St, P>
where
    St: Store,
{
    /// Has observers told of changes of the way to the store.
    pub(crate) fn watch(&self) {
        *self.core.teller.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&self.settings);
        self.core.watched.call_once(|| {
            let teller: Arc<dyn LinkListener> = Arc::<Teller>::clone(&self.core.teller);
            self.core.store.watch(Arc::downgrade(&teller));
        });
    }

    /// Looks one key up; `None`, and told to observers, if the store could not.
    pub(crate) fn get(&self, key: &Key) -> impl Future<Output = Option<Lookup>> {
        self.attempt("get", self.get_sound(key))
    }

    /// Looks one key up. A damaged value, which the store drops, is told to observers, and the key looked up again: what is stored in its place is stored
    /// under the generation of what is there since.
    pub(crate) async fn get_sound(&self, key: &Key) -> Result<Lookup, crate::Error> {
        let found = self.core.store.get(key).await;
        match &found {
            Err(error) if error.is_corrupt() => self.trouble("get", error),
            _ => return found,
        }
        drop(found);
        self.core.store.get(key).await
    }

    /// Carries out an operation of the store; `None`, and told to observers, if it failed.
    pub(crate) fn attempt<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, crate::Error>>,
    ) -> impl Future<Output = Option<T>> {
        // Mapped rather than awaited: a future that awaits another has room for it twice.
        AssertUnwindSafe(work).catch_unwind().map(move |outcome| match outcome {
            Ok(Ok(value)) => Some(value),
            Ok(Err(error)) => {
                self.trouble(operation, &error);
                None
            }
            Err(_) => {
                self.core.counters.panics.add(1);
                None
            }
        })
    }

    fn trouble(&self, operation: &'static str, error: &crate::Error) {
        let counters = &self.core.counters;
        if error.is_corrupt() { &counters.corrupt } else { &counters.store_errors }.add(1);
        self.sink().tell(&Event::Trouble(&Trouble { operation, error }));
    }
}

impl<St, P> Shared<St, P>
where
    P: Policy,
{
    /// What a stored answer is good for at this moment, if the upstream fails.
    pub(crate) fn on_failure(&self, request: &request::Parts, options: &CacheOptions, entry: &Entry) -> OnFailure {
        match contain(&self.core.counters, || self.core.policy.reuse(request, options, entry, self.settings.moment())) {
            Some(Reuse::Validate { on_failure, .. }) => on_failure,
            Some(Reuse::Fresh { .. } | Reuse::StaleWhileRevalidate | Reuse::StaleAccepted) => OnFailure::Stale,
            Some(Reuse::No(_)) | None => OnFailure::Pass,
        }
    }
}

/// Runs code of the policy's, guarded against its panics: `None` if it panicked.
pub(crate) fn contain<T>(counters: &Counters, decide: impl FnOnce() -> T) -> Option<T> {
    let decided = catch_unwind(AssertUnwindSafe(decide));
    if decided.is_err() {
        counters.panics.add(1);
    }
    decided.ok()
}
