//! Where answers are kept, and what of them is shared.

use tower_response_cache::{
    ApiPolicy, Sharing,
    key::Scope,
    store::{BoxStore, Memory},
};

use super::{
    app::StartError,
    config::{Place, Settings, Shared},
    route::Route,
};

pub(crate) fn open(place: &Place) -> Result<BoxStore, StartError> {
    match place {
        Place::Memory { bytes } => Ok(BoxStore::new(Memory::new(*bytes))),
        Place::Redis { .. } => Err(StartError::usage("REDIS_URL is set, and this build has no Redis")),
    }
}

/// In a few words, for the log. The URL of a Redis may hold a password.
pub(crate) fn describe(place: &Place) -> String {
    match place {
        Place::Memory { bytes } => format!("memory, {}", super::admin::human(*bytes)),
        Place::Redis { max_connections, .. } => format!("redis, {max_connections} connections at most"),
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
        // Google's answers vary by these.
        .key_header(http::header::REFERER)
        .key_header(http::HeaderName::from_static("x-origin"))
        .paths(|path| Route::of(path).cached)
        .ttl(settings.ttl)
        .request_limit(settings.max_request)
        .max_body(settings.max_response);
    if let Shared::Header(name) = settings.sharing.clone() {
        // Whoever is not named, or named twice, shares with nobody.
        policy = policy.bypass_if(move |request| request.headers.get_all(&name).iter().count() != 1);
    }
    if let Some(ttl_header) = settings.trust.clone() {
        policy = policy.trust_request_headers(Some(ttl_header));
    }
    policy
}
