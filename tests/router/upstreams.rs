//! Which upstream is asked, and what it sees.

use http_body_util::BodyExt;
use serde_json::json;

use crate::harness::{Body, CHAT, Router, Upstream, chat, document, get, post, with};

fn table(name: &str, upstream: &Upstream, rest: &str) -> String {
    format!("[[upstream]]\nname = \"{name}\"\nurl = \"{}/{name}\"\n{rest}\n", upstream.url())
}

#[tokio::test]
async fn the_model_decides_who_is_asked() {
    let (a, b, c) = (Upstream::signed().await, Upstream::signed().await, Upstream::signed().await);
    let config = [
        "default = \"c\"\n".to_owned(),
        table("a", &a, "models = [\"gpt-\", \"gemini-\"]"),
        table("b", &b, "models = [\"gpt-4\"]"),
        table("c", &c, ""),
    ]
    .concat();
    let router = Router::configured(&config, &[]).await;
    let ask = |path: &'static str, body: serde_json::Value| router.ask(post(path, body));
    for (path, body, target) in [
        (CHAT, json!({"model": "gpt-3.5"}), "/a/v1/chat/completions"),
        (CHAT, json!({"messages": [], "model": "gpt-4o"}), "/b/v1/chat/completions"),
        ("/v1/messages", json!({"model": "gpt-4o"}), "/b/v1/messages"),
        ("/v1/messages/count_tokens", json!({"model": "gpt-4o"}), "/b/v1/messages/count_tokens"),
        (CHAT, json!({"model": "other"}), "/c/v1/chat/completions"),
        (CHAT, json!({"messages": [{"model": "gpt-4o"}]}), "/c/v1/chat/completions"),
        ("/v1beta/models/gemini-x:generateContent", json!({"model": "gpt-4o"}), "/a/v1beta/models/gemini-x:generateContent"),
        ("/v1/files?model=gpt-4o", json!({"model": "gpt-4o"}), "/c/v1/files?model=gpt-4o"),
    ] {
        assert_eq!(ask(path, body.clone()).await.json()["target"], target, "{body}");
    }
}

#[tokio::test]
async fn the_upstream_is_part_of_the_key() {
    let (a, b) = (Upstream::signed().await, Upstream::signed().await);
    // The same answers for both would be wrong, for they are asked for different models; the same model goes to one of them only.
    let config = ["default = \"a\"\n".to_owned(), table("a", &a, ""), table("b", &b, "models = [\"b-\"]")].concat();
    let router = Router::configured(&config, &[]).await;
    assert_eq!(router.ask(post(CHAT, json!({"model": "a-1"}))).await.json()["target"], "/a/v1/chat/completions");
    assert_eq!(router.ask(post(CHAT, json!({"model": "b-1"}))).await.json()["target"], "/b/v1/chat/completions");
    router.settled(2).await;
    for (pattern, invalidated) in [("provider=b", 1), ("provider=b", 0), ("model=a-*", 1)] {
        let answer = router.admin(post("/cache/invalidate", json!({"pattern": pattern}))).await;
        assert_eq!(answer.json(), json!({"invalidated": invalidated}), "{pattern}");
    }
}

#[tokio::test]
async fn an_upstream_with_a_key_of_its_own_never_sees_the_callers() {
    let (own, none) = (Upstream::signed().await, Upstream::signed().await);
    let config = [
        "default = \"none\"\n".to_owned(),
        table("own", &own, "models = [\"own-\", \"gemini-\"]\nheaders = { x-api-key = \"${CARGO_PKG_NAME}\", x-extra = \"more\" }"),
        table("none", &none, "headers = { x-extra = \"more\" }"),
    ]
    .concat();
    let router = Router::configured(&config, &[]).await;
    let from_caller = |request| with(with(with(request, "authorization", "Bearer caller"), "x-api-key", "caller"), "x-extra", "less");
    router.ask(from_caller(post(CHAT, json!({"model": "own-1"})))).await;
    let seen = own.last().headers;
    assert_eq!((&seen["x-api-key"], &seen["x-extra"]), (&"tower-response-cache".parse().unwrap(), &"more".parse().unwrap()));
    assert!(seen.get("authorization").is_none());
    router.ask(post("/v1beta/models/gemini-x:generateContent?key=caller&alt=sse", "{}")).await;
    assert_eq!(own.last().target, "/own/v1beta/models/gemini-x:generateContent?alt=sse");

    router.ask(from_caller(post(CHAT, json!({"model": "other"})))).await;
    let seen = none.last().headers;
    assert_eq!((&seen["x-api-key"], &seen["authorization"]), (&"caller".parse().unwrap(), &"Bearer caller".parse().unwrap()));
}

