//! Slots that move from one primary to another, and primaries that are replaced: what is answered is right all the while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tower_response_cache::{
    key::Key,
    store::{Claim, LinkState, Selection, Store, Tiered},
};

use crate::{
    body,
    clusters::{self, Cluster},
    fill, key,
    outages::{Load, cache, impatient},
    patient, record,
    resp::Resp,
    server::Server,
    stored, tagged,
};

/// The name of the epoch of a key's bucket, which is in the slot of all that belongs to the key.
fn bucket(key: &Key) -> String {
    format!("t:{{{}}}", &key.to_string()[..2])
}

/// The slot of a key, who has it, and who is next to that.
fn whose<'a>(cluster: &'a Cluster, key: &Key) -> (usize, &'a Server, &'a Server) {
    let place = cluster.has(&bucket(key));
    let from = &cluster.primaries[place];
    (clusters::slot(from, &bucket(key)), from, &cluster.primaries[(place + 1) % 3])
}

/// Another key of the same bucket.
fn sibling(key: &Key, number: u8) -> Key {
    let mut bytes = *key.as_bytes();
    bytes[31] = number;
    Key::from_bytes(bytes)
}

fn errors(server: &Server, code: &str) -> u64 {
    let told: String = server.run(&["INFO", "errorstats"]);
    let count = told.lines().find_map(|line| line.strip_prefix(&format!("errorstat_{code}:count=")));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_slots_of_a_primary_move_under_load_no_request_fails_and_hits_go_on() {
    let cluster = Cluster::start();
    let store = impatient(cluster.url()).build().unwrap();
    let load = Load::on(&cache(&store));
    load.hits(500).await;
    let [from, to] = [&cluster.primaries[0], &cluster.primaries[1]];
    let mut moved = 0;
    for number in 0..256 {
        let name = format!("t:{{{number:02x}}}");
        if cluster.has(&name) == 0 {
            let slot = clusters::slot(from, &name);
            if from.run::<u64>(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]) > 0 {
                tokio::task::block_in_place(|| clusters::move_slot(slot, from, to));
                moved += 1;
            }
        }
    }
    assert!(moved > 5, "{moved}");
    load.answers(500).await;
    load.hits(500).await;
    load.end().await;
    assert!(from.records("t").is_empty() && errors(from, "MOVED") > 0);
    // Once it is known where they are, nobody is sent on.
    let store = patient(cluster.url()).build().unwrap();
    let before = errors(from, "MOVED");
    for number in 0..100 {
        store.get(&key(number)).await.unwrap();
    }
    assert_eq!(errors(from, "MOVED"), before);
    assert_eq!(store.status().state, LinkState::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_is_found_before_while_and_after_its_slot_moves_and_what_is_new_is_stored_when_it_has_moved() {
    let cluster = Cluster::start();
    let store = patient(cluster.url()).build().unwrap();
    let (one, new) = (key(1), sibling(&key(1), 1));
    assert!(fill(&store, &one, record("one")).await);
    let (slot, from, to) = whose(&cluster, &one);
    clusters::begin_to_move(slot, from, to);
    assert_eq!(stored(&store, &one).await.as_deref(), Some("one"), "still here");
    assert_eq!(stored(&store, &new).await, None);
    // Its epoch is here, and itself would be there.
    let seen = store.get(&new).await.unwrap().generation;
    assert!(store.put(&new, record("new"), seen).await.unwrap_err().is_refused());
    clusters::move_keys(slot, from, to);
    assert_eq!(stored(&store, &one).await.as_deref(), Some("one"), "there already");
    assert!(errors(from, "ASK") > 0 && errors(from, "TRYAGAIN") + errors(to, "TRYAGAIN") > 0);
    assert!(fill(&store, &one, record("replaced")).await, "all of its keys but the lease are there");
    clusters::end_to_move(slot, from, to);
    assert_eq!(stored(&store, &one).await.as_deref(), Some("replaced"));
    assert!(fill(&store, &new, record("new")).await);
    assert_eq!(stored(&store, &new).await.as_deref(), Some("new"));
    assert!(store.remove(&one).await.unwrap());
    assert_eq!(store.status().state, LinkState::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_misses_while_a_slot_moves_is_not_held_up_for_a_lease_of_it() {
    let cluster = Cluster::start();
    let store = patient(cluster.url()).build().unwrap();
    let new = key(1);
    let seen = store.get(&new).await.unwrap().generation;
    let (slot, from, to) = whose(&cluster, &new);
    clusters::begin_to_move(slot, from, to);
    for number in 1..=3 {
        assert!(store.claim(&new, seen, Duration::from_secs(60)).await.unwrap_err().is_refused());
        // It is not tried again.
        assert_eq!(errors(from, "TRYAGAIN") + errors(to, "TRYAGAIN"), number);
    }
    clusters::move_keys(slot, from, to);
    clusters::end_to_move(slot, from, to);
    assert!(matches!(store.claim(&new, seen, Duration::ZERO).await.unwrap(), Claim::Granted(..)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_finds_what_is_on_its_way_even_to_one_that_has_no_slots_yet_and_voids_fills() {
    let cluster = Cluster::start();
    let fresh = cluster.join();
    let mut moves = 0;
    for selection in [Selection::All, Selection::Pattern("model=m".into()), Selection::Tag("tag".into())] {
        for moved in ["the records", "half", "nothing", "all"] {
            // Each time, of a slot that did not move before.
            let one = key(moves);
            moves += 1;
            let (slot, from, _) = whose(&cluster, &one);
            // One that has heard of nothing yet.
            let store = patient(cluster.url()).build().unwrap();
            assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 0);
            for number in 0..20 {
                assert!(fill(&store, &sibling(&one, number), tagged("x", &["tag"], &[("model", "m")])).await);
            }
            let seen = store.get(&sibling(&one, 30)).await.unwrap().generation;
            clusters::begin_to_move(slot, from, &fresh);
            let before = fresh.keys().len();
            match moved {
                "nothing" => {}
                "the records" => {
                    // Whoever sets the epoch is not sent on.
                    let names: Vec<String> = from.run(&["KEYS", &format!("{}?*", bucket(&one))]);
                    clusters::migrate(&names, from, &fresh);
                    assert!(fresh.keys().len() >= before + 20);
                }
                "half" => {
                    let names: Vec<String> = from.run(&["KEYS", &format!("{}?*", bucket(&one))]);
                    clusters::migrate(&names[..10], from, &fresh);
                }
                _ => clusters::move_keys(slot, from, &fresh),
            }
            let sweeper = patient(cluster.url()).build().unwrap();
            assert_eq!(sweeper.remove_where(&selection).await.unwrap(), 20, "{selection:?} {moved}");
            clusters::move_keys(slot, from, &fresh);
            clusters::end_to_move(slot, from, &fresh);
            crate::until(async || store.get(&one).await.is_ok()).await;
            assert!(!store.put(&sibling(&one, 30), record("from before"), seen).await.unwrap(), "{selection:?} {moved}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_misses_nothing_while_slots_move_under_it() {
    let cluster = Cluster::start();
    let store = patient(cluster.url()).build().unwrap();
    // Some hundred keys in each of a few slots, which move from the server that is looked through last to the one that is first, or the other way.
    let buckets: Vec<Key> = (0..).map(key).filter(|key| cluster.has(&bucket(key)) == 2).take(8).collect();
    for one in &buckets {
        for number in 0..100 {
            assert!(fill(&store, &sibling(one, number), record("x")).await);
        }
    }
    let [first, last] = [&cluster.primaries[0], &cluster.primaries[2]];
    for round in 0..4 {
        let (from, to) = if round % 2 == 0 { (last, first) } else { (first, last) };
        let moving = async {
            tokio::task::block_in_place(|| {
                for one in &buckets {
                    clusters::move_slot(clusters::slot(from, &bucket(one)), from, to);
                }
            });
        };
        let sweeper = store.clone();
        let removing = tokio::spawn(async move { sweeper.remove_where(&Selection::All).await });
        moving.await;
        let removed = removing.await.unwrap();
        // Whether or not it got through, what it says is true: afterwards nothing is there that it should have found.
        if removed.is_ok() {
            for one in &buckets {
                for number in 0..100 {
                    assert_eq!(stored(&store, &sibling(one, number)).await, None, "in round {round}");
                }
            }
        }
        crate::until(async || store.remove_where(&Selection::All).await.is_ok()).await;
        // While nothing moves all are looked through once, and otherwise twice.
        let looks = async || {
            let _ = cluster.each::<()>(&["CONFIG", "RESETSTAT"]);
            assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 0);
            let told = cluster.each::<String>(&["INFO", "commandstats"]);
            told.iter().map(|told| told.contains("cmdstat_scan:calls=1,")).collect::<Vec<bool>>()
        };
        assert_eq!(looks().await, [true; 3]);
        let slot = clusters::slot(from, &bucket(&buckets[0]));
        clusters::begin_to_move(slot, to, from);
        assert_eq!(looks().await, [false; 3]);
        for server in [to, from] {
            let () = server.run(&["CLUSTER", "SETSLOT", &slot.to_string(), "STABLE"]);
        }
        for one in &buckets {
            for number in 0..100 {
                assert!(fill(&store, &sibling(one, number), record("x")).await);
            }
        }
    }
}

// Memory in front of it.

async fn tracked(url: impl Into<String>) -> Tiered {
    let store = Tiered::new(patient(url).build().unwrap(), 8 << 20);
    store.get(&key(999)).await.unwrap();
    crate::until(async || store.status().tracked).await;
    store
}

async fn read(store: &Tiered, key: &Key) -> Option<String> {
    body(store.get(key).await.unwrap())
}

/// Reads until the record is served from memory.
async fn warm(store: &Tiered, key: &Key) {
    crate::until(async || {
        let before = store.status().hits;
        store.get(key).await.is_ok_and(|found| found.record.is_some()) && store.status().hits > before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_heard_of_from_every_primary() {
    let cluster = Cluster::start();
    let other = patient(cluster.url()).build().unwrap();
    let store = tracked(cluster.url()).await;
    let keys: Vec<Key> = (0..30).map(key).collect();
    assert!((0..3).all(|place| keys.iter().any(|key| cluster.has(&bucket(key)) == place)));
    for one in &keys {
        assert!(fill(&other, one, record("before")).await);
        warm(&store, one).await;
    }
    for one in &keys {
        assert!(fill(&other, one, record("after")).await);
    }
    for one in &keys {
        crate::until(async || read(&store, one).await.as_deref() == Some("after")).await;
    }
    for one in &keys {
        warm(&store, one).await;
    }
    assert_eq!(other.remove_where(&Selection::All).await.unwrap(), 30);
    for one in &keys {
        crate::until(async || read(&store, one).await.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_slot_moves_and_afterwards_memory_is_right() {
    let cluster = Cluster::start();
    let fresh = cluster.join();
    let other = patient(cluster.url()).build().unwrap();
    let store = tracked(cluster.url()).await;
    let one = key(1);
    assert!(fill(&other, &one, record("first")).await);
    warm(&store, &one).await;
    let (slot, from, _) = whose(&cluster, &one);
    clusters::begin_to_move(slot, from, &fresh);
    clusters::move_keys(slot, from, &fresh);
    // It is read where it is going, and word of it comes from there.
    warm(&store, &one).await;
    assert!(fill(&other, &one, record("second")).await);
    crate::until(async || read(&store, &one).await.as_deref() == Some("second")).await;
    warm(&store, &one).await;
    clusters::end_to_move(slot, from, &fresh);
    assert!(fill(&other, &one, record("third")).await);
    crate::until(async || read(&store, &one).await.as_deref() == Some("third")).await;
    crate::until(async || store.status().tracked).await;
    warm(&store, &one).await;
    assert!(other.remove(&one).await.unwrap());
    crate::until(async || read(&store, &one).await.is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_primary_is_replaced_memory_is_dropped_and_word_comes_from_the_next() {
    let mut cluster = Cluster::nervous();
    let other = patient(cluster.url()).build().unwrap();
    let store = tracked(cluster.url()).await;
    let one = (0..).map(key).find(|key| cluster.has(&bucket(key)) == 0).unwrap();
    assert!(fill(&other, &one, record("before")).await);
    warm(&store, &one).await;
    let replaced = async |cluster: &Cluster, place: usize, text: &str| {
        let is_primary =
            |server: &Server| server.try_run::<String>(&["INFO", "replication"]).is_ok_and(|told| told.contains("role:master"));
        crate::until(async || is_primary([&cluster.replicas[0], &cluster.primaries[0]][place])).await;
        crate::until(async || {
            let Ok(found) = other.get(&one).await else { return false };
            matches!(other.put(&one, record(text.to_owned()), found.generation).await, Ok(true))
        })
        .await;
        crate::until(async || store.get(&one).await.ok().and_then(body).as_deref() == Some(text)).await;
        crate::until(async || store.status().tracked).await;
        warm(&store, &one).await;
    };
    // By one that dies, and comes back as the copy of its copy.
    cluster.primaries[0].kill();
    crate::until(async || !store.status().tracked).await;
    replaced(&cluster, 0, "after").await;
    cluster.primaries[0].restart();
    crate::until(async || cluster.primaries[0].run::<String>(&["INFO", "replication"]).contains("master_link_status:up")).await;
    // And then in peace, with no connection broken.
    let () = cluster.primaries[0].run(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    replaced(&cluster, 1, "in peace").await;
    assert!(other.remove(&one).await.unwrap());
    crate::until(async || read(&store, &one).await.is_none()).await;
}

#[tokio::test]
async fn a_server_that_answers_but_serves_no_more_proves_nothing() {
    for what in ["cut off from the others", "without one of its slots", "a replica by now"] {
        let (port, is_well) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(true)));
        let server = Resp::start({
            let (port, is_well) = (Arc::clone(&port), Arc::clone(&is_well));
            move |words| {
                let (port, is_well) = (port.load(Ordering::SeqCst), is_well.load(Ordering::SeqCst));
                let (role, last) = match what {
                    _ if is_well => ("master", 16_383),
                    "a replica by now" => ("slave", 16_383),
                    "without one of its slots" => ("master", 16_382),
                    _ => ("master", 16_383),
                };
                match (&*words[0], words.get(1).map_or(&b""[..], |word| word)) {
                    (b"HELLO", _) => b"%1\r\n$5\r\nproto\r\n:3\r\n".to_vec(),
                    (b"CLIENT", _) => b"+OK\r\n".to_vec(),
                    (b"CLUSTER", b"SLOTS") => format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n").into_bytes(),
                    (b"CLUSTER", _) => {
                        let line = format!("aa 127.0.0.1:{port}@1 myself,{role} - 0 0 1 connected 0-{last}\n");
                        format!("${}\r\n{line}\r\n", line.len()).into_bytes()
                    }
                    (b"GET", name) if !is_well && what == "cut off from the others" && name.ends_with(b":probe") => {
                        b"-CLUSTERDOWN The cluster is down\r\n".to_vec()
                    }
                    _ => b"$-1\r\n".to_vec(),
                }
            }
        })
        .await;
        port.store(usize::from(server.port()), Ordering::SeqCst);
        let url = server.url().replace("redis://", "redis-cluster://");
        let store = Tiered::new(patient(url).build().unwrap(), 1 << 20).heartbeat(Duration::from_millis(20));
        let _ = store.get(&key(1)).await;
        // Its proofs last long enough to be seen, and no longer.
        crate::until(async || store.status().tracked).await;
        let flushes = store.status().flushes;
        is_well.store(false, Ordering::SeqCst);
        crate::until(async || !store.status().tracked && store.status().flushes > flushes).await;
        let answered = server.commands();
        crate::until(async || server.commands() > answered + 10).await;
        assert!(!store.status().tracked, "{what}");
        is_well.store(true, Ordering::SeqCst);
        crate::until(async || store.status().tracked).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_removal_has_returned_nothing_older_is_seen_whatever_moves_meanwhile() {
    let cluster = Cluster::start();
    let store = tracked(cluster.url()).await;
    let one = key(1);
    let (slot, from, to) = whose(&cluster, &one);
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (store, done, one) = (store.clone(), Arc::clone(&done), one);
        async move {
            while !done.load(Ordering::SeqCst) {
                let _ = store.get(&one).await;
                tokio::task::yield_now().await;
            }
        }
    });
    for round in 0..200u32 {
        match round % 40 {
            10 => clusters::begin_to_move(slot, [from, to][(round / 40 % 2) as usize], [to, from][(round / 40 % 2) as usize]),
            20 => clusters::move_keys(slot, [from, to][(round / 40 % 2) as usize], [to, from][(round / 40 % 2) as usize]),
            30 => {
                clusters::move_keys(slot, [from, to][(round / 40 % 2) as usize], [to, from][(round / 40 % 2) as usize]);
                clusters::end_to_move(slot, [from, to][(round / 40 % 2) as usize], [to, from][(round / 40 % 2) as usize]);
            }
            _ => {}
        }
        let Ok(seen) = store.get(&one).await else { continue };
        // While half of the keys are here and half there, some of this is refused; then nothing has changed.
        let stored = store.put(&one, record(round.to_string()), seen.generation).await;
        if matches!(stored, Ok(true)) {
            assert_eq!(read(&store, &one).await, Some(round.to_string()), "an answer from before");
        }
        let removed = match round % 10 {
            0 => store.remove_where(&Selection::All).await.map(|_| ()),
            _ => store.remove(&one).await.map(|_| ()),
        };
        if removed.is_ok() {
            assert_eq!(read(&store, &one).await, None, "an answer from before its removal");
        }
    }
    done.store(true, Ordering::SeqCst);
    reader.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_hangs_is_no_reason_not_to_ask_the_others() {
    let cluster = Cluster::start();
    let (store, filler) = (impatient(cluster.url()).build().unwrap(), patient(cluster.url()).build().unwrap());
    let keys: Vec<Key> = (0..30).map(key).collect();
    for one in &keys {
        assert!(fill(&filler, one, record("there")).await);
    }
    // It knows where what is.
    crate::until(async || store.get(&keys[0]).await.is_ok()).await;
    let (of_it, of_others): (Vec<Key>, Vec<Key>) = keys.iter().partition(|key| cluster.has(&bucket(key)) == 0);
    cluster.primaries[0].freeze();
    crate::until(async || store.get(&of_it[0]).await.is_err_and(|error| error.is_unavailable())).await;
    assert_ne!(store.status().state, LinkState::Closed);
    let is_there = async |one: &Key| store.get(one).await.ok().and_then(body).as_deref() == Some("there");
    for one in &of_others {
        crate::until(async || is_there(one).await).await;
    }
    assert_ne!(store.status().state, LinkState::Closed, "for the first is away all the while");
    cluster.primaries[0].thaw();
    crate::until(async || store.status().state == LinkState::Closed).await;
    for one in &keys {
        crate::until(async || is_there(one).await).await;
    }
}
