use std::{
    collections::BTreeMap,
    ops::Range,
    time::{Duration, SystemTime},
};

use super::rollup::{Noted, Rollup};

/// Sums by minute, for a day, and by hour, for longer.
pub(super) struct Rollups {
    minutes: BTreeMap<u64, Rollup>,
    hours: BTreeMap<u64, Rollup>,
    /// In hours.
    keep: u64,
}

/// In minutes. A day, and the hour that has just begun.
pub(super) const KEPT_MINUTES: u64 = 25 * 60;

/// How many slices there may be.
const SLICES: u64 = 1000;

impl Rollups {
    pub(super) fn new(keep: Duration) -> Self {
        Self { minutes: BTreeMap::new(), hours: BTreeMap::new(), keep: (keep.as_secs() / 3600).max(24) }
    }

    pub(super) fn note(&mut self, noted: &Noted<'_>) {
        let minute = minute(noted.at);
        self.minutes.entry(minute).or_default().note(noted);
        self.hours.entry(minute / 60).or_default().note(noted);
        // Counted back from the newest, whatever the clock did.
        while let Some((first, last)) = ends(&self.minutes)
            && last - first >= KEPT_MINUTES
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
        let Some((first, last)) = ends(&self.hours) else { return sum };
        let range = range.start.max(time(first * 60))..range.end.min(time((last + 1) * 60));
        let fine = ends(&self.minutes).map_or(u64::MAX, |(_, last)| fine_from(last));
        for part in parts(&range, fine) {
            let rollup = match part {
                Part::Minute(minute) => self.minutes.get(&minute),
                Part::Hour(hour) => self.hours.get(&hour),
            };
            if let Some(rollup) = rollup {
                sum.add(rollup);
            }
        }
        sum
    }

    /// What was noted, with no more values than its hour tells apart.
    #[cfg(feature = "redis")]
    pub(super) fn bounded<'a>(&self, noted: Noted<'a>) -> Noted<'a> {
        match self.hours.get(&(minute(noted.at) / 60)) {
            Some(known) => noted.within(known),
            None => noted,
        }
    }
}

/// What is summed up on its own.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Minute(u64),
    Hour(u64),
}

#[cfg(feature = "redis")]
impl Part {
    /// Its name in a store.
    pub(super) fn name(self) -> String {
        match self {
            Self::Minute(minute) => format!("m:{minute}"),
            Self::Hour(hour) => format!("h:{hour}"),
        }
    }
}

/// The first hour of which there are all minutes, if this is the last minute.
pub(super) fn fine_from(last: u64) -> u64 {
    (last + 1).saturating_sub(KEPT_MINUTES).div_ceil(60)
}

/// The parts that make up a period: whole hours where that is right, or where there is nothing else.
pub(super) fn parts(range: &Range<SystemTime>, fine: u64) -> impl Iterator<Item = Part> + use<> {
    let minutes = minute(range.start)..minute_after(range.end);
    let hours = if minutes.is_empty() { 0..0 } else { minutes.start / 60..minutes.end.div_ceil(60) };
    hours.flat_map(move |hour| {
        let whole = hour * 60..hour * 60 + 60;
        let is_whole = hour < fine || (minutes.start <= whole.start && whole.end <= minutes.end);
        let part = if is_whole { 0..0 } else { whole.start.max(minutes.start)..whole.end.min(minutes.end) };
        is_whole.then_some(Part::Hour(hour)).into_iter().chain(part.map(Part::Minute))
    })
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

pub(super) fn minute(at: SystemTime) -> u64 {
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
