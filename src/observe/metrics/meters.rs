use std::{
    sync::{OnceLock, PoisonError, RwLock},
    time::Duration,
};

use metrics::{Counter, Histogram, Key, Label, Level, Metadata, Recorder};

use crate::{
    cost::NanoUsd,
    entry::Usage,
    observe::{RequestRecord, genai},
    status::Outcome,
};

pub(super) static METADATA: Metadata<'static> = Metadata::new("tower_response_cache", Level::INFO, Some(module_path!()));

/// What is counted per outcome.
pub(super) struct Slot {
    requests: Counter,
    bytes: Counter,
    duration: Histogram,
    first_byte: Histogram,
}

impl Slot {
    pub(super) fn new(recorder: &dyn Recorder, outcome: Outcome) -> Self {
        let labels = vec![Label::from_static_parts("outcome", outcome.label()), Label::from_static_parts("reason", outcome.reason())];
        Self {
            requests: counter(recorder, "cache_requests_total", labels.clone()),
            bytes: counter(recorder, "cache_response_bytes_total", labels.clone()),
            duration: histogram(recorder, "cache_request_duration_seconds", labels.clone()),
            first_byte: histogram(recorder, "cache_first_byte_seconds", labels),
        }
    }

    pub(super) fn count(&self, record: &RequestRecord) {
        self.requests.increment(1);
        self.bytes.increment(record.bytes);
        self.duration.record(record.timings.total.as_secs_f64());
        if let Some(first_byte) = record.timings.first_byte {
            self.first_byte.record(first_byte.as_secs_f64());
        }
    }
}

