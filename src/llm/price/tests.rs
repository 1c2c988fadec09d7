//! Bills as the providers' price lists make them: amounts are worked out by hand from prices per million tokens.

use super::*;

const M: u64 = 1_000_000;

/// Dollars and millionths of them.
fn usd(micros: u64) -> Option<NanoUsd> {
    Some(NanoUsd(micros * 1000))
}

fn usage(input_uncached: u64, cache_read: u64, output: u64) -> Usage {
    Usage { input_uncached, cache_read, output, ..Usage::default() }
}

fn bill(model: &str, tier: &str, usage: Usage) -> Option<NanoUsd> {
    LlmPrices::embedded().price(model, None, Some(tier).filter(|tier| !tier.is_empty()), &usage)
}

#[test]
fn the_embedded_table_is_read_whole() {
    assert_eq!(LlmPrices::embedded().len(), 320);
}

#[test]
fn openai_bills_cached_prompts_service_tiers_and_reasoning() {
    // GPT-4o: 2.50 in, 1.25 cached, 10.00 out; half of that in batches; 4.25 and 17.00 with priority.
    assert_eq!(bill("gpt-4o", "", usage(M, 0, M)), usd(12_500_000));
    assert_eq!(bill("gpt-4o-2024-08-06", "default", usage(100_000, 900_000, 10_000)), usd(250_000 + 1_125_000 + 100_000));
    assert_eq!(bill("gpt-4o", "batch", usage(M, 0, M)), usd(6_250_000));
    assert_eq!(bill("gpt-4o", "priority", usage(M, 0, M)), usd(21_250_000));
    // GPT-5: reasoning is output. 1.25 in, 10.00 out; flex is half.
    let thinking = Usage { reasoning: 80_000, ..usage(100_000, 0, 100_000) };
    assert_eq!(bill("gpt-5", "", thinking), usd(125_000 + 1_000_000));
    assert_eq!(bill("gpt-5", "flex", thinking), usd((125_000 + 1_000_000) / 2));
    // GPT-5.4: 2.50 in, 0.25 cached, 15.00 out; above 272k tokens of prompt 5.00, 0.50, 22.50; flex is half of either.
    assert_eq!(bill("gpt-5.4", "default", usage(200_000, 72_000, 10_000)), usd(500_000 + 18_000 + 150_000));
    assert_eq!(bill("gpt-5.4", "default", usage(200_000, 100_000, 10_000)), usd(1_000_000 + 50_000 + 225_000));
    assert_eq!(bill("gpt-5.4", "flex", usage(200_000, 100_000, 10_000)), usd((1_000_000 + 50_000 + 225_000) / 2));
    // GPT-5.6: 4.00 in, 0.40 cached, 5.00 written, 20.00 out; flex is half.
    let written = Usage { cache_write_5m: 100_000, ..usage(50_000, 10_000, 10_000) };
    assert_eq!(bill("gpt-5.6", "default", written), usd(200_000 + 4_000 + 500_000 + 200_000));
    assert_eq!(bill("gpt-5.6", "flex", written), usd((200_000 + 4_000 + 500_000 + 200_000) / 2));
    // An embedding has no output: 0.02 in.
    assert_eq!(bill("text-embedding-3-small", "", usage(5 * M, 0, 0)), usd(100_000));
}

#[test]
fn anthropic_bills_reads_and_both_kinds_of_writes_beside_the_input() {
    // The session of its price list: Opus 4.6 at 5.00 in, 25.00 out, 50,000 tokens in, 15,000 out; and again with 40,000 of them read from the cache at 0.50.
    assert_eq!(bill("claude-opus-4-6", "standard", usage(50_000, 0, 15_000)), usd(250_000 + 375_000));
    assert_eq!(bill("claude-opus-4-6", "standard", usage(10_000, 40_000, 15_000)), usd(50_000 + 20_000 + 375_000));
    // Sonnet 4.5: 3.00 in, 3.75 written for five minutes, 6.00 for an hour, 0.30 read, 15.00 out.
    let all = Usage { input_uncached: M, cache_read: M, cache_write_5m: M, cache_write_1h: M, output: M, ..Usage::default() };
    assert_eq!(bill("claude-sonnet-4-5-20250929", "", all), usd(3_000_000 + 300_000 + 3_750_000 + 6_000_000 + 15_000_000));
    // Batches cost half of everything, writes for an hour included, of which the table says nothing.
    assert_eq!(bill("claude-sonnet-4-5", "batch", all), usd(1_500_000 + 150_000 + 1_875_000 + 3_000_000 + 7_500_000));
}

