//! Whose answer reaches whom: what is made for one caller, and what one caller might plant for another.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt};
use tower_response_cache::{
    ApiPolicy, Cache, CacheLayer, CacheOptions, CacheStatus, Clock, HttpPolicy, Sharing,
    key::Scope,
    status::{Miss, Outcome, Stale},
    store::Memory,
};

use crate::{
    Answer, ask, layer,
    origin::{Call, Origin, OriginBody, OriginError, data, text},
    outcome, post, read, send, until,
};

/// Answers wait for a permit, so that others can come to wait for them.
fn gated<F>(answer: F) -> (Origin, Arc<Semaphore>)
where
    F: Fn(&Call) -> Response<OriginBody> + Send + Sync + 'static,
{
    let gate = Arc::new(Semaphore::new(0));
    let origin = Origin::new({
        let (gate, answer) = (Arc::clone(&gate), Arc::new(answer));
        move |call| {
            let (gate, answer) = (Arc::clone(&gate), Arc::clone(&answer));
            async move {
                gate.acquire().await.unwrap().forget();
                Ok::<_, OriginError>(answer(&call))
            }
        }
    });
    (origin, gate)
}

/// One leads, another waits for the same key; then the answer comes, and if need be another.
async fn two(
    cache: &Cache<Origin, Memory, ApiPolicy>,
    gate: &Semaphore,
    first: Request<Full<Bytes>>,
    second: Request<Full<Bytes>>,
) -> [Answer; 2] {
    let lead = tokio::spawn(cache.clone().oneshot(first));
    settle().await;
    let follow = tokio::spawn(cache.clone().oneshot(second));
    settle().await;
    gate.add_permits(2);
    [lead.await.unwrap().unwrap(), follow.await.unwrap().unwrap()]
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn with(name: &'static str, value: &'static str) -> Request<Full<Bytes>> {
    let mut request = post("/", "question");
    request.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    request
}

#[tokio::test]
async fn an_answer_to_a_condition_is_whole_for_the_one_who_set_it_and_reaches_no_other() {
    for status in [206, 304, 412, 416] {
        let (origin, gate) = gated(move |call| match call.head.headers.contains_key("if-none-match") {
            false => text("whole"),
            true => {
                // As a 304 may, it tells the length of what it does not bring.
                let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
                let length = if status == 304 { "5" } else { "0" };
                Response::builder().status(status).header("content-length", length).body(body).unwrap()
            }
        });
        let cache = layer().layer(origin.clone());
        let [conditional, other] = two(&cache, &gate, with("if-none-match", "\"1\""), post("/", "question")).await;
        assert_eq!(conditional.status(), status);
        assert_eq!(read(conditional).await, "", "{status}: it is no broken body");
        assert_eq!((other.status(), read(other).await), (StatusCode::OK, "whole".to_owned()), "{status}");
        assert_eq!(origin.calls(), 2);
    }
}

#[tokio::test]
async fn a_refusal_of_credentials_reaches_only_who_has_the_same() {
    let answer = |call: &Call| {
        let refused = call.head.headers["authorization"] != "Bearer good";
        let mut response = text(if refused { "refused" } else { "welcome" });
        *response.status_mut() = if refused { StatusCode::UNAUTHORIZED } else { StatusCode::OK };
        response
    };
    let (origin, gate) = gated(answer);
    let cache = layer().layer(origin);
    let [bad, good] = two(&cache, &gate, with("authorization", "Bearer bad"), with("authorization", "Bearer good")).await;
    assert_eq!((read(bad).await, read(good).await), ("refused".to_owned(), "welcome".to_owned()));

    let (origin, gate) = gated(answer);
    let cache = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::PerCredential)).layer(origin);
    let of_the_team = |credential| {
        let mut request = with("authorization", credential);
        request.extensions_mut().insert(CacheOptions::new().scope(Scope::tenant("team")));
        request
    };
    let [bad, good] = two(&cache, &gate, of_the_team("Bearer bad"), of_the_team("Bearer good")).await;
    assert_eq!((read(bad).await, read(good).await), ("refused".to_owned(), "welcome".to_owned()), "a scope holds several credentials");

    let (origin, gate) = gated(answer);
    let cache = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(Sharing::PerCredential)).layer(origin.clone());
    let both = two(&cache, &gate, with("authorization", "Bearer bad"), with("authorization", "Bearer bad")).await;
    assert_eq!(both.map(|answer| answer.status()), [StatusCode::UNAUTHORIZED; 2]);
    assert_eq!(origin.calls(), 1, "those who have the same share the refusal");
}

