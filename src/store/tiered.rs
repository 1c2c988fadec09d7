//! A tier of memory in front of Redis.
//!
//! What was read from Redis is kept in this process too, and served from here for as long as it is sure to be what Redis holds. Redis tells
//! of every change of our keys ([RESP3 client tracking](https://redis.io/docs/latest/develop/reference/client-side-caching/) in broadcast
//! mode); word of it takes as long as the network does.
//!
//! - A change that comes between the reading of a record and its keeping wins: what was read is not kept.
//! - Whether word still comes is asked twice a second. If that was not proven for three times as long, nothing that is here is served; when
//!   the connection is lost, or begins anew, all of it is dropped.
//! - Without word, for want of the permission or of the connection, records are kept for a second only.
//! - Nothing is kept past its expiry.
//! - A removal by tag or pattern, and of everything, makes all processes read anew what they serve.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, Once, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::Stream;

use super::{
    Audience, Claim, Cursor, Generation, Health, LinkListener, Listing, LivePart, Lookup, Page, Redis, Selection, Store, StoreUsage,
    TierStatus, Token,
    bounded::{Bounded, Weighty, bounded},
    redis::{Change, Listener},
};
use crate::{entry::Record, error::Error, key::Key};

/// Keeps entries in [`Redis`], and those that are asked for in memory too. The [module](self) says how the two agree.
///
/// ```
/// use tower_response_cache::store::{Redis, Tiered};
///
/// # fn main() -> Result<(), tower_response_cache::Error> {
/// let store = Tiered::new(Redis::connect("redis://localhost:6379/0")?, 64 << 20);
/// # let _ = store;
/// # Ok(())
/// # }
/// ```
///
/// Clones share the memory and the connections.
#[derive(Clone)]
pub struct Tiered {
    redis: Redis,
    tier: Arc<Tier>,
    heartbeat: Duration,
}

impl Tiered {
    /// A tier of at most `max_bytes` bytes in front of Redis; keys, heads and bookkeeping count. A record may take up to a quarter of them, or
    /// all where the bound is below 64 MiB; a larger one is not kept.
    pub fn new(redis: Redis, max_bytes: u64) -> Self {
        Self { redis, tier: Arc::new(Tier::new(max_bytes)), heartbeat: Duration::from_millis(500) }
    }

    /// Sets how often the connection that brings word of changes is asked for a sign of life. When it breaks silently, the tier serves what
    /// may have changed for no longer than three times as long. To be set before the first operation. Default: 500 ms.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = heartbeat.max(Duration::from_millis(1));
        self
    }

    /// The store behind.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// How the tier does.
    pub fn status(&self) -> TierStatus {
        let tier = &self.tier;
        TierStatus {
            tracked: tier.is_tracked(),
            hits: tier.hits.load(Ordering::Relaxed),
            flushes: tier.era.load(Ordering::SeqCst),
            entries: tier.cache.len() as u64,
            bytes: tier.cache.weight(),
        }
    }

    fn track(&self) {
        self.tier.tracking.call_once(|| {
            let listener = Told { tier: Arc::clone(&self.tier), bound: self.heartbeat * 3 };
            self.redis.track(Arc::new(listener), self.heartbeat);
        });
    }
}

impl Store for Tiered {
    async fn get(&self, key: &Key) -> Result<Lookup, Error> {
        let now = self.redis.now();
        if let Some(held) = self.tier.get(key).filter(|held| now < held.record.expires()) {
            self.tier.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(Lookup { record: Some(held.record), generation: held.generation });
        }
        self.track();
        // Before the question is sent: a change from then on keeps the answer from being kept.
        let ticket = self.tier.ticket(key);
        let lookup = self.redis.get(key).await?;
        if let Some(record) = &lookup.record {
            self.tier.keep(key, record.clone(), lookup.generation, ticket);
        }
        Ok(lookup)
    }

    async fn put(&self, key: &Key, record: Record, generation: Generation) -> Result<bool, Error> {
        let stored = self.redis.put(key, record, generation).await;
        // Word of it may take longer than the answer.
        self.tier.changed(Change::Key(*key));
        stored
    }

    async fn put_leased(&self, key: &Key, record: Record, generation: Generation, token: Token) -> Result<bool, Error> {
        let stored = self.redis.put_leased(key, record, generation, token).await;
        self.tier.changed(Change::Key(*key));
        stored
    }

    async fn claim(&self, key: &Key, generation: Generation, patience: Duration) -> Result<Claim, Error> {
        let claim = self.redis.claim(key, generation, patience).await;
        if matches!(claim, Ok(Claim::Changed)) {
            // Word of it may take longer than the answer.
            self.tier.changed(Change::Key(*key));
        }
        claim
    }

    async fn renew(&self, key: &Key, token: Token) -> Result<Option<Duration>, Error> {
        self.redis.renew(key, token).await
    }

