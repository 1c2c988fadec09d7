use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use hdrhistogram::Histogram;

use super::{FillRecord, Group, Period, RequestRecord};
use crate::{cost::NanoUsd, entry::Usage, observe::Ending, options::label, status::Outcome};

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
    /// Millionths of a second that the upstream took for answers that were served again.
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

    /// How long the upstream took for answers that were served again.
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

    fn all_mut(&mut self) -> [&mut u64; 18] {
        let Self {
            requests,
            hits,
            stale,
            coalesced,
            misses,
            bypassed,
            unanswered,
            failed,
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
const NAMES: [&str; 18] =
    ["n", "hit", "stale", "coal", "miss", "byp", "unan", "fail", "refr", "by", "unpr", "bill", "save", "us", "in", "out", "rin", "rout"];

/// How long requests took. The value of each is known within 1 %.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    /// Counts by the least microsecond of a bucket of `hdrhistogram`: few are in use, and they add up.
    buckets: BTreeMap<u32, u64>,
}

/// Two significant digits: what is within 1 % is the same.
const DIGITS: u8 = 2;

/// Longer requests count as this long, in microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;

impl Latency {
    /// How many requests there were.
    pub fn count(&self) -> u64 {
        self.buckets.values().sum()
    }

    /// The time within which this share of requests ended, 0 to 1; `None` if there were none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let mut histogram = Histogram::<u64>::new_with_max(LONGEST, DIGITS).ok()?;
        for (micros, count) in &self.buckets {
            histogram.saturating_record_n(u64::from(*micros), *count);
        }
        (!histogram.is_empty()).then(|| Duration::from_micros(histogram.value_at_quantile(share)))
    }

    fn add(&mut self, other: &Self) {
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
    }

    #[cfg(test)]
    fn of(time: Duration) -> Self {
        let micros = u64::try_from(time.as_micros()).unwrap_or(LONGEST).min(LONGEST);
        Self { buckets: BTreeMap::from([(bucket(micros), 1)]) }
    }
}

/// The least of the values that `hdrhistogram` takes for the same, at two digits: the upper eight bits count.
fn bucket(micros: u64) -> u32 {
    let dropped = (64 - micros.leading_zeros()).saturating_sub(8);
    u32::try_from(micros >> dropped << dropped).unwrap_or(u32::MAX)
}

/// What happened in a minute, an hour, or to one request.
#[derive(Clone, Default)]
pub(super) struct Rollup {
    pub(super) totals: Totals,
    hit_latency: Latency,
    miss_latency: Latency,
    outcomes: BTreeMap<(Cow<'static, str>, Cow<'static, str>), u64>,
    groups: BTreeMap<String, BTreeMap<String, Totals>>,
}

/// So many values are told apart in one sum.
const VALUES: usize = 64;

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

/// Who answered, and within how many microseconds, as a bucket.
enum Answered {
    Cache(u32),
    Upstream(u32),
}

