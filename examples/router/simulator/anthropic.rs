//! Anthropic Messages.

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::{
    fields::{count, flag, messages, required, text},
    json::{Object, object},
    problem::Problem,
    prompt::Prompt,
    script::{Answer, Call, Content, EVENTS, Form, Script},
};

/// `POST /v1/messages`.
pub(crate) fn anthropic(call: &mut Call, headers: &HeaderMap, body: &Value) -> Result<Script, Problem> {
    if !headers.contains_key("anthropic-version") {
        return Err(Problem::other(StatusCode::BAD_REQUEST, None, "anthropic-version: header is required"));
    }
    let model = text(body, "model")?;
    required(body, "max_tokens")?;
    let limit = count(body, "max_tokens", 1..=usize::MAX)?;
    let mut prompt = Prompt::default();
    prompt.content(body.get("system").unwrap_or(&Value::Null));
    prompt.messages(messages(body, "messages", &["user", "assistant"])?);
    prompt.aside(body.get("tools"));
    let stream = flag(body, "stream")?;
    let answer = call.answer(&prompt, &form(body)?, limit);
    let reply = Reply { id: call.id("msg_01", 22), tool_use: call.id("toolu_01", 22), model, input: prompt.tokens, answer };
    let error = object! { "type": "error", "error": object! { "type": "overloaded_error", "message": "Overloaded" } };
    Ok(if stream {
        reply.stream().damage(call.fault, |_| error.event("error"))
    } else {
        Script::document(reply.document(), reply.answer.tokens()).damage(call.fault, |_| error.document())
    })
}

/// The form that `tool_choice` asks for.
fn form(body: &Value) -> Result<Form, Problem> {
    let tools = body.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let name = |tool: &Value| tool.get("name").and_then(Value::as_str).map(str::to_owned);
    let choice = body.get("tool_choice").unwrap_or(&Value::Null);
    let tool = match choice.get("type").and_then(Value::as_str) {
        Some("any") => tools.first(),
        Some("tool") => tools.iter().find(|tool| name(tool) == name(choice)),
        _ => return Ok(Form::Prose),
    };
    let found = tool.and_then(|tool| Some((name(tool)?, tool)));
    let (name, tool) = found.ok_or_else(|| Problem::invalid("tool_choice", "the tool is not found in provided tools"))?;
    Ok(Form::Call { name, schema: tool.get("input_schema").cloned().unwrap_or_default() })
}

struct Reply<'a> {
    id: String,
    tool_use: String,
    model: &'a str,
    input: usize,
    answer: Answer,
}

impl Reply<'_> {
    fn document(&self) -> bytes::Bytes {
        let text = self.answer.text();
        let block = match &self.answer.content {
            Content::Text if text.is_empty() => None,
            Content::Text => Some(object! { "type": "text", "text": text }),
            Content::Call(_) => {
                // Arguments that the limit cut off are no JSON; the real service leaves them out too.
                let input: Value = serde_json::from_str(&text).unwrap_or_else(|_| Value::Object(serde_json::Map::new()));
                Some(self.tool_use().with("input", input))
            }
            Content::Refusal => None,
        };
        let content: Vec<Object> = block.into_iter().collect();
        self.message(content, Some(self.stop_reason()), self.output()).document()
    }

    fn stream(&self) -> Script {
        let mut script = Script::stream(EVENTS);
        let mut push = |tokens: usize, name: &'static str, fill: &dyn Fn(Object) -> Object| {
            script.push(tokens, fill(object! { "type": name }).event(name));
        };
        let tokens = self.answer.tokens();
        push(0, "message_start", &|event| event.with("message", self.message(Vec::new(), None, self.output().min(1))));
        let block = match &self.answer.content {
            Content::Text if tokens > 0 => Some(object! { "type": "text", "text": "" }),
            Content::Call(_) => Some(self.tool_use().with("input", object! {})),
            Content::Text | Content::Refusal => None,
        };
        if let Some(block) = &block {
            push(0, "content_block_start", &|event| event.with("index", 0).with("content_block", block));
        }
        push(0, "ping", &|event| event);
        if block.is_some() {
            for (at, piece) in (1..).zip(&self.answer.pieces) {
                let delta = match &self.answer.content {
                    Content::Call(_) => object! { "type": "input_json_delta", "partial_json": piece },
                    _ => object! { "type": "text_delta", "text": piece },
                };
                push(at, "content_block_delta", &|event| event.with("index", 0).with("delta", &delta));
            }
            push(tokens, "content_block_stop", &|event| event.with("index", 0));
        }
        let delta = object! { "stop_reason": self.stop_reason(), "stop_sequence": () };
        // Cumulative, not what came since `message_start`.
        let usage = object! {
            "input_tokens": self.input,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": self.output(),
        };
        push(tokens, "message_delta", &|event| event.with("delta", &delta).with("usage", &usage));
        push(tokens, "message_stop", &|event| event);
        script
    }

    fn message(&self, content: Vec<Object>, stop_reason: Option<&str>, output: usize) -> Object {
        object! {
            "model": self.model,
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": (),
            "usage": object! {
                "input_tokens": self.input,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "cache_creation": object! { "ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0 },
                "output_tokens": output,
                "service_tier": "standard",
            },
        }
    }

    fn tool_use(&self) -> Object {
        let name = if let Content::Call(name) = &self.answer.content { name } else { "" };
        object! { "type": "tool_use", "id": self.tool_use, "name": name }
    }

    /// A refusal shows no text, and costs none.
    fn output(&self) -> usize {
        if self.answer.content == Content::Refusal { 0 } else { self.answer.tokens() }
    }

    fn stop_reason(&self) -> &'static str {
        match &self.answer.content {
            _ if self.answer.cut => "max_tokens",
            Content::Text => "end_turn",
            Content::Call(_) => "tool_use",
            Content::Refusal => "refusal",
        }
    }
}
