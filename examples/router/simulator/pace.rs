//! How fast the simulated models speak.

use std::time::Duration;

use fastrand::Rng;

/// The timing of an answer: a wait for the first token, then one token after another.
///
/// The default is 600 ms and 25 ms per token with a jitter of 0.3: two to three seconds for an answer of usual length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    first_token: Duration,
    per_token: Duration,
    jitter: f64,
}

impl Pace {
    /// A steady pace, without jitter.
    pub(crate) const fn new(first_token: Duration, per_token: Duration) -> Self {
        Self { first_token, per_token, jitter: 0.0 }
    }

    /// No waiting at all: nothing sleeps, no timer is needed. For tests.
    pub(crate) const fn instant() -> Self {
        Self::new(Duration::ZERO, Duration::ZERO)
    }

    /// Varies every wait at random by up to this share of it, shorter or longer. Values outside of 0 to 1 are clamped; default 0.3.
    pub(crate) const fn jitter(mut self, share: f64) -> Self {
        self.jitter = share.clamp(0.0, 1.0);
        self
    }

    /// When the answer begins, then when each of its tokens is there, counted from the request. `None` if there is nothing to wait for.
    pub(crate) fn schedule(&self, tokens: usize, rng: &mut Rng) -> Option<Vec<Duration>> {
        if self.first_token.is_zero() && self.per_token.is_zero() {
            return None;
        }
        let mut vary = |wait: Duration| wait.mul_f64(1.0 + self.jitter * (2.0 * rng.f64() - 1.0));
        let mut due = Vec::with_capacity(tokens + 1);
        let mut now = vary(self.first_token);
        due.push(now);
        for _ in 0..tokens {
            now += vary(self.per_token);
            due.push(now);
        }
        Some(due)
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(Duration::from_millis(600), Duration::from_millis(25)).jitter(0.3)
    }
}
