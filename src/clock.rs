//! Time, from one place.
//!
//! Freshness needs wall-clock time, because stored entries outlive processes. Tokio's paused time does not move
//! `SystemTime`, so the cache reads both from a [`Clock`] that tests can move.

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

#[cfg(any(test, feature = "test-util"))]
use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

/// The source of time of a cache and its stores. The default is the system's.
#[derive(Clone, Default)]
pub struct Clock {
    #[cfg(any(test, feature = "test-util"))]
    offset_millis: Option<Arc<AtomicI64>>,
    #[cfg(any(test, feature = "test-util"))]
    stopped_at: Option<SystemTime>,
}

impl Clock {
    /// The system's clock.
    pub const fn system() -> Self {
        Self {
            #[cfg(any(test, feature = "test-util"))]
            offset_millis: None,
            #[cfg(any(test, feature = "test-util"))]
            stopped_at: None,
        }
    }

    /// A clock that runs with the system's and can be moved. Clones move together.
    #[cfg(any(test, feature = "test-util"))]
    pub fn movable() -> Self {
        Self { offset_millis: Some(Arc::new(AtomicI64::new(0))), stopped_at: None }
    }

    /// A clock that stands at a time until it is moved. Clones move together. The monotonic clock runs.
    #[cfg(any(test, feature = "test-util"))]
    pub fn stopped(at: SystemTime) -> Self {
        Self { stopped_at: Some(at), ..Self::movable() }
    }

    /// Moves a movable clock by `millis` milliseconds, backwards if negative. The wall moves; the monotonic clock does not.
    ///
    /// # Panics
    ///
    /// On the system's clock.
    #[cfg(any(test, feature = "test-util"))]
    #[allow(clippy::expect_used)]
    pub fn shift(&self, millis: i64) {
        self.offset_millis.as_ref().expect("only a movable clock can be moved").fetch_add(millis, Ordering::SeqCst);
    }

    /// Moves a movable clock forward.
    ///
    /// # Panics
    ///
    /// On the system's clock.
    #[cfg(any(test, feature = "test-util"))]
    pub fn advance(&self, by: Duration) {
        self.shift(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
    }

    /// Wall-clock time.
    pub fn now(&self) -> SystemTime {
        #[cfg(any(test, feature = "test-util"))]
        let now = self.stopped_at.unwrap_or_else(SystemTime::now);
        #[cfg(not(any(test, feature = "test-util")))]
        let now = SystemTime::now();
        #[cfg(any(test, feature = "test-util"))]
        if let Some(offset) = &self.offset_millis {
            let millis = offset.load(Ordering::SeqCst);
            let by = Duration::from_millis(millis.unsigned_abs());
            return if millis < 0 { now.checked_sub(by) } else { now.checked_add(by) }.unwrap_or(now);
        }
        now
    }

    /// Monotonic time, for durations.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Milliseconds since the Unix epoch, 0 before it: the form in which records keep time.
pub(crate) fn unix_millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The way back from [`unix_millis`]; beyond what the platform can say, the epoch.
pub(crate) fn from_unix_millis(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(SystemTime::UNIX_EPOCH)
}