#[tokio::test]
async fn what_is_shared_without_being_stored_is_nobodys_session_and_nobodys_secret() {
    let error = |name: &'static str, value: &'static str| {
        gated(move |call| {
            let mut response = text(format!("answer {}", call.number));
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            response
        })
    };
    let (origin, gate) = error("set-cookie", "session=1");
    let cache = layer().layer(origin.clone());
    let [lead, follow] = two(&cache, &gate, post("/", ""), post("/", "")).await;
    assert_eq!((lead.headers()["set-cookie"].as_bytes(), origin.calls()), (&b"session=1"[..], 1));
    assert_eq!((follow.status(), outcome(&follow)), (StatusCode::TOO_MANY_REQUESTS, Outcome::Collapsed));
    assert!(!follow.headers().contains_key("set-cookie"));

    for (name, value) in
        [("cache-control", "no-store"), ("vary", "x-user"), ("vary", "authorization"), ("vary", "*"), ("content-encoding", "gzip")]
    {
        let (origin, gate) = error(name, value);
        let cache = layer().layer(origin);
        let [lead, follow] = two(&cache, &gate, post("/", ""), post("/", "")).await;
        assert_eq!((read(lead).await, read(follow).await), ("answer 1".to_owned(), "answer 2".to_owned()), "{name}: {value}");
    }
}

#[tokio::test]
async fn what_varies_by_credentials_is_stored_only_where_they_are_in_the_key() {
    let scoped = || Some(CacheOptions::new().scope(Scope::tenant("team")));
    for (sharing, options, calls) in [
        (Sharing::Shared, None, 2),
        (Sharing::PerCredential, None, 1),
        (Sharing::by(|_| Scope::tenant("team")), None, 2),
        (Sharing::PerCredential, scoped(), 2),
    ] {
        let origin = Origin::new(|call| async move {
            let mut response = text(format!("for {:?}", call.head.headers.get("authorization")));
            response.headers_mut().insert("vary", HeaderValue::from_static("authorization"));
            Ok(response)
        });
        let cache = CacheLayer::new(Memory::new(1 << 20), ApiPolicy::new(sharing)).layer(origin.clone());
        for _ in 0..2 {
            let mut request = with("authorization", "me");
            if let Some(options) = options.clone() {
                request.extensions_mut().insert(options);
            }
            assert_eq!(ask(&cache, request).await.1, "for Some(\"me\")");
            settle().await;
        }
        assert_eq!(origin.calls(), calls);
    }
}

