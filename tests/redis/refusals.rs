//! What the server says decides what is done about it.

use std::time::Duration;

use tower_response_cache::{
    observe::TracingObserver,
    store::{LinkState, Redis, Selection, Store},
};

use crate::{ask, fill, key, layer, log::Log, origin::Origin, patient, post, record, resp::Resp, server::Server, stored, tagged, until};

/// Asks as often as would open any breaker that counts.
async fn ask_often(store: &Redis) {
    for _ in 0..20 {
        store.get(&key(1)).await.unwrap_err();
    }
}

#[tokio::test]
async fn a_server_that_says_it_is_of_no_use_is_not_asked_again_but_by_probes() {
    for error in [
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "READONLY You can't write against a read only replica.",
        "BUSY Redis is busy running a script.",
        "NOAUTH Authentication required.",
    ] {
        let server = Resp::refusing(error).await;
        let store = patient(server.url()).build().unwrap();
        ask_often(&store).await;
        let status = store.status();
        assert_ne!(status.state, LinkState::Closed, "{error}");
        assert_eq!((status.opened, status.last_error), (1, error.split(' ').next()));
        assert_eq!(store.get(&key(1)).await.unwrap_err().label(), "unavailable");
        // One look-up, of two commands; perhaps some probes.
        let dials = usize::try_from(store.status().dials).unwrap();
        assert!(server.commands() <= 2 + dials && dials < 10, "{} commands, {dials} connections", server.commands());
    }
}

#[tokio::test]
async fn an_operation_that_is_refused_says_nothing_of_the_others() {
    for error in [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "NOPERM no",
        "MOVED 1 127.0.0.1:1",
        "CROSSSLOT no",
        "ERR no",
        "MISCONF no",
    ] {
        let server = Resp::refusing(error).await;
        let store = patient(server.url()).build().unwrap();
        for _ in 0..20 {
            assert!(store.get(&key(1)).await.unwrap_err().is_refused());
        }
        let status = store.status();
        assert_eq!((status.state, status.opened), (LinkState::Closed, 0), "{error}");
        assert_eq!(server.accepted(), 2, "no connection is made anew");
    }
}

#[tokio::test]
async fn what_does_not_speak_the_protocol_is_an_outage_and_its_words_are_not_repeated() {
    let server = Resp::start(|_| b"HTTP/1.1 400 canary\r\n\r\n".to_vec()).await;
    let store = patient(server.url()).build().unwrap();
    for _ in 0..20 {
        let error = store.get(&key(1)).await.unwrap_err();
        assert!(error.is_unavailable() && !format!("{error:?}").contains("canary"), "{error:?}");
    }
    assert_ne!(store.status().state, LinkState::Closed);
}

#[tokio::test]
async fn every_refusal_passes_requests_through_the_layer() {
    for error in [
        "OOM no",
        "WRONGTYPE no",
        "READONLY no",
        "LOADING no",
        "MOVED 1 127.0.0.1:1",
        "CLUSTERDOWN no",
        "NOSCRIPT no",
        "NOAUTH no",
        "NOPERM no",
        "CROSSSLOT no",
        "MASTERDOWN no",
        "TRYAGAIN no",
        "ERR no",
    ] {
        let server = Resp::refusing(error).await;
        let origin = Origin::signed();
        let cache = tower::Layer::layer(&layer(patient(server.url()).build().unwrap()), origin.clone());
        for number in 1..=10 {
            assert!(ask(&cache, post("/")).await.1.starts_with(&format!("call {number} ")), "{error}");
        }
    }
}

#[tokio::test]
async fn a_full_redis_is_read_and_not_written() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("there")).await);
    let seen = store.get(&key(2)).await.unwrap().generation;
    let () = server.run(&["CONFIG", "SET", "maxmemory", "1"]);
    for _ in 0..20 {
        assert!(store.put(&key(2), record("no room"), seen).await.unwrap_err().is_refused());
        assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("there"));
    }
    // A bucket without an epoch is read as well, although none can be made.
    assert_eq!(stored(&store, &key(3)).await, None);
    assert_eq!((store.refused_writes(), store.status().state), (20, LinkState::Closed));
    let () = server.run(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(store.put(&key(2), record("room"), seen).await.unwrap());
}

