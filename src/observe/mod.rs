//! What the cache tells about each request: one hook, [`Observer`], over one [`Event`].
//!
//! Every request ends in exactly one [`RequestRecord`], when its body ended or was dropped. The record of one that made an upstream call, or shared another's, waits for the
//! end of that call as well, for what it cost is known only then; it may go on after the caller left. No event carries a URL, a header, a body or
//! anything made from a credential. A panic in an observer is contained.

#[cfg(feature = "analytics")]
pub mod analytics;
mod channel;
#[cfg(feature = "metrics")]
mod metrics;
mod record;
mod stats;
mod tab;
#[cfg(feature = "tracing")]
mod tracing;

use std::{
    borrow::Cow,
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
    pub model: Option<String>,
    /// Tokens that the answer cost, if an inspector found them.
    pub usage: Option<Usage>,
    /// The service tier at which it was served, if an inspector found it.
    pub service_tier: Option<String>,
    /// What it did, if an inspector found it: `gen_ai.operation.name` of [OpenTelemetry](self#opentelemetry).
    pub operation: Option<Cow<'static, str>>,
    /// Who answered: the `provider` label of the request that made the call.
    pub provider: Option<String>,
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
    /// What was tried: `get`, `put`, `remove`.
    pub operation: &'static str,
    /// What went wrong.
    pub error: &'a crate::Error,
}
