//! In axum: whole routers, routes, nested routers, one method of a route; and what handlers ask for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{OriginalUri, State},
    routing::{get, post},
};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tower::ServiceExt;
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheStatus, Clock, Sharing, StoreOptions,
    status::Outcome,
    store::{Memory, Selection},
};

fn policy() -> ApiPolicy {
    ApiPolicy::new(Sharing::Shared).methods([Method::GET])
}

fn layer() -> CacheLayer<Memory, ApiPolicy> {
    CacheLayer::new(Memory::new(1 << 20), policy())
}

/// Answers with its number.
#[derive(Clone, Default)]
struct Calls(Arc<AtomicUsize>);

impl Calls {
    fn next(&self) -> String {
        (self.0.fetch_add(1, Ordering::SeqCst) + 1).to_string()
    }
}

async fn number(State(calls): State<Calls>) -> String {
    calls.next()
}

async fn ask(app: &Router, method: Method, path: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let answer = app.clone().oneshot(request).await.unwrap();
    let (status, body) = (answer.status(), answer.into_body().collect().await.unwrap().to_bytes());
    // The commit of what was just read is a task that is ready to run.
    tokio::task::yield_now().await;
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn read(app: &Router, path: &str) -> String {
    ask(app, Method::GET, path).await.1
}

#[tokio::test]
async fn a_layer_on_a_router_covers_its_routes_and_its_fallback() {
    let app = Router::new().route("/a", get(number)).fallback(number).layer(layer()).with_state(Calls::default());
    for (path, expected) in [("/a", "1"), ("/a", "1"), ("/elsewhere", "2"), ("/elsewhere", "2")] {
        assert_eq!(read(&app, path).await, expected);
    }
}

#[tokio::test]
async fn a_route_layer_covers_routes_alone() {
    let app = Router::new().route("/a", get(number)).route_layer(layer()).fallback(number).with_state(Calls::default());
    for (path, expected) in [("/a", "1"), ("/a", "1"), ("/elsewhere", "2"), ("/elsewhere", "3")] {
        assert_eq!(read(&app, path).await, expected);
    }
}

#[tokio::test]
async fn a_method_router_has_a_policy_of_its_own() {
    let clock = Clock::movable();
    let of = |seconds| {
        let policy = policy().ttl(Duration::from_secs(seconds));
        CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), policy).clock(clock.clone())
    };
    let app = Router::new()
        .route("/short", get(number).layer(of(10)).post(number))
        .route("/long", get(number).layer(of(100)))
        .with_state(Calls::default());
    assert_eq!((read(&app, "/short").await, read(&app, "/long").await), ("1".to_owned(), "2".to_owned()));
    assert_eq!(ask(&app, Method::POST, "/short").await.1, "3", "the layer is on GET alone");
    clock.advance(Duration::from_secs(11));
    assert_eq!((read(&app, "/short").await, read(&app, "/long").await), ("4".to_owned(), "2".to_owned()));
}

#[tokio::test]
async fn outside_of_nested_routers_each_has_its_answers() {
    let inner = || Router::new().route("/list", get(number));
    let app = Router::new().nest("/a", inner()).nest("/b", inner()).layer(layer()).with_state(Calls::default());
    for (path, expected) in [("/a/list", "1"), ("/b/list", "2"), ("/a/list", "1"), ("/b/list", "2")] {
        assert_eq!(read(&app, path).await, expected);
    }
}

#[tokio::test]
async fn inside_of_nested_routers_a_namespace_or_the_original_uri_tells_them_apart() {
    // There, axum shows the path without the prefix: one layer in two places cannot tell which it is in.
    let inner = |layer: CacheLayer<Memory, ApiPolicy>| Router::new().route("/list", get(number)).layer(layer);
    let cases: [(CacheLayer<_, _>, &str, bool); 3] = [
        (layer(), "", false),
        (layer(), "b", true),
        (
            CacheLayer::new(
                Memory::new(1 << 20),
                policy().key_by(|request| request.extensions.get::<OriginalUri>().map(|uri| uri.path().into()).unwrap_or_default()),
            ),
            "",
            true,
        ),
    ];
    for (layer, namespace, apart) in cases {
        let second = layer.clone().namespace(namespace);
        let app = Router::new().nest("/a", inner(layer)).nest("/b", inner(second)).with_state(Calls::default());
        assert_eq!(read(&app, "/a/list").await, "1");
        assert_eq!(read(&app, "/b/list").await == "2", apart);
    }
}

#[tokio::test]
async fn merged_routers_keep_their_layers() {
    let cached = Router::new().route("/cached", get(number)).layer(layer());
    let app = cached.merge(Router::new().route("/live", get(number))).with_state(Calls::default());
    for (path, expected) in [("/cached", "1"), ("/live", "2"), ("/cached", "1"), ("/live", "3")] {
        assert_eq!(read(&app, path).await, expected);
    }
}

