//! A test suite that any store has to pass, ours and those of others.
//!
//! Each check is a function of a [`Subject`]: a store that nobody else uses, and what is to know about it. A check panics with a sentence if the
//! store breaks its [contract](super::Store). [`run`] makes all checks, one after the other; naming each in a test of its own tells more:
//!
//! ```
//! use tower_response_cache::{Clock, store::{Memory, contract::{self, Subject}}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let clock = Clock::movable();
//! let subject = Subject::new(Memory::default().clock(clock.clone())).clock(clock);
//! contract::a_put_after_a_removal_is_refused(&subject).await;
//! # }
//! ```
//!
//! Tasks are spawned on the current tokio runtime; one with several threads shows more races.

mod live;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

pub use self::live::{
    a_live_stream_carries_as_much_as_there_is_room_for, a_live_stream_ends_with_its_publisher_and_is_not_wanted_for_ever,
    a_live_stream_has_no_gap_and_one_name, a_live_stream_is_followed_from_its_first_part_to_its_end,
    a_live_stream_that_is_withdrawn_is_over,
};
use super::{Cursor, Generation, Listing, Lookup, Selection, Store};
use crate::{
    clock::{Clock, from_unix_millis, unix_millis},
    entry::{Entry, Frames, Lifetime, Metadata, Record, Usage, Variants},
    error::Error,
    key::Key,
};

/// A store under test, and what is to know about it.
#[derive(Debug)]
pub struct Subject<St> {
    store: Arc<St>,
    clock: Option<Clock>,
    selections: bool,
    lists: bool,
    live: bool,
    large: usize,
}

impl<St> Subject<St> {
    /// A store that holds nothing yet and that nobody else uses while it is checked.
    pub fn new(store: St) -> Self {
        Self { store: Arc::new(store), clock: None, selections: true, lists: true, live: false, large: 1 << 20 }
    }

    /// The movable clock that the store reads. Default: none; then expiry is waited for, in real time.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The store cannot remove by tag or pattern: that it says so is checked instead.
    #[must_use]
    pub fn without_selections(mut self) -> Self {
        self.selections = false;
        self
    }

    /// The store cannot list what it holds: that it says so is checked instead.
    #[must_use]
    pub fn without_listing(mut self) -> Self {
        self.lists = false;
        self
    }

    /// The store has leases, and carries live streams under them. Default: it does not; that it says so is checked instead. Where a lease lasts for seconds, so do the checks.
    #[must_use]
    pub fn with_live_streams(mut self) -> Self {
        self.live = true;
        self
    }

    /// The largest body, in bytes, that it has to be able to keep. Default: 1 MiB.
    #[must_use]
    pub fn large(mut self, bytes: usize) -> Self {
        self.large = bytes;
        self
    }

    /// Now, to the millisecond: records keep no finer time.
    fn now(&self) -> std::time::SystemTime {
        from_unix_millis(unix_millis(self.clock.as_ref().map_or_else(std::time::SystemTime::now, Clock::now)))
    }
}

