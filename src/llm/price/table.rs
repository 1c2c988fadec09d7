use std::{collections::HashMap, sync::Arc};

use serde_json::{Map, Value};

use crate::{cost::NanoUsd, entry::Usage, error::Error};

/// Prices by model, and ways to them from names that are not quite theirs.
#[derive(Default)]
pub(super) struct Table {
    models: HashMap<String, Arc<Price>>,
    /// By what follows the provider in an id: who that is, and the price.
    tails: HashMap<String, Vec<(String, Arc<Price>)>>,
}

impl Table {
    pub(super) fn read(json: &[u8]) -> Result<Self, Error> {
        let models: Map<String, Value> = serde_json::from_slice(json)
            .map_err(|error| Error::config("the prices are no JSON object by model").with_source(error.to_string()))?;
        let mut table = Self::default();
        for (id, fields) in models.iter().filter(|(id, _)| *id != "sample_spec") {
            let fields = fields.as_object().ok_or_else(|| Error::config(format!("the prices of `{id}` are no object")))?;
            if let Some(price) = Price::read(id, fields)? {
                table.insert(id.clone(), Arc::new(price));
            }
        }
        Ok(table)
    }

    pub(super) fn extend(&mut self, other: Self) {
        for (id, price) in other.models {
            self.insert(id, price);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.models.len()
    }

    pub(super) fn find(&self, model: &str, provider: Option<&str>) -> Option<&Arc<Price>> {
        if let Some(exact) = self.models.get(model) {
            return Some(exact);
        }
        let undated = undated(model);
        let names = || std::iter::once(model).chain(undated);
        undated
            .and_then(|name| self.models.get(name))
            .or_else(|| names().find_map(|name| self.models.get(name.split_once('/')?.1)))
            .or_else(|| names().find_map(|name| self.find_tail(name, provider)))
            // Gemini names its own models so.
            .or_else(|| self.find(model.strip_prefix("models/")?, provider))
    }

    fn find_tail(&self, name: &str, provider: Option<&str>) -> Option<&Arc<Price>> {
        match self.tails.get(name)?.as_slice() {
            [(_, only)] => Some(only),
            several => {
                let provider = provider.map(canonical)?;
                several.iter().find(|(id, _)| id == provider).map(|(_, price)| price)
            }
        }
    }

    fn insert(&mut self, id: String, price: Arc<Price>) {
        // Models have slashes in their own names as well: `groq/openai/gpt-oss-20b`.
        for (at, _) in id.match_indices('/') {
            let (provider, tail) = (&id[..at], &id[at + 1..]);
            let tails = self.tails.entry(tail.to_owned()).or_default();
            tails.retain(|(other, _)| other != provider);
            tails.push((provider.to_owned(), Arc::clone(&price)));
        }
        self.models.insert(id, price);
    }
}

/// A provider as the table calls it.
fn canonical(provider: &str) -> &str {
    match provider {
        "google" => "gemini",
        "x-ai" => "xai",
        "mistralai" => "mistral",
        other => other,
    }
}

/// The name without a date at its end, if it has one.
fn undated(model: &str) -> Option<&str> {
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (name, date) = model.split_at_checked(model.len().checked_sub(9)?)?;
    if let Some(date) = date.strip_prefix(['-', '@'])
        && digits(date)
    {
        return Some(name);
    }
    let (name, date) = model.split_at_checked(model.len().checked_sub(11)?)?;
    let mut parts = date.strip_prefix('-')?.split('-');
    let is_date = [4, 2, 2].iter().all(|len| parts.next().is_some_and(|part| part.len() == *len && digits(part))) && parts.next().is_none();
    is_date.then_some(name)
}

/// The prices of one model.
#[derive(Debug)]
pub(super) struct Price {
    /// The standard rates, and those of other service tiers and longer prompts.
    rates: Vec<Rate>,
    /// From how many prompt tokens on there are other rates, ascending.
    steps: Vec<u64>,
    is_anthropic: bool,
}

/// The price of one class of tokens.
#[derive(Clone, Debug, PartialEq)]
struct Rate {
    class: Class,
    /// Empty: the standard one.
    tier: String,
    /// Holds for more prompt tokens than this.
    above: u64,
    /// Quadrillionths of a dollar per token: prices below a nano-dollar are common.
    femto_usd: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Input,
    CacheRead,
    CacheWrite5m,
    CacheWrite1h,
    Output,
    Reasoning,
    AudioInput,
    AudioCacheRead,
    AudioOutput,
}

const FIELDS: [(&str, Class); 8] = [
    ("input_cost_per_token", Class::Input),
    ("input_cost_per_audio_token", Class::AudioInput),
    ("output_cost_per_token", Class::Output),
    ("output_cost_per_audio_token", Class::AudioOutput),
    ("output_cost_per_reasoning_token", Class::Reasoning),
    ("cache_read_input_token_cost", Class::CacheRead),
    ("cache_read_input_audio_token_cost", Class::AudioCacheRead),
    ("cache_creation_input_token_cost", Class::CacheWrite5m),
];

impl Price {
    /// `None` if the model is not priced by its tokens.
    fn read(id: &str, fields: &Map<String, Value>) -> Result<Option<Self>, Error> {
        let mut rates = Vec::new();
        for (field, value) in fields {
            // What others write for "not known".
            if let Some((class, tier, above)) = meaning(field).filter(|_| !value.is_null()) {
                let femto_usd = femto_usd(value).ok_or_else(|| {
                    Error::config(format!("`{field}` of `{id}` is no price in USD per token: a number from 0 to {DEAREST}"))
                })?;
                rates.push(Rate { class, tier: tier.to_owned(), above, femto_usd });
            }
        }
        if !rates.iter().any(|rate| rate.class == Class::Input && rate.tier.is_empty() && rate.above == 0) {
            return Ok(None);
        }
        let mut steps: Vec<u64> = rates.iter().map(|rate| rate.above).filter(|above| *above > 0).collect();
        steps.sort_unstable();
        steps.dedup();
        let provider = fields.get("litellm_provider").and_then(Value::as_str).unwrap_or_default();
        Ok(Some(Self { rates, steps, is_anthropic: provider.contains("anthropic") || id.contains("claude") }))
    }

