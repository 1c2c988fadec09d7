//! Content-addressed caching of API calls: the same question, body included, gets the same answer for a fixed time.

mod request;
mod response;

use std::{fmt, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, Method, StatusCode, request as req, response as res};

use super::{Abandoned, Admission, Bypass, Moment, NotStored, OnFailure, Policy, Replay, Reuse, Storing, doubts::OVERRIDES, names::Names};
use crate::{
    entry::Entry,
    inspect::Inspect,
    key::{Envelope, Identity, Scope, json},
    options::CacheOptions,
    status::Miss,
};

/// Caches calls by what they ask, body included, for a fixed time.
///
/// The origin's `Cache-Control` is ignored, for API services send `no-cache` with everything; `no-store` alone is heeded, unless
/// [told otherwise](Self::honour_no_store). What is stored is whole: the status is in the list, the body ended as its framing promised,
/// and an [inspector](Self::inspector) has no objection.
#[derive(Clone)]
pub struct ApiPolicy {
    sharing: Sharing,
    methods: Vec<Method>,
    paths: Option<Paths>,
    request_limit: usize,
    headers: Names,
    credentials: Names,
    key_rule: Option<KeyRule>,
    canonical: bool,
    json: json::Options,
    stateful: bool,
    max_temperature: Option<f64>,
    bypass_if: Option<RequestPredicate>,
    variants: u32,
    assumed_scheme: &'static str,
    trust: Option<Trust>,

    statuses: Vec<StatusCode>,
    /// Which statuses are stored although they say that there is nothing, and for how long at most.
    negative: Option<(Vec<StatusCode>, Duration)>,
    max_body: usize,
    ttl: Duration,
    ttl_bounds: (Duration, Duration),
    stale_while_revalidate: Duration,
    stale_if_error: Duration,
    early_refresh: f64,
    honour_no_store: bool,
    encoded: bool,
    close_delimited: bool,
    set_cookie: bool,
    response_tags: bool,
    show_request_id: Option<HeaderName>,
    store_if: Option<ResponsePredicate>,
    inspector: Option<Arc<dyn Inspect>>,
    abandoned: Abandoned,
}

type KeyRule = Arc<dyn Fn(&req::Parts) -> Vec<u8> + Send + Sync>;
type Paths = Arc<dyn Fn(&str) -> bool + Send + Sync>;
type RequestPredicate = Arc<dyn Fn(&req::Parts) -> bool + Send + Sync>;
type ResponsePredicate = Arc<dyn Fn(&res::Parts) -> bool + Send + Sync>;

/// Whose answer an answer is: what may be shared with whom.
#[derive(Clone)]
#[non_exhaustive]
pub enum Sharing {
    /// Requests share with those that carry the same credentials: `authorization`, `proxy-authorization`, `cookie`, `x-api-key`, `api-key`, `x-goog-api-key` and
    /// more ([`CREDENTIAL_HEADERS`](crate::key::CREDENTIAL_HEADERS)), and credentials in the query or the authority. Any other field that carries some has to be
    /// [named](ApiPolicy::credential_header), or those who have nothing else share with all like them. The credentials are digested, never kept.
    ///
    /// With tokens that change every hour, answers are shared for no longer than that; then one of the other two is what is needed.
    PerCredential,
    /// All callers share: for gateways that authenticate outside of the cache.
    Shared,
    /// Requests share as a function of the operator's says, which sees the request head with its extensions, after
    /// authentication. See [`Sharing::by`].
    By(Arc<dyn Fn(&req::Parts) -> Scope + Send + Sync>),
}

impl Sharing {
    /// Requests share whose `scope` is the same.
    ///
    /// ```
    /// use tower_response_cache::{Sharing, key::Scope};
    ///
    /// #[derive(Clone)]
    /// struct Team(String);
    ///
    /// let by_team = Sharing::by(|request| match request.extensions.get::<Team>() {
    ///     Some(team) => Scope::tenant(&team.0),
    ///     None => Scope::tenant(""),
    /// });
    /// # let _ = by_team;
    /// ```
    pub fn by(scope: impl Fn(&req::Parts) -> Scope + Send + Sync + 'static) -> Self {
        Self::By(Arc::new(scope))
    }
}

impl fmt::Debug for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerCredential => "PerCredential",
            Self::Shared => "Shared",
            Self::By(_) => "By(..)",
        })
    }
}

/// Which control fields in requests are heeded.
#[derive(Clone)]
struct Trust {
    ttl_header: Option<HeaderName>,
}

/// Request fields that make a difference to the services that this policy is for. The last two are what Google's APIs vary by.
const KEYED: &[&str] =
    &["accept", "anthropic-version", "anthropic-beta", "openai-organization", "openai-project", "openai-beta", "referer", "x-origin"];

