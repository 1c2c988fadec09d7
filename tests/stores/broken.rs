//! Stores that break one promise each: the suite finds it.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use tower_response_cache::{
    Clock, Error,
    entry::Record,
    key::Key,
    store::{
        Audience, Cursor, Generation, Lookup, Memory, Page, Selection, Store, Token,
        contract::{self, Subject},
    },
};

/// A map that keeps everything for ever and lets anyone write.
#[derive(Default)]
struct Broken {
    records: Mutex<HashMap<u8, Record>>,
    claims: bool,
}

impl Store for Broken {
    async fn get(&self, key: &Key) -> Result<Lookup, Error> {
        let record = self.records.lock().unwrap().get(&key.as_bytes()[0]).cloned();
        Ok(Lookup { record, generation: Generation::default() })
    }

    async fn put(&self, key: &Key, record: Record, _: Generation) -> Result<bool, Error> {
        self.records.lock().unwrap().insert(key.as_bytes()[0], record);
        Ok(true)
    }

    async fn remove(&self, key: &Key) -> Result<bool, Error> {
        self.records.lock().unwrap().remove(&key.as_bytes()[0]);
        Ok(true)
    }

    async fn remove_where(&self, _: &Selection) -> Result<u64, Error> {
        if self.claims { Ok(0) } else { Err(Error::unsupported("not here")) }
    }

    async fn audience(&self, _: &Key, _: Token) -> Option<Audience> {
        self.claims.then_some(Audience { max_bytes: 1, renew_in: Duration::from_secs(1) })
    }

    async fn list(&self, _: Option<&Cursor>, _: usize) -> Result<Page, Error> {
        if self.claims { Ok(Page::default()) } else { Err(Error::unsupported("not here")) }
    }
}

/// Its pages end after the first.
struct Sloppy(Memory);

impl Store for Sloppy {
    async fn get(&self, key: &Key) -> Result<Lookup, Error> {
        self.0.get(key).await
    }

    async fn put(&self, key: &Key, record: Record, generation: Generation) -> Result<bool, Error> {
        self.0.put(key, record, generation).await
    }

    async fn remove(&self, key: &Key) -> Result<bool, Error> {
        self.0.remove(key).await
    }

    async fn list(&self, cursor: Option<&Cursor>, limit: usize) -> Result<Page, Error> {
        Ok(Page { next: None, ..self.0.list(cursor, limit).await? })
    }
}

fn broken() -> Subject<Broken> {
    Subject::new(Broken::default()).without_selections().without_listing()
}

fn claiming() -> Broken {
    Broken { claims: true, ..Broken::default() }
}

#[tokio::test]
#[should_panic(expected = "a record is found under a key that differs in bit")]
async fn a_store_that_mixes_keys_up_is_found_out() {
    contract::a_record_is_found_only_under_its_key(&broken()).await;
}

#[tokio::test]
#[should_panic(expected = "a newer record was put since its look-up")]
async fn a_store_that_lets_late_writers_in_is_found_out() {
    contract::a_put_after_a_newer_put_is_refused(&broken()).await;
}

#[tokio::test]
#[should_panic(expected = "was removed since its look-up")]
async fn a_store_that_forgets_removals_is_found_out() {
    contract::a_put_after_a_removal_is_refused(&broken()).await;
}

#[tokio::test]
#[should_panic(expected = "a removal says that it removed what never was")]
async fn a_store_that_miscounts_removals_is_found_out() {
    contract::removal_says_whether_there_was_something(&broken()).await;
}

#[tokio::test]
#[should_panic(expected = "it stored what had expired")]
async fn a_store_that_keeps_for_ever_is_found_out() {
    contract::what_has_expired_is_not_stored(&broken()).await;
}

#[tokio::test]
#[should_panic(expected = "how many of 16 puts under one generation")]
async fn a_store_that_stores_all_of_many_is_found_out() {
    contract::of_many_puts_at_once_one_is_stored(&broken()).await;
}

#[tokio::test]
#[should_panic(expected = "a put outlived a removal")]
async fn a_store_whose_removals_lose_races_is_found_out() {
    contract::a_removal_beats_puts_at_the_same_time(&broken()).await;
}

#[tokio::test]
#[should_panic(expected = "says that it removed")]
async fn a_store_that_removes_nothing_is_found_out() {
    contract::all_can_be_removed(&Subject::new(claiming())).await;
}

#[tokio::test]
#[should_panic(expected = "cannot remove by selection does not say so")]
async fn a_store_that_is_said_to_lack_selections_has_to_say_so_itself() {
    contract::all_can_be_removed(&Subject::new(claiming()).without_selections()).await;
}

#[tokio::test]
#[should_panic(expected = "remove_where failed: not here")]
async fn selections_are_not_skipped_in_silence() {
    contract::a_tag_removes_what_carries_it(&Subject::new(Broken::default())).await;
}

#[tokio::test]
async fn a_store_may_do_without_selections_if_both_say_so() {
    contract::all_can_be_removed(&broken()).await;
}

#[tokio::test]
#[should_panic(expected = "on no page")]
async fn a_store_whose_pages_leave_entries_out_is_found_out() {
    let clock = Clock::movable();
    let store = Sloppy(Memory::default().clock(clock.clone()));
    contract::pages_name_all_that_lives(&Subject::new(store).clock(clock)).await;
}

#[tokio::test]
#[should_panic(expected = "cannot list does not say so")]
async fn a_store_that_is_said_not_to_list_has_to_say_so_itself() {
    contract::pages_name_all_that_lives(&Subject::new(claiming()).without_listing()).await;
}

#[tokio::test]
#[should_panic(expected = "a store without live streams has an audience")]
async fn a_store_that_is_not_said_to_carry_live_streams_has_to_say_so_itself() {
    contract::a_live_stream_has_no_gap_and_one_name(&Subject::new(claiming())).await;
}

#[tokio::test]
#[should_panic(expected = "a lease that nobody has is not granted")]
async fn live_streams_are_not_skipped_in_silence() {
    contract::a_live_stream_has_no_gap_and_one_name(&Subject::new(Memory::default()).with_live_streams()).await;
}

#[tokio::test]
async fn a_store_may_do_without_listing_if_both_say_so() {
    contract::pages_name_all_that_lives(&broken()).await;
    contract::pages_stay_short_and_cursors_are_the_stores_own(&broken()).await;
}
