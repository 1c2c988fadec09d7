//! What may be cached, for whom, and for how long.
//!
//! A [`Policy`] decides; the flow acts. Its methods are pure: no I/O, no clock (the [`Moment`] is an argument), no runtime.
//! A panic in any of them is contained: the request is served without the cache.

mod api;
mod doubts;
mod fields;
mod grpc;
mod http;
mod names;

use std::{borrow::Cow, sync::Arc, time::Duration, time::SystemTime};

use ::http::{HeaderMap, HeaderName, Response, StatusCode, request, response};

pub use self::http::HttpPolicy;
pub(crate) use self::http::Rule;
pub use api::{ApiPolicy, Sharing};
pub(crate) use fields::{drop_overridden_length, strip_conditions};
pub use fields::{is_hop_by_hop, strip_hop_by_hop};
pub use grpc::GrpcPolicy;

use crate::{
    entry::{Entry, Frames, Lifetime, Variants},
    inspect::Inspect,
    key::{Envelope, Identity, Key},
    options::CacheOptions,
    status::Miss,
    store::Selection,
};

/// Decides what may be cached, for whom, and for how long.
///
/// One that wraps another hands on all methods, those with a default as well: what it leaves out is not asked of the other.
pub trait Policy: Send + Sync + 'static {
    /// May the cache touch this request at all? Seen is the head only. Control fields that are meant for the cache alone are
    /// removed from `request` and put into `options`.
    fn admit(&self, request: &mut request::Parts, options: &mut CacheOptions) -> Admission;

    /// The longest request body, in bytes, that is buffered for the key. Longer ones pass through, streamed.
    fn body_limit(&self) -> usize;

    /// The identity of a request, or the reason why it has none. `slot` tells apart the answers of a policy that keeps [several](Self::slots).
    ///
    /// # Errors
    ///
    /// The reason for a bypass that only the body shows.
    fn identify(
        &self,
        envelope: &Envelope,
        request: &request::Parts,
        body: &[u8],
        options: &CacheOptions,
        slot: u32,
    ) -> Result<Identity, Bypass>;

    /// How many different answers are kept per request; one is picked at random. The default is 1.
    fn slots(&self) -> u32 {
        1
    }

    /// The key of the variant that a request selects, below a primary key under which [`Variants`] are kept
    /// (RFC 9111 section 4.1). The default knows no variants.
    fn variant(&self, envelope: &Envelope, primary: &Key, request: &request::Parts, fields: &[HeaderName]) -> Option<Key> {
        let _ = (envelope, primary, request, fields);
        None
    }

    /// How long the caller waits for a response head, and what it gets when that time has passed. The default: as long as it takes.
    fn deadline(&self, request: &request::Parts) -> Option<Deadline> {
        let _ = request;
        None
    }

    /// May a stored response answer the request?
    fn reuse(&self, request: &request::Parts, options: &CacheOptions, entry: &Entry, moment: Moment) -> Reuse;

    /// What it means that nothing is stored under the key of a request: [`Miss::Uri`] where the key holds nothing but the target (RFC 9211 section 2.2).
    /// The default: [`Miss::Absent`].
    fn missing(&self, request: &request::Parts, options: &CacheOptions) -> Miss {
        let _ = (request, options);
        Miss::Absent
    }

    /// Conditions on which the upstream may choose one of the [variants](Variants::tags) that are stored, none of which the request selects (RFC 9111 section 4.1).
    /// The default: none.
    fn elect(&self, request: &request::Parts, options: &CacheOptions, variants: &Variants) -> Option<HeaderMap> {
        let _ = (request, options, variants);
        None
    }

    /// May a request share an upstream call with others that ask for the same? If it `validates` what is stored, the call carries [our
    /// conditions](Reuse::Validate) in place of the caller's own. The default: yes.
    fn joins(&self, request: &request::Parts, validates: bool) -> bool {
        let _ = (request, validates);
        true
    }

    /// Makes a request in whose wake an entry is refreshed into one whose answer can replace the entry. The default leaves it as it is.
    fn refreshing(&self, request: &mut request::Parts) {
        let _ = request;
    }

    /// Makes a request that goes upstream ready for it. The default leaves it as it is.
    fn prepare(&self, request: &mut request::Parts) {
        let _ = request;
    }

    /// May the response be stored, going by its head, and by the length of its body where that is known beforehand? Says how, or why not.
    ///
    /// # Errors
    ///
    /// The reason why not.
    fn store(
        &self,
        request: &request::Parts,
        options: &CacheOptions,
        response: &response::Parts,
        len: Option<u64>,
        moment: Moment,
    ) -> Result<Storing, NotStored>;

    /// What looks at the bodies of responses: of those that may be stored, and, where there is an observer or a [cost model](crate::CostModel), of all others too, those of calls that bypass
    /// the cache among them. Asked once, when the layer is made. The default: nothing.
    fn inspect(&self) -> Option<Arc<dyn Inspect>> {
        None
    }

    /// May the response be stored, going by its trailers, if it has any? Asked when its body ended. The default: yes.
    ///
    /// # Errors
    ///
    /// The reason why not.
    fn complete(&self, response: &response::Parts, trailers: Option<&HeaderMap>) -> Result<(), NotStored> {
        let _ = (response, trailers);
        Ok(())
    }

    /// The stored response as a 304 to [its validation](Reuse::Validate) freshens it (RFC 9111 section 4.3.4); `None` if the 304 belongs to something else.
    /// The default never asked.
    fn freshen(&self, request: &request::Parts, entry: &Entry, response: &response::Parts, moment: Moment) -> Option<Entry> {
        let _ = (request, entry, response, moment);
        None
    }

    /// The whole response of which a part is stored, and of which the rest was asked for on [conditions](Reuse::Validate) (RFC 9111 section 3.4); `None` if
    /// the response is not that rest. The default never asked.
    fn splice(&self, request: &request::Parts, entry: &Entry, response: &response::Parts, moment: Moment) -> Option<Splice> {
        let _ = (request, entry, response, moment);
        None
    }

    /// What is to be stored when `newer` is about to take the place of `entry`. The default: `newer`.
    fn merge(&self, entry: &Entry, newer: Entry) -> Entry {
        let _ = entry;
        newer
    }

    /// What a response that is not stored says of the entry that was found (RFC 9111 section 4.3.5). The default: nothing.
    fn revise(&self, request: &request::Parts, entry: &Entry, response: &response::Parts, moment: Moment) -> Revision {
        let _ = (request, entry, response, moment);
        Revision::Keep
    }

    /// Is the response a failure that a stale answer may stand in for (RFC 5861 section 4)? The default: 500, 502, 503, 504.
    fn is_failure(&self, response: &response::Parts) -> bool {
        matches!(response.status.as_u16(), 500 | 502 | 503 | 504)
    }

    /// May callers that already wait for a response have it, although it is not stored? The default: no.
    fn shares(&self, reason: &NotStored) -> bool {
        let _ = reason;
        false
    }

    /// What a response to a [watched](Admission::Watch) request makes invalid (RFC 9111 section 4.4). The default: nothing.
    fn invalidates(
        &self,
        envelope: &Envelope,
        request: &request::Parts,
        options: &CacheOptions,
        response: &response::Parts,
    ) -> Invalidation {
        let _ = (envelope, request, options, response);
        Invalidation::default()
    }

    /// The request to which a response to a [watched](Admission::Watch) request is an answer too, and its identity: it is stored as such if
    /// [`store`](Self::store) has no objection (RFC 9110 section 9.3.3). The default: none.
    fn adopts(
        &self,
        envelope: &Envelope,
        request: &request::Parts,
        options: &CacheOptions,
        response: &response::Parts,
    ) -> Option<(Identity, request::Parts)> {
        let _ = (envelope, request, options, response);
        None
    }

    /// The identity that a request has from now on, where its response [changed](Storing::moved) what that is. Asked when the response is about to be stored. The
    /// default: none.
    fn relocate(&self, envelope: &Envelope, request: &request::Parts, options: &CacheOptions, entry: &Entry) -> Option<Identity> {
        let _ = (envelope, request, options, entry);
        None
    }

    /// Fits an answer from the cache to its request. The default leaves it as it was stored.
    fn replay(&self, request: &request::Parts, entry: &Entry, answer: &mut Replay) {
        let _ = (request, entry, answer);
    }

    /// What becomes of a fill that nobody waits for any more.
    fn abandoned(&self) -> Abandoned {
        Abandoned::Cancel
    }
}