/// Everything that the upstream sees and the key does not tell apart is planted by one and looked for by another.
#[tokio::test]
async fn nothing_that_one_caller_plants_is_served_to_another() {
    let origin = Origin::new(|call| async move {
        // An upstream that reads whatever it is given, as careless ones do: queries of a POST, bodies of a GET, the last of two parameters,
        // paths after decoding.
        let seen = format!("{} {} {}", call.head.method, call.head.uri, String::from_utf8_lossy(&call.body));
        let mut response = text(seen);
        for name in ["x-forwarded-host", "x-original-url", "origin"] {
            if let Some(value) = call.head.headers.get(name) {
                let header = if name == "origin" { "access-control-allow-origin" } else { name };
                response.headers_mut().insert(header, value.clone());
                response
                    .headers_mut()
                    .append("vary", HeaderValue::from_static(if name == "origin" { "origin" } else { "x-forwarded-host" }));
            }
        }
        Ok(response)
    });
    let policy = ApiPolicy::new(Sharing::Shared).methods([Method::GET, Method::POST]);
    let cache = CacheLayer::new(Memory::new(1 << 20), policy).layer(origin);
    let ask = |method: Method, uri: &'static str, headers: Vec<(&'static str, &'static str)>, body: &'static str| {
        let cache = cache.clone();
        async move {
            let mut request =
                Request::builder().method(method).uri(format!("http://origin{uri}")).body(Full::new(Bytes::from(body))).unwrap();
            for (name, value) in headers {
                request.headers_mut().append(name, HeaderValue::from_static(value));
            }
            let answer = send(&cache, request).await;
            let headers = answer.headers().clone();
            let body = read(answer).await;
            settle().await;
            (headers, body)
        }
    };
    type Asked = (Method, &'static str, Vec<(&'static str, &'static str)>, &'static str);
    let pairs: Vec<(&str, Asked, Asked)> = vec![
        ("fat GET", (Method::GET, "/a", vec![], "q=evil"), (Method::GET, "/a", vec![], "")),
        ("duplicate parameter", (Method::GET, "/b?q=good&q=evil", vec![], ""), (Method::GET, "/b?q=good", vec![], "")),
        ("order of duplicates", (Method::GET, "/c?q=1&q=2", vec![], ""), (Method::GET, "/c?q=2&q=1", vec![], "")),
        ("encoded slash", (Method::GET, "/d%2Fe", vec![], ""), (Method::GET, "/d/e", vec![], "")),
        ("dot segments", (Method::GET, "/x/../f", vec![], ""), (Method::GET, "/f", vec![], "")),
        ("double slash", (Method::GET, "//g", vec![], ""), (Method::GET, "/g", vec![], "")),
        ("empty query", (Method::GET, "/h?", vec![], ""), (Method::GET, "/h", vec![], "")),
        ("encoded parameter", (Method::GET, "/i?q=%31", vec![], ""), (Method::GET, "/i?q=1", vec![], "")),
        ("parameters by semicolon", (Method::GET, "/j?q=1;q=2", vec![], ""), (Method::GET, "/j?q=1", vec![], "")),
        ("query into body", (Method::POST, "/k?q=1", vec![], ""), (Method::POST, "/k", vec![], "q=1")),
        ("coding of the body", (Method::POST, "/l", vec![("content-encoding", "gzip")], "x"), (Method::POST, "/l", vec![], "x")),
        ("unkeyed field", (Method::GET, "/m", vec![("x-forwarded-host", "evil")], ""), (Method::GET, "/m", vec![], "")),
        ("origin", (Method::GET, "/n", vec![("origin", "https://evil.example")], ""), (Method::GET, "/n", vec![], "")),
    ];
    for (name, planted, asked) in pairs {
        ask(planted.0, planted.1, planted.2, planted.3).await;
        let honest = format!("{} http://origin{} {}", asked.0, asked.1, asked.3);
        let (headers, body) = ask(asked.0, asked.1, asked.2, asked.3).await;
        assert_eq!(body, honest, "{name}");
        assert!(!headers.values().any(|value| value.to_str().unwrap().contains("evil")), "{name}");
    }
}

