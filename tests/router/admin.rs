//! The admin listener.

use serde_json::{Value, json};

use crate::harness::{CHAT, Router, Upstream, chat, get, post, with};

async fn used() -> (Router, Upstream) {
    let upstream = Upstream::signed().await;
    let router = Router::before(&upstream, &[]).await;
    router.ask(chat("hello")).await;
    router.settled(1).await;
    router.ask(chat("hello")).await;
    router.ask(get("/v1/files")).await;
    (router, upstream)
}

#[tokio::test]
async fn statistics_have_the_names_that_operators_know() {
    let (router, _upstream) = used().await;
    let stats = router.stats().await;
    for (name, expected) in [
        ("cached_responses", json!(1)),
        ("total_keys", json!(1)),
        ("hit_rate", json!(0.5)),
        ("hits", json!(1)),
        ("misses", json!(1)),
        ("coalesced", json!(0)),
        ("stale", json!(0)),
        ("bypassed", json!({"method": 1})),
        ("stored", json!(1)),
        ("not_stored", json!(0)),
        ("store_errors", json!(0)),
    ] {
        assert_eq!(stats[name], expected, "{name} in {stats}");
    }
    assert!(stats["memory_human"].as_str().unwrap().ends_with('B'), "{stats}");
    assert!(stats["bytes"].as_u64().unwrap() > stats["bytes_saved"].as_u64().unwrap(), "{stats}");
    assert!(stats["saved_seconds"].as_f64().unwrap() > 0.0, "{stats}");
}

#[tokio::test]
async fn answers_are_invalidated_by_key_pattern_tag_and_all_together() {
    for (wish, invalidated) in [
        (json!({"all": true}), 1),
        (json!({"pattern": "model=gpt-4*"}), 1),
        (json!({"pattern": "route=chat"}), 1),
        (json!({"pattern": "provider=other"}), 0),
        (json!({"tag": "none"}), 0),
        (json!({"key": "00".repeat(32)}), 0),
    ] {
        let (router, upstream) = used().await;
        let answer = router.admin(post("/cache/invalidate", &wish)).await;
        assert_eq!((answer.status, answer.json()), (200, json!({"invalidated": invalidated})), "{wish}");
        let again = router.ask(chat("hello")).await;
        assert_eq!(again.cache(), if invalidated == 1 { "fwd=miss" } else { "hit" }, "{wish}");
        assert_eq!(upstream.calls(), 2 + invalidated, "{wish}");
    }
    let (router, _upstream) = used().await;
    let mut request = post("/cache/cleanup", "");
    request.headers_mut().remove("content-type");
    assert_eq!(router.admin(request).await.json(), json!({"removed": 0}));
}