/// How long answers are fresh unless told otherwise.
const TTL: Duration = Duration::from_secs(3600);

impl ApiPolicy {
    /// A policy under which answers are shared as `sharing` says.
    pub fn new(sharing: Sharing) -> Self {
        Self {
            sharing,
            methods: vec![Method::POST],
            paths: None,
            request_limit: 1 << 20,
            headers: Names::of(KEYED.iter().chain(OVERRIDES).copied()),
            credentials: Names::of(crate::key::CREDENTIAL_HEADERS.iter().copied()),
            key_rule: None,
            canonical: true,
            json: json::Options::default(),
            stateful: true,
            max_temperature: None,
            bypass_if: None,
            variants: 1,
            assumed_scheme: "http",
            trust: None,
            statuses: vec![StatusCode::OK],
            negative: None,
            max_body: 8 << 20,
            ttl: TTL,
            ttl_bounds: (Duration::ZERO, Duration::from_secs(30 * 86_400)),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            early_refresh: 0.0,
            honour_no_store: true,
            encoded: false,
            close_delimited: false,
            set_cookie: false,
            response_tags: false,
            show_request_id: None,
            store_if: None,
            inspector: None,
            abandoned: Abandoned::Finish { within: Duration::from_secs(60) },
        }
    }

    /// Caches these methods. CONNECT never is. Default: POST.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().filter(|method| *method != Method::CONNECT).collect();
        self
    }

    /// Caches only paths of which this says so. Default: all.
    #[must_use]
    pub fn paths(mut self, cached: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.paths = Some(Arc::new(cached));
        self
    }

    /// Buffers request bodies up to this many bytes; longer ones pass through, streamed and uncached. Default: 1 MiB.
    #[must_use]
    pub fn request_limit(mut self, bytes: usize) -> Self {
        self.request_limit = bytes;
        self
    }

    /// Adds a request field to the key: requests that differ in it share nothing. Always in the key are the content type (for JSON without a
    /// `charset` of UTF-8), `content-encoding`, `accept`, `anthropic-version`, `anthropic-beta`, `openai-organization`, `openai-project`, `openai-beta`, `referer` and
    /// `x-origin`,
    /// and what may override method, host or path: `x-forwarded-host`, `-prefix` and `-proto`, `x-host`, `x-http-method`,
    /// `x-http-method-override`, `x-method-override`, `x-original-url`, `x-rewrite-url` and their like, `host` and `forwarded` where they name another host than the URI
    /// does, and fields that `connection` lists.
    ///
    /// An upstream that heeds any other field has to say so by `vary`, or the field has to be added here.
    #[must_use]
    pub fn key_header(mut self, name: HeaderName) -> Self {
        self.headers.add(name);
        self
    }

    /// Adds to the key what this makes of the request head and its extensions: requests for which it differs share nothing. Default: nothing.
    ///
    /// ```
    /// use axum::extract::OriginalUri;
    /// use tower_response_cache::{ApiPolicy, Sharing};
    ///
    /// // Inside of a nested router, axum shows a path without the prefix; the whole of it tells what is nested here from what is nested there.
    /// let policy = ApiPolicy::new(Sharing::PerCredential).key_by(|request| match request.extensions.get::<OriginalUri>() {
    ///     Some(uri) => uri.path().into(),
    ///     None => Vec::new(),
    /// });
    /// # let _ = policy;
    /// ```
    #[must_use]
    pub fn key_by(mut self, rule: impl Fn(&req::Parts) -> Vec<u8> + Send + Sync + 'static) -> Self {
        self.key_rule = Some(Arc::new(rule));
        self
    }

    /// Adds a request field that carries credentials, to those of [`Sharing::PerCredential`].
    #[must_use]
    pub fn credential_header(mut self, name: HeaderName) -> Self {
        self.credentials.add(name);
        self
    }

    /// Leaves a member of a JSON request body out of the key, at the top level only: `user`, say, or `metadata`. Default: none.
    #[must_use]
    pub fn ignore_member(mut self, name: impl Into<String>) -> Self {
        self.json.ignore.push(name.into());
        self
    }

    /// Makes JSON bodies canonical for the key, so that the order of members and white space do not matter. Off, bodies are compared by
    /// their bytes, which is faster, and tells apart schemas that list the same properties in another order: some models answer in that order. Default: on.
    #[must_use]
    pub fn canonical_json(mut self, on: bool) -> Self {
        self.canonical = on;
        self
    }

    /// Caches LLM calls that go on from state at the upstream: `previous_response_id`, `previous_interaction_id`, `conversation`, a `container` by its id, and
    /// those that are to be fetched later: `background: true`, `deferred: true`. Default: off, they bypass.
    #[must_use]
    pub fn cache_stateful(mut self, on: bool) -> Self {
        self.stateful = !on;
        self
    }

    /// Lets requests bypass whose top-level `temperature` is above this. Default: no bound; adding the cache is the opt-in.
    #[must_use]
    pub fn max_temperature(mut self, bound: f64) -> Self {
        self.max_temperature = Some(bound);
        self
    }

    /// Lets requests bypass of which this says so, going by the head. Default: none.
    #[must_use]
    pub fn bypass_if(mut self, predicate: impl Fn(&req::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.bypass_if = Some(Arc::new(predicate));
        self
    }

    /// Keeps up to `n` different answers to each request and picks one at random, for callers who want diversity. Default: 1.
    #[must_use]
    pub fn variants(mut self, n: u32) -> Self {
        self.variants = n.max(1);
        self
    }

    /// Takes requests that do not name their scheme (origin-form, HTTP/1.1) for `https` ones, so that they share with HTTP/2 requests to a
    /// server behind TLS. Default: `http`.
    #[must_use]
    pub fn assume_https(mut self) -> Self {
        self.assumed_scheme = "https";
        self
    }

    /// Heeds control fields in requests, because whoever sends them is trusted: `Cache-Control: no-cache` (refresh), `no-store` (off),
    /// `max-age` (on read), `only-if-cached`, and a time to live in seconds in the field of the given name. They are removed before the
    /// upstream sees the request. Default: they are left alone.
    #[must_use]
    pub fn trust_request_headers(mut self, ttl_header: Option<HeaderName>) -> Self {
        self.trust = Some(Trust { ttl_header });
        self
    }

    /// Stores responses with these statuses. 1xx, 206 and 304 never are: they are no whole answers. Default: 200.
    #[must_use]
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = StatusCode>) -> Self {
        self.statuses = statuses.into_iter().filter(|status| status.as_u16() >= 200 && !matches!(status.as_u16(), 206 | 304)).collect();
        self
    }

    /// Stores answers that say that there is nothing, with these statuses, for `ttl` at most, whatever the request asks for; they are never served stale. Of
    /// the statuses given, only 404, 405, 410, 414 and 451 are taken: those are of the resource, and not of the moment or the caller (RFC 9110 section 15.1; RFC 7725).
    /// What an inspector takes for an error is still not stored. Default: none.
    #[must_use]
    pub fn negative(mut self, statuses: impl IntoIterator<Item = StatusCode>, ttl: Duration) -> Self {
        let taken = |status: &StatusCode| matches!(status.as_u16(), 404 | 405 | 410 | 414 | 451);
        self.negative = Some((statuses.into_iter().filter(taken).collect(), ttl));
        self
    }

    /// Stores response bodies up to this many bytes; longer ones are streamed and not stored. So are those whose
    /// frames, 64 bytes each, would take more than that again (or than 1 MiB, if that is more). Default: 8 MiB.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sets how long answers are fresh. Default: 3600 s.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Bounds what [`CacheOptions::ttl`] may ask for. Default: 0 s to 30 days.
    #[must_use]
    pub fn ttl_bounds(mut self, least: Duration, most: Duration) -> Self {
        self.ttl_bounds = (least.min(most), most);
        self
    }

    /// Serves answers for this long after they went stale, while one refresh runs in the background (RFC 5861 section 3). Default: 0.
    #[must_use]
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = window;
        self
    }

    /// Serves answers for this long after they went stale if the upstream fails: an error, or 500, 502, 503, 504 (RFC 5861 section 4). Default: 0.
    #[must_use]
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = window;
        self
    }

    /// Refreshes popular answers in the background shortly before they go stale, the more likely the closer the end and the slower the
    /// upstream: XFetch (Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015). `beta` of 1 is what the
    /// paper finds optimal; more is earlier. Default: 0, off.
    #[must_use]
    pub fn early_refresh(mut self, beta: f64) -> Self {
        self.early_refresh = if beta.is_finite() { beta.max(0.0) } else { 0.0 };
        self
    }

    /// Heeds `no-store` in the response's `Cache-Control`. Default: on.
    #[must_use]
    pub fn honour_no_store(mut self, on: bool) -> Self {
        self.honour_no_store = on;
        self
    }

    /// Lets the upstream encode its answers (`content-encoding`) and stores them, keyed by the encodings that the caller accepts. Off, the upstream is asked for
    /// `identity`, one stored answer serves every caller, and event streams can be inspected; compression belongs in a layer outside. Default: off.
    #[must_use]
    pub fn store_encoded(mut self, on: bool) -> Self {
        self.encoded = on;
        self
    }

    /// Stores HTTP/1.x bodies that end with their connection, with neither a length nor chunks, although one that broke off looks the same.
    /// Turn it on where the inner service is a handler in this process, whose streams cannot break off unnoticed. Bodies that prove by themselves
    /// that they are whole need no option. Default: off.
    #[must_use]
    pub fn store_close_delimited(mut self, on: bool) -> Self {
        self.close_delimited = on;
        self
    }

    /// Stores and replays `set-cookie`. Sessions shared by mistake are costly. Default: off, the field is dropped from what is stored.
    #[must_use]
    pub fn store_set_cookie(mut self, on: bool) -> Self {
        self.set_cookie = on;
        self
    }

    /// Takes tags for what is stored from the response, too: from `surrogate-key`, where spaces part them, and `cache-tag`, where commas do.
    /// A response with more than 256 of them, or with one of more than 1024 bytes, is not stored: nobody could remove it by all of its tags.
    /// Default: off.
    #[must_use]
    pub fn response_tags(mut self, on: bool) -> Self {
        self.response_tags = on;
        self
    }

    /// Shows the upstream's request id of a stored answer in this response field. Default: it is kept in the metadata only.
    #[must_use]
    pub fn show_request_id(mut self, name: HeaderName) -> Self {
        self.show_request_id = Some(name);
        self
    }

    /// Stores only responses of which this says so, going by the head, after all other rules. Default: all.
    #[must_use]
    pub fn store_if(mut self, predicate: impl Fn(&res::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.store_if = Some(Arc::new(predicate));
        self
    }

    /// Watches response bodies: whether they are whole, disguised errors, the model, and what the answer cost; see [`Policy::inspect`]. Default: none.
    #[must_use]
    pub fn inspector(mut self, inspector: impl Inspect) -> Self {
        self.inspector = Some(Arc::new(inspector));
        self
    }

    /// What becomes of an upstream call that nobody waits for any more. Default: it is finished and stored, within 60 s: it is paid for.
    #[must_use]
    pub fn abandoned(mut self, abandoned: Abandoned) -> Self {
        self.abandoned = abandoned;
        self
    }
}