#[tokio::test]
async fn a_handler_says_how_long_its_answer_lives_within_the_bounds_of_the_policy() {
    let clock = Clock::movable();
    let handler = |ttl| {
        get(move |State(calls): State<Calls>| async move { (Extension(StoreOptions::new().ttl(Duration::from_secs(ttl))), calls.next()) })
    };
    let policy = policy().ttl(Duration::from_secs(50)).ttl_bounds(Duration::from_secs(10), Duration::from_secs(1000));
    let layer = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), policy).clock(clock.clone());
    let app = Router::new()
        .route("/default", get(number))
        .route("/long", handler(100))
        .route("/zero", handler(0))
        .layer(layer)
        .with_state(Calls::default());
    let all = async || [read(&app, "/default").await, read(&app, "/long").await, read(&app, "/zero").await].join(" ");
    assert_eq!(all().await, "1 2 3");
    clock.advance(Duration::from_secs(9));
    assert_eq!(all().await, "1 2 3");
    clock.advance(Duration::from_secs(2));
    assert_eq!(all().await, "1 2 4");
    clock.advance(Duration::from_secs(60));
    assert_eq!(all().await, "5 2 6");
}

#[tokio::test]
async fn what_a_handler_forbids_is_not_stored_and_not_shared_with_those_who_wait() {
    let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (entered, go) = (entered.clone(), go.clone());
        async move |State(calls): State<Calls>| {
            let number = calls.next();
            if number == "1" {
                entered.notify_one();
                go.notified().await;
            }
            (Extension(StoreOptions::new().no_store()), number)
        }
    };
    let app = Router::new().route("/", get(handler)).layer(layer()).with_state(Calls::default());
    let spawn = || {
        let app = app.clone();
        tokio::spawn(async move { read(&app, "/").await })
    };
    let first = spawn();
    entered.notified().await;
    let second = spawn();
    // It waits for the first, whose answer turns out to be none for others.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(!second.is_finished());
    go.notify_one();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), ("1".to_owned(), "2".to_owned()));
    assert_eq!(read(&app, "/").await, "3");
}

#[tokio::test]
async fn a_write_invalidates_by_the_tags_that_handlers_set() {
    let layer = layer();
    let handle = layer.handle();
    let tagged = |tag: &'static str| {
        get(async move |State(calls): State<Calls>| {
            let options = StoreOptions::new().tag(tag).tag("all");
            (Extension(options), calls.next())
        })
    };
    let write = post(async move || handle.invalidate(&Selection::Tag("books".to_owned())).await.unwrap().to_string());
    let app = Router::new()
        .route("/books", tagged("books"))
        .route("/authors", tagged("authors"))
        .route("/write", write)
        .layer(layer)
        .with_state(Calls::default());
    assert_eq!((read(&app, "/books").await, read(&app, "/authors").await), ("1".to_owned(), "2".to_owned()));
    assert_eq!(ask(&app, Method::POST, "/write").await.1, "1");
    assert_eq!((read(&app, "/books").await, read(&app, "/authors").await), ("3".to_owned(), "2".to_owned()));
}

#[tokio::test]
async fn what_is_inserted_by_hand_heeds_the_same_wishes() {
    let handle = layer().handle();
    let request = Request::get("/x").body(Bytes::new()).unwrap();
    let response = |options: StoreOptions| http::Response::builder().extension(options).body(Bytes::from_static(b"x")).unwrap();
    let refused = handle.insert(&request, response(StoreOptions::new().no_store()), None).await.unwrap();
    assert!(refused.is_err());
    let options = StoreOptions::new().tag("t").ttl(Duration::from_secs(7));
    handle.insert(&request, response(options), None).await.unwrap().unwrap();
    assert_eq!(handle.get(&request).await.unwrap().unwrap().lifetime.fresh_for, Duration::from_secs(7));
    assert_eq!(handle.invalidate(&Selection::Tag("t".to_owned())).await.unwrap(), 1);
}

#[tokio::test]
async fn a_stream_of_a_handler_is_replayed_in_its_chunks() {
    let handler = get(async || {
        let chunks = ["one ", "two ", "three"].map(|chunk| Ok::<_, std::convert::Infallible>(Bytes::from_static(chunk.as_bytes())));
        Body::from_stream(futures_util::stream::iter(chunks))
    });
    // Streams of this process cannot break off unnoticed.
    let layer = CacheLayer::new(Memory::new(1 << 20), policy().store_close_delimited(true));
    let app = Router::new().route("/", handler).layer(layer);
    let outcome = async || {
        let answer = app.clone().oneshot(Request::get("/").body(Body::empty()).unwrap()).await.unwrap();
        let outcome = answer.extensions().get::<CacheStatus>().unwrap().outcome;
        let mut body = answer.into_body();
        let mut chunks = Vec::new();
        while let Some(frame) = body.frame().await {
            chunks.push(frame.unwrap().into_data().unwrap());
        }
        tokio::task::yield_now().await;
        (outcome, chunks)
    };
    let (_, live) = outcome().await;
    let (hit, replayed) = outcome().await;
    assert_eq!((hit, live.len()), (Outcome::Hit, 3));
    assert_eq!(live, replayed);
}
