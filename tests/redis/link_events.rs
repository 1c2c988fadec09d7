//! Observers hear how the way to Redis changes, in order, for as long as there is a cache.

use std::sync::{Arc, Mutex};

use tower::Layer;
use tower_response_cache::{
    ApiPolicy, Cache, CacheLayer, Sharing,
    observe::Event,
    store::{BoxStore, Redis, Store, Tiered},
};

use crate::{origin::Origin, outages::impatient, post, server::Server};

type Heard = Arc<Mutex<Vec<(&'static str, Option<&'static str>)>>>;

fn listening<St: Store>(store: St) -> (Heard, Cache<Origin, St, ApiPolicy>) {
    let heard = Heard::default();
    let hears = Arc::clone(&heard);
    let layer = CacheLayer::new(store, ApiPolicy::new(Sharing::Shared)).observer(move |event: &Event<'_>| {
        if let Event::Link(link) = event {
            hears.lock().unwrap().push((link.state, link.last_error));
        }
    });
    (heard, layer.layer(Origin::signed()))
}

async fn asked<St: Store>(cache: &Cache<Origin, St, ApiPolicy>, path: &str) {
    use http_body_util::BodyExt as _;
    let answer = tower::ServiceExt::oneshot(cache.clone(), post(path)).await.unwrap();
    answer.into_body().collect().await.unwrap();
}

async fn outage<St: Store>(make: impl Fn(Redis) -> St) {
    let mut server = Server::start();
    let (heard, cache) = listening(make(impatient(server.url()).build().unwrap()));
    asked(&cache, "/").await;
    assert!(heard.lock().unwrap().is_empty(), "a link that was never open has not changed");
    server.kill();
    let last = |state| heard.lock().unwrap().last().is_some_and(|(last, _)| *last == state);
    let mut path = 0;
    while heard.lock().unwrap().is_empty() {
        path += 1;
        asked(&cache, &format!("/{path}")).await;
    }
    server.restart();
    crate::until(async || last("closed")).await;

    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard[0].0, "open");
    assert!(heard.iter().all(|(_, error)| error.is_some()), "{heard:?}");
    for pair in heard.windows(2) {
        assert!(matches!((pair[0].0, pair[1].0), ("open", "probing") | ("probing", "open" | "closed") | ("closed", "open")), "{heard:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_told_from_its_beginning_to_its_end() {
    outage(|redis| redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_through_memory_and_a_box() {
    outage(|redis| BoxStore::new(Tiered::new(redis, 1 << 20))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_caches_on_one_store_hear_and_one_that_is_gone_is_forgotten() {
    let mut server = Server::start();
    let store = impatient(server.url()).build().unwrap();
    let (one, cache) = listening(store.clone());
    let (two, other) = listening(store.clone());
    let (gone, dropped) = listening(store.clone());
    drop(dropped);
    asked(&cache, "/").await;
    server.kill();
    let mut path = 0;
    while one.lock().unwrap().is_empty() {
        path += 1;
        asked(&cache, &format!("/{path}")).await;
    }
    server.restart();
    crate::until(async || [&one, &two].iter().all(|heard| heard.lock().unwrap().last().is_some_and(|(state, _)| *state == "closed"))).await;
    assert_eq!(*one.lock().unwrap(), *two.lock().unwrap());
    assert!(gone.lock().unwrap().is_empty());
    assert_eq!(Arc::strong_count(&gone), 1, "nothing keeps the observers of a cache that is gone");
    drop(other);
}
