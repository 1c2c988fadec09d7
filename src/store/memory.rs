use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use super::{
    Cursor, Generation, LONGEST_PAGE, Listing, Lookup, Page, Selection, Store, StoreUsage,
    bounded::{Bounded, Weighty, bounded},
};
use crate::{clock::Clock, entry::Record, error::Error, key::Key};

/// Keeps entries in this process, bounded by bytes.
///
/// When it is full, entries that were used least are evicted (a variant of S3-FIFO, from the `quick_cache` crate). Bytes of keys, heads and
/// bookkeeping count. A single entry may take up to a quarter of the bound, or all of it where the bound is below 64 MiB; a larger one is not stored.
pub struct Memory {
    cache: Bounded<Held>,
    stripes: Box<[Stripe]>,
    /// How often many keys were removed at once.
    epoch: AtomicU64,
    /// The number of the next value.
    next: AtomicU64,
    clock: Clock,
}

/// Removals and writes of the keys of a stripe exclude one another; look-ups take no part in it.
#[derive(Default)]
struct Stripe {
    removals: AtomicU64,
    lock: Mutex<()>,
}

#[derive(Clone)]
struct Held {
    record: Record,
    /// When the record expires. Here, so that a look-up does not wait for the record too.
    expires: SystemTime,
    /// Tells values under the same key apart.
    number: u64,
    weight: u64,
}

impl Weighty for Held {
    fn weight(&self) -> u64 {
        self.weight
    }
}

const STRIPES: usize = 1024;

/// What the table takes per entry besides the record: key, pointer, number, and its own 21 bytes, with room to grow.
const OVERHEAD: u64 = 160;

/// Entries that a listing or a removal goes over before others have their turn.
const PART: usize = 4096;

impl Memory {
    /// A store of at most `max_bytes` bytes.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            cache: bounded(max_bytes),
            stripes: (0..STRIPES).map(|_| Stripe::default()).collect(),
            epoch: AtomicU64::new(0),
            next: AtomicU64::new(1),
            clock: Clock::system(),
        }
    }

    /// Sets the source of time. Default: the system's.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    fn stripe(&self, key: &Key) -> &Stripe {
        &self.stripes[usize::try_from(key.shard_bits() >> 32).unwrap_or_default() % STRIPES]
    }

    /// How often this key, or one of its stripe, was removed. Never decreases.
    fn removals(&self, stripe: &Stripe) -> u64 {
        stripe.removals.load(Ordering::SeqCst) + self.epoch.load(Ordering::SeqCst)
    }

    fn live(&self, held: &Held, now: SystemTime) -> bool {
        now < held.expires
    }

    /// Removes what the predicate names, a part of the table at a time, and counts it.
    async fn sweep(&self, doomed: impl Fn(&Key, &Held) -> bool) -> u64 {
        let mut keys = Vec::new();
        for (at, (key, held)) in self.cache.iter().enumerate() {
            rest(at).await;
            if doomed(&key, &held) {
                keys.push((key, held.number));
            }
        }
        let mut removed = 0;
        for (at, (key, number)) in keys.into_iter().enumerate() {
            rest(at).await;
            let _lock = self.stripe(&key).lock();
            removed += u64::from(self.cache.remove_if(&key, |held| held.number == number).is_some());
        }
        removed
    }
}

/// Lets others have their turn now and then.
async fn rest(at: usize) {
    if at % PART == PART - 1 {
        tokio::task::yield_now().await;
    }
}

impl Stripe {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 256 MiB.
impl Default for Memory {
    fn default() -> Self {
        Self::new(256 << 20)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("entries", &self.cache.len()).field("bytes", &self.cache.weight()).finish_non_exhaustive()
    }
}

/// A generation is the number of removals and the number of the value that was seen: a value that is there and was not seen is newer.
impl Store for Memory {
    async fn get(&self, key: &Key) -> Result<Lookup, Error> {
        // First the removals: one that comes after this is not in the count, and voids the generation.
        let removals = self.removals(self.stripe(key));
        let Some(held) = self.cache.get(key) else { return Ok(Lookup { record: None, generation: Generation([removals, 0]) }) };
        let generation = Generation([removals, held.number]);
        let record = self.live(&held, self.clock.now()).then_some(held.record);
        Ok(Lookup { record, generation })
    }