#[tokio::test]
async fn no_store_is_heeded_whatever_stands_beside_it_and_nobody_is_told_whose_account_was_billed() {
    for directives in ["no-store", "NO-STORE, max-age=5", "x=\"a, b\", no-store", "no-store, note=\"\u{fc}\"", "no-store;x", "no-store=1"] {
        let origin = Origin::new(move |_| async move {
            let mut response = text("answer");
            response.headers_mut().insert("cache-control", HeaderValue::from_bytes(directives.as_bytes()).unwrap());
            Ok(response)
        });
        let cache = layer().layer(origin.clone());
        for _ in 0..2 {
            ask(&cache, post("/", "question")).await;
            settle().await;
        }
        assert_eq!(origin.calls(), 2, "{directives}");
    }

    let account = ["openai-organization", "openai-project", "anthropic-organization-id"];
    let origin = Origin::new(move |_| async move {
        let mut response = text("answer");
        for name in account {
            response.headers_mut().insert(name, HeaderValue::from_static("acme"));
        }
        Ok(response)
    });
    let cache = layer().layer(origin);
    for (n, shown) in [true, false].into_iter().enumerate() {
        let answer = send(&cache, post("/", "question")).await;
        assert!(account.iter().all(|name| answer.headers().contains_key(*name) == shown), "{n}");
        read(answer).await;
        settle().await;
    }
}

/// Each planted by one caller of the target that the other asks for.
const PLANTED: [(&str, &[&str]); 15] = [
    ("x-forwarded-host", &["evil"]),
    ("x-forwarded-proto", &["evil"]),
    ("x-http-method-override", &["evil"]),
    ("x-original-url", &["evil"]),
    ("x-rewrite-url", &["evil"]),
    // Whatever stands in the request line.
    ("host", &["evil"]),
    ("host", &["origin", "evil"]),
    ("host", &["<evil>@origin"]),
    ("forwarded", &["for=1.2.3.4;host=evil"]),
    ("forwarded", &["for=1.2.3.4;proto=evil"]),
    ("forwarded", &["for=1.2.3.4", "For=1.2.3.4; Host=\"evil\""]),
    ("forwarded", &["for=\"a;host=origin\", host=\"origin, evil\""]),
    ("x-forwarded-scheme", &["evil"]),
    // Those who forward the request leave out what it lists.
    ("connection", &["accept"]),
    ("connection", &["close, Accept"]),
];

