//! Whole answers are found whole, however they are cut; what is missing of them is missed.

use proptest::prelude::*;
use tower_response_cache::{entry::Usage, llm::Dialects};

use crate::{EVENTS, Golden, JSON, begin, golden, goldens, inspect, told};

/// Name, operation, model, service tier, proven, usage: uncached, read, written for 5 minutes and for an hour, output, reasoning, and audio within uncached, read and output.
type Row = (&'static str, Option<&'static str>, Option<&'static str>, Option<&'static str>, bool, Option<[u64; 9]>);

const FOUND: &[Row] = &[
    ("anthropic.json", Some("chat"), Some("claude-haiku-4-5-20251001"), Some("standard"), true, Some([380, 0, 0, 0, 41, 0, 0, 0, 0])),
    ("anthropic.sse", Some("chat"), Some("claude-sonnet-4-5-20250929"), Some("standard"), true, Some([12, 2100, 500, 200, 57, 0, 0, 0, 0])),
    ("azure-chat.sse", Some("chat"), Some("gpt-4o-2024-11-20"), None, true, None),
    ("deepseek-chat.sse", Some("chat"), Some("deepseek-reasoner"), None, true, Some([36, 64, 0, 0, 40, 30, 0, 0, 0])),
    ("gemini-array.json", Some("generate_content"), Some("gemini-2.5-flash"), None, true, Some([76, 1024, 0, 0, 89, 80, 0, 0, 0])),
    (
        "gemini-audio.sse",
        Some("generate_content"),
        Some("gemini-2.5-flash"),
        Some("flex"),
        false,
        Some([1280, 720, 0, 0, 66, 40, 960, 640, 0]),
    ),
    (
        "gemini-speech.json",
        Some("generate_content"),
        Some("gemini-2.5-pro-preview-tts"),
        None,
        true,
        Some([11, 0, 0, 0, 164, 0, 0, 0, 164]),
    ),
    ("gemini.json", Some("generate_content"), Some("gemini-2.5-flash"), None, true, Some([69, 0, 0, 0, 43, 40, 0, 0, 0])),
    ("gemini.sse", Some("generate_content"), Some("gemini-2.5-flash"), None, false, Some([76, 1024, 0, 0, 89, 80, 0, 0, 0])),
    (
        "openai-chat-audio.json",
        Some("chat"),
        Some("gpt-4o-audio-preview-2025-06-03"),
        Some("default"),
        true,
        Some([84, 0, 0, 0, 236, 0, 66, 0, 187]),
    ),
    ("openai-chat-audio.sse", Some("chat"), Some("gpt-audio-2025-08-28"), Some("default"), true, Some([91, 0, 0, 0, 54, 0, 74, 0, 40])),
    ("openai-chat-tools.sse", Some("chat"), Some("gpt-4.1-2025-04-14"), Some("priority"), true, None),
    ("openai-chat-two.sse", Some("chat"), Some("gpt-4o-2024-08-06"), Some("default"), true, None),
    ("openai-chat.json", Some("chat"), Some("gpt-4o-mini-2024-07-18"), Some("flex"), true, Some([19, 0, 0, 0, 10, 0, 0, 0, 0])),
    ("openai-chat.sse", Some("chat"), Some("gpt-4o-mini-2024-07-18"), Some("default"), true, Some([40, 1280, 0, 0, 14, 0, 0, 0, 0])),
    (
        "openai-completions.json",
        Some("text_completion"),
        Some("gpt-3.5-turbo-instruct:20230824-v2"),
        None,
        true,
        Some([5, 0, 0, 0, 7, 0, 0, 0, 0]),
    ),
    (
        "openai-completions.sse",
        Some("text_completion"),
        Some("gpt-3.5-turbo-instruct:20230824-v2"),
        None,
        true,
        Some([5, 0, 0, 0, 3, 0, 0, 0, 0]),
    ),
    ("openai-embeddings.json", Some("embeddings"), Some("text-embedding-3-small"), None, true, Some([8, 0, 0, 0, 0, 0, 0, 0, 0])),
    (
        "openai-responses.json",
        Some("chat"),
        Some("gpt-5-mini-2025-08-07"),
        Some("default"),
        true,
        Some([128, 1920, 0, 0, 330, 320, 0, 0, 0]),
    ),
    (
        "openai-responses.sse",
        Some("chat"),
        Some("gpt-5-mini-2025-08-07"),
        Some("default"),
        true,
        Some([128, 1920, 0, 0, 330, 320, 0, 0, 0]),
    ),
    ("openai-transcription-diarized.sse", Some("transcription"), None, None, true, Some([120, 0, 0, 0, 38, 0, 120, 0, 0])),
    ("openai-transcription.json", Some("transcription"), None, None, true, Some([14, 0, 0, 0, 45, 0, 14, 0, 0])),
    ("openai-transcription.sse", Some("transcription"), None, None, true, Some([33, 0, 0, 0, 12, 0, 25, 0, 0])),
    ("openai-whisper.json", Some("transcription"), None, None, true, None),
    ("openrouter-chat.sse", Some("chat"), Some("mistralai/mistral-small-3.2-24b-instruct"), None, true, Some([21, 0, 0, 0, 6, 0, 0, 0, 0])),
    ("other.json", None, None, None, true, None),
    ("other.sse", None, None, None, false, None),
];

