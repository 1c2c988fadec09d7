//! Statistics and purges, on a listener of their own.
//!
//! `GET /stats` · `DELETE /entries` (all) · `DELETE /entries?url=http://host/path` · `DELETE /entries?tag=name`

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::json;
use subtle::ConstantTimeEq as _;
use tower_response_cache::{
    Error, Handle, HttpPolicy,
    store::{Selection, Store},
};

use crate::{
    listener::Arriving,
    proxy::{Body, plain},
};

pub struct Admin<St> {
    handle: Handle<St, HttpPolicy>,
    token: Option<Arc<str>>,
}

impl<St> Clone for Admin<St> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone(), token: self.token.clone() }
    }
}

impl<St> Admin<St>
where
    St: Store,
{
    pub fn new(handle: Handle<St, HttpPolicy>, token: Option<String>) -> Self {
        Self { handle, token: token.map(Arc::from) }
    }

    pub async fn answer(&self, request: Request<Arriving>) -> Result<Response<Body>, Infallible> {
        if !self.may(&request) {
            return Ok(plain(StatusCode::UNAUTHORIZED, "a bearer token is needed"));
        }
        Ok(match (request.method(), request.uri().path()) {
            (&Method::GET, "/stats") => self.stats().await,
            (&Method::DELETE, "/entries") => match self.purge(request.uri().query()).await {
                Ok(count) => plain(StatusCode::OK, format!("{count} removed")),
                Err(error) if error.is_unsupported() || error.is_config() => plain(StatusCode::BAD_REQUEST, error.to_string()),
                Err(error) => plain(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            },
            _ => plain(StatusCode::NOT_FOUND, "GET /stats, DELETE /entries[?url=..|?tag=..]"),
        })
    }

    fn may(&self, request: &Request<Arriving>) -> bool {
        let Some(token) = &self.token else { return true };
        let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        given.is_some_and(|given| given.ct_eq(token.as_bytes()).into())
    }

    async fn stats(&self) -> Response<Body> {
        let stats = self.handle.stats().await;
        let store = stats.store.unwrap_or_default();
        plain(
            StatusCode::OK,
            json!({
                "hit_rate": stats.hit_rate(),
                "hits": stats.hits,
                "misses": stats.misses,
                "coalesced": stats.coalesced,
                "stale": stats.stale,
                "bypassed": stats.bypassed.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
                "stored": stats.stored,
                "not_stored": stats.not_stored,
                "store_errors": stats.store_errors,
                "bytes": stats.bytes,
                "bytes_saved": stats.bytes_saved,
                "entries": store.entries,
                "memory": store.bytes,
            })
            .to_string(),
        )
    }

    async fn purge(&self, query: Option<&str>) -> Result<u64, Error> {
        match query.map(|query| query.split_once('=').unwrap_or((query, ""))) {
            None => self.handle.invalidate(&Selection::All).await,
            Some(("tag", tag)) if !tag.is_empty() => self.handle.invalidate(&Selection::Tag(tag.to_owned())).await,
            Some(("url", url)) => {
                let request = Request::get(url).body(Bytes::new()).map_err(|_| Error::config("this is no URL"))?;
                self.handle.invalidate_request(&request).await
            }
            Some(_) => Err(Error::config("what to remove is ?url=http://host/path or ?tag=name, or all without either")),
        }
    }
}