impl Policy for ApiPolicy {
    fn admit(&self, request: &mut req::Parts, options: &mut CacheOptions) -> Admission {
        self.admission(request, options)
    }

    fn body_limit(&self) -> usize {
        self.request_limit
    }

    fn identify(
        &self,
        envelope: &Envelope,
        request: &req::Parts,
        body: &[u8],
        options: &CacheOptions,
        slot: u32,
    ) -> Result<Identity, Bypass> {
        self.identity_by(envelope, request, body, options, slot, self.headers.among(&request.headers))
    }

    fn slots(&self) -> u32 {
        self.variants
    }

    fn reuse(&self, _: &req::Parts, options: &CacheOptions, entry: &Entry, moment: Moment) -> Reuse {
        let (lifetime, now) = (entry.lifetime, moment.now);
        if options.wishes().max_age.is_some_and(|bound| lifetime.age(now) > bound) {
            return Reuse::No(Miss::Request);
        }
        if let Some(left) = lifetime.ttl(now) {
            let cost = entry.metadata.upstream_time.as_secs_f64() * self.early_refresh;
            // `1 - luck` is never 0, so its logarithm is finite.
            return Reuse::Fresh { refresh: cost > 0.0 && cost * -(1.0 - moment.luck).ln() >= left.as_secs_f64() };
        }
        let stale = lifetime.staleness(now).unwrap_or_default();
        if stale < lifetime.stale_while_revalidate {
            Reuse::StaleWhileRevalidate
        } else if stale < lifetime.stale_if_error {
            Reuse::Validate { conditions: HeaderMap::new(), why: Miss::Stale, on_failure: OnFailure::Stale }
        } else {
            Reuse::No(Miss::Stale)
        }
    }

