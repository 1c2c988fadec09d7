use std::borrow::Cow;

use super::{Rules, sse::Event, template::Template, usage::Counts, wire};
use crate::inspect::Findings;

/// What one answer has said of itself so far.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) form: Form,
    pub(super) rules: Rules,
    pub(super) dialect: Option<Dialect>,
    pub(super) counts: Counts,
    /// The choices or candidates that were seen, and those that were finished, by index.
    pub(super) seen: u128,
    pub(super) finished: u128,
    /// The terminal event was seen.
    pub(super) ended: bool,
    /// It is OpenAI's completions, which came before chat.
    is_legacy: bool,
    /// What was asked for only shows again what an earlier call answered: its tokens were those of that call.
    pub(super) recalls: bool,
    objection: Option<&'static str>,
    model: Option<String>,
    service_tier: Option<String>,
    template: Template,
    /// Something was said at all.
    spoke: bool,
    /// Something was said that is not JSON.
    garbled: bool,
    /// Something was said after the terminal event.
    surplus: bool,
}

/// How an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Events,
    Document,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Chat,
    Embeddings,
    Responses,
    Transcription,
    Anthropic,
    Gemini,
}

/// Longer names are none, and would only be carried around.
const LONGEST_NAME: usize = 256;

impl Reading {
    pub(super) fn new(form: Form, rules: Rules) -> Self {
        Self {
            form,
            rules,
            dialect: None,
            counts: Counts::default(),
            seen: 0,
            finished: 0,
            ended: false,
            is_legacy: false,
            recalls: false,
            objection: None,
            model: None,
            service_tier: None,
            template: Template::default(),
            spoke: false,
            garbled: false,
            surplus: false,
        }
    }

    /// Takes in an event of a stream.
    pub(super) fn event(&mut self, event: Event<'_>) {
        let Event { name, data } = event;
        if !self.ended && name.is_empty() && self.template.fits(data) {
            return;
        }
        if name == b"error" {
            self.object(self.rules.errors, "error in the stream");
        }
        let text = data.trim_ascii();
        if name == b"ping" || text.is_empty() {
            return;
        }
        self.spoke = true;
        if text == b"[DONE]" {
            // Compatible services end streams of other dialects with it as well, after their own terminal event.
            self.ended |= matches!(self.dialect, None | Some(Dialect::Chat));
            return;
        }
        if !self.ended && self.is_idle(name, data) {
            return;
        }
        let mut idle = false;
        let read = wire::read(data, |message| idle = self.message(name, message));
        match read {
            Ok(_) if idle && !self.ended => self.template.learn(data),
            Ok(_) => {}
            Err(_) => self.garbled = true,
        }
    }

    /// Takes in a whole document.
    pub(super) fn document(&mut self, text: &[u8]) {
        self.spoke = true;
        match wire::read(text, |message| {
            self.message(b"", message);
        }) {
            // A number might go on, for all one knows.
            Ok(shape) => self.ended = shape != wire::Shape::Scalar,
            Err(_) => self.garbled = true,
        }
    }

    /// The body ended; `cut` says whether within an event.
    pub(super) fn end(mut self, cut: bool) -> Findings {
        if cut {
            self.object(self.rules.incomplete, "stream ends within an event");
        }
        if !self.spoke {
            self.object(self.rules.empty, "stream without events");
        }
        if self.garbled && (self.dialect.is_some() || self.form == Form::Document) {
            self.object(self.rules.incomplete, "body not readable");
        }
        match self.dialect {
            Some(Dialect::Chat) => self.end_chat(),
            Some(Dialect::Responses | Dialect::Transcription) => self.end_told(),
            Some(Dialect::Anthropic) => self.end_anthropic(),
            Some(Dialect::Gemini) => self.end_gemini(),
            Some(Dialect::Embeddings) | None => {}
        }
        Findings {
            objection: self.objection.map(Cow::Borrowed),
            proven: self.ended && !cut && !self.garbled && !self.surplus,
            usage: self.counts.usage().filter(|_| !self.recalls),
            model: self.model,
            service_tier: self.service_tier,
            operation: self.dialect.filter(|_| !self.recalls).map(|dialect| Cow::Borrowed(operation(dialect, self.is_legacy))),
        }
    }

    /// Objects, unless the rules allow it. The first objection is the one that is told.
    pub(super) fn object(&mut self, allowed: bool, objection: &'static str) {
        if !allowed {
            self.objection.get_or_insert(objection);
        }
    }

    /// Objects to an answer that came to an end for this reason, whatever dialect's word it is.
    pub(super) fn stopped(&mut self, reason: &str) {
        match reason.to_ascii_lowercase().as_str() {
            "length" | "max_tokens" | "max_output_tokens" | "model_length" | "model_context_window_exceeded" => {
                self.object(self.rules.truncated, "answer truncated");
            }
            "content_filter" | "refusal" | "safety" | "recitation" | "blocklist" | "prohibited_content" | "spii" => {
                self.object(self.rules.refused, "answer refused or filtered");
            }
            "pause_turn" | "compaction" => self.object(self.rules.paused, "turn paused"),
            "error" | "abort" | "cancelled" | "failed" | "insufficient_system_resource" => {
                self.object(self.rules.errors, "answer broken off");
            }
            _ => {}
        }
    }

