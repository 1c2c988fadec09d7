//! Wrong bytes are never served, whoever wrote them, and are bounded.

use bytes::Bytes;
use tower_response_cache::{
    entry::record::{Compression, SealKeys},
    status::Outcome,
    store::{LinkState, Selection, Store},
};

use crate::{
    ask, body, fill, key, layer,
    origin::Origin,
    patient, post,
    proxy::{Proxy, Way},
    record,
    server::Server,
    stored, tagged,
};

#[tokio::test]
async fn values_that_were_swapped_are_misses_and_are_dropped() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("one")).await);
    assert!(fill(&store, &key(2), record("two")).await);
    let names = server.records("t");
    let [one, two] = names.as_slice() else { panic!("{names:?}") };
    let () = server.run(&["RENAME", one, "aside"]);
    let () = server.run(&["RENAME", two, one]);
    let () = server.run(&["RENAME", "aside", two]);
    for number in [1, 2] {
        assert!(store.get(&key(number)).await.unwrap_err().is_corrupt());
        assert_eq!(stored(&store, &key(number)).await, None, "the next look-up is a plain miss");
        assert!(fill(&store, &key(number), record("anew")).await);
    }
    assert_eq!(store.status().state, LinkState::Closed);
}

#[tokio::test]
async fn through_the_layer_swapped_values_are_counted_and_fetched_anew() {
    let server = Server::start();
    let layer = layer(patient(server.url()).build().unwrap());
    let (origin, handle) = (Origin::signed(), layer.handle());
    let cache = tower::Layer::layer(&layer, origin.clone());
    let (_, one) = ask(&cache, post("/one")).await;
    let (_, two) = ask(&cache, post("/two")).await;
    crate::until(async || server.records("t").len() == 2).await;
    let names = server.records("t");
    let () = server.run(&["RENAME", &names[0], "aside"]);
    let () = server.run(&["RENAME", &names[1], &names[0]]);
    let () = server.run(&["RENAME", "aside", &names[1]]);
    let (_, again) = ask(&cache, post("/one")).await;
    assert!(again.contains("/one") && again != one, "{again}");
    let (_, again) = ask(&cache, post("/two")).await;
    assert!(again.contains("/two") && again != two, "{again}");
    assert_eq!(handle.stats().await.corrupt, 2);
    // What was fetched anew was stored in the place of what was damaged.
    crate::until(async || handle.stats().await.stored == 4).await;
    for (path, body) in [("/one", one), ("/two", two)] {
        let (outcome, hit) = ask(&cache, post(path)).await;
        assert_eq!(outcome, Outcome::Hit, "{path}");
        assert_ne!(hit, body);
    }
    assert_eq!(origin.calls(), 4);
}

#[tokio::test]
async fn what_is_inserted_by_hand_takes_the_place_of_a_damaged_value() {
    let server = Server::start();
    let layer = layer(patient(server.url()).build().unwrap());
    let handle = layer.handle();
    let insert = async || {
        let request = post("/").map(|_| Bytes::new());
        handle.insert(&request, http::Response::new(Bytes::from("by hand")), None).await.unwrap().unwrap()
    };
    let key = insert().await;
    let name = server.records("t").remove(0);
    let () = server.run(&["SETRANGE", &name, "30", "damage"]);
    assert_eq!(insert().await, key);
    assert_eq!(handle.stats().await.corrupt, 1);
    assert!(handle.metadata(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_large_value_that_lost_its_end_is_dropped_and_replaced() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(fill(&store, &key(1), record(vec![b'x'; 200 << 10])).await);
    let name = server.records("t").remove(0);
    let value: Vec<u8> = redis::cmd("GETRANGE").arg(&name).arg(0).arg(150 << 10).query(&mut server.admin()).unwrap();
    let () = redis::cmd("SET").arg(&name).arg(value).query(&mut server.admin()).unwrap();
    assert!(store.get(&key(1)).await.unwrap_err().is_corrupt());
    assert!(fill(&store, &key(1), record("anew")).await);
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("anew"));
}

#[tokio::test]
async fn a_value_with_any_byte_flipped_missing_or_added_is_never_served() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("the body")).await);
    let name = server.records("t").remove(0);
    let mut admin = server.admin();
    let good: Vec<u8> = redis::cmd("GET").arg(&name).query(&mut admin).unwrap();
    let mut write = |value: &[u8]| redis::cmd("SET").arg(&name).arg(value).query::<()>(&mut admin).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        write(&bad);
        let lookup = store.get(&key(1)).await;
        // The number of the value says nothing of the record.
        if (4..12).contains(&at) {
            assert_eq!(body(lookup.unwrap()).as_deref(), Some("the body"));
        } else {
            assert!(lookup.unwrap_err().is_corrupt(), "byte {at}");
            assert_eq!(stored(&store, &key(1)).await, None);
        }
        write(&good[..at]);
        match store.get(&key(1)).await {
            Ok(lookup) => assert!(at == 0 && lookup.record.is_none()),
            Err(error) => assert!(error.is_corrupt(), "cut at {at}"),
        }
    }
    write(&[&good[..], b"!"].concat());
    assert!(store.get(&key(1)).await.unwrap_err().is_corrupt());
    write(&good);
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("the body"));
}

