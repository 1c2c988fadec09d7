//! An answer before it is spoken: what is said, then in which frames.

use std::collections::VecDeque;

use bytes::Bytes;
use fastrand::Rng;
use http::HeaderValue;
use serde_json::Value;

use super::{
    fault::Fault,
    prompt::{Prompt, pieces},
    prose,
};

/// JSON, whole.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Server-sent events.
pub(crate) const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");

/// One call of a model.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) rng: Rng,
    pub(crate) fault: Option<Fault>,
    /// When the call was made, in seconds since 1970.
    pub(crate) created: u64,
}

impl Call {
    /// An identifier that no other call has.
    pub(crate) fn id(&mut self, prefix: &str, length: usize) -> String {
        prefix.chars().chain(std::iter::repeat_with(|| self.rng.alphanumeric()).take(length)).collect()
    }

    /// An answer to a prompt, in a form, of at most so many tokens.
    pub(crate) fn answer(&mut self, prompt: &Prompt, form: &Form, limit: Option<usize>) -> Answer {
        let rng = &mut Rng::with_seed(self.rng.u64(..) ^ prompt.digest());
        let (content, text) = match (self.fault, form) {
            (Some(Fault::Refusal), _) => (Content::Refusal, prose::REFUSAL.to_owned()),
            (Some(Fault::Empty), _) => (Content::Text, String::new()),
            (_, Form::Prose) => (Content::Text, prose::prose(&prompt.subject, rng)),
            (_, Form::Json(schema)) => (Content::Text, prose::value(schema.as_ref(), &prompt.subject, rng).to_string()),
            (_, Form::Call { name, schema }) => (Content::Call(name.clone()), prose::value(Some(schema), &prompt.subject, rng).to_string()),
        };
        let mut pieces: Vec<String> = pieces(&text).map(str::to_owned).collect();
        let cut = limit.is_some_and(|limit| pieces.len() > limit);
        pieces.truncate(limit.unwrap_or(usize::MAX));
        Answer { content, pieces, cut }
    }
}

/// The form that the caller wants the answer in.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// Text.
    Prose,
    /// A JSON text, of a schema if there is one.
    Json(Option<Value>),
    /// A call of this tool.
    Call {
        /// Which tool.
        name: String,
        /// What it takes.
        schema: Value,
    },
}

/// What is said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) content: Content,
    /// The tokens, in order.
    pub(crate) pieces: Vec<String>,
    /// There would be more, but for the limit.
    pub(crate) cut: bool,
}

/// What the tokens of an answer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Text, JSON too.
    Text,
    /// The arguments of a call of this tool.
    Call(String),
    /// The reason why there is no answer.
    Refusal,
}

impl Answer {
    /// All of it.
    pub(crate) fn text(&self) -> String {
        self.pieces.concat()
    }

    /// How many tokens it has.
    pub(crate) fn tokens(&self) -> usize {
        self.pieces.len()
    }
}

/// An answer on the wire, with the number of tokens that each frame has to wait for.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) content_type: HeaderValue,
    pub(crate) streamed: bool,
    pub(crate) frames: VecDeque<(usize, Bytes)>,
}

impl Script {
    /// A JSON document that is there when all of its tokens are.
    pub(crate) fn document(data: Bytes, tokens: usize) -> Self {
        Self { content_type: JSON, streamed: false, frames: VecDeque::from([(tokens, data)]) }
    }

    /// A stream, empty yet.
    pub(crate) fn stream(content_type: HeaderValue) -> Self {
        Self { content_type, streamed: true, frames: VecDeque::new() }
    }

    /// Adds a frame that goes out once so many tokens are there.
    pub(crate) fn push(&mut self, tokens: usize, data: Bytes) {
        self.frames.push_back((tokens, data));
    }

    /// Damages the answer as ordered. `failure` makes what a failing provider sends in place of the rest, given the number of frames before.
    pub(crate) fn damage(mut self, fault: Option<Fault>, failure: impl FnOnce(usize) -> Bytes) -> Self {
        match fault {
            Some(Fault::Cut) if self.streamed => self.frames.truncate(self.frames.len() / 2),
            Some(Fault::Cut) => self.frames.iter_mut().for_each(|(_, data)| data.truncate(data.len() / 2)),
            Some(Fault::InStream) => {
                self.frames.truncate(if self.streamed { self.frames.len() / 2 } else { 0 });
                let tokens = self.frames.back().map_or(0, |(tokens, _)| *tokens);
                self.push(tokens, failure(self.frames.len()));
            }
            _ => {}
        }
        self
    }
}
