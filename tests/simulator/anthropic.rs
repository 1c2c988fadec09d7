//! Anthropic Messages.

use serde_json::{Value, json};

use crate::{MESSAGES, document, events, joined, message, post, weather, with};

#[tokio::test]
async fn a_message_has_every_field() {
    let message = document(MESSAGES, &message("claude-sonnet-4-5")).await;
    assert!(message["id"].as_str().unwrap().starts_with("msg_01"));
    assert_eq!(message["type"], "message");
    assert_eq!(message["role"], "assistant");
    assert_eq!(message["stop_reason"], "end_turn");
    assert!(message["content"][0]["text"].as_str().unwrap().contains("sky blue"));
    assert_eq!(message["usage"]["cache_creation"]["ephemeral_1h_input_tokens"], 0);
    assert_eq!(message["usage"]["service_tier"], "standard");
    assert!(message["usage"]["input_tokens"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn a_stream_tells_its_events_in_order_and_says_what_the_document_says() {
    let events = events(MESSAGES, &with(message("claude"), "stream", json!(true))).await;
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(
        names,
        ["message_start", "content_block_start", "ping", "content_block_delta", "content_block_stop", "message_delta", "message_stop"]
    );
    assert!(events.iter().all(|(name, data)| data["type"] == name.as_str()));
    let whole = document(MESSAGES, &message("claude")).await;
    assert_eq!(joined(events.iter().map(|(_, data)| data), "/delta/text"), whole["content"][0]["text"]);
    let start = &events[0].1["message"];
    assert_eq!(start["id"], whole["id"]);
    assert_eq!(start["usage"]["output_tokens"], 1);
    let delta = &events[events.len() - 2].1;
    assert_eq!(delta["delta"]["stop_reason"], "end_turn");
    // Cumulative: it counts the tokens of the start as well.
    assert_eq!(delta["usage"]["output_tokens"], whole["usage"]["output_tokens"]);
    assert_eq!(delta["usage"]["output_tokens"].as_u64().unwrap() as usize, events.len() - 6);
}

#[tokio::test]
async fn a_limit_cuts_the_answer() {
    let body = with(message("claude"), "max_tokens", json!(5));
    let cut = document(MESSAGES, &body).await;
    assert_eq!(cut["stop_reason"], "max_tokens");
    assert_eq!(cut["usage"]["output_tokens"], 5);
    let events = events(MESSAGES, &with(body, "stream", json!(true))).await;
    assert_eq!(events[events.len() - 2].1["delta"]["stop_reason"], "max_tokens");
}

#[tokio::test]
async fn a_tool_is_used_where_the_choice_forces_it() {
    let tools = json!([{ "name": "weather", "input_schema": weather() }]);
    for choice in [json!({ "type": "any" }), json!({ "type": "tool", "name": "weather" })] {
        let body = with(with(message("claude"), "tools", tools.clone()), "tool_choice", choice);
        let whole = document(MESSAGES, &body).await;
        assert_eq!(whole["stop_reason"], "tool_use");
        assert_eq!(whole["content"][0]["name"], "weather");
        assert!(whole["content"][0]["input"]["city"].is_string());
        let events = events(MESSAGES, &with(body, "stream", json!(true))).await;
        let input = joined(events.iter().map(|(_, data)| data), "/delta/partial_json");
        assert_eq!(serde_json::from_str::<Value>(&input).unwrap(), whole["content"][0]["input"]);
    }
}

#[tokio::test]
async fn header_fields_are_those_of_the_provider() {
    let (head, _) = post(MESSAGES, &message("claude")).await;
    for name in ["date", "request-id", "anthropic-organization-id", "anthropic-ratelimit-requests-remaining"] {
        assert!(head.headers.contains_key(name), "{name}");
    }
    assert!(!head.headers.contains_key("x-request-id"));
}