    fn prepare(&self, request: &mut req::Parts) {
        if !self.encoded {
            request.headers.insert(http::header::ACCEPT_ENCODING, http::HeaderValue::from_static("identity"));
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
        self.storing(request, options, response, len, moment)
    }

    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        self.inspector.clone()
    }

    fn complete(&self, response: &res::Parts, trailers: Option<&HeaderMap>) -> Result<(), NotStored> {
        response::grpc_succeeded(response, trailers)
    }

    fn shares(&self, reason: &NotStored) -> bool {
        // What is encoded was made for one caller's abilities, what is personal for one caller.
        !matches!(reason, NotStored::Encoded | NotStored::Personal | NotStored::Forbidden | NotStored::Vary)
    }

    fn replay(&self, _: &req::Parts, entry: &Entry, answer: &mut Replay) {
        if let (Some(name), Some(id)) = (&self.show_request_id, &entry.metadata.upstream_request_id)
            && let Ok(id) = id.parse()
        {
            answer.headers.insert(name, id);
        }
    }

    fn abandoned(&self) -> Abandoned {
        self.abandoned
    }
}

impl fmt::Debug for ApiPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiPolicy")
            .field("sharing", &self.sharing)
            .field("methods", &self.methods)
            .field("statuses", &self.statuses)
            .field("negative", &self.negative)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}