/// The time of a decision, and the luck of it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Wall-clock time.
    pub now: SystemTime,
    /// Uniform over `[0, 1)`: what a decision at random goes by.
    pub luck: f64,
    /// How long the upstream took to answer, if the decision is about its response; else zero.
    pub waited: Duration,
}

/// How long a caller waits.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// How long it waits for a response head, from its request on.
    pub within: Duration,
    /// The head of what it gets then; there is no body.
    pub answer: fn() -> Response<()>,
}

/// May the cache touch a request?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Buffer it, look it up, fill.
    Cache,
    /// Pass it on untouched.
    Bypass(Bypass),
    /// Pass it on untouched, and show its response to [`Policy::invalidates`].
    Watch(Bypass),
}

/// Why a request did not touch the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bypass {
    /// The policy does not cache this method.
    Method,
    /// The policy does not cache this path.
    Path,
    /// It asks to leave HTTP: `Upgrade`, or CONNECT.
    Upgrade,
    /// It asks for a part (RFC 9110 section 14.2).
    Range,
    /// Its caller switched the cache off.
    Off,
    /// Its body is over the policy's limit.
    TooLarge,
    /// Its body broke off while it was read; the inner service sees the same failure.
    BrokenBody,
    /// It goes on from state that the upstream keeps.
    Stateful,
    /// It asks for more randomness than the policy caches.
    Temperature,
    /// It calls itself JSON and is none that could be read, and it might name a reason to bypass.
    Unreadable,
    /// Its body is not one gRPC message, but a stream of them.
    Streaming,
    /// A function of the operator's says so.
    Predicate,
    /// Code that was to decide panicked.
    Panic,
    /// The cache is shutting down.
    Shutdown,
    /// What its method means has to reach the upstream.
    Semantics,
    /// It has content that its method gives no meaning to, and a key cannot hold (RFC 9110 section 9.3.1).
    Content,
}

