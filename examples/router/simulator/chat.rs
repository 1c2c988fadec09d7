//! OpenAI chat completions, and the older text completions.

use serde_json::Value;

use super::{
    fields::{count, flag, messages, text},
    json::{Object, object},
    problem::Problem,
    prompt::Prompt,
    script::{Answer, Call, Content, EVENTS, Form, Script},
};

const ROLES: &[&str] = &["developer", "system", "user", "assistant", "tool", "function"];
const FINGERPRINT: &str = "fp_51mu1a70r0";

/// `POST /v1/chat/completions`.
pub(crate) fn chat(call: &mut Call, body: &Value) -> Result<Script, Problem> {
    let model = text(body, "model")?;
    let mut prompt = Prompt::default();
    prompt.messages(messages(body, "messages", ROLES)?);
    prompt.aside(body.get("tools"));
    let limit = match count(body, "max_completion_tokens", 1..=usize::MAX)? {
        Some(limit) => Some(limit),
        None => count(body, "max_tokens", 1..=usize::MAX)?,
    };
    let form = form(body)?;
    let reply = Reply::new(call, body, "chatcmpl-", model, &prompt, &form, limit)?;
    let names = Names { document: "chat.completion", chunk: "chat.completion.chunk" };
    let script = if reply.stream { reply.chat_stream(call, &names) } else { reply.document(&names, |answer| message(call, answer)) };
    Ok(reply.damaged(call, script))
}

/// `POST /v1/completions`. Without `max_tokens` the answer has its usual length; the real service stops after 16 tokens.
pub(crate) fn completions(call: &mut Call, body: &Value) -> Result<Script, Problem> {
    let model = text(body, "model")?;
    let mut prompt = Prompt::default();
    prompt.content(super::fields::required(body, "prompt")?);
    let limit = count(body, "max_tokens", 1..=usize::MAX)?;
    let reply = Reply::new(call, body, "cmpl-", model, &prompt, &Form::Prose, limit)?;
    let names = Names { document: "text_completion", chunk: "text_completion" };
    let script = if reply.stream {
        reply.text_stream(&names)
    } else {
        reply.document(&names, |answer| Object::default().with("text", answer.text()))
    };
    Ok(reply.damaged(call, script))
}

/// The form that `tool_choice` or `response_format` asks for.
fn form(body: &Value) -> Result<Form, Problem> {
    let tools = body.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let named = |tool: &&Value, name: &str| tool.pointer("/function/name").and_then(Value::as_str) == Some(name);
    let tool = match body.get("tool_choice") {
        Some(Value::String(choice)) if choice == "required" => {
            Some(tools.first().ok_or_else(|| Problem::invalid("tool_choice", "'tool_choice' is only allowed when 'tools' are specified"))?)
        }
        Some(choice @ Value::Object(_)) => {
            let name =
                choice.pointer("/function/name").and_then(Value::as_str).ok_or_else(|| Problem::missing("tool_choice.function.name"))?;
            let tool = tools.iter().find(|tool| named(tool, name));
            Some(tool.ok_or_else(|| Problem::invalid("tool_choice", format!("Tool choice '{name}' not found in 'tools' parameter")))?)
        }
        _ => None,
    };
    if let Some(tool) = tool {
        let name = tool.pointer("/function/name").and_then(Value::as_str).ok_or_else(|| Problem::missing("tools[0].function.name"))?;
        let schema = tool.pointer("/function/parameters").cloned().unwrap_or_default();
        return Ok(Form::Call { name: name.to_owned(), schema });
    }
    Ok(match body.pointer("/response_format/type").and_then(Value::as_str) {
        Some("json_object") => Form::Json(None),
        Some("json_schema") => Form::Json(body.pointer("/response_format/json_schema/schema").cloned()),
        _ => Form::Prose,
    })
}

/// What the two kinds of answer are called.
struct Names {
    document: &'static str,
    chunk: &'static str,
}

/// What all answers of these endpoints have in common.
struct Reply<'a> {
    id: String,
    created: u64,
    model: &'a str,
    answers: Vec<Answer>,
    usage: Object,
    stream: bool,
    /// Whether a stream tells its usage.
    counted: bool,
}

impl<'a> Reply<'a> {
    fn new(
        call: &mut Call,
        body: &Value,
        prefix: &str,
        model: &'a str,
        prompt: &Prompt,
        form: &Form,
        limit: Option<usize>,
    ) -> Result<Self, Problem> {
        let stream = flag(body, "stream")?;
        let counted = match body.get("stream_options").filter(|options| !options.is_null()) {
            Some(_) if !stream => return Err(Problem::invalid("stream_options", "it is only allowed when 'stream' is enabled")),
            Some(options) => flag(options, "include_usage")?,
            None => false,
        };
        let choices = count(body, "n", 1..=128)?.unwrap_or(1);
        let answers: Vec<Answer> = (0..choices).map(|_| call.answer(prompt, form, limit)).collect();
        let spoken = answers.iter().map(Answer::tokens).sum();
        Ok(Self { id: call.id(prefix, 29), created: call.created, model, usage: usage(prompt.tokens, spoken), answers, stream, counted })
    }

    fn head(&self, name: &'static str) -> Object {
        object! { "id": self.id, "object": name, "created": self.created, "model": self.model }
    }

