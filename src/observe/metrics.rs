use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use metrics::{Counter, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString, Unit};

use super::{Event, FillRecord, LinkChange, Observer, RequestRecord, Trouble};
use crate::{
    entry::Usage,
    policy::Bypass,
    status::{Miss, Outcome, Stale},
};

/// Feeds the `metrics` facade, and through it Prometheus and whatever else has a recorder.
///
/// | name | kind, unit | labels |
/// |---|---|---|
/// | `cache_requests_total` | counter | `outcome`, `reason` |
/// | `cache_response_bytes_total` | counter, bytes | `outcome`, `reason` |
/// | `cache_request_duration_seconds` | histogram: from arrival to the end of the body | `outcome`, `reason` |
/// | `cache_first_byte_seconds` | histogram: from arrival to the response head | `outcome`, `reason` |
/// | `cache_degraded_total` | counter: operations of the store that requests went on without | |
/// | `cache_saved_microseconds_total` | counter: what the upstream took for answers that were served again | |
/// | `cache_billed_nanousd_total` | counter, billionths of a dollar | `provider`, `model` |
/// | `cache_saved_nanousd_total` | counter, billionths of a dollar | `provider`, `model` |
/// | `cache_tokens_total` | counter | `provider`, `model`, `type`: `input`, `output`; `source`: `upstream`, `cache` |
/// | `cache_fills_total` | counter: upstream calls | `result`: `stored`, or why not |
/// | `cache_store_errors_total` | counter | `operation`, `kind` |
/// | `cache_store_link_changes_total` | counter | `state`: `open`, `probing`, `closed` |
/// | `cache_store_link_up` | gauge: 1 if operations get through to the store, 0 if they fail at once; from the first change on | |
/// | `gen_ai.client.operation.duration` | histogram, seconds: upstream calls of which the model is known | `gen_ai.provider.name`, `gen_ai.response.model` |
/// | `gen_ai.client.token.usage` | histogram, tokens: of the same calls | as before, and `gen_ai.token.type`: `input`, `output` |
///
/// The last two are those of OpenTelemetry's semantic conventions for generative AI. Sets of labels are bounded: outcomes and reasons are enumerated in this crate, and after
/// the first [64](Self::models) pairs of provider and model all others are `other`. What calls in the background cost is in `cache_billed_nanousd_total`, too.
///
/// Handles are made beforehand and kept: a record costs a few atomic operations.
pub struct MetricsObserver {
    slots: Vec<Slot>,
    degraded: Counter,
    saved_micros: Counter,
    models: RwLock<HashMap<String, HashMap<String, Arc<Model>>>>,
    others: Arc<Model>,
    limit: usize,
    recorder: Registry,
}

/// Where metrics are registered.
type Registry = Arc<dyn Recorder + Send + Sync>;

/// What is counted per outcome.
struct Slot {
    requests: Counter,
    bytes: Counter,
    duration: Histogram,
    first_byte: Histogram,
}

/// What is counted per provider and model.
struct Model {
    billed: Counter,
    saved: Counter,
    /// Input and output, from upstream and from the cache.
    tokens: [[Counter; 2]; 2],
    call_duration: Histogram,
    call_tokens: [Histogram; 2],
}

static METADATA: Metadata<'static> = Metadata::new("tower_response_cache", Level::INFO, Some(module_path!()));

impl MetricsObserver {
    /// Registers with the global recorder. Install that first: without one nothing is counted.
    pub fn new() -> Self {
        Self::with_recorder(Arc::new(Global))
    }

    /// Registers with a recorder of one's own.
    pub fn with_recorder(recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        describe(&*recorder);
        let slots = outcomes().map(|outcome| Slot::new(&*recorder, outcome)).collect();
        Self {
            slots,
            degraded: counter(&*recorder, "cache_degraded_total", Vec::new()),
            saved_micros: counter(&*recorder, "cache_saved_microseconds_total", Vec::new()),
            models: RwLock::default(),
            others: Arc::new(Model::new(&*recorder, "other", "other")),
            limit: 64,
            recorder,
        }
    }

