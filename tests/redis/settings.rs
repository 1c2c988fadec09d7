//! Settings that make no sense are said at once, and secrets are not.

use tower_response_cache::store::{Redis, Selection, Store};

use crate::{fill, key, patient, record, server::Server, stored, tagged};

#[test]
fn a_url_that_makes_no_sense_is_an_error_that_does_not_show_it() {
    for url in ["", "canary", "http://canary@host", "redis://user:canary@host:port", "redis://:canary@host/x/y/database", "redis://[canary"]
    {
        let error = Redis::connect(url).unwrap_err();
        assert!(error.is_config(), "{url}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
}

#[test]
fn a_redis_that_cannot_be_reached_stops_nobody_and_no_runtime_is_needed_to_start() {
    for url in [
        "redis://127.0.0.1:1/0",
        "redis://no-such-host.invalid/0",
        "redis+unix:///no/such/socket",
        "redis-cluster://127.0.0.1:1,no-such-host.invalid",
    ] {
        let store = Redis::connect(url).unwrap();
        assert_eq!(store.status().dials, 0);
    }
}

#[test]
fn what_is_printed_shows_no_password() {
    for url in [
        "redis://user:canary@127.0.0.1:1/0",
        "redis-sentinel://user:canary@127.0.0.1:1/main?sentinel-password=canary",
        "redis-cluster://user:canary@127.0.0.1:1,127.0.0.1:2",
    ] {
        let builder = Redis::builder(url);
        let store = builder.clone().build().unwrap();
        assert!(!format!("{builder:?} {store:?} {:?}", store.status()).contains("canary"));
    }
}

#[tokio::test]
async fn passwords_databases_and_users_are_honoured() {
    let server = Server::start_with(&["--requirepass", "open sesame"]);
    let at = |credentials: &str, database: u8| format!("redis://{credentials}127.0.0.1:{}/{database}", server.port());
    let store = patient(at(":open%20sesame@", 3)).build().unwrap();
    assert!(fill(&store, &key(1), record("in the third")).await);
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("in the third"));
    let elsewhere = patient(at(":open%20sesame@", 4)).build().unwrap();
    assert_eq!(stored(&elsewhere, &key(1)).await, None);
    for wrong in ["", ":canary@"] {
        let store = patient(at(wrong, 0)).build().unwrap();
        let error = store.get(&key(1)).await.unwrap_err();
        assert!(error.is_refused() || error.is_unavailable(), "{error}");
        assert!(matches!(store.status().last_error, Some("NOAUTH" | "authentication failed")), "{:?}", store.status());
        assert_eq!(store.status().opened, 1, "one word is enough");
        assert!(!format!("{error:?}").contains("canary"));
    }
}

/// As the documentation of the module has it.
pub const PERMISSIONS: &str = "+get +set +getrange +unlink +type +scan +zadd +zrem +zrange +zscan +xadd +xlen +xrange +exists +pexpire +pttl +evalsha +script|load +dbsize +info";

#[tokio::test]
async fn the_published_permissions_are_enough() {
    let server = Server::start();
    let source = include_str!("../../src/store/redis/mod.rs").replace("\n//! ", " ");
    assert!(source.contains(&format!("`ACL SETUSER cache on >password ~trc:* {PERMISSIONS}`")), "the documentation says something else");
    let mut command = vec!["ACL", "SETUSER", "cache", "on", ">password", "~trc:*"];
    command.extend(PERMISSIONS.split(' '));
    let () = server.run(&command);
    let store = patient(format!("redis://cache:password@127.0.0.1:{}/0", server.port())).prefix("trc").build().unwrap();
    assert!(fill(&store, &key(1), record("small")).await);
    assert!(fill(&store, &key(2), record(vec![b'x'; 1 << 20])).await);
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("small"));
    assert!(store.get(&key(2)).await.unwrap().record.is_some());
    assert!(store.metadata(&key(2)).await.unwrap().is_some());
    assert!(store.remove(&key(1)).await.unwrap());
    assert!(fill(&store, &key(3), record("damaged")).await);
    for name in server.records("trc") {
        let () = server.run(&["SETRANGE", &name, "30", "damage"]);
    }
    assert!(store.get(&key(3)).await.unwrap_err().is_corrupt());
    assert_eq!(stored(&store, &key(3)).await, None, "it was dropped");
    assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 1);
    assert_eq!(store.remove_where(&Selection::Pattern("x".into())).await.unwrap(), 0);
    assert!(fill(&store, &key(4), tagged("tagged", &["tag"], &[])).await);
    assert_eq!(store.cleanup().await.unwrap(), 0);
    assert_eq!(store.remove_where(&Selection::Tag("tag".into())).await.unwrap(), 1);
    let usage = store.usage().await.unwrap();
    assert!(usage.bytes.is_some() && usage.total_keys.is_some());
    // And for probes.
    let () = server.run(&["REPLICAOF", "127.0.0.1", "1"]);
    store.remove(&key(1)).await.unwrap_err();
    let () = server.run(&["REPLICAOF", "NO", "ONE"]);
    crate::until(async || store.get(&key(1)).await.is_ok()).await;
}

#[cfg(not(feature = "redis-tls"))]
#[test]
fn tls_that_is_not_built_in_is_said_at_once() {
    let error = Redis::connect("rediss://:canary@host").unwrap_err();
    assert!(error.is_config() && error.to_string().contains("redis-tls"), "{error}");
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("redis.sock");
    let _server = Server::start_with(&["--unixsocket", socket.to_str().unwrap()]);
    let store = patient(format!("redis+unix://{}", socket.display())).build().unwrap();
    assert!(fill(&store, &key(1), record("by socket")).await);
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("by socket"));
}

#[tokio::test]
async fn one_connection_is_enough_and_no_more_are_made_than_allowed() {
    let server = Server::start();
    for (allowed, expected) in [(1, 1), (2, 2), (3, 3), (50, 4)] {
        let store = patient(server.url()).max_connections(allowed).build().unwrap();
        for number in 0..10 {
            store.remove(&key(number)).await.unwrap();
            assert!(fill(&store, &key(number), record("x")).await);
        }
        assert_eq!(store.status().dials, expected, "of {allowed}");
        store.shutdown().await;
    }
}

#[tokio::test]
async fn a_read_only_cache_takes_no_lease_and_runs_no_script() {
    for read_only in [false, true] {
        let server = Server::start();
        let cache =
            tower::Layer::layer(&crate::layer(patient(server.url()).build().unwrap()).read_only(read_only), crate::Origin::signed());
        let monitor = server.monitor();
        for path in ["/a", "/b", "/a"] {
            crate::ask(&cache, crate::post(path)).await;
        }
        if !read_only {
            crate::until(async || server.records("t").len() == 2).await;
        }
        let said = monitor.finish().to_lowercase();
        assert!(said.contains("getrange"), "{said}");
        // What it does not do it is seen to do elsewhere.
        assert_eq!(said.contains("evalsha"), !read_only, "{said}");
        assert_eq!(said.contains(":lease"), !read_only, "{said}");
        assert_eq!(server.records("t").len(), if read_only { 0 } else { 2 });
    }
}