fn planted(mut request: Request<Full<Bytes>>, (name, values): (&'static str, &[&'static str])) -> Request<Full<Bytes>> {
    for value in values {
        request.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    request
}

#[tokio::test]
async fn what_overrides_method_host_path_or_fields_plants_nothing_though_the_upstream_heeds_it_in_silence() {
    for one in PLANTED {
        let heeds = move |call: Call| async move {
            let mut response = text(format!("for {:?}", call.head.headers.get_all(one.0).iter().next_back()));
            response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=60"));
            Ok(response)
        };
        let evil = format!("for {:?}", Some(HeaderValue::from_static(one.1.last().unwrap())));
        let cache = layer().layer(Origin::new(heeds));
        assert_eq!(ask(&cache, planted(post("/", "question"), one)).await.1, evil);
        settle().await;
        assert_eq!(ask(&cache, post("/", "question")).await.1, "for None", "{one:?}");

        let cache = CacheLayer::new(Memory::new(1 << 20), HttpPolicy::shared()).layer(Origin::new(heeds));
        let get = || Request::get("http://origin/").body(Full::new(Bytes::new())).unwrap();
        assert_eq!(ask(&cache, planted(get(), one)).await.1, evil);
        settle().await;
        assert_eq!(ask(&cache, get()).await.1, "for None", "{one:?}");
        settle().await;
        let again = ask(&cache, planted(get(), one)).await;
        assert_eq!(again, (Outcome::Hit, evil), "{one:?}: it is kept apart, not kept out");
    }
    // What everybody sends makes no difference, and neither does who asks through a proxy that gives another host.
    let cache = CacheLayer::new(Memory::new(1 << 20), HttpPolicy::shared()).layer(Origin::new(|_| async {
        let mut response = text("page");
        response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=60"));
        Ok(response)
    }));
    let get = || Request::get("http://origin/").body(Full::new(Bytes::new())).unwrap();
    ask(&cache, get()).await;
    settle().await;
    for usual in [
        ("host", &["Origin:80"][..]),
        ("connection", &["keep-alive", "TE"]),
        ("forwarded", &["for=1.2.3.4;by=\"[::1]\"", "for=\"_x\"; host=\"Origin:80\";proto=HTTP"]),
    ] {
        assert_eq!(ask(&cache, planted(get(), usual)).await.0, Outcome::Hit, "{usual:?}");
    }
    for (value, expected) in [("for=1.2.3.4;host=public", Outcome::Miss(Miss::Uri)), ("for=5.6.7.8;host=public", Outcome::Hit)] {
        let mut request = get();
        request.headers_mut().insert("forwarded", HeaderValue::from_static(value));
        assert_eq!(ask(&cache, request).await.0, expected, "{value}");
        settle().await;
    }
}

#[tokio::test]
async fn head_get_and_post_and_their_failures_never_answer_one_another_in_flight_either() {
    let (origin, gate) = gated(|call| text(if call.head.method == Method::HEAD { String::new() } else { call.head.method.to_string() }));
    let policy = ApiPolicy::new(Sharing::Shared).methods([Method::GET, Method::HEAD, Method::POST]);
    let cache = CacheLayer::new(Memory::new(1 << 20), policy).layer(origin.clone());
    let asked = [Method::HEAD, Method::GET, Method::POST].map(|method| {
        let request = Request::builder().method(method.clone()).uri("http://origin/").body(Full::new(Bytes::new())).unwrap();
        let cache = cache.clone();
        tokio::spawn(async move { (method, ask(&cache, request).await) })
    });
    until(|| origin.calls() == 3).await;
    gate.add_permits(3);
    for task in join_all(asked).await {
        let (method, (outcome, body)) = task.unwrap();
        assert_eq!((outcome, body.as_str()), (Outcome::Miss(Miss::Absent), if method == Method::HEAD { "" } else { method.as_str() }));
    }
}

#[tokio::test]
async fn a_hit_on_head_tells_the_length_that_a_get_would_have_and_brings_no_body() {
    let origin = Origin::new(|_| async {
        let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
        Ok(Response::builder().header("content-length", "1234").body(body).unwrap())
    });
    let policy = ApiPolicy::new(Sharing::Shared).methods([Method::HEAD]);
    let cache = CacheLayer::new(Memory::new(1 << 20), policy).layer(origin.clone());
    for expected in [Outcome::Miss(Miss::Absent), Outcome::Hit] {
        let answer = send(&cache, Request::head("http://origin/").body(Full::new(Bytes::new())).unwrap()).await;
        assert_eq!((outcome(&answer), answer.headers()["content-length"].to_str().unwrap()), (expected, "1234"));
        assert_eq!(read(answer).await, "");
        settle().await;
    }
    assert_eq!(origin.calls(), 1);
}

#[tokio::test]
async fn interim_answers_switched_protocols_and_partial_ones_cannot_be_chosen_for_storing() {
    for code in [100, 101, 103, 199, 206, 304] {
        let status = StatusCode::from_u16(code).unwrap();
        let policy = ApiPolicy::new(Sharing::Shared).statuses([StatusCode::OK, status]).methods([Method::POST, Method::CONNECT]);
        let origin = Origin::new(move |_| async move {
            let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
            Ok(Response::builder().status(status).body(body).unwrap())
        });
        let cache = CacheLayer::new(Memory::new(1 << 20), policy).layer(origin.clone());
        for _ in 0..2 {
            let answer = send(&cache, post("/", "")).await;
            assert_eq!(answer.status(), status);
            read(answer).await;
            settle().await;
        }
        let connect = Request::builder().method(Method::CONNECT).uri("origin:443").body(Full::new(Bytes::new())).unwrap();
        for _ in 0..2 {
            let answer = send(&cache, connect.clone()).await;
            assert!(answer.extensions().get::<CacheStatus>().is_none(), "it passed by");
            drop(answer);
        }
        assert_eq!(origin.calls(), 4, "{code}");
    }
}

/// A gRPC answer: its status in the trailers, or in the head where there is nothing else.
fn grpc(in_trailers: Option<&'static str>, in_head: Option<&'static str>) -> Response<OriginBody> {
    let mut response = Response::builder().version(http::Version::HTTP_2).header("content-type", "application/grpc");
    if let Some(status) = in_head {
        response = response.header("grpc-status", status);
    }
    let trailers = in_trailers.map(|status| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        Ok(Frame::trailers(trailers))
    });
    let message = in_head.is_none().then(|| data(vec![0, 0, 0, 0, 1, 42]));
    response.body(StreamBody::new(futures_util::stream::iter(message.into_iter().chain(trailers))).boxed_unsync()).unwrap()
}

