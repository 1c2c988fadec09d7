use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{StatusCode, request, response};

use super::{Bill, Event, Tab, passing::Passing, tab::Waiting};
use crate::{
    cost::{Call, NanoUsd},
    entry::{Entry, Labels, Usage},
    key::{Digest, Identity, Question},
    options::{CacheOptions, Wishes},
    shared::Settings,
    status::Outcome,
};

/// One request, from its arrival to the end of its response body.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequestRecord {
    /// Where the answer came from, and why.
    pub outcome: Outcome,
    /// The status of the response; `None` if there was none.
    pub status: Option<StatusCode>,
    pub(super) question: Option<Question>,
    /// The request's name, as its caller gave it.
    pub request_id: Option<Arc<str>>,
    /// Its labels, as its caller gave them.
    pub labels: Labels,
    /// Where the time went.
    pub timings: Timings,
    /// Bytes of the response body that were handed on.
    pub bytes: u64,
    /// How it ended.
    pub ending: Ending,
    /// Operations of the store that failed on the way.
    pub degraded: u32,
    /// When it ended, wall-clock.
    pub at: SystemTime,
    /// The model that answered, as the answer says; without that, the one that was asked for: the `model` label.
    pub model: Option<Arc<str>>,
    /// Who answered: the `provider` label of the request that the answer was made for, or else of this one.
    pub provider: Option<Arc<str>>,
    /// What the upstream call that this request made did: `gen_ai.operation.name` of [OpenTelemetry](super#opentelemetry). `None` if that is unknown, or if there was no such call.
    pub operation: Option<Cow<'static, str>>,
    /// Tokens of the upstream call that this request made. `None` if they are unknown, or if there was no such call.
    pub usage: Option<Usage>,
    /// What that call cost: 0 for an answer from the store, or from another request's call. `None` if it is unknown.
    pub billed: Option<NanoUsd>,
    /// Tokens of an answer from the store, or from another request's call: replayed, not billed.
    pub saved_usage: Option<Usage>,
    /// What that answer would have cost today. `None` if it is unknown.
    pub saved: Option<NanoUsd>,
    /// How long the upstream took for the stored answer, less what this request waited for it: the time that a hit saved.
    pub saved_time: Option<Duration>,
    /// Since when a stored answer has been stored.
    pub cached_since: Option<SystemTime>,
    /// The name of the request that a stored answer was made for.
    pub original_request_id: Option<Arc<str>>,
}

impl RequestRecord {
    /// What was asked, regardless of who asked; `None` if no key was made. Worked out anew each time.
    pub fn digest(&self) -> Option<Digest> {
        self.question.as_ref().map(Question::digest)
    }

    /// Of a request of which nothing is known yet.
    pub(super) fn begin() -> Self {
        Self {
            outcome: Outcome::Unanswered,
            status: None,
            question: None,
            request_id: None,
            labels: Labels::NONE,
            timings: Timings::default(),
            bytes: 0,
            ending: Ending::Dropped,
            degraded: 0,
            at: SystemTime::UNIX_EPOCH,
            model: None,
            provider: None,
            operation: None,
            usage: None,
            billed: None,
            saved_usage: None,
            saved: None,
            saved_time: None,
            cached_since: None,
            original_request_id: None,
        }
    }
}

/// Where the time of a request went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Reading the request body and making the key.
    pub key: Duration,
    /// Looking up.
    pub lookup: Duration,
    /// Waiting for an upstream call, one's own or another's, to answer.
    pub wait: Duration,
    /// From arrival to the response head.
    pub first_byte: Option<Duration>,
    /// From arrival to the end of the response body.
    pub total: Duration,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// The whole response was handed on.
    Complete,
    /// The caller left before that.
    Dropped,
    /// The inner service failed, or the response body did.
    Failed,
}

/// Writes one record, and hands it over exactly once: when it is dropped.
///
/// What is counted of every request stands here; the rest is written down only if someone will read it.
pub(crate) struct Recorder {
    outcome: Outcome,
    status: Option<StatusCode>,
    bytes: u64,
    saved_time: Option<Duration>,
    /// For upstream calls.
    wait: Duration,
    /// `None` if nobody will ask for times.
    start: Option<Instant>,
    first_byte: Option<Duration>,
    rest: Option<Box<RequestRecord>>,
    sink: Option<Sink>,
    call: UpstreamCall,
}

/// The upstream call of a request.
#[derive(Default)]
enum UpstreamCall {
    #[default]
    None,
    /// One that it made or shares, and its part in it.
    Filling(Arc<Tab>, Part),
    /// One past the cache.
    Passing(Box<Passing>),
}

