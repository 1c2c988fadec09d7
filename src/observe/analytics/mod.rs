//! What the cache was worth over time: hit rate, latency, tokens and money, by model, provider, route and label.
//!
//! [`Analytics`] is an observer. Requests are summed up per minute and per hour, off their path, so that a [period](Analytics::period) of a day with millions of them is
//! answered from some dozens of sums. Sums of several processes, or of several periods, add up exactly; quantiles of latency are within 1 %, and those of one model,
//! provider, route or label within 6.25 %.

mod latency;
mod rollup;
mod rollups;
#[cfg(feature = "redis")]
mod shared;

use std::{
    borrow::Cow,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};

pub use self::{latency::Latency, rollup::Totals};
use self::{
    rollup::{Noted, Rollup},
    rollups::Rollups,
};
use super::{Event, FillRecord, Observer, RequestRecord};
use crate::cost::NanoUsd;

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
/// [30 days](Builder::keep). Each of these sums tells up to 32 values of each dimension apart; all others are `other` in it.
///
/// A sum takes eight bytes for each bucket of latency in use, of hits and of misses, and a quarter of a kilobyte and its name for each value: with four models that answer within a spread of 1 to 16, some 25 KB,
/// and 36 MB for a day. The most that one can take is 0.2 MB for each dimension, when its 32 values have taken every time from a microsecond to an hour. What is read from [Redis](Builder::redis) is kept in the same form, as many
/// sums. There, the same takes 26 MB a day at a hundred requests a second, and each of the newest records 86 bytes.
#[derive(Clone)]
pub struct Analytics {
    inner: Arc<Inner>,
}

struct Inner {
    queue: mpsc::Sender<Told>,
    state: Arc<Mutex<State>>,
    hurry: Arc<Notify>,
    dropped: Arc<AtomicU64>,
    #[cfg(feature = "redis")]
    reader: Option<shared::Reader>,
}

/// What is told to the task that sums up.
enum Told {
    Request(Box<RequestRecord>),
    Refresh(Box<FillRecord>),
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
    #[cfg(feature = "redis")]
    redis: Option<(crate::store::Redis, usize, Duration)>,
}

/// What happened in a period.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Period {
    /// All of it.
    pub totals: Totals,
    /// Of whole answers from the store, stale ones included: from arrival to the end of the body. Those that were coalesced waited for a call of another request, and are
    /// neither here nor there.
    pub hit_latency: Latency,
    /// Of whole answers from upstream, by a call of their own.
    pub miss_latency: Latency,
    /// Requests by `outcome`, and by outcome and reason as in `bypass/range`, in alphabetical order. Outcomes that did not occur are left out.
    pub by_outcome: Vec<(String, u64)>,
    /// By dimension, `model`, `provider`, `route` and the [labels](Builder::label), and by value; the most requests first.
    pub groups: Vec<Group>,
    /// Is it of all processes that share a Redis? Otherwise it is of this process alone: there is none, or it did not answer.
    pub shared: bool,
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
    /// Of whole answers from the store, stale ones included: from arrival to the end of the body. Those that were coalesced waited for a call of another request, and are
    /// neither here nor there.
    pub hit_latency: Latency,
    /// Of whole answers from upstream, by a call of their own.
    pub miss_latency: Latency,
}

