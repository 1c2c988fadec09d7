//! What was asked, and how many tokens that is.
//!
//! The estimate: a token is a piece of text that begins at a space or after eight characters. A message costs four tokens more than its
//! text, anything that is not text (an image, a file) 85.

use std::hash::{DefaultHasher, Hasher as _};

use serde_json::Value;

const CHARS_PER_TOKEN: usize = 8;
const PER_MESSAGE: usize = 4;
const PER_PART: usize = 85;
const SUBJECT_CHARS: usize = 2_000;

/// The text of a request, read part by part.
#[derive(Debug, Default)]
pub(crate) struct Prompt {
    pub(crate) tokens: usize,
    /// The beginning of the last text, which is the question.
    pub(crate) subject: String,
    hasher: DefaultHasher,
}

impl Prompt {
    /// Reads messages or items, each with its content.
    pub(crate) fn messages(&mut self, messages: &[Value]) {
        for message in messages {
            self.tokens += PER_MESSAGE;
            self.content(message);
        }
    }

    /// Reads a text, a part, or a list of parts, however deep.
    pub(crate) fn content(&mut self, content: &Value) {
        match content {
            Value::String(text) => self.text(text),
            Value::Array(parts) => parts.iter().for_each(|part| self.content(part)),
            Value::Object(part) => match ["text", "content", "parts", "output", "arguments"].iter().find_map(|name| part.get(*name)) {
                Some(inner) => self.content(inner),
                None => self.tokens += PER_PART,
            },
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Counts what describes the task without being a part of the question: tools, schemas.
    pub(crate) fn aside(&mut self, value: Option<&Value>) {
        if let Some(value) = value.filter(|value| !value.is_null()) {
            let text = value.to_string();
            self.hasher.write(text.as_bytes());
            self.tokens += pieces(&text).count();
        }
    }

    /// A number that differs where the question differs.
    pub(crate) fn digest(&self) -> u64 {
        self.hasher.finish()
    }

    fn text(&mut self, text: &str) {
        self.hasher.write(text.as_bytes());
        self.hasher.write_u8(0xff);
        self.tokens += pieces(text).count();
        self.subject = text.chars().take(SUBJECT_CHARS).collect();
    }
}

/// The tokens of a text. Their concatenation is the text.
pub(crate) fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut chars = rest.char_indices();
        chars.next()?;
        let end = chars.enumerate().find(|(index, (_, c))| *c == ' ' || index + 1 == CHARS_PER_TOKEN).map_or(rest.len(), |(_, (at, _))| at);
        let (piece, tail) = rest.split_at(end);
        rest = tail;
        Some(piece)
    })
}