impl<'a> Noted<'a> {
    pub(super) fn request(record: &'a RequestRecord, labels: &'a [String]) -> Self {
        let mut totals = Totals { requests: 1, bytes: record.bytes, ..Totals::default() };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let took = bucket(micros(record.timings.total).min(LONGEST));
        let (count, latency) = match record.outcome {
            Outcome::Hit | Outcome::Revalidated => (&mut totals.hits, Some(Answered::Cache(took))),
            Outcome::Stale(_) => (&mut totals.stale, Some(Answered::Cache(took))),
            Outcome::Collapsed | Outcome::CollapsedElsewhere => (&mut totals.coalesced, Some(Answered::Cache(took))),
            Outcome::Miss(_) => (&mut totals.misses, Some(Answered::Upstream(took))),
            Outcome::Bypass(_) => (&mut totals.bypassed, None),
            _ => (&mut totals.unanswered, None),
        };
        *count = 1;
        totals.failed = u64::from(record.ending == Ending::Failed);
        let cost = if totals.hits + totals.stale + totals.coalesced > 0 { record.saved } else { record.billed };
        totals.unpriced = u64::from(cost.is_none() && totals.unanswered == 0);
        totals.billed_nanos = record.billed.unwrap_or_default().0;
        totals.saved_nanos = record.saved.unwrap_or_default().0;
        totals.saved_micros = record.saved_time.map_or(0, micros);
        (totals.input_tokens, totals.output_tokens) = tokens(record.usage);
        (totals.replayed_input_tokens, totals.replayed_output_tokens) = tokens(record.saved_usage);

        let named =
            [("model", record.model.as_deref()), ("provider", record.provider.as_deref()), ("route", label(&record.labels, "route"))];
        let labelled = labels.iter().map(|name| (name.as_str(), label(&record.labels, name)));
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

fn tokens(usage: Option<Usage>) -> (u64, u64) {
    usage.map_or((0, 0), |usage| (usage.input(), usage.output))
}

impl Rollup {
    pub(super) fn note(&mut self, noted: &Noted<'_>) {
        self.totals.add(&noted.totals);
        match noted.latency {
            Some(Answered::Cache(bucket)) => *self.hit_latency.buckets.entry(bucket).or_default() += 1,
            Some(Answered::Upstream(bucket)) => *self.miss_latency.buckets.entry(bucket).or_default() += 1,
            None => {}
        }
        if let Some((outcome, reason)) = noted.outcome {
            *self.outcomes.entry((Cow::Borrowed(outcome), Cow::Borrowed(reason))).or_default() += 1;
        }
        for (dimension, value) in &noted.values {
            self.add_to(dimension, value, &noted.totals);
        }
    }

    /// Adds to one value, if that can be told apart, or to all others.
    fn add_to(&mut self, dimension: &str, value: &str, totals: &Totals) {
        if let Some(known) = self.groups.get_mut(dimension).and_then(|group| group.get_mut(value)) {
            return known.add(totals);
        }
        let is_full = self.groups.values().map(BTreeMap::len).sum::<usize>() >= VALUES;
        let group = self.groups.entry(dimension.to_owned()).or_default();
        group.entry(if is_full { OTHER } else { value }.to_owned()).or_default().add(totals);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.totals.add(&other.totals);
        self.hit_latency.add(&other.hit_latency);
        self.miss_latency.add(&other.miss_latency);
        for (outcome, count) in &other.outcomes {
            *self.outcomes.entry(outcome.clone()).or_default() += count;
        }
        for (dimension, others) in &other.groups {
            for (value, totals) in others {
                self.add_to(dimension, value, totals);
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
        for (kind, latency) in [("h", &self.hit_latency), ("m", &self.miss_latency)] {
            fields.extend(latency.buckets.iter().map(|(bucket, count)| (format!("{kind}\0{bucket}"), *count)));
        }
        fields.extend(self.outcomes.iter().map(|((outcome, reason), count)| (format!("o\0{outcome}\0{reason}"), *count)));
        for (dimension, values) in &self.groups {
            for (value, sums) in values {
                fields.extend(totals(sums, &format!("g\0{dimension}\0{value}\0")));
            }
        }
        fields
    }

    /// Adds what a field of another says; one that says nothing adds nothing.
    #[cfg(feature = "redis")]
    pub(super) fn add_field(&mut self, field: &str, by: u64) {
        let Some((kind, rest)) = field.split_once('\0') else { return };
        match kind {
            "t" => self.totals.add_named(rest, by),
            "h" | "m" => {
                let latency = if kind == "h" { &mut self.hit_latency } else { &mut self.miss_latency };
                if let Ok(bucket) = rest.parse() {
                    *latency.buckets.entry(bucket).or_default() += by;
                }
            }
            "o" => {
                if let Some((outcome, reason)) = rest.split_once('\0') {
                    *self.outcomes.entry((outcome.to_owned().into(), reason.to_owned().into())).or_default() += by;
                }
            }
            "g" => {
                // Values may be anything; what is around them is not.
                if let Some((dimension, rest)) = rest.split_once('\0')
                    && let Some((value, name)) = rest.rsplit_once('\0')
                {
                    let group = self.groups.entry(dimension.to_owned()).or_default();
                    group.entry(value.to_owned()).or_default().add_named(name, by);
                }
            }
            _ => {}
        }
    }

    pub(super) fn into_period(self) -> Period {
        let Self { totals, hit_latency, miss_latency, outcomes, groups } = self;
        let mut by_outcome = BTreeMap::<String, u64>::new();
        for ((outcome, reason), count) in outcomes {
            *by_outcome.entry(outcome.clone().into_owned()).or_default() += count;
            if !reason.is_empty() {
                *by_outcome.entry(format!("{outcome}/{reason}")).or_default() += count;
            }
        }
        let mut groups: Vec<Group> = groups
            .into_iter()
            .flat_map(|(dimension, values)| {
                values.into_iter().map(move |(value, totals)| Group { dimension: dimension.clone(), value, totals })
            })
            .collect();
        groups.sort_by(|a, b| (&a.dimension, b.totals.requests, &a.value).cmp(&(&b.dimension, a.totals.requests, &b.value)));
        Period { totals, hit_latency, miss_latency, by_outcome: by_outcome.into_iter().collect(), groups, shared: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_one_of_the_histograms() {
        let histogram = Histogram::<u64>::new_with_max(LONGEST, DIGITS).unwrap();
        for micros in (0..10_000).chain((0..32).map(|bit| 1 << bit)).chain((1..1000).map(|n| n * 3_599_999)).filter(|n| *n <= LONGEST) {
            assert_eq!(u64::from(bucket(micros)), histogram.lowest_equivalent(micros), "{micros}");
        }
    }

    #[test]
    fn quantiles_of_parts_that_were_added_are_those_of_the_whole() {
        let mut sum = Latency::default();
        for millis in 1..=1000 {
            sum.add(&Latency::of(Duration::from_millis(millis)));
        }
        assert_eq!(sum.count(), 1000);
        for (share, millis) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = sum.quantile(share).unwrap().as_secs_f64() * 1000.0;
            assert!((found / millis - 1.0).abs() < 0.01, "{share}: {found}");
        }
        assert_eq!(Latency::default().quantile(0.5), None);
        assert_eq!(Latency::of(Duration::MAX).count(), 1);
    }

    #[cfg(feature = "redis")]
    #[test]
    fn fields_add_up_to_what_they_were_made_of() {
        let mut sum = Rollup { totals: Totals { requests: 3, output_tokens: u64::MAX, ..Totals::default() }, ..Rollup::default() };
        for (dimension, value) in [("model", "a\0b"), ("route", "")] {
            sum.add_to(dimension, value, &sum.totals.clone());
        }
        sum.outcomes.insert(("bypass".into(), "range".into()), 2);
        sum.outcomes.insert(("hit".into(), "".into()), 1);
        (sum.hit_latency, sum.miss_latency) = (Latency::of(Duration::from_millis(3)), Latency::of(Duration::from_secs(9)));
        let mut back = Rollup::default();
        for (field, by) in sum.fields() {
            back.add_field(&field, by);
        }
        for nonsense in ["", "t", "t\0x", "h\0x", "o\0x", "g\0x", "g\0x\0y", "z\0y"] {
            back.add_field(nonsense, 7);
        }
        assert_eq!(back.totals, sum.totals);
        assert_eq!(
            (back.hit_latency, back.miss_latency, back.outcomes, back.groups),
            (sum.hit_latency, sum.miss_latency, sum.outcomes, sum.groups)
        );
    }

    #[test]
    fn what_is_told_apart_is_bounded_and_the_rest_is_summed_up() {
        let mut sum = Rollup::default();
        for i in 0..1000 {
            let (value, long) = (format!("v{i:04}"), "é".repeat(500));
            let totals = Totals { requests: 1, ..Totals::default() };
            let values = vec![("a", value.as_str()), ("b", cut(&long))];
            sum.note(&Noted { at: SystemTime::now(), totals, outcome: None, latency: None, values });
        }
        let period = sum.into_period();
        assert!(period.groups.len() <= VALUES + 2);
        for dimension in ["a", "b"] {
            let of = period.groups.iter().filter(|group| group.dimension == dimension);
            assert_eq!(of.map(|group| group.totals.requests).sum::<u64>(), 1000, "{dimension}");
        }
        assert_eq!((period.groups[0].value.as_str(), period.totals.requests), ("other", 1000));
        assert!(period.groups.iter().all(|group| group.value.len() <= VALUE_LEN));
    }
}