/// What a request has to do with an upstream call.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Part {
    /// It made the call, and is billed.
    Led,
    /// It shares the call, and saves one of its own.
    Joined,
}

/// Who is told.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) settings: Arc<Settings>,
    /// The span in which the request came, if there is one.
    #[cfg(feature = "tracing")]
    pub(crate) span: Option<Box<tracing::Span>>,
}

impl Sink {
    /// Will anyone read records, or the cost model what is in them?
    fn is_watched(&self) -> bool {
        !self.settings.observers.is_empty() || self.settings.cost.is_some()
    }

    /// Hands over a record that is complete.
    fn hand_over(&self, record: &mut RequestRecord) {
        if self.settings.observers.is_empty() {
            return;
        }
        record.at = self.settings.clock.now();
        let asked = |record: &RequestRecord, name| record.labels.get(name).map(Arc::from);
        record.model = record.model.take().or_else(|| asked(record, "model"));
        record.provider = record.provider.take().or_else(|| asked(record, "provider"));
        // The body may be read, and the upstream call end, elsewhere.
        #[cfg(feature = "tracing")]
        let _in = self.span.as_deref().map(tracing::Span::enter);
        self.tell(&Event::Request(record));
    }

    /// Tells all observers, each guarded against the panic of another.
    pub(crate) fn tell(&self, event: &Event<'_>) {
        for observer in self.settings.observers.iter() {
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observer.on_event(event)));
            if told.is_err() {
                self.settings.counters.panics.add(1);
            }
        }
    }
}

impl Recorder {
    pub(crate) fn begin(sink: Sink) -> Self {
        Self {
            outcome: Outcome::Unanswered,
            status: None,
            bytes: 0,
            saved_time: None,
            wait: Duration::ZERO,
            start: sink.is_watched().then(Instant::now),
            first_byte: None,
            rest: None,
            sink: Some(sink),
            call: UpstreamCall::None,
        }
    }

    /// Hands on the recording to another; this one has nothing left to tell.
    pub(crate) fn take(&mut self) -> Self {
        let Self { outcome, status, bytes, saved_time, wait, start, first_byte, .. } = *self;
        Self {
            outcome,
            status,
            bytes,
            saved_time,
            wait,
            start,
            first_byte,
            rest: self.rest.take(),
            sink: self.sink.take(),
            call: std::mem::take(&mut self.call),
        }
    }

    /// The time, if anyone will ask how long something took.
    pub(crate) fn now(&self) -> Option<Instant> {
        self.start.map(|_| Instant::now())
    }

    /// Adds to the record, if anyone will read it.
    fn add(&mut self, add: impl FnOnce(&mut RequestRecord)) {
        if self.start.is_some() {
            add(self.rest.get_or_insert_with(|| Box::new(RequestRecord::begin())));
        }
    }

    /// Names the request as its caller did.
    pub(crate) fn label(&mut self, options: &CacheOptions) {
        let Wishes { request_id, labels, .. } = options.wishes();
        if request_id.is_some() || !labels.is_empty() {
            self.add(|record| {
                record.request_id.clone_from(request_id);
                record.labels.clone_from(labels);
            });
        }
    }

    /// There is a key: since now, if anyone will ask how long something took.
    pub(crate) fn keyed(&mut self, identity: &Identity) -> Option<Instant> {
        let (start, now) = (self.start?, Instant::now());
        self.add(|record| {
            record.question = Some(identity.question.clone());
            record.timings.key = now.duration_since(start);
        });
        Some(now)
    }

    /// A look-up is over.
    pub(crate) fn looked(&mut self, since: Option<Instant>, failures: u32) {
        self.add(|record| {
            record.timings.lookup += elapsed(since);
            record.degraded += failures;
        });
    }

    /// Waiting for an upstream call is over.
    pub(crate) fn waited(&mut self, since: Instant) {
        self.wait += since.elapsed();
    }

