use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{
    FillRecord, Group, Period, RequestRecord,
    latency::{self, Coarse, Latency},
};
use crate::{cost::NanoUsd, entry::Usage, observe::Ending, status::Outcome};

/// Sums. Each is exact, saturates, and adds up over processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Requests.
    pub requests: u64,
    /// Answers from the store, fresh; revalidated ones included.
    pub hits: u64,
    /// Answers from the store, stale.
    pub stale: u64,
    /// Answers from the upstream call of another request.
    pub coalesced: u64,
    /// Upstream calls on the path of a request.
    pub misses: u64,
    /// Requests that did not touch the cache.
    pub bypassed: u64,
    /// Requests that ended otherwise: no stored answer where one was wanted, or no answer before the caller left.
    pub unanswered: u64,
    /// Of all, those that failed: the inner service did, or the body.
    pub failed: u64,
    /// Of all, those that went wrong: those that failed, and those that were answered with a status of 500 or more, whoever made the call. A 504 that
    /// [the caller asked for](Outcome::Unsatisfied) is none of them.
    pub errors: u64,
    /// Upstream calls in the background. They are no requests.
    pub refreshes: u64,
    /// Bytes of response bodies that were handed on.
    pub bytes: u64,
    /// Of all, those whose cost, or what they saved, is unknown.
    pub unpriced: u64,
    /// Billionths of a dollar that upstream calls cost, those in the background included.
    pub billed_nanos: u64,
    /// Billionths of a dollar that answers from the cache would have cost.
    pub saved_nanos: u64,
    /// Millionths of a second that the upstream took for answers that were served again, less what was waited for them.
    pub saved_micros: u64,
    /// Prompt tokens of upstream calls.
    pub input_tokens: u64,
    /// Generated tokens of upstream calls.
    pub output_tokens: u64,
    /// Prompt tokens of answers from the cache.
    pub replayed_input_tokens: u64,
    /// Generated tokens of answers from the cache.
    pub replayed_output_tokens: u64,
}

impl Totals {
    /// Answers that cost no upstream call of their own, as a share of all that used the cache: 0 to 1, 0 if there were none.
    pub fn hit_rate(&self) -> f64 {
        let served = self.hits + self.stale + self.coalesced;
        let all = served + self.misses;
        if all == 0 { 0.0 } else { served as f64 / all as f64 }
    }

    /// What upstream calls cost, as far as it is known.
    pub fn billed(&self) -> NanoUsd {
        NanoUsd(self.billed_nanos)
    }

    /// What answers from the cache would have cost, as far as it is known.
    pub fn saved(&self) -> NanoUsd {
        NanoUsd(self.saved_nanos)
    }

    /// How long the upstream took for answers that were served again, less what was waited for them.
    pub fn saved_time(&self) -> Duration {
        Duration::from_micros(self.saved_micros)
    }

    pub(super) fn add(&mut self, other: &Self) {
        let mut other = *other;
        for (sum, part) in self.all_mut().into_iter().zip(other.all_mut()) {
            *sum = sum.saturating_add(*part);
        }
    }

    #[cfg(feature = "redis")]
    fn add_named(&mut self, name: &str, by: u64) {
        if let Some(place) = NAMES.iter().position(|known| *known == name) {
            let sum = &mut *self.all_mut()[place];
            *sum = sum.saturating_add(by);
        }
    }

    fn all_mut(&mut self) -> [&mut u64; 19] {
        let Self {
            requests,
            hits,
            stale,
            coalesced,
            misses,
            bypassed,
            unanswered,
            failed,
            errors,
            refreshes,
            bytes,
            unpriced,
            billed_nanos,
            saved_nanos,
            saved_micros,
            input_tokens,
            output_tokens,
            replayed_input_tokens,
            replayed_output_tokens,
        } = self;
        [
            requests,
            hits,
            stale,
            coalesced,
            misses,
            bypassed,
            unanswered,
            failed,
            errors,
            refreshes,
            bytes,
            unpriced,
            billed_nanos,
            saved_nanos,
            saved_micros,
            input_tokens,
            output_tokens,
            replayed_input_tokens,
            replayed_output_tokens,
        ]
    }
}

