//! What must not be stored: errors, torsos and refusals in disguise, and what cannot be read.

use tower_response_cache::llm::Dialects;

use crate::{EVENTS, JSON, golden, inspect, objection};

type Allow = fn(Dialects) -> Dialects;

const ERRORS: Allow = |dialects| dialects.store_errors(true);
const TRUNCATED: Allow = |dialects| dialects.store_truncated(true);
const REFUSED: Allow = |dialects| dialects.store_refused(true);
const PAUSED: Allow = |dialects| dialects.store_paused(true);
const EMPTY: Allow = |dialects| dialects.store_empty(true);
const INCOMPLETE: Allow = |dialects| dialects.store_incomplete(true);

fn all() -> [Allow; 6] {
    [ERRORS, TRUNCATED, REFUSED, PAUSED, EMPTY, INCOMPLETE]
}

/// Is objected to with these words by default, and stored if, and only if, this is allowed.
fn check(content_type: &str, text: &str, wanted: &str, allow: Allow) {
    assert_eq!(objection(&Dialects::new(), content_type, text).as_deref(), Some(wanted), "{text}");
    assert_eq!(objection(&allow(Dialects::new()), content_type, text), None, "allowed: {text}");
    let others =
        all().into_iter().filter(|other| !std::ptr::fn_addr_eq(*other, allow)).fold(Dialects::new(), |dialects, other| other(dialects));
    assert!(objection(&others, content_type, text).is_some(), "not allowed: {text}");
}

