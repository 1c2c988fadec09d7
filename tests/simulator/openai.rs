//! OpenAI: chat, text completions, embeddings, models.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{CHAT, chat, document, events, joined, post, request, send, simulator, weather, whole, with};

fn datas(events: Vec<(String, Value)>) -> Vec<Value> {
    events.into_iter().map(|(name, data)| if name.is_empty() { data } else { panic!("a named event: {name}") }).collect()
}

#[tokio::test]
async fn a_chat_answer_has_every_field() {
    let answer = document(CHAT, &chat("gpt-4o")).await;
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "gpt-4o");
    assert_eq!(answer["service_tier"], "default");
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("fp_"));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().contains("sky blue"));
    let usage = &answer["usage"];
    assert_eq!(usage["total_tokens"], usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap());
}

#[tokio::test]
async fn a_chat_stream_says_what_the_document_says() {
    let document = document(CHAT, &chat("gpt-4o")).await;
    let mut chunks = datas(events(CHAT, &with(chat("gpt-4o"), "stream", json!(true))).await);
    assert_eq!(chunks.pop(), Some(json!("[DONE]")));
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(joined(&chunks, "/choices/0/delta/content"), document["choices"][0]["message"]["content"]);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], document["id"]);
        assert!(chunk.get("usage").is_none());
    }
}

#[tokio::test]
async fn usage_comes_in_a_chunk_of_its_own_if_it_is_wanted() {
    let body = with(with(chat("gpt-4o"), "stream", json!(true)), "stream_options", json!({ "include_usage": true }));
    let mut chunks = datas(events(CHAT, &body).await);
    assert_eq!(chunks.pop(), Some(json!("[DONE]")));
    let last = chunks.pop().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"], document(CHAT, &chat("gpt-4o")).await["usage"]);
    assert!(chunks.iter().all(|chunk| chunk.as_object().unwrap().contains_key("usage") && chunk["usage"].is_null()));
    // Besides the tokens: the role and the finish reason.
    assert_eq!(chunks.len() as u64, last["usage"]["completion_tokens"].as_u64().unwrap() + 2);
}

#[tokio::test]
async fn several_choices_differ_and_add_up() {
    let body = with(chat("gpt-4o"), "n", json!(3));
    let whole = document(CHAT, &body).await;
    let texts: Vec<&Value> = (0..3).map(|n| &whole["choices"][n]["message"]["content"]).collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2]);
    let mut chunks = datas(events(CHAT, &with(body, "stream", json!(true))).await);
    chunks.pop();
    for (index, text) in texts.into_iter().enumerate() {
        let own: Vec<Value> = chunks.iter().filter(|chunk| chunk["choices"][0]["index"] == index).cloned().collect();
        assert_eq!(joined(&own, "/choices/0/delta/content"), *text);
        assert_eq!(own.iter().filter(|chunk| chunk["choices"][0]["finish_reason"] == "stop").count(), 1);
    }
    assert_eq!(chunks.len() as u64, whole["usage"]["completion_tokens"].as_u64().unwrap() + 2 * 3);
}

#[tokio::test]
async fn a_limit_cuts_the_answer() {
    for name in ["max_tokens", "max_completion_tokens"] {
        let answer = document(CHAT, &with(chat("gpt-4o"), name, json!(5))).await;
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        assert_eq!(answer["usage"]["completion_tokens"], 5);
        let chunks = datas(events(CHAT, &with(with(chat("gpt-4o"), name, json!(5)), "stream", json!(true))).await);
        assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "length");
    }
    let answer = document(CHAT, &with(chat("gpt-4o"), "max_tokens", json!(5_000))).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_tool_is_called_where_the_choice_forces_it() {
    let other = json!({ "type": "function", "function": { "name": "other" } });
    let tool = json!({ "type": "function", "function": { "name": "weather", "parameters": weather() } });
    let body = with(chat("gpt-4o"), "tools", json!([other, tool]));
    let free = document(CHAT, &body).await;
    assert!(free["choices"][0]["message"]["content"].is_string());

    let body = with(body, "tool_choice", json!({ "type": "function", "function": { "name": "weather" } }));
    let answer = document(CHAT, &body).await;
    let call = &answer["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(call["function"]["name"], "weather");
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["city"].is_string() && arguments["days"].is_i64());

    let chunks = datas(events(CHAT, &with(body.clone(), "stream", json!(true))).await);
    assert_eq!(chunks[0]["choices"][0]["delta"]["tool_calls"][0]["function"]["name"], "weather");
    assert_eq!(joined(&chunks, "/choices/0/delta/tool_calls/0/function/arguments"), call["function"]["arguments"]);

    let answer = document(CHAT, &with(body, "tool_choice", json!("required"))).await;
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "other");
}

