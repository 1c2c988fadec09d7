//! HTTP caching as the standards have it: RFC 9111, with RFC 5861, 8246, 9211, 9213 and 9875.
//!
//! Every rule stands in a function of values, with the section that it comes from. What the standards leave open, and where this policy is
//! stricter than they are, is a setting of [`HttpPolicy`].

mod date;
mod directives;
mod freshness;
mod identity;
mod invalidation;
mod range;
mod reuse;
mod search;
mod storing;
mod targeted;
mod validation;
mod vary;

use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::{HeaderMap, HeaderName, Method, StatusCode, header, request as req, response as res};

pub(super) use self::directives::{Directives, Fields};
use self::freshness::Arrival;
pub(crate) use self::search::Rule;
use super::{
    Abandoned, Admission, Bypass, Invalidation, Moment, NotStored, Policy, Replay, Reuse, Revision, Splice, Storing, strip_conditions,
};
use crate::{
    entry::{Entry, Variants},
    key::{Envelope, Identity, Key},
    options::{CacheOptions, Mode},
    status::Miss,
};

/// Caches GET, HEAD and QUERY as HTTP says (RFC 9111): what the origin permits, for as long as it says.
///
/// ```
/// use tower_response_cache::{CacheLayer, HttpPolicy, store::Memory};
///
/// let layer = CacheLayer::new(Memory::new(64 << 20), HttpPolicy::shared());
/// # let _ = layer;
/// ```
///
/// There is no default lifetime: a response that says nothing of its freshness is fresh for a tenth of the time that it has been unchanged for
/// (section 4.2.2), and not at all if it does not say that either.
///
/// Besides the target, the key has what makes many an upstream answer for another one: `Host` and `Forwarded` where they name another host, fields that `Connection` lists, `X-Forwarded-Host`,
/// `X-HTTP-Method-Override`, `X-Original-URL` and their like. What one caller plants by them reaches nobody else.
///
/// In three things this policy is by default more careful than the standards ask for, because the mistake is the costlier side: a shared cache keeps callers with
/// different cookies [apart](Self::key_cookies), does not store [`Set-Cookie`](Self::store_set_cookie), and stores no HTTP/1.x body whose end
/// [nothing proves](Self::store_close_delimited). [`rfc`](Self::rfc) goes by the letter.
///
/// For a private cache, the cache modes that the Fetch standard gives a browser are expressed so: `no-store` is [`Mode::Off`], `reload` is [`Mode::WriteOnly`],
/// `no-cache` is the request field `Cache-Control: no-cache`, `force-cache` is `Cache-Control: max-stale`, `only-if-cached` is
/// [`CacheOptions::only_if_cached`].
#[derive(Clone)]
pub struct HttpPolicy {
    shared: bool,
    heuristic: f64,
    heuristic_max: Duration,
    keep: Duration,
    stale_if_unreachable: bool,
    stale_if_failing: bool,
    store_stale: bool,
    targets: Vec<HeaderName>,
    heed_requests: bool,
    key_cookies: bool,
    ignored_cookies: Vec<String>,
    normalise_order: bool,
    set_cookie: bool,
    close_delimited: bool,
    no_vary_search: bool,
    elect_variants: bool,
    rules: search::Rules,
    max_body: usize,
    query_limit: usize,
    assumed_scheme: &'static str,
    bypass_if: Option<RequestPredicate>,
    store_if: Option<ResponsePredicate>,
    abandoned: Abandoned,
}

type RequestPredicate = Arc<dyn Fn(&req::Parts) -> bool + Send + Sync>;
type ResponsePredicate = Arc<dyn Fn(&res::Parts) -> bool + Send + Sync>;

/// A safe method with content, which is part of what is asked (draft-ietf-httpbis-safe-method-w-body).
static QUERY: LazyLock<Method> = LazyLock::new(|| Method::from_bytes(b"QUERY").unwrap_or(Method::GET));

impl HttpPolicy {
    /// For a cache that several users share: in front of a service, in a gateway, in a client that acts for many.
    pub fn shared() -> Self {
        Self {
            shared: true,
            heuristic: 0.1,
            heuristic_max: Duration::from_secs(7 * 86_400),
            keep: Duration::from_secs(86_400),
            stale_if_unreachable: true,
            stale_if_failing: false,
            store_stale: false,
            targets: vec![HeaderName::from_static("cdn-cache-control")],
            heed_requests: true,
            key_cookies: true,
            ignored_cookies: Vec::new(),
            normalise_order: false,
            set_cookie: false,
            close_delimited: false,
            no_vary_search: false,
            elect_variants: false,
            rules: search::Rules::default(),
            max_body: 64 << 20,
            query_limit: 64 << 10,
            assumed_scheme: "http",
            bypass_if: None,
            store_if: None,
            abandoned: Abandoned::Finish { within: Duration::from_secs(10) },
        }
    }

