//! A table in memory, bounded by the bytes that its values say they take.

use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter, sync::Cache};

use crate::key::Key;

pub(super) type Bounded<V> = Cache<Key, V, Weigh>;

/// A value that says what it takes, overhead included.
pub(super) trait Weighty: Clone {
    fn weight(&self) -> u64;
}

#[derive(Clone)]
pub(super) struct Weigh;

impl<V> Weighter<Key, V> for Weigh
where
    V: Weighty,
{
    fn weight(&self, _: &Key, value: &V) -> u64 {
        value.weight()
    }
}

/// A table of at most `max_bytes` bytes.
pub(super) fn bounded<V>(max_bytes: u64) -> Bounded<V>
where
    V: Weighty,
{
    // Each shard has an equal part of the bound. Few of them, so that a part can hold a large entry.
    let shards = usize::try_from(max_bytes >> 25).unwrap_or(usize::MAX).clamp(1, 4);
    let mut options = OptionsBuilder::new();
    options
        .shards(shards)
        .weight_capacity(max_bytes)
        .estimated_items_capacity(usize::try_from(max_bytes >> 12).unwrap_or(1 << 20).clamp(16, 1 << 20));
    match options.build() {
        Ok(options) => Cache::with_options(options, Weigh, DefaultHashBuilder::default(), Default::default()),
        // Only missing figures are refused, and all are given.
        Err(_) => Cache::with_weighter(1024, max_bytes, Weigh),
    }
}
