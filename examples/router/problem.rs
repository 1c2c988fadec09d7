//! Failures of the router's own, in the dialect of the caller.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde_json::json;

use super::route::Dialect;

/// What went wrong, in words for the caller. Holds no URL, no credential, nothing of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// A word for programs.
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// As the SDKs of the dialect expect it.
    pub(crate) fn response(&self, dialect: Dialect, request_id: &str) -> Response<Bytes> {
        let Self { status, code, message } = self;
        let body = match dialect {
            Dialect::OpenAi => {
                let kind = if status.is_client_error() { "invalid_request_error" } else { "upstream_error" };
                json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
            }
            Dialect::Anthropic => {
                let kind = match status.as_u16() {
                    404 => "not_found_error",
                    400..500 => "invalid_request_error",
                    504 => "timeout_error",
                    _ => "api_error",
                };
                json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})
            }
            Dialect::Gemini => {
                let kind = match status.as_u16() {
                    404 => "NOT_FOUND",
                    400..500 => "INVALID_ARGUMENT",
                    504 => "DEADLINE_EXCEEDED",
                    _ => "UNAVAILABLE",
                };
                json!({"error": {"code": status.as_u16(), "message": message, "status": kind}})
            }
        };
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = *status;
        response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response
    }
}
