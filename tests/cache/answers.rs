//! What is stored, what a hit looks like, and what never happens to bytes.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tower::Layer;
use tower_response_cache::{
    ApiPolicy, CacheLayer, CacheOptions, CacheStatus, Clock, Mode, Sharing,
    status::{Miss, Outcome, Stale},
    store::Memory,
};

use crate::{
    ask, layer,
    origin::{Origin, data, promised, streamed, text},
    outcome, post, read, send, until,
};

const MISS: Outcome = Outcome::Miss(Miss::Absent);

#[tokio::test]
async fn the_second_of_two_equal_requests_is_answered_from_the_store() {
    let origin = Origin::signed();
    let cache = layer().layer(origin.clone());
    let (first, one) = ask(&cache, post("/a", "question")).await;
    until(|| origin.calls() == 1).await;
    let (second, two) = settled(&cache, "/a").await;
    assert_eq!((first, second), (MISS, Outcome::Hit));
    assert_eq!(one, two);
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn what_a_request_carries_in_its_extensions_is_not_in_an_answer_from_the_store() {
    #[derive(Clone)]
    struct Secret;

    let cache = layer().layer(Origin::signed());
    let secretive = || {
        let mut request = post("/a", "question");
        request.extensions_mut().insert(Secret);
        request
    };
    ask(&cache, secretive()).await;
    settled(&cache, "/a").await;
    let hit = send(&cache, secretive()).await;
    assert_eq!(outcome(&hit), Outcome::Hit);
    assert!(hit.extensions().get::<Secret>().is_none());
}

/// Asks again until the fill has landed; before that, callers join the live answer.
async fn settled(cache: &tower_response_cache::Cache<Origin, Memory, ApiPolicy>, path: &str) -> (Outcome, String) {
    for _ in 0..1000 {
        let answer = ask(cache, post(path, "question")).await;
        if answer.0 != Outcome::Collapsed {
            return answer;
        }
        tokio::task::yield_now().await;
    }
    panic!("the fill never landed");
}

#[tokio::test]
async fn a_hit_has_the_status_chunks_and_trailers_of_the_answer_and_says_its_age() {
    let clock = Clock::movable();
    let origin = Origin::new(|_| async {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", HeaderValue::from_static("42"));
        let frames = [data("first "), data("second "), data("third"), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        Ok(Response::builder().header("transfer-encoding", "chunked").header("x-end", "to end").body(body).unwrap())
    });
    let cache = layer().clock(clock.clone()).layer(origin.clone());
    read(send(&cache, post("/", "")).await).await;
    settled_calls(&cache).await;
    clock.advance(Duration::from_secs(7));

    let answer = send(&cache, post("/", "")).await;
    assert_eq!(outcome(&answer), Outcome::Hit);
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["x-end"], "to end");
    assert_eq!(answer.headers()["age"], "7");
    assert_eq!(answer.headers()["cache-status"], "tower-response-cache; hit; ttl=3592");
    assert!(!answer.headers().contains_key("transfer-encoding"));
    assert_eq!(
        (answer.body().size_hint().lower(), answer.body().size_hint().upper()),
        (18, None),
        "trailers and a length exclude each other"
    );
    let mut body = answer.into_body();
    let mut chunks = Vec::new();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        match frame.unwrap().into_data() {
            Ok(chunk) => chunks.push(chunk),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    assert_eq!(chunks, ["first ", "second ", "third"].map(Bytes::from));
    assert_eq!(trailers.unwrap()["x-checksum"], "42");
    assert_eq!(origin.calls(), 1);
}

async fn settled_calls(cache: &tower_response_cache::Cache<Origin, Memory, ApiPolicy>) {
    for _ in 0..1000 {
        if outcome(&send(cache, post("/", "")).await) == Outcome::Hit {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("nothing was stored");
}

#[tokio::test]
async fn fields_of_one_exchange_or_one_connection_are_not_replayed() {
    let origin = Origin::new(|_| async {
        let mut response = text("answer");
        for (name, value) in [
            ("connection", "x-hop, close"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("set-cookie", "session=1"),
            ("x-ratelimit-remaining", "1"),
            ("retry-after", "1"),
            ("x-request-id", "id-of-the-first"),
            ("server-timing", "db;dur=1"),
            ("access-control-allow-origin", "https://one.example"),
            ("x-kept", "1"),
        ] {
            response.headers_mut().append(name, HeaderValue::from_static(value));
        }
        Ok(response)
    });
    let cache = layer().layer(origin);
    let first = send(&cache, post("/", "")).await;
    assert_eq!(first.headers()["set-cookie"], "session=1", "the one who asked has the whole answer");
    read(first).await;
    settled_calls(&cache).await;
    let hit = send(&cache, post("/", "")).await;
    let mut names: Vec<_> = hit.headers().keys().map(|name| name.as_str().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["age", "cache-status", "content-length", "content-type", "x-kept"]);
}

#[tokio::test]
async fn answers_share_nothing_mutable() {
    let cache = layer().layer(Origin::signed());
    read(send(&cache, post("/", "")).await).await;
    settled_calls(&cache).await;
    let mut tasks = Vec::new();
    for i in 0..64u32 {
        let cache = cache.clone();
        tasks.push(tokio::spawn(async move {
            let mut answer = send(&cache, post("/", "")).await;
            assert!(!answer.headers().contains_key("x-mine"));
            assert!(answer.extensions().get::<u32>().is_none());
            answer.headers_mut().insert("x-mine", HeaderValue::from(i));
            answer.headers_mut().remove("content-type");
            answer.extensions_mut().insert(i);
            tokio::task::yield_now().await;
            assert_eq!(answer.headers()["x-mine"], i.to_string().as_str());
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(send(&cache, post("/", "")).await.headers()["content-type"], "text/plain");
}

#[tokio::test]
async fn what_is_no_whole_good_answer_is_passed_on_and_not_stored() {
    type Make = dyn Fn() -> Response<crate::origin::OriginBody> + Send + Sync;
    let with = |name: &'static str, value: &'static str| {
        move || {
            let mut response = text("answer");
            response.headers_mut().append(name, HeaderValue::from_static(value));
            response
        }
    };
    let status = |status: StatusCode| {
        move || {
            let mut response = text("answer");
            *response.status_mut() = status;
            response
        }
    };
    let cases: Vec<(&str, Box<Make>)> = vec![
        ("500", Box::new(status(StatusCode::INTERNAL_SERVER_ERROR))),
        ("429", Box::new(status(StatusCode::TOO_MANY_REQUESTS))),
        ("404", Box::new(status(StatusCode::NOT_FOUND))),
        ("206", Box::new(status(StatusCode::PARTIAL_CONTENT))),
        ("304", Box::new(status(StatusCode::NOT_MODIFIED))),
        ("201", Box::new(status(StatusCode::CREATED))),
        ("content-range", Box::new(with("content-range", "bytes 0-5/10"))),
        ("no-store", Box::new(with("cache-control", "private, No-Store"))),
        ("gzip", Box::new(with("content-encoding", "gzip"))),
        ("varies by what is not in the key", Box::new(with("vary", "accept, x-user"))),
        ("vary *", Box::new(with("vary", "*"))),
        ("grpc error in the head", Box::new(with("grpc-status", "7"))),
        (
            "grpc error in the trailers",
            Box::new(|| {
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("14"));
                let frames = [data("message"), Ok(Frame::trailers(trailers))];
                let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
                let response = Response::builder().version(http::Version::HTTP_2).header("content-type", "application/grpc");
                response.body(body).unwrap()
            }),
        ),
        (
            "grpc without a status",
            Box::new(|| {
                let body = StreamBody::new(futures_util::stream::iter([data("message")])).boxed_unsync();
                let response = Response::builder().version(http::Version::HTTP_2).header("content-type", "application/grpc+proto");
                response.body(body).unwrap()
            }),
        ),
        (
            "ends with its connection",
            Box::new(|| {
                let body = StreamBody::new(futures_util::stream::iter([data("half of an ans")])).boxed_unsync();
                Response::new(body)
            }),
        ),
        ("over the limit", Box::new(|| text(vec![b'x'; (8 << 20) + 1]))),
        (
            "over the limit, of unknown length",
            Box::new(|| {
                let frames = (0..9).map(|_| data(vec![b'x'; 1 << 20]));
                let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
                Response::builder().header("transfer-encoding", "chunked").body(body).unwrap()
            }),
        ),
    ];
    for (name, make) in cases {
        let make = std::sync::Arc::new(make);
        let origin = Origin::new(move |_| {
            let make = std::sync::Arc::clone(&make);
            async move { Ok(make()) }
        });
        let cache = layer().layer(origin.clone());
        for _ in 0..2 {
            let answer = send(&cache, post("/", "")).await;
            assert!(matches!(outcome(&answer), Outcome::Miss(_)), "{name}");
            answer.into_body().collect().await.unwrap();
            crate::calm().await;
        }
        assert_eq!(origin.calls(), 2, "{name}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_an_error_and_is_not_stored() {
    // A length that is not kept; an error of the connection; each twice, for the second request has to be a miss too.
    for fault in ["short", "long", "reset"] {
        let origin = Origin::new(move |_| async move {
            let (feed, mut response) = streamed();
            feed.send(data("0123456789")).await.unwrap();
            match fault {
                "short" => response = promised(response, 20),
                "long" => response = promised(response, 5),
                _ => feed.send(Err("connection reset".into())).await.unwrap(),
            }
            Ok(response)
        });
        let cache = layer().layer(origin.clone());
        for _ in 0..2 {
            let answer = send(&cache, post("/", "")).await;
            assert!(matches!(outcome(&answer), Outcome::Miss(_)), "{fault}");
            answer.into_body().collect().await.expect_err(fault);
        }
        assert_eq!(origin.calls(), 2, "{fault}");
    }
}

#[tokio::test]
async fn head_and_get_and_post_never_answer_one_another() {
    let policy = ApiPolicy::new(Sharing::Shared).methods([Method::GET, Method::HEAD, Method::POST]);
    let origin =
        Origin::new(|call| async move { Ok(if call.head.method == Method::HEAD { text("") } else { text(call.head.method.to_string()) }) });
    let cache = CacheLayer::new(Memory::new(1 << 20), policy).layer(origin.clone());
    for round in 0..2 {
        for method in [Method::POST, Method::GET, Method::HEAD] {
            let request = Request::builder().method(method.clone()).uri("http://origin/").body(Full::new(Bytes::new())).unwrap();
            let (_, body) = ask(&cache, request).await;
            assert_eq!(body, if method == Method::HEAD { "" } else { method.as_str() }, "round {round}");
        }
        crate::calm().await;
    }
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn options_of_a_request_are_heeded() {
    let clock = Clock::movable();
    let origin = Origin::signed();
    let cache = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), ApiPolicy::new(Sharing::Shared))
        .clock(clock.clone())
        .layer(origin.clone());
    let with = |options: CacheOptions| {
        let mut request = post("/", "");
        request.extensions_mut().insert(options);
        request
    };

    let answer = send(&cache, with(CacheOptions::new().only_if_cached())).await;
    assert_eq!((outcome(&answer), answer.status()), (Outcome::Unsatisfied, StatusCode::GATEWAY_TIMEOUT));
    assert_eq!(origin.calls(), 0);

    ask(&cache, with(CacheOptions::new().mode(Mode::ReadOnly))).await;
    crate::calm().await;
    assert_eq!(ask(&cache, with(CacheOptions::new().ttl(Duration::from_secs(10)))).await.0, MISS, "read-only stored nothing");
    crate::calm().await;
    assert_eq!(ask(&cache, with(CacheOptions::new().only_if_cached())).await.0, Outcome::Hit);
    assert_eq!(
        ask(&cache, with(CacheOptions::new().mode(Mode::WriteOnly))).await,
        (Outcome::Miss(Miss::Request), "call 3 to / with ".to_owned())
    );
    crate::calm().await;
    assert_eq!(ask(&cache, post("/", "")).await, (Outcome::Hit, "call 3 to / with ".to_owned()), "a refresh replaces what is stored");

    clock.advance(Duration::from_secs(20));
    assert_eq!(ask(&cache, with(CacheOptions::new().max_age(Duration::from_secs(30)))).await.0, Outcome::Hit);
    assert_eq!(ask(&cache, with(CacheOptions::new().max_age(Duration::from_secs(10)))).await.0, Outcome::Miss(Miss::Request));

    let off = cache_status(&send(&cache, with(CacheOptions::new().mode(Mode::Off))).await);
    assert_eq!(off, "tower-response-cache; fwd=bypass; detail=off");
}

fn cache_status(answer: &crate::Answer) -> String {
    answer.headers()["cache-status"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn answers_expire_and_clocks_that_jump_prolong_nothing() {
    let clock = Clock::movable();
    let origin = Origin::signed();
    let cache = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), ApiPolicy::new(Sharing::Shared))
        .clock(clock.clone())
        .layer(origin.clone());
    ask(&cache, post("/", "")).await;
    settled_calls(&cache).await;
    clock.advance(Duration::from_secs(3599));
    assert_eq!(ask(&cache, post("/", "")).await.0, Outcome::Hit);
    clock.advance(Duration::from_secs(2));
    assert_eq!(ask(&cache, post("/", "")).await.0, MISS);
    settled_calls(&cache).await;
    clock.shift(-3_600_000);
    let answer = send(&cache, post("/", "")).await;
    let status = answer.extensions().get::<CacheStatus>().unwrap();
    assert!(status.ttl.unwrap() <= Duration::from_secs(3600), "an answer from the future is fresh for no longer than its lifetime");
    clock.shift(3_600_000 + 3_601_000);
    assert_eq!(ask(&cache, post("/", "")).await.0, MISS);
    assert_eq!(origin.calls(), 3);
}

#[tokio::test]
async fn stale_answers_stand_in_while_a_refresh_runs_and_when_the_upstream_fails() {
    let clock = Clock::movable();
    let policy = ApiPolicy::new(Sharing::Shared)
        .ttl(Duration::from_secs(10))
        .stale_while_revalidate(Duration::from_secs(10))
        .stale_if_error(Duration::from_secs(100));
    let origin = Origin::new(|call| async move {
        match call.number {
            1 | 2 => Ok(text(format!("answer {}", call.number))),
            3 => Err("down".into()),
            4 => Ok(Response::builder().status(503).body(text("busy").into_body()).unwrap()),
            _ => panic!("down for good"),
        }
    });
    let cache = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), policy).clock(clock.clone()).layer(origin.clone());
    ask(&cache, post("/", "")).await;
    settled_calls(&cache).await;

    clock.advance(Duration::from_secs(11));
    let refreshed = (Outcome::Stale(Stale::WhileRevalidate), "answer 1".to_owned());
    assert_eq!(ask(&cache, post("/", "")).await, refreshed);
    for _ in 0..1000 {
        if ask(&cache, post("/", "")).await.0 == Outcome::Hit {
            break;
        }
        crate::calm().await;
    }
    assert_eq!(ask(&cache, post("/", "")).await, (Outcome::Hit, "answer 2".to_owned()));
    assert_eq!(origin.calls(), 2, "one refresh, however many asked");

    clock.advance(Duration::from_secs(50));
    for failure in ["error", "503", "panic", "panic"] {
        let stood_in = (Outcome::Stale(Stale::IfError), "answer 2".to_owned());
        assert_eq!(ask(&cache, post("/", "")).await, stood_in, "{failure}");
    }
    assert_eq!(origin.calls(), 6);
    clock.advance(Duration::from_secs(100));
    let gone = tokio::spawn({
        let cache = cache.clone();
        async move { ask(&cache, post("/", "")).await }
    });
    assert!(gone.await.unwrap_err().is_panic(), "nothing is served past the limit, and the failure is the upstream's own");
}

#[tokio::test]
async fn a_refresh_that_fails_backs_off_and_leaves_the_stale_answer() {
    let clock = Clock::movable();
    let policy = ApiPolicy::new(Sharing::Shared).ttl(Duration::from_secs(10)).stale_while_revalidate(Duration::from_secs(1000));
    let origin = Origin::new(|call| async move { if call.number == 1 { Ok(text("good")) } else { Err("down".into()) } });
    let cache = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), policy).clock(clock.clone()).layer(origin.clone());
    ask(&cache, post("/", "")).await;
    settled_calls(&cache).await;
    clock.advance(Duration::from_secs(20));
    for _ in 0..100 {
        assert_eq!(ask(&cache, post("/", "")).await, (Outcome::Stale(Stale::WhileRevalidate), "good".to_owned()));
        tokio::task::yield_now().await;
    }
    assert_eq!(origin.calls(), 2, "one refresh was tried, and no other until it was forgotten that it failed");
}

#[tokio::test]
async fn an_answer_that_is_slow_to_make_is_refreshed_early() {
    let policy = |beta| ApiPolicy::new(Sharing::Shared).ttl(Duration::from_secs(10)).early_refresh(beta);
    for (beta, calls) in [(0.0, 1), (1e12, 2)] {
        let origin = Origin::signed();
        let cache = CacheLayer::new(Memory::new(1 << 20), policy(beta)).layer(origin.clone());
        ask(&cache, post("/", "")).await;
        crate::calm().await;
        assert_eq!(ask(&cache, post("/", "")).await.0, Outcome::Hit);
        crate::calm().await;
        assert_eq!(origin.calls(), calls, "beta {beta}");
    }
}
