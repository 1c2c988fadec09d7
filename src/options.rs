//! What one request, or the one who answers it, may ask of the cache.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{request, response};

use crate::{
    entry::Labels,
    key::Scope,
    policy::{Moment, NotStored, Policy, Rule, Storing},
};

/// Per-request control, set in the request's extensions by code that the operator trusts.
///
/// ```
/// use std::time::Duration;
/// use tower_response_cache::CacheOptions;
///
/// let mut request = http::Request::post("/v1/chat/completions").body(())?;
/// request.extensions_mut().insert(CacheOptions::new().ttl(Duration::from_secs(60)).tag("team:blue").label("route", "chat"));
/// # Ok::<_, http::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct CacheOptions {
    // Most requests have none.
    wishes: Option<Box<Wishes>>,
}

/// What is asked for with [`CacheOptions`].
#[derive(Clone, Debug)]
pub(crate) struct Wishes {
    pub(crate) mode: Mode,
    pub(crate) ttl: Option<Duration>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) only_if_cached: bool,
    pub(crate) tags: Vec<String>,
    pub(crate) extra: Vec<u8>,
    pub(crate) scope: Option<Scope>,
    pub(crate) upstream: Option<String>,
    pub(crate) labels: Labels,
    pub(crate) request_id: Option<Arc<str>>,
    /// What is known to count of the query.
    pub(crate) search: Option<Arc<Rule>>,
}

impl Wishes {
    const NONE: Self = Self {
        mode: Mode::ReadWrite,
        ttl: None,
        max_age: None,
        only_if_cached: false,
        tags: Vec::new(),
        extra: Vec::new(),
        scope: None,
        upstream: None,
        labels: Labels::NONE,
        request_id: None,
        search: None,
    };
}

/// Which way the cache may be used for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Answer from the cache, and store what was not there.
    #[default]
    ReadWrite,
    /// Answer from the cache; store nothing.
    ReadOnly,
    /// Ask the upstream, and store the answer: a refresh.
    WriteOnly,
    /// Neither.
    Off,
}

impl CacheOptions {
    /// What is asked for.
    pub(crate) fn wishes(&self) -> &Wishes {
        static NONE: Wishes = Wishes::NONE;
        self.wishes.as_deref().unwrap_or(&NONE)
    }

    /// The same, to be changed. Takes an allocation: for those who have a wish.
    pub(crate) fn wish(&mut self) -> &mut Wishes {
        self.wishes.get_or_insert_with(|| Box::new(Wishes::NONE))
    }

    /// No wishes: the policy decides.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which way the cache may be used. Default: [`Mode::ReadWrite`].
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.wish().mode = mode;
        self
    }

    /// How long the answer stays fresh, within the bounds of the policy. Default: the policy's.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.wish().ttl = Some(ttl);
        self
    }

    /// The oldest stored answer that is welcome. Default: any that is fresh.
    #[must_use]
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.wish().max_age = Some(max_age);
        self
    }

    /// Answer from the cache or not at all: 504 on a miss (RFC 9111 section 5.2.1.7). Default: off.
    #[must_use]
    pub fn only_if_cached(mut self) -> Self {
        self.wish().only_if_cached = true;
        self
    }

    /// Adds a tag to what is stored: a handle for invalidation.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.wish().tags.push(tag.into());
        self
    }

    /// Adds key material: requests that differ in it never share an answer. Each call adds a part of its own.
    #[must_use]
    pub fn extra(mut self, extra: impl AsRef<[u8]>) -> Self {
        let extra = extra.as_ref();
        let material = &mut self.wish().extra;
        material.extend_from_slice(&(extra.len() as u64).to_be_bytes());
        material.extend_from_slice(extra);
        self
    }

    /// Whose answer it is, in place of what the policy would say. Default: the policy's scope.
    #[must_use]
    pub fn scope(mut self, scope: Scope) -> Self {
        self.wish().scope = Some(scope);
        self
    }

    /// Which upstream answers, for one layer in front of several; part of the key. Default: none.
    #[must_use]
    pub fn upstream(mut self, upstream: impl Into<String>) -> Self {
        self.wish().upstream = Some(upstream.into());
        self
    }

    /// Adds a label for observers, metadata and invalidation by pattern, as in `("provider", "openai")`. Labels are no key material.
    #[must_use]
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.wish().labels.push(name, value);
        self
    }

    /// Names the request in records and metadata. Default: none.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.wish().request_id = Some(id.into());
        self
    }
}

/// What a handler asks of the cache for its own response, set in the response's extensions. Every policy heeds it.
///
/// It cannot come from the network: only code in this process sets extensions. In axum, `Extension` puts it there:
///
/// ```
/// use std::time::Duration;
/// use axum::{Extension, Json};
/// use tower_response_cache::StoreOptions;
///
/// async fn books() -> (Extension<StoreOptions>, Json<Vec<String>>) {
///     let options = StoreOptions::new().ttl(Duration::from_secs(600)).tag("books");
///     (Extension(options), Json(vec!["Emma".to_owned()]))
/// }
/// ```
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    ttl: Option<Duration>,
    tags: Vec<String>,
    no_store: bool,
}

impl StoreOptions {
    /// No wishes: the policy and the request decide.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the response stays fresh, within the bounds of the policy; counts for more than the request's
    /// [`CacheOptions::ttl`]. Default: the request's, or the policy's.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Adds a tag to what is stored: a handle for invalidation.
    #[must_use]
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The response is for this request alone: it is not stored, and not shared with those who wait for the same.
    #[must_use]
    pub fn no_store(mut self) -> Self {
        self.no_store = true;
        self
    }
}

/// Asks a policy whether and how to store a response, with what its handler asks for in mind.
pub(crate) fn storing<P>(
    policy: &P,
    request: &request::Parts,
    options: &CacheOptions,
    response: &response::Parts,
    len: Option<u64>,
    moment: Moment,
) -> Result<Storing, NotStored>
where
    P: Policy,
{
    let Some(wishes) = response.extensions.get::<StoreOptions>() else {
        return policy.store(request, options, response, len, moment);
    };
    if wishes.no_store {
        return Err(NotStored::Forbidden);
    }
    let options = match wishes.ttl {
        None => Cow::Borrowed(options),
        Some(ttl) => Cow::Owned(options.clone().ttl(ttl)),
    };
    let mut storing = policy.store(request, &options, response, len, moment)?;
    storing.tags.extend(wishes.tags.iter().cloned());
    Ok(storing)
}
