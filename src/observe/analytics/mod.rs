//! What the cache was worth over time: hit rate, latency, tokens and money, by model, provider, route and label.
//!
//! [`Analytics`] is an observer. Requests are summed up per minute and per hour, off their path, so that a [period](Analytics::period) of a day with millions of them is
//! answered from some dozens of sums. Sums of several processes, or of several periods, add up exactly; quantiles of latency are within 1 %.

mod rollup;
mod rollups;

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, oneshot};

pub use self::rollup::{Latency, Totals};
use self::{
    rollup::{Noted, Rollup},
    rollups::Rollups,
};
use super::{Event, FillRecord, Observer, RequestRecord};
use crate::{cost::NanoUsd, options::label};

/// Sums up what happens over time. Clones are the same.
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, observe::analytics::Analytics, store::Memory};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let analytics = Analytics::builder().label("tenant").spawn();
/// let layer = CacheLayer::new(Memory::new(64 << 20), ApiPolicy::new(Sharing::Shared)).observer(analytics.clone());
/// # let _ = layer;
/// let day = analytics.last(Duration::from_secs(86_400)).await;
/// println!("{:.1} % hits, saved {}", 100.0 * day.totals.hit_rate(), day.totals.saved());
/// # }
/// ```
///
/// # Bounds
///
/// Records wait in a queue of [8192](Builder::queue); while it is full, further ones are dropped and [counted](Self::dropped). Minutes are kept for a day, hours for
/// [30 days](Builder::keep). Each of these sums tells up to 64 values apart, of all dimensions together; all others are `other` in their dimension.
#[derive(Clone)]
pub struct Analytics {
    inner: Arc<Inner>,
}

struct Inner {
    queue: mpsc::Sender<Told>,
    state: Arc<Mutex<State>>,
    dropped: AtomicU64,
    labels: Vec<String>,
}

/// What is told to the task that sums up.
enum Told {
    Noted(Box<Noted>),
    Flush(oneshot::Sender<()>),
}

struct State {
    rollups: Rollups,
    newest: std::collections::VecDeque<Recent>,
    recent: usize,
}

/// Settings of [`Analytics`].
#[derive(Clone, Debug)]
pub struct Builder {
    labels: Vec<String>,
    recent: usize,
    queue: usize,
    keep: Duration,
}

/// What happened in a period.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Period {
    /// All of it.
    pub totals: Totals,
    /// Of answers from the store, and from other requests' calls: from arrival to the end of the body.
    pub hit_latency: Latency,
    /// Of answers from upstream.
    pub miss_latency: Latency,
    /// Requests by `outcome`, and by outcome and reason as in `bypass/range`, in alphabetical order. Outcomes that did not occur are left out.
    pub by_outcome: Vec<(String, u64)>,
    /// By dimension, `model`, `provider`, `route` and the [labels](Builder::label), and by value; the most requests first.
    pub groups: Vec<Group>,
}

/// What happened to requests that have a value in common.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// Of what kind the value is: `model`, say.
    pub dimension: String,
    /// The value.
    pub value: String,
    /// What happened.
    pub totals: Totals,
}

/// One of the newest requests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recent {
    /// When it ended.
    pub at: SystemTime,
    /// Its name, as its caller gave it.
    pub request_id: Option<String>,
    /// Who answered.
    pub provider: Option<String>,
    /// The model that answered.
    pub model: Option<String>,
    /// Its `route` label.
    pub route: Option<String>,
    /// Where its answer came from.
    pub outcome: &'static str,
    /// Why.
    pub reason: &'static str,
    /// The status of the response.
    pub status: Option<u16>,
    /// From its arrival to the end of the response body.
    pub response_time: Duration,
    /// What its upstream call cost.
    pub billed: Option<NanoUsd>,
    /// What its answer would have cost.
    pub saved: Option<NanoUsd>,
    /// Bytes of the response body.
    pub bytes: u64,
}

impl Analytics {
    /// Settings, all with their defaults.
    pub fn builder() -> Builder {
        Builder { labels: Vec::new(), recent: 1000, queue: 8192, keep: Duration::from_secs(30 * 86_400) }
    }

    /// What happened in a period. Its ends are rounded outwards to minutes, and to hours where it began more than a day ago.
    pub async fn period(&self, range: Range<SystemTime>) -> Period {
        self.flush().await;
        self.lock().rollups.period(&range).into_period()
    }

