//! The public listener: from a caller's request to the cache and back.

use std::{convert::Infallible, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request};
use tokio::sync::Semaphore;
use tower::Service as _;
use tower_response_cache::{ApiPolicy, Cache, CacheOptions, policy::strip_hop_by_hop, store::BoxStore};

use super::{
    body::{Reply, Upload},
    client::{Client, Target},
    listener::{Arriving, names_one_host},
    model::model_of,
    problem::Problem,
    route::{Model, Route},
    upstream::Directory,
};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-upstream-request-id");

/// Longer request ids are replaced.
const REQUEST_ID_LEN: usize = 128;

/// Longer names of models are cut off in labels.
const LABEL_LEN: usize = 128;

/// So much of a body is searched for its model, in bytes, where that decides who is asked. Anthropic takes no longer ones.
const LONGEST: usize = 32 << 20;

/// So many are held for it at the same time.
const ROOMS: usize = 8;

/// The service behind the public listener.
#[derive(Clone)]
pub(crate) struct Gateway(Arc<Inner>);

struct Inner {
    cache: Cache<Client, BoxStore, ApiPolicy>,
    directory: Directory,
    /// How much of a body is read in front: what the cache would take.
    limit: usize,
    /// The field that names the caller's tenant.
    tenant: Option<HeaderName>,
    /// For longer ones, whose model has to be found.
    rooms: Arc<Semaphore>,
}

impl Gateway {
    pub(crate) fn new(cache: Cache<Client, BoxStore, ApiPolicy>, directory: Directory, limit: usize, tenant: Option<HeaderName>) -> Self {
        Self(Arc::new(Inner { cache, directory, limit, tenant, rooms: Arc::new(Semaphore::new(ROOMS)) }))
    }
}

impl hyper::service::Service<Request<Arriving>> for Gateway {
    type Response = Response<Reply>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Reply>, Infallible>> + Send>>;

    fn call(&self, request: Request<Arriving>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { Ok(inner.answer(request).await) })
    }
}

