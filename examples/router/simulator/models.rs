//! The list of models. Any other name works as well.

use http::StatusCode;

use super::{
    Dialect,
    json::{Object, object},
    problem::Problem,
    script::Script,
};

const MODELS: &[(&str, &str)] = &[
    ("gpt-4o", "openai"),
    ("gpt-4o-mini", "openai"),
    ("text-embedding-3-small", "openai"),
    ("text-embedding-3-large", "openai"),
    ("claude-sonnet-4-5", "anthropic"),
    ("gemini-2.5-flash", "google"),
    ("sim-error-429", "simulator"),
    ("sim-error-500", "simulator"),
    ("sim-error-in-stream", "simulator"),
    ("sim-cut", "simulator"),
    ("sim-refusal", "simulator"),
    ("sim-empty", "simulator"),
];

/// `GET /v1/models`.
pub(crate) fn list(dialect: Dialect) -> Script {
    let data: Vec<Object> = MODELS.iter().map(|(id, owner)| describe(dialect, id, owner)).collect();
    let list = match dialect {
        Dialect::Anthropic => {
            let end = |model: Option<&(&'static str, &str)>| model.map(|(id, _)| *id);
            object! { "data": data, "has_more": false, "first_id": end(MODELS.first()), "last_id": end(MODELS.last()) }
        }
        _ => object! { "object": "list", "data": data },
    };
    Script::document(list.document(), 0)
}

/// `GET /v1/models/{id}`.
pub(crate) fn one(dialect: Dialect, id: &str) -> Result<Script, Problem> {
    match MODELS.iter().find(|(known, _)| *known == id) {
        Some((id, owner)) => Ok(Script::document(describe(dialect, id, owner).document(), 0)),
        None => Err(Problem::other(StatusCode::NOT_FOUND, Some("model_not_found"), format!("The model '{id}' does not exist."))),
    }
}

fn describe(dialect: Dialect, id: &str, owner: &str) -> Object {
    match dialect {
        Dialect::Anthropic => object! { "type": "model", "id": id, "display_name": id, "created_at": "2025-01-01T00:00:00Z" },
        _ => object! { "id": id, "object": "model", "created": 1_735_689_600, "owned_by": owner },
    }
}
