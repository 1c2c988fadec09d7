//! Token counts in the forms that services give them, and the one form that the cache keeps.
//!
//! OpenAI and Gemini count cached tokens as part of the prompt, Anthropic beside it; Gemini counts thoughts beside the output, OpenAI
//! within it. Audio is part of whichever it is in. Unknown is `None`, never 0. Subtractions saturate.
//!
//! Audio costs many times what text does. Where it cannot be told how much of it was cached, or whether a later count leaves it out, the usage is unknown rather than
//! priced as something else; so is output in images or video, which is billed apart and has no class here.

use super::wire::{Cached, Metadata, Split, Tokens};
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
    prompt_split: Option<Split>,
    cached_split: Option<Split>,
    candidates_split: Option<Split>,
    tool_use_split: Option<Split>,
}

impl Counts {
    /// The counts in one form; `None` if too little is known.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.settled.or_else(|| self.anthropic.usage()).or_else(|| self.gemini.usage())
    }

    /// `usage` of OpenAI chat, completions and embeddings, and of those compatible with them: the last that says anything counts.
    pub(super) fn chat(&mut self, tokens: &Tokens<'_>) {
        self.settle(of_chat(tokens));
    }

    /// `usage` of OpenAI Responses, and of transcriptions: those that are billed by their duration count no tokens.
    pub(super) fn responses(&mut self, tokens: &Tokens<'_>) {
        self.settle(of_responses(tokens));
    }

    fn settle(&mut self, said: Option<Whole>) {
        let Some(whole) = said else { return };
        let has_audio = whole.audio_prompt > 0 || whole.audio_output > 0;
        self.has_audio |= has_audio;
        // What was heard cannot be unheard: such a count leaves something out.
        self.settled = whole.apart().filter(|_| has_audio || !self.has_audio);
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
    pub(super) fn gemini(&mut self, metadata: &Metadata<'_>) {
        let Gemini { prompt, cached, candidates, thoughts, tool_use, total, prompt_split, cached_split, candidates_split, tool_use_split } =
            &mut self.gemini;
        *prompt = metadata.prompt_token_count.0.or(*prompt);
        *cached = metadata.cached_content_token_count.0.or(*cached);
        *candidates = metadata.candidates_token_count.0.or(*candidates);
        *thoughts = metadata.thoughts_token_count.0.or(*thoughts);
        *tool_use = metadata.tool_use_prompt_token_count.0.or(*tool_use);
        *total = metadata.total_token_count.0.or(*total);
        *prompt_split = metadata.prompt_tokens_details.0.or(*prompt_split);
        *cached_split = metadata.cache_tokens_details.0.or(*cached_split);
        *candidates_split = metadata.candidates_tokens_details.0.or(*candidates_split);
        *tool_use_split = metadata.tool_use_prompt_tokens_details.0.or(*tool_use_split);
    }
}

/// What a service says of a call, in which tokens that are cached, and those that are written to be, are part of the prompt, and reasoning and audio of what they are in.
#[derive(Default)]
struct Whole {
    prompt: u64,
    cached: u64,
    /// Written into the service's cache; none of it was read from there.
    written: u64,
    output: u64,
    reasoning: u64,
    audio_prompt: u64,
    /// `None` if that is not said.
    audio_cached: Option<u64>,
    audio_output: u64,
}

impl Whole {
    /// Its classes; `None` if it cannot be told how much of the audio was cached.
    fn apart(self) -> Option<Usage> {
        let cache_read = self.cached.min(self.prompt);
        let cache_write = self.written.min(self.prompt - cache_read);
        let input_uncached = self.prompt - cache_read - cache_write;
        let audio_cache_read = match self.audio_cached {
            _ if cache_write > 0 && self.audio_prompt > 0 => return None,
            Some(audio) => audio.min(cache_read),
            None if cache_read == 0 || self.audio_prompt == 0 => 0,
            None => return None,
        };
        let reasoning = self.reasoning.min(self.output);
        Some(Usage {
            input_uncached,
            cache_read,
            // How long it is kept is not said: the shorter time is the default.
            cache_write_5m: cache_write,
            output: self.output,
            reasoning,
            audio_input: self.audio_prompt.saturating_sub(audio_cache_read).min(input_uncached),
            audio_cache_read,
            audio_output: self.audio_output.min(self.output - reasoning),
            ..Usage::default()
        })
    }
}

fn of_chat(tokens: &Tokens<'_>) -> Option<Whole> {
    let prompt_details = tokens.prompt_tokens_details.0.unwrap_or_default();
    let completion_details = tokens.completion_tokens_details.0.unwrap_or_default();
    let (hit, miss) = (tokens.prompt_cache_hit_tokens.0, tokens.prompt_cache_miss_tokens.0);
    let prompt = tokens.prompt_tokens.0.or_else(|| Some(hit?.saturating_add(miss?)))?;
    let reasoning = completion_details.reasoning_tokens.0.unwrap_or(0);
    let total = tokens.total_tokens.0;
    // Embeddings have a total, and no completion.
    let completion = tokens.completion_tokens.0.or_else(|| Some(total?.saturating_sub(prompt)))?;
    // Some who are compatible count reasoning beside the completion; then the total tells.
    let beside = reasoning > 0 && total == prompt.checked_add(completion).and_then(|sum| sum.checked_add(reasoning));
    Some(Whole {
        prompt,
        cached: prompt_details.cached_tokens.0.or(hit).unwrap_or(0),
        written: written(&prompt_details),
        output: if beside { completion.saturating_add(reasoning) } else { completion },
        reasoning,
        audio_prompt: prompt_details.audio_tokens.0.unwrap_or(0),
        audio_cached: None,
        audio_output: completion_details.audio_tokens.0.unwrap_or(0),
    })
}

/// Of Responses, and of transcriptions that are billed by tokens.
fn of_responses(tokens: &Tokens<'_>) -> Option<Whole> {
    let input_details = tokens.input_tokens_details.0.or(tokens.input_token_details.0).unwrap_or_default();
    let output_details = tokens.output_tokens_details.0.unwrap_or_default();
    Some(Whole {
        prompt: tokens.input_tokens.0?,
        cached: input_details.cached_tokens.0.unwrap_or(0),
        written: written(&input_details),
        output: tokens.output_tokens.0?,
        reasoning: output_details.reasoning_tokens.0.unwrap_or(0),
        audio_prompt: input_details.audio_tokens.0.unwrap_or(0),
        audio_cached: None,
        audio_output: output_details.audio_tokens.0.unwrap_or(0),
    })
}

/// Of late models of OpenAI's, and of others' behind compatible gateways.
fn written(details: &Cached) -> u64 {
    details.cache_write_tokens.0.or(details.cache_creation_tokens.0).unwrap_or(0)
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
            ..Usage::default()
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
        let audio = |split: Option<Split>| split.map_or(0, |split| split.audio);
        if self.candidates_split.is_some_and(|split| split.pictures > 0) {
            return None;
        }
        let usage = Whole {
            prompt,
            cached: self.cached.unwrap_or(0),
            written: 0,
            output,
            reasoning: thoughts,
            audio_prompt: audio(self.prompt_split),
            audio_cached: self.cached_split.map(|split| split.audio),
            audio_output: audio(self.candidates_split),
        }
        .apart()?;
        Some(Usage {
            input_uncached: usage.input_uncached.saturating_add(tool_use),
            audio_input: usage.audio_input.saturating_add(audio(self.tool_use_split).min(tool_use)),
            ..usage
        })
    }
}