/// The names of [`Totals`] in a store, in the order of `all_mut`. They are short, for there are many.
#[cfg(feature = "redis")]
const NAMES: [&str; 19] = [
    "n", "hit", "stale", "coal", "miss", "byp", "unan", "fail", "err", "refr", "by", "unpr", "bill", "save", "us", "in", "out", "rin",
    "rout",
];

/// What happened in a minute, an hour, or to one request.
#[derive(Clone, Default)]
pub(super) struct Rollup {
    pub(super) totals: Totals,
    hit_latency: Latency,
    miss_latency: Latency,
    outcomes: BTreeMap<(Cow<'static, str>, Cow<'static, str>), u64>,
    groups: BTreeMap<String, BTreeMap<String, Box<Tally>>>,
}

/// What happened to requests that have a value in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    totals: Totals,
    hit_latency: Coarse,
    miss_latency: Coarse,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.totals.add(&other.totals);
        self.hit_latency.add(&other.hit_latency);
        self.miss_latency.add(&other.miss_latency);
    }
}

/// So many values of a dimension are told apart in one sum. Each has its own room: a caller who makes up names of models does not take that of routes and tenants.
const VALUES: usize = 32;

/// Longer values are cut off.
const VALUE_LEN: usize = 128;

const OTHER: &str = "other";

/// What is noted of a request, or of a call in the background.
pub(super) struct Noted<'a> {
    pub(super) at: SystemTime,
    totals: Totals,
    outcome: Option<(&'static str, &'static str)>,
    latency: Option<Answered>,
    /// Of each dimension, the value.
    values: Vec<(&'a str, &'a str)>,
}

/// Who answered, and within how many microseconds.
#[derive(Clone, Copy)]
enum Answered {
    Cache(u32),
    Upstream(u32),
}

impl<'a> Noted<'a> {
    pub(super) fn request(record: &'a RequestRecord, labels: &'a [String]) -> Self {
        let mut totals = Totals { requests: 1, bytes: record.bytes, ..Totals::default() };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let took = latency::micros(record.timings.total);
        let (count, latency) = match record.outcome {
            Outcome::Hit | Outcome::Revalidated(_) => (&mut totals.hits, Some(Answered::Cache(took))),
            Outcome::Stale(_) => (&mut totals.stale, Some(Answered::Cache(took))),
            // Who waits for a call of another is answered by no store, and has waited for less than a call.
            Outcome::Collapsed | Outcome::CollapsedElsewhere => (&mut totals.coalesced, None),
            Outcome::Miss(_) => (&mut totals.misses, Some(Answered::Upstream(took))),
            Outcome::Bypass(_) => (&mut totals.bypassed, None),
            _ => (&mut totals.unanswered, None),
        };
        *count = 1;
        // How long it takes to leave, or to fail, says nothing of answers.
        let latency = latency.filter(|_| record.ending == Ending::Complete);
        totals.failed = u64::from(record.ending == Ending::Failed);
        totals.errors = u64::from(is_error(record));
        let cost = if totals.hits + totals.stale + totals.coalesced > 0 { record.saved } else { record.billed };
        totals.unpriced = u64::from(cost.is_none() && totals.unanswered == 0);
        totals.billed_nanos = record.billed.unwrap_or_default().0;
        totals.saved_nanos = record.saved.unwrap_or_default().0;
        totals.saved_micros = record.saved_time.map_or(0, micros);
        (totals.input_tokens, totals.output_tokens) = tokens(record.usage);
        (totals.replayed_input_tokens, totals.replayed_output_tokens) = tokens(record.saved_usage);

        let named = [("model", record.model.as_deref()), ("provider", record.provider.as_deref()), ("route", record.labels.get("route"))];
        let labelled = labels.iter().map(|name| (name.as_str(), record.labels.get(name)));
        let values = named.into_iter().chain(labelled).filter_map(|(dimension, value)| Some((dimension, cut(value?)))).collect();
        let outcome = Some((record.outcome.label(), record.outcome.reason()));
        Self { at: record.at, totals, outcome, latency, values }
    }

