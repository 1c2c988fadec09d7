//! In a Cluster everything is as with one server, whatever moves where and whoever dies.

use std::sync::atomic::{AtomicUsize, Ordering};

use tower_response_cache::store::{
    LinkState, Store, Tiered,
    contract::{self, Subject},
};

use crate::{
    clusters::Cluster,
    fill, key,
    outages::{Load, cache, impatient},
    patient, record, stored,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_the_contract_in_a_cluster() {
    let cluster = Cluster::start();
    let made = AtomicUsize::new(0);
    contract::run(async || {
        let prefix = format!("contract-{}", made.fetch_add(1, Ordering::SeqCst));
        Subject::new(patient(cluster.url()).prefix(prefix).build().unwrap())
    })
    .await;
    assert!(made.into_inner() > 10 && cluster.primaries.iter().all(|primary| !primary.keys().is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_in_front_of_a_cluster_keeps_the_contract() {
    let cluster = Cluster::start();
    let made = AtomicUsize::new(0);
    contract::run(async || {
        let prefix = format!("contract-{}", made.fetch_add(1, Ordering::SeqCst));
        let store = Tiered::new(patient(cluster.url()).prefix(prefix).build().unwrap(), 64 << 20);
        store.get(&key(0)).await.unwrap();
        crate::until(async || store.status().tracked).await;
        Subject::new(store)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_primary_is_killed_under_load_no_request_fails_and_hits_come_from_the_next() {
    let mut cluster = Cluster::nervous();
    let store = impatient(cluster.url()).build().unwrap();
    let load = Load::on(&cache(&store));
    load.hits(500).await;
    cluster.primaries[0].kill();
    crate::until(async || store.status().state != LinkState::Closed).await;
    load.answers(500).await;
    // It is the primary now, and what it was told before is there.
    crate::until(async || cluster.replicas[0].run::<String>(&["INFO", "replication"]).contains("role:master")).await;
    crate::until(async || store.status().state == LinkState::Closed).await;
    load.hits(500).await;
    load.end().await;
    assert!(!cluster.replicas[0].records("t").is_empty());
    // And it is written to.
    for number in 0..30 {
        assert!(fill(&store, &key(number), record("after")).await);
        assert_eq!(stored(&store, &key(number)).await.as_deref(), Some("after"));
    }
}
