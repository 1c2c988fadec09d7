//! gRPC calls, cached by what they ask: unary and server-streaming methods that the operator lists as idempotent.

mod deadline;
mod messages;

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Method, Response, header, request as req, response as res};

use super::{Abandoned, Admission, ApiPolicy, Bypass, Deadline, Moment, NotStored, Policy, Reuse, Sharing, Storing};
use crate::{
    entry::Entry,
    inspect::Inspect,
    key::{Envelope, Identity},
    options::CacheOptions,
};

/// Caches gRPC calls by path, message and listed metadata, for a fixed time.
///
/// Only listed methods are touched. List what is idempotent, and unary or server-streaming: of a method whose client streams, the server would hear
/// nothing before the client has ended, and a conversation would come to a halt. All other calls pass through, streamed.
///
/// A response is stored with its trailers, and only if `grpc-status` says 0: in the trailers, or in the head of a response that has nothing
/// else ([gRPC over HTTP/2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md), "Responses"). Its messages have to be whole.
///
/// `grpc-timeout` is not part of the key. It bounds how long its caller waits for the head of the response, and no longer bounds the upstream call,
/// which may serve others: see [`upstream_timeout`](Self::upstream_timeout).
///
/// Around a client's channel, the cache does not see which server the channel leads to: of one layer around channels to several, let each call say so
/// ([`CacheOptions::upstream`]).
///
/// gRPC-Web is another protocol, with its status in the body: let a translation to gRPC stand outside of the cache.
///
/// ```
/// use tower_response_cache::{CacheLayer, GrpcPolicy, Sharing, store::Memory};
///
/// let policy = GrpcPolicy::new(Sharing::PerCredential).method("library.Library/GetBook").method("library.Library/ListBooks");
/// let layer = CacheLayer::new(Memory::new(64 << 20), policy);
/// # let _ = layer;
/// ```
#[derive(Clone)]
pub struct GrpcPolicy {
    calls: ApiPolicy,
    methods: Arc<HashSet<String>>,
    metadata: Vec<HeaderName>,
    encoded: bool,
    upstream_timeout: Duration,
}

/// The coding of the messages.
static ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The codings that the caller reads.
static ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// How the call went.
static STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How long the caller waits.
static TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Failures that are about one caller: CANCELLED, DEADLINE_EXCEEDED, PERMISSION_DENIED, UNAUTHENTICATED.
const OF_ONE_CALLER: [&str; 4] = ["1", "4", "7", "16"];

impl GrpcPolicy {
    /// A policy that caches no method yet, and under which answers are shared as `sharing` says. Credentials are those of [`Sharing::PerCredential`].
    pub fn new(sharing: Sharing) -> Self {
        let calls = ApiPolicy::new(sharing).canonical_json(false).cache_stateful(true);
        Self { calls, methods: Arc::default(), metadata: Vec::new(), encoded: false, upstream_timeout: Duration::from_secs(60) }
    }

    /// Caches a method, named as in `package.Service/Method`, with or without a slash before it. It has to be idempotent, and unary or server-streaming.
    #[must_use]
    pub fn method(mut self, name: impl AsRef<str>) -> Self {
        Arc::make_mut(&mut self.methods).insert(format!("/{}", name.as_ref().trim_start_matches('/')));
        self
    }

    /// Adds request metadata to the key: calls that differ in it share nothing. Whatever a cached method reads belongs here, unless it is a credential. Default: none.
    #[must_use]
    pub fn key_metadata(mut self, name: HeaderName) -> Self {
        if !self.metadata.contains(&name) {
            self.metadata.push(name);
        }
        self
    }

    /// Adds request metadata that carries credentials, to those of [`Sharing::PerCredential`].
    #[must_use]
    pub fn credential_metadata(self, name: HeaderName) -> Self {
        Self { calls: self.calls.credential_header(name), ..self }
    }

    /// Buffers request bodies up to this many bytes; longer ones pass through, streamed and uncached. Default: 1 MiB.
    #[must_use]
    pub fn request_limit(self, bytes: usize) -> Self {
        Self { calls: self.calls.request_limit(bytes), ..self }
    }

    /// Stores response bodies up to this many bytes; longer ones are streamed and not stored. Default: 8 MiB.
    #[must_use]
    pub fn max_body(self, bytes: usize) -> Self {
        Self { calls: self.calls.max_body(bytes), ..self }
    }

    /// Sets how long answers are fresh. Default: 3600 s.
    #[must_use]
    pub fn ttl(self, ttl: Duration) -> Self {
        Self { calls: self.calls.ttl(ttl), ..self }
    }

    /// Bounds what [`CacheOptions::ttl`] may ask for. Default: 0 s to 30 days.
    #[must_use]
    pub fn ttl_bounds(self, least: Duration, most: Duration) -> Self {
        Self { calls: self.calls.ttl_bounds(least, most), ..self }
    }

    /// Serves answers for this long after they went stale, while one refresh runs in the background. Default: 0.
    #[must_use]
    pub fn stale_while_revalidate(self, window: Duration) -> Self {
        Self { calls: self.calls.stale_while_revalidate(window), ..self }
    }

    /// Serves answers for this long after they went stale if the upstream is out of reach, or answers UNAVAILABLE or INTERNAL and nothing else. Default: 0.
    #[must_use]
    pub fn stale_if_error(self, window: Duration) -> Self {
        Self { calls: self.calls.stale_if_error(window), ..self }
    }

