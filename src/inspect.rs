//! A look at a response while it goes by: is it complete, may it be stored, what did it cost?
//!
//! The core knows nothing of what responses mean. A policy supplies one [`Inspector`] per response, [also where that bypasses the cache](crate::Policy::inspect); it sees every frame once,
//! never delays one, and whatever goes wrong in it means "do not store", never a failed response.

use std::borrow::Cow;

use http::{request, response};

use crate::entry::Usage;

/// Makes inspectors.
pub trait Inspect: Send + Sync + 'static {
    /// An inspector for this response, if its format is known.
    fn begin(&self, request: &request::Parts, response: &response::Parts) -> Option<Box<dyn Inspector>>;
}

/// Watches one response body.
pub trait Inspector: Send + Sync {
    /// The next bytes, cut anywhere.
    fn frame(&mut self, data: &[u8]);

    /// The body ended. Is it whole, and what was in it? Asked also if it broke off: then it is not stored, whatever the answer, but what it cost is told.
    fn end(self: Box<Self>) -> Findings;
}

/// What an inspector found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Why the response must not be stored, in a few words fit for a log and a label; `None` if it may be.
    pub objection: Option<Cow<'static, str>>,
    /// The body proves by itself that it is whole: a terminal event, a closed document. Counts where the framing proves nothing,
    /// as with a body that ends with its connection.
    pub proven: bool,
    /// The model that answered.
    pub model: Option<String>,
    /// Tokens that the answer cost.
    pub usage: Option<Usage>,
    /// The service tier that the answer says it was served at; it selects among the model's prices.
    pub service_tier: Option<String>,
    /// What the call did, as [OpenTelemetry](crate::observe#opentelemetry) names it (`gen_ai.operation.name`): `chat`, `text_completion`, `embeddings`, `generate_content`, or a
    /// word of one's own.
    pub operation: Option<Cow<'static, str>>,
}