#[test]
fn anthropic_prices_that_are_not_listed_are_the_documented_multiples_of_input() {
    let prices = LlmPrices::empty()
        .with_json(br#"{"claude-next": {"input_cost_per_token": 4e-06, "output_cost_per_token": 2e-05, "litellm_provider": "anthropic"}}"#)
        .unwrap();
    let of = |usage| prices.price("claude-next", None, None, &usage);
    assert_eq!(of(usage(0, M, 0)), usd(400_000));
    assert_eq!(of(Usage { cache_write_5m: M, ..Usage::default() }), usd(5_000_000));
    assert_eq!(of(Usage { cache_write_1h: M, ..Usage::default() }), usd(8_000_000));
}

#[test]
fn gemini_bills_all_tokens_of_a_long_prompt_at_the_higher_rates() {
    // 2.5 Pro: 1.25 in, 0.125 cached, 10.00 out up to 200k tokens of prompt; 2.50, 0.25, 15.00 above.
    assert_eq!(bill("gemini-2.5-pro", "", usage(200_000, 0, 10_000)), usd(250_000 + 100_000));
    assert_eq!(bill("gemini-2.5-pro", "", usage(200_001, 0, 10_000)), Some(NanoUsd(200_001 * 2500 + 10_000 * 15_000)));
    // Cached tokens count towards the length.
    assert_eq!(bill("models/gemini-2.5-pro", "", usage(100_000, 200_000, 10_000)), usd(250_000 + 50_000 + 150_000));
    assert_eq!(bill("gemini/gemini-2.5-pro", "priority", usage(300_000, 0, 0)), usd(1_350_000));
    // A model whose rates change at 128k.
    let prices = small(
        r#"{"m": {"input_cost_per_token": 1e-9, "input_cost_per_token_above_128k_tokens": 2e-9, "output_cost_per_token": 3e-9, "output_cost_per_token_above_128k_tokens": 5e-9}}"#,
    );
    assert_eq!(prices.price("m", None, None, &usage(128_000, 0, 10)), Some(NanoUsd(128_030)));
    assert_eq!(prices.price("m", None, None, &usage(128_001, 0, 10)), Some(NanoUsd(256_052)));
}

#[test]
fn gemini_bills_thoughts_as_output_at_every_tier() {
    // 2.5 Flash: 2.50 out, thoughts included; flex and batches half of that, priority 4.50.
    let thinking = Usage { reasoning: M, ..usage(0, 0, 2 * M) };
    for (tier, expected) in [("", 5_000_000), ("standard", 5_000_000), ("flex", 2_500_000), ("batch", 2_500_000), ("priority", 9_000_000)] {
        assert_eq!(bill("gemini-2.5-flash", tier, thinking), usd(expected), "{tier}");
    }
}

#[test]
fn openai_bills_audio_apart_from_text() {
    // GPT-4o Audio (developers.openai.com/api/docs/models/gpt-4o-audio-preview): text 2.50 in, 10.00 out; audio 40.00 in, 80.00 out.
    let heard = Usage { audio_input: 66, audio_output: 187, ..usage(84, 0, 236) };
    let nanos = 18 * 2500 + 66 * 40_000 + 49 * 10_000 + 187 * 80_000;
    assert_eq!(bill("gpt-4o-audio-preview-2025-06-03", "default", heard), Some(NanoUsd(nanos)));
    // GPT-Audio: 2.50 and 10.00; 32.00 and 64.00.
    let all = Usage { audio_input: M, audio_output: M, ..usage(2 * M, 0, 2 * M) };
    assert_eq!(bill("gpt-audio", "", all), usd(2_500_000 + 10_000_000 + 32_000_000 + 64_000_000));
    // A model that has no price for audio.
    assert_eq!(bill("gpt-4o", "", Usage { audio_input: 1, ..usage(84, 0, 236) }), None);
    assert_eq!(bill("gpt-4o", "", Usage { audio_output: 1, ..usage(84, 0, 236) }), None);
}

#[test]
fn gemini_bills_audio_that_it_hears_and_audio_that_it_reads_from_its_cache() {
    // 2.5 Flash (ai.google.dev/gemini-api/docs/pricing): 0.30 in, audio 1.00; cached 0.03, audio 0.10; 2.50 out. Flex and batches: half of what is not cached; priority: 1.8 times all.
    let heard = Usage { audio_input: M, audio_cache_read: M, ..usage(2 * M, 2 * M, M) };
    assert_eq!(bill("gemini-2.5-flash", "", heard), usd(300_000 + 1_000_000 + 30_000 + 100_000 + 2_500_000));
    assert_eq!(bill("gemini-2.5-flash", "FLEX", heard), usd(150_000 + 500_000 + 30_000 + 100_000 + 1_250_000));
    assert_eq!(bill("gemini-2.5-flash", "priority", heard), usd(540_000 + 1_800_000 + 54_000 + 180_000 + 4_500_000));
    // 2.5 Pro TTS: 1.00 in, audio 20.00 out.
    assert_eq!(bill("gemini-2.5-pro-preview-tts", "", Usage { audio_output: M, ..usage(M, 0, M) }), usd(1_000_000 + 20_000_000));
}

#[test]
fn audio_without_a_price_at_the_tier_and_length_of_its_text_has_none() {
    let prices = small(
        r#"{"m": {"input_cost_per_token": 1e-9, "input_cost_per_token_flex": 5e-10, "input_cost_per_token_above_200k_tokens": 2e-9, "cache_read_input_token_cost": 1e-10,
            "output_cost_per_token": 3e-9, "input_cost_per_audio_token": 7e-9, "output_cost_per_audio_token": 9e-9}}"#,
    );
    let of = |tier: &str, usage| prices.price("m", None, Some(tier), &usage).map(|cost| cost.0);
    let heard = |input, audio_input| Usage { audio_input, ..usage(input, 0, 0) };
    assert_eq!(of("default", heard(1000, 100)), Some(900 + 700));
    assert_eq!(of("flex", heard(1000, 100)), None, "its text is cheaper, and its audio may be");
    assert_eq!(of("flex", heard(1000, 0)), Some(500));
    assert_eq!(of("flex", Usage { audio_output: 100, ..usage(0, 0, 1000) }), Some(2700 + 900), "neither is priced apart");
    assert_eq!(of("default", heard(200_001, 1)), None);
    assert_eq!(of("default", Usage { audio_cache_read: 1, ..usage(0, 10, 0) }), None);
    // No class is counted twice, nor more of it than there is.
    let all = Usage { audio_input: 5000, audio_output: 5000, reasoning: 400, ..usage(1000, 0, 1000) };
    assert_eq!(of("default", all), Some(7000 + 400 * 3 + 600 * 9));
}

