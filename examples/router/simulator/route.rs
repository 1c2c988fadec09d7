//! Which endpoint a request is for.

use http::{Method, StatusCode, request};

use super::{Dialect, gemini::Delivery, problem::Problem};

/// What a path names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Endpoint<'a> {
    Chat,
    Completions,
    Embeddings,
    Responses,
    Messages,
    /// A model of Gemini and how its answer is delivered.
    Gemini(&'a str, Delivery),
    Models,
    /// One of the models.
    Model(&'a str),
}

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Route<'a> {
    pub(crate) dialect: Dialect,
    /// The one method that the endpoint takes.
    pub(crate) allow: Option<&'static str>,
    path: &'a str,
    endpoint: Option<Endpoint<'a>>,
}

impl<'a> Route<'a> {
    pub(crate) fn of(request: &'a request::Parts) -> Self {
        let path = request.uri.path();
        let endpoint = match path {
            "/v1/chat/completions" => Some(Endpoint::Chat),
            "/v1/completions" => Some(Endpoint::Completions),
            "/v1/embeddings" => Some(Endpoint::Embeddings),
            "/v1/responses" => Some(Endpoint::Responses),
            "/v1/messages" => Some(Endpoint::Messages),
            "/v1/models" => Some(Endpoint::Models),
            _ => match path.strip_prefix("/v1/models/") {
                Some(id) => Some(Endpoint::Model(id)),
                None => path.strip_prefix("/v1beta/models/").and_then(|action| gemini(action, request.uri.query())),
            },
        };
        let dialect = match endpoint {
            Some(Endpoint::Messages) => Dialect::Anthropic,
            Some(Endpoint::Gemini(..)) => Dialect::Gemini,
            Some(Endpoint::Models | Endpoint::Model(_)) if request.headers.contains_key("anthropic-version") => Dialect::Anthropic,
            _ => Dialect::OpenAi,
        };
        let allow = endpoint.map(|endpoint| match endpoint {
            Endpoint::Models | Endpoint::Model(_) => "GET",
            _ => "POST",
        });
        Self { dialect, allow, path, endpoint }
    }

    /// The endpoint, if there is one and it takes this method.
    pub(crate) fn endpoint(&self, method: &Method) -> Result<Endpoint<'a>, Problem> {
        let (Some(endpoint), Some(allow)) = (self.endpoint, self.allow) else {
            return Err(Problem::other(
                StatusCode::NOT_FOUND,
                Some("unknown_url"),
                format!("Unknown request URL: {method} {}.", self.path),
            ));
        };
        if method.as_str() != allow {
            let message = format!("Not allowed to {method} on {} (HINT: Perhaps you meant to use {allow}).", self.path);
            return Err(Problem::other(StatusCode::METHOD_NOT_ALLOWED, Some("method_not_supported"), message));
        }
        Ok(endpoint)
    }
}

fn gemini<'a>(action: &'a str, query: Option<&str>) -> Option<Endpoint<'a>> {
    let (model, action) = action.split_once(':')?;
    let sse = query.is_some_and(|query| query.split('&').any(|pair| pair == "alt=sse"));
    let delivery = match action {
        "generateContent" => Delivery::Document,
        "streamGenerateContent" if sse => Delivery::Events,
        "streamGenerateContent" => Delivery::Array,
        _ => return None,
    };
    (!model.is_empty()).then_some(Endpoint::Gemini(model, delivery))
}
