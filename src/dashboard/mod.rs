//! A page that shows what the cache is worth, and the JSON behind it: a tower service for a listener that only operators reach.
//!
//! It shows who asked for what, at what cost, and it invalidates. So it is never part of a [`Cache`](crate::Cache): it is mounted where its owner wants it, under
//! [a path of its own](Dashboard::base).
//!
//! | path | what |
//! |---|---|
//! | `GET /` | the page; it loads nothing from elsewhere |
//! | `GET /metrics?hours=24` | sums of a period: `requests`, `by_outcome`, `hit_rate`, `cost_usd`, `saved_usd`, `saved_seconds`, `tokens`, `latency_ms`, `by_model`, `by_provider`, `by_route`; `by_label`, `errors`, `failed` |
//! | `GET /series?hours=24` | the same over time, in slices, for charts |
//! | `GET /records?limit=50` | the newest requests: `request_id`, `provider`, `model`, `route`, `outcome`, `reason`, `status`, `response_time_ms`, `cost_usd`, `saved_usd`, `bytes`, `at` |
//! | `GET /stats` | what the cache did since it was made, and what its store holds |
//! | `GET /entry?key=…` | what is known about a stored answer; never its body |
//! | `GET /entries?limit=50&cursor=…` | a page of what is stored: `entries`, each as `/entry` shows it, and `next`, the cursor of the next page, or null |
//! | `POST /invalidate` | removes what `{"key": …}`, `{"tag": …}` or [`{"pattern": …}`](Selection::Pattern) names, or with `{"all": true}` everything, and says how many it was |
//!
//! `latency_ms` has `p50`, `p90` and `p99` of `hit` and of `miss`, or null where there was none; coalesced requests, which wait for a call of another, are in neither. Of all requests within 1 %, and in each model, provider, route and label within 6.25 %. `errors` are
//! requests that went wrong: those answered with a status of 500 or more, and those that `failed`, since the inner service or the response body did.
//!
//! # Safety
//!
//! - A request that changes something has to come as `application/json`, and, from a browser, from the page itself: `origin` and `sec-fetch-site` are checked.
//! - With a [token](Dashboard::token), everything but the page, which holds nothing by itself, asks for `authorization: Bearer …`; the page asks its reader for it, and keeps it as long as
//!   its tab is open.
//! - Without one, keep other host names from it (DNS rebinding), as the router in the examples does, or have something in front that authenticates.
//! - The page runs under a content security policy that allows its own script and style, and nothing else. Values are shown as text.

#![allow(clippy::result_large_err, reason = "a refusal is a whole answer")]

mod json;

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body::Body;
use http_body_util::{BodyExt as _, Full, Limited};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tower::Service;

use crate::{
    BoxError, Error, Handle, Policy,
    key::{InvalidKey, Key},
    observe::analytics::Analytics,
    store::{Cursor, Selection, Store},
};

/// Shows what a cache is worth. See the [module](self). Clones are cheap and the same.
///
/// ```
/// use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, dashboard::Dashboard, observe::analytics::Analytics, store::Memory};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let analytics = Analytics::builder().spawn();
/// let layer = CacheLayer::new(Memory::new(64 << 20), ApiPolicy::new(Sharing::Shared)).observer(analytics.clone());
/// let dashboard = Dashboard::new(layer.handle(), analytics).base("/cache").token("hush");
/// let admin: axum::Router = axum::Router::new().fallback_service(dashboard);
/// # let _ = admin;
/// # }
/// ```
pub struct Dashboard<St, P> {
    handle: Handle<St, P>,
    analytics: Analytics,
    base: Arc<str>,
    token: Option<[u8; 32]>,
}

/// Longest body that is read, in bytes.
const BODY_LIMIT: usize = 16 << 10;

/// Longest period, in hours.
const LONGEST: u64 = 30 * 24;

impl<St, P> Dashboard<St, P> {
    /// Of the cache of this handle, with what these analytics know of it.
    pub fn new(handle: Handle<St, P>, analytics: Analytics) -> Self {
        Self { handle, analytics, base: Arc::from("/cache"), token: None }
    }

    /// Sets the path under which it is mounted. Default: `/cache`.
    #[must_use]
    pub fn base(mut self, path: &str) -> Self {
        self.base = Arc::from(path.trim_end_matches('/'));
        self
    }

    /// Asks for this bearer token; blanks around it are no part of it. Default: none.
    #[must_use]
    pub fn token(mut self, token: impl AsRef<[u8]>) -> Self {
        self.token = Some(Sha256::digest(token.as_ref().trim_ascii()).into());
        self
    }

    /// Digests are compared: what their comparison takes says nothing of the token.
    fn admits(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = self.token else { return true };
        let given = headers.get(header::AUTHORIZATION).map_or(&[][..], HeaderValue::as_bytes);
        let (scheme, token) = given.split_at_checked(7).unwrap_or_default();
        let digest: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        scheme.eq_ignore_ascii_case(b"bearer ") && digest == expected
    }
}