impl Bypass {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 16] = [
        Self::Method,
        Self::Path,
        Self::Upgrade,
        Self::Range,
        Self::Off,
        Self::TooLarge,
        Self::BrokenBody,
        Self::Stateful,
        Self::Temperature,
        Self::Unreadable,
        Self::Streaming,
        Self::Predicate,
        Self::Panic,
        Self::Shutdown,
        Self::Semantics,
        Self::Content,
    ];

    /// In one word, for labels and the `detail` of `cache-status`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Path => "path",
            Self::Upgrade => "upgrade",
            Self::Range => "range",
            Self::Off => "off",
            Self::TooLarge => "request-too-large",
            Self::BrokenBody => "request-broken",
            Self::Stateful => "stateful",
            Self::Temperature => "temperature",
            Self::Unreadable => "unreadable",
            Self::Streaming => "client-streaming",
            Self::Predicate => "predicate",
            Self::Panic => "panic",
            Self::Shutdown => "shutdown",
            Self::Semantics => "semantics",
            Self::Content => "content",
        }
    }
}

/// May a stored response answer a request?
#[derive(Clone, Debug)]
pub enum Reuse {
    /// It is fresh. With `refresh`, it is also about to end: a refresh starts in the background.
    Fresh {
        /// Refresh it early.
        refresh: bool,
    },
    /// It is stale, and the request takes it as it is (RFC 9111 section 5.2.1.2).
    StaleAccepted,
    /// It is stale, and may be served while it is refreshed in the background (RFC 5861 section 3).
    StaleWhileRevalidate,
    /// It may not be served before the upstream was asked.
    Validate {
        /// Conditional fields, or a range, that take the place of the caller's own (RFC 9110 section 13.1); empty asks for what the caller asks for.
        conditions: HeaderMap,
        /// Why it may not be served.
        why: Miss,
        /// What becomes of the request if the upstream fails.
        on_failure: OnFailure,
    },
    /// As if it were not there, for this reason.
    No(Miss),
}

/// What becomes of a request that needs the upstream, when the upstream fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It fails likewise.
    Pass,
    /// The stale entry is served in place of an error or a [failure](Policy::is_failure) (RFC 5861 section 4).
    Stale,
    /// The stale entry is served where there is no response at all (RFC 9111 section 4.2.4).
    StaleIfUnreachable,
    /// It is answered with a 504 where there is no response at all (RFC 9111 section 5.2.2.2).
    Timeout,
}

