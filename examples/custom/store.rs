//! A store of one's own: a map that forgets the oldest first.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tower_response_cache::{
    Clock, Error,
    entry::Record,
    key::Key,
    store::{Cursor, Generation, Listing, Lookup, Page, Selection, Store, StoreUsage},
};

/// Keeps the newest entries, up to a bound in bytes.
///
/// A generation is how often anything was removed, and the number of the value that was seen: enough to keep an older answer from replacing a newer one, and
/// any answer from coming back after it was removed. A removal voids all that is being
/// fetched, which a store with more to do would do key by key.
pub(crate) struct Newest {
    shelf: Mutex<Shelf>,
    max_bytes: usize,
    clock: Clock,
}

#[derive(Default)]
struct Shelf {
    records: HashMap<Key, (u64, Record)>,
    /// From the oldest on; numbers tell values under the same key apart.
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    removals: u64,
    next: u64,
}

impl Newest {
    pub(crate) fn new(max_bytes: usize, clock: Clock) -> Self {
        Self { shelf: Mutex::default(), max_bytes, clock }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Newest {
    async fn get(&self, key: &Key) -> Result<Lookup, Error> {
        let shelf = self.shelf();
        let (number, record) = shelf.records.get(key).map_or((0, None), |(number, record)| (*number, Some(record)));
        let live = record.filter(|record| self.clock.now() < record.expires());
        Ok(Lookup { record: live.cloned(), generation: Generation([shelf.removals, number]) })
    }

    async fn put(&self, key: &Key, record: Record, generation: Generation) -> Result<bool, Error> {
        let (now, weight) = (self.clock.now(), record.weight());
        let mut shelf = self.shelf();
        let [removals, seen] = generation.0;
        let newer = shelf.records.get(key).is_some_and(|(number, held)| *number != seen && now < held.expires());
        if newer || removals != shelf.removals || record.expires() <= now || weight > self.max_bytes {
            return Ok(false);
        }
        shelf.take(key);
        while shelf.bytes + weight > self.max_bytes
            && let Some((oldest, number)) = shelf.order.pop_front()
        {
            // What was replaced or removed since has left its place in the order.
            if shelf.records.get(&oldest).is_some_and(|(held, _)| *held == number) {
                shelf.take(&oldest);
            }
        }
        shelf.next += 1;
        let number = shelf.next;
        shelf.bytes += weight;
        shelf.order.push_back((*key, number));
        shelf.records.insert(*key, (number, record));
        if shelf.order.len() > 2 * shelf.records.len() {
            let Shelf { records, order, .. } = &mut *shelf;
            order.retain(|(key, number)| records.get(key).is_some_and(|(held, _)| held == number));
        }
        Ok(true)
    }

    async fn remove(&self, key: &Key) -> Result<bool, Error> {
        let mut shelf = self.shelf();
        shelf.removals += 1;
        Ok(shelf.take(key).is_some_and(|record| self.clock.now() < record.expires()))
    }

    async fn remove_where(&self, selection: &Selection) -> Result<u64, Error> {
        let mut shelf = self.shelf();
        shelf.removals += 1;
        let now = self.clock.now();
        let named = |(key, (_, record)): (&Key, &(u64, Record))| {
            let named = Listing::of(*key, record).map_or(*selection == Selection::All, |listing| selection.matches(&listing));
            (named && now < record.expires()).then_some(*key)
        };
        let doomed: Vec<Key> = shelf.records.iter().filter_map(named).collect();
        doomed.iter().for_each(|key| drop(shelf.take(key)));
        Ok(doomed.len() as u64)
    }

    /// In the order of keys: a page goes on after the last one.
    async fn list(&self, cursor: Option<&Cursor>, limit: usize) -> Result<Page, Error> {
        let last = cursor.map(|cursor| cursor.as_str().parse::<Key>()).transpose();
        let last = last.map_err(|_| Error::config("the cursor is not one that this store gave"))?;
        let (shelf, now) = (self.shelf(), self.clock.now());
        let is_ahead = |key: &Key| last.is_none_or(|last| *key > last);
        let listing = |(key, (_, record)): (&Key, &(u64, Record))| {
            if is_ahead(key) && now < record.expires() { Listing::of(*key, record) } else { None }
        };
        let mut entries: Vec<Listing> = shelf.records.iter().filter_map(listing).collect();
        entries.sort_unstable_by_key(|listing| listing.key);
        let is_last = entries.len() <= limit.max(1);
        entries.truncate(limit.max(1));
        let next = entries.last().filter(|_| !is_last).map(|last| Cursor::new(last.key.to_string()));
        Ok(Page { entries, next })
    }

    async fn usage(&self) -> Result<StoreUsage, Error> {
        let shelf = self.shelf();
        let entries = Some(shelf.records.len() as u64);
        Ok(StoreUsage { entries, bytes: Some(shelf.bytes as u64), total_keys: entries })
    }
}

impl Shelf {
    fn take(&mut self, key: &Key) -> Option<Record> {
        let (_, record) = self.records.remove(key)?;
        self.bytes -= record.weight();
        Some(record)
    }
}
