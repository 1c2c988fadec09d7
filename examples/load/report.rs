//! What a run came to.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{callers::Counted, routers::Ended};

pub struct Report {
    pub seed: u64,
    pub seconds: Duration,
    pub counted: Counted,
    pub calls: u64,
    pub faults: BTreeMap<&'static str, u64>,
    /// Both routers used Redis again afterwards.
    pub recovered: bool,
    pub routers: Vec<Ended>,
}

impl Report {
    /// Nothing happened that must not.
    pub fn is_good(&self) -> bool {
        let Counted { failed, truncated, foreign, wrong, outdated, .. } = &self.counted;
        let is_sound = failed + truncated + foreign + wrong + outdated == 0;
        is_sound && self.counted.requests() > 0 && self.recovered && self.routers.iter().all(|router| router.panics == 0 && router.cleanly)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = &self.counted;
        let shared = counted.hits.len() + counted.coalesced.len();
        let share = 100.0 * shared as f64 / counted.requests().max(1) as f64;
        writeln!(f, "\nseed {}, {:.0} s", self.seed, self.seconds.as_secs_f64())?;
        let faults: Vec<String> = self.faults.iter().map(|(name, count)| format!("{count} {name}")).collect();
        writeln!(f, "faults: {}", if faults.is_empty() { "none".to_owned() } else { faults.join(", ") })?;
        writeln!(f, "\n{:<28}{:>10}{:>10}{:>10}{:>10}{:>10}", "answers", "", "p50 ms", "p90 ms", "p99 ms", "max ms")?;
        let all = [&counted.hits[..], &counted.coalesced, &counted.misses].concat();
        for (name, times) in [("hits", &counted.hits), ("coalesced", &counted.coalesced), ("misses", &counted.misses), ("all", &all)] {
            let mut times = times.clone();
            times.sort_unstable();
            let at = |share: f64| {
                let place = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
                times.get(place).map_or_else(|| "-".to_owned(), |micros| format!("{:.2}", f64::from(*micros) / 1e3))
            };
            writeln!(f, "{name:<28}{:>10}{:>10}{:>10}{:>10}{:>10}", times.len(), at(0.5), at(0.9), at(0.99), at(1.0))?;
        }
        writeln!(f)?;
        for (name, value) in [
            ("hit rate", format!("{share:.1} %")),
            ("upstream calls", self.calls.to_string()),
            ("given up by callers", counted.left.to_string()),
            ("cut by a router's kill", counted.killed.to_string()),
            ("failed (must be 0)", counted.failed.to_string()),
            ("wrong (must be 0)", counted.wrong.to_string()),
            ("truncated (must be 0)", counted.truncated.to_string()),
            ("foreign (must be 0)", counted.foreign.to_string()),
            ("outdated (must be 0)", counted.outdated.to_string()),
            ("Redis in use again", if self.recovered { "yes" } else { "NO" }.to_owned()),
        ] {
            writeln!(f, "{name:<28}{value:>10}")?;
        }
        for (number, Ended { resident_kib, descriptors, panics, corrupt, cleanly }) in self.routers.iter().enumerate() {
            let end = if *cleanly { "drained" } else { "DID NOT DRAIN" };
            writeln!(
                f,
                "router {number}: {} MiB resident, {descriptors} descriptors, {corrupt} damaged records, {panics} panics, {end}",
                resident_kib >> 10
            )?;
        }
        for example in &counted.examples {
            writeln!(f, "{example}")?;
        }
        write!(f, "{}", if self.is_good() { "good" } else { "BAD" })
    }
}