    async fn release(&self, key: &Key, token: Token, declined: bool) -> Result<(), Error> {
        self.redis.release(key, token, declined).await
    }

    async fn audience(&self, key: &Key, token: Token) -> Option<Audience> {
        self.redis.audience(key, token).await
    }

    async fn publish(&self, key: &Key, token: Token, from: u64, parts: &[LivePart]) -> Result<bool, Error> {
        self.redis.publish(key, token, from, parts).await
    }

    fn follow(&self, key: Key, token: Token) -> impl Stream<Item = Result<Vec<LivePart>, Error>> + Send {
        self.redis.follow(key, token)
    }

    async fn remove(&self, key: &Key) -> Result<bool, Error> {
        let removed = self.redis.remove(key).await;
        self.tier.changed(Change::Key(*key));
        removed
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Listing>, Error> {
        self.redis.metadata(key).await
    }

    async fn remove_where(&self, selection: &Selection) -> Result<u64, Error> {
        let removed = self.redis.remove_where(selection).await;
        self.tier.changed(Change::All);
        removed
    }

    async fn list(&self, cursor: Option<&Cursor>, limit: usize) -> Result<Page, Error> {
        self.redis.list(cursor, limit).await
    }

    async fn cleanup(&self) -> Result<u64, Error> {
        self.redis.cleanup().await
    }

    async fn usage(&self) -> Result<StoreUsage, Error> {
        self.redis.usage().await
    }

    fn health(&self) -> Option<Health> {
        self.redis.health().map(|health| Health { tier: Some(self.status()), ..health })
    }

    fn watch(&self, listener: Weak<dyn LinkListener>) {
        self.redis.watch(listener);
    }

    async fn shutdown(&self) {
        self.redis.shutdown().await;
        self.tier.changed(Change::All);
    }
}

impl fmt::Debug for Tiered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiered").field("redis", &self.redis).field("status", &self.status()).finish_non_exhaustive()
    }
}

struct Tier {
    cache: Bounded<Held>,
    stripes: Box<[Stripe]>,
    /// How often the epoch of a bucket changed. What was kept before is void.
    buckets: Box<[AtomicU64]>,
    /// How often all was dropped. What was kept before is void.
    era: AtomicU64,
    /// Until when it is proven that word comes, in microseconds since the start; 0 if it does not.
    proven_until: AtomicU64,
    start: Instant,
    tracking: Once,
    hits: AtomicU64,
}

/// Changes of the keys of a stripe, and the keeping of their records, exclude one another.
#[derive(Default)]
struct Stripe {
    changes: Mutex<u64>,
}

#[derive(Clone)]
struct Held {
    record: Record,
    generation: Generation,
    ticket: Ticket,
    weight: u64,
    /// Microseconds since the start, if no word of changes came when it was kept.
    until: Option<u64>,
}

/// What was when a record was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ticket {
    changes: u64,
    bucket: u64,
    era: u64,
}

impl Weighty for Held {
    fn weight(&self) -> u64 {
        self.weight
    }
}

const STRIPES: usize = 1024;

/// What the table takes per record besides the record itself.
const OVERHEAD: u64 = 200;

/// How long a record is kept when no word of changes comes.
const UNTRACKED: Duration = Duration::from_secs(1);

impl Tier {
    fn new(max_bytes: u64) -> Self {
        Self {
            cache: bounded(max_bytes),
            stripes: (0..STRIPES).map(|_| Stripe::default()).collect(),
            buckets: (0..256).map(|_| AtomicU64::new(0)).collect(),
            era: AtomicU64::new(0),
            proven_until: AtomicU64::new(0),
            start: Instant::now(),
            tracking: Once::new(),
            hits: AtomicU64::new(0),
        }
    }

    fn get(&self, key: &Key) -> Option<Held> {
        let held = self.cache.get(key)?;
        let now = self.micros(Instant::now());
        let is_sure = match held.until {
            Some(until) => now < until,
            None => now < self.proven_until.load(Ordering::SeqCst),
        };
        let is_current = held.ticket.era == self.era.load(Ordering::SeqCst) && held.ticket.bucket == self.bucket(key);
        (is_sure && is_current).then_some(held)
    }

    fn ticket(&self, key: &Key) -> Ticket {
        let changes = *self.stripe(key).lock();
        Ticket { changes, bucket: self.bucket(key), era: self.era.load(Ordering::SeqCst) }
    }

    fn keep(&self, key: &Key, record: Record, generation: Generation, ticket: Ticket) {
        let weight = record.weight() as u64 + OVERHEAD;
        if weight > self.cache.shard_capacity() {
            return;
        }
        let now = Instant::now();
        let until = if self.is_tracked() { None } else { Some(self.micros(now + UNTRACKED)) };
        let changes = self.stripe(key).lock();
        if *changes == ticket.changes && ticket.bucket == self.bucket(key) && ticket.era == self.era.load(Ordering::SeqCst) {
            self.cache.insert(*key, Held { record, generation, ticket, weight, until });
        }
    }