/// Makes all checks, each on a store of its own.
///
/// # Panics
///
/// If the store breaks its contract.
pub async fn run<St, F>(make: impl Fn() -> F)
where
    St: Store,
    F: Future<Output = Subject<St>>,
{
    whole_records_come_back(&make().await).await;
    a_record_is_found_only_under_its_key(&make().await).await;
    a_put_over_what_was_seen_replaces_it(&make().await).await;
    a_put_after_a_newer_put_is_refused(&make().await).await;
    a_put_after_a_removal_is_refused(&make().await).await;
    a_put_after_a_removal_of_many_is_refused(&make().await).await;
    removal_says_whether_there_was_something(&make().await).await;
    records_expire(&make().await).await;
    a_put_over_what_expired_is_accepted(&make().await).await;
    what_has_expired_is_not_stored(&make().await).await;
    metadata_tells_of_an_entry(&make().await).await;
    pages_name_all_that_lives(&make().await).await;
    pages_stay_short_and_cursors_are_the_stores_own(&make().await).await;
    all_can_be_removed(&make().await).await;
    a_tag_removes_what_carries_it(&make().await).await;
    a_pattern_removes_what_it_matches(&make().await).await;
    cleanup_leaves_what_lives(&make().await).await;
    usage_counts_what_is_stored(&make().await).await;
    of_many_puts_at_once_one_is_stored(&make().await).await;
    many_tasks_get_their_own(&make().await).await;
    a_removal_beats_puts_at_the_same_time(&make().await).await;
    a_look_up_that_saw_what_was_removed_is_void(&make().await).await;
    cancelled_operations_cross_no_answers(&make().await).await;
    large_entries_come_back_whole(&make().await).await;
    a_live_stream_is_followed_from_its_first_part_to_its_end(&make().await).await;
    a_live_stream_has_no_gap_and_one_name(&make().await).await;
    a_live_stream_carries_as_much_as_there_is_room_for(&make().await).await;
    a_live_stream_that_is_withdrawn_is_over(&make().await).await;
    a_live_stream_ends_with_its_publisher_and_is_not_wanted_for_ever(&make().await).await;
}

/// Whatever is put comes back as it was: frames, header fields, trailers, lifetimes and metadata; and variants.
pub async fn whole_records_come_back<St: Store>(subject: &Subject<St>) {
    let plain = subject.entry("plain", &[]);
    let mut bare = subject.entry("bare", &[]);
    bare.body = Frames::default();
    bare.trailers = None;
    bare.metadata = Metadata::default();
    let names = vec![vec![HeaderName::from_static("accept-language")], vec![]];
    let tags = vec![(HeaderValue::from_static("\"a\""), any_key())];
    let variants = Variants { fields: names, tags, epoch: 7, expires: subject.now() + Duration::from_secs(60) };
    for record in [Record::Response(plain.into()), Record::Response(bare.into()), Record::Variants(variants.into())] {
        let key = any_key();
        subject.must_put(&key, record.clone()).await;
        let found = subject.get(&key).await.record;
        assert!(found.is_some(), "a record that was just put is not found");
        assert!(found.as_ref() == Some(&record), "a record came back as another: put {record:?}, got {found:?}");
        let (Some(found), Some(put)) = (found.and_then(Record::response), record.response()) else { continue };
        assert!(found.body.as_slice() == put.body.as_slice(), "a body came back in other frames");
        assert!(found.headers.iter().eq(put.headers.iter()), "header fields came back in another order");
    }
}

/// Keys that differ in one bit, wherever it is, are different keys.
pub async fn a_record_is_found_only_under_its_key<St: Store>(subject: &Subject<St>) {
    let key = any_key();
    subject.must_put(&key, subject.record("one")).await;
    for bit in 0..256 {
        let mut other = *key.as_bytes();
        other[bit / 8] ^= 1 << (bit % 8);
        let found = subject.get(&Key::from_bytes(other)).await.record;
        assert!(found.is_none(), "a record is found under a key that differs in bit {bit}");
    }
    let found = subject.get(&key).await.record;
    assert!(found == Some(subject.record_like(&found, "one")), "a record is not found under its own key");
}

/// A put under the generation of the last look-up replaces what that look-up saw.
pub async fn a_put_over_what_was_seen_replaces_it<St: Store>(subject: &Subject<St>) {
    let key = any_key();
    for round in ["one", "two", "three"] {
        subject.must_put(&key, subject.record(round)).await;
        subject.must_hold(&key, round).await;
    }
}

/// A late writer does not replace a newer answer, be it the first answer or a replacement.
pub async fn a_put_after_a_newer_put_is_refused<St: Store>(subject: &Subject<St>) {
    let key = any_key();
    for newer in ["newer", "newest"] {
        let generation = subject.get(&key).await.generation;
        assert!(subject.put(&key, subject.record(newer), generation).await, "a put under the current generation is refused");
        let stored = subject.put(&key, subject.record("late"), generation).await;
        assert!(!stored, "a put is accepted though a newer record was put since its look-up");
        subject.must_hold(&key, newer).await;
    }
}

