//! What LLM answers say about themselves: whether they are whole, whether they are errors or torsos in disguise, which model gave them and what they cost.
//!
//! [`Dialects`] goes into [`ApiPolicy::inspector`](crate::ApiPolicy::inspector). It recognises an answer by its content type and its content, not by the path, so that it
//! works behind any gateway. It watches; the bytes that are stored and replayed are the upstream's own. What it cannot read is not stored, and is served all the same.
//!
//! # Dialects
//!
//! | dialect | recognised by | whole when | not stored when |
//! |---|---|---|---|
//! | OpenAI chat, completions | `object`, or `choices` | `data: [DONE]`, after a `finish_reason` for every choice | no choice; `finish_reason` of `length`, `content_filter` and their like |
//! | OpenAI embeddings | `object: list` with `usage` | the document is | |
//! | OpenAI transcriptions | `transcript.text.*` events; `usage` of `type: tokens` or `duration` | `transcript.text.done` | |
//! | OpenAI Responses | `response.*` events; `object: response` | `response.completed` | `response.failed`, `.incomplete`, `.cancelled`; a `status` other than `completed` |
//! | Anthropic Messages | `message_*` and `content_block_*` events; `type: message` | `message_stop`, after a `stop_reason` | `stop_reason` of `max_tokens`, `model_context_window_exceeded`, `refusal`, `pause_turn` |
//! | Gemini, events | `candidates`, `promptFeedback`, `modelVersion` | a `finishReason` for every candidate, and a clean end; nothing proves it | no candidate; a `finishReason` other than `STOP`; `blockReason` |
//! | Gemini, document or array of them | the same | the same, and the document is | the same |
//! | other events | `text/event-stream` | the end is clean, and not within an event; proven by a last `[DONE]` | no event at all |
//! | other JSON | `application/json`, `..+json` | the document is | |
//!
//! Everything in the last column has a switch that lets it be stored; all are off by default. In all dialects, a top-level `error` other than `null` and an event named or typed `error`
//! keep an answer from being stored, and so does what follows the
//! terminal event, other than `ping` and a further `[DONE]`. A stream that ends within an event is cut off: clients would drop that event. A body that claims
//! to be JSON and is not, or that says something twice which matters, is not stored; neither is a stream with an event, or a document, over
//! [a limit](Dialects::event_limit). Tool calls, refusals in words and reasons that no vendor documents as a failure pass.
//!
//! The rules are the vendors': OpenAI's API reference ("Chat Completions: streaming", "Completions", "Embeddings", "Responses: streaming events", "Create transcription"), DeepSeek's ("Create Chat
//! Completion"), Anthropic's ("Streaming Messages", "Handling stop reasons", "Prompt caching"), Google's ("Gemini API: GenerateContentResponse"); events are cut as WHATWG HTML says
//! ("Server-sent events", section 9.2.6).
//!
//! # Usage
//!
//! | service | from | traps |
//! |---|---|---|
//! | OpenAI chat and compatible | `usage`, the last that says something | tokens read from the service's cache, or written into it, are part of the prompt; DeepSeek's `prompt_cache_hit_tokens`; reasoning beside the completion, if the total says so |
//! | OpenAI embeddings | `usage` | there is no output |
//! | OpenAI Responses | `usage`, `response.usage` | tokens read from the cache, or written into it, are part of the input |
//! | OpenAI transcriptions | `usage` of `type: tokens` | what is billed by its duration counts no tokens; no answer names its model |
//! | Anthropic | `usage`; `message_start`, then `message_delta`, which is cumulative, field by field | cache reads and writes come on top of the input; writes for an hour stand apart |
//! | Gemini | `usageMetadata`, field by field, the last | cached tokens are part of the prompt, thoughts are output beside the candidates, tool results are input |
//!
//! Audio is told apart within input, cached input and output: `audio_tokens` of OpenAI's details, `AUDIO` of Gemini's `promptTokensDetails`, `cacheTokensDetails`,
//! `candidatesTokensDetails` and `toolUsePromptTokensDetails`. Where there is audio, and tokens were cached or written to be that are not said to be audio or not, usage is `None`, as it is where an
//! answer holds images or video: those are billed apart, and are not counted apart here.
//!
//! Usage is `None` where the input or the output is unknown, and where a GET shows an answer again that an earlier call was billed for (`GET /v1/responses/{id}`). It is told for answers that
//! are not stored as well, those of calls that bypass the cache among them: they were paid for. [`LlmPrices`] make money of it.

