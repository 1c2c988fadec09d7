//! Prices of LLM calls.

mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    fmt, fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use self::table::{Price, Table};
use crate::{
    cost::{Call, CostModel, NanoUsd},
    entry::Usage,
    error::Error,
};

/// What LLM calls cost, by the tokens that their answers say they took.
///
/// ```
/// use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, llm::{Dialects, LlmPrices}, store::Memory};
///
/// // The inspector finds model and usage, the prices make money of them.
/// let policy = ApiPolicy::new(Sharing::PerCredential).inspector(Dialects::new());
/// let layer = CacheLayer::new(Memory::new(64 << 20), policy).cost(LlmPrices::embedded().alias("our-model", "gpt-4o-mini"));
/// # let _ = layer;
/// ```
///
/// # Prices
///
/// [`embedded`](Self::embedded) knows common models of OpenAI, Anthropic, Gemini, Mistral, Groq, DeepSeek, xAI and Cohere. It is an excerpt of LiteLLM's price map (MIT; the
/// notice stands beside it in `src/llm/prices`), as of its release: prices change, so [a file of your own](Self::with_file) in the same format goes before it. Nothing is
/// fetched at run time.
///
/// Of that format (`model_prices_and_context_window.json`: an object by model, USD per token) these fields are heeded: `input_cost_per_token`, `output_cost_per_token`,
/// `output_cost_per_reasoning_token`, `cache_read_input_token_cost`, `cache_creation_input_token_cost`, and of audio `input_cost_per_audio_token`,
/// `cache_read_input_audio_token_cost`, `output_cost_per_audio_token`; `_above_1hr` after the cost of a cache's creation, for the longer of Anthropic's two cache
/// lifetimes; `_above_{n}k_tokens` after any, for calls with more prompt tokens than that, cached ones included; and then a service tier: `_priority`, `_flex`, `_batches`.
/// A model without a price per input token is left out.
///
/// - The service tier is what the response says. Where it is not priced apart, the standard price holds.
/// - Reasoning costs what is listed for it at the tier and length at which output is priced, or else what output costs there.
/// - Audio costs what is listed for it at the tier and length at which its text is priced. Where that is nothing, the call has no cost: it is never priced as text.
/// - The length of the prompt selects a tier, which then holds for all tokens of the call, generated ones included.
/// - Without a price of their own, tokens read from the provider's cache cost what input costs, as do those written; Anthropic's cost 0.1 of that when read, 1.25 when
///   written for five minutes, 2 when written for an hour, at any tier.
///
/// A GET or HEAD makes nothing, and costs nothing: an answer that is read again was billed with the call that made it.
/// Nor does an error that tells of no tokens: providers do not bill what they refuse or fail at.
///
/// # Looking a model up
///
/// By the id that the response names, or, where it names none, the `model` label of the request; then without a date at its end (`-20250929`, `-2024-07-18`, `@20250929`); then either without the provider before it (`openai/gpt-4o`), or
/// with one (`gemini/gemini-2.5-pro`): that of the `provider` label if there are several; then as an [alias](Self::alias). What remains ambiguous has no price.
///
/// A model that is not found, or has no price for something that it used, is named once in the log, at `WARN`, with the feature `tracing`; see [`unknown`](Self::unknown)
/// as well.
pub struct LlmPrices {
    table: Table,
    aliases: HashMap<String, String>,
    unknown: Mutex<BTreeSet<String>>,
}

/// So many unknown models are remembered. Their names come from upstream.
const UNKNOWN: usize = 256;

impl LlmPrices {
    /// The prices that come with this crate.
    pub fn embedded() -> Self {
        let table = Table::read(include_str!("../prices/prices.json").as_bytes());
        debug_assert!(table.is_ok(), "the embedded prices are read by a test");
        Self { table: table.unwrap_or_default(), ..Self::empty() }
    }

    /// No prices at all, to be filled with those of a file.
    pub fn empty() -> Self {
        Self { table: Table::default(), aliases: HashMap::new(), unknown: Mutex::default() }
    }

    /// Adds prices in LiteLLM's format. Models that are priced already get the new price.
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config), if it is not JSON of that format, or if a price is negative or no number. It says which.
    pub fn with_json(mut self, json: impl AsRef<[u8]>) -> Result<Self, Error> {
        self.table.extend(Table::read(json.as_ref())?);
        Ok(self)
    }

    /// Adds prices from a file, as [`with_json`](Self::with_json) does. Blocks while it reads.
    ///
    /// # Errors
    ///
    /// [Config](Error::is_config), if the file cannot be read, and as [`with_json`](Self::with_json).
    pub fn with_file(self, path: impl AsRef<Path>) -> Result<Self, Error> {
        let json = fs::read(path).map_err(|error| Error::config("the file of prices cannot be read").with_source(error))?;
        self.with_json(json)
    }

    /// Prices models called `name` as those called `model`, unless they have a price of their own.
    #[must_use]
    pub fn alias(mut self, name: impl Into<String>, model: impl Into<String>) -> Self {
        self.aliases.insert(name.into(), model.into());
        self
    }

    /// How many models have a price.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Is no model priced?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The models that were asked for and have no price, or none for something that they used: the first 256 of them, in order.
    pub fn unknown(&self) -> Vec<String> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// What a call costs; `None` if the model is unknown, or the price of something that it used.
    pub fn price(&self, model: &str, provider: Option<&str>, service_tier: Option<&str>, usage: &Usage) -> Option<NanoUsd> {
        let cost = self.find(model, provider).and_then(|price| price.cost(service_tier, usage));
        if cost.is_none() {
            self.name_once(model);
        }
        cost
    }

    fn find(&self, model: &str, provider: Option<&str>) -> Option<&Arc<Price>> {
        self.table.find(model, provider).or_else(|| self.table.find(self.aliases.get(model)?, provider))
    }

    fn name_once(&self, model: &str) {
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        if unknown.len() >= UNKNOWN || unknown.contains(model) {
            return;
        }
        unknown.insert(model.to_owned());
        drop(unknown);
        #[cfg(feature = "tracing")]
        tracing::warn!(target: "tower_response_cache::llm", model, "no price is known for this model, or for something that it used: such calls have no cost");
    }
}

impl CostModel for LlmPrices {
    fn cost(&self, call: &Call<'_>) -> Option<NanoUsd> {
        if call.request.method.is_safe() {
            return Some(NanoUsd::ZERO);
        }
        if call.usage.is_none() && (call.status.is_client_error() || call.status.is_server_error()) {
            return Some(NanoUsd::ZERO);
        }
        // Some answers, transcriptions among them, do not say who gave them.
        let model = call.model.or_else(|| call.labels.get("model"))?;
        self.price(model, call.provider, call.service_tier, call.usage?)
    }
}

impl CostModel for Arc<LlmPrices> {
    fn cost(&self, call: &Call<'_>) -> Option<NanoUsd> {
        self.as_ref().cost(call)
    }
}

impl fmt::Debug for LlmPrices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlmPrices").field("models", &self.len()).field("aliases", &self.aliases.len()).finish_non_exhaustive()
    }
}