    /// A call in the background, which belongs to no request.
    pub(super) fn refresh(fill: &'a FillRecord) -> Self {
        let (input_tokens, output_tokens) = tokens(fill.usage);
        let billed_nanos = fill.cost.unwrap_or_default().0;
        let totals = Totals { refreshes: 1, billed_nanos, input_tokens, output_tokens, ..Totals::default() };
        let named = [("model", fill.model.as_deref()), ("provider", fill.provider.as_deref())];
        let values = named.into_iter().filter_map(|(dimension, value)| Some((dimension, cut(value?)))).collect();
        Self { at: fill.at, totals, outcome: None, latency: None, values }
    }

    /// The same, with values that `known` does not tell apart as `other`.
    #[cfg(feature = "redis")]
    pub(super) fn within(mut self, known: &Rollup) -> Self {
        for (dimension, value) in &mut self.values {
            if !known.groups.get(*dimension).is_some_and(|known| known.contains_key(*value)) {
                *value = OTHER;
            }
        }
        self
    }
}

/// The beginning of a value that a caller may have made as long as a body.
fn cut(value: &str) -> &str {
    let end = (0..=value.len().min(VALUE_LEN)).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
    &value[..end]
}

fn is_error(record: &RequestRecord) -> bool {
    let is_refused = record.status.is_some_and(|status| status.as_u16() >= 500) && record.outcome != Outcome::Unsatisfied;
    is_refused || record.ending == Ending::Failed
}

fn tokens(usage: Option<Usage>) -> (u64, u64) {
    usage.map_or((0, 0), |usage| (usage.input(), usage.output))
}

impl Rollup {
    pub(super) fn note(&mut self, noted: &Noted<'_>) {
        self.totals.add(&noted.totals);
        match noted.latency {
            Some(Answered::Cache(took)) => self.hit_latency.note(took, 1),
            Some(Answered::Upstream(took)) => self.miss_latency.note(took, 1),
            None => {}
        }
        if let Some((outcome, reason)) = noted.outcome {
            *self.outcomes.entry((Cow::Borrowed(outcome), Cow::Borrowed(reason))).or_default() += 1;
        }
        for (dimension, value) in &noted.values {
            self.add_to(dimension, value, |tally| {
                tally.totals.add(&noted.totals);
                match noted.latency {
                    Some(Answered::Cache(took)) => tally.hit_latency.note(took, 1),
                    Some(Answered::Upstream(took)) => tally.miss_latency.note(took, 1),
                    None => {}
                }
            });
        }
    }

    /// Adds to one value, if that can be told apart, or to all others.
    fn add_to(&mut self, dimension: &str, value: &str, add: impl FnOnce(&mut Tally)) {
        if let Some(known) = self.groups.get_mut(dimension).and_then(|group| group.get_mut(value)) {
            return add(known);
        }
        let group = self.groups.entry(dimension.to_owned()).or_default();
        let value = if group.len() < VALUES { value } else { OTHER };
        add(group.entry(value.to_owned()).or_default());
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.totals.add(&other.totals);
        self.hit_latency.add(&other.hit_latency);
        self.miss_latency.add(&other.miss_latency);
        for (outcome, count) in &other.outcomes {
            increase(self.outcomes.entry(outcome.clone()).or_default(), *count);
        }
        for (dimension, others) in &other.groups {
            for (value, tally) in others {
                self.add_to(dimension, value, |known| known.add(tally));
            }
        }
    }

    /// What it adds up, as names and numbers; the way back is [`add_field`](Self::add_field).
    #[cfg(feature = "redis")]
    pub(super) fn fields(&self) -> Vec<(String, u64)> {
        let totals = |totals: &Totals, before: &str| -> Vec<_> {
            let mut totals = *totals;
            let numbered = totals.all_mut().into_iter().enumerate().filter(|(_, sum)| **sum > 0);
            numbered.map(|(place, sum)| (format!("{before}{}", NAMES[place]), *sum)).collect()
        };
        let mut fields = totals(&self.totals, "t\0");
        fields.extend(self.outcomes.iter().map(|((outcome, reason), count)| (format!("o\0{outcome}\0{reason}"), *count)));
        for (dimension, values) in &self.groups {
            for (value, tally) in values {
                fields.extend(totals(&tally.totals, &format!("g\0{dimension}\0{value}\0")));
            }
        }
        fields
    }

