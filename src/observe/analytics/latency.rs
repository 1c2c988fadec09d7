//! How long requests took, as counts of buckets: they add up exactly, over processes and periods.
//!
//! There are two widths. All requests of a sum share fine buckets, those of `hdrhistogram` at two digits. Of each value of each dimension there are coarse ones, eight per doubling, for there
//! are many. In Redis all of a kind are one field. Each fine bucket is within one coarse bucket.

use std::time::Duration;

use hdrhistogram::Histogram;

/// How long requests took.
///
/// Counts are exact. Times are those of buckets: of a [`Period`](super::Period) within 1 % of what it was, of a [`Group`](super::Group) within a sixteenth, 6.25 %.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency {
    buckets: Counts,
}

/// Two significant digits: what is within 1 % is the same.
const DIGITS: u8 = 2;

/// Longer requests count as this long, in microseconds: an hour.
const LONGEST: u32 = 3_600_000_000;

impl Latency {
    /// How many requests there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// The time within which this share of requests ended, 0 to 1; `None` if there were none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let mut histogram = Histogram::<u64>::new_with_max(u64::from(LONGEST), DIGITS).ok()?;
        for (place, count) in self.buckets.iter() {
            histogram.saturating_record_n(FINE.least(place), count);
        }
        (!histogram.is_empty()).then(|| Duration::from_micros(histogram.value_at_quantile(share)))
    }

    pub(super) fn note(&mut self, micros: u32, count: u64) {
        self.buckets.note(FINE.place(micros), count);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.buckets.add(&other.buckets);
    }

    #[cfg(feature = "redis")]
    pub(super) fn is_empty(&self) -> bool {
        self.buckets.0.is_empty()
    }

    /// As text, for a store that adds up: `12:5 13:9` are five in bucket 12 and nine in bucket 13.
    #[cfg(feature = "redis")]
    pub(super) fn text(&self) -> String {
        self.buckets.text()
    }

    #[cfg(feature = "redis")]
    pub(super) fn add_text(&mut self, text: &str) {
        self.buckets.add_text(text, FINE.place(LONGEST));
    }
}

/// In whole microseconds, up to an hour.
pub(super) fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(LONGEST).min(LONGEST)
}

/// How long requests of one value took, in coarse buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Coarse {
    buckets: Counts,
}

impl Coarse {
    pub(super) fn note(&mut self, micros: u32, count: u64) {
        self.buckets.note(COARSE.place(micros), count);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.buckets.add(&other.buckets);
    }

    #[cfg(feature = "redis")]
    pub(super) fn is_empty(&self) -> bool {
        self.buckets.0.is_empty()
    }

    /// Each bucket stands for the time in its middle: that is the last microsecond of a fine one, and what quantiles tell.
    pub(super) fn latency(&self) -> Latency {
        let middle = |place| COARSE.least(place).midpoint(COARSE.least(place + 1) - 1);
        let fine = |place| FINE.place(u32::try_from(middle(place)).unwrap_or(LONGEST));
        Latency { buckets: Counts(self.buckets.iter().map(|(place, count)| Counts::packed(fine(place), count)).collect()) }
    }

    #[cfg(feature = "redis")]
    pub(super) fn text(&self) -> String {
        self.buckets.text()
    }

    #[cfg(feature = "redis")]
    pub(super) fn add_text(&mut self, text: &str) {
        self.buckets.add_text(text, COARSE.place(LONGEST));
    }
}

/// How wide buckets are: times are in one if they begin with the same bits, so many of them. Short times are told apart to the microsecond.
#[derive(Clone, Copy)]
struct Width {
    bits: u32,
}

const FINE: Width = Width { bits: 8 };

const COARSE: Width = Width { bits: 4 };

impl Width {
    /// Which bucket a time is in, counted from the shortest.
    fn place(self, micros: u32) -> u64 {
        let dropped = (32 - micros.leading_zeros()).saturating_sub(self.bits);
        u64::from((dropped << (self.bits - 1)) + (micros >> dropped))
    }

    /// The shortest time in a bucket.
    fn least(self, place: u64) -> u64 {
        let half = 1 << (self.bits - 1);
        let dropped = (place / half).saturating_sub(1);
        (place - dropped * half) << dropped
    }
}

/// Buckets in use, in order, each in eight bytes: the upper twelve bits say which it is, the others how many are in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts(Vec<u64>);

/// How many bits say how many there are.
const COUNT_BITS: u32 = 52;

const MOST: u64 = (1 << COUNT_BITS) - 1;

impl Counts {
    fn packed(place: u64, count: u64) -> u64 {
        place << COUNT_BITS | count.min(MOST)
    }

    fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().map(|known| (known >> COUNT_BITS, known & MOST))
    }

    fn note(&mut self, place: u64, count: u64) {
        let at = self.0.partition_point(|known| known >> COUNT_BITS < place);
        self.add_at(at, place, count);
    }

    fn add(&mut self, other: &Self) {
        if self.0.is_empty() {
            return self.0.clone_from(&other.0);
        }
        let mut at = 0;
        for (place, count) in other.iter() {
            while self.0.get(at).is_some_and(|known| known >> COUNT_BITS < place) {
                at += 1;
            }
            self.add_at(at, place, count);
        }
    }

    #[cfg(feature = "redis")]
    fn text(&self) -> String {
        let pairs: Vec<String> = self.iter().map(|(place, count)| format!("{place}:{count}")).collect();
        pairs.join(" ")
    }

    /// Adds what a text says, of buckets up to the last there is; parts that say nothing add nothing.
    #[cfg(feature = "redis")]
    fn add_text(&mut self, text: &str, last: u64) {
        for (place, count) in text.split_ascii_whitespace().filter_map(|pair| pair.split_once(':')) {
            if let (Ok(place), Ok(count)) = (place.parse(), count.parse())
                && place <= last
                && count > 0
            {
                self.note(place, count);
            }
        }
    }

    fn add_at(&mut self, at: usize, place: u64, count: u64) {
        match self.0.get_mut(at) {
            Some(known) if *known >> COUNT_BITS == place => *known = Self::packed(place, (*known & MOST).saturating_add(count)),
            _ => self.0.insert(at, Self::packed(place, count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times() -> impl Iterator<Item = u32> {
        let powers = (0..32).flat_map(|bit| [(1u32 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        (0..10_000).chain(powers).chain((1..1000).map(|n| n * 3_599_999)).filter(|n| *n <= LONGEST)
    }

    fn fine(micros: u32) -> Latency {
        let mut latency = Latency::default();
        latency.note(micros, 1);
        latency
    }

    fn coarse(micros: u32) -> Coarse {
        let mut coarse = Coarse::default();
        coarse.note(micros, 1);
        coarse
    }

    #[test]
    fn a_fine_bucket_is_one_of_the_histograms() {
        let histogram = Histogram::<u64>::new_with_max(u64::from(LONGEST), DIGITS).unwrap();
        for micros in times() {
            assert_eq!(FINE.least(FINE.place(micros)), histogram.lowest_equivalent(u64::from(micros)), "{micros}");
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
        assert_eq!([Duration::MAX, Duration::from_secs(3600), Duration::from_nanos(1999)].map(micros), [LONGEST, LONGEST, 1]);
    }

    #[test]
    fn times_are_within_the_bounds_that_are_documented() {
        for micros in times().filter(|micros| *micros < 1000 || micros % 7 == 0) {
            for (latency, bound) in [(fine(micros), 0.01), (coarse(micros).latency(), 0.0625)] {
                let found = latency.quantile(0.5).unwrap().as_micros() as f64;
                assert!((found - f64::from(micros)).abs() <= f64::from(micros) * bound, "{micros}: {found}");
            }
        }
    }

    #[test]
    fn buckets_are_in_order_next_to_one_another_and_few() {
        for (width, most) in [(FINE, 1 << 12), (COARSE, 240)] {
            for micros in times() {
                let place = width.place(micros);
                assert!(width.least(place) <= u64::from(micros) && u64::from(micros) < width.least(place + 1), "{micros} in {place}");
            }
            let last = width.place(LONGEST);
            for place in 0..last {
                let ends = [width.least(place), width.least(place + 1) - 1];
                assert_eq!(ends.map(|micros| width.place(u32::try_from(micros).unwrap())), [place; 2]);
            }
            assert!(last < most, "{last}");
        }
    }

    #[test]
    fn counts_saturate_and_stay_in_their_bucket() {
        let mut sum = coarse(100);
        sum.note(100, u64::MAX);
        sum.add(&sum.clone());
        sum.note(1, 1);
        sum.note(1_000_000, 2);
        let place = |micros| COARSE.place(micros);
        assert_eq!(sum.buckets.iter().collect::<Vec<_>>(), [(place(1), 1), (place(100), MOST), (place(1_000_000), 2)]);
    }

    #[cfg(feature = "redis")]
    #[test]
    fn a_text_adds_up_to_what_it_was_made_of_and_nonsense_to_nothing() {
        let mut sum = Coarse::default();
        times().for_each(|micros| sum.note(micros, u64::from(micros) + 1));
        let mut back = Coarse::default();
        back.add_text(&sum.text());
        assert_eq!(back, sum);
        let (mut fine_sum, mut fine_back) = (Latency::default(), Latency::default());
        times().for_each(|micros| fine_sum.note(micros, 3));
        fine_back.add_text(&fine_sum.text());
        fine_back.add_text("4095:1");
        assert_eq!(fine_back, fine_sum);
        for nonsense in
            ["", " ", ":", "1", "1:", ":1", "1:x", "x:1", "-1:1", "1:-1", "1:0", "240:1", "255:1", "99999999999999999999:1", "\0:\0", "1;1"]
        {
            back.add_text(nonsense);
        }
        assert_eq!(back, sum);
        back.add_text("12:2 later 13:1");
        assert_eq!(back.latency().count(), sum.latency().count() + 3, "what is understood counts");
        assert_eq!(coarse(1000).text(), format!("{}:1", COARSE.place(1000)));
    }
}