    /// What happened of late.
    pub async fn last(&self, span: Duration) -> Period {
        let now = SystemTime::now();
        self.period(now.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH)..now).await
    }

    /// What happened in a period, in slices of `step` each, from the oldest to the newest, at most 1000; `step` is at least a minute. Slices begin at multiples of `step`.
    pub async fn series(&self, range: Range<SystemTime>, step: Duration) -> Vec<(SystemTime, Period)> {
        self.flush().await;
        let state = self.lock();
        rollups::slices(&range, step).map(|slice| (slice.start, state.rollups.period(&slice).into_period())).collect()
    }

    /// The newest requests, the newest first.
    pub async fn recent(&self, limit: usize) -> Vec<Recent> {
        self.flush().await;
        self.lock().newest.iter().rev().take(limit).cloned().collect()
    }

    /// How many records were dropped, because too many waited.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Relaxed)
    }

    /// Waits until all that was told before is summed up.
    async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.inner.queue.send(Told::Flush(done)).await.is_ok() {
            // The runtime of the task may be gone: then what there is, is all.
            let _ = wait.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Builder {
    /// Adds a dimension: the values of this label, `tenant`, say. `model`, `provider` and `route` are there already. Default: none.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>) -> Self {
        self.labels.push(name.into());
        self
    }

    /// Sets how many of the newest requests are kept. Default: 1000.
    #[must_use]
    pub fn recent(mut self, requests: usize) -> Self {
        self.recent = requests;
        self
    }

    /// Sets how many records may wait to be summed up, at least 1. Default: 8192.
    #[must_use]
    pub fn queue(mut self, records: usize) -> Self {
        self.queue = records.max(1);
        self
    }

    /// Sets for how long hours are kept, at least a day. Default: 30 days.
    #[must_use]
    pub fn keep(mut self, span: Duration) -> Self {
        self.keep = span;
        self
    }

    /// Starts to sum up, in a task that ends with the last clone.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn(self) -> Analytics {
        let Self { labels, recent, queue, keep } = self;
        let (queue, told) = mpsc::channel(queue);
        let state = State { rollups: Rollups::new(keep), newest: std::collections::VecDeque::new(), recent };
        let state = Arc::new(Mutex::new(state));
        tokio::spawn(sum_up(told, Arc::clone(&state)));
        Analytics { inner: Arc::new(Inner { queue, state, dropped: AtomicU64::new(0), labels }) }
    }
}

/// So many records are summed up at a time before others get their turn.
const BATCH: usize = 256;

async fn sum_up(mut told: mpsc::Receiver<Told>, state: Arc<Mutex<State>>) {
    let mut batch = Vec::with_capacity(BATCH);
    while told.recv_many(&mut batch, BATCH).await > 0 {
        let mut flushed = Vec::new();
        {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            for told in batch.drain(..) {
                match told {
                    Told::Noted(noted) => state.add(*noted),
                    Told::Flush(done) => flushed.push(done),
                }
            }
        }
        for done in flushed {
            // Whoever asked may have left.
            let _ = done.send(());
        }
        tokio::task::consume_budget().await;
    }
}

impl State {
    fn add(&mut self, noted: Noted) {
        self.rollups.add(noted.at, &noted.rollup);
        if let Some(recent) = noted.recent {
            if self.newest.len() >= self.recent {
                self.newest.pop_front();
            }
            if self.recent > 0 {
                self.newest.push_back(recent);
            }
        }
    }
}

impl Observer for Analytics {
    fn on_event(&self, event: &Event<'_>) {
        let is_counted = match event {
            Event::Request(_) => true,
            // Others are part of the record of the request that made the call.
            Event::Fill(fill) => fill.refresh,
            Event::Trouble(_) => false,
        };
        if !is_counted {
            return;
        }
        let Ok(place) = self.inner.queue.try_reserve() else {
            self.inner.dropped.fetch_add(1, Relaxed);
            return;
        };
        let noted = match event {
            Event::Request(record) => Noted::request(record, &self.inner.labels),
            Event::Fill(fill) => Noted::refresh(fill),
            Event::Trouble(_) => return,
        };
        place.send(Told::Noted(Box::new(noted)));
    }
}

impl Recent {
    fn of(record: &RequestRecord) -> Self {
        Self {
            at: record.at,
            request_id: record.request_id.clone(),
            provider: record.provider.clone(),
            model: record.model.clone(),
            route: label(&record.labels, "route").map(str::to_owned),
            outcome: record.outcome.label(),
            reason: record.outcome.reason(),
            status: record.status.map(|status| status.as_u16()),
            response_time: record.timings.total,
            billed: record.billed,
            saved: record.saved,
            bytes: record.bytes,
        }
    }
}

impl fmt::Debug for Analytics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Analytics").field("labels", &self.inner.labels).field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Rollup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rollup").field("totals", &self.totals).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