/// A removal voids generations noted before it, whether there was something to remove or not.
pub async fn a_put_after_a_removal_is_refused<St: Store>(subject: &Subject<St>) {
    let key = any_key();
    for what in ["a key that holds nothing", "a key that held something"] {
        let generation = subject.get(&key).await.generation;
        ok("remove", subject.store.remove(&key).await);
        let stored = subject.put(&key, subject.record("late"), generation).await;
        assert!(!stored, "a put is accepted though {what} was removed since its look-up");
        assert!(subject.get(&key).await.record.is_none(), "a refused put left a record");
        subject.must_put(&key, subject.record("after")).await;
    }
}

/// So does a removal of many, for whatever it could name.
pub async fn a_put_after_a_removal_of_many_is_refused<St: Store>(subject: &Subject<St>) {
    if !subject.selects().await {
        return;
    }
    for selection in [Selection::All, Selection::Tag("late".into()), Selection::Pattern("model=late*".into())] {
        for held in [false, true] {
            let key = any_key();
            let record = Record::Response(subject.entry("late", &["late"]).into());
            if held {
                subject.must_put(&key, record.clone()).await;
            }
            let generation = subject.get(&key).await.generation;
            ok("remove_where", subject.store.remove_where(&selection).await);
            let stored = subject.put(&key, record.clone(), generation).await;
            assert!(!stored, "a put is accepted though {selection:?} was removed since its look-up (held before: {held})");
            assert!(subject.get(&key).await.record.is_none(), "a record is found after {selection:?} was removed");
            subject.must_put(&key, record).await;
        }
    }
}

/// A removal says whether there was a record, and removes no other.
pub async fn removal_says_whether_there_was_something<St: Store>(subject: &Subject<St>) {
    let (key, other) = (any_key(), any_key());
    assert!(!ok("remove", subject.store.remove(&key).await), "a removal says that it removed what never was");
    subject.must_put(&key, subject.record("one")).await;
    subject.must_put(&other, subject.record("other")).await;
    assert!(ok("remove", subject.store.remove(&key).await), "a removal says that there was nothing");
    assert!(subject.get(&key).await.record.is_none(), "a removed record is found");
    assert!(!ok("remove", subject.store.remove(&key).await), "a second removal says that it removed something");
    subject.must_hold(&other, "other").await;
}

/// Records go when their lifetime ends, and those that live longer stay.
pub async fn records_expire<St: Store>(subject: &Subject<St>) {
    let (short, long) = (any_key(), any_key());
    subject.must_put(&long, subject.record("long")).await;
    subject.must_put(&short, subject.brief("short")).await;
    if let Some(clock) = &subject.clock {
        subject.must_hold(&short, "short").await;
        clock.advance(BRIEF);
    }
    subject.gone(&short).await;
    assert!(ok("metadata", subject.store.metadata(&short).await).is_none(), "an expired record has metadata");
    let removed = ok("remove", subject.store.remove(&short).await);
    // Without a clock of ours, the store's may be a moment behind.
    assert!(!removed || subject.clock.is_none(), "a removal says that it removed what had expired");
    subject.must_hold(&long, "long").await;
}

/// A record that expired since a look-up is no newer answer: a put is not refused for it.
pub async fn a_put_over_what_expired_is_accepted<St: Store>(subject: &Subject<St>) {
    let key = any_key();
    subject.must_put(&key, subject.brief("short")).await;
    if let Some(clock) = &subject.clock {
        clock.advance(BRIEF);
    }
    let generation = subject.gone(&key).await;
    assert!(subject.put(&key, subject.record("next"), generation).await, "a put is refused for a record that has expired");
    subject.must_hold(&key, "next").await;
}

/// A record that is over before it is put is not stored.
pub async fn what_has_expired_is_not_stored<St: Store>(subject: &Subject<St>) {
    let key = any_key();
    let mut entry = subject.entry("over", &[]);
    entry.lifetime = Lifetime::fresh(subject.now() - Duration::from_secs(60), Duration::from_secs(59));
    let generation = subject.get(&key).await.generation;
    assert!(!subject.put(&key, Record::Response(entry.into()), generation).await, "a put says that it stored what had expired");
    assert!(subject.get(&key).await.record.is_none(), "a record is found that had expired when it was put");
}