    pub(super) fn cost(&self, service_tier: Option<&str>, usage: &Usage) -> Option<NanoUsd> {
        let tier = match service_tier.unwrap_or_default() {
            batch if batch.eq_ignore_ascii_case("batch") => "batches",
            other => other,
        };
        let prompt = usage.input();
        let above = self.steps.iter().rev().find(|step| prompt > **step).copied().unwrap_or(0);
        // What is said to be part of something is no more than that.
        let audio_input = usage.audio_input.min(usage.input_uncached);
        let audio_cache_read = usage.audio_cache_read.min(usage.cache_read);
        let reasoning = usage.reasoning.min(usage.output);
        let audio_output = usage.audio_output.min(usage.output - reasoning);
        let mut sum = 0_u128;
        for (class, tokens) in [
            (Class::Input, usage.input_uncached - audio_input),
            (Class::AudioInput, audio_input),
            (Class::CacheRead, usage.cache_read - audio_cache_read),
            (Class::AudioCacheRead, audio_cache_read),
            (Class::CacheWrite5m, usage.cache_write_5m),
            (Class::CacheWrite1h, usage.cache_write_1h),
            (Class::Output, usage.output - reasoning - audio_output),
            (Class::Reasoning, reasoning),
            (Class::AudioOutput, audio_output),
        ] {
            if tokens > 0 {
                sum = sum.checked_add(u128::from(tokens) * u128::from(self.rate(class, tier, above)?))?;
            }
        }
        Some(NanoUsd(u64::try_from((sum + 500_000) / 1_000_000).unwrap_or(u64::MAX)))
    }

    fn rate(&self, class: Class, tier: &str, above: u64) -> Option<u64> {
        let listed = |class| self.find(class, tier, above).map(|rate| rate.femto_usd);
        // What is listed beside another class, at the very tier and length at which that is priced: elsewhere it would be a guess.
        let beside = |class, other| {
            let other = self.find(other, tier, above)?;
            self.exactly(class, &other.tier, other.above).map(|rate| rate.femto_usd)
        };
        let cached = |of_input: fn(u64) -> u64| beside(class, Class::Input).or_else(|| Some(of_input(listed(Class::Input)?)));
        match class {
            Class::Input | Class::Output => listed(class),
            Class::Reasoning => beside(class, Class::Output).or_else(|| listed(Class::Output)),
            Class::AudioInput => beside(class, Class::Input),
            Class::AudioCacheRead => beside(class, Class::CacheRead),
            Class::AudioOutput => beside(class, Class::Output),
            Class::CacheRead if self.is_anthropic => cached(|input| input / 10),
            Class::CacheWrite5m if self.is_anthropic => cached(|input| input.saturating_mul(5) / 4),
            Class::CacheWrite1h if self.is_anthropic => cached(|input| input.saturating_mul(2)),
            Class::CacheRead | Class::CacheWrite5m => listed(class).or_else(|| listed(Class::Input)),
            Class::CacheWrite1h => listed(class).or_else(|| self.rate(Class::CacheWrite5m, tier, above)),
        }
    }

