//! What the provider makes of requests: bad ones, repeated ones, strange ones.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{CHAT, GENERATE, MESSAGES, RESPONSES, ask, chat, contents, message, post, request, send, simulator, whole, with, without};

#[tokio::test]
async fn a_bad_request_is_told_which_field_is_wrong() {
    let embed = json!({ "model": "e", "input": "x" });
    for (path, body, field) in [
        (CHAT, without(chat("m"), "model"), "model"),
        (CHAT, with(chat("m"), "model", json!(7)), "model"),
        (CHAT, without(chat("m"), "messages"), "messages"),
        (CHAT, with(chat("m"), "messages", json!([])), "messages"),
        (CHAT, with(chat("m"), "messages", json!("hello")), "messages"),
        (CHAT, with(chat("m"), "messages", json!([{ "content": "x" }])), "messages[0].role"),
        (CHAT, with(chat("m"), "messages", json!([{ "role": "king", "content": "x" }])), "messages[0].role"),
        (CHAT, with(chat("m"), "n", json!(0)), "n"),
        (CHAT, with(chat("m"), "n", json!(129)), "n"),
        (CHAT, with(chat("m"), "stream", json!("yes")), "stream"),
        (CHAT, with(chat("m"), "max_tokens", json!(-1)), "max_tokens"),
        (CHAT, with(chat("m"), "stream_options", json!({ "include_usage": true })), "stream_options"),
        (CHAT, with(chat("m"), "tool_choice", json!("required")), "tool_choice"),
        ("/v1/completions", json!({ "model": "m" }), "prompt"),
        ("/v1/embeddings", without(embed.clone(), "input"), "input"),
        ("/v1/embeddings", with(embed.clone(), "input", json!([])), "input"),
        ("/v1/embeddings", with(embed.clone(), "input", json!("")), "input"),
        ("/v1/embeddings", with(embed.clone(), "input", json!([true])), "input"),
        ("/v1/embeddings", with(embed.clone(), "input", json!(vec!["x"; 2_049])), "input"),
        ("/v1/embeddings", with(embed.clone(), "input", json!(" x".repeat(8_193))), "input"),
        ("/v1/embeddings", with(embed.clone(), "dimensions", json!(4_000)), "dimensions"),
        ("/v1/embeddings", with(embed, "encoding_format", json!("hex")), "encoding_format"),
        (RESPONSES, with(ask("m"), "tool_choice", json!({ "type": "function", "name": "nobody" })), "tool_choice"),
        (MESSAGES, with(message("m"), "tool_choice", json!({ "type": "tool", "name": "nobody" })), "tool_choice"),
        (MESSAGES, with(message("m"), "max_tokens", json!(0)), "max_tokens"),
        (GENERATE, with(contents(), "toolConfig", json!({ "functionCallingConfig": { "mode": "ANY" } })), "toolConfig"),
        (GENERATE, with(contents(), "generationConfig", json!({ "candidateCount": 9 })), "candidateCount"),
        (RESPONSES, without(ask("m"), "input"), "input"),
        (RESPONSES, without(ask("m"), "model"), "model"),
        (RESPONSES, with(ask("m"), "input", json!([])), "input"),
        (MESSAGES, without(message("m"), "max_tokens"), "max_tokens"),
        (MESSAGES, without(message("m"), "messages"), "messages"),
        (MESSAGES, with(message("m"), "messages", json!([{ "role": "system", "content": "x" }])), "messages[0].role"),
        (GENERATE, json!({}), "contents"),
        (GENERATE, json!({ "contents": [{ "role": "user" }] }), "contents[0].parts"),
    ] {
        let (head, bytes) = post(path, &body).await;
        assert_eq!(head.status, StatusCode::BAD_REQUEST, "{path} {field}");
        let error: Value = serde_json::from_slice(&bytes).unwrap();
        let text = error["error"]["message"].as_str().unwrap();
        assert!(text.contains(field), "{path}: {text} does not name {field}");
        match path {
            GENERATE => assert_eq!(error["error"]["status"], "INVALID_ARGUMENT"),
            MESSAGES => assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("invalid_request_error"))),
            _ => assert_eq!((&error["error"]["param"], &error["error"]["type"]), (&json!(field), &json!("invalid_request_error"))),
        }
    }
}