/// The metadata of an entry says what the entry says, and there is none of what is not there.
pub async fn metadata_tells_of_an_entry<St: Store>(subject: &Subject<St>) {
    let key = any_key();
    assert!(ok("metadata", subject.store.metadata(&key).await).is_none(), "there is metadata of an entry that never was");
    let record = Record::Response(subject.entry("one", &["tag"]).into());
    subject.must_put(&key, record.clone()).await;
    let listing = ok("metadata", subject.store.metadata(&key).await);
    assert!(listing == Listing::of(key, &record), "metadata differs from the entry: {listing:?}");
    ok("remove", subject.store.remove(&key).await);
    assert!(ok("metadata", subject.store.metadata(&key).await).is_none(), "there is metadata of an entry that was removed");
}

/// All pages together name every entry that lives throughout, as it is, while others come and go between them; nothing that is gone before the
/// first page, and no variants.
pub async fn pages_name_all_that_lives<St: Store>(subject: &Subject<St>) {
    if !subject.lists().await {
        return;
    }
    let (gone, short) = (any_key(), any_key());
    subject.must_put(&gone, subject.record("gone")).await;
    ok("remove", subject.store.remove(&gone).await);
    subject.must_put(&short, subject.brief("short")).await;
    if let Some(clock) = &subject.clock {
        clock.advance(BRIEF);
    }
    subject.gone(&short).await;
    let variants = any_key();
    let index = Variants {
        fields: vec![vec![HeaderName::from_static("accept")]],
        tags: Vec::new(),
        epoch: 7,
        expires: subject.now() + Duration::from_secs(600),
    };
    subject.must_put(&variants, Record::Variants(index.into())).await;
    // Longer lists of tags than a store may read at first.
    let long: Vec<String> = (0..400).map(|n| format!("a-tag-among-many-{n}")).collect();
    let mut lasting = Vec::new();
    for n in 0..50 {
        let (key, text) = (any_key(), format!("lasting-{n}"));
        let mut entry = subject.entry(&text, &["tag"]);
        if n == 7 {
            entry.metadata.add_tags(long.iter().cloned());
        }
        let record = Record::Response(entry.into());
        subject.must_put(&key, record.clone()).await;
        lasting.extend(Listing::of(key, &record));
    }

    let mut passing = subject.fill(20, |_| Vec::new()).await;
    let mut named: Vec<Listing> = Vec::new();
    let mut cursor: Option<Cursor> = None;
    for pages in 0.. {
        assert!(pages < 10_000, "the pages do not end");
        let page = ok("list", subject.store.list(cursor.as_ref(), 7).await);
        named.extend(page.entries);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
        if let Some(key) = passing.pop() {
            ok("remove", subject.store.remove(&key).await);
            subject.fill(2, |_| Vec::new()).await;
        }
    }
    for listing in &lasting {
        assert!(named.contains(listing), "an entry that lives throughout is on no page, or is not as it was put: {listing:?}");
    }
    for (key, what) in [(gone, "was removed"), (short, "has expired"), (variants, "is no response")] {
        assert!(named.iter().all(|listing| listing.key != key), "what {what} is on a page");
    }
}

