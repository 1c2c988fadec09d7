//! Why is this never a hit?
//!
//! [`Handle::explain`](crate::Handle::explain) tells, for a request and if wanted a response to it: what goes into the key, what is stored there, what is decided, and why. It
//! prints as a report:
//!
//! ```
//! use bytes::Bytes;
//! use http::Request;
//! use tower_response_cache::{ApiPolicy, CacheLayer, Sharing, store::Memory};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), http::Error> {
//! let cache = CacheLayer::new(Memory::default(), ApiPolicy::new(Sharing::PerCredential));
//! let explanation = cache.handle().explain(&Request::get("http://example.com/books").body(Bytes::new())?, None).await;
//! assert_eq!(
//!     explanation.to_string(),
//!     "bypass: method. The policy does not cache this method: `methods` says which it caches, POST by default.\n"
//! );
//! # Ok(())
//! # }
//! ```
//!
//! Two requests that should share an answer and do not: [`Explanation::differences`] names the fields in which they differ.
//!
//! Values of the query, of bodies and of most header fields show as a fingerprint, which is the same for the same value in one process and tells nothing
//! about it elsewhere; credentials are in the scope, of which nothing shows.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{LazyLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, header, request};

use crate::{
    key::{Field, Identity, Trace},
    lookup::look_up,
    options::{CacheOptions, Mode, storing},
    policy::{Admission, Bypass, Moment, NotStored, Policy, Reuse, Storing},
    shared::{Shared, contain},
    status::Miss,
    store::Store,
};

/// What becomes of a request, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// What would become of the request now.
    pub decision: Decision,
    /// Its key; `None` if it bypasses the cache.
    pub identity: Option<Identity>,
    /// What the key is made of, besides whose answer it is.
    pub fields: Vec<KeyField>,
    /// Whether the response would be stored, if one was given.
    pub response: Option<Verdict>,
}

/// What would become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// It does not touch the cache.
    Bypass(Bypass),
    /// It is answered from the store.
    Hit {
        /// How old the answer is.
        age: Duration,
        /// How long it is still fresh; `None` if it is stale and may be served all the same.
        ttl: Option<Duration>,
    },
    /// It goes upstream.
    Miss(Miss),
    /// It goes upstream, for the store cannot be asked.
    Unavailable,
}

/// Whether a response would be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It would.
    Stored {
        /// For how long it would be fresh.
        fresh_for: Duration,
        /// Only if its body proves by itself that it is whole, because its framing does not.
        needs_proof: bool,
    },
    /// It would not.
    NotStored(NotStored),
}

/// One field of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyField {
    /// What it is: `method`, `path`, `header accept`, `json body`.
    pub name: String,
    /// Its value if it is no secret, else its length and a fingerprint.
    pub value: String,
}

impl Explanation {
    /// The names of the key's fields in which two requests differ, `scope` for whose answer it is; empty if they share one.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let lines = |explanation: &Self, name: &str| {
            let of_name = explanation.fields.iter().filter(|field| field.name == name);
            of_name.map(|field| field.value.clone()).collect::<Vec<_>>()
        };
        let mut names: Vec<String> = self.fields.iter().chain(&other.fields).map(|field| field.name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names.retain(|name| lines(self, name) != lines(other, name));
        if names.is_empty() && self.identity != other.identity {
            names.push("scope".to_owned());
        }
        names
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.decision {
            Decision::Bypass(reason) => writeln!(f, "bypass: {}. {}", reason.label(), why_bypassed(*reason))?,
            Decision::Hit { age, ttl: Some(ttl) } => writeln!(f, "hit: {} s old, fresh for another {} s.", age.as_secs(), ttl.as_secs())?,
            Decision::Hit { age, ttl: None } => writeln!(f, "stale: {} s old, and may be served all the same.", age.as_secs())?,
            Decision::Miss(miss) => writeln!(f, "miss: {}", why_missed(*miss))?,
            Decision::Unavailable => writeln!(f, "miss: the store did not answer; observers are told why.")?,
        }
        if let Some(identity) = &self.identity {
            writeln!(f, "key {}", identity.key)?;
        }
        for KeyField { name, value } in &self.fields {
            writeln!(f, "  {name}: {value}")?;
        }
        match &self.response {
            None => {}
            Some(Verdict::NotStored(reason)) => writeln!(f, "response not stored: {}. {}", reason.label(), why_not_stored(reason))?,
            Some(Verdict::Stored { fresh_for, needs_proof }) => {
                writeln!(f, "response stored, fresh for {} s.", fresh_for.as_secs())?;
                if *needs_proof {
                    writeln!(
                        f,
                        "But: nothing in its head says where its body ends (no content-length, no chunks, not HTTP/2), and it is only stored if an inspector finds it \
                         whole. For handlers in this process, `store_close_delimited` vouches for that."
                    )?;
                }
            }
        }
        Ok(())
    }
}