    /// Refreshes popular answers shortly before they go stale, as [`ApiPolicy::early_refresh`] does. Default: 0, off.
    #[must_use]
    pub fn early_refresh(self, beta: f64) -> Self {
        Self { calls: self.calls.early_refresh(beta), ..self }
    }

    /// Lets the upstream compress messages and stores them so, keyed by the `grpc-accept-encoding` of the call. Off, that field does not reach the upstream, and one
    /// stored answer serves every caller. Default: off.
    #[must_use]
    pub fn store_compressed(mut self, on: bool) -> Self {
        self.encoded = on;
        self
    }

    /// Sets what `grpc-timeout` the upstream is given at least, if the caller sets one: the answer may be for others too, who wait longer. Default: 60 s.
    #[must_use]
    pub fn upstream_timeout(mut self, timeout: Duration) -> Self {
        self.upstream_timeout = timeout;
        self
    }

    /// What becomes of an upstream call that nobody waits for any more. Default: it is finished and stored, within 60 s.
    #[must_use]
    pub fn abandoned(self, abandoned: Abandoned) -> Self {
        Self { calls: self.calls.abandoned(abandoned), ..self }
    }
}

impl Policy for GrpcPolicy {
    fn admit(&self, request: &mut req::Parts, options: &mut CacheOptions) -> Admission {
        if request.method != Method::POST || !is_grpc(&request.headers) {
            return Admission::Bypass(Bypass::Method);
        }
        if !self.methods.contains(request.uri.path()) {
            return Admission::Bypass(Bypass::Path);
        }
        self.calls.admit(request, options)
    }

    fn body_limit(&self) -> usize {
        self.calls.body_limit()
    }

    fn identify(
        &self,
        envelope: &Envelope,
        request: &req::Parts,
        body: &[u8],
        options: &CacheOptions,
        slot: u32,
    ) -> Result<Identity, Bypass> {
        if !messages::is_one(body) {
            return Err(Bypass::Streaming);
        }
        let accept = self.encoded.then_some(&ACCEPT_ENCODING);
        let keyed = std::iter::once(&ENCODING).chain(accept).chain(&self.metadata);
        self.calls.identity_by(envelope, request, body, options, slot, keyed)
    }

    fn reuse(&self, request: &req::Parts, options: &CacheOptions, entry: &Entry, moment: Moment) -> Reuse {
        self.calls.reuse(request, options, entry, moment)
    }

    fn deadline(&self, request: &req::Parts) -> Option<Deadline> {
        Some(Deadline { within: deadline::of(&request.headers)?, answer: exceeded })
    }

    fn prepare(&self, request: &mut req::Parts) {
        if !self.encoded {
            request.headers.remove(&ACCEPT_ENCODING);
        }
        if let Some(timeout) = deadline::of(&request.headers) {
            request.headers.insert(&TIMEOUT, deadline::field(timeout.max(self.upstream_timeout)));
        }
    }

    fn store(
        &self,
        request: &req::Parts,
        options: &CacheOptions,
        response: &res::Parts,
        len: Option<u64>,
        moment: Moment,
    ) -> Result<Storing, NotStored> {
        let headers = &response.headers;
        if !is_grpc(headers) {
            return Err(NotStored::Status);
        }
        let status = headers.get(&STATUS);
        if let Some(status) = status.filter(|status| *status != "0") {
            let personal = OF_ONE_CALLER.iter().any(|code| status == code);
            return Err(if personal { NotStored::Personal } else { NotStored::GrpcStatus });
        }
        if is_encoded(headers) && !self.encoded {
            return Err(NotStored::Encoded);
        }
        let storing = self.calls.store(request, options, response, len, moment)?;
        // That the body is whole is proven by the status at its end, or by there being none.
        Ok(Storing { needs_proof: false, ..storing })
    }

    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        Some(Arc::new(messages::Whole))
    }

    fn complete(&self, response: &res::Parts, trailers: Option<&HeaderMap>) -> Result<(), NotStored> {
        self.calls.complete(response, trailers)
    }

    fn is_failure(&self, response: &res::Parts) -> bool {
        // INTERNAL, UNAVAILABLE.
        response.headers.get(&STATUS).is_some_and(|status| status == "13" || status == "14") || self.calls.is_failure(response)
    }

    fn shares(&self, reason: &NotStored) -> bool {
        self.calls.shares(reason)
    }

    fn abandoned(&self) -> Abandoned {
        Policy::abandoned(&self.calls)
    }
}

impl fmt::Debug for GrpcPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcPolicy").field("methods", &self.methods).field("metadata", &self.metadata).finish_non_exhaustive()
    }
}

/// The answer to a caller whose deadline has passed: DEADLINE_EXCEEDED, in a response that is a head and nothing else.
fn exceeded() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/grpc"));
    headers.insert(&STATUS, header::HeaderValue::from_static("4"));
    headers.insert("grpc-message", header::HeaderValue::from_static("the deadline passed before there was a response"));
    response
}

/// May messages be compressed?
fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get(&ENCODING).is_some_and(|coding| coding != "identity")
}

/// Is the content type gRPC's own? gRPC-Web's begins alike.
fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).map_or(&[][..], |value| value.as_bytes());
    let rest = value.get(.."application/grpc".len()).filter(|start| start.eq_ignore_ascii_case(b"application/grpc"));
    rest.is_some_and(|start| matches!(value.get(start.len()), None | Some(b'+' | b';' | b' ')))
}

#[cfg(test)]
mod tests;