/// A page holds about as much as was asked for, and goes on from a cursor that the store gave, and from no other.
pub async fn pages_stay_short_and_cursors_are_the_stores_own<St: Store>(subject: &Subject<St>) {
    if !subject.lists().await {
        return;
    }
    assert_eq!(ok("list", subject.store.list(None, 10).await).entries, [], "what a store that holds nothing lists");
    subject.fill(200, |_| Vec::new()).await;
    for limit in [0, 1, 10, 50] {
        let mut cursor: Option<Cursor> = None;
        let mut named = 0;
        for pages in 0.. {
            assert!(pages < 10_000, "the pages do not end");
            let page = ok("list", subject.store.list(cursor.as_ref(), limit).await);
            assert!(page.entries.len() <= limit + 40, "a page of {limit} holds {} entries", page.entries.len());
            named += page.entries.len();
            let Some(next) = page.next else { break };
            assert!(next.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'), "a cursor is not plain: {next:?}");
            cursor = Some(next);
        }
        assert!(named >= 200, "pages of {limit} name {named} of 200 entries");
    }
    for foreign in ["", "0", "-1", "elsewhere", "99999999999999999999999999"] {
        let refused = subject.store.list(Some(&Cursor::new(foreign)), 10).await.is_err_and(|error| error.is_config());
        assert!(refused, "the cursor {foreign:?}, which the store did not give, is not refused");
    }
}

/// [`Selection::All`] removes all, and counts it.
pub async fn all_can_be_removed<St: Store>(subject: &Subject<St>) {
    if !subject.selects().await {
        return;
    }
    let keys = subject.fill(40, |_| Vec::new()).await;
    subject.removes(Selection::All, 40).await;
    for key in &keys {
        assert!(subject.get(key).await.record.is_none(), "a record is found after all were removed");
    }
    subject.removes(Selection::All, 0).await;
}

/// [`Selection::Tag`] removes the entries with that very tag, counts them, and leaves the others.
pub async fn a_tag_removes_what_carries_it<St: Store>(subject: &Subject<St>) {
    if !subject.selects().await {
        return;
    }
    let tags = |n| match n % 4 {
        0 => vec!["red"],
        1 => vec!["blue", "red"],
        2 => vec!["re", "redder", "RED", "r*"],
        _ => vec![],
    };
    let keys = subject.fill(40, tags).await;
    subject.removes(Selection::Tag("r*".into()), 10).await;
    subject.removes(Selection::Tag("red".into()), 20).await;
    for (n, key) in keys.iter().enumerate() {
        assert_eq!(subject.get(key).await.record.is_some(), n % 4 == 3, "whether an entry with tags {:?} stays", tags(n));
    }
    subject.removes(Selection::Tag("red".into()), 0).await;
}

/// [`Selection::Pattern`] removes the entries of which a label or the key matches, counts them, and leaves the others.
pub async fn a_pattern_removes_what_it_matches<St: Store>(subject: &Subject<St>) {
    if !subject.selects().await {
        return;
    }
    let keys = subject.fill(30, |_| Vec::new()).await;
    subject.removes(Selection::Pattern("model=entry-1*".into()), 11).await;
    subject.removes(Selection::Pattern("route=entry-*".into()), 0).await;
    subject.removes(Selection::Pattern("entry-2?".into()), 10).await;
    subject.removes(Selection::Pattern(keys[3].to_string()), 1).await;
    for (n, key) in keys.iter().enumerate() {
        let stays = [0, 2, 4, 5, 6, 7, 8, 9].contains(&n);
        assert_eq!(subject.get(key).await.record.is_some(), stays, "whether entry {n} stays");
    }
}

/// Cleaning up takes nothing that lives, and leaves nothing for a second time.
pub async fn cleanup_leaves_what_lives<St: Store>(subject: &Subject<St>) {
    let (short, long) = (any_key(), any_key());
    subject.must_put(&long, subject.record("long")).await;
    subject.must_put(&short, subject.brief("short")).await;
    if let Some(clock) = &subject.clock {
        clock.advance(BRIEF);
    }
    subject.gone(&short).await;
    ok("cleanup", subject.store.cleanup().await);
    assert_eq!(ok("cleanup", subject.store.cleanup().await), 0, "what a second cleanup finds right after the first");
    subject.must_hold(&long, "long").await;
}

/// What the store says that it holds is what it holds; it need not say.
pub async fn usage_counts_what_is_stored<St: Store>(subject: &Subject<St>) {
    let before = ok("usage", subject.store.usage().await);
    subject.fill(9, |_| Vec::new()).await;
    // One that does not shrink, and that stands out from whatever else the store does with its memory.
    let mut large = subject.entry("large", &[]);
    large.body = Frames::from(Bytes::from((0..subject.large).map(|_| fastrand::u8(..)).collect::<Vec<_>>()));
    subject.must_put(&any_key(), Record::Response(large.into())).await;
    let after = ok("usage", subject.store.usage().await);
    if let (Some(before), Some(after)) = (before.entries, after.entries) {
        assert_eq!(after - before, 10, "by how many entries the store says that it grew");
    }
    if let (Some(before), Some(after)) = (before.bytes, after.bytes) {
        assert!(after > before, "the store says that it did not grow: {before} bytes, then {after}");
    }
    if let (Some(entries), Some(total)) = (after.entries, after.total_keys) {
        assert!(total >= entries, "the store says that it has more entries ({entries}) than keys ({total})");
    }
}

/// Of many puts under one generation exactly one is stored, and that one is found.
pub async fn of_many_puts_at_once_one_is_stored<St: Store>(subject: &Subject<St>) {
    for _ in 0..20 {
        let key = any_key();
        let generation = subject.get(&key).await.generation;
        let tasks: Vec<_> = (0..16)
            .map(|n| {
                let (store, record) = (Arc::clone(&subject.store), subject.record(&n.to_string()));
                tokio::spawn(async move { ok("put", store.put(&key, record, generation).await) })
            })
            .collect();
        let mut stored = Vec::new();
        for (n, task) in tasks.into_iter().enumerate() {
            if joined(task.await) {
                stored.push(n);
            }
        }
        assert_eq!(stored.len(), 1, "how many of 16 puts under one generation say that they stored");
        subject.must_hold(&key, &stored[0].to_string()).await;
    }
}

/// Many tasks at once find what each of them put.
pub async fn many_tasks_get_their_own<St: Store>(subject: &Subject<St>) {
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let records: Vec<_> = (0..8).map(|n| (any_key(), subject.record(&format!("{task}-{n}")))).collect();
            let store = Arc::clone(&subject.store);
            tokio::spawn(async move {
                for (key, record) in &records {
                    let generation = ok("get", store.get(key).await).generation;
                    assert!(ok("put", store.put(key, record.clone(), generation).await), "a put that nobody disturbs is refused");
                }
                for (key, record) in &records {
                    assert!(ok("get", store.get(key).await).record.as_ref() == Some(record), "a task found what another put");
                }
            })
        })
        .collect();
    for task in tasks {
        joined(task.await);
    }
}