#[tokio::test]
async fn what_is_no_json_object_is_refused_in_the_dialect() {
    for path in [CHAT, RESPONSES, MESSAGES, GENERATE, "/v1/embeddings", "/v1/completions"] {
        for body in ["", "{", "[]", "\u{7f}"] {
            let (head, bytes) = whole(send(&simulator(), request("POST", path, body)).await).await;
            assert_eq!(head.status, StatusCode::BAD_REQUEST, "{path} {body:?}");
            let error: Value = serde_json::from_slice(&bytes).unwrap();
            assert!(error["error"]["message"].as_str().unwrap().contains("JSON"), "{error}");
            assert_eq!(error["type"] == "error", path == MESSAGES);
        }
    }
}

#[tokio::test]
async fn anthropic_wants_its_version() {
    let mut request = request("POST", MESSAGES, message("claude").to_string());
    request.headers_mut().remove("anthropic-version");
    let (head, bytes) = whole(send(&simulator(), request).await).await;
    assert_eq!(head.status, StatusCode::BAD_REQUEST);
    assert!(std::str::from_utf8(&bytes).unwrap().contains("anthropic-version"));
}

#[tokio::test]
async fn unknown_places_and_wrong_methods_are_refused() {
    for (method, path, status) in [
        ("POST", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1beta/models/gemini:embed", 404),
        ("POST", "/v1beta/models/:generateContent", 404),
        ("GET", CHAT, 405),
        ("PUT", MESSAGES, 405),
        ("GET", GENERATE, 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/v1/models/gpt-4o", 405),
    ] {
        let (head, bytes) = whole(send(&simulator(), request(method, path, "{}")).await).await;
        assert_eq!(head.status, status, "{method} {path}");
        assert_eq!(head.headers.contains_key("allow"), status == 405);
        let error: Value = serde_json::from_slice(&bytes).unwrap();
        assert!(error["error"]["message"].is_string());
    }
}

#[tokio::test]
async fn no_two_answers_are_the_same() {
    let simulator = simulator();
    let embed = json!({ "model": "e", "input": "x" });
    for (path, body) in
        [(CHAT, chat("m")), (RESPONSES, ask("m")), (MESSAGES, message("m")), (GENERATE, contents()), ("/v1/embeddings", embed)]
    {
        let call = async || whole(send(&simulator, request("POST", path, body.to_string())).await).await.1;
        assert_ne!(call().await, call().await, "{path}");
    }
}

#[tokio::test]
async fn every_request_is_counted() {
    let simulator = simulator();
    assert_eq!(simulator.calls(), 0);
    for (number, (method, path)) in [("POST", CHAT), ("GET", "/v1/models"), ("GET", "/nowhere")].into_iter().enumerate() {
        send(&simulator.clone(), request(method, path, "{")).await;
        assert_eq!(simulator.calls(), number as u64 + 1);
    }
}

/// A request whose body comes in these frames, the last of them an error.
async fn stream(frames: Vec<Result<Bytes, String>>) -> (http::response::Parts, Bytes) {
    let frames = tokio_stream::iter(frames.into_iter().map(|frame| frame.map(Frame::data)));
    whole(simulator().oneshot(Request::post(CHAT).body(StreamBody::new(frames)).unwrap()).await.unwrap()).await
}

#[tokio::test]
async fn a_request_may_come_in_pieces_but_must_come_whole() {
    let body = chat("gpt-4o").to_string();
    let (first, second) = body.split_at(20);
    let frame = |text: &str| Ok(Bytes::from(text.to_owned()));
    assert_eq!(stream(vec![frame(first), frame(second)]).await.0.status, 200);
    let (head, bytes) = stream(vec![frame(first), Err("the wire broke".to_owned())]).await;
    assert_eq!(head.status, StatusCode::BAD_REQUEST);
    assert!(std::str::from_utf8(&bytes).unwrap().contains("the wire broke"));
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_before_all_of_it_is_read() {
    let mebibyte = Bytes::from(vec![b' '; 1 << 20]);
    let mut frames = vec![Ok(mebibyte); 17];
    frames.push(Err("read too far".to_owned()));
    assert_eq!(stream(frames).await.0.status, StatusCode::PAYLOAD_TOO_LARGE);
}
