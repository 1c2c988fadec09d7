//! Sums of several processes, in Redis.
//!
//! Every process adds what it noted to hashes by minute and by hour, in batches; each batch is one script, and counts once however often it has to be tried. Until it is there, it
//! waits, within bounds. So the sums are those of all processes, exactly, unless one ends before its last second was sent, or Redis is away for longer than the batches that wait.

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{
    Recent,
    rollup::{Noted, Rollup},
    rollups::{KEPT_MINUTES, Part, Rollups, fine_from, minute, parts},
};
use crate::{
    NanoUsd,
    clock::{from_unix_millis, unix_millis},
    error::Error,
    store::redis::{Addition, Cap, Redis, Sums, Wanted},
};

/// So many records make a batch that is sent at once.
pub(super) const BATCH: usize = 1024;

/// So long a record waits at most for others.
pub(super) const WAIT: Duration = Duration::from_secs(1);

/// So many batches wait for Redis; then the oldest is dropped.
const WAITING: usize = 64;

/// What is to be added to the sums in Redis.
pub(super) struct Outbox {
    redis: Redis,
    records: usize,
    age: Duration,
    keep: Duration,
    minutes: BTreeMap<u64, Rollup>,
    newest: VecDeque<Recent>,
    noted: u64,
    /// Since when something has been noted.
    since: Option<Instant>,
    waiting: VecDeque<(Addition, u64)>,
    /// Has it been said that Redis refuses them?
    #[cfg(feature = "tracing")]
    told: bool,
}

impl Outbox {
    pub(super) fn new(redis: Redis, records: usize, age: Duration, keep: Duration) -> Self {
        Self {
            redis,
            records,
            age,
            keep,
            minutes: BTreeMap::new(),
            newest: VecDeque::new(),
            noted: 0,
            since: None,
            waiting: VecDeque::new(),
            #[cfg(feature = "tracing")]
            told: false,
        }
    }

    /// `own` has it already: what that does not tell apart is not told apart here either, so that hashes are bounded, too.
    pub(super) fn add(&mut self, noted: Noted<'_>, recent: Option<&Recent>, own: &Rollups) {
        self.minutes.entry(minute(noted.at)).or_default().note(&own.bounded(noted));
        self.noted += 1;
        self.since.get_or_insert_with(Instant::now);
        if let Some(recent) = recent.filter(|_| self.records > 0) {
            if self.newest.len() >= self.records.min(BATCH) {
                self.newest.pop_front();
            }
            self.newest.push_back(recent.clone());
        }
    }

    /// Is it time to send?
    pub(super) fn is_due(&self) -> bool {
        self.noted >= BATCH as u64 || self.since.is_some_and(|since| since.elapsed() >= WAIT)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.noted == 0 && self.waiting.is_empty()
    }

    /// Sends what waits, and says how many records had to be dropped. What could not be sent waits on.
    pub(super) async fn send(&mut self) -> u64 {
        let mut dropped = 0;
        if self.noted > 0 {
            let batch = self.batch();
            self.waiting.push_back(batch);
            if self.waiting.len() > WAITING
                && let Some((_, records)) = self.waiting.pop_front()
            {
                dropped = records;
            }
        }
        while let Some((addition, _)) = self.waiting.front() {
            let oldest = unix_millis(SystemTime::now().checked_sub(self.age).unwrap_or(SystemTime::UNIX_EPOCH));
            let cap = Cap { records: self.records, age: self.age, oldest };
            if let Err(error) = self.redis.add_sums(addition, &cap).await {
                // Once: a user without the permissions is refused each time.
                #[cfg(feature = "tracing")]
                if error.is_refused() && !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(target: "tower_response_cache::redis", error = %error, "redis refuses sums of analytics: are they permitted?");
                }
                // Others are not to wait for one that what is in its place in Redis stands in the way of.
                if error.is_refused() || error.is_corrupt() {
                    self.waiting.rotate_left(1);
                }
                break;
            }
            self.waiting.pop_front();
        }
        dropped
    }

    fn batch(&mut self) -> (Addition, u64) {
        self.since = None;
        let minutes = std::mem::take(&mut self.minutes);
        let mut hours = BTreeMap::<u64, Rollup>::new();
        for (minute, rollup) in &minutes {
            hours.entry(minute / 60).or_default().add(rollup);
        }
        // A minute is asked for as long as its hour is not whole, and an hour more for clocks that differ.
        let fine = Duration::from_secs((KEPT_MINUTES + 60) * 60);
        let sums = |part: Part, lifetime, rollup: &Rollup| Sums {
            name: part.name(),
            lifetime,
            fields: rollup.fields(),
            histograms: rollup.histograms(),
        };
        let minutes = minutes.into_iter().map(|(minute, rollup)| sums(Part::Minute(minute), fine, &rollup));
        let hours = hours.into_iter().map(|(hour, rollup)| sums(Part::Hour(hour), self.keep + fine, &rollup));
        let sums = minutes.chain(hours).collect();
        let records = std::mem::take(&mut self.newest).iter().map(Recent::fields).collect();
        (Addition { id: fastrand::u64(..), sums, records }, std::mem::take(&mut self.noted))
    }
}

/// Reads the sums of all processes. What was read before and has not changed since is not read again.
pub(super) struct Reader {
    redis: Redis,
    keep: Duration,
    known: Mutex<BTreeMap<String, Known>>,
}