#[test]
fn a_transcription_is_priced_by_the_model_that_was_asked_for_with_a_file_that_knows_it() {
    // GPT-4o Transcribe (developers.openai.com/api/docs/models/gpt-4o-transcribe), as LiteLLM has it: 2.50 in, audio 6.00, 10.00 out.
    let prices = small(
        r#"{"gpt-4o-transcribe": {"input_cost_per_audio_token": 6e-06, "input_cost_per_token": 2.5e-06, "litellm_provider": "openai", "mode": "audio_transcription",
            "output_cost_per_token": 1e-05}}"#,
    );
    let request = http::Request::post("/").body(()).unwrap().into_parts().0;
    let headers = http::HeaderMap::new();
    let labels = crate::entry::Labels::from(vec![("model".to_owned(), "gpt-4o-transcribe".to_owned())]);
    let heard = Usage { audio_input: 25, ..usage(33, 0, 12) };
    let call = |labels, usage| Call {
        request: &request,
        status: http::StatusCode::OK,
        headers: &headers,
        usage,
        model: None,
        provider: None,
        service_tier: None,
        labels,
        first_byte: std::time::Duration::ZERO,
        last_byte: std::time::Duration::ZERO,
    };
    assert_eq!(prices.cost(&call(&labels, Some(&heard))), Some(NanoUsd(8 * 2500 + 25 * 6000 + 12 * 10_000)));
    assert_eq!(prices.cost(&call(&crate::entry::Labels::NONE, Some(&heard))), None);
    assert_eq!(prices.cost(&call(&labels, None)), None, "billed by its duration");
    let failed = |status, usage| prices.cost(&Call { status, ..call(&labels, usage) });
    for status in [http::StatusCode::BAD_REQUEST, http::StatusCode::TOO_MANY_REQUESTS, http::StatusCode::SERVICE_UNAVAILABLE] {
        assert_eq!(failed(status, None), Some(NanoUsd::ZERO), "{status}");
        assert_eq!(failed(status, Some(&heard)), prices.cost(&call(&labels, Some(&heard))), "{status}");
    }
    assert!(prices.unknown().is_empty());
}

