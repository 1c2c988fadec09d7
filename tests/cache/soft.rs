//! What operators ask for: a cache that changes nothing, lifetimes that do not end together, answers that say there is nothing, and a warm start.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tower::Layer;
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheOptions, Mode, Sharing,
    policy::NotStored,
    status::{Miss, Outcome},
    store::{Memory, Store as _},
};

use crate::{
    ask, layer,
    origin::{Origin, text},
    outcome, post, read, send,
    store::{Fault, Scripted},
    until_flown,
};

fn asked(body: impl Into<Bytes>) -> Request<Bytes> {
    Request::post("http://origin/").header("content-type", "text/plain").body(body.into()).unwrap()
}

#[tokio::test]
async fn a_read_only_cache_serves_what_is_there_and_writes_nothing() {
    let store = Scripted::new(Memory::new(1 << 20));
    let (puts, origin) = (Arc::clone(&store.puts), Origin::signed());
    let filling = CacheLayer::new(store.clone(), ApiPolicy::new(Sharing::Shared));
    assert!(filling.handle().insert(&asked("known"), Response::new("stored".into()), None).await.unwrap().is_ok());
    assert_eq!(puts.load(Ordering::SeqCst), 1);

    let reading = CacheLayer::new(store.clone(), ApiPolicy::new(Sharing::Shared)).read_only(true);
    let (handle, cache) = (reading.handle(), reading.layer(origin.clone()));
    assert_eq!(ask(&cache, post("/", "known")).await, (Outcome::Hit, "stored".into()));
    for n in 1..=2 {
        let (outcome, body) = ask(&cache, post("/", "unknown")).await;
        assert_eq!(outcome, Outcome::Miss(Miss::Absent));
        assert!(body.starts_with(&format!("call {n} ")), "{body}");
    }
    // A refresh would be of no use to anyone: it bypasses.
    let mut refresh = post("/", "known");
    refresh.extensions_mut().insert(CacheOptions::new().mode(Mode::WriteOnly));
    let answer = send(&cache, refresh).await;
    assert_eq!(answer.headers()["cache-status"], "tower-response-cache; fwd=bypass; detail=off");
    read(answer).await;
    assert_eq!(ask(&cache, post("/", "known")).await, (Outcome::Hit, "stored".into()));
    assert_eq!(handle.insert(&asked("more"), Response::new("x".into()), None).await.unwrap(), Err(NotStored::ReadOnly));
    while handle.stats().await.not_stored < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!((puts.load(Ordering::SeqCst), handle.stats().await.stored), (1, 0));
    // What is to go, goes.
    assert_eq!(handle.invalidate_request(&asked("known")).await.unwrap(), 1);
}

#[tokio::test]
async fn jitter_shortens_lifetimes_by_less_than_its_fraction_and_never_lengthens_them() {
    const TTL: Duration = Duration::from_secs(1000);
    for (fraction, least) in [(0.2, 800), (1.0, 0), (7.0, 0), (f64::NAN, 1000), (-1.0, 1000), (0.0, 1000)] {
        let layer = CacheLayer::new(Memory::new(8 << 20), ApiPolicy::new(Sharing::Shared).ttl(TTL)).ttl_jitter(fraction);
        let (handle, cache) = (layer.handle(), layer.layer(Origin::signed()));
        let mut seen = HashSet::new();
        for n in 0..40 {
            let request = asked(n.to_string());
            if n % 2 == 0 {
                ask(&cache, post("/", n.to_string())).await;
                until_flown(&handle).await;
            } else {
                assert!(handle.insert(&request, Response::new("x".into()), None).await.unwrap().is_ok());
            }
            let entry = handle.metadata(&handle.keys(&request).unwrap()[0]).await.unwrap().unwrap();
            let lives = entry.lifetime.fresh_for;
            assert!(lives <= TTL && lives >= Duration::from_secs(least) && !lives.is_zero(), "{lives:?} with {fraction}");
            seen.insert((n % 2, lives));
        }
        let expected = if least == 1000 { 2..=2 } else { 30..=40 };
        assert!(expected.contains(&seen.len()), "{} lifetimes with {fraction}", seen.len());
    }
}

