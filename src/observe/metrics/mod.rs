mod meters;

use std::{fmt, sync::Arc};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use self::meters::{Family, Models, Slot};
use super::{Event, FillRecord, LinkChange, Observer, RequestRecord, Trouble};
use crate::{
    NanoUsd,
    policy::Bypass,
    status::{Miss, Outcome, Stale},
};

/// Feeds the `metrics` facade, and through it Prometheus and whatever else has a recorder.
///
/// | name | type | unit | labels | what it says |
/// |---|---|---|---|---|
/// | `cache_requests_total` | counter | requests | `outcome`, `reason` | where answers came from, and why |
/// | `cache_response_bytes_total` | counter | bytes | `outcome`, `reason` | response bodies that were handed on |
/// | `cache_request_duration_seconds` | histogram | seconds | `outcome`, `reason` | from arrival to the end of the body |
/// | `cache_first_byte_seconds` | histogram | seconds | `outcome`, `reason` | from arrival to the response head |
/// | `cache_degraded_total` | counter | operations | | of the store, that requests went on without |
/// | `cache_saved_microseconds_total` | counter | microseconds | | what the upstream took for answers that were served again, less what was waited for them |
/// | `cache_billed_nanousd_total` | counter | nano-USD | `provider`, `model` | what upstream calls cost, those in the background included |
/// | `cache_saved_nanousd_total` | counter | nano-USD | `provider`, `model` | what answers from the cache would have cost today |
/// | `cache_tokens_total` | counter | tokens | `provider`, `model`, `source`, `type` | `input` and `output`, billed by the `upstream` or replayed from the `cache` |
/// | `cache_fills_total` | counter | calls | `result` | upstream calls: `stored`, or why their answer was not |
/// | `cache_store_errors_total` | counter | operations | `operation`, `kind` | of the store, that failed |
/// | `cache_store_link_changes_total` | counter | changes | `state` | of the way to the store: `open`, `probing`, `closed` |
/// | `cache_store_link_up` | gauge | 0 or 1 | | 1 if operations get through to the store, 0 if they fail at once; from the first change on |
/// | `gen_ai.client.operation.duration` | histogram | seconds | `gen_ai.operation.name`, `gen_ai.provider.name`, `gen_ai.response.model` | upstream calls of models, from the call to the end of the body |
/// | `gen_ai.client.token.usage` | histogram | tokens | `gen_ai.operation.name`, `gen_ai.provider.name`, `gen_ai.response.model`, `gen_ai.token.type` | `input` and `output` of these calls, where it is known |
///
/// The last two are those of [OpenTelemetry](super#opentelemetry). Sets of labels are bounded: outcomes, reasons and operations are enumerated in this crate, and after
/// the first [64](Self::models) pairs of provider and model all others are `other`. What is not known is `unknown`; an operation that is none of those that are
/// [known](crate::inspect::Findings::operation) here, `other`.
///
/// The facade knows no bounds of buckets: those of histograms are the recorder's. The conventions advise 0.01 and thirteen doublings of it for the duration, and powers of four
/// from 1 to 67,108,864 for tokens.
///
/// Handles are made when they are first needed, and kept: a record costs a few atomic operations, and neither registers nor allocates anything.
pub struct MetricsObserver {
    slots: Vec<Slot>,
    degraded: Counter,
    saved_micros: Counter,
    fills: Family<1>,
    errors: Family<2>,
    changes: Family<1>,
    models: Models,
    recorder: Registry,
}

/// Where metrics are registered.
type Registry = Arc<dyn Recorder + Send + Sync>;

impl MetricsObserver {
    /// Registers with the global recorder. Install that first: without one nothing is counted.
    pub fn new() -> Self {
        Self::with_recorder(Arc::new(Global))
    }

