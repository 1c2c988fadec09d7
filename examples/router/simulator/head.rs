//! The heads of answers, with the header fields that the real providers send.

use std::time::{Duration, SystemTime};

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, DATE, RETRY_AFTER, VARY},
};
use tokio::time::Instant;

use super::{
    Dialect,
    body::SimBody,
    problem::Problem,
    script::{Call, JSON, Script},
};

const REQUESTS_PER_MINUTE: u64 = 10_000;
const TOKENS_PER_MINUTE: u64 = 2_000_000;

/// A head in the making.
#[derive(Debug)]
pub(crate) struct Head {
    dialect: Dialect,
    request_id: String,
    headers: HeaderMap,
}

impl Head {
    pub(crate) fn new(dialect: Dialect, number: u64, call: &mut Call) -> Self {
        let request_id = match dialect {
            Dialect::OpenAi => call.id("req_", 32),
            Dialect::Anthropic => call.id("req_011", 21),
            Dialect::Gemini => call.id("", 22),
        };
        let mut head = Self { dialect, request_id, headers: HeaderMap::new() };
        head.set(DATE, httpdate::fmt_http_date(SystemTime::now()));
        let left = REQUESTS_PER_MINUTE - 1 - number % 100;
        let tokens_left = TOKENS_PER_MINUTE - 500 * (number % 100 + 1);
        let name = HeaderName::from_static;
        match dialect {
            Dialect::OpenAi => {
                head.set(name("x-request-id"), head.request_id.clone());
                head.set(name("openai-version"), "2020-10-01");
                head.set(name("openai-organization"), "simulated");
                head.set(name("x-ratelimit-limit-requests"), REQUESTS_PER_MINUTE.to_string());
                head.set(name("x-ratelimit-remaining-requests"), left.to_string());
                head.set(name("x-ratelimit-reset-requests"), "6ms");
                head.set(name("x-ratelimit-limit-tokens"), TOKENS_PER_MINUTE.to_string());
                head.set(name("x-ratelimit-remaining-tokens"), tokens_left.to_string());
                head.set(name("x-ratelimit-reset-tokens"), "15ms");
            }
            Dialect::Anthropic => {
                head.set(name("request-id"), head.request_id.clone());
                head.set(name("anthropic-organization-id"), "00000000-0000-4000-8000-000000000000");
                head.set(name("anthropic-ratelimit-requests-limit"), REQUESTS_PER_MINUTE.to_string());
                head.set(name("anthropic-ratelimit-requests-remaining"), left.to_string());
                head.set(name("anthropic-ratelimit-tokens-limit"), TOKENS_PER_MINUTE.to_string());
                head.set(name("anthropic-ratelimit-tokens-remaining"), tokens_left.to_string());
            }
            Dialect::Gemini => head.set(VARY, "Origin, X-Origin, Referer"),
        }
        head
    }

    /// The response to a request that went well. `due` says when a number of tokens is there.
    pub(crate) fn script(&mut self, script: Script, took: Duration, due: impl Fn(usize) -> Option<Instant>) -> Response<SimBody> {
        self.headers.insert(CONTENT_TYPE, script.content_type);
        match self.dialect {
            Dialect::OpenAi => self.set(HeaderName::from_static("openai-processing-ms"), took.as_millis().to_string()),
            Dialect::Anthropic => {}
            Dialect::Gemini => self.set(HeaderName::from_static("server-timing"), format!("gfet4t7; dur={}", took.as_millis())),
        }
        let body = if script.streamed {
            self.set(CACHE_CONTROL, "no-cache");
            SimBody::stream(script.frames.into_iter().map(|(tokens, data)| (due(tokens), data)))
        } else {
            SimBody::document(script.frames.into_iter().next().map(|(_, data)| data).unwrap_or_default())
        };
        self.response(StatusCode::OK, body)
    }

    /// The response to a request that did not.
    pub(crate) fn problem(&mut self, problem: &Problem, allow: Option<&'static str>) -> Response<SimBody> {
        self.headers.insert(CONTENT_TYPE, JSON);
        match problem.status {
            StatusCode::TOO_MANY_REQUESTS => self.set(RETRY_AFTER, "1"),
            StatusCode::METHOD_NOT_ALLOWED => self.set(ALLOW, allow.unwrap_or_default()),
            _ => {}
        }
        let body = SimBody::document(problem.document(self.dialect, &self.request_id));
        self.response(problem.status, body)
    }

    fn response(&mut self, status: StatusCode, body: SimBody) -> Response<SimBody> {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = std::mem::take(&mut self.headers);
        response
    }

    fn set(&mut self, name: HeaderName, value: impl Into<String>) {
        if let Ok(value) = HeaderValue::try_from(value.into()) {
            self.headers.insert(name, value);
        }
    }
}