/// One of the newest requests.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recent {
    /// When it ended.
    pub at: SystemTime,
    /// Its name, as its caller gave it.
    pub request_id: Option<Arc<str>>,
    /// Who answered.
    pub provider: Option<Arc<str>>,
    /// The model that answered.
    pub model: Option<Arc<str>>,
    /// Its `route` label.
    pub route: Option<Arc<str>>,
    /// Where its answer came from.
    pub outcome: Cow<'static, str>,
    /// Why.
    pub reason: Cow<'static, str>,
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
        Builder {
            labels: Vec::new(),
            recent: 1000,
            queue: 8192,
            keep: Duration::from_secs(30 * 86_400),
            #[cfg(feature = "redis")]
            redis: None,
        }
    }

    /// What happened in a period. Its ends are rounded outwards to minutes, and to hours where it began more than a day ago.
    pub async fn period(&self, range: Range<SystemTime>) -> Period {
        self.flush().await;
        self.summed(std::slice::from_ref(&range)).await.pop().unwrap_or_default()
    }

    /// What happened in each of these.
    async fn summed(&self, ranges: &[Range<SystemTime>]) -> Vec<Period> {
        #[cfg(feature = "redis")]
        if let Some(reader) = &self.inner.reader
            && let Ok(rollups) = reader.periods(ranges).await
        {
            return rollups.into_iter().map(|rollup| Period { shared: true, ..rollup.into_period() }).collect();
        }
        let mut periods = Vec::with_capacity(ranges.len());
        for range in ranges {
            periods.push(self.lock().rollups.period(range).into_period());
            // Each takes its time where there is much to add up: others get theirs in between.
            tokio::task::yield_now().await;
        }
        periods
    }

    /// What happened of late.
    pub async fn last(&self, span: Duration) -> Period {
        let now = SystemTime::now();
        self.period(now.checked_sub(span).unwrap_or(SystemTime::UNIX_EPOCH)..now).await
    }

    /// What happened in a period, in slices of `step` each, from the oldest to the newest, at most 1000; `step` is at least a minute. Slices begin at multiples of `step`.
    pub async fn series(&self, range: Range<SystemTime>, step: Duration) -> Vec<(SystemTime, Period)> {
        self.flush().await;
        let slices: Vec<Range<SystemTime>> = rollups::slices(&range, step).collect();
        let periods = self.summed(&slices).await;
        slices.into_iter().map(|slice| slice.start).zip(periods).collect()
    }

    /// The newest requests, the newest first.
    pub async fn recent(&self, limit: usize) -> Vec<Recent> {
        self.flush().await;
        #[cfg(feature = "redis")]
        if let Some(reader) = &self.inner.reader
            && let Ok(recent) = reader.recent(limit).await
        {
            return recent;
        }
        self.lock().newest.iter().rev().take(limit).cloned().collect()
    }

    /// How many records were dropped, because too many waited: to be summed up, or for Redis.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Relaxed)
    }

    /// Waits until all that was told before is summed up, and in Redis, if that is where and it answers. To be called before the end: what was told in the last second is else not there.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.inner.queue.send(Told::Flush(done)).await.is_ok() {
            self.inner.hurry.notify_one();
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

    /// Adds up with all other processes that use this Redis, under its prefix, and keeps their newest requests in a stream of up to `records` records for as long as `age`. Sums are exact: what
    /// could not be sent waits, and counts once however often it is tried. While Redis does not answer, [what is told](Period::shared) is of this process alone. Default: none.
    ///
    /// See the [store](crate::store::redis) for the permissions that it takes.
    #[cfg(feature = "redis")]
    #[must_use]
    pub fn redis(mut self, redis: crate::store::Redis, records: usize, age: Duration) -> Self {
        self.redis = Some((redis, records, age));
        self
    }

    /// Starts to sum up, in a task that ends with the last clone.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn spawn(self) -> Analytics {
        let Self {
            labels,
            recent,
            queue,
            keep,
            #[cfg(feature = "redis")]
            redis,
        } = self;
        let keep = keep.max(Duration::from_secs(86_400));
        let (hurry, dropped) = (Arc::<Notify>::default(), Arc::<AtomicU64>::default());
        let (queue, told) = mpsc::channel(queue);
        let state = State { rollups: Rollups::new(keep), newest: std::collections::VecDeque::new(), recent };
        let state = Arc::new(Mutex::new(state));
        let adder = Adder {
            state: Arc::clone(&state),
            labels,
            hurry: Arc::clone(&hurry),
            #[cfg(feature = "redis")]
            outbox: redis.clone().map(|(redis, records, age)| shared::Outbox::new(redis, records, age, keep)),
            #[cfg(feature = "redis")]
            dropped: Arc::clone(&dropped),
        };
        tokio::spawn(adder.run(told));
        let inner = Inner {
            queue,
            state,
            hurry,
            dropped,
            #[cfg(feature = "redis")]
            reader: redis.map(|(redis, ..)| shared::Reader::new(redis, keep)),
        };
        Analytics { inner: Arc::new(inner) }
    }
}

