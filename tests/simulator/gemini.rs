//! Gemini.

use serde_json::{Value, json};

use crate::{GENERATE, STREAM_ARRAY, STREAM_EVENTS, contents, document, events, joined, post, request, send, simulator, weather, with};
use http_body_util::BodyExt as _;

#[tokio::test]
async fn a_response_has_every_field() {
    let response = document(GENERATE, &contents()).await;
    let candidate = &response["candidates"][0];
    assert_eq!(candidate["finishReason"], "STOP");
    assert_eq!(candidate["content"]["role"], "model");
    assert!(candidate["content"]["parts"][0]["text"].as_str().unwrap().contains("sky blue"));
    assert_eq!(response["modelVersion"], "gemini-2.5-flash");
    assert!(response["responseId"].is_string());
    let usage = &response["usageMetadata"];
    assert_eq!(usage["totalTokenCount"], usage["promptTokenCount"].as_u64().unwrap() + usage["candidatesTokenCount"].as_u64().unwrap());
}

fn is_the_document(responses: &[Value], document: &Value) {
    let place = "/candidates/0/content/parts/0/text";
    assert!(responses.len() > 2);
    assert_eq!(joined(responses, place), *document.pointer(place).unwrap());
    let (last, others) = responses.split_last().unwrap();
    assert_eq!(last["candidates"][0]["finishReason"], "STOP");
    assert!(others.iter().all(|response| response["candidates"][0].get("finishReason").is_none()));
    assert_eq!(last["usageMetadata"], document["usageMetadata"]);
    assert!(responses.iter().all(|response| response["responseId"] == document["responseId"]));
}

#[tokio::test]
async fn events_say_what_the_document_says() {
    let responses: Vec<Value> = events(STREAM_EVENTS, &contents()).await.into_iter().map(|(_, data)| data).collect();
    is_the_document(&responses, &document(GENERATE, &contents()).await);
}

#[tokio::test]
async fn an_array_in_pieces_says_what_the_document_says() {
    let mut body = send(&simulator(), request("POST", STREAM_ARRAY, contents().to_string())).await.into_body();
    let mut array = Vec::new();
    let mut frames = 0;
    while let Some(frame) = body.frame().await {
        array.extend_from_slice(&frame.unwrap().into_data().unwrap());
        frames += 1;
    }
    let responses: Vec<Value> = serde_json::from_slice(&array).unwrap();
    assert_eq!(frames, responses.len() + 1);
    is_the_document(&responses, &document(GENERATE, &contents()).await);
}

#[tokio::test]
async fn candidates_end_each_for_itself() {
    let body = with(contents(), "generationConfig", json!({ "candidateCount": 3 }));
    let whole = document(GENERATE, &body).await;
    let events = events(STREAM_EVENTS, &body).await;
    for index in 0..3 {
        let own: Vec<&Value> = events
            .iter()
            .filter_map(|(_, data)| data["candidates"].as_array()?.iter().find(|candidate| candidate["index"] == index))
            .collect();
        assert_eq!(joined(own.iter().copied(), "/content/parts/0/text"), whole["candidates"][index]["content"]["parts"][0]["text"]);
        assert_eq!(own.iter().filter(|candidate| candidate.get("finishReason").is_some()).count(), 1);
    }
}

#[tokio::test]
async fn a_limit_cuts_the_answer() {
    let body = with(contents(), "generationConfig", json!({ "maxOutputTokens": 10 }));
    let response = document(GENERATE, &body).await;
    assert_eq!(response["candidates"][0]["finishReason"], "MAX_TOKENS");
    assert_eq!(response["usageMetadata"]["candidatesTokenCount"], 10);
    let events = events(STREAM_EVENTS, &body).await;
    assert_eq!(events.last().unwrap().1["candidates"][0]["finishReason"], "MAX_TOKENS");
}

#[tokio::test]
async fn functions_are_called_and_json_is_answered_where_it_is_asked_for() {
    let body = with(
        contents(),
        "tools",
        json!([{ "functionDeclarations": [{ "name": "other" }, { "name": "weather", "parameters": weather() }] }]),
    );
    let calling = json!({ "functionCallingConfig": { "mode": "ANY", "allowedFunctionNames": ["weather"] } });
    let body = with(body, "toolConfig", calling);
    let call = document(GENERATE, &body).await["candidates"][0]["content"]["parts"][0]["functionCall"].clone();
    assert_eq!(call["name"], "weather");
    assert!(call["args"]["city"].is_string());
    assert_eq!(events(STREAM_EVENTS, &body).await[0].1["candidates"][0]["content"]["parts"][0]["functionCall"], call);

    let config = json!({ "responseMimeType": "application/json", "responseSchema": weather() });
    let response = document(GENERATE, &with(contents(), "generationConfig", config)).await;
    let text = response["candidates"][0]["content"]["parts"][0]["text"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(text).unwrap()["days"].is_i64());
}

#[tokio::test]
async fn header_fields_are_those_of_the_provider() {
    let (head, _) = post(GENERATE, &contents()).await;
    assert_eq!(head.headers["vary"], "Origin, X-Origin, Referer");
    assert!(head.headers.contains_key("server-timing"));
    assert!(head.headers.contains_key("date"));
}
