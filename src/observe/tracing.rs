use super::{Event, Observer, RequestRecord, genai};
use crate::{NanoUsd, entry::Usage};

/// Writes one `tracing` event per request (target `tower_response_cache`, level `INFO`), per fill (`DEBUG`), and per trouble with the
/// store (`WARN`; `DEBUG` where it is out of reach or refuses, which holds of every request until that is over: the Redis store says so once in a while by itself), and per change of the way there (`DEBUG`, message `link`, fields
/// `state` and `last_error`; the Redis store says `WARN` when it is lost and `INFO` when it is back, by itself).
///
/// Fields that [OpenTelemetry](super#opentelemetry) knows have its names. `gen_ai.provider.name`, `gen_ai.request.model` and `gen_ai.response.model` are told of every answer that has them;
/// `gen_ai.operation.name` and `gen_ai.usage.*` (`input_tokens`, `output_tokens`, and if there were any `cache_read.input_tokens`, `cache_creation.input_tokens`,
/// `reasoning.output_tokens`, `audio.input_tokens`, `audio.output_tokens`) of the upstream call that the request made.
///
/// The event of a request is in the span in which the request came to the cache. Of these fields and of `cache.outcome`, `cache.reason`, `cache.billed_usd` and `cache.saved_usd`, those that the
/// span declares are filled in.
#[derive(Clone, Copy, Debug, Default)]
pub struct TracingObserver;

macro_rules! told {
    ($level:ident, $trouble:expr) => {
        tracing::$level!(
            target: "tower_response_cache",
            operation = $trouble.operation,
            kind = $trouble.error.label(),
            error = %$trouble.error,
            "store"
        )
    };
}

impl Observer for TracingObserver {
    fn on_event(&self, event: &Event<'_>) {
        match event {
            Event::Request(record) => {
                fill_in(&tracing::Span::current(), record);
                tracing::info!(
                    target: "tower_response_cache",
                    outcome = record.outcome.label(),
                    reason = record.outcome.reason(),
                    status = record.status.map(|status| status.as_u16()),
                    request_id = record.request_id.as_deref(),
                    digest = record.digest().map(tracing::field::display),
                    labels = ?record.labels,
                    bytes = record.bytes,
                    ending = ?record.ending,
                    degraded = record.degraded,
                    key_us = micros(record.timings.key),
                    lookup_us = micros(record.timings.lookup),
                    wait_us = micros(record.timings.wait),
                    first_byte_us = record.timings.first_byte.map(micros),
                    total_us = micros(record.timings.total),
                    saved_us = record.saved_time.map(micros),
                    gen_ai.operation.name = record.operation.as_deref(),
                    gen_ai.provider.name = record.provider.as_deref().map(genai::provider),
                    gen_ai.request.model = record.labels.get("model"),
                    gen_ai.response.model = record.model.as_deref(),
                    gen_ai.usage.input_tokens = record.usage.map(|usage| usage.input()),
                    gen_ai.usage.output_tokens = record.usage.map(|usage| usage.output),
                    gen_ai.usage.cache_read.input_tokens = part(record, |usage| usage.cache_read),
                    gen_ai.usage.cache_creation.input_tokens = part(record, cache_creation),
                    gen_ai.usage.reasoning.output_tokens = part(record, |usage| usage.reasoning),
                    gen_ai.usage.audio.input_tokens = part(record, audio_input),
                    gen_ai.usage.audio.output_tokens = part(record, |usage| usage.audio_output),
                    replayed_input_tokens = record.saved_usage.map(|usage| usage.input()),
                    replayed_output_tokens = record.saved_usage.map(|usage| usage.output),
                    billed_usd = record.billed.map(NanoUsd::as_usd),
                    saved_usd = record.saved.map(NanoUsd::as_usd),
                    original_request_id = record.original_request_id.as_deref(),
                    "request"
                )
            }
            Event::Fill(fill) => tracing::debug!(
                target: "tower_response_cache",
                digest = %fill.digest,
                status = fill.status.map(|status| status.as_u16()),
                stored = fill.not_stored.is_none(),
                reason = fill.not_stored.as_ref().map(|reason| reason.label()),
                bytes = fill.bytes,
                first_byte_us = fill.first_byte.map(micros),
                last_byte_us = micros(fill.last_byte),
                gen_ai.operation.name = fill.operation.as_deref(),
                gen_ai.provider.name = fill.provider.as_deref().map(genai::provider),
                gen_ai.response.model = fill.model.as_deref(),
                cost_usd = fill.cost.map(NanoUsd::as_usd),
                refresh = fill.refresh,
                "fill"
            ),
            // While a breaker is open, or a server is full, this is so of every request, and the store has said so once.
            Event::Trouble(trouble) if trouble.error.is_unavailable() || trouble.error.is_refused() => told!(debug, trouble),
            Event::Trouble(trouble) => told!(warn, trouble),
            // The store itself says so at a level that nobody turns off.
            Event::Link(link) => {
                tracing::debug!(target: "tower_response_cache", state = link.state, last_error = link.last_error, "link");
            }
        }
    }
}

/// Fields that the span does not have are left out.
fn fill_in(span: &tracing::Span, record: &RequestRecord) {
    if span.is_disabled() {
        return;
    }
    span.record("cache.outcome", record.outcome.label());
    span.record("cache.reason", record.outcome.reason());
    known(span, "cache.billed_usd", record.billed.map(NanoUsd::as_usd));
    known(span, "cache.saved_usd", record.saved.map(NanoUsd::as_usd));
    known(span, "gen_ai.operation.name", record.operation.as_deref());
    known(span, "gen_ai.provider.name", record.provider.as_deref().map(genai::provider));
    known(span, "gen_ai.request.model", record.labels.get("model"));
    known(span, "gen_ai.response.model", record.model.as_deref());
    known(span, "gen_ai.usage.input_tokens", record.usage.map(|usage| usage.input()));
    known(span, "gen_ai.usage.output_tokens", record.usage.map(|usage| usage.output));
    known(span, "gen_ai.usage.cache_read.input_tokens", part(record, |usage| usage.cache_read));
    known(span, "gen_ai.usage.cache_creation.input_tokens", part(record, cache_creation));
    known(span, "gen_ai.usage.reasoning.output_tokens", part(record, |usage| usage.reasoning));
    known(span, "gen_ai.usage.audio.input_tokens", part(record, audio_input));
    known(span, "gen_ai.usage.audio.output_tokens", part(record, |usage| usage.audio_output));
}

/// A part of the tokens, if there were any of it.
fn part(record: &RequestRecord, of: impl Fn(&Usage) -> u64) -> Option<u64> {
    record.usage.as_ref().map(of).filter(|tokens| *tokens > 0)
}

fn cache_creation(usage: &Usage) -> u64 {
    usage.cache_write_5m.saturating_add(usage.cache_write_1h)
}

fn audio_input(usage: &Usage) -> u64 {
    usage.audio_input.saturating_add(usage.audio_cache_read)
}

fn known<V>(span: &tracing::Span, field: &str, value: Option<V>)
where
    V: tracing::Value,
{
    if let Some(value) = value {
        span.record(field, value);
    }
}

fn micros(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