impl<St, P> Dashboard<St, P>
where
    St: Store,
    P: Policy,
{
    async fn answer<B>(self, head: request::Parts, body: B) -> Result<Reply, Reply>
    where
        B: Body<Error: Into<BoxError>>,
    {
        let path = head.uri.path().strip_prefix(&*self.base).ok_or_else(missing)?;
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        if let Some(asset) = asset(path, &self.base) {
            return if is_read { Ok(asset) } else { Err(not_with_this_method("GET")) };
        }
        if !self.admits(&head.headers) {
            let mut reply = refuse(StatusCode::UNAUTHORIZED, "this needs `authorization: Bearer TOKEN`");
            reply.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            return Err(reply);
        }
        let query = head.uri.query().unwrap_or_default();
        match path {
            "/invalidate" if head.method == Method::POST => self.invalidate(&head, body).await,
            "/invalidate" => Err(not_with_this_method("POST")),
            "/metrics" | "/series" | "/records" | "/stats" | "/entry" | "/entries" if !is_read => Err(not_with_this_method("GET")),
            "/metrics" => {
                let hours = number(query, "hours", 24, 1, LONGEST)?;
                let period = self.analytics.last(Duration::from_secs(hours * 3600)).await;
                Ok(shown(json::period(&period, self.analytics.dropped())))
            }
            "/series" => {
                let hours = number(query, "hours", 24, 1, LONGEST)?;
                let now = SystemTime::now();
                let from = now.checked_sub(Duration::from_secs(hours * 3600)).unwrap_or(SystemTime::UNIX_EPOCH);
                Ok(shown(json::series(&self.analytics.series(from..now, step(hours)).await)))
            }
            "/records" => {
                let limit = number(query, "limit", 50, 1, 1000)?;
                let recent = self.analytics.recent(usize::try_from(limit).unwrap_or(usize::MAX)).await;
                Ok(shown(recent.iter().map(json::recent).collect()))
            }
            "/stats" => Ok(shown(json::stats(&self.handle.stats().await))),
            "/entry" => {
                let key = argument(query, "key").ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "say which `key`"))?;
                let key: Key = key.parse().map_err(|error: InvalidKey| refuse(StatusCode::BAD_REQUEST, &error.to_string()))?;
                match self.handle.metadata(&key).await {
                    Ok(Some(listing)) => Ok(shown(json::listing(&listing, SystemTime::now()))),
                    Ok(None) => Err(refuse(StatusCode::NOT_FOUND, "nothing is stored under this key")),
                    Err(error) => Err(failed(&error)),
                }
            }
            "/entries" => {
                let limit = number(query, "limit", 50, 1, 1000)?;
                let cursor = argument(query, "cursor").filter(|cursor| !cursor.is_empty()).map(Cursor::new);
                match self.handle.entries(cursor.as_ref(), usize::try_from(limit).unwrap_or(usize::MAX)).await {
                    Ok(page) => Ok(shown(json::page(&page, SystemTime::now()))),
                    Err(error) if error.is_config() => Err(refuse(StatusCode::BAD_REQUEST, &error.to_string())),
                    Err(error) => Err(failed(&error)),
                }
            }
            _ => Err(missing()),
        }
    }

    async fn invalidate<B>(&self, head: &request::Parts, body: B) -> Result<Reply, Reply>
    where
        B: Body<Error: Into<BoxError>>,
    {
        if !is_of_the_page(&head.headers) {
            return Err(refuse(StatusCode::FORBIDDEN, "requests from other pages are not answered"));
        }
        let kind = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Another page can make a browser send a form, but not this type without being asked first.
        if !kind.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json")) {
            return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body has to come as `application/json`"));
        }
        let body = Limited::new(body, BODY_LIMIT).collect().await;
        let body = body.map_err(|_| refuse(StatusCode::PAYLOAD_TOO_LARGE, WISHES))?.to_bytes();
        let wish: Wish = serde_json::from_slice(&body).map_err(|_| refuse(StatusCode::BAD_REQUEST, WISHES))?;
        let removed = match wish {
            Wish { key: Some(key), tag: None, pattern: None, all: None } => {
                let key: Key = key.parse().map_err(|error: InvalidKey| refuse(StatusCode::BAD_REQUEST, &error.to_string()))?;
                self.handle.invalidate_key(&key).await
            }
            Wish { key: None, tag: Some(tag), pattern: None, all: None } if !tag.is_empty() => {
                self.handle.invalidate(&Selection::Tag(tag)).await
            }
            Wish { key: None, tag: None, pattern: Some(pattern), all: None } if !pattern.is_empty() => {
                self.handle.invalidate(&Selection::Pattern(pattern)).await
            }
            Wish { key: None, tag: None, pattern: None, all: Some(true) } => self.handle.invalidate(&Selection::All).await,
            _ => return Err(refuse(StatusCode::BAD_REQUEST, WISHES)),
        };
        removed.map(|removed| shown(json!({"invalidated": removed}))).map_err(|error| failed(&error))
    }
}

