//! The parts of one's own. The contract suite proves the store.

use tower_response_cache::{Clock, store::contract};

use crate::program::run;

#[path = "../../examples/custom/store.rs"]
mod store;

#[tokio::test]
async fn custom_parts_do_what_they_say() {
    let said = run("custom", &[]).await.join("\n");
    // The second of two equal requests finds the answer stored, or still on its way there.
    assert_eq!(said.replace("collapsed", "hit"), "{\"bypass\": 1, \"hit\": 1, \"miss\": 4}\n2 stored, 2 not, $0.005 saved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_custom_store_keeps_the_contract_of_stores() {
    contract::run(async || {
        let clock = Clock::movable();
        contract::Subject::new(store::Newest::new(256 << 20, clock.clone())).clock(clock)
    })
    .await;
}

#[tokio::test]
async fn the_custom_store_stays_within_its_bound_and_forgets_the_oldest() {
    use tower_response_cache::{
        entry::{Entry, Frames, Lifetime, Metadata, Record},
        key::Key,
        store::Store,
    };
    let store = store::Newest::new(10_000, Clock::system());
    let lifetime = Lifetime::fresh(std::time::SystemTime::now(), std::time::Duration::from_secs(60));
    let body = Frames::from(bytes::Bytes::from_static(&[7; 1000]));
    let entry = Entry {
        status: http::StatusCode::OK,
        headers: http::HeaderMap::new(),
        body,
        trailers: None,
        lifetime,
        metadata: Metadata::default(),
    };
    let record = Record::Response(std::sync::Arc::new(entry));
    for n in 0..100 {
        let key = Key::from_bytes([n; 32]);
        let generation = store.get(&key).await.unwrap().generation;
        assert!(store.put(&key, record.clone(), generation).await.unwrap());
        assert!(store.usage().await.unwrap().bytes.unwrap() <= 10_000);
    }
    assert!(store.get(&Key::from_bytes([0; 32])).await.unwrap().record.is_none());
    assert!(store.get(&Key::from_bytes([99; 32])).await.unwrap().record.is_some());
}
