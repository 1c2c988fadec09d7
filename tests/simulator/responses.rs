//! OpenAI Responses.

use serde_json::{Value, json};

use crate::{RESPONSES, ask, document, events, joined, weather, with};

#[tokio::test]
async fn a_response_has_every_field() {
    let response = document(RESPONSES, &with(ask("gpt-4o"), "instructions", json!("Be brief."))).await;
    assert!(response["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!(response["object"], "response");
    assert_eq!(response["status"], "completed");
    assert_eq!(response["instructions"], "Be brief.");
    assert_eq!(response["output"][0]["type"], "message");
    assert!(response["output"][0]["content"][0]["text"].as_str().unwrap().contains("sky blue"));
    let usage = &response["usage"];
    assert_eq!(usage["total_tokens"], usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap());
    assert_eq!(usage["input_tokens_details"]["cached_tokens"], 0);
}

#[tokio::test]
async fn a_stream_tells_its_events_in_order_and_ends_with_the_whole_response() {
    let events = events(RESPONSES, &with(ask("gpt-4o"), "stream", json!(true))).await;
    for (number, (name, data)) in events.iter().enumerate() {
        assert_eq!(data["type"], name.as_str());
        assert_eq!(data["sequence_number"], number);
    }
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let whole = document(RESPONSES, &ask("gpt-4o")).await;
    let text = &whole["output"][0]["content"][0]["text"];
    let deltas = || events.iter().filter(|(name, _)| name == "response.output_text.delta").map(|(_, data)| data);
    assert_eq!(joined(deltas(), "/delta"), *text);
    assert_eq!(deltas().count(), whole["usage"]["output_tokens"].as_u64().unwrap() as usize);
    let last = &events.last().unwrap().1["response"];
    assert_eq!(without_time(last), without_time(&whole));
    assert!(events[0].1["response"]["usage"].is_null());
}

/// The two calls may have been made in different seconds.
fn without_time(response: &Value) -> Value {
    with(response.clone(), "created_at", Value::Null)
}

#[tokio::test]
async fn a_limit_leaves_a_response_incomplete() {
    let body = with(ask("gpt-4o"), "max_output_tokens", json!(5));
    let response = document(RESPONSES, &body).await;
    assert_eq!(response["status"], "incomplete");
    assert_eq!(response["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(response["usage"]["output_tokens"], 5);
    let events = events(RESPONSES, &with(body, "stream", json!(true))).await;
    assert_eq!(events.last().unwrap().0, "response.incomplete");
}

#[tokio::test]
async fn a_tool_is_called_where_the_choice_forces_it() {
    let tools = json!([{ "type": "function", "name": "weather", "parameters": weather() }]);
    for choice in [json!("required"), json!({ "type": "function", "name": "weather" })] {
        let body = with(with(ask("gpt-4o"), "tools", tools.clone()), "tool_choice", choice);
        let response = document(RESPONSES, &body).await;
        let item = &response["output"][0];
        assert_eq!(item["type"], "function_call");
        assert_eq!(item["name"], "weather");
        let arguments: Value = serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["city"].is_string());
        let events = events(RESPONSES, &with(body, "stream", json!(true))).await;
        let deltas = events.iter().filter(|(name, _)| name == "response.function_call_arguments.delta").map(|(_, data)| data);
        assert_eq!(joined(deltas, "/delta"), item["arguments"]);
    }
}

#[tokio::test]
async fn input_may_be_a_list_and_json_may_be_asked_for() {
    let body = json!({ "model": "gpt-4o", "input": [{ "role": "user", "content": [{ "type": "input_text", "text": "Sky?" }] }],
        "text": { "format": { "type": "json_schema", "name": "weather", "schema": weather() } } });
    let response = document(RESPONSES, &body).await;
    let value: Value = serde_json::from_str(response["output"][0]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(value["days"].is_i64());
}
