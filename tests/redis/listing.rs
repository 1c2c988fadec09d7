//! Listing reads what it has to, a page at a time, and nothing of others.

use std::collections::HashSet;

use bytes::Bytes;
use tower_response_cache::store::{Redis, Store};

use crate::{fill, key, patient, server::Server, tagged};

/// All keys that pages of 20 name, and how many pages it took.
async fn listed(store: &Redis) -> (HashSet<String>, usize) {
    let (mut keys, mut pages, mut cursor) = (HashSet::new(), 0, None);
    loop {
        let page = store.list(cursor.as_ref(), 20).await.unwrap();
        keys.extend(page.entries.iter().map(|entry| entry.key.to_string()));
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            return (keys, pages);
        }
    }
}

fn sent(server: &Server) -> u64 {
    let info: String = server.run(&["INFO", "stats"]);
    let line = info.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).unwrap();
    line.parse().unwrap()
}

#[tokio::test]
async fn pages_read_no_bodies() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    for number in 0..40 {
        assert!(fill(&store, &key(number), tagged(Bytes::from(vec![b'x'; 1 << 20]), &[], &[])).await);
    }
    let before = sent(&server);
    let (keys, pages) = listed(&store).await;
    assert_eq!(keys.len(), 40);
    assert!(pages >= 2, "a page of 20 holds no 40: {pages}");
    let read = sent(&server) - before;
    // The beginnings of 40 values, and some of them more than once.
    assert!(read < 1 << 20, "{read} bytes were read to list 40 entries");
}

#[tokio::test]
async fn among_keys_of_others_pages_go_on_until_all_of_ours_are_named() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    let () = server.run(&["DEBUG", "POPULATE", "100000", "other", "8"]);
    for number in 0..30 {
        assert!(fill(&store, &key(number), tagged("short", &[], &[])).await);
    }
    // Ours by name, but none of ours.
    let () = server.run(&["SET", &server.records("t")[0].replace(['0', '1', '2', '3'], "4"), "foreign"]);
    let () = server.run(&["SADD", &store_name(&server), "foreign"]);
    let (keys, pages) = listed(&store).await;
    assert_eq!(keys, (0..30).map(|number| key(number).to_string()).collect::<HashSet<_>>());
    assert!(pages <= 200, "{pages} pages for 100,000 keys");
}

/// The name of a record that does not exist.
fn store_name(server: &Server) -> String {
    let taken = server.records("t");
    let name = taken[0].replace("5a5a", "5b5b");
    assert!(!taken.contains(&name));
    name
}
