//! In a Cluster everything is as with one server, whatever moves where and whoever dies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tower_response_cache::{
    status::Outcome,
    store::{
        LinkState, Redis, Selection, Store, Tiered,
        contract::{self, Subject},
    },
};

use crate::{
    ask,
    clusters::{self, Cluster},
    fill, key,
    outages::{Load, cache, impatient},
    patient, post,
    proxy::{Proxy, Way},
    record,
    resp::Resp,
    server::Server,
    settings::PERMISSIONS,
    stored, tagged,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_keeps_the_contract_in_a_cluster() {
    let cluster = Cluster::start();
    let made = AtomicUsize::new(0);
    contract::run(async || {
        let prefix = format!("contract-{}", made.fetch_add(1, Ordering::SeqCst));
        Subject::new(patient(cluster.url()).prefix(prefix).lease(Some(crate::contract::LEASE)).build().unwrap()).with_live_streams()
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
        let store = Tiered::new(patient(cluster.url()).prefix(prefix).lease(Some(crate::contract::LEASE)).build().unwrap(), 64 << 20);
        store.get(&key(0)).await.unwrap();
        crate::until(async || store.status().tracked).await;
        Subject::new(store).with_live_streams()
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
    let store = patient(cluster.url()).build().unwrap();
    for number in 0..30 {
        assert!(fill(&store, &key(number), record("after")).await);
        assert_eq!(stored(&store, &key(number)).await.as_deref(), Some("after"));
    }
}

async fn filled(store: &Redis, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let model = if number % 2 == 0 { "even" } else { "odd" };
        assert!(fill(store, &key(number), tagged(format!("{number}"), &[&format!("by three: {}", number % 3)], &[("model", model)])).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_finds_and_counts_what_it_names_on_all_primaries_and_leaves_what_is_others() {
    let cluster = Cluster::start();
    let (store, other) = (patient(cluster.url()).build().unwrap(), patient(cluster.url()).prefix("other").build().unwrap());
    filled(&store, 0..600).await;
    filled(&other, 0..60).await;
    for primary in &cluster.primaries {
        assert!(primary.records("t").len() > 50, "there is something to find on each");
        // Scripts are forgotten, and told again.
        let () = primary.run(&["SCRIPT", "FLUSH"]);
    }
    let usage = store.usage().await.unwrap();
    let keys = cluster.each::<u64>(&["DBSIZE"]).iter().sum();
    assert_eq!(usage.total_keys, Some(keys));
    let least: u64 = cluster.each::<String>(&["INFO", "memory"]).iter().map(|info| used_memory(info)).min().unwrap();
    assert!(usage.bytes.unwrap() > 2 * least, "{usage:?}");

    assert_eq!(store.remove_where(&Selection::Tag("by three: 0".into())).await.unwrap(), 200);
    assert_eq!(store.remove_where(&Selection::Tag("by three: 0".into())).await.unwrap(), 0);
    assert_eq!(store.remove_where(&Selection::Pattern("model=o?d".into())).await.unwrap(), 200);
    for primary in &cluster.primaries {
        let () = primary.run(&["SCRIPT", "FLUSH"]);
    }
    assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 200);
    assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 0);
    assert_eq!(stored(&other, &key(5)).await.as_deref(), Some("5"));

    // What is in sets without being there is dropped, on each.
    for name in cluster.keys("other:{??}?*") {
        let () = cluster.primaries[cluster.has(&name)].run(&["DEL", &name]);
    }
    for bucket in 0..256 {
        let name = format!("other:{{{bucket:02x}}}");
        let () = cluster.primaries[cluster.has(&name)].run(&["SET", &name, "12345678"]);
    }
    assert_eq!(other.cleanup().await.unwrap(), 60);
}

fn used_memory(info: &str) -> u64 {
    info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_removes_a_record_voids_fills_that_are_on_their_way_on_each_primary() {
    let cluster = Cluster::start();
    let store = patient(cluster.url()).build().unwrap();
    for selection in [Selection::All, Selection::Tag("tag".into()), Selection::Pattern("model=*".into())] {
        let mut seen = Vec::new();
        for number in 0..30 {
            seen.push(store.get(&key(number)).await.unwrap().generation);
        }
        assert_eq!(store.remove_where(&selection).await.unwrap(), 0);
        for (number, seen) in seen.into_iter().enumerate() {
            assert!(!store.put(&key(number as u64), record("from before"), seen).await.unwrap(), "{number} {selection:?}");
        }
    }
    assert_eq!(cluster.keys("t:{??}?*").len(), 0);
    // The epochs are on all of them.
    assert!(cluster.primaries.iter().all(|primary| primary.keys().len() > 50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_removal_by_tag_trusts_no_index() {
    let cluster = Cluster::start();
    let store = patient(cluster.url()).build().unwrap();
    filled(&store, 0..60).await;
    crate::until(async || cluster.replicas.iter().zip(&cluster.primaries).all(|(copy, of)| copy.keys().len() == of.keys().len())).await;
    // As if the replica of one primary had missed the last of the index, which is elsewhere than what it names.
    let set = cluster.keys("t:tag:*").remove(0);
    let place = cluster.has(&set);
    let members: u64 = cluster.primaries[place].run(&["ZCARD", &set]);
    assert_eq!(members, 20);
    let () = cluster.replicas[place].run(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    crate::until(async || cluster.replicas[place].try_run::<u64>(&["DEL", &set]).is_ok()).await;
    crate::until(async || cluster.primaries[place].run::<String>(&["INFO", "replication"]).contains("role:slave")).await;
    let mut removed = 0;
    for number in 0..3 {
        removed += store.remove_where(&Selection::Tag(format!("by three: {number}"))).await.unwrap();
    }
    assert_eq!(removed, 60);
}

#[tokio::test]
async fn sums_of_several_processes_are_kept_in_a_cluster() {
    let cluster = Cluster::start();
    crate::analytics::all_tell_the_same(&cluster.url()).await;
    let names = cluster.keys("*");
    assert!(names.len() > 3 && names.iter().all(|name| name.starts_with("t:{sums}:")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_cancellations_cross_no_replies_of_a_cluster() {
    let cluster = Cluster::start();
    crate::cancellation::cross_no_replies(&cluster.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_load_in_a_cluster_is_answered_with_what_is_ones_own_and_not_too_old() {
    let cluster = Cluster::start();
    crate::history::under_a_random_load(&cluster.url()).await;
}

#[tokio::test]
async fn after_shutdown_no_connection_to_any_server_is_left() {
    let cluster = Cluster::start();
    let store = Tiered::new(patient(cluster.url()).build().unwrap(), 1 << 20);
    store.get(&key(1)).await.unwrap();
    crate::until(async || store.status().tracked).await;
    filled(store.redis(), 0..30).await;
    store.shutdown().await;
    assert!(store.get(&key(1)).await.unwrap_err().is_unavailable());
    // Replicas are clients of their primaries.
    let clients = |server: &Server| server.run::<String>(&["CLIENT", "LIST", "TYPE", "NORMAL"]).lines().count();
    crate::until(async || cluster.all().all(|server| clients(server) == 1)).await;
}

#[tokio::test]
async fn servers_of_the_url_that_are_away_do_not_matter_as_long_as_one_is_there() {
    let mut cluster = Cluster::start();
    let hole = Proxy::to(cluster.primaries[0].port()).await;
    hole.set(Way::BlackHole);
    let dead = format!("redis-cluster://127.0.0.1:1,{},127.0.0.1:{}", hole.address(), cluster.replicas[0].port());
    let store = patient(dead).build().unwrap();
    filled(&store, 0..30).await;
    assert!(cluster.each::<Vec<String>>(&["KEYS", "t:{??}?*"]).iter().all(|names| !names.is_empty()));
    // Nor does it when the one that told of the others leaves.
    cluster.replicas[0].kill();
    assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 30);
}

#[tokio::test]
async fn a_cluster_out_of_reach_fails_no_request_and_is_found_when_it_is_there() {
    let cluster = Cluster::start();
    let proxy = Proxy::to(cluster.primaries[0].port()).await;
    let not_one = Server::start();
    for way in [Way::Refuse, Way::BlackHole] {
        proxy.set(way);
        let url = format!("redis-cluster://{},127.0.0.1:{}", proxy.address(), not_one.port());
        let store = impatient(url).connect_deadline(Duration::from_millis(100)).build().unwrap();
        let cache = cache(&store);
        crate::until(async || {
            assert!(matches!(ask(&cache, post("/")).await.0, Outcome::Miss(_)));
            store.status().state != LinkState::Closed
        })
        .await;
        // From now on at once: nothing moves, but for those who ask whether it is there.
        let dials = store.status().dials;
        for number in 0..1000 {
            assert!(store.get(&key(number)).await.unwrap_err().is_unavailable());
        }
        let status = store.status();
        assert!(status.dials - dials < 20 && status.last_error.is_some(), "{status:?}");
        proxy.set(Way::Open);
        crate::until(async || {
            ask(&cache, post("/")).await;
            ask(&cache, post("/")).await.0 == Outcome::Hit
        })
        .await;
        assert_eq!(store.status().state, LinkState::Closed);
        store.remove_where(&Selection::All).await.unwrap();
        store.shutdown().await;
    }
}

#[tokio::test]
async fn one_server_that_is_no_cluster_is_told_apart() {
    let server = Server::start();
    let store = patient(format!("redis-cluster://127.0.0.1:{}", server.port())).build().unwrap();
    assert!(store.get(&key(1)).await.unwrap_err().is_unavailable());
    assert_eq!(store.status().last_error, Some("not a cluster"));
}

#[tokio::test]
async fn servers_that_send_from_one_to_the_other_for_ever_end_within_bounds() {
    for told in ["MOVED", "ASK", "TRYAGAIN"] {
        let port = Arc::new(AtomicUsize::new(0));
        let server = Resp::start({
            let port = Arc::clone(&port);
            move |words| {
                let port = port.load(Ordering::SeqCst);
                match &*words[0] {
                    b"CLUSTER" => format!("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n").into_bytes(),
                    b"ASKING" => b"+OK\r\n".to_vec(),
                    _ => format!("-{told} {} 127.0.0.1:{port}\r\n", slot(&words[1..])).into_bytes(),
                }
            }
        })
        .await;
        port.store(usize::from(server.port()), Ordering::SeqCst);
        let store = patient(server.url().replace("redis://", "redis-cluster://")).build().unwrap();
        store.get(&key(1)).await.unwrap_err();
        assert!(store.remove(&key(1)).await.unwrap_err().is_refused());
        assert!(server.commands() < 80, "{told}: {}", server.commands());
        // Requests pass.
        assert!(ask(&cache(&store), post("/")).await.1.starts_with("call 1 "));
    }
}

/// The slot of the first word that may be the name of a key of ours, by another's reckoning.
fn slot(words: &[Vec<u8>]) -> u16 {
    let name = words.iter().find(|word| word.starts_with(b"t:{")).map_or(&b""[..], |word| &word[3..5]);
    let mut crc = 0u16;
    for bit in name.iter().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1 == 1)) {
        crc = (crc << 1) ^ if (crc & 0x8000 != 0) == bit { 0 } else { 0x1021 };
    }
    crc % 16_384
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_permissions_are_enough_in_a_cluster() {
    let cluster = Cluster::start();
    let source = include_str!("../../src/store/redis/mod.rs").replace("\n//! ", " ");
    let further = "+cluster|slots +cluster|nodes +asking";
    assert!(source.contains(&format!("In a Cluster, `{further}` as well")), "the documentation says something else");
    let mut command = vec!["ACL", "SETUSER", "cache", "on", ">password", "~trc:*", "+client|tracking", "+ping"];
    command.extend(PERMISSIONS.split(' ').chain(further.split(' ')));
    for server in cluster.all() {
        let () = server.run(&command);
    }
    let store = Tiered::new(patient(cluster.url_with("redis-cluster://cache:password@")).prefix("trc").build().unwrap(), 1 << 20);
    store.get(&key(1)).await.unwrap();
    crate::until(async || store.status().tracked).await;
    filled(store.redis(), 0..30).await;
    // Half of them on their way.
    let bucket = format!("trc:{{{}}}", &key(1).to_string()[..2]);
    let [from, to] = [cluster.has(&bucket), (cluster.has(&bucket) + 1) % 3].map(|place| &cluster.primaries[place]);
    let slot = clusters::slot(from, &bucket);
    clusters::begin_to_move(slot, from, to);
    clusters::move_keys(slot, from, to);
    assert_eq!(stored(store.redis(), &key(1)).await.as_deref(), Some("1"));
    assert_eq!(store.remove_where(&Selection::Pattern("model=even".into())).await.unwrap(), 15);
    assert_eq!(store.remove_where(&Selection::Tag("by three: 1".into())).await.unwrap(), 5);
    assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 10);
    // What was removed otherwise than by tag is still in the sets.
    assert_eq!(store.cleanup().await.unwrap(), 20);
    assert!(store.usage().await.unwrap().bytes.is_some());
    let refused: u64 =
        cluster.each::<String>(&["INFO", "errorstats"]).iter().map(|info| info.matches("errorstat_NOPERM").count() as u64).sum();
    assert_eq!(refused, 0);
    assert_eq!(store.redis().refused_writes(), 0);
}
