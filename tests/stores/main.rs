//! Every store keeps the contract, and the suite that says so can fail.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a test, and each uses a part of what tests share"
)]

mod broken;
mod memory;

/// A test of its own for each check of the contract, on what the expression makes.
macro_rules! contract {
    ($make:expr) => {
        $crate::contract! { $make =>
            whole_records_come_back
            a_record_is_found_only_under_its_key
            a_put_over_what_was_seen_replaces_it
            a_put_after_a_newer_put_is_refused
            a_put_after_a_removal_is_refused
            a_put_after_a_removal_of_many_is_refused
            removal_says_whether_there_was_something
            records_expire
            a_put_over_what_expired_is_accepted
            what_has_expired_is_not_stored
            metadata_tells_of_an_entry
            pages_name_all_that_lives
            pages_stay_short_and_cursors_are_the_stores_own
            all_can_be_removed
            a_tag_removes_what_carries_it
            a_pattern_removes_what_it_matches
            cleanup_leaves_what_lives
            usage_counts_what_is_stored
            of_many_puts_at_once_one_is_stored
            many_tasks_get_their_own
            a_removal_beats_puts_at_the_same_time
            a_look_up_that_saw_what_was_removed_is_void
            cancelled_operations_cross_no_answers
            large_entries_come_back_whole
            a_live_stream_is_followed_from_its_first_part_to_its_end
            a_live_stream_has_no_gap_and_one_name
            a_live_stream_carries_as_much_as_there_is_room_for
            a_live_stream_that_is_withdrawn_is_over
            a_live_stream_ends_with_its_publisher_and_is_not_wanted_for_ever
        }
    };
    ($make:expr => $($check:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                tower_response_cache::store::contract::$check(&$make.await).await;
            }
        )*
    };
}
pub(crate) use contract;
