//! The index of tags: it finds all that it should, costs what is found and not what is stored, and does not grow without end.

use std::{sync::Arc, time::Duration};

use tower_response_cache::{
    Clock,
    key::Key,
    store::{Redis, Selection, Store},
};

use crate::{fill, key, patient, proxy::Proxy, record, server::Server, stored, tagged};

fn tag(name: &str) -> Selection {
    Selection::Tag(name.to_owned())
}

/// The names of all sets, and how many members each has.
fn sets(server: &Server) -> Vec<(String, u64)> {
    let names: Vec<String> = server.run(&["KEYS", "t:tag:*"]);
    names.into_iter().map(|name| (name.clone(), server.run(&["ZCARD", &name]))).collect()
}

fn members(server: &Server) -> u64 {
    sets(server).iter().map(|(_, count)| count).sum()
}

#[tokio::test]
async fn removal_by_tag_looks_at_nothing_that_does_not_carry_it() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    for number in 0..200 {
        let tags: &[&str] = if number < 3 { &["few"] } else { &["many"] };
        assert!(fill(&store, &key(number), tagged("x", tags, &[])).await);
    }
    let monitor = server.monitor();
    assert_eq!(store.remove_where(&tag("few")).await.unwrap(), 3);
    let told = monitor.finish();
    assert!(told.contains("\"ZSCAN\"") && !told.contains("\"SCAN\""), "{told}");
    let looked_at = told.lines().filter(|line| line.contains("lua") && line.contains("\"GETRANGE\"")).count();
    assert_eq!(looked_at, 3, "{told}");
    assert_eq!(store.remove_where(&tag("many")).await.unwrap(), 197);
    assert_eq!(members(&server), 0);
}

#[tokio::test]
async fn a_record_whose_writer_had_to_write_twice_is_removed_by_tag_though_a_removal_began_in_between() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let (near, far) = (patient(server.url()).build().unwrap(), patient(proxy.url()).build().unwrap());
    // All its connections are there.
    for number in 10..20 {
        assert!(fill(&far, &key(number), tagged("x", &["other"], &[])).await);
    }
    let seen = far.get(&key(1)).await.unwrap().generation;
    proxy.delay(Duration::from_millis(500));
    let writing = tokio::spawn(async move { far.put(&key(1), tagged("old", &["tag"], &[]), seen).await });
    let name = format!("t:{{01}}{}", &key(1).to_string()[2..]);
    crate::until(async || server.run::<bool>(&["EXISTS", &name])).await;
    // Its writer is not told so: the connection breaks, and it tries again. Before that, someone began to remove.
    let () = server.run(&["SET", "t:{01}", "anything"]);
    proxy.delay(Duration::ZERO);
    proxy.reset();
    assert!(writing.await.unwrap().unwrap(), "it was stored");
    assert_eq!(near.remove_where(&tag("tag")).await.unwrap(), 1);
    assert_eq!(stored(&near, &key(1)).await, None);
}

#[tokio::test]
async fn no_command_has_much_to_do_though_all_that_is_removed_be_in_one_bucket() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    let key = |number: u64| {
        let mut bytes = [0x5a; 32];
        bytes[24..].copy_from_slice(&number.to_le_bytes());
        Key::from_bytes(bytes)
    };
    let () = server.run(&["CONFIG", "SET", "slowlog-log-slower-than", "0", "slowlog-max-len", "10000"]);
    for selection in [tag("tag"), Selection::Pattern("model=m*".into()), Selection::All] {
        for number in 0..1200 {
            assert!(fill(&store, &key(number), tagged("x", &["tag"], &[("model", "m")])).await);
        }
        let () = server.run(&["SLOWLOG", "RESET"]);
        assert_eq!(store.remove_where(&selection).await.unwrap(), 1200);
        let told: Vec<Vec<redis::Value>> = server.run(&["SLOWLOG", "GET", "-1"]);
        let words = |name: &str| -> Vec<Vec<String>> {
            let words = |entry: &Vec<redis::Value>| redis::from_redis_value::<Vec<Vec<u8>>>(entry[3].clone()).unwrap();
            let text = |words: Vec<Vec<u8>>| words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            told.iter().map(words).map(text).filter(|words: &Vec<String>| words[0] == name).collect()
        };
        let keys: Vec<usize> = words("EVALSHA").iter().map(|words| words[2].parse().unwrap()).collect();
        assert!(keys.iter().sum::<usize>() >= 1200 && keys.iter().all(|keys| *keys <= 251), "{selection:?}: {keys:?}");
        for words in words("ZREM") {
            // After thirty, it says how many more there were.
            let more = words.last().and_then(|last| last.strip_prefix("... (")?.split(' ').next()?.parse::<usize>().ok());
            let members = words.len() - 2 + more.map_or(0, |more| more - 1);
            assert!(members <= 250, "{selection:?}: {members}");
        }
    }
}

#[tokio::test]
async fn what_a_tag_says_is_not_to_be_seen_in_names() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(fill(&store, &key(1), tagged("x", &["customer: canary"], &[])).await);
    assert!(server.keys().iter().all(|name| !String::from_utf8_lossy(name).contains("canary")));
}

#[tokio::test]
async fn a_record_that_is_refused_or_replaced_leaves_no_member() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    let seen = store.get(&key(1)).await.unwrap().generation;
    for _ in 0..10 {
        assert!(fill(&store, &key(1), tagged("x", &["one", "two"], &[])).await);
    }
    assert!(!store.put(&key(1), tagged("late", &["one", "two"], &[]), seen).await.unwrap());
    assert_eq!(sets(&server).iter().map(|(_, count)| *count).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(store.remove_where(&tag("one")).await.unwrap(), 1);
    assert_eq!(store.remove_where(&tag("two")).await.unwrap(), 0);
}