/// Once a removal has ended, nothing is found that was looked up before it began, however the two are timed.
pub async fn a_removal_beats_puts_at_the_same_time<St: Store>(subject: &Subject<St>) {
    for round in 0..200 {
        let key = any_key();
        if round % 2 == 0 {
            subject.must_put(&key, subject.record("before")).await;
        }
        let generation = subject.get(&key).await.generation;
        let (store, record) = (Arc::clone(&subject.store), subject.record("late"));
        let put = tokio::spawn(async move { ok("put", store.put(&key, record, generation).await) });
        ok("remove", subject.store.remove(&key).await);
        joined(put.await);
        assert!(subject.get(&key).await.record.is_none(), "a put outlived a removal that began after its look-up");
    }
}

/// A look-up that runs beside a removal and still sees the record belongs to the time before: nothing is put on its word.
pub async fn a_look_up_that_saw_what_was_removed_is_void<St: Store>(subject: &Subject<St>) {
    for _ in 0..200 {
        let key = any_key();
        subject.must_put(&key, subject.record("before")).await;
        let mut last = subject.get(&key).await;
        let store = Arc::clone(&subject.store);
        let looks = tokio::spawn(async move {
            loop {
                let next = ok("get", store.get(&key).await);
                if next.record.is_none() {
                    return last.generation;
                }
                last = next;
                tokio::task::yield_now().await;
            }
        });
        tokio::task::yield_now().await;
        ok("remove", subject.store.remove(&key).await);
        let generation = joined(looks.await);
        let stored = subject.put(&key, subject.record("late"), generation).await;
        assert!(!stored, "a put is accepted though the record that its look-up saw was removed");
    }
}

