//! Gemini `generateContent` and `streamGenerateContent`.

use http::HeaderValue;
use serde_json::Value;

use super::{
    fields::{count, list},
    json::{Object, object},
    problem::Problem,
    prompt::Prompt,
    script::{Answer, Call, Content, Form, Script},
};

/// Gemini speaks in larger pieces than the others.
const TOKENS_PER_FRAME: usize = 8;

/// How the caller wants the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// `:generateContent`: one document.
    Document,
    /// `:streamGenerateContent?alt=sse`: events, each of them a response.
    Events,
    /// `:streamGenerateContent`: an array of responses, in pieces.
    Array,
}

/// `POST /v1beta/models/{model}:generateContent` and `:streamGenerateContent`.
pub(crate) fn gemini(call: &mut Call, model: &str, delivery: Delivery, body: &Value) -> Result<Script, Problem> {
    let mut prompt = Prompt::default();
    prompt.content(body.get("systemInstruction").or_else(|| body.get("system_instruction")).unwrap_or(&Value::Null));
    let contents = list(body, "contents")?;
    for (index, content) in contents.iter().enumerate() {
        list(content, "parts").map_err(|_| Problem::missing(format!("contents[{index}].parts")))?;
    }
    prompt.messages(contents);
    prompt.aside(body.get("tools"));
    let config = body.get("generationConfig").or_else(|| body.get("generation_config")).unwrap_or(&Value::Null);
    let limit = count(config, "maxOutputTokens", 1..=usize::MAX)?;
    let candidates = count(config, "candidateCount", 1..=8)?.unwrap_or(1);
    let form = form(body, config)?;
    let answers: Vec<Answer> = (0..candidates).map(|_| call.answer(&prompt, &form, limit)).collect();
    let reply = Reply { id: call.id("", 23), model, prompt: prompt.tokens, answers };
    let error = object! { "error": object! { "code": 503, "message": "The model is overloaded. Please try again later.", "status": "UNAVAILABLE" } };
    let script = reply.script(delivery);
    Ok(script.damage(call.fault, |frames| match delivery {
        Delivery::Document => error.document(),
        Delivery::Events => error.data(),
        Delivery::Array => [if frames == 0 { &b"["[..] } else { b",\r\n" }, &error.document()[..], b"]"].concat().into(),
    }))
}

/// The form that `toolConfig` or the response type asks for.
fn form(body: &Value, config: &Value) -> Result<Form, Problem> {
    let calling = body.pointer("/toolConfig/functionCallingConfig").unwrap_or(&Value::Null);
    if calling.get("mode").and_then(Value::as_str) == Some("ANY") {
        let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
        let mut functions = tools.filter_map(|tool| tool.get("functionDeclarations").and_then(Value::as_array)).flatten();
        let allowed = calling.get("allowedFunctionNames").and_then(Value::as_array);
        let function = functions.find(|function| allowed.is_none_or(|names| function.get("name").is_some_and(|name| names.contains(name))));
        let found = function.and_then(|function| Some((function.get("name")?.as_str()?.to_owned(), function)));
        let (name, function) = found.ok_or_else(|| Problem::invalid("toolConfig", "no function to call is declared in tools"))?;
        return Ok(Form::Call { name, schema: function.get("parameters").cloned().unwrap_or_default() });
    }
    Ok(match config.get("responseMimeType").and_then(Value::as_str) {
        Some("application/json") => {
            let schema = config.get("responseJsonSchema").or_else(|| config.get("responseSchema"));
            Form::Json(schema.cloned())
        }
        _ => Form::Prose,
    })
}

struct Reply<'a> {
    id: String,
    model: &'a str,
    prompt: usize,
    answers: Vec<Answer>,
}

impl Reply<'_> {
    fn script(&self, delivery: Delivery) -> Script {
        let tokens = self.answers.iter().map(Answer::tokens).max().unwrap_or(0);
        if delivery == Delivery::Document {
            let mut script = Script::document(self.response(0, usize::MAX).document(), tokens);
            script.content_type = HeaderValue::from_static("application/json; charset=UTF-8");
            return script;
        }
        let mut script = Script::stream(HeaderValue::from_static(match delivery {
            Delivery::Events => "text/event-stream",
            _ => "application/json; charset=UTF-8",
        }));
        let mut from = 0;
        loop {
            // Calls are not spoken in pieces.
            let whole = self.answers.iter().any(|answer| answer.content != Content::Text);
            let to = if whole { tokens } else { tokens.min(from + TOKENS_PER_FRAME) };
            let response = self.response(from, to);
            script.push(
                to,
                match delivery {
                    Delivery::Events => [&b"data: "[..], &response.document()[..], b"\r\n\r\n"].concat().into(),
                    _ => [if from == 0 { &b"["[..] } else { b",\r\n" }, &response.document()[..]].concat().into(),
                },
            );
            from = to;
            if to == tokens {
                break;
            }
        }
        if delivery == Delivery::Array {
            script.push(tokens, "]".into());
        }
        script
    }

    /// The tokens from here to there.
    fn response(&self, from: usize, to: usize) -> Object {
        let spoken: usize = self.answers.iter().map(|answer| answer.tokens().min(to)).sum();
        if self.answers.iter().any(|answer| answer.content == Content::Refusal) {
            let feedback = object! { "blockReason": "PROHIBITED_CONTENT" };
            return self.tail(object! { "promptFeedback": feedback }, None);
        }
        let candidates: Vec<Object> = (0..)
            .zip(&self.answers)
            .filter(|(_, answer)| from == 0 || answer.tokens() > from)
            .map(|(index, answer)| candidate(index, answer, from, to))
            .collect();
        self.tail(object! { "candidates": candidates }, Some(spoken))
    }

    fn tail(&self, response: Object, spoken: Option<usize>) -> Object {
        let usage = object! { "promptTokenCount": self.prompt };
        let usage = match spoken {
            Some(spoken) => usage.with("candidatesTokenCount", spoken),
            None => usage,
        };
        let details = [object! { "modality": "TEXT", "tokenCount": self.prompt }];
        let usage = usage.with("totalTokenCount", self.prompt + spoken.unwrap_or(0)).with("promptTokensDetails", details);
        response.with("usageMetadata", usage).with("modelVersion", self.model).with("responseId", &self.id)
    }
}

fn candidate(index: usize, answer: &Answer, from: usize, to: usize) -> Object {
    let to = to.min(answer.tokens());
    let text = answer.pieces[from.min(to)..to].concat();
    let parts: Vec<Object> = match &answer.content {
        Content::Call(name) => {
            let arguments: Value = serde_json::from_str(&text).unwrap_or_else(|_| Value::Object(serde_json::Map::new()));
            vec![object! { "functionCall": object! { "name": name, "args": arguments } }]
        }
        _ if text.is_empty() => Vec::new(),
        _ => vec![object! { "text": text }],
    };
    let content = if parts.is_empty() {
        object! { "role": "model" }
    } else {
        object! { "parts": parts, "role": "model" }
    };
    let candidate = object! { "content": content };
    let candidate =
        if to < answer.tokens() { candidate } else { candidate.with("finishReason", if answer.cut { "MAX_TOKENS" } else { "STOP" }) };
    candidate.with("index", index)
}