/// An answer from the cache, before it is sent.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its body, without trailers, if it is another than that of the entry.
    pub body: Option<Frames>,
}

/// A response that is made of a stored part and one that is coming.
#[derive(Clone, Debug)]
pub struct Splice {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// What stands before the body that is coming.
    pub before: Frames,
}

/// What becomes of a stored entry in the light of a newer response.
#[derive(Clone, Debug)]
pub enum Revision {
    /// It stays.
    Keep,
    /// It is replaced.
    Replace(Box<Entry>),
    /// It is removed.
    Remove,
}

/// What is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invalidation {
    /// Entries under these keys, with all their variants.
    pub keys: Vec<Key>,
    /// Entries that these name.
    pub selections: Vec<Selection>,
}

/// How a response is stored.
pub struct Storing {
    /// The header fields that are kept.
    pub headers: HeaderMap,
    /// How long the entry lives.
    pub lifetime: Lifetime,
    /// The longest body that is stored, in bytes.
    pub max_body: usize,
    /// Tags beyond those that the caller set.
    pub tags: Vec<String>,
    /// The request fields that select this response among others under the same key; `None` if there are no others.
    pub vary: Option<Vec<HeaderName>>,
    /// Does the response say something new of the key that its request has? Then it is stored where [`relocate`](Policy::relocate) says.
    pub moved: bool,
    /// Must something in the body prove that it is whole, because its framing does not?
    pub needs_proof: bool,
    /// Upstream request ids, for the metadata.
    pub upstream_request_id: Option<String>,
}

impl std::fmt::Debug for Storing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storing").field("lifetime", &self.lifetime).field("max_body", &self.max_body).finish_non_exhaustive()
    }
}

/// Why a response was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotStored {
    /// Its status is not one that the policy stores.
    Status,
    /// The upstream forbids it (`no-store`).
    Forbidden,
    /// It is encoded, and the policy stores plain bodies only.
    Encoded,
    /// It sets state at the client, or is otherwise meant for one caller.
    Personal,
    /// It varies by something that no key can hold.
    Vary,
    /// It is of no use once it is stored: not fresh, and nothing to validate it with.
    Freshness,
    /// It answers this one request only: its method, conditions or range.
    Request,
    /// The caller asked for nothing to be stored.
    ReadOnly,
    /// Its body is over the policy's limit, or over the memory that all fills share.
    TooLarge,
    /// It did not end as its framing promised, or nothing proves that it is whole.
    Incomplete,
    /// An inspector objects, for this reason.
    Objection(Cow<'static, str>),
    /// Its trailers tell of a failure.
    GrpcStatus,
    /// A function of the operator's says so.
    Predicate,
    /// The upstream failed before there was a response.
    Failed,
    /// Code that was to decide panicked.
    Panic,
    /// Nobody waited for it any more.
    Abandoned,
    /// It was superseded: invalidated while it was fetched, or a newer answer is stored.
    Superseded,
    /// The store did not take it.
    Store,
    /// Another process made the answer.
    Elsewhere,
}

impl NotStored {
    /// Does it say something about the next answer to the same question? Then requests for it had better not wait for one another.
    pub(crate) const fn is_of_the_answer(&self) -> bool {
        !matches!(self, Self::ReadOnly | Self::Abandoned | Self::Superseded | Self::Store | Self::Elsewhere | Self::Request)
    }

    /// In a word, for labels.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Forbidden => "no-store",
            Self::Encoded => "encoded",
            Self::Personal => "personal",
            Self::Vary => "vary",
            Self::Freshness => "freshness",
            Self::Request => "request",
            Self::ReadOnly => "read-only",
            Self::TooLarge => "response-too-large",
            Self::Incomplete => "incomplete",
            Self::Objection(_) => "objection",
            Self::GrpcStatus => "grpc-status",
            Self::Predicate => "predicate",
            Self::Failed => "failed",
            Self::Panic => "panic",
            Self::Abandoned => "abandoned",
            Self::Superseded => "superseded",
            Self::Store => "store",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// What becomes of a fill that nobody waits for any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// The upstream call is dropped at once.
    Cancel,
    /// It is finished and stored: an answer that costs money is already paid for.
    Finish {
        /// For no longer than this.
        within: Duration,
    },
}