#[tokio::test]
async fn json_is_answered_where_it_is_asked_for() {
    let answer = document(CHAT, &with(chat("gpt-4o"), "response_format", json!({ "type": "json_object" }))).await;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).unwrap().is_object());

    let format = json!({ "type": "json_schema", "json_schema": { "name": "weather", "schema": weather() } });
    let answer = document(CHAT, &with(chat("gpt-4o"), "response_format", format)).await;
    let value: Value = serde_json::from_str(answer["choices"][0]["message"]["content"].as_str().unwrap()).unwrap();
    assert!(value["city"].is_string() && value["days"].is_i64());
}

#[tokio::test]
async fn text_completions_come_whole_and_streamed() {
    let body = json!({ "model": "gpt-3.5-turbo-instruct", "prompt": "Why is the sky blue?" });
    let answer = document("/v1/completions", &body).await;
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let mut chunks = datas(events("/v1/completions", &with(body, "stream", json!(true))).await);
    assert_eq!(chunks.pop(), Some(json!("[DONE]")));
    assert_eq!(joined(&chunks, "/choices/0/text"), answer["choices"][0]["text"]);
}

fn vector(item: &Value) -> Vec<f32> {
    match &item["embedding"] {
        Value::String(packed) => {
            STANDARD.decode(packed).unwrap().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
        }
        list => serde_json::from_value(list.clone()).unwrap(),
    }
}

fn product(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[tokio::test]
async fn embeddings_are_unit_vectors_and_near_where_texts_are() {
    let body = json!({ "model": "text-embedding-3-small", "input": ["the blue sky", "a blue sky today", "stock market crash"] });
    let answer = document("/v1/embeddings", &body).await;
    let vectors: Vec<Vec<f32>> = answer["data"].as_array().unwrap().iter().map(vector).collect();
    assert_eq!(vectors.len(), 3);
    for vector in &vectors {
        assert_eq!(vector.len(), 1_536);
        assert!((product(vector, vector) - 1.0).abs() < 1e-4);
    }
    assert!(product(&vectors[0], &vectors[1]) > product(&vectors[0], &vectors[2]) + 0.2);
    assert_eq!(answer["usage"]["prompt_tokens"], 3 + 4 + 3);
}

#[tokio::test]
async fn embeddings_are_the_same_in_base64() {
    let body = json!({ "model": "text-embedding-3-small", "input": "sky", "dimensions": 64 });
    let plain = vector(&document("/v1/embeddings", &body).await["data"][0]);
    let answer = document("/v1/embeddings", &with(body, "encoding_format", json!("base64"))).await;
    assert!(answer["data"][0]["embedding"].is_string());
    assert_eq!(vector(&answer["data"][0]), plain);
    assert_eq!(plain.len(), 64);
}

#[tokio::test]
async fn embeddings_take_tokens_too() {
    let count = async |input: Value| {
        let answer = document("/v1/embeddings", &json!({ "model": "e", "input": input })).await;
        (answer["data"].as_array().unwrap().len(), answer["usage"]["total_tokens"].as_u64().unwrap())
    };
    assert_eq!(count(json!([1, 2, 3])).await, (1, 3));
    assert_eq!(count(json!([[1, 2], [3]])).await, (2, 3));
}

#[tokio::test]
async fn models_are_listed() {
    let get = async |path: &str| whole(send(&simulator(), request("GET", path, "")).await).await;
    let mut plain = request("GET", "/v1/models", "");
    plain.headers_mut().remove("anthropic-version");
    let list: Value = serde_json::from_slice(&whole(send(&simulator(), plain).await).await.1).unwrap();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][0]["object"], "model");
    let list: Value = serde_json::from_slice(&get("/v1/models").await.1).unwrap();
    assert_eq!(list["data"][0]["type"], "model");
    assert_eq!(list["has_more"], false);
    assert_eq!(get("/v1/models/gpt-4o").await.0.status, 200);
    assert_eq!(get("/v1/models/nobody").await.0.status, 404);
}

#[tokio::test]
async fn header_fields_are_those_of_the_provider() {
    let (head, _) = post(CHAT, &chat("gpt-4o")).await;
    for name in ["date", "x-request-id", "openai-processing-ms", "x-ratelimit-remaining-requests", "x-ratelimit-limit-tokens"] {
        assert!(head.headers.contains_key(name), "{name}");
    }
}
