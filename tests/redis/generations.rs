//! Nothing late is stored: not over a newer answer, not over a removal.

use std::{sync::Arc, time::Duration};

use tower_response_cache::{
    Clock,
    store::{Selection, Store},
};

use crate::{body, fill, key, patient, record, server::Server, stored, tagged};

#[tokio::test]
async fn a_late_writer_never_replaces_a_newer_answer() {
    let server = Server::start();
    let (early, late) = (patient(server.url()).build().unwrap(), patient(server.url()).build().unwrap());
    let seen = late.get(&key(1)).await.unwrap().generation;
    assert!(fill(&early, &key(1), record("newer")).await);
    assert!(!late.put(&key(1), record("older"), seen).await.unwrap());
    // The same once there was something to see.
    let seen = late.get(&key(1)).await.unwrap().generation;
    assert!(fill(&early, &key(1), record("newest")).await);
    assert!(!late.put(&key(1), record("older"), seen).await.unwrap());
    assert_eq!(stored(&late, &key(1)).await.as_deref(), Some("newest"));
}

#[tokio::test]
async fn a_frozen_writer_that_wakes_up_late_does_not_replace_what_came_since() {
    // What a stopped process does when it goes on: it puts with what it saw before, whoever wrote in between and however often.
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    let seen = store.get(&key(1)).await.unwrap().generation;
    for round in 0..3 {
        assert!(fill(&store, &key(1), record(format!("answer {round}"))).await);
        assert!(!store.put(&key(1), record("from long ago"), seen).await.unwrap());
        store.remove(&key(1)).await.unwrap();
        assert!(!store.put(&key(1), record("from long ago"), seen).await.unwrap());
    }
    assert_eq!(stored(&store, &key(1)).await, None);
}

#[tokio::test]
async fn whatever_removes_a_record_voids_the_fill_that_is_on_its_way() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    for (name, was_there) in [("nothing", false), ("a record", true)] {
        let selections = [None, Some(Selection::All), Some(Selection::Tag("tag".into())), Some(Selection::Pattern("model=*".into()))];
        for (number, selection) in selections.into_iter().enumerate() {
            let key = key(number as u64);
            store.remove(&key).await.unwrap();
            if was_there {
                assert!(fill(&store, &key, tagged("old", &["tag"], &[("model", "m")])).await);
            }
            let seen = store.get(&key).await.unwrap().generation;
            match &selection {
                None => assert_eq!(store.remove(&key).await.unwrap(), was_there),
                Some(selection) => assert_eq!(store.remove_where(selection).await.unwrap(), u64::from(was_there), "{selection:?}"),
            }
            assert!(!store.put(&key, record("from before"), seen).await.unwrap(), "{selection:?} over {name}");
            assert_eq!(stored(&store, &key).await, None);
            assert!(fill(&store, &key, tagged("from after", &[], &[])).await, "{selection:?} over {name}");
            store.remove_where(&Selection::All).await.unwrap();
        }
    }
}

#[tokio::test]
async fn flushing_the_server_voids_fills_too() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    let seen = store.get(&key(1)).await.unwrap().generation;
    let () = server.run(&["FLUSHALL"]);
    assert!(!store.put(&key(1), record("from before"), seen).await.unwrap());
    // Epochs are made anew, and are others.
    let other = store.get(&key(1)).await.unwrap().generation;
    assert_ne!(seen, other);
    assert!(!store.put(&key(1), record("from before"), seen).await.unwrap());
    assert!(store.put(&key(1), record("from after"), other).await.unwrap());
}

#[tokio::test]
async fn eviction_says_nothing_of_age_and_voids_nothing() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("old")).await);
    let seen = store.get(&key(1)).await.unwrap().generation;
    let () = server.run(&["DEL", &server.records("t")[0]]);
    assert!(store.put(&key(1), record("new"), seen).await.unwrap());
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_a_removal_and_a_fill_meet_the_removal_wins() {
    let server = Server::start();
    let store = Arc::new(patient(server.url()).build().unwrap());
    for round in 0..300 {
        let key = key(round);
        let seen = store.get(&key).await.unwrap().generation;
        let (putting, removing) = (Arc::clone(&store), Arc::clone(&store));
        let put = tokio::spawn(async move { putting.put(&key, record("from before"), seen).await.unwrap() });
        let remove = tokio::spawn(async move {
            match round % 2 {
                0 => removing.remove(&key).await.map(u64::from),
                _ => removing.remove_where(&Selection::All).await,
            }
            .unwrap()
        });
        let (stored_first, removed) = (put.await.unwrap(), remove.await.unwrap());
        assert_eq!(removed, u64::from(stored_first), "what was stored is what was removed");
        assert_eq!(stored(&store, &key).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_fills_with_one_generation_one_is_stored() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    let seen = store.get(&key(1)).await.unwrap().generation;
    let fills: Vec<_> = (0..32)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.put(&key(1), record(number.to_string()), seen).await.unwrap() })
        })
        .collect();
    let mut winners = Vec::new();
    for (number, fill) in fills.into_iter().enumerate() {
        if fill.await.unwrap() {
            winners.push(number.to_string());
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(stored(&store, &key(1)).await, winners.pop());
}

#[tokio::test]
async fn records_and_marks_expire_in_redis_itself() {
    let server = Server::start();
    let clock = Clock::movable();
    let store = patient(server.url()).fill_bound(Duration::from_secs(77)).clock(clock.clone()).build().unwrap();
    assert!(fill(&store, &key(1), record("for ten minutes")).await);
    let name = server.records("t").remove(0);
    let left: i64 = server.run(&["PTTL", &name]);
    assert!((500_000..=600_000).contains(&left), "{left}");
    store.remove(&key(1)).await.unwrap();
    let left: i64 = server.run(&["PTTL", &name]);
    assert!((60_000..=77_000).contains(&left), "{left}");

    // What has expired by our clock is not served, nor stored.
    assert!(fill(&store, &key(1), record("again")).await);
    clock.advance(Duration::from_secs(601));
    let lookup = store.get(&key(1)).await.unwrap();
    let seen = lookup.generation;
    assert_eq!(body(lookup), None);
    assert!(!store.put(&key(1), record("expired"), seen).await.unwrap());
}
