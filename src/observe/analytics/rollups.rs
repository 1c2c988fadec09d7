use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, SystemTime},
};

use super::rollup::Rollup;

/// Sums by minute, for a day, and by hour, for longer.
pub(super) struct Rollups {
    minutes: BTreeMap<u64, Rollup>,
    hours: BTreeMap<u64, Rollup>,
    /// In hours.
    keep: u64,
}

/// In minutes. A day, and the hour that has just begun.
const MINUTES: u64 = 25 * 60;

/// How many slices there may be.
const SLICES: u64 = 1000;

impl Rollups {
    pub(super) fn new(keep: Duration) -> Self {
        Self { minutes: BTreeMap::new(), hours: BTreeMap::new(), keep: (keep.as_secs() / 3600).max(24) }
    }

    pub(super) fn add(&mut self, at: SystemTime, rollup: &Rollup) {
        let minute = minute(at);
        self.minutes.entry(minute).or_default().add(rollup);
        self.hours.entry(minute / 60).or_default().add(rollup);
        // Counted back from the newest, whatever the clock did.
        while let Some((first, last)) = ends(&self.minutes)
            && last - first >= MINUTES
        {
            self.minutes.remove(&first);
        }
        while let Some((first, last)) = ends(&self.hours)
            && last - first > self.keep
        {
            self.hours.remove(&first);
        }
    }

    pub(super) fn period(&self, range: &Range<SystemTime>) -> Rollup {
        let mut sum = Rollup::default();
        let minutes = minute(range.start)..minute_after(range.end);
        if minutes.is_empty() {
            return sum;
        }
        // The first hour of which there are all minutes.
        let fine = ends(&self.minutes).map_or(u64::MAX, |(_, last)| (last + 1).saturating_sub(MINUTES).div_ceil(60));
        for (hour, rollup) in self.hours.range(minutes.start / 60..minutes.end.div_ceil(60)) {
            let whole = hour * 60..hour * 60 + 60;
            if *hour < fine || (minutes.start <= whole.start && whole.end <= minutes.end) {
                sum.add(rollup);
            } else {
                let part = whole.start.max(minutes.start)..whole.end.min(minutes.end);
                self.minutes.range(part).for_each(|(_, rollup)| sum.add(rollup));
            }
        }
        sum
    }
}

/// The slices of a period, each `step` long.
pub(super) fn slices(range: &Range<SystemTime>, step: Duration) -> impl Iterator<Item = Range<SystemTime>> + use<> {
    let step = (step.as_secs() / 60).max(1);
    let (first, last) = (minute(range.start) / step, minute_after(range.end).div_ceil(step));
    let first = first.max(last.saturating_sub(SLICES));
    (first..last).map(move |slice| time(slice * step)..time((slice + 1) * step))
}

fn ends<T>(map: &BTreeMap<u64, T>) -> Option<(u64, u64)> {
    Some((*map.first_key_value()?.0, *map.last_key_value()?.0))
}

fn minute(at: SystemTime) -> u64 {
    seconds(at) / 60
}

fn minute_after(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs().saturating_add(u64::from(since.subsec_nanos() > 0)).div_ceil(60)
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn time(minute: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(minute.saturating_mul(60))).unwrap_or(SystemTime::UNIX_EPOCH)
}