pub(crate) async fn explain<St, P>(
    shared: &Shared<St, P>,
    mut head: request::Parts,
    body: &[u8],
    response: Option<&Response<Bytes>>,
) -> Explanation
where
    St: Store,
    P: Policy,
{
    let (policy, counters) = (&shared.core.policy, &shared.core.counters);
    let mut options = head.extensions.remove::<CacheOptions>().unwrap_or_default();
    let bypass = |reason| Explanation { decision: Decision::Bypass(reason), identity: None, fields: Vec::new(), response: None };

    let admission = contain(counters, || policy.admit(&mut head, &mut options));
    match admission.map(|admission| shared.settings.restrict(admission, &mut options)) {
        Some(Admission::Cache) if body.len() > policy.body_limit() => return bypass(Bypass::TooLarge),
        Some(Admission::Cache) => {}
        Some(Admission::Bypass(reason) | Admission::Watch(reason)) => return bypass(reason),
        None => return bypass(Bypass::Panic),
    }
    let trace = Trace::default();
    let envelope = shared.settings.envelope.traced(&trace);
    let identity = match contain(counters, || policy.identify(&envelope, &head, body, &options, 0)) {
        Some(Ok(identity)) => identity,
        Some(Err(reason)) => return bypass(reason),
        None => return bypass(Bypass::Panic),
    };
    let fields = readable(&trace.lock().unwrap_or_else(PoisonError::into_inner));
    let moment = shared.settings.moment();
    Explanation {
        decision: decide(shared, &head, &options, &identity, moment).await,
        identity: Some(identity),
        fields,
        response: response.map(|response| judge(shared, &head, &options, response, moment)),
    }
}

async fn decide<St, P>(
    shared: &Shared<St, P>,
    head: &request::Parts,
    options: &CacheOptions,
    identity: &Identity,
    moment: Moment,
) -> Decision
where
    St: Store,
    P: Policy,
{
    let (found, failures) = look_up(shared, head, &identity.key).await;
    let Some(entry) = found.entry else {
        return match (failures, &found.variants) {
            (0, None) => {
                Decision::Miss(contain(&shared.core.counters, || shared.core.policy.missing(head, options)).unwrap_or(Miss::Absent))
            }
            (0, Some(_)) => Decision::Miss(Miss::Vary),
            _ => Decision::Unavailable,
        };
    };
    if options.wishes().mode == Mode::WriteOnly {
        return Decision::Miss(Miss::Request);
    }
    let hit = Decision::Hit { age: entry.lifetime.age(moment.now), ttl: entry.lifetime.ttl(moment.now) };
    match contain(&shared.core.counters, || shared.core.policy.reuse(head, options, &entry, moment)) {
        Some(Reuse::Fresh { .. } | Reuse::StaleWhileRevalidate | Reuse::StaleAccepted) => hit,
        Some(Reuse::Validate { why, .. } | Reuse::No(why)) => Decision::Miss(why),
        None => Decision::Miss(Miss::Request),
    }
}

fn judge<St, P>(
    shared: &Shared<St, P>,
    head: &request::Parts,
    options: &CacheOptions,
    response: &Response<Bytes>,
    moment: Moment,
) -> Verdict
where
    P: Policy,
{
    let mut parts = Response::new(()).into_parts().0;
    parts.status = response.status();
    parts.version = response.version();
    parts.headers = response.headers().clone();
    parts.extensions = response.extensions().clone();
    let body = response.body();
    let verdict = contain(&shared.core.counters, || {
        if options.wishes().mode == Mode::ReadOnly {
            return Err(NotStored::ReadOnly);
        }
        // The length of a body that is at hand is no promise of the response's: its head has to make one.
        let Storing { max_body, lifetime, needs_proof, .. } = storing(&shared.core.policy, head, options, &parts, None, moment)?;
        if body.len() > max_body {
            return Err(NotStored::TooLarge);
        }
        let findings = shared.settings.inspected(head, &parts, body);
        match findings.objection {
            Some(objection) => Err(NotStored::Objection(objection)),
            None => Ok(Verdict::Stored { fresh_for: lifetime.fresh_for, needs_proof: needs_proof && !findings.proven }),
        }
    });
    verdict.unwrap_or(Err(NotStored::Panic)).unwrap_or_else(Verdict::NotStored)
}

/// What may be shown of a key's fields.
fn readable(trace: &[(Field, Vec<u8>)]) -> Vec<KeyField> {
    let mut header = String::new();
    let mut fields = Vec::new();
    for (field, value) in trace {
        let name = match field {
            Field::HeaderName => {
                header = format!("header {}", String::from_utf8_lossy(value));
                continue;
            }
            Field::Scope => continue,
            Field::HeaderValue => header.clone(),
            Field::Namespace => "namespace".to_owned(),
            Field::Method => "method".to_owned(),
            Field::Scheme => "scheme".to_owned(),
            Field::Authority => "authority".to_owned(),
            Field::Path => "path".to_owned(),
            Field::Query => "query".to_owned(),
            Field::Upstream => "upstream".to_owned(),
            Field::JsonBody => "json body".to_owned(),
            Field::RawBody => "body".to_owned(),
            Field::Extra => "extra".to_owned(),
            Field::Slot => "slot".to_owned(),
            Field::Primary => "primary".to_owned(),
            Field::Epoch => "epoch".to_owned(),
            Field::Rule => "rule".to_owned(),
            Field::Search => "search".to_owned(),
        };
        let shown = match field {
            Field::Namespace | Field::Method | Field::Scheme | Field::Authority | Field::Path | Field::Upstream => true,
            Field::HeaderValue => PLAIN.iter().any(|plain| name.strip_prefix("header ") == Some(plain.as_str())),
            _ => false,
        };
        let value = if shown { format!("{:?}", String::from_utf8_lossy(value)) } else { fingerprint(value) };
        fields.push(KeyField { name, value });
    }
    fields
}

