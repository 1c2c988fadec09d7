//! Token counts in the forms that services give them, and the one form that the cache keeps.
//!
//! OpenAI and Gemini count cached tokens as part of the prompt, Anthropic beside it; Gemini counts thoughts beside the output, OpenAI
//! within it. Unknown is `None`, never 0. Subtractions saturate.
//!
//! Audio in OpenAI's prompts and completions costs many times what text does, and has no class of its own here: usage that holds some is unknown rather than priced as text.

use super::wire::{Metadata, Tokens};
use crate::entry::Usage;

/// The counts of an answer so far. Each dialect fills in its own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    settled: Option<Usage>,
    has_audio: bool,
    anthropic: Anthropic,
    gemini: Gemini,
}

/// Per field, the last value that an event had: what `message_delta` says is cumulative, and replaces what `message_start` said.
#[derive(Clone, Copy, Debug, Default)]
struct Anthropic {
    input: Option<u64>,
    output: Option<u64>,
    read: Option<u64>,
    write: Option<u64>,
    write_5m: Option<u64>,
    write_1h: Option<u64>,
}

/// Per field, the last value that a frame had.
#[derive(Clone, Copy, Debug, Default)]
struct Gemini {
    prompt: Option<u64>,
    cached: Option<u64>,
    candidates: Option<u64>,
    thoughts: Option<u64>,
    tool_use: Option<u64>,
    total: Option<u64>,
}

impl Counts {
    /// The counts in one form; `None` if too little is known.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.settled.or_else(|| self.anthropic.usage()).or_else(|| self.gemini.usage())
    }

    /// `usage` of OpenAI chat, completions and embeddings, and of those compatible with them: the last that says anything counts.
    pub(super) fn chat(&mut self, tokens: &Tokens<'_>) {
        self.has_audio |= has_audio(tokens);
        self.settled = of_chat(tokens).or(self.settled).filter(|_| !self.has_audio);
    }

    /// `usage` of OpenAI Responses.
    pub(super) fn responses(&mut self, tokens: &Tokens<'_>) {
        self.settled = of_responses(tokens).or(self.settled);
    }

    /// `usage` of Anthropic Messages.
    pub(super) fn anthropic(&mut self, tokens: &Tokens<'_>) {
        let Anthropic { input, output, read, write, write_5m, write_1h } = &mut self.anthropic;
        let split = tokens.cache_creation.0.unwrap_or_default();
        *input = tokens.input_tokens.0.or(*input);
        *output = tokens.output_tokens.0.or(*output);
        *read = tokens.cache_read_input_tokens.0.or(*read);
        *write = tokens.cache_creation_input_tokens.0.or(*write);
        *write_5m = split.ephemeral_5m_input_tokens.0.or(*write_5m);
        *write_1h = split.ephemeral_1h_input_tokens.0.or(*write_1h);
    }

    /// `usageMetadata` of Gemini.
    pub(super) fn gemini(&mut self, metadata: &Metadata) {
        let Gemini { prompt, cached, candidates, thoughts, tool_use, total } = &mut self.gemini;
        *prompt = metadata.prompt_token_count.0.or(*prompt);
        *cached = metadata.cached_content_token_count.0.or(*cached);
        *candidates = metadata.candidates_token_count.0.or(*candidates);
        *thoughts = metadata.thoughts_token_count.0.or(*thoughts);
        *tool_use = metadata.tool_use_prompt_token_count.0.or(*tool_use);
        *total = metadata.total_token_count.0.or(*total);
    }
}

fn has_audio(tokens: &Tokens<'_>) -> bool {
    let prompt = tokens.prompt_tokens_details.0.and_then(|details| details.audio_tokens.0);
    let completion = tokens.completion_tokens_details.0.and_then(|details| details.audio_tokens.0);
    prompt.unwrap_or(0) > 0 || completion.unwrap_or(0) > 0
}

fn of_chat(tokens: &Tokens<'_>) -> Option<Usage> {
    let (hit, miss) = (tokens.prompt_cache_hit_tokens.0, tokens.prompt_cache_miss_tokens.0);
    let prompt = tokens.prompt_tokens.0.or_else(|| Some(hit?.saturating_add(miss?)))?;
    let cached = tokens.prompt_tokens_details.0.and_then(|details| details.cached_tokens.0).or(hit).unwrap_or(0);
    let reasoning = tokens.completion_tokens_details.0.and_then(|details| details.reasoning_tokens.0).unwrap_or(0);
    let total = tokens.total_tokens.0;
    // Embeddings have a total, and no completion.
    let completion = tokens.completion_tokens.0.or_else(|| Some(total?.saturating_sub(prompt)))?;
    // Some who are compatible count reasoning beside the completion; then the total tells.
    let beside = reasoning > 0 && total == prompt.checked_add(completion).and_then(|sum| sum.checked_add(reasoning));
    let output = if beside { completion.saturating_add(reasoning) } else { completion };
    Some(within_prompt(prompt, cached, output, reasoning))
}

fn of_responses(tokens: &Tokens<'_>) -> Option<Usage> {
    let cached = tokens.input_tokens_details.0.and_then(|details| details.cached_tokens.0).unwrap_or(0);
    let reasoning = tokens.output_tokens_details.0.and_then(|details| details.reasoning_tokens.0).unwrap_or(0);
    Some(within_prompt(tokens.input_tokens.0?, cached, tokens.output_tokens.0?, reasoning))
}

/// Cached tokens are part of the prompt, reasoning is part of the output.
fn within_prompt(prompt: u64, cached: u64, output: u64, reasoning: u64) -> Usage {
    let cache_read = cached.min(prompt);
    Usage { input_uncached: prompt - cache_read, cache_read, output, reasoning: reasoning.min(output), ..Usage::default() }
}

impl Anthropic {
    fn usage(&self) -> Option<Usage> {
        let write_1h = self.write_1h.unwrap_or(0);
        Some(Usage {
            input_uncached: self.input?,
            cache_read: self.read.unwrap_or(0),
            // Five minutes is the default, and all there is where the sum is not split.
            cache_write_5m: self.write.map_or(self.write_5m.unwrap_or(0), |write| write.saturating_sub(write_1h)),
            cache_write_1h: write_1h,
            output: self.output?,
            reasoning: 0,
        })
    }
}

impl Gemini {
    fn usage(&self) -> Option<Usage> {
        let prompt = self.prompt?;
        let tool_use = self.tool_use.unwrap_or(0);
        let thoughts = self.thoughts.unwrap_or(0);
        let output = match (self.candidates, self.thoughts) {
            (None, None) => self.total?.saturating_sub(prompt).saturating_sub(tool_use),
            (candidates, _) => candidates.unwrap_or(0).saturating_add(thoughts),
        };
        let usage = within_prompt(prompt, self.cached.unwrap_or(0), output, thoughts);
        Some(Usage { input_uncached: usage.input_uncached.saturating_add(tool_use), ..usage })
    }
}
