use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::fault::Fault;

/// Keeps operations away from a server that is of no use.
///
/// Closed, all pass. After some failures in a row, or one that says it all, it opens: all fail at once. Then one probe at a time finds
/// out when to close it; the pauses between probes grow, are jittered, and start small again only after the server was well for a while.
#[derive(Debug)]
pub(super) struct Breaker {
    threshold: u32,
    open: AtomicBool,
    failures: AtomicU32,
    /// How often it opened: a failure of an operation from before says nothing of now.
    era: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    probing: bool,
    pause: Duration,
    closed_at: Option<Instant>,
    last: Option<Fault>,
}

/// Whether operations get through to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkState {
    /// They do.
    Closed,
    /// They fail at once.
    Open,
    /// They fail at once, while a probe is on its way.
    Probing,
}

impl LinkState {
    /// In one word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Probing => "probing",
        }
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Between probes of a server that does not let us in: somebody has to change something first.
const DENIED_PAUSE: Duration = Duration::from_secs(15);

/// So long the server has to be well before pauses start small again.
const WELL: Duration = Duration::from_secs(10);

impl Breaker {
    pub(super) fn new(threshold: u32) -> Self {
        Self {
            threshold: threshold.max(1),
            open: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            era: AtomicU64::new(0),
            inner: Mutex::new(Inner { probing: false, pause: FIRST_PAUSE, closed_at: None, last: None }),
        }
    }

    /// May an operation pass? Then in which era.
    pub(super) fn admit(&self) -> Option<u64> {
        let era = self.era.load(Ordering::SeqCst);
        (!self.open.load(Ordering::SeqCst)).then_some(era)
    }

    /// An operation of that era was answered.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// An operation of that era failed. Says whether this opened the breaker: then the caller has it probed.
    pub(super) fn failed(&self, era: u64, fault: Fault) -> bool {
        let mut inner = self.lock();
        if era != self.era.load(Ordering::SeqCst) || self.open.load(Ordering::SeqCst) {
            return false;
        }
        inner.last = Some(fault);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures < self.threshold && !matches!(fault, Fault::Outage(_) | Fault::Denied(_)) {
            return false;
        }
        if inner.closed_at.is_none_or(|at| at.elapsed() >= WELL) {
            inner.pause = FIRST_PAUSE;
        }
        self.open.store(true, Ordering::SeqCst);
        self.era.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// How long to wait before the next probe: between half of the pause and all of it.
    pub(super) fn pause(&self) -> Duration {
        let mut inner = self.lock();
        inner.probing = false;
        if matches!(inner.last, Some(Fault::Denied(_))) {
            return jittered(DENIED_PAUSE);
        }
        let pause = inner.pause;
        inner.pause = (pause * 2).min(LONGEST_PAUSE);
        jittered(pause)
    }

    pub(super) fn probing(&self) {
        self.lock().probing = true;
    }

    /// A probe failed.
    pub(super) fn probed(&self, fault: Fault) {
        self.lock().last = Some(fault);
    }

    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.probing = false;
        inner.closed_at = Some(Instant::now());
        self.failures.store(0, Ordering::Relaxed);
        self.open.store(false, Ordering::SeqCst);
    }

    pub(super) fn state(&self) -> LinkState {
        match (self.open.load(Ordering::SeqCst), self.lock().probing) {
            (false, _) => LinkState::Closed,
            (true, false) => LinkState::Open,
            (true, true) => LinkState::Probing,
        }
    }

    pub(super) fn opened(&self) -> u64 {
        self.era.load(Ordering::SeqCst)
    }

    pub(super) fn last(&self) -> Option<Fault> {
        self.lock().last
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(fastrand::f64().mul_add(0.5, 0.5))
}

#[cfg(test)]
mod tests {
    use super::{Breaker, FIRST_PAUSE, Fault, LONGEST_PAUSE, LinkState};

    #[test]
    fn it_opens_after_failures_in_a_row_and_a_success_in_between_counts() {
        let breaker = Breaker::new(3);
        let era = breaker.admit().unwrap();
        for _ in 0..10 {
            assert!(!breaker.failed(era, Fault::Timeout) && !breaker.failed(era, Fault::Lost));
            breaker.succeeded();
        }
        assert!(!breaker.failed(era, Fault::Timeout) && !breaker.failed(era, Fault::Timeout));
        assert!(breaker.failed(era, Fault::Timeout));
        assert_eq!((breaker.admit(), breaker.state()), (None, LinkState::Open));
    }

    #[test]
    fn one_word_of_the_server_that_it_is_of_no_use_opens_it() {
        for fault in [Fault::Outage("LOADING"), Fault::Denied("NOAUTH")] {
            let breaker = Breaker::new(3);
            assert!(breaker.failed(breaker.admit().unwrap(), fault));
            assert_eq!(breaker.last(), Some(fault));
        }
    }

    #[test]
    fn failures_of_operations_from_before_it_opened_do_not_open_it_again() {
        let breaker = Breaker::new(1);
        let old = breaker.admit().unwrap();
        assert!(breaker.failed(old, Fault::Timeout));
        breaker.close();
        assert!(!breaker.failed(old, Fault::Timeout));
        assert!(breaker.failed(breaker.admit().unwrap(), Fault::Timeout));
    }

    #[test]
    fn pauses_grow_while_the_server_flaps_and_are_bounded() {
        let breaker = Breaker::new(1);
        let mut longest = FIRST_PAUSE;
        for _ in 0..20 {
            assert!(breaker.failed(breaker.admit().unwrap(), Fault::Lost));
            let pause = breaker.pause();
            assert!(pause >= longest / 2 && pause <= longest, "{pause:?} of {longest:?}");
            longest = (longest * 2).min(LONGEST_PAUSE);
            breaker.close();
        }
    }
}
