//! The dashboard as a service: what it shows, and whom it refuses.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt};
use tower_response_cache::{ApiPolicy, CacheOptions, dashboard::Dashboard, observe::analytics::Analytics, store::Memory};

use crate::{ask, layer, origin::Origin, post};

type Page = Dashboard<Memory, ApiPolicy>;

/// A cache that was asked once, and the key of what it stored.
async fn used() -> (Page, String) {
    let analytics = Analytics::builder().spawn();
    let layer = layer().observer(analytics.clone());
    let handle = layer.handle();
    let cache = layer.layer(Origin::signed());
    let mut request = post("/", "question");
    request.extensions_mut().insert(CacheOptions::new().request_id("<b>first</b>").tag("blue").label("model", "m"));
    ask(&cache, request).await;
    let key = handle.keys(&Request::post("http://origin/").header("content-type", "text/plain").body("question").unwrap()).unwrap()[0];
    while handle.stats().await.stored == 0 {
        tokio::task::yield_now().await;
    }
    (Dashboard::new(handle, analytics), key.to_string())
}

async fn send(page: &Page, request: http::request::Builder, body: &str) -> (StatusCode, Response<()>, String) {
    let answer = page.clone().oneshot(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    (head.status, Response::from_parts(head, ()), text)
}

async fn get(page: &Page, path: &str) -> (StatusCode, Value) {
    let (status, _, text) = send(page, Request::get(path), "").await;
    (status, serde_json::from_str(&text).unwrap())
}

#[tokio::test]
async fn it_shows_what_is_stored_and_invalidates_it_by_key_tag_and_pattern() {
    for by in ["key", "tag", "pattern", "all"] {
        let (page, key) = used().await;
        let (status, entry) = get(&page, &format!("/cache/entry?key={key}")).await;
        assert_eq!((status, &entry["request_id"], &entry["tags"]), (StatusCode::OK, &json!("<b>first</b>"), &json!(["blue"])));
        assert!(!entry.to_string().contains("question"), "neither what was asked nor what was answered is shown");
        let value = match by {
            "key" => json!(key),
            "tag" => json!("blue"),
            "pattern" => json!("model=m*"),
            _ => json!(true),
        };
        let request = || Request::post("/cache/invalidate").header("content-type", "application/json");
        let (status, _, text) = send(&page, request(), &json!({by: value}).to_string()).await;
        assert_eq!((status, text.as_str()), (StatusCode::OK, r#"{"invalidated":1}"#), "{by}");
        assert_eq!(get(&page, &format!("/cache/entry?key={key}")).await.0, StatusCode::NOT_FOUND);
        for wrong in [
            "",
            "{}",
            r#"{"all": false}"#,
            r#"{"all": true, "tag": "blue"}"#,
            r#"{"tag": ""}"#,
            r#"{"tag": "a", "key": "b"}"#,
            r#"{"key": "short"}"#,
        ] {
            assert_eq!(send(&page, request(), wrong).await.0, StatusCode::BAD_REQUEST, "{wrong}");
        }
        assert_eq!(send(&page, request(), &"x".repeat(100_000)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    }
}

#[tokio::test]
async fn it_lists_what_is_stored_page_by_page_and_never_a_body() {
    let (page, key) = used().await;
    let (status, listed) = get(&page, "/cache/entries").await;
    assert_eq!((status, &listed["next"], listed["entries"].as_array().unwrap().len()), (StatusCode::OK, &Value::Null, 1));
    let entry = &listed["entries"][0];
    assert_eq!(
        (&entry["key"], &entry["tags"], &entry["model"], &entry["status"]),
        (&json!(key), &json!(["blue"]), &json!("m"), &json!(200))
    );
    assert_eq!(*entry, get(&page, &format!("/cache/entry?key={key}")).await.1);
    // The only one is on the first page, so that nothing comes after it.
    let (status, after) = get(&page, &format!("/cache/entries?limit=1&cursor={key}")).await;
    assert_eq!((status, &after["entries"]), (StatusCode::OK, &json!([])));
    assert_eq!(get(&page, "/cache/entries?cursor=").await.1["entries"].as_array().unwrap().len(), 1, "an empty cursor is none");
    for wrong in ["limit=0", "limit=1001", "limit=x", "cursor=elsewhere"] {
        assert_eq!(get(&page, &format!("/cache/entries?{wrong}")).await.0, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let (status, _, _) = send(&page, Request::post("/cache/entries"), "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn sums_series_and_records_agree() {
    let (page, _) = used().await;
    let (_, metrics) = get(&page, "/cache/metrics").await;
    assert_eq!((&metrics["requests"], &metrics["by_outcome"]), (&json!(1), &json!({"miss": 1})));
    let of = &metrics["by_model"]["m"];
    assert_eq!((&of["requests"], &of["errors"], &of["failed"]), (&json!(1), &json!(0), &json!(0)));
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&of["latency_ms"]), ["hit", "miss"]);
    assert_eq!(
        (names(&of["latency_ms"]["hit"]), names(&metrics["latency_ms"]["hit"])),
        (names(&of["latency_ms"]["miss"]), names(&metrics["latency_ms"]["miss"]))
    );
    assert_eq!(names(&of["latency_ms"]["miss"]), ["p50", "p90", "p99"]);
    assert_eq!((of["latency_ms"]["hit"]["p50"].as_f64(), of["latency_ms"]["miss"]["p50"].is_number()), (None, true));
    let (_, series) = get(&page, "/cache/series?hours=1").await;
    let slices = series.as_array().unwrap();
    assert!((61..=62).contains(&slices.len()), "{}", slices.len());
    assert_eq!(slices.iter().map(|slice| slice["misses"].as_u64().unwrap()).sum::<u64>(), 1);
    let (_, records) = get(&page, "/cache/records").await;
    assert_eq!((&records[0]["outcome"], records.as_array().unwrap().len()), (&json!("miss"), 1));
    let (_, stats) = get(&page, "/cache/stats").await;
    assert_eq!((&stats["misses"], &stats["cached_responses"], &stats["store_answers"]), (&json!(1), &json!(1), &json!(true)));
}

#[tokio::test]
async fn the_page_is_served_under_a_strict_policy_and_loads_nothing_from_elsewhere() {
    let (page, _) = used().await;
    for path in ["/cache/", "/cache/page.js", "/cache/page.css", "/cache/stats", "/cache/nothing"] {
        let (_, head, text) = send(&page, Request::get(path), "").await;
        let policy = head.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}");
        assert_eq!(head.headers()["x-content-type-options"], "nosniff");
        let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://") && !elsewhere.contains("//cdn"), "{path}");
        assert!(!text.contains("innerHTML") && !text.contains("onclick") && !text.contains(" style="), "{path}");
    }
    let (status, head, _) = send(&page, Request::get("/cache"), "").await;
    assert_eq!((status, &head.headers()["location"]), (StatusCode::PERMANENT_REDIRECT, &"/cache/".parse().unwrap()));
    let elsewhere = page.clone().base("/admin/cache/");
    assert_eq!(send(&elsewhere, Request::get("/admin/cache/"), "").await.0, StatusCode::OK);
    assert_eq!(send(&elsewhere, Request::get("/cache/"), "").await.0, StatusCode::NOT_FOUND);
    let (status, head, text) = send(&page, Request::head("/cache/stats"), "").await;
    assert_eq!((status, text.as_str(), &head.headers()["content-type"]), (StatusCode::OK, "", &"application/json".parse().unwrap()));
}

#[tokio::test]
async fn other_pages_and_those_without_the_token_are_refused() {
    let (page, _) = used().await;
    let wish = r#"{"tag": "blue"}"#;
    let post = || Request::post("/cache/invalidate").header("host", "localhost:1");
    for (request, expected) in [
        (post(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (post().header("content-type", "text/plain"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (post().header("content-type", "application/json").header("origin", "http://evil.example"), StatusCode::FORBIDDEN),
        (post().header("content-type", "application/json").header("sec-fetch-site", "cross-site"), StatusCode::FORBIDDEN),
        (Request::get("/cache/invalidate"), StatusCode::METHOD_NOT_ALLOWED),
        (Request::post("/cache/stats"), StatusCode::METHOD_NOT_ALLOWED),
        (Request::post("/cache/"), StatusCode::METHOD_NOT_ALLOWED),
    ] {
        assert_eq!(send(&page, request, wish).await.0, expected);
    }
    assert_eq!(get(&page, "/cache/stats").await.1["cached_responses"], 1, "nothing was lost");

    let page = page.token("s3cret");
    for given in [None, Some("Bearer s3cre"), Some("Bearer"), Some("s3cret"), Some("Basic s3cret")] {
        for path in ["/cache/stats", "/cache/metrics", "/cache/records", "/cache/entries", "/cache/nothing"] {
            let request = given.into_iter().fold(Request::get(path), |request, given| request.header("authorization", given));
            let (status, head, _) = send(&page, request, "").await;
            assert_eq!((status, &head.headers()["www-authenticate"]), (StatusCode::UNAUTHORIZED, &"Bearer".parse().unwrap()), "{given:?}");
        }
    }
    assert_eq!(send(&page, Request::get("/cache/"), "").await.0, StatusCode::OK);
    let request = post().header("content-type", "application/json").header("origin", "http://localhost:1");
    assert_eq!(send(&page, request.header("authorization", "bearer s3cret"), wish).await.0, StatusCode::OK);
    assert!(!format!("{page:?}").contains("s3cret"));

    for (set, given) in [("s3cret\n", "Bearer s3cret"), ("s3cret", "Bearer  s3cret ")] {
        let request = Request::get("/cache/stats").header("authorization", given);
        assert_eq!(send(&page.clone().token(set), request, "").await.0, StatusCode::OK, "blanks around it are no part of a token");
    }
}
