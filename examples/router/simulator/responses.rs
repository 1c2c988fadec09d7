//! OpenAI Responses.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    fields::{count, flag, required, text},
    json::{Object, object},
    problem::Problem,
    prompt::Prompt,
    script::{Answer, Call, Content, EVENTS, Form, Script},
};

/// `POST /v1/responses`.
pub(crate) fn responses(call: &mut Call, body: &Value) -> Result<Script, Problem> {
    let model = text(body, "model")?;
    let mut prompt = Prompt::default();
    prompt.content(body.get("instructions").unwrap_or(&Value::Null));
    match required(body, "input")? {
        input @ Value::String(_) => prompt.messages(std::slice::from_ref(input)),
        Value::Array(items) if items.iter().all(Value::is_object) && !items.is_empty() => prompt.messages(items),
        _ => return Err(Problem::invalid("input", "expected a string or an array of input items")),
    }
    prompt.aside(body.get("tools"));
    let limit = count(body, "max_output_tokens", 1..=usize::MAX)?;
    let stream = flag(body, "stream")?;
    let answer = call.answer(&prompt, &form(body)?, limit);
    let reply = Reply {
        id: call.id("resp_", 48),
        item: call.id(if matches!(answer.content, Content::Call(_)) { "fc_" } else { "msg_" }, 48),
        tool_call: call.id("call_", 24),
        created: call.created,
        model,
        body,
        input: prompt.tokens,
        answer,
    };
    Ok(if stream {
        let script = reply.stream();
        script.damage(call.fault, |sequence| {
            let message = "The server had an error while processing your request. Sorry about that!";
            let event = object! { "type": "error", "sequence_number": sequence, "code": "server_error", "message": message, "param": () };
            event.event("error")
        })
    } else {
        let script = Script::document(reply.response(reply.ending()).document(), reply.answer.tokens());
        script.damage(call.fault, |_| reply.response("failed").document())
    })
}

/// The form that `tool_choice` or `text.format` asks for.
fn form(body: &Value) -> Result<Form, Problem> {
    let tools = body.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let name = |tool: &Value| tool.get("name").and_then(Value::as_str).map(str::to_owned);
    let tool = match body.get("tool_choice") {
        Some(Value::String(choice)) if choice == "required" => tools.iter().find(|tool| name(tool).is_some()),
        Some(choice @ Value::Object(_)) if choice.get("name").is_some() => tools.iter().find(|tool| name(tool) == name(choice)),
        _ => {
            return Ok(match body.pointer("/text/format/type").and_then(Value::as_str) {
                Some("json_object") => Form::Json(None),
                Some("json_schema") => Form::Json(body.pointer("/text/format/schema").cloned()),
                _ => Form::Prose,
            });
        }
    };
    let found = tool.and_then(|tool| Some((name(tool)?, tool)));
    let (name, tool) = found.ok_or_else(|| Problem::invalid("tool_choice", "the tool is not found in 'tools'"))?;
    Ok(Form::Call { name, schema: tool.get("parameters").cloned().unwrap_or_default() })
}

struct Reply<'a> {
    id: String,
    item: String,
    tool_call: String,
    created: u64,
    model: &'a str,
    body: &'a Value,
    input: usize,
    answer: Answer,
}