/// So long a record may wait to be summed up, if nobody asks.
const LULL: Duration = Duration::from_millis(20);

/// So many records are summed up at a time before others get their turn.
const BATCH: usize = 256;

/// Sums up.
struct Adder {
    state: Arc<Mutex<State>>,
    labels: Vec<String>,
    /// Somebody waits.
    hurry: Arc<Notify>,
    #[cfg(feature = "redis")]
    outbox: Option<shared::Outbox>,
    #[cfg(feature = "redis")]
    dropped: Arc<AtomicU64>,
}

impl Adder {
    async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.next(&mut told, &mut batch).await {
            let mut flushed = Vec::new();
            for told in batch.drain(..) {
                match told {
                    Told::Request(record) => self.request(&record),
                    Told::Refresh(fill) => self.add(Noted::refresh(&fill), None),
                    Told::Flush(done) => flushed.push(done),
                }
            }
            self.send(!flushed.is_empty()).await;
            for done in flushed {
                // Whoever asked may have left.
                let _ = done.send(());
            }
            tokio::task::consume_budget().await;
        }
        self.send(true).await;
    }

    /// Waits for more to do; no longer than records may wait to be sent. Says whether more may come.
    async fn next(&self, told: &mut mpsc::Receiver<Told>, batch: &mut Vec<Told>) -> bool {
        #[cfg(feature = "redis")]
        if self.outbox.as_ref().is_some_and(|outbox| !outbox.is_empty()) {
            match timeout(shared::WAIT, told.recv_many(batch, BATCH)).await {
                Ok(count) => return self.pause(count).await,
                Err(_) => {
                    let (done, _) = oneshot::channel();
                    batch.push(Told::Flush(done));
                    return true;
                }
            }
        }
        let count = told.recv_many(batch, BATCH).await;
        self.pause(count).await
    }

    /// Lets more come together, for to be woken by every record would cost whoever tells it more than all the rest.
    async fn pause(&self, count: usize) -> bool {
        if (1..BATCH).contains(&count) {
            // Either is fine.
            let _ = timeout(LULL, self.hurry.notified()).await;
        }
        count > 0
    }

    fn request(&mut self, record: &RequestRecord) {
        let labels = std::mem::take(&mut self.labels);
        self.add(Noted::request(record, &labels), Some(Recent::of(record)));
        self.labels = labels;
    }

    fn add(&mut self, noted: Noted<'_>, recent: Option<Recent>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.rollups.note(&noted);
        #[cfg(feature = "redis")]
        if let Some(outbox) = &mut self.outbox {
            outbox.add(noted, recent.as_ref(), &state.rollups);
        }
        state.keep(recent);
    }

    /// Sends to Redis what is due, or all there is.
    #[cfg_attr(not(feature = "redis"), allow(clippy::unused_async, unused_variables, reason = "there is nothing to send to"))]
    async fn send(&mut self, all: bool) {
        #[cfg(feature = "redis")]
        if let Some(outbox) = &mut self.outbox
            && (all || outbox.is_due())
        {
            self.dropped.fetch_add(outbox.send().await, Relaxed);
        }
    }
}

impl State {
    fn keep(&mut self, recent: Option<Recent>) {
        if let Some(recent) = recent {
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
            Event::Trouble(_) | Event::Link(_) => false,
        };
        if !is_counted {
            return;
        }
        let Ok(place) = self.inner.queue.try_reserve() else {
            self.inner.dropped.fetch_add(1, Relaxed);
            return;
        };
        match event {
            Event::Request(record) => place.send(Told::Request(Box::new((*record).clone()))),
            Event::Fill(fill) => place.send(Told::Refresh(Box::new((*fill).clone()))),
            Event::Trouble(_) | Event::Link(_) => {}
        }
    }
}

impl Recent {
    fn of(record: &RequestRecord) -> Self {
        Self {
            at: record.at,
            request_id: record.request_id.clone(),
            provider: record.provider.clone(),
            model: record.model.clone(),
            route: record.labels.get("route").map(Arc::from),
            outcome: record.outcome.label().into(),
            reason: record.outcome.reason().into(),
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
        f.debug_struct("Analytics").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Rollup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rollup").field("totals", &self.totals).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
