//! Faults that a caller orders by the name of the model.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use crate::{CHAT, MESSAGES, RESPONSES, ask, chat, document, events, message, post, split, with};

/// Every place that answers, with a request for a model: path, body, whether it is streamed.
fn places(model: &str) -> Vec<(String, Value, bool)> {
    let mut places = Vec::new();
    for (path, body) in [
        (CHAT, chat(model)),
        (RESPONSES, ask(model)),
        (MESSAGES, message(model)),
        ("/v1/completions", json!({ "model": model, "prompt": "Sky?" })),
    ] {
        places.push((path.to_owned(), body.clone(), false));
        places.push((path.to_owned(), with(body, "stream", json!(true)), true));
    }
    places.push(("/v1/embeddings".to_owned(), json!({ "model": model, "input": "Sky?" }), false));
    for (action, streamed) in [("generateContent", false), ("streamGenerateContent", true), ("streamGenerateContent?alt=sse", true)] {
        places.push((format!("/v1beta/models/{model}:{action}"), crate::contents(), streamed));
    }
    places
}

/// Whether a body is what a caller may take for a complete answer.
fn is_complete(body: &Bytes) -> bool {
    let text = std::str::from_utf8(body).unwrap();
    let named = ["[DONE]", "event: message_stop", "event: response.completed", "\"finishReason\":\"STOP\""];
    let closed = serde_json::from_slice::<Value>(body).is_ok();
    (closed || named.iter().any(|name| text.contains(name))) && !text.contains("\"error\":{")
}

#[tokio::test]
async fn sound_models_give_complete_answers() {
    for (path, body, _) in places("sound") {
        let (head, bytes) = post(&path, &body).await;
        assert_eq!(head.status, StatusCode::OK, "{path}");
        assert!(is_complete(&bytes), "{path}: {bytes:?}");
    }
}

#[tokio::test]
async fn statuses_come_with_an_error_in_the_dialect() {
    for status in [400, 429, 500, 503, 529] {
        for (path, body, _) in places(&format!("gpt-4o-sim-error-{status}")) {
            let (head, bytes) = post(&path, &body).await;
            assert_eq!(head.status, status, "{path}");
            assert_eq!(head.headers["content-type"], "application/json");
            assert_eq!(head.headers.contains_key("retry-after"), status == 429);
            let error: Value = serde_json::from_slice(&bytes).unwrap();
            assert!(error["error"]["message"].is_string());
            let place = if path.starts_with("/v1beta") { "status" } else { "type" };
            assert!(error["error"][place].is_string(), "{path}: {error}");
            assert_eq!(error["type"] == "error", path == MESSAGES);
        }
    }
}

#[tokio::test]
async fn a_cut_answer_is_a_clean_end_without_a_terminal_event() {
    for (path, body, streamed) in places("sim-cut") {
        let (head, bytes) = post(&path, &body).await;
        assert_eq!(head.status, StatusCode::OK);
        assert!(bytes.len() > 100, "{path}");
        assert!(!is_complete(&bytes), "{path}: {bytes:?}");
        // Streams are cut between events.
        assert!(
            !streamed || bytes.ends_with(b"\n\n") || bytes.ends_with(b"\r\n\r\n") || path.ends_with(":streamGenerateContent"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn an_error_in_the_stream_comes_after_a_good_beginning() {
    for (path, body, streamed) in places("sim-error-in-stream") {
        let (head, bytes) = post(&path, &body).await;
        assert_eq!(head.status, StatusCode::OK);
        assert!(!is_complete(&bytes), "{path}: {bytes:?}");
        if path.ends_with(":streamGenerateContent") {
            let responses: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
            assert!(responses.len() > 1 && responses[0].get("candidates").is_some());
            assert_eq!(responses.last().unwrap()["error"]["code"], 503);
        } else if streamed {
            let events = split(&bytes);
            let (name, data) = events.last().unwrap();
            assert!(events.len() > 1, "{path}");
            match path.as_str() {
                RESPONSES => {
                    assert_eq!((name.as_str(), &data["type"]), ("error", &json!("error")));
                    assert_eq!(data["sequence_number"], events.len() - 1);
                }
                MESSAGES => assert_eq!((name.as_str(), &data["error"]["type"]), ("error", &json!("overloaded_error"))),
                _ => assert!(data["error"]["message"].is_string()),
            }
        } else {
            let value: Value = serde_json::from_slice(&bytes).unwrap();
            assert!(value["error"]["message"].is_string(), "{path}");
            assert!(path != RESPONSES || value["status"] == "failed");
        }
    }
}

#[tokio::test]
async fn a_refusal_is_said_in_the_dialect() {
    let model = "sim-refusal";
    let choice = document(CHAT, &chat(model)).await["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "content_filter");
    assert!(choice["message"]["content"].is_null() && choice["message"]["refusal"].is_string());
    let chunks = events(CHAT, &with(chat(model), "stream", json!(true))).await;
    assert_eq!(chunks[chunks.len() - 2].1["choices"][0]["finish_reason"], "content_filter");

    let response = document(RESPONSES, &ask(model)).await;
    assert_eq!(response["incomplete_details"]["reason"], "content_filter");
    assert_eq!(response["output"][0]["content"][0]["type"], "refusal");
    assert_eq!(events(RESPONSES, &with(ask(model), "stream", json!(true))).await.last().unwrap().0, "response.incomplete");

    assert_eq!(document(MESSAGES, &message(model)).await["stop_reason"], "refusal");
    let stream = events(MESSAGES, &with(message(model), "stream", json!(true))).await;
    assert_eq!(stream[stream.len() - 2].1["delta"]["stop_reason"], "refusal");

    let path = format!("/v1beta/models/{model}:generateContent");
    assert_eq!(document(&path, &crate::contents()).await["promptFeedback"]["blockReason"], "PROHIBITED_CONTENT");
    let path = format!("/v1beta/models/{model}:streamGenerateContent?alt=sse");
    assert_eq!(events(&path, &crate::contents()).await[0].1["promptFeedback"]["blockReason"], "PROHIBITED_CONTENT");
}

#[tokio::test]
async fn an_empty_answer_is_complete() {
    for (path, body, _) in places("sim-empty") {
        let (_, bytes) = post(&path, &body).await;
        assert!(is_complete(&bytes), "{path}: {bytes:?}");
    }
    let answer = document(CHAT, &chat("sim-empty")).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "");
    assert_eq!(answer["usage"]["completion_tokens"], 0);
    assert_eq!(document(MESSAGES, &message("sim-empty")).await["content"], json!([]));
}