#[tokio::test]
async fn what_is_removed_from_a_full_redis_is_removed_and_voids_fills() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    let selections = [None, Some(Selection::All), Some(Selection::Tag("tag".into())), Some(Selection::Pattern("model=*".into()))];
    for (number, selection) in selections.into_iter().enumerate() {
        let (there, missing) = (key(2 * number as u64), key(2 * number as u64 + 1));
        assert!(fill(&store, &there, tagged("old", &["tag"], &[("model", "m")])).await);
        let seen = [store.get(&there).await.unwrap().generation, store.get(&missing).await.unwrap().generation];
        let () = server.run(&["CONFIG", "SET", "maxmemory", "1"]);
        match &selection {
            None => {
                assert!(store.remove(&there).await.unwrap());
                assert!(!store.remove(&missing).await.unwrap());
            }
            Some(selection) => assert_eq!(store.remove_where(selection).await.unwrap(), 1, "{selection:?}"),
        }
        assert_eq!(stored(&store, &there).await, None, "{selection:?}");
        let () = server.run(&["CONFIG", "SET", "maxmemory", "0"]);
        for (key, seen) in [there, missing].iter().zip(seen) {
            assert!(!store.put(key, record("from before"), seen).await.unwrap(), "{selection:?}");
            assert!(fill(&store, key, record("from after")).await, "{selection:?}");
            store.remove(key).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_user_who_may_not_write_reads_and_tries_to_write_only_seldom() {
    let server = Server::start();
    let all = patient(server.url()).build().unwrap();
    assert!(fill(&all, &key(1), record("there")).await);
    let () = server.run(&["ACL", "SETUSER", "reader", "on", ">secret", "~t:*", "+get", "+getrange"]);
    let reader = patient(format!("redis://reader:secret@127.0.0.1:{}/0", server.port())).build().unwrap();
    let seen = reader.get(&key(1)).await.unwrap().generation;
    for _ in 0..20 {
        assert!(reader.put(&key(1), record("mine"), seen).await.unwrap_err().is_refused());
    }
    assert_eq!(reader.refused_writes(), 1, "the others were not tried");
    assert_eq!(stored(&reader, &key(1)).await.as_deref(), Some("there"));
    assert_eq!(reader.status().state, LinkState::Closed);
}

#[tokio::test]
async fn what_a_script_may_not_do_is_refused_as_what_a_command_may_not() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.writer()).finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let server = Server::start();
    let all = patient(server.url()).build().unwrap();
    assert!(fill(&all, &key(1), record("there")).await);
    // It may call scripts, and they may not write: neither at all, nor under a key of ours.
    for (keys, more) in [("~t:*", "+pexpire"), ("%R~t:*", "+set")] {
        let () = server.run(&[
            "ACL",
            "SETUSER",
            "reader",
            "reset",
            "on",
            ">secret",
            keys,
            more,
            "+get",
            "+getrange",
            "+evalsha",
            "+script|load",
        ]);
        let reader = patient(format!("redis://reader:secret@127.0.0.1:{}/0", server.port())).build().unwrap();
        let seen = reader.get(&key(1)).await.unwrap().generation;
        for _ in 0..20 {
            assert!(reader.put(&key(1), record("mine"), seen).await.unwrap_err().is_refused());
        }
        assert_eq!(reader.refused_writes(), 1, "the others were not tried");
        assert_eq!(stored(&reader, &key(1)).await.as_deref(), Some("there"));
        assert_eq!(reader.status().state, LinkState::Closed);
        let said = log.take();
        for expected in ["redis refuses operations reason=\"NOPERM\"", "redis does not permit writes"] {
            assert_eq!(said.matches(expected).count(), 1, "{said}");
        }
        assert!(!said.contains("reason=\"error\""), "{said}");
    }
}

