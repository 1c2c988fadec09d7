//! A random load, of which every answer is checked, on a real server.

use crate::{patient, server::Server};

#[path = "../support/history.rs"]
mod signed;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_under_a_random_load_is_whole_ones_own_and_no_older_than_the_last_invalidation() {
    let server = Server::start();
    under_a_random_load(&server.url()).await;
}

pub async fn under_a_random_load(url: &str) {
    for seed in 1..=2 {
        let store = patient(url).prefix(format!("seed-{seed}")).build().unwrap();
        signed::check(store, seed, 1000).await;
    }
}