#[tokio::test]
async fn what_is_not_known_passes_through_with_method_query_body_and_answer_as_they_are() {
    let upstream = Upstream::new(|call| async move {
        let body = call.body.collect().await.unwrap().to_bytes();
        let mut response = document(json!({"method": call.head.method.as_str(), "body": String::from_utf8_lossy(&body)}));
        *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
        response.headers_mut().insert("x-theirs", "1".parse().unwrap());
        response
    })
    .await;
    let router = Router::before(&upstream, &[]).await;
    for method in ["GET", "PUT", "PATCH", "DELETE", "POST", "OPTIONS"] {
        let mut request = with(post("/v1/files/%2Fa?b=c&d=%20", "payload"), "accept-encoding", "br");
        *request.method_mut() = method.parse().unwrap();
        let answer = router.ask(request).await;
        assert_eq!((answer.status, answer.cache(), answer.header("x-theirs")), (418, "fwd=bypass", Some("1")), "{method}");
        assert_eq!(answer.json(), json!({"method": method, "body": "payload"}));
        let asked = upstream.last();
        assert_eq!((asked.method.as_str(), asked.target.as_str()), (method, "/v1/files/%2Fa?b=c&d=%20"));
        assert_eq!(asked.headers["accept-encoding"], "br");
    }
}

#[tokio::test]
async fn fields_of_one_connection_stay_on_it() {
    let upstream = Upstream::new(|_| async {
        let mut response = document("{}");
        for (name, value) in [("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "timeout=5"), ("proxy-authenticate", "Basic")] {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        response
    })
    .await;
    let router = Router::before(&upstream, &[]).await;
    for path in [CHAT, "/v1/files"] {
        let mut request: http::Request<Body> = with(post(path, "{}"), "connection", "x-mine");
        for (name, value) in
            [("x-mine", "1"), ("te", "trailers"), ("proxy-authorization", "Basic x"), ("upgrade", "h2c"), ("expect", "100-continue")]
        {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let answer = router.ask(request).await;
        for name in ["connection", "x-hop", "keep-alive", "proxy-authenticate"] {
            assert!(answer.header(name).is_none(), "{name} from upstream on {path}");
        }
        let seen = upstream.last().headers;
        for name in ["connection", "x-mine", "te", "proxy-authorization", "upgrade", "expect"] {
            assert!(seen.get(name).is_none(), "{name} from the caller on {path}");
        }
    }
}

#[tokio::test]
async fn paths_that_may_mean_another_than_they_say_go_nowhere() {
    let upstream = Upstream::signed().await;
    let router = Router::start(&["--upstream", &format!("{}/inner", upstream.url())]).await;
    for path in [
        "/../admin",
        "/v1/%2e%2E/admin",
        "/v1/./x",
        "/v1/.%2e",
        "/..%2Fadmin",
        "/%2e%2e%2fadmin",
        "/v1\\..\\admin",
        "/v1%5C..%5cadmin",
        "/v1/..;x=y/admin",
        "/v1/..%3Bx/admin",
        "/v1beta/models/..%2f..%2fadmin:generateContent",
    ] {
        let answer = router.ask(get(path)).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.text().contains("the path has to begin with a slash"), "{path}");
    }
    assert_eq!(upstream.calls(), 0);
    for path in ["/v1/..x/...", "/v1/x..%2Fy", "/v1/;.."] {
        assert_eq!(router.ask(get(path)).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn an_absolute_target_does_not_make_a_proxy_of_the_router() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (upstream, elsewhere) = (Upstream::signed().await, Upstream::signed().await);
    let router = Router::before(&upstream, &[]).await;
    for (target, status, calls) in [(format!("GET {}/x", elsewhere.url()), "200", 1), (format!("CONNECT {}", elsewhere.address), "405", 1)]
    {
        let mut stream = tokio::net::TcpStream::connect(router.app.public).await.unwrap();
        stream.write_all(format!("{target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!((upstream.calls(), elsewhere.calls()), (calls, 0));
    }
    assert_eq!(upstream.last().target, "/x");
}

#[tokio::test]
async fn models_are_asked_for_answers_without_encoding_past_the_cache_too() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    for request in [chat("hello"), post("/v1/responses", json!({"model": "gpt-4o", "previous_response_id": "r"}))] {
        router.ask(with(request, "accept-encoding", "gzip, br")).await;
        assert_eq!(upstream.last().headers["accept-encoding"], "identity");
    }
}
