//! The contract that every store keeps.

use std::sync::atomic::{AtomicUsize, Ordering};

use tower_response_cache::store::{
    BoxStore, Redis, RedisBuilder,
    contract::{self, Subject},
};

use crate::{patient, server::Server};

/// Stores on one server, each with keys of its own.
async fn check(server: &Server, settings: impl Fn(RedisBuilder) -> Redis, url: &str) {
    let made = AtomicUsize::new(0);
    contract::run(async || {
        // Expiry is the server's, and its clock cannot be moved.
        let prefix = format!("contract-{}", made.fetch_add(1, Ordering::SeqCst));
        Subject::new(settings(patient(url).prefix(prefix)))
    })
    .await;
    assert!(made.into_inner() > 10 && !server.keys().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_the_contract() {
    let server = Server::start();
    check(&server, |builder| builder.build().unwrap(), &server.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_the_contract_on_one_connection_in_the_newer_protocol() {
    let server = Server::start();
    check(&server, |builder| builder.max_connections(1).build().unwrap(), &format!("{}?protocol=resp3", server.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boxed_it_keeps_the_contract_too() {
    let server = Server::start();
    let subject = |prefix| Subject::new(BoxStore::new(patient(server.url()).prefix(prefix).build().unwrap()));
    contract::whole_records_come_back(&subject("a")).await;
    contract::metadata_tells_of_an_entry(&subject("b")).await;
    contract::all_can_be_removed(&subject("c")).await;
}
