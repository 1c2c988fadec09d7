//! What the simulated provider of the router example promises, one module per dialect.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a test, and each uses a part of what tests share"
)]

// Clippy knows tests by their attribute, and does not know what they call.

#[path = "../../examples/router/simulator/mod.rs"]
mod simulator;

mod anthropic;
mod faults;
mod gemini;
mod openai;
mod pacing;
mod requests;
mod responses;

use bytes::Bytes;
use http::{Request, Response, StatusCode, response};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use simulator::{Pace, SimBody, Simulator};

pub(crate) const CHAT: &str = "/v1/chat/completions";
pub(crate) const RESPONSES: &str = "/v1/responses";
pub(crate) const MESSAGES: &str = "/v1/messages";
pub(crate) const GENERATE: &str = "/v1beta/models/gemini-2.5-flash:generateContent";
pub(crate) const STREAM_EVENTS: &str = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse";
pub(crate) const STREAM_ARRAY: &str = "/v1beta/models/gemini-2.5-flash:streamGenerateContent";

/// A provider that does not wait. Two of these give the same answers.
pub(crate) fn simulator() -> Simulator {
    Simulator::with_seed(Pace::instant(), 7)
}

pub(crate) fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri(path).header("anthropic-version", "2023-06-01").body(Full::new(body.into())).unwrap()
}

pub(crate) async fn send(simulator: &Simulator, request: Request<Full<Bytes>>) -> Response<SimBody> {
    match simulator.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

pub(crate) async fn whole(response: Response<SimBody>) -> (response::Parts, Bytes) {
    let (head, body) = response.into_parts();
    (head, body.collect().await.unwrap().to_bytes())
}

/// Posts to a new provider.
pub(crate) async fn post(path: &str, body: &Value) -> (response::Parts, Bytes) {
    whole(send(&simulator(), request("POST", path, body.to_string())).await).await
}

/// Posts and expects a JSON document.
pub(crate) async fn document(path: &str, body: &Value) -> Value {
    let (head, body) = post(path, body).await;
    assert_eq!(head.status, StatusCode::OK, "{body:?}");
    assert!(head.headers["content-type"].to_str().unwrap().starts_with("application/json"));
    assert!(!head.headers.contains_key("cache-control"));
    serde_json::from_slice(&body).unwrap()
}

/// Posts and expects events, each with its name, if it has one, and its data.
pub(crate) async fn events(path: &str, body: &Value) -> Vec<(String, Value)> {
    let (head, body) = post(path, body).await;
    assert_eq!(head.status, StatusCode::OK, "{body:?}");
    assert!(head.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    assert_eq!(head.headers["cache-control"], "no-cache");
    split(&body)
}

pub(crate) fn split(body: &[u8]) -> Vec<(String, Value)> {
    let text = std::str::from_utf8(body).unwrap().replace("\r\n", "\n");
    let mut events = Vec::new();
    for event in text.strip_suffix("\n\n").unwrap_or(&text).split("\n\n").filter(|event| !event.is_empty()) {
        let mut name = String::new();
        let mut data = Value::Null;
        for line in event.lines() {
            match line.split_once(": ").unwrap() {
                ("event", value) => value.clone_into(&mut name),
                ("data", "[DONE]") => data = json!("[DONE]"),
                ("data", value) => data = serde_json::from_str(value).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        events.push((name, data));
    }
    events
}

/// The texts at a place in each of some values, joined.
pub(crate) fn joined<'a>(values: impl IntoIterator<Item = &'a Value>, pointer: &str) -> String {
    values.into_iter().filter_map(|value| value.pointer(pointer)?.as_str()).collect()
}

/// A request with a field more, or another value of it.
pub(crate) fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

/// A request without a field.
pub(crate) fn without(mut body: Value, name: &str) -> Value {
    body.as_object_mut().unwrap().remove(name);
    body
}

pub(crate) fn chat(model: &str) -> Value {
    json!({ "model": model, "messages": [{ "role": "user", "content": "Why is the sky blue?" }] })
}

pub(crate) fn ask(model: &str) -> Value {
    json!({ "model": model, "input": "Why is the sky blue?" })
}

pub(crate) fn message(model: &str) -> Value {
    with(chat(model), "max_tokens", json!(1_000))
}

pub(crate) fn contents() -> Value {
    json!({ "contents": [{ "role": "user", "parts": [{ "text": "Why is the sky blue?" }] }] })
}

/// The schema of what a weather tool takes.
pub(crate) fn weather() -> Value {
    json!({ "type": "object", "properties": { "city": { "type": "string" }, "days": { "type": "integer" } } })
}
