//! Wherever Redis is, the store finds it, and goes after it when it moves.

use tower_response_cache::store::{LinkState, Store};

use crate::{
    fill, key,
    outages::{Load, cache, impatient},
    patient, record,
    server::Fleet,
    stored,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_is_killed_under_load_no_request_fails_and_hits_come_from_the_next() {
    let mut fleet = Fleet::start();
    let store = impatient(fleet.url()).build().unwrap();
    let load = Load::on(&cache(&store));
    load.hits(500).await;
    fleet.primary.kill();
    crate::until(async || store.status().state != LinkState::Closed).await;
    load.answers(500).await;
    crate::until(async || store.status().state == LinkState::Closed).await;
    load.hits(500).await;
    load.end().await;
    assert!(fleet.replica.run::<Vec<String>>(&["KEYS", "t:*"]).len() > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_primary_becomes_a_replica_writes_go_to_the_new_one() {
    let fleet = Fleet::start();
    let store = patient(fleet.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("before")).await);
    fleet.fail_over();
    crate::until(async || fleet.primary.run::<String>(&["INFO", "replication"]).contains("role:slave")).await;
    crate::until(async || {
        let Ok(found) = store.get(&key(2)).await else { return false };
        matches!(store.put(&key(2), record("after"), found.generation).await, Ok(true))
    })
    .await;
    assert_eq!(stored(&store, &key(2)).await.as_deref(), Some("after"));
    assert!(fleet.replica.run::<String>(&["INFO", "replication"]).contains("role:master"));
    crate::until(async || !fleet.replica.records("t").is_empty()).await;
}

#[tokio::test]
async fn a_sentinel_that_does_not_answer_delays_nobody() {
    let fleet = Fleet::start();
    fleet.freeze_a_sentinel();
    let store = patient(fleet.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("there")).await);
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("there"));
}

#[tokio::test]
async fn a_service_that_no_sentinel_knows_is_an_outage_and_not_a_secret_told() {
    let fleet = Fleet::start();
    let url = fleet.url().replace("redis-sentinel://", "redis-sentinel://user:canary@").replace("/main/", "/unknown/");
    let store = patient(url).build().unwrap();
    let error = store.get(&key(1)).await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(!format!("{error:?} {store:?}").contains("canary"));
}