fn usage(tokens: [u64; 9]) -> Usage {
    let [input_uncached, cache_read, cache_write_5m, cache_write_1h, output, reasoning, audio_input, audio_cache_read, audio_output] =
        tokens;
    Usage { input_uncached, cache_read, cache_write_5m, cache_write_1h, output, reasoning, audio_input, audio_cache_read, audio_output }
}

#[test]
fn whole_answers_are_whole_and_tell_their_model_and_usage() {
    assert_eq!(FOUND.len(), goldens().len());
    for (golden, row) in goldens().iter().zip(FOUND) {
        let found = golden.findings();
        let usage = row.5.map(usage);
        assert_eq!(found.objection, None, "{}", row.0);
        let operation = found.operation.as_deref();
        let got = (golden.name, operation, found.model.as_deref(), found.service_tier.as_deref(), found.proven, found.usage);
        assert_eq!(got, (row.0, row.1, row.2, row.3, row.4, usage));
    }
}

#[test]
fn findings_do_not_depend_on_where_an_answer_is_cut() {
    for golden in goldens() {
        let wanted = told(&golden.findings());
        let bytes = golden.text.as_bytes();
        for at in 0..=bytes.len() {
            let found = inspect(&Dialects::new(), golden.content_type, [&bytes[..at], &bytes[at..]]);
            assert_eq!(told(&found), wanted, "{} at {at}", golden.name);
        }
        assert_eq!(told(&inspect(&Dialects::new(), golden.content_type, bytes.chunks(1))), wanted, "{} byte by byte", golden.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn findings_do_not_depend_on_the_frames(which in 0..FOUND.len(), cuts in proptest::collection::vec(0.0_f64..1.0, 0..40)) {
        let golden = &goldens()[which];
        let bytes = golden.text.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|at| (at * bytes.len() as f64) as usize).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        let found = inspect(&Dialects::new(), golden.content_type, cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]));
        prop_assert_eq!(told(&found), told(&golden.findings()));
    }

    #[test]
    fn no_bytes_make_an_inspector_panic(
        which in 0..FOUND.len(),
        edits in proptest::collection::vec((0.0_f64..1.0, proptest::option::of(any::<u8>())), 1..6),
        size in 1_usize..300,
    ) {
        let golden = &goldens()[which];
        let mut bytes = golden.text.as_bytes().to_vec();
        for (at, edit) in edits {
            let at = (at * (bytes.len() - 1) as f64) as usize;
            match edit {
                Some(byte) => bytes[at] = byte,
                None => { bytes.remove(at); }
            }
        }
        let whole = inspect(&Dialects::new(), golden.content_type, [&bytes[..]]);
        let pieces = inspect(&Dialects::new(), golden.content_type, bytes.chunks(size));
        prop_assert_eq!(told(&whole), told(&pieces));
    }
}

#[test]
fn no_answer_that_was_cut_off_is_taken_for_a_whole_one() {
    for golden in goldens() {
        let bytes = golden.text.as_bytes();
        let whole = golden.text.trim_end().len();
        // The blank line after an event is part of it.
        let whole = if golden.content_type == JSON { whole } else { bytes.len() - usize::from(golden.text.ends_with("\r\n")) };
        for at in 0..whole {
            let found = inspect(&Dialects::new(), golden.content_type, [&bytes[..at]]);
            if golden.name == "other.sse" {
                let at_event = at > 0 && golden.text[..at].ends_with("\n\n") && golden.text[..at].contains("data");
                assert_eq!((found.objection.is_none(), found.proven), (at_event, false), "{} at {at}", golden.name);
            } else {
                assert!(found.objection.is_some() && !found.proven, "{} at {at}: {found:?}", golden.name);
            }
        }
        for at in whole..bytes.len() {
            assert_eq!(inspect(&Dialects::new(), golden.content_type, [&bytes[..at]]).objection, None, "{} at {at}", golden.name);
        }
    }
}