    /// Tells so many pairs of provider and model apart. Default: 64.
    #[must_use]
    pub fn models(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    fn request(&self, record: &RequestRecord) {
        if let Some(slot) = self.slots.get(index(record.outcome)) {
            slot.requests.increment(1);
            slot.bytes.increment(record.bytes);
            slot.duration.record(record.timings.total.as_secs_f64());
            if let Some(first_byte) = record.timings.first_byte {
                slot.first_byte.record(first_byte.as_secs_f64());
            }
        }
        if record.degraded > 0 {
            self.degraded.increment(record.degraded.into());
        }
        if let Some(time) = record.saved_time {
            self.saved_micros.increment(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
        if record.saved_usage.is_some() || record.saved.is_some() {
            let model = self.model(record.provider.as_deref(), record.model.as_deref());
            model.saved.increment(record.saved.unwrap_or_default().0);
            model.count(1, record.saved_usage);
        }
        // Calls through the cache are billed with their fills.
        if let (Outcome::Bypass(_), Some(billed)) = (record.outcome, record.billed) {
            self.model(record.provider.as_deref(), record.model.as_deref()).billed.increment(billed.0);
        }
    }

    fn fill(&self, fill: &FillRecord) {
        let result = fill.not_stored.as_ref().map_or("stored", |reason| reason.label());
        counter(&*self.recorder, "cache_fills_total", vec![Label::from_static_parts("result", result)]).increment(1);
        if fill.usage.is_none() && fill.cost.is_none() {
            return;
        }
        let model = self.model(fill.provider.as_deref(), fill.model.as_deref());
        model.billed.increment(fill.cost.unwrap_or_default().0);
        model.count(0, fill.usage);
        if let (Some(_), Some(usage)) = (&fill.model, fill.usage) {
            model.call_duration.record(fill.last_byte.as_secs_f64());
            for (histogram, tokens) in model.call_tokens.iter().zip(classes(usage)) {
                histogram.record(tokens as f64);
            }
        }
    }

    fn trouble(&self, trouble: &Trouble<'_>) {
        let labels =
            vec![Label::from_static_parts("operation", trouble.operation), Label::from_static_parts("kind", trouble.error.label())];
        counter(&*self.recorder, "cache_store_errors_total", labels).increment(1);
    }

    fn link(&self, link: &LinkChange) {
        let state = vec![Label::from_static_parts("state", link.state)];
        counter(&*self.recorder, "cache_store_link_changes_total", state).increment(1);
        let up = self.recorder.register_gauge(&Key::from_static_name("cache_store_link_up"), &METADATA);
        up.set(if link.state == "closed" { 1.0 } else { 0.0 });
    }

    fn model(&self, provider: Option<&str>, model: Option<&str>) -> Arc<Model> {
        let (provider, model) = (provider.unwrap_or("unknown"), model.unwrap_or("unknown"));
        let known = self.models.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(provider).and_then(|models| models.get(model)) {
            return Arc::clone(found);
        }
        let is_full = |known: &HashMap<_, HashMap<String, _>>| known.values().map(HashMap::len).sum::<usize>() >= self.limit;
        if is_full(&known) {
            return Arc::clone(&self.others);
        }
        drop(known);
        let mut known = self.models.write().unwrap_or_else(PoisonError::into_inner);
        if is_full(&known) {
            return Arc::clone(&self.others);
        }
        let new = || Arc::new(Model::new(&*self.recorder, provider, model));
        Arc::clone(known.entry(provider.to_owned()).or_default().entry(model.to_owned()).or_insert_with(new))
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
        f.debug_struct("MetricsObserver").field("models", &self.limit).finish_non_exhaustive()
    }
}

impl Slot {
    fn new(recorder: &dyn Recorder, outcome: Outcome) -> Self {
        let labels = vec![Label::from_static_parts("outcome", outcome.label()), Label::from_static_parts("reason", outcome.reason())];
        Self {
            requests: counter(recorder, "cache_requests_total", labels.clone()),
            bytes: counter(recorder, "cache_response_bytes_total", labels.clone()),
            duration: histogram(recorder, "cache_request_duration_seconds", labels.clone()),
            first_byte: histogram(recorder, "cache_first_byte_seconds", labels),
        }
    }
}

impl Model {
    fn new(recorder: &dyn Recorder, provider: &str, model: &str) -> Self {
        let labels = vec![Label::new("provider", provider.to_owned()), Label::new("model", model.to_owned())];
        let tokens = |source, class| {
            let apart = [Label::from_static_parts("source", source), Label::from_static_parts("type", class)];
            counter(recorder, "cache_tokens_total", labels.iter().cloned().chain(apart).collect())
        };
        let conventional =
            vec![Label::new("gen_ai.provider.name", provider.to_owned()), Label::new("gen_ai.response.model", model.to_owned())];
        let call_tokens = |class| {
            let apart = Label::from_static_parts("gen_ai.token.type", class);
            histogram(recorder, "gen_ai.client.token.usage", conventional.iter().cloned().chain([apart]).collect())
        };
        Self {
            billed: counter(recorder, "cache_billed_nanousd_total", labels.clone()),
            saved: counter(recorder, "cache_saved_nanousd_total", labels.clone()),
            tokens: ["upstream", "cache"].map(|source| CLASSES.map(|class| tokens(source, class))),
            call_duration: histogram(recorder, "gen_ai.client.operation.duration", conventional.clone()),
            call_tokens: CLASSES.map(call_tokens),
        }
    }

    fn count(&self, source: usize, usage: Option<Usage>) {
        for (counter, tokens) in self.tokens[source].iter().zip(usage.map(classes).unwrap_or_default()) {
            counter.increment(tokens);
        }
    }
}

const CLASSES: [&str; 2] = ["input", "output"];

fn classes(usage: Usage) -> [u64; 2] {
    [usage.input(), usage.output]
}

fn counter(recorder: &dyn Recorder, name: &'static str, labels: Vec<Label>) -> Counter {
    recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
}

fn histogram(recorder: &dyn Recorder, name: &'static str, labels: Vec<Label>) -> Histogram {
    recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
}

fn describe(recorder: &dyn Recorder) {
    for (name, unit, text) in [
        ("cache_requests_total", Unit::Count, "Requests, by where their answer came from and why"),
        ("cache_response_bytes_total", Unit::Bytes, "Bytes of response bodies that were handed on"),
        ("cache_degraded_total", Unit::Count, "Operations of the store that requests went on without"),
        ("cache_saved_microseconds_total", Unit::Microseconds, "What the upstream took for answers that were served again"),
        ("cache_billed_nanousd_total", Unit::Count, "What upstream calls cost, in billionths of a US dollar"),
        ("cache_saved_nanousd_total", Unit::Count, "What answers from the cache would have cost, in billionths of a US dollar"),
        ("cache_tokens_total", Unit::Count, "Tokens, billed by the upstream or replayed from the cache"),
        ("cache_fills_total", Unit::Count, "Upstream calls, by what became of their answers"),
        ("cache_store_errors_total", Unit::Count, "Operations of the store that failed"),
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
}

const PLAIN: [Outcome; 7] = [
    Outcome::Hit,
    Outcome::Revalidated,
    Outcome::Collapsed,
    Outcome::Unsatisfied,
    Outcome::Unreachable,
    Outcome::Unanswered,
    Outcome::CollapsedElsewhere,
];
const STALE: [Stale; 3] = [Stale::WhileRevalidate, Stale::IfError, Stale::Accepted];
const MISSED: [Miss; 6] = [Miss::Absent, Miss::Uri, Miss::Vary, Miss::Partial, Miss::Stale, Miss::Request];

/// All outcomes, in the order of [`index`].
fn outcomes() -> impl Iterator<Item = Outcome> {
    PLAIN.into_iter().chain(STALE.map(Outcome::Stale)).chain(MISSED.map(Outcome::Miss)).chain(Bypass::ALL.map(Outcome::Bypass))
}

fn index(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Hit => 0,
        Outcome::Revalidated => 1,
        Outcome::Collapsed => 2,
        Outcome::Unsatisfied => 3,
        Outcome::Unreachable => 4,
        Outcome::Unanswered => 5,
        Outcome::CollapsedElsewhere => 6,
        Outcome::Stale(why) => PLAIN.len() + why as usize,
        Outcome::Miss(why) => PLAIN.len() + STALE.len() + why as usize,
        Outcome::Bypass(why) => PLAIN.len() + STALE.len() + MISSED.len() + why as usize,
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

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> metrics::Gauge {
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