    pub(crate) fn outcome(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// From now on the request is one that made this call.
    pub(crate) fn lead(&mut self, tab: &Arc<Tab>) {
        self.call = UpstreamCall::Filling(Arc::clone(tab), Part::Led);
    }

    /// From now on the request is one that shares this call.
    pub(crate) fn join(&mut self, tab: &Arc<Tab>) {
        self.call = UpstreamCall::Filling(Arc::clone(tab), Part::Joined);
    }

    /// The call is no longer one that the cache knows the end of.
    pub(crate) fn leave(&mut self) {
        self.call = UpstreamCall::None;
    }

    /// The answer comes from the store. Says what it saved, if that is known.
    pub(crate) fn replay(&mut self, request: &request::Parts, entry: &Entry) -> Option<NanoUsd> {
        let metadata = &entry.metadata;
        self.saved_time = Some(metadata.upstream_time.saturating_sub(self.wait));
        let sink = self.sink.as_ref().filter(|sink| sink.is_watched())?;
        let record = self.rest.get_or_insert_with(|| Box::new(RequestRecord::begin()));
        let call = Call {
            request,
            status: entry.status,
            headers: &entry.headers,
            usage: metadata.usage.as_ref(),
            model: metadata.model.as_deref(),
            provider: metadata.provider.as_deref(),
            service_tier: metadata.service_tier.as_deref(),
            labels: &record.labels,
            first_byte: metadata.upstream_first_byte,
            last_byte: metadata.upstream_time,
        };
        record.saved = sink.settings.price(&sink.settings.counters, &call);
        sink.settings.counters.saved_nanos.add(record.saved.unwrap_or_default().0);
        record.billed = Some(NanoUsd::ZERO);
        record.saved_usage = metadata.usage;
        record.cached_since = metadata.cached_at;
        // Copied for those who read it.
        if !sink.settings.observers.is_empty() {
            record.model.clone_from(&metadata.model);
            record.provider.clone_from(&metadata.provider);
            record.original_request_id.clone_from(&metadata.request_id);
        }
        record.saved
    }

    /// The answer comes from upstream, past the cache. `asked` is there if [the books are kept](Settings::keeps_books).
    pub(crate) fn pass(&mut self, asked: Option<Box<request::Parts>>, response: &response::Parts) {
        if let (Some(sink), Some(request)) = (&self.sink, asked) {
            self.call = UpstreamCall::Passing(Box::new(Passing::begin(&sink.settings, request, response, elapsed(self.start))));
        }
    }

    /// The response head is there.
    pub(crate) fn head(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.first_byte = self.start.map(|start| start.elapsed());
    }

    /// A piece of the body goes by.
    pub(crate) fn frame(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        if let (UpstreamCall::Passing(passing), Some(sink)) = (&mut self.call, &self.sink) {
            passing.frame(&sink.settings, data);
        }
    }

    /// Nothing more will happen: hands the record over now rather than at the drop.
    pub(crate) fn end(&mut self, ending: Ending) {
        let Some(sink) = self.sink.take() else { return };
        sink.settings.counters.count(self.outcome, self.bytes, self.saved_time);
        if !sink.is_watched() {
            return;
        }
        let mut record = self.rest.take().unwrap_or_else(|| Box::new(RequestRecord::begin()));
        (record.outcome, record.status, record.bytes) = (self.outcome, self.status, self.bytes);
        (record.saved_time, record.ending) = (self.saved_time, ending);
        record.timings = Timings { wait: self.wait, first_byte: self.first_byte, total: elapsed(self.start), ..record.timings };
        match std::mem::take(&mut self.call) {
            UpstreamCall::None => sink.hand_over(&mut record),
            UpstreamCall::Filling(tab, part) => tab.put(Waiting { record, sink, part }),
            UpstreamCall::Passing(passing) => {
                let total = record.timings.total;
                passing.close(&sink.settings, &mut record, total);
                sink.hand_over(&mut record);
            }
        }
    }
}

fn elapsed(since: Option<Instant>) -> Duration {
    since.map_or(Duration::ZERO, |since| since.elapsed())
}

impl Waiting {
    /// Adds what the call came to, and hands the record over.
    pub(super) fn close(self, bill: &Bill) {
        let Self { mut record, sink, part } = self;
        let Bill { model, provider, operation, usage, cost } = bill;
        record.model = model.clone().or(record.model);
        record.provider = provider.clone().or(record.provider);
        match part {
            // A stale answer may stand in for that of a call that failed.
            Part::Led => {
                record.operation.clone_from(operation);
                (record.usage, record.billed) = (*usage, cost.or(record.billed));
            }
            Part::Joined => {
                (record.saved_usage, record.saved) = (*usage, *cost);
                record.billed = Some(NanoUsd::ZERO);
                let (settings, counters) = (&sink.settings, &sink.settings.counters);
                counters.saved_nanos.add(cost.unwrap_or_default().0);
                if cost.is_none() && settings.cost.is_some() {
                    counters.unpriced.add(1);
                }
            }
        }
        sink.hand_over(&mut record);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.end(Ending::Dropped);
    }
}