#[test]
fn lines_may_end_in_any_of_the_three_ways() {
    for golden in goldens().iter().filter(|golden| golden.content_type == EVENTS) {
        let wanted = told(&golden.findings());
        let plain = golden.text.replace("\r\n", "\n");
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("\u{feff}{}", plain.replace('\n', end));
            for size in [1, 2, 3, 64, text.len()] {
                let found = inspect(&Dialects::new(), EVENTS, text.as_bytes().chunks(size));
                assert_eq!(told(&found), wanted, "{} with {end:?} in pieces of {size}", golden.name);
            }
        }
    }
}

#[test]
fn members_that_nobody_knows_are_passed_over() {
    let deep = format!("{}{}", "[".repeat(2000), "]".repeat(2000));
    let unknown = format!(r#""x-new":{{"error":{{"choices":[],"finish_reason":"length"}},"n":[1e999,-0,"\ud800"],"deep":{deep}}},"#);
    for golden in goldens() {
        let text = match golden.content_type {
            EVENTS => golden.text.replace("data: {", &format!("data: {{{unknown}")),
            _ => golden.text.replacen('{', &format!("{{{unknown}"), 1),
        };
        assert_eq!(told(&inspect(&Dialects::new(), golden.content_type, [text.as_bytes()])), told(&golden.findings()), "{}", golden.name);
    }
}

#[test]
fn members_of_unexpected_types_count_as_absent() {
    let cases: [(Golden, &str, &str); 6] = [
        (golden("openai-chat.sse"), r#""usage":{"prompt_tokens":1320"#, r#""usage":{"prompt_tokens":"1320""#),
        (golden("openai-chat.json"), r#""prompt_tokens": 19"#, r#""prompt_tokens": -19"#),
        (golden("openai-chat.json"), r#""prompt_tokens": 19"#, r#""prompt_tokens": [19]"#),
        (golden("anthropic.json"), r#""output_tokens":41"#, r#""output_tokens":41.5"#),
        (golden("anthropic.sse"), r#""usage":{"#, r#""usage":7,"used":{"#),
        (golden("gemini.json"), r#""promptTokenCount": 9"#, r#""promptTokenCount": null"#),
    ];
    for (golden, from, to) in cases {
        let found = inspect(&Dialects::new(), golden.content_type, [golden.with(from, to).as_bytes()]);
        assert_eq!((found.objection, found.usage, found.proven), (None, None, true), "{} with {to}", golden.name);
    }
}

#[test]
fn documents_are_read_where_they_lie_if_they_come_whole() {
    for golden in goldens().iter().filter(|golden| golden.content_type == JSON) {
        for length in [golden.text.len(), golden.text.len() + 1, 0] {
            let mut inspector = begin(
                &Dialects::new(),
                "POST",
                &[("content-type", "application/problem+JSON; charset=utf-8"), ("content-length", &length.to_string())],
            )
            .unwrap();
            inspector.frame(golden.text.as_bytes());
            inspector.frame(b"");
            assert_eq!(told(&inspector.end()), told(&golden.findings()), "{}", golden.name);
        }
    }
}

#[test]
fn the_service_tier_may_stand_in_the_head_and_the_body_has_the_last_word() {
    for (name, wanted) in [("gemini.sse", "priority"), ("gemini-audio.sse", "flex")] {
        let golden = golden(name);
        let headers = [("content-type", golden.content_type), ("x-gemini-service-tier", "priority")];
        let mut inspector = begin(&Dialects::new(), "POST", &headers).unwrap();
        inspector.frame(golden.text.as_bytes());
        assert_eq!(inspector.end().service_tier.as_deref(), Some(wanted), "{name}");
    }
}

#[test]
fn what_is_not_to_be_read_is_left_alone() {
    for (method, headers) in [
        ("HEAD", &[("content-type", JSON)][..]),
        ("POST", &[("content-type", EVENTS), ("content-encoding", "gzip")]),
        ("POST", &[("content-type", "text/plain")]),
        ("POST", &[("content-type", "application/x-ndjson")]),
        ("POST", &[]),
    ] {
        assert!(begin(&Dialects::new(), method, headers).is_none(), "{method} {headers:?}");
    }
    assert!(begin(&Dialects::new(), "POST", &[("content-type", EVENTS), ("content-encoding", "identity")]).is_some());
}
