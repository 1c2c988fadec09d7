//! Removal finds what it names, counts it, and touches nothing else.

use tower_response_cache::store::{Redis, Selection, Store};

use crate::{fill, key, patient, record, server::Server, stored, tagged};

async fn filled(store: &Redis, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let model = if number % 2 == 0 { "even" } else { "odd" };
        assert!(fill(store, &key(number), tagged(format!("{number}"), &[&format!("by three: {}", number % 3)], &[("model", model)])).await);
    }
}

#[tokio::test]
async fn removal_by_tag_pattern_and_of_all_finds_and_counts_what_it_names() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    filled(&store, 0..300).await;
    assert_eq!(store.remove_where(&Selection::Tag("by three: 0".into())).await.unwrap(), 100);
    assert_eq!(store.remove_where(&Selection::Tag("by three: 0".into())).await.unwrap(), 0);
    assert_eq!(store.remove_where(&Selection::Pattern("model=o?d".into())).await.unwrap(), 100);
    assert_eq!(store.remove_where(&Selection::Pattern(format!("{}*", &key(4).to_string()[..10]))).await.unwrap(), 1);
    assert_eq!(stored(&store, &key(3)).await, None);
    assert_eq!(stored(&store, &key(8)).await.as_deref(), Some("8"));
    assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 99);
    assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 0);
}

#[tokio::test]
async fn keys_of_others_stay_whatever_their_names() {
    let server = Server::start();
    let (store, other) = (patient(server.url()).prefix("a*").build().unwrap(), patient(server.url()).prefix("ab").build().unwrap());
    filled(&store, 0..10).await;
    filled(&other, 0..10).await;
    let ours = server.records("a\\*");
    assert_eq!(ours.len(), 10);
    let foreign = [ours[0].to_uppercase(), format!("{}:other", ours[0]), format!("x{}", ours[0]), "a*".to_owned(), "a*:{00}".to_owned()];
    for name in &foreign[..4] {
        let () = server.run(&["SET", name, "foreign"]);
    }
    // Marks of removals are no records.
    store.remove(&key(0)).await.unwrap();
    assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 9);
    for name in &foreign[..4] {
        assert_eq!(server.run::<String>(&["GET", name]), "foreign");
    }
    assert_eq!(stored(&other, &key(5)).await.as_deref(), Some("5"));
    assert_eq!(other.remove_where(&Selection::All).await.unwrap(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removals_at_the_same_time_count_each_record_once() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    filled(&store, 0..200).await;
    let removals: Vec<_> = (0..8)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                match number % 2 {
                    0 => store.remove_where(&Selection::All).await.unwrap(),
                    _ => {
                        let mut removed = 0;
                        for number in 0..200 {
                            removed += u64::from(store.remove(&key(number)).await.unwrap());
                        }
                        removed
                    }
                }
            })
        })
        .collect();
    let mut removed = 0;
    for removal in removals {
        removed += removal.await.unwrap();
    }
    assert_eq!(removed, 200);
}

#[tokio::test]
async fn metadata_comes_without_the_body_and_usage_without_a_scan() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(store.metadata(&key(1)).await.unwrap().is_none());
    assert!(fill(&store, &key(1), tagged(vec![b'x'; 1 << 20], &["tag"], &[("model", "m")])).await);
    let listing = store.metadata(&key(1)).await.unwrap().unwrap();
    assert_eq!((listing.key, listing.body_len, listing.metadata.tags), (key(1), 1 << 20, vec!["tag".to_owned()]));
    // So many labels that they are beyond what is read at first.
    let long = "l".repeat(4000);
    assert!(fill(&store, &key(2), tagged("body", &[], &[("model", &long)])).await);
    assert_eq!(store.metadata(&key(2)).await.unwrap().unwrap().metadata.labels[0].1, long);
    assert_eq!(store.remove_where(&Selection::Pattern("model=l*".into())).await.unwrap(), 1);
    store.remove(&key(1)).await.unwrap();
    assert!(store.metadata(&key(1)).await.unwrap().is_none());

    let () = server.run(&["SET", "foreign", "x"]);
    let () = server.run(&["CONFIG", "RESETSTAT"]);
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.entries, usage.total_keys), (None, Some(server.keys().len() as u64)));
    assert!(usage.bytes.unwrap() > 100_000);
    let calls: String = server.run(&["INFO", "commandstats"]);
    assert!(!calls.contains("cmdstat_scan"), "{calls}");
}

#[tokio::test]
async fn after_shutdown_operations_fail_at_once_and_no_connection_is_left() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("x")).await);
    store.shutdown().await;
    assert!(store.get(&key(1)).await.unwrap_err().is_unavailable());
    crate::until(async || server.run::<String>(&["CLIENT", "LIST"]).lines().count() == 1).await;
}