/// Operations that are dropped after any number of polls leave others with their own answers, and keys with whole records.
pub async fn cancelled_operations_cross_no_answers<St: Store>(subject: &Subject<St>) {
    let records: Vec<_> = (0..16).map(|n| (any_key(), subject.record(&format!("kept-{n}")))).collect();
    for (key, record) in &records {
        subject.must_put(key, record.clone()).await;
    }
    let records = Arc::new(records);
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (store, records, own) = (Arc::clone(&subject.store), Arc::clone(&records), subject.record(&format!("own-{task}")));
            tokio::spawn(async move {
                for polls in 0..24 {
                    let (key, record) = &records[(task + polls) % records.len()];
                    for after in [polls / 3, polls / 3 + 1] {
                        if let Some(found) = Dropped::after(after, pin!(store.get(key))).await {
                            assert!(ok("get", found).record.as_ref() == Some(record), "a look-up got another key's answer");
                        }
                    }
                    let mine = any_key();
                    let generation = ok("get", store.get(&mine).await).generation;
                    Dropped::after(polls / 3, pin!(store.put(&mine, own.clone(), generation))).await;
                    let found = ok("get", store.get(&mine).await).record;
                    assert!(found.is_none_or(|found| found == own), "a cancelled put left something else than its record");
                    Dropped::after(polls / 3, pin!(store.remove(&mine))).await;
                    let found = ok("get", store.get(key).await).record;
                    assert!(found.as_ref() == Some(record), "after cancelled operations a look-up got another answer");
                }
            })
        })
        .collect();
    for task in tasks {
        joined(task.await);
    }
}

/// Entries as large as the store has to keep come back whole.
pub async fn large_entries_come_back_whole<St: Store>(subject: &Subject<St>) {
    let key = any_key();
    let mut entry = subject.entry("large", &[]);
    let bytes = Bytes::from((0..subject.large).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect::<Vec<_>>());
    let half = subject.large / 2;
    entry.body = Frames::new([bytes.slice(..half), bytes.slice(half..)]);
    let record = Record::Response(entry.into());
    subject.must_put(&key, record.clone()).await;
    assert!(subject.get(&key).await.record == Some(record), "an entry of {} bytes did not come back whole", subject.large);
}

/// How long brief records live: long enough to be put and found on a slow machine, short enough to wait for.
const BRIEF: Duration = Duration::from_millis(500);

/// How long a store may take to let go of what has expired.
const PATIENCE: Duration = Duration::from_secs(30);

impl<St: Store> Subject<St> {
    async fn get(&self, key: &Key) -> Lookup {
        ok("get", self.store.get(key).await)
    }

    async fn put(&self, key: &Key, record: Record, generation: Generation) -> bool {
        ok("put", self.store.put(key, record, generation).await)
    }

    async fn must_put(&self, key: &Key, record: Record) {
        let generation = self.get(key).await.generation;
        assert!(self.put(key, record, generation).await, "a put right after its look-up is refused");
    }

    async fn must_hold(&self, key: &Key, text: &str) {
        let found = self.get(key).await.record;
        assert!(found.is_some(), "the record {text:?} is not found");
        assert!(found == Some(self.record_like(&found, text)), "another record is found where {text:?} should be");
    }