#[test]
fn deepseek_bills_cache_hits_at_a_tenth() {
    // 0.28 missed, 0.028 hit, 0.42 out.
    assert_eq!(bill("deepseek-chat", "", usage(M, M, M)), usd(280_000 + 28_000 + 420_000));
}

#[test]
fn mistral_groq_xai_and_cohere_bill_by_their_lists() {
    // Mistral Large 0.50 and 1.50; GPT-OSS 20B on Groq 0.075 and 0.30; Grok 4.3 1.25 and 2.50, twice that above 200k; Command R7B 0.0375 and 0.15.
    assert_eq!(bill("mistral-large-latest", "", usage(M, 0, M)), usd(2_000_000));
    assert_eq!(bill("openai/gpt-oss-20b", "on_demand", usage(M, 0, M)), usd(375_000));
    assert_eq!(bill("grok-4.3", "", usage(100_000, 0, 100_000)), usd(125_000 + 250_000));
    assert_eq!(bill("grok-4.3", "", usage(M, 0, 100_000)), usd(2_500_000 + 500_000));
    assert_eq!(bill("command-r7b-12-2024", "", usage(M, 0, M)), usd(187_500));
}

#[test]
fn tokens_that_cost_less_than_a_nano_dollar_add_up() {
    // GPT-5 nano in batches reads cached tokens at 0.0025 per million: 2.5 nano-dollars each.
    assert_eq!(bill("gpt-5-nano", "batch", usage(0, 3, 0)), Some(NanoUsd(8)), "rounded once, and half up");
    assert_eq!(bill("gpt-5-nano", "batch", usage(0, 1000, 0)), Some(NanoUsd(2500)));
    assert_eq!(bill("gpt-4o", "", usage(u64::MAX, 0, u64::MAX)), Some(NanoUsd(u64::MAX)), "saturates");
}

fn small(json: &str) -> LlmPrices {
    LlmPrices::empty().with_json(json).unwrap()
}

#[test]
fn a_model_is_looked_up_from_the_exact_to_the_alias() {
    let prices = small(
        r#"{"sample_spec": {"input_cost_per_token": "a number"},
            "m": {"input_cost_per_token": 1e-9}, "m-20250101": {"input_cost_per_token": 2e-9},
            "a/n": {"input_cost_per_token": 3e-9}, "b/n": {"input_cost_per_token": 4e-9}, "c/o/p": {"input_cost_per_token": 5e-9},
            "picture": {"input_cost_per_image": 1}}"#,
    )
    .alias("mine", "m")
    .alias("m", "a/n")
    .alias("loop", "loop");
    let one = |model: &str, provider: Option<&str>| prices.price(model, provider, None, &usage(1, 0, 0)).map(|cost| cost.0);
    for (model, provider, expected) in [
        ("m", None, Some(1)),
        ("m-20250101", None, Some(2)),
        ("m-20260101", None, Some(1)),
        ("m-2026-01-01", None, Some(1)),
        ("x/m", None, Some(1)),
        ("x/m-20260101", None, Some(1)),
        ("a/n", None, Some(3)),
        ("n", None, None),
        ("n", Some("b"), Some(4)),
        ("n-20260101", Some("a"), Some(3)),
        ("n", Some("c"), None),
        ("o/p", None, Some(5)),
        ("p", None, Some(5)),
        ("mine", None, Some(1)),
        ("loop", None, None),
        ("picture", None, None),
        ("", None, None),
    ] {
        assert_eq!(one(model, provider), expected, "{model} {provider:?}");
    }
}