#[test]
fn a_chat_answer_is_not_stored_that_ended_badly() {
    let stop = r#""finish_reason":"stop""#;
    for (reason, wanted, allow) in [
        ("length", "answer truncated", TRUNCATED),
        ("model_length", "answer truncated", TRUNCATED),
        ("content_filter", "answer refused or filtered", REFUSED),
        ("error", "answer broken off", ERRORS),
        ("insufficient_system_resource", "answer broken off", ERRORS),
    ] {
        for name in [
            "openai-chat.sse",
            "openai-chat-two.sse",
            "azure-chat.sse",
            "deepseek-chat.sse",
            "openai-completions.sse",
            "openai-completions.json",
        ] {
            let golden = golden(name);
            check(golden.content_type, &golden.with(stop, &format!(r#""finish_reason":"{reason}""#)), wanted, allow);
        }
        check(
            JSON,
            &golden("openai-chat.json").with(r#""finish_reason": "stop""#, &format!(r#""finish_reason": "{reason}""#)),
            wanted,
            allow,
        );
    }
    // Of two choices, one.
    let golden = golden("openai-chat-two.sse");
    let text = golden.text.replacen(stop, r#""finish_reason":"length""#, 1);
    check(EVENTS, &text, "answer truncated", TRUNCATED);
}

#[test]
fn no_spelling_of_a_bad_end_is_missed() {
    let golden = golden("openai-chat.sse");
    for to in [
        r#""finish_reason" : "length""#,
        r#""finish\u005freason":"length""#,
        r#""\u0066inish_reason":"len\u0067th""#,
        r#""finish_reason":"LENGTH""#,
    ] {
        check(EVENTS, &golden.with(r#""finish_reason":"stop""#, to), "answer truncated", TRUNCATED);
        // In the middle of chunks that are otherwise alike.
        let text = golden.text.replacen(
            r#"{"content":" stood"},"logprobs":null,"finish_reason":null"#,
            &format!(r#"{{"content":" stood"}},{to}"#),
            1,
        );
        assert_ne!(text, golden.text);
        check(EVENTS, &text, "answer truncated", TRUNCATED);
    }
    let empty = golden.with(r#""finish_reason":null"#, r#""finish_reason":"""#);
    assert_eq!(objection(&Dialects::new(), EVENTS, &empty), None, "some leave it empty up to the end");
    let text =
        empty.replacen(r#"" stood"},"logprobs":null,"finish_reason":"""#, r#"" stood"},"logprobs":null,"finish_reason":"length""#, 1);
    assert_ne!(text, empty);
    check(EVENTS, &text, "answer truncated", TRUNCATED);
    let text = golden.text.replacen(r#"{"content":" stood"}"#, r#"{"content":" stood"},"err\u006fr":1"#, 1);
    check(EVENTS, &text, "answer broken off", ERRORS);
    let text = golden.text.replacen(r#""delta":{"content":" stood"}"#, r#""delta":{"content":" stood"},"error":{"code":502}"#, 1);
    check(EVENTS, &text, "answer broken off", ERRORS);
    let text = golden.text.replacen(r#""content":" stood""#, r#""content":" st\"finish_reason\":\"length\"ood""#, 1);
    assert_eq!(objection(&Dialects::new(), EVENTS, &text), None, "text is only text");
    let text = golden.text.replacen(r#""finish_reason":null"#, r#""finish_reason":"","finish_reason":null"#, 1);
    check(EVENTS, &text, "body not readable", INCOMPLETE);
}

#[test]
fn a_chat_answer_without_choices_is_not_stored() {
    check(JSON, r#"{"id":"c","object":"chat.completion","model":"m","choices":[],"usage":null}"#, "no choices", EMPTY);
    check(JSON, r#"{"id":"c","object":"chat.completion","model":"m"}"#, "no choices", EMPTY);
    check(JSON, r#"{"choices":[null]}"#, "no choices", EMPTY);
    check(EVENTS, "data: {\"object\":\"chat.completion.chunk\",\"choices\":[]}\n\ndata: [DONE]\n\n", "no choices", EMPTY);
}

#[test]
fn a_chat_stream_without_its_end_is_not_stored() {
    for name in ["openai-chat.sse", "azure-chat.sse", "openrouter-chat.sse", "openai-completions.sse"] {
        let golden = golden(name);
        check(EVENTS, &golden.with("data: [DONE]\n\n", ""), "stream ends without its last event", INCOMPLETE);
        let unfinished = golden.with(r#""stop""#, r#""""#);
        check(EVENTS, &unfinished, "stream ends without a finish reason", INCOMPLETE);
    }
}

#[test]
fn a_chat_stream_in_which_one_choice_did_not_end_is_not_stored() {
    let golden = golden("openai-chat-two.sse");
    for text in [1, 2].map(|nth| {
        let mut seen = 0;
        golden
            .text
            .split_inclusive("\n\n")
            .filter(|event| {
                seen += usize::from(event.contains(r#""stop""#));
                !(event.contains(r#""stop""#) && seen == nth)
            })
            .collect::<String>()
    }) {
        assert_ne!(text, golden.text);
        check(EVENTS, &text, "stream ends without a finish reason", INCOMPLETE);
    }
}

#[test]
fn an_error_in_a_stream_keeps_it_from_being_stored_wherever_it_stands() {
    let errors = [
        "data: {\"error\":{\"message\":\"The server had an error\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
        "data: {\"type\": \"error\", \"code\": \"server_error\", \"message\": \"x\", \"sequence_number\": 3}\n\n",
        "event: error\ndata: upstream connect error\n\n",
        "data: {\"error\": \"out of memory\", \"error_type\": \"generation\"}\n\n",
        "data: { \"e\\u0072ror\" : { \"code\" : 500 } }\n\n",
    ];
    for name in [
        "openai-chat.sse",
        "openai-responses.sse",
        "openai-transcription.sse",
        "anthropic.sse",
        "gemini.sse",
        "other.sse",
        "openrouter-chat.sse",
    ] {
        let golden = golden(name);
        let plain = golden.text.replace("\r\n", "\n");
        let events: Vec<&str> = plain.split_inclusive("\n\n").collect();
        for error in errors {
            for at in 0..=events.len() {
                let text = format!("{}{error}{}", events[..at].concat(), events[at..].concat());
                let found = objection(&Dialects::new(), EVENTS, &text);
                assert_eq!(found.as_deref(), Some("error in the stream"), "{name} at {at}: {error}");
            }
        }
    }
    check(EVENTS, &format!("{}data: [DONE]\n\n", errors[0]), "error in the stream", ERRORS);
}

#[test]
fn an_error_in_a_document_keeps_it_from_being_stored() {
    for text in [
        r#"{"error":{"message":"Provider returned error","code":502},"user_id":"u"}"#,
        r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}"#,
        r#"{"error":"model not loaded"}"#,
        r#"[{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}]"#,
        r#"{"type":"error"}"#,
    ] {
        check(JSON, text, "error in the answer", ERRORS);
    }
    check(
        JSON,
        &golden("openai-responses.json").with(r#""error": null"#, r#""error": {"code":"server_error"}"#),
        "error in the answer",
        ERRORS,
    );
}

#[test]
fn a_response_that_is_not_completed_is_not_stored() {
    let document = golden("openai-responses.json");
    let status = "\n  \"status\": \"completed\"";
    for (to, wanted, allow) in [
        ("failed", "response failed", ERRORS),
        ("cancelled", "response failed", ERRORS),
        ("incomplete", "answer truncated", TRUNCATED),
        ("in_progress", "response not completed", INCOMPLETE),
        ("queued", "response not completed", INCOMPLETE),
    ] {
        check(JSON, &document.with(status, &format!("\n  \"status\": \"{to}\"")), wanted, allow);
    }
    check(JSON, &document.with(status, "\n  \"state\": \"completed\""), "response not completed", INCOMPLETE);
    let filtered = document
        .with(status, "\n  \"status\": \"incomplete\"")
        .replace(r#""incomplete_details": null"#, r#""incomplete_details": {"reason": "content_filter"}"#);
    check(JSON, &filtered, "answer refused or filtered", REFUSED);

    let stream = golden("openai-responses.sse");
    for (to, wanted, allow) in
        [("failed", "response failed", ERRORS), ("cancelled", "response failed", ERRORS), ("incomplete", "answer truncated", TRUNCATED)]
    {
        let text = stream.with("response.completed", &format!("response.{to}"));
        check(EVENTS, &text, wanted, allow);
        check(EVENTS, &text.replace(&format!("event: response.{to}\n"), ""), wanted, allow);
    }
    let last = stream.text.rfind("event: response.completed").unwrap();
    check(EVENTS, &stream.text[..last], "stream ends without its last event", INCOMPLETE);
    check(EVENTS, &format!("{}data: [DONE]\n\n", &stream.text[..last]), "stream ends without its last event", INCOMPLETE);
    let odd = stream.text[last..].replacen(r#""status":"completed""#, r#""status":"incomplete""#, 1);
    check(EVENTS, &format!("{}{odd}", &stream.text[..last]), "answer truncated", TRUNCATED);
}

#[test]
fn a_transcription_without_its_end_is_not_stored() {
    for name in ["openai-transcription.sse", "openai-transcription-diarized.sse"] {
        let golden = golden(name);
        let done = golden.text.find(r#"data: {"type":"transcript.text.done""#).unwrap();
        check(EVENTS, &golden.text[..done], "stream ends without its last event", INCOMPLETE);
        check(EVENTS, &format!("{}data: [DONE]\n\n", &golden.text[..done]), "stream ends without its last event", INCOMPLETE);
        check(EVENTS, &format!("{0}{0}", golden.text), "data after the end of the stream", INCOMPLETE);
        assert_eq!(objection(&Dialects::new(), EVENTS, &format!("{}data: [DONE]\n\n", golden.text)), None);
    }
}

#[test]
fn an_anthropic_message_is_not_stored_that_ended_badly() {
    for (reason, wanted, allow) in [
        ("max_tokens", "answer truncated", TRUNCATED),
        ("model_context_window_exceeded", "answer truncated", TRUNCATED),
        ("refusal", "answer refused or filtered", REFUSED),
        ("pause_turn", "turn paused", PAUSED),
    ] {
        let to = format!(r#""stop_reason":"{reason}""#);
        check(EVENTS, &golden("anthropic.sse").with(r#""stop_reason":"end_turn""#, &to), wanted, allow);
        check(JSON, &golden("anthropic.json").with(r#""stop_reason":"tool_use""#, &to), wanted, allow);
    }
    for reason in ["stop_sequence", "tool_use"] {
        let text = golden("anthropic.sse").with(r#""stop_reason":"end_turn""#, &format!(r#""stop_reason":"{reason}""#));
        assert_eq!(objection(&Dialects::new(), EVENTS, &text), None);
    }
}

#[test]
fn an_anthropic_stream_without_its_end_is_not_stored() {
    let golden = golden("anthropic.sse");
    let stop = golden.text.find("event: message_stop").unwrap();
    check(EVENTS, &golden.text[..stop], "stream ends without its last event", INCOMPLETE);
    check(EVENTS, &format!("{}data: [DONE]\n\n", &golden.text[..stop]), "stream ends without its last event", INCOMPLETE);
    check(EVENTS, &golden.with(r#""stop_reason":"end_turn""#, r#""stop_reason":null"#), "stream ends without a stop reason", INCOMPLETE);
    let start = golden.text.find("event: content_block_start").unwrap();
    check(EVENTS, &golden.text[start..], "stream ends without its last event", INCOMPLETE);
}

#[test]
fn a_gemini_answer_is_not_stored_that_ended_badly() {
    for name in ["gemini.sse", "gemini.json", "gemini-array.json"] {
        let golden = golden(name);
        let colon = if name == "gemini.sse" { ":" } else { ": " };
        let stop = format!(r#""finishReason"{colon}"STOP""#);
        for (reason, wanted, allow) in [
            ("MAX_TOKENS", "answer truncated", TRUNCATED),
            ("SAFETY", "answer refused or filtered", REFUSED),
            ("RECITATION", "answer refused or filtered", REFUSED),
            ("PROHIBITED_CONTENT", "answer refused or filtered", REFUSED),
            ("MALFORMED_FUNCTION_CALL", "answer broken off", ERRORS),
            ("OTHER", "answer broken off", ERRORS),
            ("WHATEVER_COMES_NEXT", "answer broken off", ERRORS),
            ("FINISH_REASON_UNSPECIFIED", "candidate without a finish reason", INCOMPLETE),
        ] {
            check(golden.content_type, &golden.with(&stop, &format!(r#""finishReason":"{reason}""#)), wanted, allow);
        }
        check(golden.content_type, &golden.with(&stop, r#""done":true"#), "candidate without a finish reason", INCOMPLETE);
    }
    let second = golden("gemini.sse").text.replacen(r#""index":0"#, r#""index":1"#, 1);
    check(EVENTS, &second, "candidate without a finish reason", INCOMPLETE);
    let blocked = r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":9},"modelVersion":"gemini-2.5-flash"}"#;
    check(JSON, &blocked.replacen('{', r#"{"candidates":[{"finishReason":"STOP"}],"#, 1), "prompt blocked", REFUSED);
    assert_eq!(objection(&Dialects::new(), JSON, blocked).as_deref(), Some("prompt blocked"));
    check(JSON, r#"{"usageMetadata":{"promptTokenCount":9},"modelVersion":"gemini-2.5-flash"}"#, "no candidates", EMPTY);
}

#[test]
fn a_stream_that_goes_on_after_its_end_is_not_stored() {
    for (name, more) in [
        ("openai-chat.sse", golden("openai-chat.sse").text),
        ("openai-chat.sse", "data: {}\n\n"),
        ("anthropic.sse", golden("anthropic.sse").text),
        ("openai-responses.sse", "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n"),
    ] {
        let text = format!("{}{more}", golden(name).text);
        check(EVENTS, &text, "data after the end of the stream", INCOMPLETE);
        assert!(!inspect(&Dialects::new(), EVENTS, [text.as_bytes()]).proven);
    }
    for (name, more) in [
        ("openai-chat.sse", "data: [DONE]\n\n: bye\n\n: and"),
        ("anthropic.sse", "event: ping\ndata: {\"type\":\"ping\"}\n\ndata: [DONE]\n\n"),
        ("openai-responses.sse", "data: [DONE]\n\n"),
        ("gemini.sse", "data: [DONE]\n\n"),
    ] {
        assert_eq!(objection(&Dialects::new(), EVENTS, &format!("{}{more}", golden(name).text)), None, "{name}");
    }
}

#[test]
fn a_stream_that_says_nothing_is_not_stored() {
    for text in ["", ": OPENROUTER PROCESSING\n\n", "event: ping\ndata: {\"type\":\"ping\"}\n\n", "data:\n\n", "{\"error\":{}}\n\n"] {
        check(EVENTS, text, "stream without events", EMPTY);
    }
}

#[test]
fn what_cannot_be_read_is_not_stored() {
    check(JSON, "", "body not readable", INCOMPLETE);
    check(JSON, "upstream connect error", "body not readable", INCOMPLETE);
    check(JSON, "{\"a\":1}{\"a\":2}", "body not readable", INCOMPLETE);
    check(JSON, "data: [DONE]\n\n", "body not readable", INCOMPLETE);
    check(JSON, r#"{"object":"response","status":"completed","status":"failed"}"#, "body not readable", INCOMPLETE);
    let crowd =
        format!(r#"{{"choices":[{}{{"index":0,"finish_reason":"length"}}]}}"#, r#"{"index":0,"finish_reason":"stop"},"#.repeat(128));
    check(JSON, &crowd, "body not readable", INCOMPLETE);
    for name in ["openai-chat.sse", "anthropic.sse", "openai-responses.sse", "gemini.sse"] {
        let golden = golden(name);
        let text = golden.text.replace("\r\n", "\n").replacen("\n\n", "\n\ndata: {\"torn\n\n", 1);
        check(EVENTS, &text, "body not readable", INCOMPLETE);
        let text = format!("data: torn\n\n{}", golden.text);
        check(EVENTS, &text, "body not readable", INCOMPLETE);
    }
    check(EVENTS, "data: x\n\ndata: y\n", "stream ends within an event", INCOMPLETE);
    let proven = |text: &str| inspect(&Dialects::new(), JSON, [text.as_bytes()]).proven;
    assert!(!proven("12") && proven("[12]") && !proven("[12") && proven("{}"));
}

#[test]
fn what_is_too_long_is_not_stored_and_not_buffered() {
    let dialects = all().into_iter().fold(Dialects::new(), |dialects, allow| allow(dialects)).event_limit(400).document_limit(400);
    let golden = golden("openai-chat.sse");
    let long = golden.text.replacen("\"content\":\" stood\"", &format!("\"content\":\"{}\"", "x".repeat(400)), 1);
    for size in [7, 10_000] {
        let found = inspect(&dialects, EVENTS, long.as_bytes().chunks(size));
        assert_eq!((found.objection.as_deref(), found.proven), (Some("event too long"), false));
        let document = format!("[\"{}\"]", "x".repeat(397));
        let found = inspect(&dialects, JSON, document.as_bytes().chunks(size));
        assert_eq!((found.objection.as_deref(), found.proven), (Some("body too long"), false));
        assert_eq!(inspect(&dialects, JSON, document.as_bytes()[1..document.len() - 1].chunks(size)).objection, None);
    }
    let large = golden.text.replacen("\"content\":\" stood\"", &format!("\"content\":\"{}\"", "\\\"x".repeat(200_000)), 1);
    for size in [4096, 10_000_000] {
        assert_eq!(inspect(&Dialects::new(), EVENTS, large.as_bytes().chunks(size)).objection, None, "within the default limit");
    }
}

#[test]
fn streams_of_others_with_names_that_sound_alike_are_left_alone() {
    for text in [
        "event: message_created\ndata: {\"type\":\"message_created\",\"id\":7}\n\n",
        "data: {\"type\":\"message-start\"}\n\ndata: {\"type\":\"message-end\"}\n\n",
        "event: thread.message.delta\ndata: {\"object\":\"thread.message.delta\",\"delta\":{}}\n\nevent: done\ndata: [DONE]\n\n",
        "data: not json\n\n",
    ] {
        assert_eq!(objection(&Dialects::new(), EVENTS, text), None, "{text}");
    }
}