    fn changed(&self, change: Change) {
        match change {
            Change::Key(key) => {
                let mut changes = self.stripe(&key).lock();
                *changes += 1;
                self.cache.remove(&key);
            }
            Change::Bucket(bucket) => {
                self.buckets[usize::from(bucket)].fetch_add(1, Ordering::SeqCst);
            }
            Change::Lease(_) | Change::Wanted(_) | Change::Live(_) => {}
            Change::All => {
                self.era.fetch_add(1, Ordering::SeqCst);
                self.cache.clear();
            }
        }
    }

    fn is_tracked(&self) -> bool {
        self.micros(Instant::now()) < self.proven_until.load(Ordering::SeqCst)
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX)
    }

    fn bucket(&self, key: &Key) -> u64 {
        self.buckets[usize::from(key.as_bytes()[0])].load(Ordering::SeqCst)
    }

    fn stripe(&self, key: &Key) -> &Stripe {
        &self.stripes[usize::try_from(key.shard_bits() >> 32).unwrap_or_default() % STRIPES]
    }
}

impl Stripe {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Word of changes, on its way to the tier.
struct Told {
    tier: Arc<Tier>,
    /// How long a proof holds.
    bound: Duration,
}

impl Listener for Told {
    fn changed(&self, change: Change) {
        self.tier.changed(change);
    }

    fn begun(&self) {
        // What was kept before may have changed without a word.
        self.tier.changed(Change::All);
    }

    fn proven(&self, at: Instant) {
        self.tier.proven_until.store(self.tier.micros(at + self.bound), Ordering::SeqCst);
    }

    fn lost(&self) {
        self.tier.proven_until.store(0, Ordering::SeqCst);
        self.tier.changed(Change::All);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::entry::Variants;

    const KEY: Key = Key::from_bytes([7; 32]);

    fn tier() -> (Arc<Tier>, Told) {
        let tier = Arc::new(Tier::new(1 << 20));
        let told = Told { tier: Arc::clone(&tier), bound: Duration::from_secs(3600) };
        told.begun();
        told.proven(Instant::now());
        (tier, told)
    }

    fn record() -> Record {
        Record::Variants(Arc::new(Variants {
            fields: Vec::new(),
            tags: Vec::new(),
            epoch: 0,
            expires: SystemTime::now() + Duration::from_secs(600),
        }))
    }

    fn holds(tier: &Tier) -> bool {
        tier.get(&KEY).is_some()
    }

    #[test]
    fn whatever_changes_between_the_question_and_the_keeping_wins() {
        for change in [Change::Key(KEY), Change::Bucket(7), Change::All] {
            let (tier, told) = tier();
            let ticket = tier.ticket(&KEY);
            told.changed(change);
            tier.keep(&KEY, record(), Generation::default(), ticket);
            assert!(!holds(&tier), "{change:?}");
            tier.keep(&KEY, record(), Generation::default(), tier.ticket(&KEY));
            assert!(holds(&tier));
            told.changed(change);
            assert!(!holds(&tier), "{change:?}");
        }
        let (tier, told) = tier();
        tier.keep(&KEY, record(), Generation::default(), tier.ticket(&KEY));
        told.changed(Change::Bucket(8));
        told.changed(Change::Key(Key::from_bytes([8; 32])));
        assert!(holds(&tier), "what changed was another");
    }

    #[test]
    fn what_is_not_proven_is_not_served_and_what_is_lost_is_dropped() {
        let (tier, mut told) = tier();
        tier.keep(&KEY, record(), Generation::default(), tier.ticket(&KEY));
        assert!(holds(&tier));
        told.lost();
        assert!(!holds(&tier));
        told.proven(Instant::now());
        assert!(!holds(&tier), "it was dropped for good");
        tier.keep(&KEY, record(), Generation::default(), tier.ticket(&KEY));
        assert!(holds(&tier));
        told.bound = Duration::ZERO;
        told.proven(Instant::now());
        assert!(!holds(&tier) && !tier.is_tracked(), "the proof is too old");
    }

    #[test]
    fn without_word_a_record_is_kept_for_a_moment_and_goes_when_word_begins() {
        let tier = Arc::new(Tier::new(1 << 20));
        tier.keep(&KEY, record(), Generation::default(), tier.ticket(&KEY));
        let held = tier.cache.get(&KEY).unwrap();
        assert!(held.until.is_some_and(|until| until <= tier.micros(Instant::now() + UNTRACKED)));
        Told { tier: Arc::clone(&tier), bound: Duration::from_secs(1) }.begun();
        assert!(!holds(&tier));
        // Over, by the clock of this process.
        let over = Held { until: Some(0), ticket: tier.ticket(&KEY), ..held };
        tier.cache.insert(KEY, over);
        assert!(!holds(&tier));
    }
}