mod anthropic;
mod gemini;
mod openai;
mod price;
mod reading;
mod sse;
mod template;
mod usage;
mod wire;

use std::sync::Arc;

use http::{HeaderMap, Method, header, request, response};

pub use price::LlmPrices;

use self::{
    reading::{Form, Reading},
    sse::Splitter,
};
use crate::{
    body::tape::Budget,
    inspect::{Findings, Inspect, Inspector},
};

/// Inspectors for the answers of LLM services.
///
/// ```
/// use tower_response_cache::{ApiPolicy, Sharing, llm::Dialects};
///
/// let policy = ApiPolicy::new(Sharing::PerCredential).inspector(Dialects::new().store_truncated(true));
/// # let _ = policy;
/// ```
///
/// Answers to HEAD, encoded ones, and those that are neither event streams nor JSON are left alone.
#[derive(Clone, Debug)]
pub struct Dialects {
    rules: Rules,
    event_limit: usize,
    document_limit: usize,
    room: Arc<Budget>,
}

/// What may be stored all the same.
#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    errors: bool,
    empty: bool,
    truncated: bool,
    refused: bool,
    paused: bool,
    incomplete: bool,
}

/// Bytes that all documents of one [`Dialects`] and its clones may take at a time before further ones are not read.
const ROOM: usize = 256 << 20;

impl Dialects {
    /// All dialects, under the strictest rules.
    pub fn new() -> Self {
        Self { rules: Rules::default(), event_limit: 1 << 20, document_limit: 8 << 20, room: Budget::new(ROOM) }
    }

    /// Stores answers that hit a limit on their length: `length`, `max_tokens`, `model_context_window_exceeded`, `MAX_TOKENS`, Responses that are `incomplete` for that.
    /// Default: off.
    #[must_use]
    pub fn store_truncated(mut self, on: bool) -> Self {
        self.rules.truncated = on;
        self
    }

    /// Stores answers that the service withheld: `content_filter`, `refusal`, `SAFETY` and its like, `blockReason`. Default: off.
    #[must_use]
    pub fn store_refused(mut self, on: bool) -> Self {
        self.rules.refused = on;
        self
    }

    /// Stores answers that wait to be continued: `pause_turn`, `compaction`. Default: off.
    #[must_use]
    pub fn store_paused(mut self, on: bool) -> Self {
        self.rules.paused = on;
        self
    }

    /// Stores errors that come under the guise of a good answer: `error` objects and events, responses that failed or were cancelled, finish reasons that
    /// tell of a failure. Default: off.
    #[must_use]
    pub fn store_errors(mut self, on: bool) -> Self {
        self.rules.errors = on;
        self
    }

    /// Stores answers without any choice, candidate or event. Default: off.
    #[must_use]
    pub fn store_empty(mut self, on: bool) -> Self {
        self.rules.empty = on;
        self
    }

    /// Stores answers that do not show to be whole, as from a service that leaves out `[DONE]` or finish reasons, and such as cannot be read: the framing of the body is then
    /// all that speaks for them. Default: off.
    #[must_use]
    pub fn store_incomplete(mut self, on: bool) -> Self {
        self.rules.incomplete = on;
        self
    }

    /// Reads events of up to this many bytes; a stream with a longer one is not stored. Twice as much may be buffered. Default: 1 MiB.
    #[must_use]
    pub fn event_limit(mut self, bytes: usize) -> Self {
        self.event_limit = bytes;
        self
    }

    /// Reads documents of up to this many bytes; longer ones are not stored. Unless a document comes in one piece, it is buffered up to its end, beside the copy that is
    /// to be stored; all together take no more than 256 MiB. Default: 8 MiB.
    #[must_use]
    pub fn document_limit(mut self, bytes: usize) -> Self {
        self.document_limit = bytes;
        self
    }
}

impl Default for Dialects {
    fn default() -> Self {
        Self::new()
    }
}