impl Reply<'_> {
    /// The status that the response ends in.
    fn ending(&self) -> &'static str {
        if self.answer.cut || self.answer.content == Content::Refusal { "incomplete" } else { "completed" }
    }

    /// The response object in a status.
    fn response(&self, status: &str) -> Object {
        let over = status != "in_progress";
        let spoken = self.answer.tokens();
        let usage = object! {
            "input_tokens": self.input,
            "input_tokens_details": object! { "cached_tokens": 0 },
            "output_tokens": spoken,
            "output_tokens_details": object! { "reasoning_tokens": 0 },
            "total_tokens": self.input + spoken,
        };
        let reason = if self.answer.cut { "max_output_tokens" } else { "content_filter" };
        let error = object! { "code": "server_error", "message": "The server had an error while processing your request." };
        let output = if over && status != "failed" { Some(self.item(status, true)) } else { None };
        let output: Vec<Object> = output.into_iter().collect();
        let echo = |name: &str, usual: Value| self.body.get(name).cloned().unwrap_or(usual);
        object! {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "error": (status == "failed").then_some(error),
            "incomplete_details": (status == "incomplete").then(|| object! { "reason": reason }),
            "instructions": echo("instructions", Value::Null),
            "max_output_tokens": echo("max_output_tokens", Value::Null),
            "max_tool_calls": (),
            "model": self.model,
            "output": output,
            "parallel_tool_calls": echo("parallel_tool_calls", json!(true)),
            "previous_response_id": echo("previous_response_id", Value::Null),
            "prompt_cache_key": echo("prompt_cache_key", Value::Null),
            "reasoning": object! { "effort": (), "summary": () },
            "safety_identifier": echo("safety_identifier", Value::Null),
            "service_tier": if over { "default" } else { "auto" },
            "store": echo("store", json!(true)),
            "temperature": echo("temperature", json!(1.0)),
            "text": echo("text", json!({ "format": { "type": "text" } })),
            "tool_choice": echo("tool_choice", json!("auto")),
            "tools": echo("tools", json!([])),
            "top_logprobs": 0,
            "top_p": echo("top_p", json!(1.0)),
            "truncation": echo("truncation", json!("disabled")),
            "usage": over.then_some(usage),
            "user": echo("user", Value::Null),
            "metadata": echo("metadata", json!({})),
        }
    }

    /// The one output item, with its content or before it.
    fn item(&self, status: &str, full: bool) -> Object {
        let text = if full { self.answer.text() } else { String::new() };
        let item = object! { "id": self.item };
        match &self.answer.content {
            Content::Call(name) => item
                .with("type", "function_call")
                .with("status", status)
                .with("arguments", text)
                .with("call_id", &self.tool_call)
                .with("name", name),
            Content::Text | Content::Refusal => {
                let content: Vec<Object> = if full { vec![self.part(&text)] } else { Vec::new() };
                item.with("type", "message").with("status", status).with("content", content).with("role", "assistant")
            }
        }
    }

    fn part(&self, text: &str) -> Object {
        let none: [Object; 0] = [];
        match &self.answer.content {
            Content::Refusal => object! { "type": "refusal", "refusal": text },
            _ => object! { "type": "output_text", "annotations": none, "logprobs": none, "text": text },
        }
    }

    fn stream(&self) -> Script {
        let mut events = Events { script: Script::stream(EVENTS) };
        let text = self.answer.text();
        let tokens = self.answer.tokens();
        events.push(0, "response.created", |event| event.with("response", self.response("in_progress")));
        events.push(0, "response.in_progress", |event| event.with("response", self.response("in_progress")));
        events.push(0, "response.output_item.added", |event| event.with("output_index", 0).with("item", self.item("in_progress", false)));
        let here = |event: Object| event.with("item_id", &self.item).with("output_index", 0);
        if let Content::Call(name) = &self.answer.content {
            for (at, piece) in (1..).zip(&self.answer.pieces) {
                events.push(at, "response.function_call_arguments.delta", |event| here(event).with("delta", piece));
            }
            let done = |event: Object| here(event).with("name", name).with("arguments", &text);
            events.push(tokens, "response.function_call_arguments.done", done);
        } else {
            let here = |event: Object| here(event).with("content_index", 0);
            let none: [Object; 0] = [];
            events.push(0, "response.content_part.added", |event| here(event).with("part", self.part("")));
            if self.answer.content == Content::Refusal {
                for (at, piece) in (1..).zip(&self.answer.pieces) {
                    events.push(at, "response.refusal.delta", |event| here(event).with("delta", piece));
                }
                events.push(tokens, "response.refusal.done", |event| here(event).with("refusal", &text));
            } else {
                for (at, piece) in (1..).zip(&self.answer.pieces) {
                    events.push(at, "response.output_text.delta", |event| here(event).with("delta", piece).with("logprobs", &none));
                }
                events.push(tokens, "response.output_text.done", |event| here(event).with("text", &text).with("logprobs", &none));
            }
            events.push(tokens, "response.content_part.done", |event| here(event).with("part", self.part(&text)));
        }
        let ending = self.ending();
        events.push(tokens, "response.output_item.done", |event| event.with("output_index", 0).with("item", self.item(ending, true)));
        let name = if ending == "completed" { "response.completed" } else { "response.incomplete" };
        events.push(tokens, name, |event| event.with("response", self.response(ending)));
        events.script
    }
}

/// Numbers the events of a stream.
struct Events {
    script: Script,
}

impl Events {
    fn push(&mut self, tokens: usize, name: &'static str, fill: impl FnOnce(Object) -> Object) {
        let event = object! { "type": name, "sequence_number": self.script.frames.len() };
        let data: Bytes = fill(event).event(name);
        self.script.push(tokens, data);
    }
}
