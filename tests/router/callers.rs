//! Who gets whose answers, and how a request is named.

use serde_json::json;

use crate::harness::{CHAT, Router, Upstream, chat, get, post, with};

#[tokio::test]
async fn callers_with_different_credentials_do_not_share() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    let path = "/v1beta/models/gemini-2.5-pro:generateContent";
    let callers: [&dyn Fn() -> http::Request<crate::harness::Body>; 7] = [
        &|| chat("hello"),
        &|| with(chat("hello"), "authorization", "Bearer one"),
        &|| with(chat("hello"), "authorization", "Bearer two"),
        &|| with(chat("hello"), "x-api-key", "one"),
        &|| with(chat("hello"), "cookie", "session=1"),
        &|| post(&format!("{path}?key=one"), "{}"),
        &|| post(&format!("{path}?key=two"), "{}"),
    ];
    for (n, caller) in (1..).zip(callers) {
        assert_eq!(router.ask(caller()).await.cache(), "fwd=miss", "caller {n}");
        router.settled(n).await;
    }
    for caller in callers {
        assert_eq!(router.ask(caller()).await.cache(), "hit");
    }
}

#[tokio::test]
async fn all_share_where_that_is_what_the_operator_said() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &["--sharing", "shared"]).await;
    router.ask(with(chat("hello"), "authorization", "Bearer one")).await;
    router.settled(1).await;
    assert_eq!(router.ask(with(chat("hello"), "authorization", "Bearer two")).await.cache(), "hit");
}

#[tokio::test]
async fn tenants_share_by_name_and_who_has_none_shares_with_nobody() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &["--sharing", "header:x-tenant"]).await;
    let ask = |tenant: &'static str, key: &'static str| router.ask(with(with(chat("hello"), "x-tenant", tenant), "authorization", key));
    assert_eq!(ask("blue", "Bearer one").await.cache(), "fwd=miss");
    assert!(upstream.last().headers.get("x-tenant").is_none(), "the tenant is the router's business");
    router.settled(1).await;
    assert_eq!(ask("blue", "Bearer two").await.cache(), "hit");
    assert_eq!(ask("red", "Bearer one").await.cache(), "fwd=miss");
    for _ in 0..2 {
        assert_eq!(router.ask(chat("hello")).await.cache(), "fwd=bypass");
    }
    let mut twice = with(chat("hello"), "x-tenant", "blue");
    twice.headers_mut().append("x-tenant", "red".parse().unwrap());
    assert_eq!(router.ask(twice).await.cache(), "fwd=bypass");
    assert_eq!(ask("", "Bearer one").await.cache(), "fwd=bypass");
}

#[tokio::test]
async fn the_callers_name_for_a_request_is_kept_and_one_that_is_unfit_is_replaced() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    let named = router.ask(with(chat("hello"), "x-request-id", "mine-1")).await;
    assert_eq!(named.header("x-request-id"), Some("mine-1"));
    assert_eq!(upstream.last().headers["x-request-id"], "mine-1");
    router.settled(1).await;
    let hit = router.ask(with(chat("hello"), "x-request-id", "mine-2")).await;
    assert_eq!((hit.cache(), hit.header("x-request-id")), ("hit", Some("mine-2")));

    let long = "x".repeat(129);
    for unfit in ["", "with space", &long] {
        let answer = router.ask(with(get("/v1/files"), "x-request-id", unfit)).await;
        let id = answer.header("x-request-id").unwrap();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{unfit:?} became {id:?}");
        assert_eq!(upstream.last().headers["x-request-id"], id);
    }
    let (one, two) = (router.ask(get("/v1/files")).await, router.ask(get("/v1/files")).await);
    assert_ne!(one.header("x-request-id"), two.header("x-request-id"));
}

#[tokio::test]
async fn the_upstreams_name_for_a_request_is_shown_beside_the_callers() {
    let upstream = Upstream::new(|_| async {
        let mut response = crate::harness::document("{}");
        response.headers_mut().insert("x-request-id", "theirs".parse().unwrap());
        response
    })
    .await;
    let router = Router::before(&upstream, &[]).await;
    let answer = router.ask(with(chat("hello"), "x-request-id", "mine")).await;
    assert_eq!((answer.header("x-request-id"), answer.header("x-upstream-request-id")), (Some("mine"), Some("theirs")));
    router.settled(1).await;
    let hit = router.ask(with(chat("hello"), "x-request-id", "mine")).await;
    assert_eq!((hit.header("x-request-id"), hit.header("x-upstream-request-id")), (Some("mine"), None));
}

#[tokio::test]
async fn how_a_caller_spells_the_router_makes_no_difference() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    router.ask(chat("hello")).await;
    router.settled(1).await;
    assert_eq!(router.ask(with(chat("hello"), "host", "router.example")).await.cache(), "hit");
    assert_eq!(upstream.last().headers["host"], upstream.address.to_string());
}

#[tokio::test]
async fn a_call_that_goes_on_from_state_is_not_cached() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    for state in [json!({"background": true}), json!({"previous_response_id": "resp_1"}), json!({"conversation": "conv_1"})] {
        for _ in 0..2 {
            assert_eq!(router.ask(post("/v1/responses", &state)).await.cache(), "fwd=bypass", "{state}");
        }
    }
}

#[tokio::test]
async fn how_json_is_written_makes_no_difference() {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    router.ask(post(CHAT, r#"{"model":"gpt-4o","seed":1}"#)).await;
    router.settled(1).await;
    assert_eq!(
        router
            .ask(post(
                CHAT,
                "{ \"seed\" : 1,
 \"model\" : \"gpt-4o\" }"
            ))
            .await
            .cache(),
        "hit"
    );
    assert_eq!(router.ask(post(CHAT, r#"{"model":"gpt-4o","seed":1.0}"#)).await.cache(), "fwd=miss");
}
