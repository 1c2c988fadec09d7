//! Whole answers are found whole, however they are cut; what is missing of them is missed.

use proptest::prelude::*;
use tower_response_cache::{entry::Usage, llm::Dialects};

use crate::{EVENTS, Golden, JSON, begin, golden, goldens, inspect, told};

/// Name, model, service tier, proven, usage: uncached, read, written for 5 minutes and for an hour, output, reasoning.
type Row = (&'static str, Option<&'static str>, Option<&'static str>, bool, Option<[u64; 6]>);

const FOUND: &[Row] = &[
    ("anthropic.json", Some("claude-haiku-4-5-20251001"), Some("standard"), true, Some([380, 0, 0, 0, 41, 0])),
    ("anthropic.sse", Some("claude-sonnet-4-5-20250929"), Some("standard"), true, Some([12, 2100, 500, 200, 57, 0])),
    ("azure-chat.sse", Some("gpt-4o-2024-11-20"), None, true, None),
    ("deepseek-chat.sse", Some("deepseek-reasoner"), None, true, Some([36, 64, 0, 0, 40, 30])),
    ("gemini-array.json", Some("gemini-2.5-flash"), None, true, Some([76, 1024, 0, 0, 89, 80])),
    ("gemini.json", Some("gemini-2.5-flash"), None, true, Some([69, 0, 0, 0, 43, 40])),
    ("gemini.sse", Some("gemini-2.5-flash"), None, false, Some([76, 1024, 0, 0, 89, 80])),
    ("openai-chat-tools.sse", Some("gpt-4.1-2025-04-14"), Some("priority"), true, None),
    ("openai-chat-two.sse", Some("gpt-4o-2024-08-06"), Some("default"), true, None),
    ("openai-chat.json", Some("gpt-4o-mini-2024-07-18"), Some("flex"), true, Some([19, 0, 0, 0, 10, 0])),
    ("openai-chat.sse", Some("gpt-4o-mini-2024-07-18"), Some("default"), true, Some([40, 1280, 0, 0, 14, 0])),
    ("openai-completions.json", Some("gpt-3.5-turbo-instruct:20230824-v2"), None, true, Some([5, 0, 0, 0, 7, 0])),
    ("openai-completions.sse", Some("gpt-3.5-turbo-instruct:20230824-v2"), None, true, Some([5, 0, 0, 0, 3, 0])),
    ("openai-embeddings.json", Some("text-embedding-3-small"), None, true, Some([8, 0, 0, 0, 0, 0])),
    ("openai-responses.json", Some("gpt-5-mini-2025-08-07"), Some("default"), true, Some([128, 1920, 0, 0, 330, 320])),
    ("openai-responses.sse", Some("gpt-5-mini-2025-08-07"), Some("default"), true, Some([128, 1920, 0, 0, 330, 320])),
    ("openrouter-chat.sse", Some("mistralai/mistral-small-3.2-24b-instruct"), None, true, Some([21, 0, 0, 0, 6, 0])),
    ("other.json", None, None, true, None),
    ("other.sse", None, None, false, None),
];

#[test]
fn whole_answers_are_whole_and_tell_their_model_and_usage() {
    assert_eq!(FOUND.len(), goldens().len());
    for (golden, row) in goldens().iter().zip(FOUND) {
        let found = golden.findings();
        let usage = row.4.map(|[input_uncached, cache_read, cache_write_5m, cache_write_1h, output, reasoning]| Usage {
            input_uncached,
            cache_read,
            cache_write_5m,
            cache_write_1h,
            output,
            reasoning,
        });
        assert_eq!(found.objection, None, "{}", row.0);
        let got = (golden.name, found.model.as_deref(), found.service_tier.as_deref(), found.proven, found.usage);
        assert_eq!(got, (row.0, row.1, row.2, row.3, usage));
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