    async fn put(&self, key: &Key, record: Record, generation: Generation) -> Result<bool, Error> {
        let (now, expires) = (self.clock.now(), record.expires());
        if expires <= now {
            return Ok(false);
        }
        let weight = record.weight() as u64 + OVERHEAD;
        if weight > self.cache.shard_capacity() {
            return Ok(false);
        }
        let stripe = self.stripe(key);
        let _lock = stripe.lock();
        let [removals, seen] = generation.0;
        if self.removals(stripe) != removals {
            return Ok(false);
        }
        // What was there may be gone by eviction, which says nothing about its age.
        if self.cache.peek(key).is_some_and(|held| held.number != seen && self.live(&held, now)) {
            return Ok(false);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.cache.insert(*key, Held { record, expires, number, weight });
        Ok(true)
    }

    async fn remove(&self, key: &Key) -> Result<bool, Error> {
        let stripe = self.stripe(key);
        let _lock = stripe.lock();
        let removed = self.cache.remove(key);
        // Last, so that a look-up that still saw the record has the old count. Writers wait for the lock and see the new one.
        stripe.removals.fetch_add(1, Ordering::SeqCst);
        Ok(removed.is_some_and(|(_, held)| self.live(&held, self.clock.now())))
    }

    async fn metadata(&self, key: &Key) -> Result<Option<Listing>, Error> {
        let held = self.cache.peek(key).filter(|held| self.live(held, self.clock.now()));
        Ok(held.and_then(|held| Listing::of(*key, &held.record)))
    }

    async fn remove_where(&self, selection: &Selection) -> Result<u64, Error> {
        // First, so that what is on its way is not stored; what was stored until now is found.
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for stripe in &self.stripes {
            // A writer that saw the old epoch has stored by the time its lock is free.
            drop(stripe.lock());
        }
        let now = self.clock.now();
        self.sweep(|_, held| !self.live(held, now)).await;
        let removed = self
            .sweep(|key, held| match (selection, &held.record) {
                (Selection::All, _) => true,
                (_, Record::Response(entry)) => selection.names(key, &entry.metadata),
                (_, Record::Variants(_)) => false,
            })
            .await;
        // And again, for look-ups that saw what was about to be removed.
        self.epoch.fetch_add(1, Ordering::SeqCst);
        Ok(removed)
    }

    /// In the order of keys, so that it does not matter how the table changes between pages. Each page goes over the whole table, a part at a time.
    async fn list(&self, cursor: Option<&Cursor>, limit: usize) -> Result<Page, Error> {
        let last: Option<Key> = cursor.map(|cursor| cursor.as_str().parse().map_err(|_| Cursor::foreign())).transpose()?;
        let limit = limit.clamp(1, LONGEST_PAGE);
        let now = self.clock.now();
        let mut first = BTreeMap::new();
        let mut is_more = false;
        for (at, (key, held)) in self.cache.iter().enumerate() {
            rest(at).await;
            if last.is_some_and(|last| key <= last) || !self.live(&held, now) {
                continue;
            }
            if first.len() == limit && first.last_key_value().is_some_and(|(most, _)| key > *most) {
                is_more = true;
                continue;
            }
            let Some(listing) = Listing::of(key, &held.record) else { continue };
            first.insert(key, listing);
            if first.len() > limit {
                first.pop_last();
                is_more = true;
            }
        }
        let next = first.last_key_value().filter(|_| is_more).map(|(key, _)| Cursor::new(key.to_string()));
        Ok(Page { entries: first.into_values().collect(), next })
    }

    async fn cleanup(&self) -> Result<u64, Error> {
        let now = self.clock.now();
        Ok(self.sweep(|_, held| !self.live(held, now)).await)
    }

    async fn usage(&self) -> Result<StoreUsage, Error> {
        let entries = self.cache.len() as u64;
        Ok(StoreUsage { entries: Some(entries), bytes: Some(self.cache.weight()), total_keys: Some(entries) })
    }
}