#[tokio::test]
async fn a_write_that_is_cut_at_any_byte_stores_nothing_or_all() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let healthy = patient(server.url()).build().unwrap();
    // The script is known from here on.
    assert!(fill(&healthy, &key(1), record("x")).await);
    let (mut cuts, mut done) = (0, false);
    while !done {
        cuts += 1;
        let target = key(1000 + cuts);
        let generation = healthy.get(&target).await.unwrap().generation;
        let store = patient(proxy.url()).build().unwrap();
        proxy.cut_after(Some(usize::try_from(cuts).unwrap()));
        let put = store.put(&target, record("whole"), generation).await;
        let found = stored(&healthy, &target).await;
        match put {
            Ok(stored) => {
                done = true;
                assert!(stored && found.as_deref() == Some("whole"));
            }
            // Cut after the last byte, it is there, though nobody was told.
            Err(error) => assert!(error.is_unavailable() && found.is_none_or(|body| body == "whole"), "{error}"),
        }
        assert!(cuts < 5000);
    }
    assert!(cuts > 200, "{cuts} is fewer bytes than the command has");
}

#[tokio::test]
async fn large_records_and_replies_in_single_bytes_arrive_whole() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let store = patient(server.url()).build().unwrap();
    // Around the length that is read at first, and far beyond it.
    for (number, len) in [65_000, 65_300, 65_400, 65_450, 65_500, 65_519, 65_520, 65_536, 65_537, 5 << 20].into_iter().enumerate() {
        let key = key(number as u64);
        let text: String = (0..len).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
        assert!(fill(&store, &key, record(text.clone())).await);
        assert!(stored(&store, &key).await.as_deref() == Some(&text), "{len}");
    }
    assert!(fill(&store, &key(100), record("in pieces")).await);
    proxy.set(Way::Split);
    let split = patient(proxy.url()).build().unwrap();
    assert_eq!(stored(&split, &key(100)).await.as_deref(), Some("in pieces"));
    assert!(fill(&split, &key(101), record("and written so")).await);
    assert_eq!(stored(&store, &key(101)).await.as_deref(), Some("and written so"));
}

#[tokio::test]
async fn a_record_over_the_bound_is_not_stored_and_breaks_nothing() {
    let server = Server::start();
    let store = patient(server.url()).max_record(100_000).build().unwrap();
    assert!(!fill(&store, &key(1), record(Bytes::from(vec![b'x'; 100_001]))).await);
    assert!(fill(&store, &key(1), record(Bytes::from(vec![b'x'; 90_000]))).await);
    assert!(store.get(&key(1)).await.unwrap().record.is_some());
}

#[tokio::test]
async fn of_a_giant_foreign_value_under_our_key_little_is_read() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let store = patient(proxy.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("ours")).await);
    let name = server.records("t").remove(0);
    let frame: Vec<u8> = redis::cmd("GETRANGE").arg(&name).arg(0).arg(11).query(&mut server.admin()).unwrap();
    // One that is nothing of ours, and one that pretends to be, with a length that is true.
    let lie = [&frame[..], &(200_u32 << 20).to_be_bytes()].concat();
    for beginning in [b"nothing of ours".to_vec(), lie] {
        let () = redis::cmd("SET").arg(&name).arg(&beginning).query(&mut server.admin()).unwrap();
        let () = redis::cmd("SETRANGE").arg(&name).arg((200 << 20) + 15).arg("x").query(&mut server.admin()).unwrap();
        let before = proxy.received();
        assert!(store.get(&key(1)).await.unwrap_err().is_corrupt());
        let read = proxy.received() - before;
        assert!(read < 100_000, "{read} bytes");
        assert_eq!(stored(&store, &key(1)).await, None);
        assert!(server.records("t").is_empty());
    }
}

#[tokio::test]
async fn a_value_of_another_type_is_a_miss_and_is_dropped() {
    let server = Server::start();
    let store = patient(server.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("ours")).await);
    let name = server.records("t").remove(0);
    let () = server.run(&["DEL", &name]);
    let () = server.run(&["LPUSH", &name, "an element"]);
    assert!(store.metadata(&key(1)).await.unwrap_err().is_corrupt());
    assert!(store.get(&key(1)).await.unwrap_err().is_corrupt());
    assert!(fill(&store, &key(1), record("again ours")).await);
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("again ours"));
}

