//! How long requests took, as counts of buckets: they add up exactly, over processes and periods.
//!
//! There are two widths. All requests of a sum share fine buckets, those of `hdrhistogram` at two digits. Of each value of each dimension there are coarse ones, eight per doubling, for there
//! are many: a used bucket takes eight bytes in memory, and all of a value are one field in Redis. Each fine bucket is within one coarse bucket.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

/// How long requests took.
///
/// Counts are exact. Times are those of buckets: of a [`Period`](super::Period) within 1 % of what it was, of a [`Group`](super::Group) within a sixteenth, 6.25 %.
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

    /// Adds requests of one [`bucket`].
    pub(super) fn note(&mut self, bucket: u32, count: u64) {
        let sum = self.buckets.entry(bucket).or_default();
        *sum = sum.saturating_add(count);
    }

    pub(super) fn add(&mut self, other: &Self) {
        other.buckets.iter().for_each(|(bucket, count)| self.note(*bucket, *count));
    }

    #[cfg(feature = "redis")]
    pub(super) fn buckets(&self) -> impl Iterator<Item = (u32, u64)> {
        self.buckets.iter().map(|(bucket, count)| (*bucket, *count))
    }
}

/// The bucket of a request that took so long: the least of the values that `hdrhistogram` takes for the same, at two digits. The upper eight bits count.
pub(super) fn bucket(micros: u64) -> u32 {
    let micros = micros.min(LONGEST);
    let dropped = (64 - micros.leading_zeros()).saturating_sub(8);
    u32::try_from(micros >> dropped << dropped).unwrap_or(u32::MAX)
}

/// The same in coarse buckets, of which the upper four bits count: sixteen of a microsecond each, then eight per doubling up to an hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coarse {
    /// In order, those in use: the upper eight bits say which bucket, the others how many are in it.
    buckets: Vec<u64>,
}

/// How many bits say how many are in a bucket.
const COUNT_BITS: u32 = 56;

const MOST: u64 = (1 << COUNT_BITS) - 1;

impl Coarse {
    /// Adds requests of one [`bucket`].
    pub(super) fn note(&mut self, bucket: u32, count: u64) {
        let place = place(bucket);
        let at = self.buckets.partition_point(|known| known >> COUNT_BITS < place);
        self.add_at(at, place, count);
    }

    pub(super) fn add(&mut self, other: &Self) {
        let mut at = 0;
        for theirs in &other.buckets {
            let place = theirs >> COUNT_BITS;
            at += self.buckets[at..].iter().take_while(|known| *known >> COUNT_BITS < place).count();
            self.add_at(at, place, theirs & MOST);
        }
    }

    fn add_at(&mut self, at: usize, place: u64, count: u64) {
        match self.buckets.get_mut(at) {
            Some(known) if *known >> COUNT_BITS == place => *known = place << COUNT_BITS | (*known & MOST).saturating_add(count).min(MOST),
            _ => self.buckets.insert(at, place << COUNT_BITS | count.min(MOST)),
        }
    }

    /// Each bucket stands for the time in its middle.
    pub(super) fn latency(&self) -> Latency {
        Latency { buckets: self.buckets.iter().map(|known| (middle(known >> COUNT_BITS), known & MOST)).collect() }
    }

    /// As text, for a store that adds up: `12:5 13:9` are five in bucket 12 and nine in bucket 13.
    #[cfg(feature = "redis")]
    pub(super) fn text(&self) -> String {
        let pairs: Vec<String> = self.buckets.iter().map(|known| format!("{}:{}", known >> COUNT_BITS, known & MOST)).collect();
        pairs.join(" ")
    }