#[tokio::test]
async fn what_is_refused_is_said_once_and_counted_each_time() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.writer()).finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let said = || {
        let log = log.take();
        log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let server = Server::start();
    let () = server.run(&["ACL", "SETUSER", "reader", "on", ">secret", "~t:*", "+get", "+getrange"]);
    let full = patient(server.url()).build().unwrap();
    let barred = patient(format!("redis://reader:secret@127.0.0.1:{}/0", server.port())).build().unwrap();
    // Epochs cannot be made where nothing can be written, and nothing is tried without.
    for number in 0..20 {
        let handle = layer(full.clone()).handle();
        handle.get(&post(&format!("/{number}")).map(|_| bytes::Bytes::new())).await.unwrap();
    }
    let () = server.run(&["CONFIG", "SET", "maxmemory", "1"]);
    for (store, expected) in [
        (full, &["redis refuses operations reason=\"OOM\""][..]),
        (barred, &["redis refuses operations reason=\"NOPERM\"", "redis does not permit writes"]),
    ] {
        let layer = layer(store).observer(TracingObserver);
        let cache = tower::Layer::layer(&layer, Origin::signed());
        for number in 0..20 {
            ask(&cache, post(&format!("/{number}"))).await;
        }
        let handle = layer.handle();
        // Neither a lease nor a record is had.
        until(async || handle.stats().await.store_errors == 40).await;
        let said = said();
        let is_expected = said.iter().zip(expected).all(|(line, expected)| line.contains(expected));
        assert!(said.len() == expected.len() && is_expected, "{said:?}");
    }
}

#[tokio::test]
async fn a_replica_opens_the_breaker_and_what_became_primary_closes_it() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("there")).await);
    let seen = store.get(&key(2)).await.unwrap().generation;
    let () = server.run(&["REPLICAOF", "127.0.0.1", "1"]);
    assert!(store.put(&key(2), record("x"), seen).await.unwrap_err().is_unavailable());
    assert_ne!(store.status().state, LinkState::Closed);
    // Probes write, for a replica answers all else.
    let dials = store.status().dials;
    crate::until(async || store.status().dials > dials + 1).await;
    assert!(store.get(&key(1)).await.is_err());
    let () = server.run(&["REPLICAOF", "NO", "ONE"]);
    crate::until(async || store.get(&key(1)).await.is_ok()).await;
    assert_eq!(store.status().opened, 1);
    assert!(store.put(&key(2), record("x"), seen).await.unwrap());
}

#[tokio::test]
async fn a_script_that_the_server_forgot_is_told_again() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    for number in 0..3 {
        assert!(fill(&store, &key(number), record("x")).await);
        assert!(store.remove(&key(number)).await.unwrap());
        let () = server.run(&["SCRIPT", "FLUSH"]);
    }
    let () = server.run(&["CONFIG", "RESETSTAT"]);
    for number in 10..20 {
        assert!(fill(&store, &key(number), record("x")).await);
    }
    let stats: String = server.run(&["INFO", "commandstats"]);
    let calls = |command: &str| {
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:"))).unwrap_or_default().to_owned();
        line.split("calls=").nth(1).and_then(|rest| rest.split(',').next().map(str::to_owned)).unwrap_or_else(|| "0".to_owned())
    };
    assert_eq!((calls("script|load").as_str(), calls("evalsha").as_str()), ("1", "11"), "{stats}");
}

#[tokio::test]
async fn what_is_beyond_the_bounds_in_flight_fails_at_once_and_is_counted() {
    let server = Server::start();
    let store = Redis::builder(server.url()).prefix("t").max_operations(8).read_deadline(Duration::from_secs(20)).build().unwrap();
    store.get(&key(1)).await.unwrap();
    server.freeze();
    let waiting: Vec<_> = (0..8)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.get(&key(number)).await })
        })
        .collect();
    crate::until(async || store.status().in_flight == 8).await;
    for _ in 0..100 {
        assert!(store.get(&key(1)).await.unwrap_err().is_unavailable());
    }
    assert_eq!((store.status().rejected, store.status().in_flight), (100, 8));
    assert_eq!(store.status().state, LinkState::Closed, "this is no outage");
    server.thaw();
    for operation in waiting {
        operation.await.unwrap().unwrap();
    }
}
