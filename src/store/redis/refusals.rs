use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::Value;

use super::fault::Fault;

/// How long a refusal of a kind is not spoken of again.
const WINDOW: Duration = Duration::from_secs(30);

/// What the servers refused lately. The log is told once per kind and while, however many operations meet it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Refusals(Arc<Mutex<Vec<(&'static str, Instant)>>>);

impl Refusals {
    /// Speaks of what is refused in these replies, unless it did so a moment ago.
    pub(super) fn heed(&self, replies: &[Value]) {
        for fault in replies.iter().filter_map(Fault::of_value) {
            if let Fault::Refused(code) = fault
                && self.is_news(code, Instant::now())
            {
                #[cfg(feature = "tracing")]
                tracing::warn!(target: "tower_response_cache::redis", reason = code, "redis refuses operations");
            }
        }
    }

    fn is_news(&self, code: &'static str, now: Instant) -> bool {
        // No longer than the list of codes there are.
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match told.iter_mut().find(|(of, _)| *of == code) {
            Some((_, until)) if now < *until => return false,
            Some((_, until)) => *until = now + WINDOW,
            None => told.push((code, now + WINDOW)),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_refusal_is_news_once_in_a_while() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let also = refusals.clone();
        let news = [("OOM", 0), ("OOM", 1), ("NOPERM", 1), ("OOM", 29), ("OOM", 30), ("OOM", 31), ("NOPERM", 30), ("NOPERM", 31)];
        let is_news = news.map(|(code, at)| also.is_news(code, now + Duration::from_secs(at)));
        assert_eq!(is_news, [true, false, true, false, true, false, false, true]);
        assert!(!refusals.is_news("OOM", now));
    }
}