#[tokio::test]
async fn answers_that_say_there_is_nothing_are_stored_for_their_own_time_at_most() {
    let origin = Origin::new(|call| async move {
        let status: u16 = call.head.uri.path()[1..].parse().unwrap();
        let mut response = text(format!("call {}", call.number));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(response)
    });
    let all = [404, 410, 400, 401, 403, 408, 429, 500, 502, 503, 504].map(|status| StatusCode::from_u16(status).unwrap());
    let cap = Duration::from_secs(30);
    let policy = ApiPolicy::new(Sharing::Shared).stale_if_error(cap).stale_while_revalidate(cap).negative(all, cap);
    let layer = CacheLayer::new(Memory::new(1 << 20), policy);
    let (handle, cache) = (layer.handle(), layer.layer(origin));
    for status in all {
        let path = format!("/{}", status.as_u16());
        for asked in [None, Some(Duration::from_secs(3600)), Some(Duration::from_secs(5))] {
            let request = || {
                let mut request = post(&path, format!("{asked:?}"));
                if let Some(ttl) = asked {
                    request.extensions_mut().insert(CacheOptions::new().ttl(ttl));
                }
                request
            };
            let answer = send(&cache, request()).await;
            assert_eq!((outcome(&answer), answer.status()), (Outcome::Miss(Miss::Absent), status));
            read(answer).await;
            until_flown(&handle).await;
            let is_stored = matches!(status.as_u16(), 404 | 410);
            let answer = send(&cache, request()).await;
            assert_eq!((outcome(&answer) == Outcome::Hit, answer.status()), (is_stored, status));
            read(answer).await;
            until_flown(&handle).await;
            if is_stored {
                let request = Request::post(format!("http://origin{path}")).header("content-type", "text/plain").body(format!("{asked:?}"));
                let key = handle.keys(&request.unwrap()).unwrap()[0];
                let lifetime = handle.metadata(&key).await.unwrap().unwrap().lifetime;
                assert_eq!(lifetime.fresh_for, asked.map_or(cap, |asked| asked.min(cap)));
                assert_eq!(lifetime.expires(), lifetime.since + lifetime.fresh_for, "it is never served stale");
            }
        }
    }
    // Nobody opted in: nothing is stored.
    let layer = crate::layer();
    let (handle, cache) = (
        layer.handle(),
        layer.layer(Origin::new(|_| async {
            let mut response = text("nothing".to_owned());
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok(response)
        })),
    );
    ask(&cache, post("/", "")).await;
    until_flown(&handle).await;
    assert_eq!(ask(&cache, post("/", "")).await.0, Outcome::Miss(Miss::Absent));
}

#[tokio::test]
async fn many_answers_are_stored_some_at_a_time_and_counted() {
    let layer = layer();
    let handle = layer.handle();
    let taken = Arc::new(AtomicUsize::new(0));
    let answers = (0..100).map({
        let taken = Arc::clone(&taken);
        move |n| {
            taken.fetch_add(1, Ordering::SeqCst);
            let mut response = Response::new(Bytes::from(format!("answer {n}")));
            if n % 10 == 0 {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            let request = if n == 1 { Request::get("http://origin/").body(Bytes::new()).unwrap() } else { asked(n.to_string()) };
            (request, response, None)
        }
    });
    let warmed = handle.insert_many(answers, 8).await;
    assert_eq!((warmed.stored, warmed.not_stored, warmed.failed), (89, 10, 1));
    assert_eq!(warmed.first_reason, Some(NotStored::Status));
    assert!(warmed.first_error.unwrap().is_unsupported());
    let cache = layer.layer(Origin::signed());
    assert_eq!(ask(&cache, post("/", "42")).await, (Outcome::Hit, "answer 42".into()));
}

#[tokio::test]
async fn no_more_answers_are_taken_than_are_being_stored() {
    let permits = Arc::new(tokio::sync::Semaphore::new(0));
    let store = Scripted::new(Memory::new(1 << 20)).on_put(Fault::Waits(Arc::clone(&permits)));
    let handle = CacheLayer::new(store.clone(), ApiPolicy::new(Sharing::Shared)).handle();
    let taken = Arc::new(AtomicUsize::new(0));
    let answers = (0..50).map({
        let taken = Arc::clone(&taken);
        move |n: i32| {
            taken.fetch_add(1, Ordering::SeqCst);
            (asked(n.to_string()), Response::new(Bytes::from_static(b"x")), None)
        }
    });
    let warming = tokio::spawn(async move { handle.insert_many(answers, 4).await });
    crate::calm().await;
    assert_eq!(taken.load(Ordering::SeqCst), 4, "the store has not confirmed one yet");
    permits.add_permits(1000);
    assert_eq!(warming.await.unwrap().stored, 50);
    assert_eq!(store.usage().await.unwrap().entries, Some(50));
}