#[tokio::test]
async fn a_wish_that_is_none_is_refused_and_nothing_is_lost() {
    let (router, _upstream) = used().await;
    for body in [
        "",
        "{}",
        "[]",
        "nonsense",
        r#"{"all": false}"#,
        r#"{"all": "yes"}"#,
        r#"{"all": true, "tag": "x"}"#,
        r#"{"key": "short"}"#,
        r#"{"pattern": ""}"#,
        r#"{"everything": true}"#,
    ] {
        let answer = router.admin(post("/cache/invalidate", body)).await;
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 400, "{body}");
        assert!(message.contains("exactly one of") || message.contains("64 hexadecimal digits"), "{body}: {message}");
        assert!(!message.contains("struct"), "{body}: {message}");
    }
    let long = format!("{{\"tag\": \"{}\"}}", "x".repeat(100_000));
    assert_eq!(router.admin(post("/cache/invalidate", long)).await.status, 413);
    for (request, status) in [
        (get("/cache/invalidate"), 405),
        (post("/cache/stats", "{}"), 405),
        (get("/cache/nothing"), 404),
        (with(post("/cache/invalidate", r#"{"all": true}"#), "content-type", "text/plain"), 415),
        (with(post("/cache/cleanup", "{}"), "content-type", "application/x-www-form-urlencoded"), 415),
        (with(post("/cache/invalidate", r#"{"all": true}"#), "origin", "http://127.0.0.1:8081"), 403),
        (with(post("/cache/invalidate", r#"{"all": true}"#), "sec-fetch-site", "cross-site"), 403),
        (with(post("/cache/invalidate", r#"{"all": true}"#), "host", "rebound.example"), 403),
        (with(get("/cache/stats"), "host", "127.0.0.1.example"), 403),
    ] {
        let answer = router.admin(request).await;
        assert_eq!(answer.status, status);
        assert!(answer.json()["error"]["message"].is_string());
    }
    assert_eq!(router.admin(get("/cache/invalidate")).await.header("allow"), Some("POST"));
    assert_eq!(router.ask(chat("hello")).await.cache(), "hit");
    for host in ["localhost:1", "LOCALHOST", "[::1]:8081", "127.0.0.1"] {
        assert_eq!(router.admin(with(get("/cache/stats"), "host", host)).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn a_token_is_asked_for_where_there_is_one() {
    let router = Router::start(&["--admin-token", "s3cret"]).await;
    for token in [None, Some(""), Some("Bearer "), Some("Bearer s3cre"), Some("Bearer s3crett"), Some("Basic s3cret"), Some("s3cret")] {
        for request in [
            get("/cache/stats"),
            post("/cache/invalidate", r#"{"all": true}"#),
            get("/cache/metrics"),
            get("/metrics"),
            get("/cache/nothing"),
        ] {
            let request = match token {
                Some(token) => with(request, "authorization", token),
                None => request,
            };
            let answer = router.admin(request).await;
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{token:?}");
            assert!(answer.json()["error"]["message"].is_string() && !answer.text().contains("s3cret"));
        }
    }
    for token in ["bearer s3cret", "Bearer  s3cret"] {
        assert_eq!(router.admin(with(get("/cache/stats"), "authorization", token)).await.status, 200, "{token}");
    }
    for path in ["/cache/", "/cache/page.js", "/cache/page.css"] {
        assert_eq!(router.admin(get(path)).await.status, 200, "the page asks for the token itself");
    }
    assert_eq!(router.admin(with(get("/cache/metrics"), "authorization", "Bearer s3cret")).await.status, 200);
    // Where a token is asked for, operators come by any name.
    let request = with(with(get("/cache/stats"), "authorization", "Bearer s3cret"), "host", "router.example");
    assert_eq!(router.admin(request).await.status, 200);
    assert_eq!(router.admin(get("/healthz")).await.status, 200);
}

#[tokio::test]
async fn a_call_past_the_cache_costs_what_its_tokens_do_and_reading_its_answer_again_nothing() {
    let router = Router::start(&[]).await;
    let goes_on = json!({"model": "gpt-4o", "input": "hello", "previous_response_id": "resp_1"});
    let streams = json!({"model": "gpt-4o", "input": "hello", "previous_response_id": "resp_1", "stream": true});
    for (requests, body) in [(1, goes_on), (2, streams)] {
        let answer = router.ask(post("/v1/responses", &body)).await;
        assert_eq!((answer.status, answer.cache()), (200, "fwd=bypass"), "{answer:?}");
        let metrics = router.recorded(requests).await;
        let tokens = |name: &str| metrics["tokens"][name].as_f64().unwrap();
        let cost = metrics["cost_usd"].as_f64().unwrap();
        assert!((cost - (tokens("input") * 2.5 + tokens("output") * 10.0) / 1e6).abs() < 1e-9 && cost > 0.0, "{metrics}");
        assert_eq!((&metrics["unpriced"], &metrics["by_model"]["gpt-4o"]["requests"]), (&json!(0), &json!(requests)), "{metrics}");
    }
    assert_eq!(router.ask(get("/v1/models")).await.status, 200);
    assert_eq!(router.recorded(3).await["unpriced"], 0);
    let stats = router.stats().await;
    assert_eq!((&stats["cost_usd"], &stats["unpriced"]), (&router.recorded(3).await["cost_usd"], &json!(0)));
}

#[tokio::test]
async fn what_the_cache_is_worth_is_told_in_numbers_of_every_form() {
    let router = Router::start(&[]).await;
    router.ask(chat("hello")).await;
    router.settled(1).await;
    router.ask(with(chat("hello"), "x-request-id", "second")).await;

    let metrics = router.recorded(2).await;
    assert_eq!((&metrics["requests"], &metrics["hit_rate"], &metrics["unpriced"]), (&json!(2), &json!(0.5), &json!(0)));
    assert_eq!(metrics["by_outcome"], json!({"hit": 1, "miss": 1}));
    let cost = metrics["cost_usd"].as_f64().unwrap();
    // The simulator says how many tokens it used; of GPT-4o they cost 2.50 and 10.00 a million.
    let tokens = |name: &str| metrics["tokens"][name].as_f64().unwrap();
    assert!((cost - (tokens("input") * 2.5 + tokens("output") * 10.0) / 1e6).abs() < 1e-9 && cost > 0.0, "{metrics}");
    assert_eq!((metrics["saved_usd"].as_f64(), tokens("replayed_output")), (Some(cost), tokens("output")));
    assert!(metrics["saved_seconds"].as_f64().unwrap() > 0.0);
    for group in ["by_model", "by_provider", "by_route"] {
        let name = match group {
            "by_model" => "gpt-4o",
            "by_provider" => "simulator",
            _ => "chat",
        };
        assert_eq!(metrics[group][name]["requests"], 2, "{metrics}");
        // One request of each kind: all quantiles are of it, there by 1 % and here by a sixteenth.
        for (kind, share) in [("hit", "p50"), ("hit", "p99"), ("miss", "p50"), ("miss", "p90"), ("miss", "p99")] {
            let (of_all, of_group) = (&metrics["latency_ms"][kind][share], &metrics[group][name]["latency_ms"][kind][share]);
            let (of_all, of_group) = (of_all.as_f64().unwrap(), of_group.as_f64().unwrap());
            assert!(of_all > 0.0 && (of_group / of_all - 1.0).abs() < 0.08, "{group} {kind} {share}: {of_group} of {of_all}");
        }
    }

    let records = router.admin(get("/cache/records?limit=1")).await.json();
    let record = &records[0];
    assert_eq!((records.as_array().unwrap().len(), &record["request_id"], &record["outcome"]), (1, &json!("second"), &json!("hit")));
    assert_eq!((&record["provider"], &record["model"], &record["reason"]), (&json!("simulator"), &json!("gpt-4o"), &json!("")));
    assert_eq!((record["cost_usd"].as_f64(), record["saved_usd"].as_f64()), (Some(0.0), Some(cost)));
    assert!(record["response_time_ms"].as_f64().unwrap() > 0.0 && record["at"].as_f64().unwrap() > 1e9);

    let listed = router.admin(get("/cache/entries")).await.json();
    let labels = &listed["entries"][0]["labels"];
    assert_eq!((&listed["entries"][0]["model"], &listed["next"]), (&json!("gpt-4o"), &serde_json::Value::Null));
    assert!(labels.as_array().unwrap().contains(&json!(["route", "chat"])), "{labels}");

    let stats = router.stats().await;
    assert_eq!((stats["saved_usd"].as_f64(), stats["cost_usd"].as_f64(), &stats["unpriced"]), (Some(cost), Some(cost), &json!(0)));
    let answer = router.admin(get("/metrics")).await;
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let nanos = (cost * 1e9).round();
    for line in [
        "cache_requests_total{outcome=\"hit\",reason=\"\"} 1\n".to_owned(),
        format!("cache_saved_nanousd_total{{provider=\"simulator\",model=\"gpt-4o\"}} {nanos}\n"),
        "cache_request_duration_seconds_count{outcome=\"miss\",reason=\"absent\"} 1\n".to_owned(),
        // The buckets that OpenTelemetry advises.
        r#"gen_ai_client_operation_duration_bucket{gen_ai_operation_name="chat",gen_ai_provider_name="simulator",gen_ai_response_model="gpt-4o",le="40.96"} 1"#.to_owned(),
        r#"gen_ai_response_model="gpt-4o",gen_ai_token_type="output",le="67108864"} 1"#.to_owned(),
    ] {
        assert!(answer.text().contains(&line), "{line}\n{}", answer.text());
    }
    for wrong in [
        "/cache/metrics?hours=0",
        "/cache/metrics?hours=x",
        "/cache/records?limit=100000",
        "/cache/entries?limit=0",
        "/cache/entries?cursor=elsewhere",
    ] {
        assert_eq!(router.admin(get(wrong)).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn errors_of_upstreams_are_counted_where_they_happen() {
    let router = Router::start(&[]).await;
    for model in ["gpt-4o", "sim-error-500", "sim-error-529", "sim-error-429"] {
        router.ask(post(CHAT, json!({"model": model, "messages": [{"role": "user", "content": "hello"}]}))).await;
    }
    let metrics = router.recorded(4).await;
    assert_eq!((&metrics["requests"], &metrics["errors"], &metrics["failed"]), (&json!(4), &json!(2), &json!(0)), "{metrics}");
    let of = |model: &str| metrics["by_model"][model]["errors"].as_u64();
    assert_eq!((of("gpt-4o"), of("sim-error-500"), of("sim-error-429")), (Some(0), Some(1), Some(0)));
    assert_eq!(metrics["by_provider"]["simulator"]["errors"], 2);
    assert_eq!(metrics["unpriced"], 0, "what failed is not billed: {metrics}");
}

#[tokio::test]
async fn tenants_are_told_apart_where_a_field_names_them() {
    let router = Router::start(&["--sharing", "header:x-tenant"]).await;
    for tenant in ["blue", "red", "red"] {
        router.ask(with(chat("hello"), "x-tenant", tenant)).await;
        router.settled(if tenant == "blue" { 1 } else { 2 }).await;
    }
    router.ask(chat("hello")).await;
    router.ask(with(chat("hello"), "x-tenant", "caf\u{e9}")).await;
    let metrics = router.recorded(5).await;
    let tenants = &metrics["by_label"]["tenant"];
    assert_eq!(tenants.as_object().unwrap().len(), 3, "{metrics}");
    assert_eq!(tenants["caf\u{e9}"]["requests"], 1, "{metrics}");
    assert_eq!((&tenants["red"]["requests"], &tenants["red"]["hit_rate"]), (&json!(2), &json!(0.5)));
    assert_eq!((&tenants["blue"]["requests"], &tenants["blue"]["latency_ms"]["hit"]["p50"]), (&json!(1), &serde_json::Value::Null));
    let removed = router.admin(post("/cache/invalidate", r#"{"pattern": "tenant=red"}"#)).await;
    assert_eq!(removed.json(), json!({"invalidated": 1}));
}

#[tokio::test]
async fn prices_of_ones_own_go_before_those_that_are_built_in() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, r#"{"gpt-4o": {"input_cost_per_token": 1.0, "output_cost_per_token": 0.0}}"#).unwrap();
    let router = Router::start(&["--prices", file.path().to_str().unwrap()]).await;
    router.ask(chat("hello")).await;
    router.settled(1).await;
    let metrics = router.admin(get("/cache/metrics")).await.json();
    assert_eq!(metrics["cost_usd"].as_f64(), metrics["tokens"]["input"].as_f64());
}

#[tokio::test]
async fn the_public_listener_has_no_admin_paths() {
    let (router, upstream) = used().await;
    let calls = upstream.calls();
    for request in [get("/cache/stats"), post("/cache/invalidate", r#"{"all": true}"#)] {
        let answer: Value = router.ask(request).await.json();
        assert!(answer["target"].as_str().unwrap().starts_with("/cache/"), "passed on like any other: {answer}");
    }
    assert_eq!(upstream.calls(), calls + 2);
    assert_eq!(router.ask(chat("hello")).await.cache(), "hit");
}