    /// How long requests took, all and those of each value, as names and texts; the way back is [`add_histogram`](Self::add_histogram).
    #[cfg(feature = "redis")]
    pub(super) fn histograms(&self) -> Vec<(String, String)> {
        let all = [("h", &self.hit_latency), ("m", &self.miss_latency)].into_iter().filter(|(_, latency)| !latency.is_empty());
        let all = all.map(|(kind, latency)| (kind.to_owned(), latency.text()));
        let values = self.groups.iter().flat_map(|(dimension, values)| values.iter().map(move |(value, tally)| (dimension, value, tally)));
        let both = values.flat_map(|(dimension, value, tally)| {
            [("h", &tally.hit_latency), ("m", &tally.miss_latency)]
                .map(|(kind, latency)| (format!("{kind}\0{dimension}\0{value}"), latency))
        });
        let both = both.filter(|(_, latency)| !latency.is_empty()).map(|(field, latency)| (field, latency.text()));
        all.chain(both).collect()
    }

    /// Adds what a field of another says; one that says nothing adds nothing.
    #[cfg(feature = "redis")]
    pub(super) fn add_field(&mut self, field: &str, by: u64) {
        let Some((kind, rest)) = field.split_once('\0') else { return };
        match kind {
            "t" => self.totals.add_named(rest, by),
            // So they were before they were histograms: the least microsecond of each bucket.
            "h" | "m" => {
                let latency = if kind == "h" { &mut self.hit_latency } else { &mut self.miss_latency };
                if let Ok(micros) = rest.parse() {
                    latency.note(micros, by);
                }
            }
            "o" => {
                if let Some((outcome, reason)) = rest.split_once('\0') {
                    increase(self.outcomes.entry((outcome.to_owned().into(), reason.to_owned().into())).or_default(), by);
                }
            }
            "g" => {
                // Values may be anything; what is around them is not.
                if let Some((dimension, rest)) = rest.split_once('\0')
                    && let Some((value, name)) = rest.rsplit_once('\0')
                {
                    let group = self.groups.entry(dimension.to_owned()).or_default();
                    group.entry(value.to_owned()).or_default().totals.add_named(name, by);
                }
            }
            _ => {}
        }
    }

    /// Adds what a histogram of another says; that of a value, if it is known by its fields.
    #[cfg(feature = "redis")]
    pub(super) fn add_histogram(&mut self, field: &str, text: &str) {
        let Some((kind, of)) = field.split_once('\0') else {
            return match field {
                "h" => self.hit_latency.add_text(text),
                "m" => self.miss_latency.add_text(text),
                _ => {}
            };
        };
        let tally = of.split_once('\0').and_then(|(dimension, value)| self.groups.get_mut(dimension)?.get_mut(value));
        match (kind, tally) {
            ("h", Some(tally)) => tally.hit_latency.add_text(text),
            ("m", Some(tally)) => tally.miss_latency.add_text(text),
            _ => {}
        }
    }

    pub(super) fn into_period(self) -> Period {
        let Self { totals, hit_latency, miss_latency, outcomes, groups } = self;
        let mut by_outcome = BTreeMap::<String, u64>::new();
        for ((outcome, reason), count) in outcomes {
            increase(by_outcome.entry(outcome.clone().into_owned()).or_default(), count);
            if !reason.is_empty() {
                increase(by_outcome.entry(format!("{outcome}/{reason}")).or_default(), count);
            }
        }
        let mut groups: Vec<Group> = groups
            .into_iter()
            .flat_map(|(dimension, values)| {
                values.into_iter().map(move |(value, tally)| {
                    let Tally { totals, hit_latency, miss_latency } = *tally;
                    let (hit_latency, miss_latency) = (hit_latency.latency(), miss_latency.latency());
                    Group { dimension: dimension.clone(), value, totals, hit_latency, miss_latency }
                })
            })
            .collect();
        groups.sort_by(|a, b| (&a.dimension, b.totals.requests, &a.value).cmp(&(&b.dimension, a.totals.requests, &b.value)));
        Period { totals, hit_latency, miss_latency, by_outcome: by_outcome.into_iter().collect(), groups, shared: false }
    }
}