    fn document(&self, names: &Names, mut content: impl FnMut(&Answer) -> Object) -> Script {
        let choices: Vec<Object> = (0..)
            .zip(&self.answers)
            .map(|(index, answer)| {
                let content = content(answer);
                let choice = object! { "index": index };
                let choice = if names.document == names.chunk { content.with("index", index) } else { choice.with("message", content) };
                choice.with("logprobs", ()).with("finish_reason", finish(answer))
            })
            .collect();
        let document = self
            .head(names.document)
            .with("choices", choices)
            .with("usage", &self.usage)
            .with("service_tier", "default")
            .with("system_fingerprint", FINGERPRINT);
        Script::document(document.document(), self.tokens())
    }

    fn chat_stream(&self, call: &mut Call, names: &Names) -> Script {
        let mut script = Script::stream(EVENTS);
        let choice = |index: usize, delta: Object, finish: Option<&str>| {
            object! { "index": index, "delta": delta, "logprobs": (), "finish_reason": finish }
        };
        for (index, answer) in self.answers.iter().enumerate() {
            script.push(0, self.chunk(names, vec![choice(index, opening(call, answer), None)]));
        }
        for token in 0..=self.tokens() {
            for (index, answer) in self.answers.iter().enumerate() {
                if let Some(piece) = answer.pieces.get(token) {
                    script.push(token + 1, self.chunk(names, vec![choice(index, delta(answer, piece), None)]));
                } else if token == answer.tokens() {
                    script.push(token, self.chunk(names, vec![choice(index, Object::default(), Some(finish(answer)))]));
                }
            }
        }
        self.close(script, names)
    }

    fn text_stream(&self, names: &Names) -> Script {
        let mut script = Script::stream(EVENTS);
        let choice = |index: usize, text: &str, finish: Option<&str>| {
            object! { "text": text, "index": index, "logprobs": (), "finish_reason": finish }
        };
        for token in 0..=self.tokens() {
            for (index, answer) in self.answers.iter().enumerate() {
                if let Some(piece) = answer.pieces.get(token) {
                    script.push(token + 1, self.chunk(names, vec![choice(index, piece, None)]));
                } else if token == answer.tokens() {
                    script.push(token, self.chunk(names, vec![choice(index, "", Some(finish(answer)))]));
                }
            }
        }
        self.close(script, names)
    }

    fn chunk(&self, names: &Names, choices: Vec<Object>) -> bytes::Bytes {
        let chunk = self.head(names.chunk).with("service_tier", "default").with("system_fingerprint", FINGERPRINT).with("choices", choices);
        if self.counted { chunk.with("usage", ()) } else { chunk }.data()
    }

    fn close(&self, mut script: Script, names: &Names) -> Script {
        let tokens = self.tokens();
        if self.counted {
            let none: [Object; 0] = [];
            let chunk = self.head(names.chunk).with("service_tier", "default").with("system_fingerprint", FINGERPRINT);
            script.push(tokens, chunk.with("choices", none).with("usage", &self.usage).data());
        }
        script.push(tokens, "data: [DONE]\n\n".into());
        script
    }

    fn damaged(&self, call: &Call, script: Script) -> Script {
        let error = object! {
            "message": "The server had an error while processing your request. Sorry about that!",
            "type": "server_error",
            "param": (),
            "code": (),
        };
        let error = object! { "error": error };
        script.damage(call.fault, |_| if self.stream { error.data() } else { error.document() })
    }

    /// Choices are spoken side by side.
    fn tokens(&self) -> usize {
        self.answers.iter().map(Answer::tokens).max().unwrap_or(0)
    }
}

fn usage(prompt: usize, spoken: usize) -> Object {
    object! {
        "prompt_tokens": prompt,
        "completion_tokens": spoken,
        "total_tokens": prompt + spoken,
        "prompt_tokens_details": object! { "cached_tokens": 0, "audio_tokens": 0 },
        "completion_tokens_details": object! {
            "reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    }
}

fn finish(answer: &Answer) -> &'static str {
    match &answer.content {
        _ if answer.cut => "length",
        Content::Text => "stop",
        Content::Call(_) => "tool_calls",
        Content::Refusal => "content_filter",
    }
}

/// A message of the assistant, whole.
fn message(call: &mut Call, answer: &Answer) -> Object {
    let text = answer.text();
    let none: [Object; 0] = [];
    let message = object! { "role": "assistant" };
    match &answer.content {
        Content::Text => message.with("content", text).with("refusal", ()).with("annotations", none),
        Content::Refusal => message.with("content", ()).with("refusal", text).with("annotations", none),
        Content::Call(name) => {
            let function = object! { "name": name, "arguments": text };
            let tool = object! { "id": call.id("call_", 24), "type": "function", "function": function };
            message.with("content", ()).with("tool_calls", [tool]).with("refusal", ()).with("annotations", none)
        }
    }
}

/// What the first chunk of a choice says.
fn opening(call: &mut Call, answer: &Answer) -> Object {
    let delta = object! { "role": "assistant" };
    match &answer.content {
        Content::Text => delta.with("content", "").with("refusal", ()),
        Content::Refusal => delta.with("content", ()).with("refusal", ""),
        Content::Call(name) => {
            let function = object! { "name": name, "arguments": "" };
            let tool = object! { "index": 0, "id": call.id("call_", 24), "type": "function", "function": function };
            delta.with("content", ()).with("tool_calls", [tool]).with("refusal", ())
        }
    }
}

fn delta(answer: &Answer, piece: &str) -> Object {
    match &answer.content {
        Content::Text => object! { "content": piece },
        Content::Refusal => object! { "refusal": piece },
        Content::Call(_) => object! { "tool_calls": [object! { "index": 0, "function": object! { "arguments": piece } }] },
    }
}