#[test]
fn what_is_unknown_has_no_price_and_is_named_once() {
    let prices = small(r#"{"m": {"input_cost_per_token": 1e-9}}"#);
    for _ in 0..2 {
        assert_eq!(prices.price("who", None, None, &usage(1, 0, 0)), None);
    }
    assert_eq!(prices.price("m", None, None, &usage(1, 0, 0)), Some(NanoUsd(1)));
    assert_eq!(prices.unknown(), ["who"]);
    assert_eq!(prices.price("m", None, None, &usage(1, 0, 1)), None, "the price of output is unknown");
    assert_eq!(prices.unknown(), ["m", "who"]);
    for i in 0..1000 {
        prices.price(&format!("x{i}"), None, None, &usage(1, 0, 0));
    }
    assert_eq!(prices.unknown().len(), UNKNOWN);
}

#[cfg(feature = "tracing")]
#[test]
fn the_log_names_a_model_without_a_price_once() {
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Log {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, || {
        let prices = small(r#"{"m": {"input_cost_per_token": 1e-9, "output_cost_per_token": 1e-9}}"#);
        for _ in 0..3 {
            prices.price("who", None, None, &usage(1, 0, 0));
            prices.price("m", None, None, &usage(1, 0, 1));
            prices.price("m", None, None, &Usage { audio_input: 1, ..usage(1, 0, 1) });
        }
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let named = |model: &str| text.matches(&format!("model=\"{model}\"")).count();
    assert_eq!((text.matches("WARN tower_response_cache::llm").count(), named("who"), named("m")), (2, 1, 1), "{text}");
}

#[test]
fn a_file_of_ones_own_goes_before_the_embedded_table() {
    let file = r#"{"gpt-4o": {"input_cost_per_token": 1e-06, "output_cost_per_token": 1e-06}, "gemini/gemini-2.5-pro": {"input_cost_per_token": 2e-06}}"#;
    let path = std::env::temp_dir().join(format!("prices-{}.json", std::process::id()));
    std::fs::write(&path, file).unwrap();
    let prices = LlmPrices::embedded().with_file(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(prices.price("gpt-4o", None, None, &usage(M, 0, M)), usd(2_000_000));
    assert_eq!(prices.price("gemini-2.5-pro", None, None, &usage(M, 0, 0)), usd(2_000_000));
    assert_eq!(prices.price("gpt-4.1", None, None, &usage(M, 0, 0)), usd(2_000_000));
    assert!(LlmPrices::empty().with_file(&path).unwrap_err().is_config());
}

#[test]
fn a_file_that_makes_no_sense_is_refused_with_what_is_wrong() {
    for (json, expected) in [
        ("[]", "the prices are no JSON object by model"),
        (r#"{"m": 1}"#, "the prices of `m` are no object"),
        (r#"{"m": {"input_cost_per_token": -1}}"#, "`input_cost_per_token` of `m` is no price in USD per token: a number from 0 to 1000"),
        (
            r#"{"m": {"input_cost_per_token": 1e-6, "output_cost_per_token": "free"}}"#,
            "`output_cost_per_token` of `m` is no price in USD per token: a number from 0 to 1000",
        ),
        (r#"{"m": {"input_cost_per_token": 2500}}"#, "`input_cost_per_token` of `m` is no price in USD per token: a number from 0 to 1000"),
    ] {
        assert_eq!(LlmPrices::empty().with_json(json).unwrap_err().to_string(), expected, "{json}");
    }
}