impl Inspect for Dialects {
    fn begin(&self, request: &request::Parts, response: &response::Parts) -> Option<Box<dyn Inspector>> {
        let headers = &response.headers;
        if request.method == Method::HEAD || is_encoded(headers) {
            return None;
        }
        let form = form(headers)?;
        let mut reading = Reading::new(form, self.rules);
        reading.recalls = request.method.is_safe();
        // Gemini's word for the tier, which may be another than was asked for.
        if let Some(tier) = headers.get("x-gemini-service-tier").and_then(|tier| tier.to_str().ok()) {
            reading.served(tier);
        }
        match form {
            Form::Events => Some(Box::new(Events { splitter: Splitter::new(self.event_limit), reading, too_long: false })),
            Form::Document => Some(Box::new(Document {
                promised: headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()),
                limit: self.document_limit,
                text: Vec::new(),
                held: Held { room: Arc::clone(&self.room), bytes: 0 },
                read: false,
                too_long: false,
                reading,
            })),
        }
    }
}

/// The form that a content type promises.
fn form(headers: &HeaderMap) -> Option<Form> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "text/event-stream" => Some(Form::Events),
        "application/json" => Some(Form::Document),
        other => other.ends_with("+json").then_some(Form::Document),
    }
}

fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Watches an event stream.
#[derive(Debug)]
struct Events {
    splitter: Splitter,
    reading: Reading,
    too_long: bool,
}

impl Inspector for Events {
    fn frame(&mut self, data: &[u8]) {
        let Self { splitter, reading, too_long } = self;
        *too_long |= !splitter.feed(data, |event| reading.event(event));
    }

    fn end(mut self: Box<Self>) -> Findings {
        if self.too_long {
            self.reading.object(false, "event too long");
        }
        let findings = self.reading.end(self.splitter.is_cut());
        Findings { proven: findings.proven && !self.too_long, ..findings }
    }
}

/// Watches a JSON document.
#[derive(Debug)]
struct Document {
    promised: Option<usize>,
    limit: usize,
    text: Vec<u8>,
    held: Held,
    read: bool,
    too_long: bool,
    reading: Reading,
}

/// What a document takes of the room that all share.
#[derive(Debug)]
struct Held {
    room: Arc<Budget>,
    bytes: usize,
}

impl Held {
    fn take(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.room.take(bytes)
    }

    fn give_back(&mut self) {
        self.room.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Inspector for Document {
    fn frame(&mut self, data: &[u8]) {
        if self.too_long || data.is_empty() {
            return;
        }
        if self.text.len() + data.len() > self.limit {
            self.too_long = true;
        } else if self.text.is_empty() && self.promised == Some(data.len()) && !self.read {
            self.read = true;
            self.reading.document(data);
        } else if self.held.take(data.len()) {
            self.text.extend_from_slice(data);
        } else {
            self.too_long = true;
        }
        if self.too_long {
            self.text = Vec::new();
            self.held.give_back();
        }
    }

    fn end(mut self: Box<Self>) -> Findings {
        if self.too_long {
            self.reading.object(false, "body too long");
        } else if !self.read || !self.text.is_empty() {
            // More than was promised is read here by itself, and then is no document, or a second one: the framing is broken, and that is not stored anyway.
            self.reading.document(&self.text);
        }
        let findings = self.reading.end(false);
        Findings { proven: findings.proven && !self.too_long, ..findings }
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    #[test]
    fn documents_share_a_room_which_those_that_are_over_give_back() {
        let dialects = Dialects { room: Budget::new(100), ..Dialects::new() };
        let (request, ()) = Request::post("/").body(()).unwrap().into_parts();
        let (response, ()) = Response::builder().header("content-type", "application/json").body(()).unwrap().into_parts();
        let begin = |dialects: &Dialects| dialects.begin(&request, &response).unwrap();
        let document = format!(r#"{{"a":"{}"}}"#, "x".repeat(60));
        let objection = |mut inspector: Box<dyn Inspector>| {
            inspector.frame(document.as_bytes());
            inspector.end().objection
        };

        let mut first = begin(&dialects);
        first.frame(&document.as_bytes()[..60]);
        let clone = dialects.clone();
        assert_eq!(objection(begin(&clone)).as_deref(), Some("body too long"), "there is no room for two");
        first.frame(&document.as_bytes()[60..]);
        assert_eq!(first.end().objection, None, "the one before is none the worse");
        drop(begin(&dialects));
        assert_eq!(objection(begin(&dialects)), None);
    }
}
