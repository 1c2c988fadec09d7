//! What a path asks for.

/// How errors are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Gemini,
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route<'a> {
    /// A label for logs and invalidation.
    pub(crate) name: &'static str,
    pub(crate) dialect: Dialect,
    /// Are answers to POSTs cached?
    pub(crate) cached: bool,
    pub(crate) model: Model<'a>,
}

/// Where a request names its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model<'a> {
    /// At the top level of its JSON body.
    Body,
    /// In its path.
    Path(&'a str),
    /// Nowhere.
    None,
}

impl<'a> Route<'a> {
    /// Paths are compared byte for byte, as the cache's keys are. What is not known is passed through.
    pub(crate) fn of(path: &'a str) -> Self {
        let cached = |name, dialect| Self { name, dialect, cached: true, model: Model::Body };
        match path {
            "/v1/chat/completions" => cached("chat", Dialect::OpenAi),
            "/v1/completions" => cached("completions", Dialect::OpenAi),
            "/v1/embeddings" => cached("embeddings", Dialect::OpenAi),
            "/v1/responses" => cached("responses", Dialect::OpenAi),
            "/v1/messages" => cached("messages", Dialect::Anthropic),
            "/v1/messages/count_tokens" => Self { cached: false, ..cached("count-tokens", Dialect::Anthropic) },
            _ => Self::of_gemini(path).unwrap_or_else(|| Self {
                name: "other",
                dialect: dialect_of(path),
                cached: false,
                model: Model::None,
            }),
        }
    }

    /// `/v1beta/models/{model}:{method}`, and the same below `/v1` and `/v1alpha`.
    fn of_gemini(path: &'a str) -> Option<Self> {
        let rest = ["/v1beta/models/", "/v1/models/", "/v1alpha/models/"].iter().find_map(|start| path.strip_prefix(start))?;
        // Some clients escape the colon.
        let (model, method) = rest.rsplit_once(':').or_else(|| rest.rsplit_once("%3A")).or_else(|| rest.rsplit_once("%3a"))?;
        if model.is_empty() || model.contains('/') {
            return None;
        }
        let (name, cached) = match method {
            "generateContent" => ("generate", true),
            "streamGenerateContent" => ("stream-generate", true),
            _ => ("other", false),
        };
        Some(Self { name, dialect: Dialect::Gemini, cached, model: Model::Path(model) })
    }
}

fn dialect_of(path: &str) -> Dialect {
    if path.starts_with("/v1beta/") || path.starts_with("/v1alpha/") {
        Dialect::Gemini
    } else if path.starts_with("/v1/messages/") {
        Dialect::Anthropic
    } else {
        Dialect::OpenAi
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_their_dialect_and_where_the_model_is() {
        use Dialect::{Anthropic, Gemini, OpenAi};
        for (path, name, dialect, cached, model) in [
            ("/v1/chat/completions", "chat", OpenAi, true, Model::Body),
            ("/v1/completions", "completions", OpenAi, true, Model::Body),
            ("/v1/embeddings", "embeddings", OpenAi, true, Model::Body),
            ("/v1/responses", "responses", OpenAi, true, Model::Body),
            ("/v1/messages", "messages", Anthropic, true, Model::Body),
            ("/v1/messages/count_tokens", "count-tokens", Anthropic, false, Model::Body),
            ("/v1/messages/batches", "other", Anthropic, false, Model::None),
            ("/v1beta/models/gemini-2.5-pro:generateContent", "generate", Gemini, true, Model::Path("gemini-2.5-pro")),
            ("/v1beta/models/gemini-2.5-pro%3AgenerateContent", "generate", Gemini, true, Model::Path("gemini-2.5-pro")),
            ("/v1/models/gemini-2.5-pro:streamGenerateContent", "stream-generate", Gemini, true, Model::Path("gemini-2.5-pro")),
            ("/v1beta/models/gemini-2.5-pro:countTokens", "other", Gemini, false, Model::Path("gemini-2.5-pro")),
            ("/v1beta/models/a/b:generateContent", "other", Gemini, false, Model::None),
            ("/v1beta/models/:generateContent", "other", Gemini, false, Model::None),
            ("/v1/models/gpt-4o", "other", OpenAi, false, Model::None),
            ("/v1/chat/completions/", "other", OpenAi, false, Model::None),
            ("/", "other", OpenAi, false, Model::None),
        ] {
            assert_eq!(Route::of(path), Route { name, dialect, cached, model }, "{path}");
        }
    }
}