    /// Registers with a recorder of one's own.
    pub fn with_recorder(recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        describe(&*recorder);
        Self {
            slots: outcomes().map(|outcome| Slot::new(&*recorder, outcome)).collect(),
            degraded: meters::counter(&*recorder, "cache_degraded_total", Vec::new()),
            saved_micros: meters::counter(&*recorder, "cache_saved_microseconds_total", Vec::new()),
            fills: Family::new("cache_fills_total", ["result"]),
            errors: Family::new("cache_store_errors_total", ["operation", "kind"]),
            changes: Family::new("cache_store_link_changes_total", ["state"]),
            models: Models::new(&*recorder, 64),
            recorder,
        }
    }

    /// Tells so many pairs of provider and model apart. Default: 64.
    #[must_use]
    pub fn models(mut self, limit: usize) -> Self {
        self.models.limit = limit;
        self
    }

    fn request(&self, record: &RequestRecord) {
        if let Some(slot) = self.slots.get(index(record.outcome)) {
            slot.count(record);
        }
        if record.degraded > 0 {
            self.degraded.increment(record.degraded.into());
        }
        if let Some(time) = record.saved_time {
            self.saved_micros.increment(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
        let billed = record.billed.filter(|billed| *billed > NanoUsd::ZERO);
        let is_known = record.operation.is_some() || record.usage.is_some() || record.saved_usage.is_some();
        if is_known || billed.is_some() || record.saved.is_some() {
            self.models.of(&*self.recorder, record.provider.as_deref(), record.model.as_deref(), |model| {
                model.billed(billed);
                model.took(record.usage);
                model.saved(record.saved, record.saved_usage);
                // Calls through the cache are measured as fills.
                if is_known && matches!(record.outcome, Outcome::Bypass(_)) {
                    model.called(&*self.recorder, record.operation.as_deref(), record.timings.total, record.usage);
                }
            });
        }
    }

    fn fill(&self, fill: &FillRecord) {
        let result = fill.not_stored.as_ref().map_or("stored", |reason| reason.label());
        self.fills.increment(&*self.recorder, [result]);
        let is_of_a_model = fill.operation.is_some() || fill.model.is_some();
        if is_of_a_model || fill.refresh {
            self.models.of(&*self.recorder, fill.provider.as_deref(), fill.model.as_deref(), |model| {
                // Others are billed with the request that made them.
                if fill.refresh {
                    model.billed(fill.cost);
                    model.took(fill.usage);
                }
                if is_of_a_model {
                    model.called(&*self.recorder, fill.operation.as_deref(), fill.last_byte, fill.usage);
                }
            });
        }
    }

    fn trouble(&self, trouble: &Trouble<'_>) {
        self.errors.increment(&*self.recorder, [trouble.operation, trouble.error.label()]);
    }

    fn link(&self, link: &LinkChange) {
        self.changes.increment(&*self.recorder, [link.state]);
        let up = self.recorder.register_gauge(&Key::from_static_name("cache_store_link_up"), &meters::METADATA);
        up.set(if link.state == "closed" { 1.0 } else { 0.0 });
    }
}

impl Default for MetricsObserver {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for MetricsObserver {
    fn on_event(&self, event: &Event<'_>) {
        match event {
            Event::Request(record) => self.request(record),
            Event::Fill(fill) => self.fill(fill),
            Event::Trouble(trouble) => self.trouble(trouble),
            Event::Link(link) => self.link(link),
        }
    }
}

impl fmt::Debug for MetricsObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsObserver").field("models", &self.models.limit).finish_non_exhaustive()
    }
}

fn describe(recorder: &dyn Recorder) {
    for (name, unit, text) in [
        ("cache_requests_total", Unit::Count, "Requests, by where their answer came from and why"),
        ("cache_response_bytes_total", Unit::Bytes, "Bytes of response bodies that were handed on"),
        ("cache_degraded_total", Unit::Count, "Operations of the store that requests went on without"),
        (
            "cache_saved_microseconds_total",
            Unit::Microseconds,
            "What the upstream took for answers that were served again, less what was waited for them",
        ),
        ("cache_billed_nanousd_total", Unit::Count, "What upstream calls cost, in billionths of a US dollar"),
        ("cache_saved_nanousd_total", Unit::Count, "What answers from the cache would have cost, in billionths of a US dollar"),
        ("cache_tokens_total", Unit::Count, "Tokens, billed by the upstream or replayed from the cache"),
        ("cache_fills_total", Unit::Count, "Upstream calls, by what became of their answers"),
        ("cache_store_errors_total", Unit::Count, "Operations of the store that failed"),
        ("cache_store_link_changes_total", Unit::Count, "Changes of the way to the store"),
    ] {
        recorder.describe_counter(KeyName::from_const_str(name), Some(unit), SharedString::const_str(text));
    }
    for (name, unit, text) in [
        ("cache_request_duration_seconds", Unit::Seconds, "From the arrival of a request to the end of its response"),
        ("cache_first_byte_seconds", Unit::Seconds, "From the arrival of a request to the head of its response"),
        ("gen_ai.client.operation.duration", Unit::Seconds, "Duration of calls of a model"),
        ("gen_ai.client.token.usage", Unit::Count, "Tokens of calls of a model"),
    ] {
        recorder.describe_histogram(KeyName::from_const_str(name), Some(unit), SharedString::const_str(text));
    }
    let up = SharedString::const_str("Do operations get through to the store: 1 or 0");
    recorder.describe_gauge(KeyName::from_const_str("cache_store_link_up"), Some(Unit::Count), up);
}

const PLAIN: [Outcome; 6] =
    [Outcome::Hit, Outcome::Collapsed, Outcome::Unsatisfied, Outcome::Unreachable, Outcome::Unanswered, Outcome::CollapsedElsewhere];
const STALE: [Stale; 3] = [Stale::WhileRevalidate, Stale::IfError, Stale::Accepted];
const MISSED: [Miss; 6] = [Miss::Absent, Miss::Uri, Miss::Vary, Miss::Partial, Miss::Stale, Miss::Request];

/// All outcomes, in the order of [`index`].
fn outcomes() -> impl Iterator<Item = Outcome> {
    let of_the_upstream = MISSED.map(Outcome::Miss).into_iter().chain(MISSED.map(Outcome::Revalidated));
    PLAIN.into_iter().chain(STALE.map(Outcome::Stale)).chain(of_the_upstream).chain(Bypass::ALL.map(Outcome::Bypass))
}

fn index(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Hit => 0,
        Outcome::Collapsed => 1,
        Outcome::Unsatisfied => 2,
        Outcome::Unreachable => 3,
        Outcome::Unanswered => 4,
        Outcome::CollapsedElsewhere => 5,
        Outcome::Stale(why) => PLAIN.len() + why as usize,
        Outcome::Miss(why) => PLAIN.len() + STALE.len() + why as usize,
        Outcome::Revalidated(why) => PLAIN.len() + STALE.len() + MISSED.len() + why as usize,
        Outcome::Bypass(why) => PLAIN.len() + STALE.len() + 2 * MISSED.len() + why as usize,
    }
}

/// The recorder that is installed when it is asked.
struct Global;

impl Recorder for Global {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        metrics::with_recorder(|recorder| recorder.describe_counter(key, unit, description));
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        metrics::with_recorder(|recorder| recorder.describe_gauge(key, unit, description));
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        metrics::with_recorder(|recorder| recorder.describe_histogram(key, unit, description));
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        metrics::with_recorder(|recorder| recorder.register_counter(key, metadata))
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        metrics::with_recorder(|recorder| recorder.register_gauge(key, metadata))
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        metrics::with_recorder(|recorder| recorder.register_histogram(key, metadata))
    }
}

#[cfg(test)]
mod tests {
    use super::{index, outcomes};

    #[test]
    fn every_outcome_has_its_own_place() {
        for (place, outcome) in outcomes().enumerate() {
            assert_eq!(index(outcome), place, "{outcome:?}");
        }
    }
}
