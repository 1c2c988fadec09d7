//! When things are said. Time is tokio's and stands still until everybody waits.

use std::time::Duration;

use futures_util::FutureExt as _;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    CHAT, MESSAGES, chat, message, request, send,
    simulator::{Pace, Simulator},
    whole, with,
};

const FIRST: Duration = Duration::from_millis(600);
const EACH: Duration = Duration::from_millis(25);

#[test]
fn an_instant_pace_waits_for_nothing() {
    // No runtime: a timer would panic, and a wait would leave the future pending.
    let simulator = Simulator::new(Pace::instant());
    for body in [chat("m"), with(chat("m"), "stream", json!(true))] {
        let response = send(&simulator, request("POST", CHAT, body.to_string())).now_or_never().unwrap();
        assert!(!whole(response).now_or_never().unwrap().1.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_begins_after_the_first_wait_and_goes_token_by_token() {
    let simulator = Simulator::new(Pace::new(FIRST, EACH));
    let start = Instant::now();
    let mut response = send(&simulator, request("POST", MESSAGES, with(message("m"), "stream", json!(true)).to_string())).await;
    assert_eq!(start.elapsed(), FIRST);
    assert_eq!(response.body().size_hint().exact(), None);
    let mut tokens = 0;
    while let Some(frame) = response.frame().await {
        if frame.unwrap().into_data().unwrap().starts_with(b"event: content_block_delta") {
            tokens += 1;
        }
        assert_eq!(start.elapsed(), FIRST + EACH * tokens);
    }
    assert!(tokens > 20);
    assert!(response.body().is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn a_document_takes_as_long_as_its_stream() {
    let simulator = Simulator::new(Pace::new(FIRST, EACH));
    let start = Instant::now();
    let response = send(&simulator, request("POST", CHAT, chat("m").to_string())).await;
    let took = start.elapsed();
    assert_eq!(response.headers()["openai-processing-ms"].to_str().unwrap(), took.as_millis().to_string());
    assert!(response.body().size_hint().exact().is_some());
    let body: Value = serde_json::from_slice(&whole(response).await.1).unwrap();
    assert_eq!(took, FIRST + EACH * u32::try_from(body["usage"]["completion_tokens"].as_u64().unwrap()).unwrap());
    assert_eq!(start.elapsed(), took);
}

#[tokio::test(start_paused = true)]
async fn jitter_stays_within_its_share() {
    let simulator = Simulator::new(Pace::new(FIRST, EACH).jitter(0.5));
    let mut waits = Vec::new();
    for _ in 0..50 {
        let start = Instant::now();
        send(&simulator, request("POST", CHAT, with(chat("m"), "stream", json!(true)).to_string())).await;
        waits.push(start.elapsed());
    }
    // Tokio's timer rounds up to a millisecond.
    assert!(waits.iter().all(|wait| (FIRST / 2..=FIRST * 3 / 2 + Duration::from_millis(1)).contains(wait)), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait < FIRST) && waits.iter().any(|wait| *wait > FIRST));
}

#[tokio::test(start_paused = true)]
async fn the_default_answers_in_two_to_three_seconds() {
    let simulator = Simulator::with_seed(Pace::default(), 7);
    for _ in 0..20 {
        let start = Instant::now();
        send(&simulator, request("POST", CHAT, chat("m").to_string())).await;
        assert!((Duration::from_millis(1_700)..Duration::from_millis(3_300)).contains(&start.elapsed()), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn errors_do_not_wait() {
    let simulator = Simulator::new(Pace::default());
    let start = Instant::now();
    send(&simulator, request("POST", CHAT, chat("sim-error-500").to_string())).await;
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_finds_what_is_due_at_once() {
    let simulator = Simulator::new(Pace::new(FIRST, EACH));
    let mut response = send(&simulator, request("POST", CHAT, with(chat("m"), "stream", json!(true)).to_string())).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    let start = Instant::now();
    while let Some(frame) = response.frame().await {
        frame.unwrap();
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}
