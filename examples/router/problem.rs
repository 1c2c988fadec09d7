//! Failures of the router's own, in the dialect of the caller.

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde_json::json;

use super::{listener::ArrivalError, route::Dialect};

/// What went wrong, in words for the caller. Holds no URL, no credential, nothing of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// A word for programs.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// What is left of the request cannot be told from the next one.
    pub(crate) is_last: bool,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), is_last: false }
    }

    /// As the SDKs of the dialect expect it.
    pub(crate) fn response(&self, dialect: Dialect, request_id: &str) -> Response<Bytes> {
        let Self { status, code, message, .. } = self;
        let body = match dialect {
            Dialect::OpenAi => {
                let kind = match status.as_u16() {
                    400..500 => "invalid_request_error",
                    503 => "server_error",
                    _ => "upstream_error",
                };
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

/// The caller's fault, mostly.
impl From<&ArrivalError> for Problem {
    fn from(error: &ArrivalError) -> Self {
        let (status, code) = match error {
            ArrivalError::Broken(_) => (StatusCode::BAD_REQUEST, "request_broken"),
            ArrivalError::Idle(_) => (StatusCode::REQUEST_TIMEOUT, "request_timeout"),
            ArrivalError::Draining => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
        };
        Self { is_last: true, ..Self::new(status, code, error.to_string()) }
    }
}

impl From<ArrivalError> for Problem {
    fn from(error: ArrivalError) -> Self {
        Self::from(&error)
    }
}