#[tokio::test]
async fn a_fill_that_stops_between_tag_and_record_does_not_escape() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let other = patient(server.url()).build().unwrap();
    let slow = Arc::new(patient(proxy.url()).max_connections(1).build().unwrap());
    // The scripts are known, and so it is the record that is held.
    assert!(fill(&slow, &key(0), tagged("x", &["tag"], &[])).await);
    assert_eq!(other.remove_where(&tag("tag")).await.unwrap(), 1);

    let seen = slow.get(&key(1)).await.unwrap().generation;
    proxy.hold_after_reply();
    let putting = tokio::spawn({
        let slow = Arc::clone(&slow);
        async move { slow.put(&key(1), tagged("from before", &["tag"], &[]), seen).await.unwrap() }
    });
    proxy.held().await;
    assert_eq!(members(&server), 1, "the tag is there, the record is not");
    assert_eq!(other.remove_where(&tag("tag")).await.unwrap(), 0);
    proxy.release();
    assert!(!putting.await.unwrap());
    assert_eq!(stored(&other, &key(1)).await, None);
    assert_eq!(members(&server), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_fills_and_removals_meet_no_record_escapes_its_tag() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    let fills: Vec<_> = (0..4u64)
        .map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..150u64 {
                    let key = key((task + round) % 8);
                    let seen = store.get(&key).await.unwrap().generation;
                    let _ = store.put(&key, tagged("x", &["tag"], &[]), seen).await.unwrap();
                }
            })
        })
        .collect();
    for round in 0..60 {
        match round % 3 {
            0 => store.remove_where(&tag("tag")).await.unwrap(),
            1 => store.remove_where(&tag("another")).await.unwrap(),
            _ => store.cleanup().await.unwrap(),
        };
    }
    for fill in fills {
        fill.await.unwrap();
    }
    let left = server.records("t").len() as u64;
    let counted = store.remove_where(&tag("tag")).await.unwrap();
    for number in 0..8 {
        assert_eq!(stored(&store, &key(number)).await, None, "{counted} of {left} were removed");
    }
}

#[tokio::test]
async fn cleanup_drops_members_whose_record_is_gone_and_no_others() {
    let server = Server::start();
    let clock = Clock::movable();
    let store = patient(server.url()).fill_bound(Duration::from_secs(60)).clock(clock.clone()).build().unwrap();
    for number in 0..4 {
        assert!(fill(&store, &key(number), tagged("x", &["tag"], &[])).await);
    }
    assert_eq!(store.cleanup().await.unwrap(), 0);
    // Gone without a word, as by eviction. Its fill may be on its way still, as far as anyone knows.
    let names = server.records("t");
    let () = server.run(&["DEL", &names[0]]);
    assert_eq!(store.cleanup().await.unwrap(), 0);
    // Now it cannot be any more.
    store.remove_where(&tag("another")).await.unwrap();
    assert_eq!(store.cleanup().await.unwrap(), 1);
    assert_eq!((members(&server), store.cleanup().await.unwrap()), (3, 0));
    // Expired by any clock.
    clock.advance(Duration::from_secs(600 + 61));
    assert_eq!(store.cleanup().await.unwrap(), 3);
    assert_eq!(sets(&server), []);
}

#[tokio::test]
async fn sets_expire_after_the_last_that_they_name_and_drop_what_expired() {
    let server = Server::start();
    let clock = Clock::movable();
    let store = patient(server.url()).fill_bound(Duration::from_secs(60)).clock(clock.clone()).build().unwrap();
    for number in 0..40 {
        assert!(fill(&store, &key(number), tagged("for ten minutes", &["tag"], &[])).await);
    }
    let name = sets(&server).remove(0).0;
    let left: i64 = server.run(&["PTTL", &name]);
    assert!((600_000..=660_000).contains(&left), "{left}");
    clock.advance(Duration::from_secs(700));
    // Sixteen are dropped for each that is added.
    for number in 100..103 {
        assert!(fill(&store, &key(number), tagged_now(&clock)).await);
    }
    assert_eq!(members(&server), 3);
}

fn tagged_now(clock: &Clock) -> tower_response_cache::entry::Record {
    let tower_response_cache::entry::Record::Response(mut entry) = tagged("x", &["tag"], &[]) else { unreachable!() };
    Arc::make_mut(&mut entry).lifetime.since = clock.now();
    tower_response_cache::entry::Record::Response(entry)
}

#[tokio::test]
async fn a_server_that_evicted_is_looked_through_for_the_set_may_be_gone() {
    let server = Server::start();
    let store: Redis = patient(server.url()).build().unwrap();
    // Something of another's is evicted.
    let () = server.run(&["SELECT", "0"]);
    let () = server.run(&["SET", "foreign", &"x".repeat(100_000)]);
    let () = server.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "1"]);
    let _ = redis::cmd("SET").arg("other").arg("x").query::<()>(&mut server.admin());
    let () = server.run(&["CONFIG", "SET", "maxmemory", "0"]);
    for number in 0..3 {
        assert!(fill(&store, &key(number), tagged("x", &["tag"], &[])).await);
    }
    assert!(fill(&store, &key(9), record("without")).await);
    let (name, _) = sets(&server).remove(0);
    let () = server.run(&["DEL", &name]);
    assert_eq!(store.remove_where(&tag("tag")).await.unwrap(), 3);
    assert_eq!(stored(&store, &key(9)).await.as_deref(), Some("without"));
}
