//! What is wrong with a request, and how each dialect says so.

use std::fmt::Display;

use bytes::Bytes;
use http::StatusCode;

use super::{Dialect, json::object};

/// A request that gets an error for an answer.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Missing(String),
    Invalid { field: String, reason: String },
    Other { code: Option<&'static str>, message: String },
}

impl Problem {
    /// A required field is not there.
    pub(crate) fn missing(field: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, cause: Cause::Missing(field.into()) }
    }

    /// A field is there but cannot be used.
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, cause: Cause::Invalid { field: field.into(), reason: reason.into() } }
    }

    /// The body is not JSON.
    pub(crate) fn malformed(error: impl Display) -> Self {
        Self::other(StatusCode::BAD_REQUEST, None, format!("We could not parse the JSON body of your request: {error}"))
    }

    /// Anything else.
    pub(crate) fn other(status: StatusCode, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, cause: Cause::Other { code, message: message.into() } }
    }

    /// The error that a caller ordered.
    pub(crate) fn ordered(status: StatusCode) -> Self {
        match status {
            StatusCode::TOO_MANY_REQUESTS => {
                Self::other(status, Some("rate_limit_exceeded"), "Rate limit reached for requests. Please try again in 1s.")
            }
            _ if status.is_server_error() => {
                Self::other(status, None, "The server had an error while processing your request. Sorry about that!")
            }
            _ => Self::other(status, None, format!("A simulated error: {status}.")),
        }
    }

    /// The error body in a dialect.
    pub(crate) fn document(&self, dialect: Dialect, request_id: &str) -> Bytes {
        let message = self.message(dialect);
        match dialect {
            Dialect::OpenAi => {
                let (field, code) = match &self.cause {
                    Cause::Missing(field) => (Some(field), Some("missing_required_parameter")),
                    Cause::Invalid { field, .. } => (Some(field), Some("invalid_value")),
                    Cause::Other { code, .. } => (None, *code),
                };
                let kind = match self.status.as_u16() {
                    401 => "authentication_error",
                    429 => "requests",
                    500.. => "server_error",
                    _ => "invalid_request_error",
                };
                object! { "error": object! { "message": message, "type": kind, "param": field, "code": code } }
            }
            Dialect::Anthropic => {
                let kind = match self.status.as_u16() {
                    401 => "authentication_error",
                    403 => "permission_error",
                    404 => "not_found_error",
                    413 => "request_too_large",
                    429 => "rate_limit_error",
                    504 => "timeout_error",
                    529 => "overloaded_error",
                    500.. => "api_error",
                    _ => "invalid_request_error",
                };
                object! { "type": "error", "error": object! { "type": kind, "message": message }, "request_id": request_id }
            }
            Dialect::Gemini => {
                let name = match self.status.as_u16() {
                    401 => "UNAUTHENTICATED",
                    403 => "PERMISSION_DENIED",
                    404 => "NOT_FOUND",
                    429 => "RESOURCE_EXHAUSTED",
                    503 => "UNAVAILABLE",
                    504 => "DEADLINE_EXCEEDED",
                    500.. => "INTERNAL",
                    _ => "INVALID_ARGUMENT",
                };
                object! { "error": object! { "code": self.status.as_u16(), "message": message, "status": name } }
            }
        }
        .document()
    }

    fn message(&self, dialect: Dialect) -> String {
        match (&self.cause, dialect) {
            (Cause::Missing(field), Dialect::OpenAi) => format!("Missing required parameter: '{field}'."),
            (Cause::Missing(field), Dialect::Anthropic) => format!("{field}: Field required"),
            (Cause::Missing(field), Dialect::Gemini) => format!("* GenerateContentRequest.{field}: {field} is not specified"),
            (Cause::Invalid { field, reason }, Dialect::OpenAi) => format!("Invalid value for '{field}': {reason}."),
            (Cause::Invalid { field, reason }, Dialect::Anthropic) => format!("{field}: {reason}"),
            (Cause::Invalid { field, reason }, Dialect::Gemini) => format!("* GenerateContentRequest.{field}: {reason}"),
            (Cause::Other { message, .. }, _) => message.clone(),
        }
    }
}