    /// The length of the prompt goes before the service tier: longer prompts cost more in any.
    fn find(&self, class: Class, tier: &str, above: u64) -> Option<&Rate> {
        let exactly = |tier: &str, above: u64| self.exactly(class, tier, above);
        exactly(tier, above).or_else(|| exactly("", above)).or_else(|| exactly(tier, 0)).or_else(|| exactly("", 0))
    }

    fn exactly(&self, class: Class, tier: &str, above: u64) -> Option<&Rate> {
        self.rates.iter().find(|rate| rate.class == class && rate.above == above && rate.tier.eq_ignore_ascii_case(tier))
    }
}

/// What a field prices; `None` if that is nothing that is counted here.
fn meaning(field: &str) -> Option<(Class, &str, u64)> {
    let (mut class, mut rest) = FIELDS.iter().find_map(|(name, class)| Some((*class, field.strip_prefix(name)?)))?;
    let (mut tier, mut above) = ("", 0);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("_above_1hr") {
            if class != Class::CacheWrite5m {
                return None;
            }
            (class, rest) = (Class::CacheWrite1h, after);
        } else if let Some(after) = rest.strip_prefix("_above_") {
            let (thousands, after) = after.split_once("k_tokens")?;
            above = thousands.parse::<u64>().ok()?.checked_mul(1000)?;
            rest = after;
        } else {
            let word = rest.strip_prefix('_')?;
            let (word, after) = word.split_at(word.find('_').unwrap_or(word.len()));
            if word.is_empty() || !tier.is_empty() {
                return None;
            }
            (tier, rest) = (word, after);
        }
    }
    Some((class, tier, above))
}

/// In US dollars per token. More than a thousand is a mistake.
const DEAREST: f64 = 1000.0;

fn femto_usd(value: &Value) -> Option<u64> {
    let usd = value.as_f64().filter(|usd| (0.0..=DEAREST).contains(usd))?;
    Some((usd * 1e15).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_by_its_parts_in_the_order_in_which_they_come() {
        for (field, expected) in [
            ("input_cost_per_token", Some((Class::Input, "", 0))),
            ("output_cost_per_token_above_272k_tokens_flex", Some((Class::Output, "flex", 272_000))),
            ("cache_creation_input_token_cost_above_1hr", Some((Class::CacheWrite1h, "", 0))),
            ("cache_creation_input_token_cost_above_1hr_above_100k_tokens", Some((Class::CacheWrite1h, "", 100_000))),
            ("cache_read_input_token_cost_batches", Some((Class::CacheRead, "batches", 0))),
            ("output_cost_per_reasoning_token", Some((Class::Reasoning, "", 0))),
            ("cache_creation_input_token_cost_above_12hr", None),
            ("cache_read_input_token_cost_above_1hr", None),
            ("input_cost_per_token_cache_hit", None),
            ("input_cost_per_audio_token", Some((Class::AudioInput, "", 0))),
            ("output_cost_per_audio_token_batches", Some((Class::AudioOutput, "batches", 0))),
            ("cache_read_input_audio_token_cost_flex", Some((Class::AudioCacheRead, "flex", 0))),
            ("input_cost_per_audio_per_second", None),
            ("max_input_tokens", None),
            ("input_cost_per_token_", None),
        ] {
            assert_eq!(meaning(field), expected, "{field}");
        }
    }

    #[test]
    fn only_a_date_is_taken_off_a_name() {
        for (name, expected) in [
            ("claude-sonnet-4-5-20250929", Some("claude-sonnet-4-5")),
            ("gpt-4o-mini-2024-07-18", Some("gpt-4o-mini")),
            ("claude-sonnet-4-5@20250929", Some("claude-sonnet-4-5")),
            ("gpt-4-0613", None),
            ("gpt-4o-2024-07-1a", None),
            ("12345678", None),
            ("", None),
            ("modèle-2024-07-18", Some("modèle")),
            ("ééééééééé", None),
        ] {
            assert_eq!(undated(name), expected, "{name}");
        }
    }
}
