//! Whose answer it is.

use std::sync::LazyLock;

use sha2::{Digest, Sha256};

/// Request fields that carry credentials, all of which a per-credential scope digests: the standard ones, those of LLM services, and those of widespread gateways and proxies.
pub const CREDENTIAL_HEADERS: &[&str] = &[
    "authorization",
    "proxy-authorization",
    "cookie",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "apikey",
    "cf-access-jwt-assertion",
    "cf-aig-authorization",
    "helicone-auth",
    "ocp-apim-subscription-key",
    "private-token",
    "x-access-token",
    "x-amz-security-token",
    "x-api-token",
    "x-auth-request-access-token",
    "x-auth-token",
    "x-forwarded-access-token",
    "x-functions-key",
    "x-goog-iam-authorization-token",
    "x-goog-iap-jwt-assertion",
    "x-litellm-api-key",
    "x-portkey-api-key",
    "x-rapidapi-key",
    "x-subscription-token",
    "x-vault-token",
    "xi-api-key",
];

/// Query parameters that carry credentials: they move from the query to the scope.
pub const CREDENTIAL_PARAMETERS: &[&str] = &["key", "api_key", "api-key", "access_token"];

/// Whose answer an entry is. Two scopes never share an entry, a flight, or a stale answer.
///
/// A scope holds a digest, never the credential or the name it was made from.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope(pub(super) [u8; 32]);

impl Scope {
    /// One answer for all callers: for gateways that authenticate outside the layer.
    pub fn shared() -> Self {
        static SHARED: LazyLock<Scope> = LazyLock::new(|| Scope::digest(b"shared", std::iter::empty()));
        *SHARED
    }

    /// The tenant of that name, as the operator knows it.
    pub fn tenant(name: impl AsRef<[u8]>) -> Self {
        Self::digest(b"tenant", [(b"".as_slice(), name.as_ref())].into_iter())
    }

    /// The bearer of these credentials, named (`authorization`) and in a fixed order. None at all is a scope of its own.
    pub fn credentials<'a>(credentials: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        static NOBODY: LazyLock<Scope> = LazyLock::new(|| Scope::digest(b"credentials", std::iter::empty()));
        let mut hash = None;
        credentials.for_each(|part| add(hash.get_or_insert_with(|| begin(b"credentials")), part));
        hash.map_or_else(|| *NOBODY, |hash| Self(hash.finalize().into()))
    }

    fn digest<'a>(kind: &[u8], parts: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let mut hash = begin(kind);
        parts.for_each(|part| add(&mut hash, part));
        Self(hash.finalize().into())
    }
}

fn begin(kind: &[u8]) -> Sha256 {
    let mut hash = Sha256::new();
    add_text(&mut hash, kind);
    hash
}

fn add(hash: &mut Sha256, (name, value): (&[u8], &[u8])) {
    add_text(hash, name);
    add_text(hash, value);
}

fn add_text(hash: &mut Sha256, text: &[u8]) {
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

impl std::fmt::Debug for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scope(..)")
    }
}
