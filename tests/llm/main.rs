//! What the inspectors of LLM answers find, one module per kind of promise, through the public API.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    reason = "no one depends on a test, and each uses a part of what tests share"
)]
#![cfg(feature = "llm")]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/origin.rs"]
mod origin;

mod faults;
mod golden;
mod layer;
mod usage;

use http::{Request, Response};
use tower_response_cache::{
    inspect::{Findings, Inspect, Inspector},
    llm::Dialects,
};

pub const EVENTS: &str = "text/event-stream; charset=utf-8";
pub const JSON: &str = "application/json";

/// A whole answer, as a service would send it.
#[derive(Clone, Debug)]
pub struct Golden {
    pub name: &'static str,
    pub content_type: &'static str,
    pub text: &'static str,
}

impl Golden {
    pub fn findings(&self) -> Findings {
        inspect(&Dialects::new(), self.content_type, [self.text.as_bytes()])
    }

    /// The answer with one thing changed.
    pub fn with(&self, from: &str, to: &str) -> String {
        assert!(self.text.contains(from), "{} has no {from}", self.name);
        self.text.replace(from, to)
    }
}

macro_rules! golden {
    ($($name:literal $content_type:expr),* $(,)?) => {
        [$(Golden { name: $name, content_type: $content_type, text: include_str!(concat!("../golden/llm/", $name, ".txt")) }),*]
    };
}

pub fn goldens() -> Vec<Golden> {
    golden![
        "anthropic.json" JSON,
        "anthropic.sse" EVENTS,
        "azure-chat.sse" EVENTS,
        "deepseek-chat.sse" EVENTS,
        "gemini-array.json" JSON,
        "gemini-audio.sse" EVENTS,
        "gemini-speech.json" JSON,
        "gemini.json" JSON,
        "gemini.sse" EVENTS,
        "openai-chat-audio.json" JSON,
        "openai-chat-audio.sse" EVENTS,
        "openai-chat-tools.sse" EVENTS,
        "openai-chat-two.sse" EVENTS,
        "openai-chat.json" JSON,
        "openai-chat.sse" EVENTS,
        "openai-completions.json" JSON,
        "openai-completions.sse" EVENTS,
        "openai-embeddings.json" JSON,
        "openai-responses.json" JSON,
        "openai-responses.sse" EVENTS,
        "openai-transcription-diarized.sse" EVENTS,
        "openai-transcription.json" JSON,
        "openai-transcription.sse" EVENTS,
        "openai-whisper.json" JSON,
        "openrouter-chat.sse" EVENTS,
        "other.json" JSON,
        "other.sse" EVENTS,
    ]
    .to_vec()
}

pub fn golden(name: &str) -> Golden {
    goldens().into_iter().find(|golden| golden.name == name).unwrap()
}

pub fn begin(dialects: &Dialects, method: &str, headers: &[(&str, &str)]) -> Option<Box<dyn Inspector>> {
    let request = Request::builder().method(method).uri("http://origin/").body(()).unwrap().into_parts().0;
    let mut response = Response::builder();
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    dialects.begin(&request, &response.body(()).unwrap().into_parts().0)
}

/// What is found in a body that comes in these pieces.
pub fn inspect<'p>(dialects: &Dialects, content_type: &str, pieces: impl IntoIterator<Item = &'p [u8]>) -> Findings {
    let mut inspector = begin(dialects, "POST", &[("content-type", content_type)]).expect("the content type is known");
    for piece in pieces {
        inspector.frame(piece);
    }
    inspector.end()
}

pub fn objection(dialects: &Dialects, content_type: &str, text: &str) -> Option<String> {
    inspect(dialects, content_type, [text.as_bytes()]).objection.map(Into::into)
}

/// Findings in a form that can be compared.
pub fn told(findings: &Findings) -> String {
    format!("{findings:?}")
}
