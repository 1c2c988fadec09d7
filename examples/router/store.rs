//! Where answers are kept, and what of them is shared.

use std::time::Duration;

use tower_response_cache::{
    ApiPolicy, Sharing,
    key::Scope,
    llm::Dialects,
    store::{BoxStore, Memory, Redis, Tiered},
};

use super::{
    app::StartError,
    config::{Place, Settings, Shared},
    route::Route,
};

/// The store, and the Redis that it is, if it is one.
pub(crate) fn open(settings: &Settings) -> Result<(BoxStore, Option<Redis>), StartError> {
    match &settings.store {
        Place::Memory { bytes } => Ok((BoxStore::new(Memory::new(*bytes)), None)),
        Place::Redis { builder, memory_tier, .. } => {
            // Nothing is connected yet: a Redis that is down stops nobody.
            let store = (**builder)
                .clone()
                .max_record(settings.max_response.saturating_add(HEADS))
                .fill_bound(settings.upstream_timeout.unwrap_or_default().max(LEAST_FILL).saturating_mul(2))
                .build();
            let redis = store.map_err(|error| StartError::usage(format!("Redis, as REDIS_URL and what belongs to it say: {error}")))?;
            let store = match *memory_tier {
                0 => BoxStore::new(redis.clone()),
                bytes => BoxStore::new(Tiered::new(redis.clone(), bytes)),
            };
            Ok((store, Some(redis)))
        }
    }
}

/// What a record takes besides its body, in bytes.
const HEADS: usize = 1 << 20;

/// How long the making of an answer may take, whatever the bound of upstreams.
const LEAST_FILL: Duration = Duration::from_secs(300);

/// In a few words, for the log. The URL of a Redis may hold a password.
pub(crate) fn describe(place: &Place) -> String {
    let size = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    match place {
        Place::Memory { bytes } => format!("memory, {}", size(*bytes)),
        Place::Redis { max_connections, memory_tier, .. } => {
            let tier = size(*memory_tier);
            format!("redis, {max_connections} connections at most, {tier} in memory in front of it")
        }
    }
}

/// What is cached, for whom, and for how long.
pub(crate) fn policy(settings: &Settings) -> ApiPolicy {
    let sharing = match settings.sharing.clone() {
        Shared::PerCredential => Sharing::PerCredential,
        Shared::All => Sharing::Shared,
        Shared::Header(name) => {
            Sharing::by(move |request| Scope::tenant(request.headers.get(&name).map_or(&[][..], |tenant| tenant.as_bytes())))
        }
    };
    let mut policy = ApiPolicy::new(sharing)
        .paths(|path| Route::of(path).cached)
        .ttl(settings.ttl)
        .response_tags(settings.response_tags)
        .request_limit(settings.max_request)
        .max_body(settings.max_response)
        .inspector(Dialects::new().document_limit(settings.max_response));
    if let Shared::Header(name) = settings.sharing.clone() {
        // Whoever is not named, or named twice, shares with nobody.
        policy = policy.bypass_if(move |request| {
            let mut named = request.headers.get_all(&name).iter();
            !matches!((named.next(), named.next()), (Some(tenant), None) if !tenant.is_empty())
        });
    }
    if let Some(ttl_header) = settings.trust.clone() {
        policy = policy.trust_request_headers(Some(ttl_header));
    }
    policy
}
