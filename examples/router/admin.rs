//! The admin listener: statistics, the dashboard and invalidation, for operators and never from a public request.
//!
//! Two things keep a web page in the operator's browser out where no token does: nothing is done for a request whose `origin` is another than this listener, and `host` has to be
//! a loopback name, so that a name of the page's that points here (DNS rebinding) is refused.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State, rejection::BytesRejection},
    middleware::{self, Next},
    response::{IntoResponse, Json, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, uri::Authority};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tower_response_cache::{
    ApiPolicy, Error, Handle,
    dashboard::Dashboard,
    key::Key,
    observe::analytics::Analytics,
    store::{BoxStore, Selection},
};

use super::metrics::Metrics;

/// The text format of Prometheus.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Cache = Handle<BoxStore, ApiPolicy>;

/// Longest body that is read, in bytes.
const BODY_LIMIT: usize = 64 << 10;

pub(crate) fn router(cache: Cache, analytics: Analytics, metrics: Metrics, token: Option<&str>) -> Router {
    // The dashboard asks for the token itself: its page, which holds nothing, is what asks the operator for it.
    let mut dashboard = Dashboard::new(cache.clone(), analytics).base("/cache");
    if let Some(token) = token {
        dashboard = dashboard.token(token);
    }
    let dashboard = |path| (path, dashboard.clone());
    let pages = [
        "/cache",
        "/cache/",
        "/cache/page.css",
        "/cache/page.js",
        "/cache/metrics",
        "/cache/series",
        "/cache/records",
        "/cache/stats",
        "/cache/entry",
        "/cache/entries",
    ];
    let guard = Guard(token.map(|token| Arc::new(Sha256::digest(token).into())));
    pages.into_iter().map(dashboard).fold(Router::new(), |router, (path, page)| router.route_service(path, page))
        .route("/metrics", get(move || async move { ([(header::CONTENT_TYPE, PROMETHEUS)], metrics.render()) }))
        .route("/cache/invalidate", post(invalidate))
        .route("/cache/cleanup", post(cleanup))
        .with_state(cache)
        .route("/healthz", get(|| async { Json(json!({"status": "ok"})) }))
        .fallback(|| async {
            refuse(StatusCode::NOT_FOUND, "there are GET /cache/ (the dashboard), /cache/stats, /cache/metrics, /cache/records, /cache/entries, /metrics and /healthz, POST /cache/invalidate and /cache/cleanup")
        })
        .method_not_allowed_fallback(|| async { refuse(StatusCode::METHOD_NOT_ALLOWED, "not with this method; `allow` says which") })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(guard, guarded))
}

/// The digest of the token, if there is one.
#[derive(Clone)]
struct Guard(Option<Arc<[u8; 32]>>);

impl Guard {
    /// Compares digests, in constant time: neither the token's bytes nor its length show in the time it takes.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = &self.0 else { return true };
        let given = headers.get(header::AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
        let (scheme, token) = given.split_at_checked(7).unwrap_or_default();
        let digest: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(digest.ct_eq(expected.as_slice()))
    }
}

async fn guarded(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path == "/healthz" || (guard.0.is_some() && matches!(path, "/cache" | "/cache/" | "/cache/page.css" | "/cache/page.js")) {
        return next.run(request).await;
    }
    if !guard.admits(request.headers()) {
        let mut response = refuse(StatusCode::UNAUTHORIZED, "this needs `authorization: Bearer TOKEN` with the admin token");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    if guard.0.is_none() && !is_for_loopback(&request) {
        return refuse(StatusCode::FORBIDDEN, "without an admin token, only requests to localhost are answered");
    }
    if !is_of_this_listener(&request) {
        return refuse(StatusCode::FORBIDDEN, "requests from web pages are not answered");
    }
    next.run(request).await
}

/// Does a request come from no web page, or from the dashboard? A browser says.
fn is_of_this_listener(request: &Request) -> bool {
    let site = request.headers().get("sec-fetch-site");
    if request.method() == Method::POST && site.is_some_and(|site| site != "same-origin") {
        return false;
    }
    let Some(origin) = request.headers().get(header::ORIGIN) else { return true };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    origin.is_some() && origin == authority(request).as_ref().map(Authority::as_str)
}

fn authority(request: &Request) -> Option<Authority> {
    match request.uri().authority() {
        Some(authority) => Some(authority.clone()),
        None => request.headers().get(header::HOST).and_then(|host| host.to_str().ok()?.parse().ok()),
    }
}

fn is_for_loopback(request: &Request) -> bool {
    authority(request).is_some_and(|authority| {
        let host = authority.host();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// One of these.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Wish {
    key: Option<String>,
    tag: Option<String>,
    pattern: Option<String>,
    all: Option<bool>,
}

const WISHES: &str = r#"send exactly one of {"key": "64 hex digits"}, {"tag": "name"}, {"pattern": "gpt-4*"} and {"all": true}"#;

async fn invalidate(State(cache): State<Cache>, headers: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return refuse(rejection.status(), WISHES),
    };
    // A web page can make a browser send a form, but not this type without being asked first.
    if !is_json(&headers) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body has to come with `content-type: application/json`");
    }
    let wish: Wish = match serde_json::from_slice(&body) {
        Ok(wish) => wish,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("{error}; {WISHES}")),
    };
    let removed = match wish {
        Wish { key: Some(key), tag: None, pattern: None, all: None } => match key.parse::<Key>() {
            Ok(key) => cache.invalidate_key(&key).await,
            Err(error) => return refuse(StatusCode::BAD_REQUEST, error.to_string()),
        },
        Wish { key: None, tag: Some(tag), pattern: None, all: None } if !tag.is_empty() => cache.invalidate(&Selection::Tag(tag)).await,
        Wish { key: None, tag: None, pattern: Some(pattern), all: None } if !pattern.is_empty() => {
            cache.invalidate(&Selection::Pattern(pattern)).await
        }
        Wish { key: None, tag: None, pattern: None, all: Some(true) } => cache.invalidate(&Selection::All).await,
        _ => return refuse(StatusCode::BAD_REQUEST, WISHES),
    };
    count("invalidated", removed)
}

async fn cleanup(State(cache): State<Cache>, headers: HeaderMap) -> Response {
    if headers.contains_key(header::CONTENT_TYPE) && !is_json(&headers) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send no body, or `content-type: application/json`");
    }
    count("removed", cache.cleanup().await)
}

fn count(name: &str, counted: Result<u64, Error>) -> Response {
    match counted {
        Ok(n) => {
            tracing::info!(n, "{name} by an operator");
            Json(json!({ name: n })).into_response()
        }
        Err(error) if error.is_unsupported() => refuse(StatusCode::NOT_IMPLEMENTED, error.to_string()),
        Err(error) => refuse(StatusCode::SERVICE_UNAVAILABLE, format!("the store did not confirm: {error}")),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn refuse(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(json!({"error": {"message": message.into()}}))).into_response()
}
