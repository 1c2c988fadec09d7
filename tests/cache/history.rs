//! A random load, of which every answer is checked.

use tower_response_cache::store::Memory;

#[path = "../support/history.rs"]
mod signed;

#[tokio::test]
async fn every_answer_under_a_random_load_is_whole_ones_own_and_no_older_than_the_last_invalidation() {
    for seed in 1..=4 {
        signed::check(Memory::new(1 << 20), seed, 1500).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_holds_on_several_threads() {
    for seed in 5..=6 {
        signed::check(Memory::new(1 << 20), seed, 1500).await;
    }
}

/// Small enough that answers are evicted all the time.
#[tokio::test]
async fn the_same_holds_in_a_store_that_is_too_small() {
    signed::check(Memory::new(1 << 16), 7, 1500).await;
}