impl<St, P, B> Service<Request<B>> for Dashboard<St, P>
where
    St: Store,
    P: Policy,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let dashboard = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let is_head = head.method == Method::HEAD;
            let mut reply = dashboard.answer(head, body).await.unwrap_or_else(|refusal| refusal);
            secure(reply.headers_mut());
            if is_head {
                *reply.body_mut() = Full::default();
            }
            Ok(reply)
        })
    }
}

/// An answer of the dashboard.
type Reply = Response<Full<Bytes>>;

/// One of these.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    key: Option<String>,
    tag: Option<String>,
    pattern: Option<String>,
    all: Option<bool>,
}

const WISHES: &str = r#"send exactly one of {"key": "64 hex digits"}, {"tag": "name"}, {"pattern": "gpt-4*"} and {"all": true}"#;

/// The page and its parts, which hold nothing that is worth a token.
fn asset(path: &str, base: &str) -> Option<Reply> {
    let (kind, text) = match path {
        // Relative addresses in the page need the slash.
        "" => {
            let mut reply = Response::new(Full::default());
            *reply.status_mut() = StatusCode::PERMANENT_REDIRECT;
            reply.headers_mut().insert(header::LOCATION, HeaderValue::try_from(format!("{base}/")).ok()?);
            return Some(reply);
        }
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("page/page.css")),
        "/page.js" => ("text/javascript; charset=utf-8", include_str!("page/page.js")),
        _ => return None,
    };
    Some(reply(StatusCode::OK, kind, Bytes::from_static(text.as_bytes())))
}

/// Does a request come from no page, or from this one?
fn is_of_the_page(headers: &HeaderMap) -> bool {
    let field = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if !matches!(field("sec-fetch-site"), None | Some("same-origin" | "none")) {
        return false;
    }
    match field("origin") {
        None => true,
        Some(origin) => match (origin.split_once("://"), field("host")) {
            (Some((_, authority)), Some(host)) => authority.eq_ignore_ascii_case(host),
            // Over HTTP/2 there is no `host`; browsers then say where they come from.
            (Some(_), None) => field("sec-fetch-site") == Some("same-origin"),
            _ => false,
        },
    }
}

/// Slices for some hundred points in a chart.
fn step(hours: u64) -> Duration {
    Duration::from_secs(match hours {
        0..=2 => 60,
        3..=24 => 15 * 60,
        25..=168 => 2 * 3600,
        _ => 8 * 3600,
    })
}

fn argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn number(query: &str, name: &str, default: u64, least: u64, most: u64) -> Result<u64, Reply> {
    let Some(text) = argument(query, name) else { return Ok(default) };
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| refuse(StatusCode::BAD_REQUEST, &format!("`{name}` is a number from {least} to {most}")))
}

fn shown(value: Value) -> Reply {
    reply(StatusCode::OK, "application/json", Bytes::from(value.to_string()))
}

fn refuse(status: StatusCode, message: &str) -> Reply {
    reply(status, "application/json", Bytes::from(json!({"error": {"message": message}}).to_string()))
}

fn missing() -> Reply {
    refuse(StatusCode::NOT_FOUND, "there is no such page")
}

fn not_with_this_method(allowed: &'static str) -> Reply {
    let mut reply = refuse(StatusCode::METHOD_NOT_ALLOWED, "not with this method; `allow` says which");
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    reply
}

fn failed(error: &Error) -> Reply {
    let status = if error.is_unsupported() { StatusCode::NOT_IMPLEMENTED } else { StatusCode::SERVICE_UNAVAILABLE };
    refuse(status, &format!("the store did not confirm: {error}"))
}

fn reply(status: StatusCode, kind: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

fn secure(headers: &mut HeaderMap) {
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

impl<St, P> Clone for Dashboard<St, P> {
    fn clone(&self) -> Self {
        let Self { handle, analytics, base, token } = self;
        Self { handle: handle.clone(), analytics: analytics.clone(), base: Arc::clone(base), token: *token }
    }
}

impl<St, P> fmt::Debug for Dashboard<St, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard").field("base", &self.base).field("token", &self.token.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_page_itself_may_change_something_from_a_browser() {
        for (fields, expected) in [
            (&[][..], true),
            (&[("origin", "http://localhost:8081"), ("host", "localhost:8081")], true),
            (&[("origin", "http://localhost:8081"), ("host", "localhost:8081"), ("sec-fetch-site", "same-origin")], true),
            (&[("origin", "https://evil.example"), ("host", "localhost:8081")], false),
            (&[("origin", "http://localhost:8080"), ("host", "localhost:8081")], false),
            (&[("origin", "null"), ("host", "localhost:8081")], false),
            (&[("origin", "http://localhost:8081")], false),
            (&[("origin", "https://localhost:8081"), ("sec-fetch-site", "same-origin")], true),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            assert_eq!(is_of_the_page(&headers), expected, "{fields:?}");
        }
    }
}
