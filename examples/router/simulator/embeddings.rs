//! OpenAI embeddings. Texts that share words are near each other; the last digits differ from call to call, as the real ones do.

use std::hash::{DefaultHasher, Hasher as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use fastrand::Rng;
use serde_json::Value;

use super::{
    fields::{count, required, text},
    json::{Object, object},
    problem::Problem,
    prompt::pieces,
    script::{Call, Script},
};

const MOST_INPUTS: usize = 2_048;
const MOST_TOKENS: usize = 8_192;
const MOST_DIMENSIONS: usize = 3_072;
const WORD_DIMENSIONS: usize = 16;

/// `POST /v1/embeddings`.
pub(crate) fn embeddings(call: &mut Call, body: &Value) -> Result<Script, Problem> {
    let model = text(body, "model")?;
    let inputs = inputs(required(body, "input")?)?;
    let usual = if model.contains("large") { MOST_DIMENSIONS } else { 1_536 };
    let dimensions = count(body, "dimensions", 1..=MOST_DIMENSIONS)?.unwrap_or(usual);
    let packed = match body.get("encoding_format").filter(|format| !format.is_null()).map(Value::as_str) {
        None | Some(Some("float")) => false,
        Some(Some("base64")) => true,
        Some(_) => return Err(Problem::invalid("encoding_format", "expected 'float' or 'base64'")),
    };
    let tokens: usize = inputs.iter().map(Vec::len).sum();
    let data: Vec<Object> = inputs
        .iter()
        .enumerate()
        .map(|(index, tokens)| {
            let vector = vector(tokens, dimensions, &mut call.rng);
            let item = object! { "object": "embedding", "index": index };
            if packed {
                item.with("embedding", STANDARD.encode(vector.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()))
            } else {
                item.with("embedding", vector)
            }
        })
        .collect();
    let usage = object! { "prompt_tokens": tokens, "total_tokens": tokens };
    let document = object! { "object": "list", "data": data, "model": model, "usage": usage };
    let error = object! { "error": object! { "message": "The server had an error.", "type": "server_error", "param": (), "code": () } };
    Ok(Script::document(document.document(), 0).damage(call.fault, |_| error.document()))
}

/// The tokens of every input: a text, a list of texts, a list of tokens, or a list of such lists.
fn inputs(input: &Value) -> Result<Vec<Vec<String>>, Problem> {
    let invalid = |reason: &str| Problem::invalid("input", reason);
    let inputs = match input {
        Value::String(text) => vec![pieces(text).map(str::to_owned).collect()],
        Value::Array(list) if list.first().is_some_and(Value::is_number) => vec![numbers(list)?],
        Value::Array(list) => list
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(pieces(text).map(str::to_owned).collect()),
                Value::Array(list) => numbers(list),
                _ => Err(invalid("expected a string, an array of strings, or arrays of tokens")),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(invalid("expected a string, an array of strings, or arrays of tokens")),
    };
    if inputs.is_empty() || inputs.len() > MOST_INPUTS {
        return Err(invalid("expected 1 to 2048 inputs"));
    }
    if inputs.iter().any(|tokens: &Vec<String>| tokens.is_empty() || tokens.len() > MOST_TOKENS) {
        return Err(invalid("expected inputs of 1 to 8192 tokens"));
    }
    Ok(inputs)
}

fn numbers(list: &[Value]) -> Result<Vec<String>, Problem> {
    let number = |item: &Value| item.as_u64().map(|token| token.to_string());
    list.iter().map(number).collect::<Option<_>>().ok_or_else(|| Problem::invalid("input", "expected tokens to be integers"))
}

/// A unit vector: a few dimensions for every word, and a little of the whole text everywhere.
fn vector(tokens: &[String], dimensions: usize, noise: &mut Rng) -> Vec<f32> {
    let mut text = DefaultHasher::new();
    let mut vector = vec![0.0; dimensions];
    for token in tokens {
        let mut word = DefaultHasher::new();
        word.write(token.trim().to_lowercase().as_bytes());
        text.write(token.as_bytes());
        let rng = &mut Rng::with_seed(word.finish());
        for _ in 0..WORD_DIMENSIONS {
            vector[rng.usize(..dimensions)] += if rng.bool() { 1.0 } else { -1.0 };
        }
    }
    let rng = &mut Rng::with_seed(text.finish());
    for value in &mut vector {
        *value += 0.2 * (rng.f64() - 0.5) + 1e-5 * (noise.f64() - 0.5);
    }
    let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
    vector.iter().map(|value| (value / length) as f32).collect()
}