    /// Waits until the key holds nothing, and says under which generation.
    async fn gone(&self, key: &Key) -> Generation {
        let start = Instant::now();
        loop {
            let lookup = self.get(key).await;
            if lookup.record.is_none() {
                return lookup.generation;
            }
            assert!(self.clock.is_none(), "a record is found after its lifetime");
            assert!(start.elapsed() < PATIENCE, "a record of {BRIEF:?} is still found after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Can it remove by selection? If it is said not to, it has to say so itself.
    async fn selects(&self) -> bool {
        if !self.selections {
            for selection in [Selection::All, Selection::Tag("x".into()), Selection::Pattern("x".into())] {
                let unsupported = self.store.remove_where(&selection).await.is_err_and(|error| error.is_unsupported());
                assert!(unsupported, "a store that cannot remove by selection does not say so");
            }
        }
        self.selections
    }

    /// Can it list? If it is said not to, it has to say so itself.
    async fn lists(&self) -> bool {
        if !self.lists {
            let unsupported = self.store.list(None, 10).await.is_err_and(|error| error.is_unsupported());
            assert!(unsupported, "a store that cannot list does not say so");
        }
        self.lists
    }

    async fn removes(&self, selection: Selection, count: u64) {
        let removed = ok("remove_where", self.store.remove_where(&selection).await);
        assert_eq!(removed, count, "how many records {selection:?} says that it removed");
    }

    /// Puts `count` entries, of the models `entry-0` and so on.
    async fn fill(&self, count: usize, tags: impl Fn(usize) -> Vec<&'static str>) -> Vec<Key> {
        let mut keys = Vec::new();
        for n in 0..count {
            let key = any_key();
            self.must_put(&key, Record::Response(self.entry(&format!("entry-{n}"), &tags(n)).into())).await;
            keys.push(key);
        }
        keys
    }
}

impl<St> Subject<St> {
    fn record(&self, text: &str) -> Record {
        Record::Response(self.entry(text, &[]).into())
    }

    fn brief(&self, text: &str) -> Record {
        let mut entry = self.entry(text, &[]);
        entry.lifetime = Lifetime::fresh(self.now(), BRIEF);
        Record::Response(entry.into())
    }

    /// The record with this text that was made when the other was.
    fn record_like(&self, other: &Option<Record>, text: &str) -> Record {
        let mut entry = self.entry(text, &[]);
        if let Some(Record::Response(other)) = other {
            entry.lifetime = other.lifetime;
            entry.metadata.cached_at = other.metadata.cached_at;
        }
        Record::Response(entry.into())
    }

    /// An entry that says everywhere that it is this one.
    fn entry(&self, text: &str, tags: &[&str]) -> Entry {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("content-type", b"text/plain".as_slice()), ("x-repeated", b"1"), ("x-text", b"caf\xe9"), ("x-repeated", b"2")]
        {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("x-trailer", HeaderValue::from_static("end"));
        let frames = [text.to_owned(), " and ".into(), text.into()];
        Entry {
            status: StatusCode::OK,
            headers,
            body: Frames::new(frames.map(Bytes::from)),
            trailers: Some(trailers),
            lifetime: Lifetime { stale_while_revalidate: Duration::from_secs(60), ..Lifetime::fresh(self.now(), Duration::from_secs(600)) },
            metadata: Metadata {
                request_id: Some(format!("request-{text}").into()),
                provider: Some("contract".into()),
                model: Some(text.into()),
                cached_at: Some(self.now()),
                upstream_time: Duration::from_millis(20),
                upstream_first_byte: Duration::from_millis(10),
                usage: Some(Usage { input_uncached: 1, output: 2, ..Usage::default() }),
                service_tier: Some("flex".into()),
                tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
                labels: vec![("route".into(), format!("to-{text}"))].into(),
                upstream_request_id: None,
            },
        }
    }
}

fn any_key() -> Key {
    Key::from_bytes(std::array::from_fn(|_| fastrand::u8(..)))
}

fn ok<T>(operation: &str, result: Result<T, Error>) -> T {
    result.unwrap_or_else(|error| panic!("{operation} failed: {error}"))
}

/// What a task came to; its panic goes on.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    result.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => panic!("a task of the check was cancelled"),
    })
}

/// Polls a future so often and no more.
struct Dropped<'a, F> {
    future: Pin<&'a mut F>,
    polls: usize,
}

impl<'a, F> Dropped<'a, F> {
    fn after(polls: usize, future: Pin<&'a mut F>) -> Self {
        Self { future, polls }
    }
}

impl<F: Future> Future for Dropped<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(left) = self.polls.checked_sub(1) else { return Poll::Ready(None) };
        self.polls = left;
        match self.future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