#[tokio::test]
async fn a_damaged_value_that_was_replaced_in_the_meantime_is_not_dropped() {
    let server = Server::start();
    let proxy = Proxy::to(server.port()).await;
    let store = patient(server.url()).build().unwrap();
    assert!(fill(&store, &key(1), record("good")).await);
    let name = server.records("t").remove(0);
    let good: Vec<u8> = redis::cmd("GET").arg(&name).query(&mut server.admin()).unwrap();
    let () = server.run(&["SET", &name, "damaged"]);
    // The look-up sees the damage; its second command, which drops it, is held up until the good value is back.
    proxy.set(Way::Open);
    let slow = patient(proxy.url()).build().unwrap();
    let () = redis::cmd("CONFIG").arg("RESETSTAT").query(&mut server.admin()).unwrap();
    proxy.hold_after_reply();
    let reading = tokio::spawn({
        let slow = slow.clone();
        async move { slow.get(&key(1)).await }
    });
    proxy.held().await;
    let () = redis::cmd("SET").arg(&name).arg(&good).query(&mut server.admin()).unwrap();
    proxy.release();
    assert!(reading.await.unwrap().unwrap_err().is_corrupt());
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("good"));
}

#[tokio::test]
async fn what_redis_is_told_shows_nothing_of_requests() {
    let server = Server::start();
    let monitor = server.monitor();
    let cache =
        tower::Layer::layer(&layer(patient(server.url()).build().unwrap()), Origin::new(async |_| Ok(crate::origin::text("answer"))));
    let mut request = post("/path-canary?key=query-canary");
    request.headers_mut().insert("authorization", "Bearer header-canary".parse().unwrap());
    *request.body_mut() = http_body_util::Full::from("body-canary");
    ask(&cache, request).await;
    crate::until(async || !server.records("t").is_empty()).await;
    let told = monitor.finish();
    assert!(told.contains("EVAL") && told.contains("GETRANGE"), "{told}");
    assert!(!told.contains("canary"), "{told}");
}

#[tokio::test]
async fn sealed_records_show_nothing_and_what_another_puts_in_their_place_is_a_miss() {
    let server = Server::start();
    let sealing = |prefix: &str, id, key| patient(server.url()).prefix(prefix).seal(SealKeys::new(id, [key; 32])).build().unwrap();
    let store = sealing("t", 1, 1);
    let monitor = server.monitor();
    assert!(fill(&store, &key(1), tagged("canary body", &["canary tag"], &[("model", "canary model")])).await);
    assert!(!monitor.finish().contains("canary"));
    assert_eq!(stored(&store, &key(1)).await.as_deref(), Some("canary body"));
    assert_eq!(store.metadata(&key(1)).await.unwrap().unwrap().metadata.labels[0].1, "canary model");
    let name = server.records("t").remove(0);
    let genuine: Vec<u8> = server.run(&["GET", &name]);

    // Whoever can write there writes what the store would take if it were not sealed, or what another key or place sealed.
    let others = [patient(server.url()).build().unwrap(), sealing("t", 1, 2), sealing("t", 2, 1)];
    for other in others {
        let () = server.run(&["DEL", &name]);
        assert!(fill(&other, &key(1), record("forged")).await);
        assert!(store.get(&key(1)).await.unwrap_err().is_corrupt());
        assert_eq!(stored(&store, &key(1)).await, None);
    }
    assert!(fill(&sealing("elsewhere", 1, 1), &key(1), record("from elsewhere")).await);
    let () = server.run(&["RENAME", &server.records("elsewhere")[0], &name]);
    assert!(store.get(&key(1)).await.unwrap_err().is_corrupt());
    for cut in [17, 60, genuine.len() - 1] {
        redis::cmd("SET").arg(&name).arg(&genuine[..cut]).query::<()>(&mut server.admin()).unwrap();
        assert!(store.get(&key(1)).await.unwrap_err().is_corrupt());
    }
    assert!(fill(&store, &key(1), record("anew")).await);
    assert_eq!(store.remove_where(&Selection::All).await.unwrap(), 1);
}

#[tokio::test]
async fn compressed_records_take_less_room_and_are_read_by_those_who_do_not_compress() {
    let server = Server::start();
    let at = |compression| patient(server.url()).compression(compression).build().unwrap();
    let (plain, compressing) = (at(Compression::Off), at(Compression::Auto));
    let text = "all work and no play makes jack a dull boy. ".repeat(3000);
    let size = |server: &Server| server.run::<usize>(&["STRLEN", &server.records("t")[0]]);
    assert!(fill(&plain, &key(1), record(text.clone())).await);
    let whole = size(&server);
    assert!(fill(&compressing, &key(1), record(text.clone())).await);
    assert!(size(&server) < whole / 20, "{} of {whole}", size(&server));
    for store in [&plain, &compressing] {
        assert_eq!(stored(store, &key(1)).await.as_deref(), Some(text.as_str()));
        assert_eq!(store.metadata(&key(1)).await.unwrap().unwrap().body_len, text.len() as u64);
    }
    assert_eq!(compressing.remove_where(&Selection::Pattern(format!("{}*", key(1)))).await.unwrap(), 1);
}