    /// For a cache of one user: `private` responses are stored, `s-maxage` and `proxy-revalidate` do not count, and neither do targeted fields.
    pub fn private() -> Self {
        Self { shared: false, targets: Vec::new(), key_cookies: false, set_cookie: true, ..Self::shared() }
    }

    /// Goes by the letter of the standards where the defaults are more careful: callers with different cookies share what the
    /// origin lets them share, `Set-Cookie` is stored, bodies that end with their connection are, languages and encodings that a request accepts are compared
    /// without regard to their order, a failing upstream counts as one that cannot be reached, responses that come stale are stored, `No-Vary-Search` is heeded, and the origin may elect a stored variant. Default: off.
    #[must_use]
    pub fn rfc(self) -> Self {
        self.key_cookies(false)
            .store_set_cookie(true)
            .store_close_delimited(true)
            .normalise_order(true)
            .stale_if_failing(true)
            .store_stale(true)
            .no_vary_search(true)
            .elect_variants(true)
    }

    /// Sets for what part of the time since its last modification a response is fresh that says nothing of its freshness (RFC 9111 section 4.2.2);
    /// 0 switches heuristics off. Default: 0.1.
    #[must_use]
    pub fn heuristic(mut self, fraction: f64) -> Self {
        self.heuristic = if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 };
        self
    }

    /// Sets the longest time for which a response is fresh by heuristics. Default: 7 days.
    #[must_use]
    pub fn heuristic_max(mut self, max: Duration) -> Self {
        self.heuristic_max = max;
        self
    }

    /// Sets how long a response is kept after it went stale, for validation and for when the upstream cannot be reached. Default: 1 day.
    #[must_use]
    pub fn keep(mut self, keep: Duration) -> Self {
        self.keep = keep;
        self
    }

    /// Serves stale responses when the upstream gives no response at all, unless they forbid it (RFC 9111 section 4.2.4). Default: on.
    #[must_use]
    pub fn stale_if_unreachable(mut self, on: bool) -> Self {
        self.stale_if_unreachable = on;
        self
    }

    /// Takes a 500, 502, 503 or 504 in answer to a validation for no response at all, as a cache may (RFC 9111 section 4.3.3): then a stale response is
    /// served for as long as it is [kept](Self::keep), unless it forbids that. What the origin itself says with `stale-if-error` counts in any case. Default: off.
    #[must_use]
    pub fn stale_if_failing(mut self, on: bool) -> Self {
        self.stale_if_failing = on;
        self
    }

    /// Stores responses of explicit freshness that are stale when they come and have nothing to be validated with, unless they forbid to be served stale: for requests that
    /// take them so (`max-stale`), and for when the upstream cannot be reached. Default: off.
    #[must_use]
    pub fn store_stale(mut self, on: bool) -> Self {
        self.store_stale = on;
        self
    }

    /// Sets the fields that speak to this cache in preference to `Cache-Control`, the most specific first (RFC 9213). Default: `cdn-cache-control` in a shared
    /// cache, none in a private one.
    #[must_use]
    pub fn targets(mut self, targets: impl IntoIterator<Item = HeaderName>) -> Self {
        self.targets = targets.into_iter().collect();
        self
    }

    /// Heeds `Cache-Control` and `Pragma` of requests (RFC 9111 sections 5.2.1 and 5.4), with which any caller can make the upstream work. Default: on.
    #[must_use]
    pub fn heed_requests(mut self, on: bool) -> Self {
        self.heed_requests = on;
        self
    }

    /// Keeps callers with different cookies apart. By the standard it is the origin that does this, with `Vary` or `private`; one that forgets it hands one
    /// user's page to another. An unsafe request voids what is kept for its own caller and for those without cookies, and nothing of others'. Default: on in a shared cache,
    /// off in a private one.
    #[must_use]
    pub fn key_cookies(mut self, on: bool) -> Self {
        self.key_cookies = on;
        self
    }

    /// Names cookies that make no difference. Default: none.
    #[must_use]
    pub fn ignore_cookies<C>(mut self, names: impl IntoIterator<Item = C>) -> Self
    where
        C: Into<String>,
    {
        self.ignored_cookies.extend(names.into_iter().map(Into::into));
        self
    }

    /// Takes `Accept-Encoding`, `Accept-Language` and `Accept-Charset` for the same if only the order of their members differs: what they prefer
    /// is in the weights (RFC 9110 section 12.5), but some origins go by the order. Default: off.
    #[must_use]
    pub fn normalise_order(mut self, on: bool) -> Self {
        self.normalise_order = on;
        self
    }

    /// Stores responses with `Set-Cookie` in a shared cache, as the standard permits; one session reaches everybody then. Default: off in a shared cache, on in
    /// a private one.
    #[must_use]
    pub fn store_set_cookie(mut self, on: bool) -> Self {
        self.set_cookie = on;
        self
    }

    /// Stores HTTP/1.x bodies that end with their connection, with neither a length nor chunks, if the inner service reports a clean end, although one that
    /// broke off can look the same (RFC 9112 section 8). Turn it on where the inner service is a handler in this process, whose streams cannot break off unnoticed;
    /// a body of known length needs no option. Default: off.
    #[must_use]
    pub fn store_close_delimited(mut self, on: bool) -> Self {
        self.close_delimited = on;
        self
    }

    /// Lets the origin elect a stored variant for a request that selects none (RFC 9111 section 4.1): it is asked on condition that none of those fits, by their strong entity tags, and a 304
    /// that names one saves its content the way. An origin whose tags are the same for different content, against RFC 9110 section 8.8.1, hands one caller's variant to another
    /// so. Default: off.
    #[must_use]
    pub fn elect_variants(mut self, on: bool) -> Self {
        self.elect_variants = on;
        self
    }

    /// Heeds `No-Vary-Search` (draft-ietf-httpbis-no-vary-search), with which a response says that parameters of its query, or their order, make no difference.
    ///
    /// What it says is learned, path by path, in each process: the first request for a path that is new to a process goes by its whole query. Where several processes share a
    /// store, an unsafe request that comes to one that has yet to learn a path's rule does not void what is stored by it, which then lives as long as it is fresh. Default: off.
    #[must_use]
    pub fn no_vary_search(mut self, on: bool) -> Self {
        self.no_vary_search = on;
        self
    }

    /// Sets the longest body that is stored, in bytes. Default: 64 MiB.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Sets the longest content of a QUERY that is buffered for the key, in bytes; longer ones pass through. Default: 64 KiB.
    #[must_use]
    pub fn query_limit(mut self, bytes: usize) -> Self {
        self.query_limit = bytes;
        self
    }

    /// Sets the scheme of requests that do not say it: those that a server received. It matters for what a response may
    /// invalidate. Default: `http`.
    #[must_use]
    pub fn assumed_scheme(mut self, scheme: &'static str) -> Self {
        self.assumed_scheme = scheme;
        self
    }

    /// Passes on untouched the requests of which this says so, going by the head. Default: none.
    #[must_use]
    pub fn bypass_if(mut self, predicate: impl Fn(&req::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.bypass_if = Some(Arc::new(predicate));
        self
    }

    /// Stores only responses of which this says so, going by the head, after all other rules. Default: all.
    #[must_use]
    pub fn store_if(mut self, predicate: impl Fn(&res::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.store_if = Some(Arc::new(predicate));
        self
    }

    /// What becomes of an upstream call that nobody waits for any more. Default: it is finished and stored if that takes no longer than 10 s.
    #[must_use]
    pub fn abandoned(mut self, abandoned: Abandoned) -> Self {
        self.abandoned = abandoned;
        self
    }
}

/// Methods that ask for nothing to change (the IANA registry of HTTP methods), and are not cached. What is not known to be safe is not.
const SAFE: [&str; 5] = ["OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH"];

impl Policy for HttpPolicy {
    fn admit(&self, request: &mut req::Parts, options: &mut CacheOptions) -> Admission {
        self.recall(request, options);
        let method = &request.method;
        if method == Method::CONNECT || request.headers.contains_key(header::UPGRADE) {
            return Admission::Bypass(Bypass::Upgrade);
        }
        if !(method == Method::GET || method == Method::HEAD || *method == *QUERY) {
            let safe = SAFE.contains(&method.as_str());
            return if safe { Admission::Bypass(Bypass::Semantics) } else { Admission::Watch(Bypass::Semantics) };
        }
        if options.wishes().mode == Mode::Off {
            return Admission::Bypass(Bypass::Off);
        }
        if *method != *QUERY && has_content(&request.headers) {
            return Admission::Bypass(Bypass::Content);
        }
        if self.bypass_if.as_ref().is_some_and(|predicate| predicate(request)) {
            return Admission::Bypass(Bypass::Predicate);
        }
        let asked = self.demands(&request.headers);
        if asked.only_if_cached {
            options.wish().only_if_cached = true;
        }
        if asked.no_store && options.wishes().mode == Mode::ReadWrite {
            // Section 5.2.1.5 forbids to store, not to answer from what is stored.
            options.wish().mode = Mode::ReadOnly;
        }
        Admission::Cache
    }

    fn body_limit(&self) -> usize {
        self.query_limit
    }

    fn identify(&self, envelope: &Envelope, request: &req::Parts, body: &[u8], options: &CacheOptions, _: u32) -> Result<Identity, Bypass> {
        self.identity(envelope, request, body, options)
    }

    fn variant(&self, envelope: &Envelope, primary: &Key, request: &req::Parts, fields: &[HeaderName]) -> Option<Key> {
        Some(self.selected(envelope, primary, request, fields))
    }

    fn reuse(&self, request: &req::Parts, options: &CacheOptions, entry: &Entry, moment: Moment) -> Reuse {
        self.reusable(request, options, entry, moment)
    }

    fn elect(&self, request: &req::Parts, options: &CacheOptions, variants: &Variants) -> Option<HeaderMap> {
        (self.elect_variants && options.wishes().mode == Mode::ReadWrite).then(|| validation::any_of(request, variants)).flatten()
    }

    fn missing(&self, request: &req::Parts, options: &CacheOptions) -> Miss {
        self.unknown(request, options)
    }

    fn joins(&self, request: &req::Parts, validates: bool) -> bool {
        self.shares_call(request, validates)
    }

    fn refreshing(&self, request: &mut req::Parts) {
        // What replaces the entry is an answer to GET, whatever part or condition of it the caller asked for.
        if request.method == Method::HEAD {
            request.method = Method::GET;
        }
        strip_conditions(&mut request.headers);
        if self.demands(&request.headers).only_if_cached {
            request.headers.remove(header::CACHE_CONTROL);
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
        self.storing(request, options, response, len, moment.into())
    }

    fn freshen(&self, request: &req::Parts, entry: &Entry, response: &res::Parts, moment: Moment) -> Option<Entry> {
        self.freshened(request, entry, response, moment.into())
    }

    fn splice(&self, _: &req::Parts, entry: &Entry, response: &res::Parts, moment: Moment) -> Option<Splice> {
        self.spliced(entry, response, moment.into())
    }

    fn merge(&self, entry: &Entry, newer: Entry) -> Entry {
        self.combined(entry, newer)
    }

    fn revise(&self, request: &req::Parts, entry: &Entry, response: &res::Parts, moment: Moment) -> Revision {
        if request.method == Method::HEAD {
            return match response.status {
                StatusCode::OK => self
                    .updated_by_head(request, entry, response, moment.into())
                    .map_or(Revision::Remove, |entry| Revision::Replace(Box::new(entry))),
                // What is gone for one who asks for the head is gone for all.
                StatusCode::NOT_FOUND | StatusCode::GONE => Revision::Remove,
                _ => Revision::Keep,
            };
        }
        // A newer answer that may not be stored says at least that the older one is not the newest.
        let whole = response.status.is_success() && response.status != StatusCode::PARTIAL_CONTENT;
        let (directives, _) = self.directives(&response.headers);
        if whole && (directives.no_store || (self.shared && directives.private.is_all())) { Revision::Remove } else { Revision::Keep }
    }

    fn invalidates(&self, envelope: &Envelope, request: &req::Parts, options: &CacheOptions, response: &res::Parts) -> Invalidation {
        self.invalidated(envelope, request, options, response)
    }

    fn adopts(
        &self,
        envelope: &Envelope,
        request: &req::Parts,
        options: &CacheOptions,
        response: &res::Parts,
    ) -> Option<(Identity, req::Parts)> {
        self.also_answered(envelope, request, options, response)
    }

    fn relocate(&self, envelope: &Envelope, request: &req::Parts, options: &CacheOptions, entry: &Entry) -> Option<Identity> {
        Some(self.relocated(envelope, request, options, entry))
    }

    fn replay(&self, request: &req::Parts, entry: &Entry, answer: &mut Replay) {
        self.fit(request, entry, answer);
    }

    fn abandoned(&self) -> Abandoned {
        self.abandoned
    }
}

/// RFC 9110 section 6.4.
fn has_content(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING) || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0")
}

impl From<Moment> for Arrival {
    fn from(moment: Moment) -> Self {
        Self { at: moment.now, waited: moment.waited }
    }
}

impl fmt::Debug for HttpPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPolicy")
            .field("shared", &self.shared)
            .field("heuristic", &self.heuristic)
            .field("targets", &self.targets)
            .field("key_cookies", &self.key_cookies)
            .field("set_cookie", &self.set_cookie)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use bytes::Bytes;
    use http::{HeaderValue, Request, Response};

    use super::*;
    use crate::entry::{Frames, Lifetime, Metadata};

    pub(super) fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_795_478_400)
    }

    pub(super) fn at(seconds: u64) -> SystemTime {
        now() + Duration::from_secs(seconds)
    }

    /// A date that many seconds from now.
    pub(super) fn date_at(seconds: i64) -> String {
        let by = Duration::from_secs(seconds.unsigned_abs());
        let time = if seconds < 0 { now().checked_sub(by).unwrap_or(UNIX_EPOCH) } else { now() + by };
        date::format(time.max(UNIX_EPOCH)).to_str().unwrap().to_owned()
    }

    pub(super) fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    pub(super) fn get(path: &str, lines: &[(&str, &str)]) -> req::Parts {
        let mut parts = Request::get(format!("http://host{path}")).body(()).unwrap().into_parts().0;
        parts.headers = headers(lines);
        parts
    }

    pub(super) fn response(status: u16, lines: &[(&str, &str)]) -> res::Parts {
        let mut parts = Response::builder().status(status).body(()).unwrap().into_parts().0;
        parts.headers = headers(lines);
        parts
    }

    pub(super) fn entry(status: u16, lines: &[(&str, &str)], body: &'static [u8]) -> Entry {
        Entry {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers(lines),
            body: Frames::from(Bytes::from_static(body)),
            trailers: None,
            lifetime: Lifetime::fresh(now(), Duration::from_secs(10)),
            metadata: Metadata::default(),
        }
    }

    #[test]
    fn what_is_admitted_goes_by_the_method_and_what_it_means() {
        for (method, lines, expected) in [
            ("GET", vec![], Admission::Cache),
            ("HEAD", vec![], Admission::Cache),
            ("QUERY", vec![("content-length", "5")], Admission::Cache),
            ("GET", vec![("range", "bytes=0-1")], Admission::Cache),
            ("GET", vec![("content-length", "0")], Admission::Cache),
            ("GET", vec![("content-length", "5")], Admission::Bypass(Bypass::Content)),
            ("GET", vec![("transfer-encoding", "chunked")], Admission::Bypass(Bypass::Content)),
            ("GET", vec![("upgrade", "websocket")], Admission::Bypass(Bypass::Upgrade)),
            ("CONNECT", vec![], Admission::Bypass(Bypass::Upgrade)),
            ("OPTIONS", vec![], Admission::Bypass(Bypass::Semantics)),
            ("TRACE", vec![], Admission::Bypass(Bypass::Semantics)),
            ("POST", vec![], Admission::Watch(Bypass::Semantics)),
            ("PUT", vec![], Admission::Watch(Bypass::Semantics)),
            ("DELETE", vec![], Admission::Watch(Bypass::Semantics)),
            ("PATCH", vec![], Admission::Watch(Bypass::Semantics)),
            ("FOO", vec![], Admission::Watch(Bypass::Semantics)),
            ("get", vec![], Admission::Watch(Bypass::Semantics)),
        ] {
            let mut request = get("/", &lines);
            request.method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(HttpPolicy::shared().admit(&mut request, &mut CacheOptions::new()), expected, "{method} {lines:?}");
        }
    }

    #[test]
    fn a_request_may_forbid_to_store_and_to_ask() {
        let admit = |policy: HttpPolicy, directives| {
            let mut options = CacheOptions::new();
            policy.admit(&mut get("/", &[("cache-control", directives)]), &mut options);
            (options.wishes().mode, options.wishes().only_if_cached)
        };
        assert_eq!(admit(HttpPolicy::shared(), "no-store"), (Mode::ReadOnly, false));
        assert_eq!(admit(HttpPolicy::shared(), "only-if-cached"), (Mode::ReadWrite, true));
        assert_eq!(admit(HttpPolicy::shared().heed_requests(false), "no-store, only-if-cached"), (Mode::ReadWrite, false));
    }

    #[test]
    fn a_refresh_asks_for_all_and_on_nobodys_conditions() {
        let mut request = get("/", &[("range", "bytes=0-1"), ("if-none-match", "\"a\""), ("cache-control", "only-if-cached"), ("x", "1")]);
        request.method = Method::HEAD;
        HttpPolicy::shared().refreshing(&mut request);
        assert_eq!((request.method, request.headers), (Method::GET, headers(&[("x", "1")])));
    }
}
