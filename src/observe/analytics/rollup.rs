use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use hdrhistogram::Histogram;

use super::{FillRecord, Group, Period, Recent, RequestRecord};
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
    outcomes: BTreeMap<(&'static str, &'static str), u64>,
    groups: BTreeMap<String, BTreeMap<String, Totals>>,
}

/// So many values are told apart in one sum.
const VALUES: usize = 64;

/// Longer values are cut off.
const VALUE_LEN: usize = 128;

const OTHER: &str = "other";

/// What is noted of a request, or of a call in the background.
pub(super) struct Noted {
    pub(super) at: SystemTime,
    pub(super) rollup: Rollup,
    pub(super) recent: Option<Recent>,
}

impl Noted {
    pub(super) fn request(record: &RequestRecord, labels: &[String]) -> Self {
        let mut totals = Totals { requests: 1, bytes: record.bytes, ..Totals::default() };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        match record.outcome {
            Outcome::Hit | Outcome::Revalidated => totals.hits = 1,
            Outcome::Stale(_) => totals.stale = 1,
            Outcome::Collapsed => totals.coalesced = 1,
            Outcome::Miss(_) => totals.misses = 1,
            Outcome::Bypass(_) => totals.bypassed = 1,
            _ => totals.unanswered = 1,
        }
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
        let mut rollup = Rollup { totals, ..Rollup::default() };
        rollup.group(named.into_iter().chain(labelled));
        rollup.outcomes.insert((record.outcome.label(), record.outcome.reason()), 1);
        let latency = Latency::of(record.timings.total);
        match record.outcome {
            Outcome::Hit | Outcome::Revalidated | Outcome::Stale(_) | Outcome::Collapsed => rollup.hit_latency = latency,
            Outcome::Miss(_) => rollup.miss_latency = latency,
            _ => {}
        }
        Self { at: record.at, rollup, recent: Some(Recent::of(record)) }
    }

    /// A call in the background, which belongs to no request.
    pub(super) fn refresh(fill: &FillRecord) -> Self {
        let (input_tokens, output_tokens) = tokens(fill.usage);
        let billed_nanos = fill.cost.unwrap_or_default().0;
        let totals = Totals { refreshes: 1, billed_nanos, input_tokens, output_tokens, ..Totals::default() };
        let mut rollup = Rollup { totals, ..Rollup::default() };
        rollup.group([("model", fill.model.as_deref()), ("provider", fill.provider.as_deref())].into_iter());
        Self { at: fill.at, rollup, recent: None }
    }
}

fn tokens(usage: Option<Usage>) -> (u64, u64) {
    usage.map_or((0, 0), |usage| (usage.input(), usage.output))
}

impl Rollup {
    fn group<'a>(&mut self, values: impl Iterator<Item = (&'a str, Option<&'a str>)>) {
        for (dimension, value) in values {
            if let Some(value) = value {
                let end = (0..=value.len().min(VALUE_LEN)).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
                let value = &value[..end];
                self.groups.entry(dimension.to_owned()).or_default().insert(value.to_owned(), self.totals);
            }
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.totals.add(&other.totals);
        self.hit_latency.add(&other.hit_latency);
        self.miss_latency.add(&other.miss_latency);
        for (outcome, count) in &other.outcomes {
            *self.outcomes.entry(*outcome).or_default() += count;
        }
        let mut values = self.groups.values().map(BTreeMap::len).sum::<usize>();
        for (dimension, others) in &other.groups {
            if !self.groups.contains_key(dimension) {
                self.groups.insert(dimension.clone(), BTreeMap::new());
            }
            let Some(group) = self.groups.get_mut(dimension) else { continue };
            for (value, totals) in others {
                if let Some(known) = group.get_mut(value) {
                    known.add(totals);
                } else if values < VALUES {
                    values += 1;
                    group.insert(value.clone(), *totals);
                } else {
                    group.entry(OTHER.to_owned()).or_default().add(totals);
                }
            }
        }
    }

    pub(super) fn into_period(self) -> Period {
        let Self { totals, hit_latency, miss_latency, outcomes, groups } = self;
        let mut by_outcome = BTreeMap::<String, u64>::new();
        for ((outcome, reason), count) in outcomes {
            *by_outcome.entry(outcome.to_owned()).or_default() += count;
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
        Period { totals, hit_latency, miss_latency, by_outcome: by_outcome.into_iter().collect(), groups }
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

    #[test]
    fn what_is_told_apart_is_bounded_and_the_rest_is_summed_up() {
        let mut sum = Rollup::default();
        for i in 0..1000 {
            let mut one = Rollup { totals: Totals { requests: 1, ..Totals::default() }, ..Rollup::default() };
            let value = format!("v{i:04}");
            one.group([("a", Some(value.as_str())), ("b", Some("é".repeat(500).as_str()))].into_iter());
            sum.add(&one);
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