/// Counters of one name that are told apart by words of this crate's own.
pub(super) struct Family<const N: usize> {
    name: &'static str,
    labels: [&'static str; N],
    made: RwLock<Vec<([&'static str; N], Counter)>>,
}

impl<const N: usize> Family<N> {
    pub(super) fn new(name: &'static str, labels: [&'static str; N]) -> Self {
        Self { name, labels, made: RwLock::default() }
    }

    pub(super) fn increment(&self, recorder: &dyn Recorder, values: [&'static str; N]) {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        // Some twenty at most.
        if let Some((_, counter)) = made.iter().find(|(made, _)| *made == values) {
            return counter.increment(1);
        }
        drop(made);
        let labels = self.labels.iter().zip(values).map(|(label, value)| Label::from_static_parts(label, value)).collect();
        let counter = counter(recorder, self.name, labels);
        counter.increment(1);
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        // Another may have been as fast; both are handles to the same.
        if made.iter().all(|(made, _)| *made != values) {
            made.push((values, counter));
        }
    }
}

/// What is counted per provider and model: of the first so many pairs apart, of all others together.
pub(super) struct Models {
    pub(super) limit: usize,
    /// In the order of [`Model::pair`].
    known: RwLock<Vec<Model>>,
    others: Model,
}

impl Models {
    pub(super) fn new(recorder: &dyn Recorder, limit: usize) -> Self {
        Self { limit, known: RwLock::default(), others: Model::new(recorder, "other", "other") }
    }

    pub(super) fn of(&self, recorder: &dyn Recorder, provider: Option<&str>, model: Option<&str>, count: impl FnOnce(&Model)) {
        let (provider, model) = (provider.unwrap_or("unknown"), model.unwrap_or("unknown"));
        let find = |known: &[Model]| known.binary_search_by(|other| other.pair().cmp(&(model, provider)));
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        match find(&known) {
            Ok(place) => return count(&known[place]),
            Err(_) if known.len() >= self.limit => return count(&self.others),
            Err(_) => drop(known),
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match find(&known) {
            Ok(place) => count(&known[place]),
            Err(_) if known.len() >= self.limit => count(&self.others),
            Err(place) => {
                known.insert(place, Model::new(recorder, provider, model));
                count(&known[place]);
            }
        }
    }
}

/// What is counted of one model of one provider.
pub(super) struct Model {
    provider: String,
    model: String,
    billed: Counter,
    saved: Counter,
    /// Input and output.
    took: [Counter; 2],
    replayed: [Counter; 2],
    /// By [operation](genai::OPERATIONS), from its first call on.
    calls: [OnceLock<Calls>; genai::OPERATIONS.len()],
}

/// What OpenTelemetry counts of calls.
struct Calls {
    duration: Histogram,
    /// Input and output.
    tokens: [Histogram; 2],
}

impl Model {
    fn new(recorder: &dyn Recorder, provider: &str, model: &str) -> Self {
        let labels = vec![Label::new("provider", provider.to_owned()), Label::new("model", model.to_owned())];
        let tokens = |source| {
            CLASSES.map(|class| {
                let apart = [Label::from_static_parts("source", source), Label::from_static_parts("type", class)];
                counter(recorder, "cache_tokens_total", labels.iter().cloned().chain(apart).collect())
            })
        };
        Self {
            provider: provider.to_owned(),
            model: model.to_owned(),
            billed: counter(recorder, "cache_billed_nanousd_total", labels.clone()),
            saved: counter(recorder, "cache_saved_nanousd_total", labels.clone()),
            took: tokens("upstream"),
            replayed: tokens("cache"),
            calls: Default::default(),
        }
    }

    /// Models differ more than providers do.
    fn pair(&self) -> (&str, &str) {
        (&self.model, &self.provider)
    }

    pub(super) fn billed(&self, cost: Option<NanoUsd>) {
        add(&self.billed, cost.unwrap_or_default().0);
    }

    pub(super) fn saved(&self, cost: Option<NanoUsd>, usage: Option<Usage>) {
        add(&self.saved, cost.unwrap_or_default().0);
        add_all(&self.replayed, usage);
    }

    pub(super) fn took(&self, usage: Option<Usage>) {
        add_all(&self.took, usage);
    }

    pub(super) fn called(&self, recorder: &dyn Recorder, operation: Option<&str>, took: Duration, usage: Option<Usage>) {
        let operation = genai::operation(operation);
        let calls = self.calls[operation].get_or_init(|| Calls::new(recorder, genai::OPERATIONS[operation], self));
        calls.duration.record(took.as_secs_f64());
        for (histogram, tokens) in calls.tokens.iter().zip(usage.map(classes).into_iter().flatten()) {
            histogram.record(tokens as f64);
        }
    }
}

impl Calls {
    fn new(recorder: &dyn Recorder, operation: &'static str, of: &Model) -> Self {
        let labels = vec![
            Label::from_static_parts("gen_ai.operation.name", operation),
            Label::new("gen_ai.provider.name", genai::provider(&of.provider).to_owned()),
            Label::new("gen_ai.response.model", of.model.clone()),
        ];
        let tokens = |class| {
            let apart = Label::from_static_parts("gen_ai.token.type", class);
            histogram(recorder, "gen_ai.client.token.usage", labels.iter().cloned().chain([apart]).collect())
        };
        Self { duration: histogram(recorder, "gen_ai.client.operation.duration", labels.clone()), tokens: CLASSES.map(tokens) }
    }
}

const CLASSES: [&str; 2] = ["input", "output"];

fn classes(usage: Usage) -> [u64; 2] {
    [usage.input(), usage.output]
}

fn add_all(counters: &[Counter; 2], usage: Option<Usage>) {
    for (counter, tokens) in counters.iter().zip(usage.map(classes).unwrap_or_default()) {
        add(counter, tokens);
    }
}

fn add(counter: &Counter, by: u64) {
    if by > 0 {
        counter.increment(by);
    }
}

pub(super) fn counter(recorder: &dyn Recorder, name: &'static str, labels: Vec<Label>) -> Counter {
    recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
}

fn histogram(recorder: &dyn Recorder, name: &'static str, labels: Vec<Label>) -> Histogram {
    recorder.register_histogram(&Key::from_parts(name, labels), &METADATA)
}
