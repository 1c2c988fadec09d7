//! Settings that make no sense are said at once, and secrets are not.

use tower_response_cache::store::{Redis, Store};

use crate::{fill, key, patient, record, server::Server, stored};

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
    for url in ["redis://127.0.0.1:1/0", "redis://no-such-host.invalid/0", "redis+unix:///no/such/socket"] {
        let store = Redis::connect(url).unwrap();
        assert_eq!(store.status().dials, 0);
    }
}

#[test]
fn what_is_printed_shows_no_password() {
    let builder = Redis::builder("redis://user:canary@127.0.0.1:1/0");
    let store = builder.clone().build().unwrap();
    assert!(!format!("{builder:?} {store:?} {:?}", store.status()).contains("canary"));
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