/// Header fields that hold no secrets.
const PLAIN: [header::HeaderName; 5] =
    [header::ACCEPT, header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE, header::CONTENT_TYPE, header::CONTENT_ENCODING];

/// Equal for equal values in one process. Keyed at random: what it is of cannot be guessed elsewhere.
fn fingerprint(value: &[u8]) -> String {
    static RANDOM: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    format!("{} bytes, #{:016x}", value.len(), RANDOM.hash_one(value))
}

fn why_missed(miss: Miss) -> &'static str {
    match miss {
        Miss::Absent | Miss::Uri => {
            "nothing is stored under this key. If the same was asked before, compare the two (`differences`), and see whether the response is stored."
        }
        Miss::Vary => "what is stored is for requests with other header fields (the response has a `Vary`).",
        Miss::Partial => "what is stored is a part, and lacks what is asked for.",
        Miss::Stale => "what is stored has gone stale, or has to be validated first.",
        Miss::Request => "something is stored, and the request does not accept it: its mode, its `max_age`, or its `Cache-Control`.",
    }
}

fn why_bypassed(reason: Bypass) -> &'static str {
    match reason {
        Bypass::Method => "The policy does not cache this method: `methods` says which it caches, POST by default.",
        Bypass::Path => "The policy does not cache this path: see `paths`, or `method` of a gRPC policy.",
        Bypass::Upgrade => "It asks to leave HTTP.",
        Bypass::Range => "It asks for a part (`Range`), and the policy stores wholes.",
        Bypass::Off => "The request switched the cache off: `Mode::Off`, or `no-store` from a trusted caller.",
        Bypass::TooLarge => "The request body is over the policy's limit (`request_limit`), and cannot be part of a key.",
        Bypass::BrokenBody => "The request body broke off.",
        Bypass::Stateful => {
            "It goes on from state at the upstream (`previous_response_id`, `conversation`, `background` and their like); `cache_stateful` caches it all the same."
        }
        Bypass::Temperature => "Its temperature is above the policy's bound (`max_temperature`).",
        Bypass::Unreadable => "It calls itself JSON, and cannot be read as JSON.",
        Bypass::Streaming => "The body is not one whole gRPC message: the client streams.",
        Bypass::Predicate => "A predicate of the operator's says so (`bypass_if`).",
        Bypass::Panic => "Code that was to decide panicked.",
        Bypass::Shutdown => "The cache is shutting down.",
        Bypass::Semantics => "What its method means has to reach the upstream.",
        Bypass::Content => "It has content that its method gives no meaning to.",
    }
}

fn why_not_stored(reason: &NotStored) -> &'static str {
    match reason {
        NotStored::Status => "The policy does not store this status (`statuses`; 200 by default), or it is a part.",
        NotStored::Forbidden => "The response says `no-store` (`honour_no_store`), its handler does, or its time to live is zero.",
        NotStored::Encoded => "It is encoded, and the policy stores plain bodies; `store_encoded`, or decompression inside of the cache.",
        NotStored::Personal => "It is for one caller.",
        NotStored::Vary => "It varies by a request field that is not in the key: add it (`key_header`).",
        NotStored::Freshness => "It has no freshness and no validator (RFC 9111 section 4.2).",
        NotStored::Request => "It answers this one request only.",
        NotStored::ReadOnly => {
            "The request asked for nothing to be stored (`Mode::ReadOnly`), or the whole cache is read-only (`CacheLayer::read_only`)."
        }
        NotStored::TooLarge => "Its body is over the policy's limit (`max_body`).",
        NotStored::Incomplete => "Nothing proves that it is whole.",
        NotStored::Objection(_) => "An inspector objects to its body: it is cut short, or an error in disguise.",
        NotStored::GrpcStatus => "The gRPC call failed.",
        NotStored::Predicate => "A predicate of the operator's says so (`store_if`).",
        NotStored::Failed => "There was no response.",
        NotStored::Panic => "Code that was to decide panicked.",
        NotStored::Abandoned => "Nobody waited for it any more.",
        NotStored::Superseded => "It was invalidated while it was fetched, or something newer is stored.",
        NotStored::Store => "The store did not take it.",
        NotStored::Elsewhere => "Another process made the answer.",
    }
}