/// A sum as it was read.
#[derive(Clone)]
struct Known {
    version: u64,
    rollup: Arc<Rollup>,
}

/// So many sums are kept in memory at most: the minutes of a day, and the hours of a month, as of this process' own.
const KNOWN: usize = KEPT_MINUTES as usize + 30 * 24;

impl Reader {
    pub(super) fn new(redis: Redis, keep: Duration) -> Self {
        Self { redis, keep, known: Mutex::default() }
    }

    /// Sums over periods, all of one moment.
    pub(super) async fn periods(&self, ranges: &[Range<SystemTime>]) -> Result<Vec<Rollup>, Error> {
        let now = SystemTime::now();
        // Older hours are gone, and there is no end to their names.
        let oldest = now.checked_sub(self.keep).unwrap_or(SystemTime::UNIX_EPOCH);
        let latest = now.checked_add(Duration::from_secs(3600)).unwrap_or(now);
        let names = |range: &Range<SystemTime>| -> Vec<String> {
            let range = range.start.max(oldest)..range.end.min(latest);
            parts(&range, fine_from(minute(now))).map(Part::name).collect()
        };
        let names: Vec<Vec<String>> = ranges.iter().map(names).collect();
        let mut rollups: BTreeMap<String, Option<Known>> = {
            let known = self.lock();
            names.iter().flatten().map(|name| (name.clone(), known.get(name).cloned())).collect()
        };
        let wanted =
            |(name, known): (&String, &Option<Known>)| Wanted { name: name.clone(), version: known.as_ref().map(|known| known.version) };
        let wanted: Vec<Wanted> = rollups.iter().map(wanted).collect();
        let found = self.redis.sums(&wanted).await?;
        for (Wanted { name, .. }, found) in wanted.into_iter().zip(found) {
            let Some(found) = found else { continue };
            let known = found.version.map(|version| {
                let mut rollup = Rollup::default();
                found.fields.iter().for_each(|(field, by)| rollup.add_field(field, *by));
                found.histograms.iter().for_each(|(field, text)| rollup.add_histogram(field, text));
                Known { version, rollup: Arc::new(rollup) }
            });
            self.remember(&name, known.clone());
            rollups.insert(name, known);
        }
        let mut sums = Vec::with_capacity(ranges.len());
        for names in names {
            let mut sum = Rollup::default();
            names.iter().filter_map(|name| rollups.get(name)?.as_ref()).for_each(|known| sum.add(&known.rollup));
            sums.push(sum);
            // Each takes its time where there is much to add up: others get theirs in between.
            tokio::task::yield_now().await;
        }
        Ok(sums)
    }

    fn remember(&self, name: &str, now: Option<Known>) {
        let mut known = self.lock();
        match now {
            Some(now) => _ = known.insert(name.to_owned(), now),
            None => _ = known.remove(name),
        }
        // The oldest minutes go before hours, and these from the oldest on: `h:` stands before `m:`.
        while known.len() > KNOWN {
            let first_minute = known.range("m:".to_owned()..).next().map(|(name, _)| name.clone());
            match first_minute {
                Some(name) => _ = known.remove(&name),
                None => _ = known.pop_first(),
            }
        }
    }

    /// The newest requests.
    pub(super) async fn recent(&self, limit: usize) -> Result<Vec<Recent>, Error> {
        Ok(self.redis.records(limit).await?.iter().map(|fields| Recent::of_fields(fields)).collect())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn fields(&self) -> Vec<(&'static str, String)> {
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        let text = |text: &Option<Arc<str>>| text.as_deref().map(str::to_owned);
        let micros = u64::try_from(self.response_time.as_micros()).unwrap_or(u64::MAX);
        let fields = [
            ("at", Some(unix_millis(self.at).to_string())),
            ("id", text(&self.request_id)),
            ("provider", text(&self.provider)),
            ("model", text(&self.model)),
            ("route", text(&self.route)),
            ("outcome", Some(self.outcome.to_string())),
            ("reason", Some(self.reason.to_string())),
            ("status", number(self.status.map(u64::from))),
            ("us", Some(micros.to_string())),
            ("billed", number(self.billed.map(|cost| cost.0))),
            ("saved", number(self.saved.map(|saved| saved.0))),
            ("bytes", Some(self.bytes.to_string())),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn of_fields(fields: &[(String, String)]) -> Self {
        let text = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let number = |wanted: &str| text(wanted).and_then(|text| text.parse::<u64>().ok());
        Self {
            at: from_unix_millis(number("at").unwrap_or_default()),
            request_id: text("id").map(Arc::from),
            provider: text("provider").map(Arc::from),
            model: text("model").map(Arc::from),
            route: text("route").map(Arc::from),
            outcome: Cow::Owned(text("outcome").unwrap_or_default().to_owned()),
            reason: Cow::Owned(text("reason").unwrap_or_default().to_owned()),
            status: number("status").and_then(|status| u16::try_from(status).ok()),
            response_time: Duration::from_micros(number("us").unwrap_or_default()),
            billed: number("billed").map(NanoUsd),
            saved: number("saved").map(NanoUsd),
            bytes: number("bytes").unwrap_or_default(),
        }
    }
}