    /// Adds what a text says; parts that say nothing add nothing.
    #[cfg(feature = "redis")]
    pub(super) fn add_text(&mut self, text: &str) {
        for (place, count) in text.split_ascii_whitespace().filter_map(|pair| pair.split_once(':')) {
            if let (Ok(place), Ok(count)) = (place.parse::<u64>(), count.parse::<u64>())
                && place <= self::place(bucket(LONGEST))
                && count > 0
            {
                self.note(u32::try_from(least(place)).unwrap_or(u32::MAX), count);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}

/// Which coarse bucket a fine one is in.
fn place(bucket: u32) -> u64 {
    let dropped = (32 - bucket.leading_zeros()).saturating_sub(4);
    u64::from(dropped * 8 + (bucket >> dropped))
}

/// The least microsecond in a coarse bucket.
fn least(place: u64) -> u64 {
    let dropped = (place / 8).saturating_sub(1);
    (place - dropped * 8) << dropped
}

/// The fine bucket whose last microsecond is in the middle of a coarse one: that is what quantiles tell.
fn middle(place: u64) -> u32 {
    bucket(least(place) + (least(place + 1) - least(place) - 1) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times() -> impl Iterator<Item = u64> {
        let powers = (0..32).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        (0..10_000).chain(powers).chain((1..1000).map(|n| n * 3_599_999)).filter(|n| *n <= LONGEST)
    }

    fn fine(micros: u64) -> Latency {
        let mut latency = Latency::default();
        latency.note(bucket(micros), 1);
        latency
    }

    fn coarse(micros: u64) -> Coarse {
        let mut coarse = Coarse::default();
        coarse.note(bucket(micros), 1);
        coarse
    }

    #[test]
    fn a_bucket_is_one_of_the_histograms() {
        let histogram = Histogram::<u64>::new_with_max(LONGEST, DIGITS).unwrap();
        for micros in times() {
            assert_eq!(u64::from(bucket(micros)), histogram.lowest_equivalent(micros), "{micros}");
        }
    }

    #[test]
    fn quantiles_of_parts_that_were_added_are_those_of_the_whole() {
        let (mut sum, mut group) = (Latency::default(), Coarse::default());
        for millis in (1..=1000).rev() {
            sum.add(&fine(millis * 1000));
            group.add(&coarse(millis * 1000));
        }
        for (sum, within) in [(sum, 0.01), (group.latency(), 0.0625)] {
            assert_eq!(sum.count(), 1000);
            for (share, millis) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
                let found = sum.quantile(share).unwrap().as_secs_f64() * 1000.0;
                assert!((found / millis - 1.0).abs() < within, "{share}: {found}");
            }
        }
        assert_eq!((Latency::default().quantile(0.5), Coarse::default().latency().quantile(0.5)), (None, None));
        assert_eq!(fine(u64::MAX).quantile(1.0), fine(LONGEST).quantile(1.0));
    }

    #[test]
    fn times_are_within_the_bounds_that_are_documented() {
        for micros in times().filter(|micros| *micros < 1000 || micros % 7 == 0) {
            for (latency, bound) in [(fine(micros), 0.01), (coarse(micros).latency(), 0.0625)] {
                let found = latency.quantile(0.5).unwrap().as_micros() as f64;
                assert!((found - micros as f64).abs() <= micros as f64 * bound, "{micros}: {found}");
            }
        }
    }

    #[test]
    fn coarse_buckets_are_in_order_next_to_one_another_and_few() {
        for micros in times() {
            let place = place(bucket(micros));
            assert!(least(place) <= micros && micros < least(place + 1), "{micros} in {place}");
        }
        let last = place(bucket(LONGEST));
        for known in 0..=last {
            assert_eq!((place(bucket(least(known))), place(bucket(least(known + 1) - 1))), (known, known));
        }
        assert!(last < 240, "{last}");
    }

    #[test]
    fn counts_saturate_and_stay_in_their_bucket() {
        let mut sum = coarse(100);
        let place = sum.buckets[0] >> COUNT_BITS;
        sum.note(100, u64::MAX);
        sum.add(&sum.clone());
        assert_eq!(sum.buckets, [place << COUNT_BITS | MOST]);
        sum.note(1, 1);
        sum.note(1_000_000, 2);
        assert_eq!(sum.latency().buckets.values().copied().collect::<Vec<_>>(), [1, MOST, 2]);
    }

    #[cfg(feature = "redis")]
    #[test]
    fn a_text_adds_up_to_what_it_was_made_of_and_nonsense_to_nothing() {
        let mut sum = Coarse::default();
        times().for_each(|micros| sum.note(bucket(micros), micros + 1));
        let mut back = Coarse::default();
        back.add_text(&sum.text());
        assert_eq!(back, sum);
        for nonsense in
            ["", " ", ":", "1", "1:", ":1", "1:x", "x:1", "-1:1", "1:-1", "1:0", "240:1", "255:1", "99999999999999999999:1", "\0:\0", "1;1"]
        {
            back.add_text(nonsense);
        }
        assert_eq!(back, sum);
        back.add_text("12:2 later 13:1");
        assert_eq!(back.latency().count(), sum.latency().count() + 3, "what is understood counts");
        assert_eq!(coarse(1000).text(), format!("{}:1", place(1000)));
    }
}