impl Inner {
    async fn answer(&self, request: Request<Arriving>) -> Response<Reply> {
        let (mut head, body) = request.into_parts();
        let id = request_id(&mut head);
        let asked = head.uri.clone();
        let route = Route::of(asked.path());
        let has_connection_fields = head.version < Version::HTTP_2;
        let mut is_last = false;
        let mut response = match self.forward(head, body, &route, &id).await {
            Ok(response) => response,
            Err(problem) => {
                is_last = problem.is_last && has_connection_fields;
                problem.response(route.dialect, id.to_str().unwrap_or_default()).map(Reply::Own)
            }
        };
        *response.version_mut() = Version::HTTP_11;
        strip_hop_by_hop(response.headers_mut());
        if is_last {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        match response.headers_mut().insert(REQUEST_ID.clone(), id.clone()) {
            Some(theirs) if theirs != id => {
                response.headers_mut().insert(UPSTREAM_REQUEST_ID.clone(), theirs);
            }
            _ => {}
        }
        response
    }

    async fn forward(
        &self,
        mut head: request::Parts,
        body: Arriving,
        route: &Route<'_>,
        id: &HeaderValue,
    ) -> Result<Response<Reply>, Problem> {
        if !names_one_host(&head) {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_host", "a request has to name one host"));
        }
        if head.uri.path() == "/healthz" {
            return health(&head.method);
        }
        check(&head)?;
        strip_hop_by_hop(&mut head.headers);
        // The server in front of this has answered it.
        head.headers.remove(header::EXPECT);

        let (body, model) = match route.model {
            Model::Body if head.method == Method::POST => self.upload(body).await?,
            // The cache would read it; what goes wrong then it would leave to the upstream to find.
            Model::Path(model) if route.cached && head.method == Method::POST => {
                (Upload::read(body, self.limit).await?, Some(model.to_owned()))
            }
            Model::Path(model) => (Upload::Live(body), Some(model.to_owned())),
            Model::Body | Model::None => (Upload::Live(body), None),
        };
        let upstream = self.directory.choose(model.as_deref());

        // Named by its upstream, not by how the caller spelled the router: that is what its key says.
        head.uri = head.uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
        head.headers.insert(header::HOST, upstream.host());
        let mut options = CacheOptions::new()
            .upstream(upstream.identity())
            .label("provider", &upstream.name)
            .label("route", route.name)
            .request_id(id.to_str().unwrap_or_default());
        if let Some(model) = &model {
            options = options.label("model", label(model));
        }
        if route.model != Model::None {
            // What goes past the cache is read as well, for what it cost.
            head.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if let Some(tenant) = self.tenant.as_ref().and_then(|name| head.headers.get(name)) {
            options = options.label("tenant", label(&String::from_utf8_lossy(tenant.as_bytes())));
        }
        head.extensions.insert(options);
        head.extensions.insert(Target(Arc::clone(upstream)));
        match self.cache.clone().call(Request::from_parts(head, body)).await {
            Ok(response) => Ok(response.map(Reply::Cached)),
            Err(failure) => Err(failure.problem()),
        }
    }
}

impl Inner {
    /// A body with the model that it names. Official SDKs write the model behind the messages, which may be long: with images in them, most of all.
    async fn upload(&self, body: Arriving) -> Result<(Upload, Option<String>), Problem> {
        let body = Upload::read(body, self.limit).await?;
        let model = model_of(body.seen());
        if model.is_some() || !body.goes_on() || !self.directory.is_choice() {
            return Ok((body, model));
        }
        let room = Arc::clone(&self.rooms).try_acquire_owned().map_err(|_| {
            let why = "too many long requests that do not begin with their `model` are on their way";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_long_requests", why)
        })?;
        let body = body.read_on(LONGEST, room, |seen| model_of(seen).is_some()).await?;
        let model = model_of(body.seen());
        Ok((body, model))
    }
}

/// The beginning of a name that a caller may have made as long as a body.
fn label(name: &str) -> &str {
    let end = (0..=name.len().min(LABEL_LEN)).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or_default()]
}

fn health(method: &Method) -> Result<Response<Reply>, Problem> {
    if method != Method::GET && method != Method::HEAD {
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "ask for the health with GET"));
    }
    let body = if method == Method::HEAD { Bytes::new() } else { Bytes::from_static(b"{\"status\":\"ok\"}") };
    let mut response = Response::new(Reply::Own(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// What cannot be forwarded: tunnels, and paths that may mean another than they say.
fn check(head: &request::Parts) -> Result<(), Problem> {
    if head.method == Method::CONNECT {
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this is no proxy for tunnels"));
    }
    let path = head.uri.path();
    // As the most lenient of servers reads it: some take an escaped slash for a slash, or a backslash, and what follows a semicolon for no part of the name.
    let lenient = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\").replace("%3b", ";");
    let is_dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if !path.starts_with('/') || lenient.split(['/', '\\']).any(is_dots) {
        return Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "invalid_path",
            "the path has to begin with a slash and be without `.` and `..` segments",
        ));
    }
    Ok(())
}

/// The caller's name for the request, if it is fit for logs, or a new one; the upstream sees it, too.
fn request_id(head: &mut request::Parts) -> HeaderValue {
    let fit = |id: &&HeaderValue| !id.is_empty() && id.len() <= REQUEST_ID_LEN && id.as_bytes().iter().all(u8::is_ascii_graphic);
    if let Some(id) = head.headers.get(&REQUEST_ID).filter(fit) {
        return id.clone();
    }
    let id = HeaderValue::from_str(&format!("{:032x}", fastrand::u128(..))).unwrap_or(HeaderValue::from_static("0"));
    head.headers.insert(REQUEST_ID.clone(), id.clone());
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_end_between_characters() {
        assert_eq!(label("gpt-4o"), "gpt-4o");
        assert_eq!(label(&"x".repeat(1 << 20)).len(), LABEL_LEN);
        assert_eq!(label(&format!("x{}", "\u{e9}".repeat(100))).len(), LABEL_LEN - 1);
    }
}