/// What is in Redis may be anything.
fn increase(sum: &mut u64, by: u64) {
    *sum = sum.saturating_add(by);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "redis")]
    #[test]
    fn sums_that_others_wrote_do_not_overflow() {
        let mut sum = Rollup::default();
        for reason in ["a", "a", "b"] {
            sum.add_field(&format!("o\0miss\0{reason}"), u64::MAX);
        }
        let other = sum.clone();
        sum.add(&other);
        let period = sum.into_period();
        assert_eq!(period.by_outcome, ["miss", "miss/a", "miss/b"].map(|outcome| (outcome.to_owned(), u64::MAX)));
    }

    #[cfg(feature = "redis")]
    #[test]
    fn fields_and_histograms_add_up_to_what_they_were_made_of() {
        let mut sum = Rollup { totals: Totals { requests: 3, output_tokens: u64::MAX, ..Totals::default() }, ..Rollup::default() };
        let totals = sum.totals;
        for (dimension, value) in [("model", "a\0b"), ("route", ""), ("tenant", "h\0model\0m")] {
            sum.add_to(dimension, value, |tally| {
                tally.totals.add(&totals);
                tally.hit_latency.note(3000, 2);
                tally.hit_latency.note(10, 1);
                tally.miss_latency.note(latency::micros(Duration::MAX), 7);
            });
        }
        sum.add_to("model", "never answered", |tally| tally.totals.add(&totals));
        sum.outcomes.insert(("bypass".into(), "range".into()), 2);
        sum.outcomes.insert(("hit".into(), "".into()), 1);
        sum.hit_latency.note(3000, 1);
        sum.miss_latency.note(9_000_000, 1);
        let mut back = Rollup::default();
        for (field, by) in sum.fields() {
            back.add_field(&field, by);
        }
        for (field, text) in sum.histograms() {
            back.add_histogram(&field, &text);
        }
        for nonsense in ["", "t", "t\0x", "h\0x", "o\0x", "g\0x", "g\0x\0y", "z\0y"] {
            back.add_field(nonsense, 7);
        }
        for nonsense in ["", "x", "h\0model", "h\0model\0x", "h\0x\0y", "z\0route\0", "\0route\0"] {
            back.add_histogram(nonsense, "12:1");
        }
        assert_eq!(back.totals, sum.totals);
        assert_eq!(
            (back.hit_latency, back.miss_latency, back.outcomes, back.groups),
            (sum.hit_latency, sum.miss_latency, sum.outcomes, sum.groups)
        );
        let mut before = Rollup::default();
        before.add_field("h\x002992", 1);
        before.add_field("m\x008978432", 1);
        assert_eq!((before.hit_latency, before.miss_latency), (sum_of_one(3000), sum_of_one(9_000_000)), "as it was written before");
    }

    #[cfg(feature = "redis")]
    fn sum_of_one(micros: u32) -> Latency {
        let mut latency = Latency::default();
        latency.note(micros, 1);
        latency
    }

    #[test]
    fn what_is_told_apart_is_bounded_and_the_rest_is_summed_up() {
        let mut sum = Rollup::default();
        for i in 0..1000 {
            let (value, long) = (format!("v{i:04}"), "é".repeat(500));
            let totals = Totals { requests: 1, ..Totals::default() };
            let late = format!("late{}", i / 500);
            let values = vec![("a", value.as_str()), ("b", cut(&long)), ("late", late.as_str())];
            sum.note(&Noted { at: SystemTime::now(), totals, outcome: None, latency: None, values });
        }
        let period = sum.into_period();
        for (dimension, apart) in [("a", VALUES + 1), ("b", 1), ("late", 2)] {
            let of = period.groups.iter().filter(|group| group.dimension == dimension);
            assert_eq!(of.clone().count(), apart, "{dimension}");
            assert_eq!(of.map(|group| group.totals.requests).sum::<u64>(), 1000, "{dimension}");
        }
        assert_eq!((period.groups[0].value.as_str(), period.totals.requests), ("other", 1000));
        assert!(period.groups.iter().all(|group| group.value.len() <= VALUE_LEN));
    }
}