    /// Notes that a choice is there, and whether it is finished.
    pub(super) fn choice(&mut self, index: Option<u64>, finished: bool) {
        match u32::try_from(index.unwrap_or(0)).ok().and_then(|index| 1_u128.checked_shl(index)) {
            Some(bit) => {
                self.seen |= bit;
                self.finished |= if finished { bit } else { 0 };
            }
            None => self.garbled = true,
        }
    }

    /// Notes the model that answered: the first that is named.
    pub(super) fn named(&mut self, model: &str) {
        if self.model.is_none() && !model.is_empty() && model.len() <= LONGEST_NAME {
            self.model = Some(model.to_owned());
        }
    }

    /// Notes the service tier: the last that is named.
    pub(super) fn served(&mut self, tier: &str) {
        if !tier.is_empty() && tier.len() <= LONGEST_NAME && self.service_tier.as_deref() != Some(tier) {
            self.service_tier = Some(tier.to_owned());
        }
    }

    /// Takes in what an event or a document says. Does it change nothing, however often it is said?
    fn message(&mut self, name: &[u8], message: &wire::Message<'_>) -> bool {
        let kind = match message.kind.as_str() {
            "" => std::str::from_utf8(name).unwrap_or_default(),
            kind => kind,
        };
        if message.error.0 || kind == "error" {
            self.object(self.rules.errors, if self.form == Form::Events { "error in the stream" } else { "error in the answer" });
        }
        if kind == "ping" {
            return false;
        }
        if self.ended && self.form == Form::Events {
            self.surplus = true;
            self.object(self.rules.incomplete, "data after the end of the stream");
            return false;
        }
        self.dialect = self.dialect.or_else(|| recognised(kind, message));
        self.is_legacy |= message.object.as_str() == "text_completion";
        match self.dialect {
            Some(Dialect::Chat) => return self.chat(message),
            Some(Dialect::Embeddings) => self.embeddings(message),
            Some(Dialect::Responses) => self.responses(kind, message),
            Some(Dialect::Transcription) => self.transcription(kind, message),
            Some(Dialect::Anthropic) => self.anthropic(kind, message),
            Some(Dialect::Gemini) => self.gemini(message),
            None => {}
        }
        false
    }

    /// Is this one of the many events that bring a piece of text and nothing else? Those that begin with their type need no parsing.
    fn is_idle(&self, name: &[u8], data: &[u8]) -> bool {
        let Some(kind) = leading_kind(data).filter(|kind| name.is_empty() || name == *kind) else { return false };
        match self.dialect {
            Some(Dialect::Anthropic) => kind == b"content_block_delta",
            Some(Dialect::Responses) => kind.starts_with(b"response.") && kind.ends_with(b".delta"),
            Some(Dialect::Transcription) => kind == b"transcript.text.delta",
            _ => false,
        }
    }
}

/// What OpenTelemetry's semantic conventions call it (`gen_ai.operation.name`). They have no word for transcriptions.
fn operation(dialect: Dialect, is_legacy: bool) -> &'static str {
    match dialect {
        Dialect::Chat if is_legacy => "text_completion",
        Dialect::Chat | Dialect::Responses | Dialect::Anthropic => "chat",
        Dialect::Embeddings => "embeddings",
        Dialect::Transcription => "transcription",
        Dialect::Gemini => "generate_content",
    }
}

/// The `type`, if it is the first member.
fn leading_kind(data: &[u8]) -> Option<&[u8]> {
    let rest = data.strip_prefix(b"{\"type\":")?;
    let rest = rest.strip_prefix(b" ").unwrap_or(rest).strip_prefix(b"\"")?;
    let kind = &rest[..memchr::memchr(b'"', rest)?];
    (!kind.contains(&b'\\')).then_some(kind)
}

fn recognised(kind: &str, message: &wire::Message<'_>) -> Option<Dialect> {
    match (kind, message.object.as_str()) {
        (_, "chat.completion" | "chat.completion.chunk" | "text_completion") => Some(Dialect::Chat),
        (_, "response") => Some(Dialect::Responses),
        (_, "list") if message.usage.0.is_some() => Some(Dialect::Embeddings),
        ("message" | "message_start" | "message_delta" | "message_stop", _) => Some(Dialect::Anthropic),
        ("content_block_start" | "content_block_delta" | "content_block_stop", _) => Some(Dialect::Anthropic),
        _ if kind.starts_with("response.") => Some(Dialect::Responses),
        _ if kind.starts_with("transcript.text.") => Some(Dialect::Transcription),
        // Azure's first chunk, and some compatible services, leave `object` empty.
        _ if message.choices.0.is_some() => Some(Dialect::Chat),
        _ if message.candidates.0.is_some() || message.prompt_feedback.0.is_some() || !message.model_version.as_str().is_empty() => {
            Some(Dialect::Gemini)
        }
        // The document of a transcription has nothing else to tell it by.
        _ if message.usage.0.as_ref().is_some_and(|usage| matches!(usage.kind.as_str(), "tokens" | "duration")) => {
            Some(Dialect::Transcription)
        }
        _ => None,
    }
}