#[tokio::test]
async fn grpc_answers_are_stored_with_their_trailers_and_their_errors_never() {
    for (in_trailers, in_head, calls) in [
        (Some("0"), None, 1),
        (None, Some("0"), 1),
        (Some("14"), None, 2),
        (None, Some("5"), 2),
        (None, None, 2),
        (Some("14"), Some("0"), 2),
    ] {
        let origin = Origin::new(move |_| async move { Ok(grpc(in_trailers, in_head)) });
        let cache = layer().layer(origin.clone());
        for _ in 0..2 {
            let answer = send(&cache, post("/", "")).await;
            assert_eq!(answer.headers().get("grpc-status").map(HeaderValue::as_bytes), in_head.map(str::as_bytes));
            let collected = answer.into_body().collect().await.unwrap();
            assert_eq!(collected.trailers().map(|trailers| trailers["grpc-status"].as_bytes()), in_trailers.map(str::as_bytes));
            settle().await;
        }
        assert_eq!(origin.calls(), calls, "trailers {in_trailers:?}, head {in_head:?}");
    }
}

#[tokio::test]
async fn a_stale_answer_does_not_outlive_its_limit_while_the_upstream_takes_its_time_to_fail() {
    for failure in ["error", "503"] {
        let clock = Clock::movable();
        let gate = Arc::new(Semaphore::new(1));
        let origin = Origin::new({
            let gate = Arc::clone(&gate);
            move |call| {
                let gate = Arc::clone(&gate);
                async move {
                    gate.acquire().await.unwrap().forget();
                    match (call.number, failure) {
                        (1, _) => Ok(text("good")),
                        (_, "error") => Err("down".into()),
                        _ => Ok(Response::builder().status(503).body(text("busy").into_body()).unwrap()),
                    }
                }
            }
        });
        let policy = ApiPolicy::new(Sharing::Shared).ttl(Duration::from_secs(10)).stale_if_error(Duration::from_secs(100));
        let cache = CacheLayer::new(Memory::new(1 << 20).clock(clock.clone()), policy).clock(clock.clone()).layer(origin.clone());
        ask(&cache, post("/", "")).await;
        settle().await;

        // Within the limit when it is asked for, within it when the upstream fails.
        clock.advance(Duration::from_secs(50));
        gate.add_permits(1);
        assert_eq!(ask(&cache, post("/", "")).await, (Outcome::Stale(Stale::IfError), "good".to_owned()));

        // Within it when it is asked for, past it when the upstream fails: for the one who leads, and for one who waits.
        let asked: Vec<_> = (0..2)
            .map(|_| {
                let cache = cache.clone();
                tokio::spawn(async move { cache.oneshot(post("/", "")).await })
            })
            .collect();
        settle().await;
        clock.advance(Duration::from_secs(61));
        gate.add_permits(10);
        for task in asked {
            match (task.await.unwrap(), failure) {
                (Err(error), "error") => assert_eq!(error, OriginError("down".to_owned())),
                (Ok(answer), "503") => assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE),
                (answer, _) => panic!("{failure}: {:?}", answer.map(|answer| outcome(&answer))),
            }
        }
    }
}
