use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    cost::NanoUsd,
    policy::Bypass,
    status::Outcome,
    store::{Health, StoreUsage},
};

/// What a cache did since it was made, and what its store holds.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Answers from the store, fresh; revalidated ones included.
    pub hits: u64,
    /// Upstream calls on the path of a request.
    pub misses: u64,
    /// Answers from the upstream call of another request.
    pub coalesced: u64,
    /// Answers from the store, stale.
    pub stale: u64,
    /// Requests that did not touch the cache, by reason; reasons that did not occur are left out.
    pub bypassed: Vec<(&'static str, u64)>,
    /// Requests for a stored answer or none that got a 504.
    pub unsatisfied: u64,
    /// Requests whose caller left before there was an answer.
    pub unanswered: u64,
    /// Operations of the store that failed.
    pub store_errors: u64,
    /// Stored values that were unusable: damaged, foreign, or under another key.
    pub corrupt: u64,
    /// Upstream answers that were stored.
    pub stored: u64,
    /// Upstream answers that were not.
    pub not_stored: u64,
    /// Panics in code of the operator's or an inspector's that were contained.
    pub panics: u64,
    /// Bytes of response bodies that were handed on.
    pub bytes: u64,
    /// Bytes of these that came from the store or another request's call.
    pub bytes_saved: u64,
    /// What the upstream took when the answers were made that were served again, less what was waited for them.
    pub saved_time: Duration,
    /// What upstream calls cost, those in the background included, as far as it is known.
    pub billed: NanoUsd,
    /// What answers from the cache would have cost, as far as it is known.
    pub saved: NanoUsd,
    /// Calls, and answers from the cache, of which the [cost model](crate::CostModel) did not know the cost. Without one, 0.
    pub unpriced: u64,
    /// What the store holds; `None` if it could not say.
    pub store: Option<StoreUsage>,
    /// How the store does; `None` if it has nothing to tell.
    pub health: Option<Health>,
}

impl Stats {
    /// Answers that cost no upstream call of their own, as a share of all that used the cache: 0 to 1, 0 if there were none.
    pub fn hit_rate(&self) -> f64 {
        let served = self.hits + self.stale + self.coalesced;
        let all = served + self.misses;
        if all == 0 { 0.0 } else { served as f64 / all as f64 }
    }
}

/// A counter on a cache line of its own would cost 64 bytes each; these are bumped once per request, which does not show.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, by: u64) {
        // Money of one absurd bill must not run over into a sum that looks sound.
        if self.0.fetch_add(by, Relaxed).checked_add(by).is_none() {
            self.0.store(u64::MAX, Relaxed);
        }
    }

    fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    hits: Counter,
    misses: Counter,
    coalesced: Counter,
    stale: Counter,
    bypassed: [Counter; Bypass::ALL.len()],
    unsatisfied: Counter,
    unanswered: Counter,
    pub(crate) store_errors: Counter,
    pub(crate) corrupt: Counter,
    pub(crate) stored: Counter,
    pub(crate) not_stored: Counter,
    pub(crate) panics: Counter,
    bytes: Counter,
    bytes_saved: Counter,
    saved_micros: Counter,
    pub(crate) billed_nanos: Counter,
    pub(crate) saved_nanos: Counter,
    pub(crate) unpriced: Counter,
}

impl Counters {
    pub(crate) fn count(&self, outcome: Outcome, bytes: u64, saved_time: Option<Duration>) {
        let saved = match outcome {
            Outcome::Hit | Outcome::Revalidated(_) => Some(&self.hits),
            Outcome::Stale(_) => Some(&self.stale),
            Outcome::Collapsed | Outcome::CollapsedElsewhere => Some(&self.coalesced),
            _ => None,
        };
        match outcome {
            Outcome::Miss(_) | Outcome::Unreachable => self.misses.add(1),
            Outcome::Bypass(reason) => self.bypassed[reason as usize].add(1),
            Outcome::Unsatisfied => self.unsatisfied.add(1),
            Outcome::Unanswered => self.unanswered.add(1),
            _ => {}
        }
        if let Some(counter) = saved {
            counter.add(1);
            self.bytes_saved.add(bytes);
        }
        if let Some(time) = saved_time {
            self.saved_micros.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        }
        self.bytes.add(bytes);
    }

    pub(crate) fn stats(&self, store: Option<StoreUsage>, health: Option<Health>) -> Stats {
        let bypassed = Bypass::ALL.iter().map(|reason| (reason.label(), self.bypassed[*reason as usize].value()));
        Stats {
            hits: self.hits.value(),
            misses: self.misses.value(),
            coalesced: self.coalesced.value(),
            stale: self.stale.value(),
            bypassed: bypassed.filter(|(_, count)| *count > 0).collect(),
            unsatisfied: self.unsatisfied.value(),
            unanswered: self.unanswered.value(),
            store_errors: self.store_errors.value(),
            corrupt: self.corrupt.value(),
            stored: self.stored.value(),
            not_stored: self.not_stored.value(),
            panics: self.panics.value(),
            bytes: self.bytes.value(),
            bytes_saved: self.bytes_saved.value(),
            saved_time: Duration::from_micros(self.saved_micros.value()),
            billed: NanoUsd(self.billed_nanos.value()),
            saved: NanoUsd(self.saved_nanos.value()),
            unpriced: self.unpriced.value(),
            store,
            health,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_end_at_the_most_that_they_can_say() {
        let counter = Counter::default();
        for by in [7, u64::MAX, 1] {
            counter.add(by);
        }
        assert_eq!(counter.value(), u64::MAX);
    }
}
