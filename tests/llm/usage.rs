//! Token counts, in every form that services give them.

use tower_response_cache::{entry::Usage, llm::Dialects};

use crate::{EVENTS, JSON, begin, inspect};

fn usage(input_uncached: u64, cache_read: u64, cache_write_5m: u64, cache_write_1h: u64, output: u64, reasoning: u64) -> Option<Usage> {
    Some(Usage { input_uncached, cache_read, cache_write_5m, cache_write_1h, output, reasoning, ..Usage::default() })
}

/// The same with audio within the input, what was read from the cache, and the output.
fn heard(usage: Option<Usage>, audio_input: u64, audio_cache_read: u64, audio_output: u64) -> Option<Usage> {
    Some(Usage { audio_input, audio_cache_read, audio_output, ..usage? })
}

fn chat(tokens: &str) -> String {
    format!(r#"{{"object":"chat.completion","choices":[{{"finish_reason":"stop"}}],"usage":{tokens}}}"#)
}

fn responses(tokens: &str) -> String {
    format!(r#"{{"object":"response","status":"completed","usage":{tokens}}}"#)
}

fn anthropic(tokens: &str) -> String {
    format!(r#"{{"type":"message","stop_reason":"end_turn","usage":{tokens}}}"#)
}

fn gemini(tokens: &str) -> String {
    format!(r#"{{"candidates":[{{"finishReason":"STOP"}}],"usageMetadata":{tokens}}}"#)
}

#[test]
fn counts_are_normalised() {
    let cases = [
        (chat(r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}"#), usage(10, 0, 0, 0, 5, 0)),
        (chat(r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4}}"#), usage(6, 4, 0, 0, 5, 0)),
        (chat(r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":40}}"#), usage(0, 10, 0, 0, 5, 0)),
        (
            chat(r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":5}}"#),
            usage(1, 4, 5, 0, 5, 0),
        ),
        (
            chat(r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":4,"cache_creation_tokens":50}}"#),
            usage(0, 4, 6, 0, 5, 0),
        ),
        (
            responses(r#"{"input_tokens":10,"input_tokens_details":{"cached_tokens":0,"cache_write_tokens":7},"output_tokens":6}"#),
            usage(3, 0, 7, 0, 6, 0),
        ),
        (chat(r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"audio_tokens":4,"cache_write_tokens":5}}"#), None),
        (chat(r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":null}"#), usage(10, 0, 0, 0, 5, 0)),
        (chat(r#"{"prompt_tokens":10,"completion_tokens":5.0}"#), usage(10, 0, 0, 0, 5, 0)),
        (
            chat(r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"completion_tokens_details":{"reasoning_tokens":3}}"#),
            usage(10, 0, 0, 0, 5, 3),
        ),
        (
            chat(r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":115,"completion_tokens_details":{"reasoning_tokens":100}}"#),
            usage(10, 0, 0, 0, 105, 100),
        ),
        (
            chat(r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_cache_hit_tokens":8,"prompt_cache_miss_tokens":2}"#),
            usage(2, 8, 0, 0, 5, 0),
        ),
        (chat(r#"{"completion_tokens":5,"prompt_cache_hit_tokens":8,"prompt_cache_miss_tokens":2}"#), usage(2, 8, 0, 0, 5, 0)),
        (
            chat(
                r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"audio_tokens":0},"completion_tokens_details":{"audio_tokens":0}}"#,
            ),
            usage(10, 0, 0, 0, 5, 0),
        ),
        (chat(r#"{"completion_tokens":5,"total_tokens":15}"#), None),
        (chat(r#"{"prompt_tokens":10}"#), None),
        (chat("{}"), None),
        (chat("null"), None),
        (r#"{"object":"list","data":[],"model":"m","usage":{"prompt_tokens":7,"total_tokens":7}}"#.to_owned(), usage(7, 0, 0, 0, 0, 0)),
        (
            responses(
                r#"{"input_tokens":10,"input_tokens_details":{"cached_tokens":4},"output_tokens":6,"output_tokens_details":{"reasoning_tokens":2}}"#,
            ),
            usage(6, 4, 0, 0, 6, 2),
        ),
        (responses(r#"{"input_tokens":10,"output_tokens":6}"#), usage(10, 0, 0, 0, 6, 0)),
        (responses(r#"{"output_tokens":6}"#), None),
        (
            anthropic(r#"{"input_tokens":10,"cache_read_input_tokens":100,"cache_creation_input_tokens":30,"output_tokens":6}"#),
            usage(10, 100, 30, 0, 6, 0),
        ),
        (
            anthropic(
                r#"{"input_tokens":10,"cache_creation_input_tokens":30,"cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":10},"output_tokens":6}"#,
            ),
            usage(10, 0, 20, 10, 6, 0),
        ),
        (
            anthropic(
                r#"{"input_tokens":10,"cache_creation":{"ephemeral_5m_input_tokens":20,"ephemeral_1h_input_tokens":10},"output_tokens":6}"#,
            ),
            usage(10, 0, 20, 10, 6, 0),
        ),
        (anthropic(r#"{"input_tokens":10,"cache_read_input_tokens":null,"output_tokens":6}"#), usage(10, 0, 0, 0, 6, 0)),
        (anthropic(r#"{"input_tokens":10}"#), None),
        (
            gemini(r#"{"promptTokenCount":10,"cachedContentTokenCount":4,"candidatesTokenCount":5,"thoughtsTokenCount":3}"#),
            usage(6, 4, 0, 0, 8, 3),
        ),
        (
            gemini(r#"{"promptTokenCount":10,"toolUsePromptTokenCount":20,"candidatesTokenCount":5,"totalTokenCount":35}"#),
            usage(30, 0, 0, 0, 5, 0),
        ),
        (gemini(r#"{"promptTokenCount":10,"thoughtsTokenCount":3,"totalTokenCount":13}"#), usage(10, 0, 0, 0, 3, 3)),
        (gemini(r#"{"promptTokenCount":10,"totalTokenCount":10}"#), usage(10, 0, 0, 0, 0, 0)),
        (gemini(r#"{"promptTokenCount":10}"#), None),
        (gemini(r#"{"candidatesTokenCount":5}"#), None),
        (
            gemini(
                r#"{"promptTokenCount":18446744073709551615,"toolUsePromptTokenCount":7,"candidatesTokenCount":18446744073709551615,"thoughtsTokenCount":1}"#,
            ),
            usage(u64::MAX, 0, 0, 0, u64::MAX, 1),
        ),
    ];
    for (text, wanted) in cases {
        let found = inspect(&Dialects::new(), JSON, [text.as_bytes()]);
        assert_eq!((found.usage, found.objection), (wanted, None), "{text}");
    }
}

#[test]
fn audio_is_counted_within_what_it_is_in_and_never_twice() {
    let audio = |prompt: &str, completion: &str| {
        chat(&format!(
            r#"{{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,"prompt_tokens_details":{prompt},"completion_tokens_details":{completion}}}"#
        ))
    };
    let spoken = |more: &str| gemini(&format!(r#"{{"promptTokenCount":10,"candidatesTokenCount":5,"thoughtsTokenCount":3,{more}}}"#));
    let transcription = |tokens: &str| format!(r#"{{"text":"a","usage":{tokens}}}"#);
    let cases = [
        (audio(r#"{"audio_tokens":4}"#, "null"), heard(usage(10, 0, 0, 0, 5, 0), 4, 0, 0)),
        (audio("null", r#"{"audio_tokens":4}"#), heard(usage(10, 0, 0, 0, 5, 0), 0, 0, 4)),
        (audio(r#"{"audio_tokens":40}"#, r#"{"audio_tokens":40}"#), heard(usage(10, 0, 0, 0, 5, 0), 10, 0, 5)),
        (audio("{}", r#"{"audio_tokens":4,"reasoning_tokens":3}"#), heard(usage(10, 0, 0, 0, 5, 3), 0, 0, 2)),
        // How much of the audio was cached is not said.
        (audio(r#"{"audio_tokens":4,"cached_tokens":5}"#, "null"), None),
        (audio(r#"{"audio_tokens":0,"cached_tokens":5}"#, r#"{"audio_tokens":1}"#), heard(usage(5, 5, 0, 0, 5, 0), 0, 0, 1)),
        (
            responses(
                r#"{"input_tokens":10,"input_tokens_details":{"audio_tokens":4},"output_tokens":6,"output_tokens_details":{"audio_tokens":1}}"#,
            ),
            heard(usage(10, 0, 0, 0, 6, 0), 4, 0, 1),
        ),
        (
            spoken(r#""promptTokensDetails":[{"modality":"TEXT","tokenCount":3},{"modality":"AUDIO","tokenCount":7}]"#),
            heard(usage(10, 0, 0, 0, 8, 3), 7, 0, 0),
        ),
        (
            spoken(
                r#""cachedContentTokenCount":6,"promptTokensDetails":[{"modality":"AUDIO","tokenCount":7},{"modality":"TEXT","tokenCount":3}],"cacheTokensDetails":[{"modality":"AUDIO","tokenCount":4},{"modality":"TEXT","tokenCount":2}]"#,
            ),
            heard(usage(4, 6, 0, 0, 8, 3), 3, 4, 0),
        ),
        // Again, how much of it was cached is not said.
        (spoken(r#""cachedContentTokenCount":6,"promptTokensDetails":[{"modality":"AUDIO","tokenCount":7}]"#), None),
        (spoken(r#""cachedContentTokenCount":6,"promptTokensDetails":[{"modality":"TEXT","tokenCount":10}]"#), usage(4, 6, 0, 0, 8, 3)),
        (spoken(r#""candidatesTokensDetails":[{"modality":"AUDIO","tokenCount":5}]"#), heard(usage(10, 0, 0, 0, 8, 3), 0, 0, 5)),
        (
            spoken(r#""toolUsePromptTokenCount":20,"toolUsePromptTokensDetails":[{"modality":"AUDIO","tokenCount":15}]"#),
            heard(usage(30, 0, 0, 0, 8, 3), 15, 0, 0),
        ),
        // Pictures are input like text, and output that is billed apart.
        (
            spoken(
                r#""promptTokensDetails":[{"modality":"IMAGE","tokenCount":7},{"modality":"VIDEO","tokenCount":2},{"modality":"DOCUMENT"}]"#,
            ),
            usage(10, 0, 0, 0, 8, 3),
        ),
        (spoken(r#""candidatesTokensDetails":[{"modality":"TEXT","tokenCount":4},{"modality":"IMAGE","tokenCount":1}]"#), None),
        (spoken(r#""candidatesTokensDetails":[{"modality":"VIDEO","tokenCount":1}]"#), None),
        (
            spoken(r#""promptTokensDetails":{"modality":"AUDIO"},"cacheTokensDetails":[7],"candidatesTokensDetails":null"#),
            usage(10, 0, 0, 0, 8, 3),
        ),
        (
            transcription(
                r#"{"type":"tokens","input_tokens":10,"input_token_details":{"text_tokens":2,"audio_tokens":8},"output_tokens":5}"#,
            ),
            heard(usage(10, 0, 0, 0, 5, 0), 8, 0, 0),
        ),
        (transcription(r#"{"type":"tokens","input_tokens":10,"output_tokens":5,"total_tokens":15}"#), usage(10, 0, 0, 0, 5, 0)),
        (transcription(r#"{"type":"duration","seconds":9}"#), None),
    ];
    for (text, wanted) in cases {
        let found = inspect(&Dialects::new(), JSON, [text.as_bytes()]);
        assert_eq!((found.usage, found.objection), (wanted, None), "{text}");
    }
}

fn stream(events: &[&str]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

#[test]
fn the_last_usage_of_a_chat_stream_counts_wherever_it_stands() {
    let chunk = |usage: &str, finish: &str| {
        format!(r#"{{"object":"chat.completion.chunk","choices":[{{"index":0,"finish_reason":{finish}}}],"usage":{usage}}}"#)
    };
    let (one, two) = (r#"{"prompt_tokens":3,"completion_tokens":1}"#, r#"{"prompt_tokens":3,"completion_tokens":2}"#);
    let audio = r#"{"prompt_tokens":3,"completion_tokens":2,"completion_tokens_details":{"audio_tokens":1}}"#;
    for (usages, wanted) in [
        (["null", "null", "null"], None),
        (["null", one, "null"], usage(3, 0, 0, 0, 1, 0)),
        ([one, two, "null"], usage(3, 0, 0, 0, 2, 0)),
        ([one, "null", two], usage(3, 0, 0, 0, 2, 0)),
        ([two, one, "{}"], usage(3, 0, 0, 0, 1, 0)),
        ([one, two, audio], heard(usage(3, 0, 0, 0, 2, 0), 0, 0, 1)),
        ([audio, "null", "{}"], heard(usage(3, 0, 0, 0, 2, 0), 0, 0, 1)),
        ([one, audio, two], None),
    ] {
        let text = stream(&[&chunk(usages[0], "null"), &chunk(usages[1], "null"), &chunk(usages[2], r#""stop""#), "[DONE]"]);
        let found = inspect(&Dialects::new(), EVENTS, [text.as_bytes()]);
        assert_eq!((found.usage, found.objection), (wanted, None), "{usages:?}");
    }
}

#[test]
fn anthropic_deltas_replace_what_the_start_said_field_by_field() {
    let text = |start: &str, first: &str, last: &str| {
        stream(&[
            &format!(r#"{{"type":"message_start","message":{{"model":"m","usage":{start}}}}}"#),
            &format!(r#"{{"type":"message_delta","delta":{{"stop_reason":null}},"usage":{first}}}"#),
            &format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{last}}}"#),
            r#"{"type":"message_stop"}"#,
        ])
    };
    let start = r#"{"input_tokens":10,"cache_read_input_tokens":100,"cache_creation_input_tokens":30,"cache_creation":{"ephemeral_1h_input_tokens":30},"output_tokens":1}"#;
    for (first, last, wanted) in [
        (r#"{"output_tokens":4}"#, r#"{"output_tokens":9}"#, usage(10, 100, 0, 30, 9, 0)),
        (r#"{"output_tokens":9}"#, r#"{"output_tokens":4}"#, usage(10, 100, 0, 30, 4, 0)),
        (r#"{"output_tokens":9}"#, r#"{"output_tokens":0}"#, usage(10, 100, 0, 30, 0, 0)),
        ("null", r#"{"input_tokens":70,"cache_read_input_tokens":0,"output_tokens":9}"#, usage(70, 0, 0, 30, 9, 0)),
        ("null", "null", usage(10, 100, 0, 30, 1, 0)),
    ] {
        let text = text(start, first, last);
        let found = inspect(&Dialects::new(), EVENTS, [text.as_bytes()]);
        assert_eq!((found.usage, found.objection), (wanted, None), "{text}");
    }
}

#[test]
fn usage_is_told_of_answers_that_are_not_stored() {
    for (text, wanted) in [
        (
            stream(&[r#"{"choices":[{"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#]),
            usage(3, 0, 0, 0, 2, 0),
        ),
        (
            stream(&[r#"{"type":"response.incomplete","response":{"status":"incomplete","usage":{"input_tokens":3,"output_tokens":2}}}"#]),
            usage(3, 0, 0, 0, 2, 0),
        ),
        (stream(&[r#"{"type":"message_start","message":{"usage":{"input_tokens":3,"output_tokens":2}}}"#]), usage(3, 0, 0, 0, 2, 0)),
    ] {
        let found = inspect(&Dialects::new(), EVENTS, [text.as_bytes()]);
        assert!(found.objection.is_some());
        assert_eq!(found.usage, wanted, "{text}");
    }
}

#[test]
fn what_only_shows_an_earlier_answer_again_took_no_tokens() {
    let text = r#"{"object":"response","status":"completed","model":"m","usage":{"input_tokens":3,"output_tokens":2}}"#;
    for (method, wanted) in [("POST", (usage(3, 0, 0, 0, 2, 0), Some("chat"))), ("GET", (None, None))] {
        let mut inspector = begin(&Dialects::new(), method, &[("content-type", "application/json")]).unwrap();
        inspector.frame(text.as_bytes());
        let found = inspector.end();
        assert_eq!((found.usage, found.operation.as_deref()), wanted, "{method}");
        assert_eq!((found.model.as_deref(), found.objection), (Some("m"), None), "{method}");
    }
}
