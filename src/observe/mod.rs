//! What the cache tells about each request: one hook, [`Observer`], over one [`Event`].
//!
//! Every request ends in exactly one [`RequestRecord`], when its body ended or was dropped. The record of one that made an upstream call, or shared another's, waits for the
//! end of that call as well, for what it cost is known only then; it may go on after the caller left. No event carries a URL, a header, a body or
//! anything made from a credential. A panic in an observer is contained.
//!
//! # OpenTelemetry
//!
//! What the adapters for `metrics` and `tracing` call `gen_ai.*` follows the semantic conventions for generative AI of OpenTelemetry, release 1.41.1: the last in
//! [semantic-conventions](https://github.com/open-telemetry/semantic-conventions/blob/v1.41.1/docs/gen-ai/README.md), and what backends read. All of it is in development. The
//! conventions have since moved to [a repository of their own](https://github.com/open-telemetry/semantic-conventions-genai), whose first release, 0.1.0, renames some of it:
//!
//! | here, as in 1.41.1 | 0.1.0 of semantic-conventions-genai |
//! |---|---|
//! | `gen_ai.client.operation.duration`, in seconds | `gen_ai.client.inference.duration`; still the same for embeddings |
//! | `gen_ai.client.token.usage`, in tokens, by `gen_ai.token.type` | `gen_ai.client.inference.operation.input_tokens`, `.output_tokens`, and counters; ours are `cache_tokens_total` |
//! | `gen_ai.operation.name`, `gen_ai.provider.name`, `gen_ai.request.model`, `gen_ai.response.model` | the same |
//! | `gen_ai.usage.input_tokens`, cached ones included, `.output_tokens`, `.cache_read.input_tokens`, `.reasoning.output_tokens` | the same |
//! | `gen_ai.usage.cache_creation.input_tokens` | `gen_ai.usage.cache_write.input_tokens` |
//! | | `gen_ai.usage.audio.input_tokens`, `.audio.output_tokens`: told under these names, for 1.41.1 has none |
//!
//! Where this deviates:
//!
//! - **Only calls count.** `gen_ai.operation.name`, `gen_ai.usage.*` and both metrics are of upstream calls. An answer from the cache, or from another request's call, is no operation of
//!   a model: whoever adds them up would bill it twice. The model and the provider that it came from are told all the same.
//! - **`gen_ai.operation.name`** is what an inspector [found](crate::inspect::Findings::operation) by the form of the answer: `chat` (Responses and Messages included), `text_completion`,
//!   `embeddings`, `generate_content`; and `transcription`, for which the conventions have no word.
//! - **`gen_ai.provider.name`** is the `provider` label, in the spelling of the conventions where the usual one differs: `gcp.gemini` for `gemini`, `x_ai` for `xai`. Without
//!   a label it is `unknown` in metrics.
//! - **`gen_ai.request.model`** is the `model` label, and no label of metrics: callers choose it, and could use up the bounded sets of those.
//! - **`error.type`**: calls that failed before it was known what they are have no duration; they are counted by `cache_fills_total`. Of those that failed later it is not told.
//! - **`server.address`, `server.port`** and what was asked and answered are told to no observer.

#[cfg(feature = "analytics")]
pub mod analytics;
mod channel;
#[cfg(any(feature = "metrics", feature = "tracing"))]
mod genai;
#[cfg(feature = "metrics")]
mod metrics;
mod passing;
mod record;
mod stats;
mod tab;
#[cfg(feature = "tracing")]
mod tracing;

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

pub use channel::{Channel, Records, Told};
#[cfg(feature = "metrics")]
pub use metrics::MetricsObserver;
pub use record::{Ending, RequestRecord, Timings};
pub(crate) use record::{Recorder, Sink};
pub(crate) use stats::Counters;
pub use stats::Stats;
pub(crate) use tab::{Bill, Tab};
#[cfg(feature = "tracing")]
pub use tracing::TracingObserver;

pub use crate::store::LinkChange;

use crate::{cost::NanoUsd, entry::Usage, key::Digest, policy::NotStored};

/// Is told what happens. Called on the request's path: hand over what takes long, as by a [`Channel`].
pub trait Observer: Send + Sync + 'static {
    /// Something happened.
    fn on_event(&self, event: &Event<'_>);
}

impl<F> Observer for F
where
    F: Fn(&Event<'_>) + Send + Sync + 'static,
{
    fn on_event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// What happens.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A request ended. Exactly one per request.
    Request(&'a RequestRecord),
    /// An upstream call ended, and its answer is stored or not. Exactly one per fill.
    Fill(&'a FillRecord),
    /// The store failed at something; the request went on without it.
    Trouble(&'a Trouble<'a>),
    /// The way to the store changed. Told by the store's own task, whether anyone asks for something or not.
    Link(&'a LinkChange),
}

/// One upstream call, made for one request or for many.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FillRecord {
    /// What was asked.
    pub digest: Digest,
    /// The status of the response; `None` if there was none.
    pub status: Option<http::StatusCode>,
    /// Why it is not stored; `None` if it is.
    pub not_stored: Option<NotStored>,
    /// From the call to the response head.
    pub first_byte: Option<Duration>,
    /// From the call to the end of the body.
    pub last_byte: Duration,
    /// Bytes of the body.
    pub bytes: u64,
    /// The model that answered, if an inspector found it.
    pub model: Option<Arc<str>>,
    /// Tokens that the answer cost, if an inspector found them.
    pub usage: Option<Usage>,
    /// The service tier at which it was served, if an inspector found it.
    pub service_tier: Option<Arc<str>>,
    /// What it did, if an inspector found it: `gen_ai.operation.name` of [OpenTelemetry](self#opentelemetry).
    pub operation: Option<Cow<'static, str>>,
    /// Who answered: the `provider` label of the request that made the call.
    pub provider: Option<Arc<str>>,
    /// What it cost; `None` if that is unknown. The [record](RequestRecord::billed) of the request that made the call says the same; calls in the background belong to none.
    pub cost: Option<NanoUsd>,
    /// When it ended, wall-clock.
    pub at: SystemTime,
    /// Was it a refresh in the background?
    pub refresh: bool,
}

impl FillRecord {
    pub(crate) fn begin(digest: Digest, refresh: bool) -> Self {
        Self {
            digest,
            status: None,
            not_stored: None,
            first_byte: None,
            last_byte: Duration::ZERO,
            bytes: 0,
            model: None,
            usage: None,
            service_tier: None,
            operation: None,
            provider: None,
            cost: None,
            at: SystemTime::UNIX_EPOCH,
            refresh,
        }
    }
}

/// Something that the store failed at.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Trouble<'a> {
    /// What was tried: `get`, `put`, `remove`, `usage`; `claim`, `renew`, `release` of leases; `publish`, `follow` of live streams.
    pub operation: &'static str,
    /// What went wrong.
    pub error: &'a crate::Error,
}
