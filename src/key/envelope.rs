//! The length-prefixed envelope that is hashed into a key.

use sha2::{Digest as _, Sha256};

use super::{Key, Scope};

/// The start of every envelope. A new format is a new domain tag, so that old and new keys never meet.
const DOMAIN: &[u8] = b"tower-response-cache/1";

/// What a field of the envelope says.
///
/// The discriminants are part of the format: they are hashed, pinned by golden vectors, and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Field {
    /// The operator's namespace.
    Namespace = 1,
    /// Whose answer it is.
    Scope = 2,
    /// The method.
    Method = 3,
    /// The scheme of the target URI.
    Scheme = 4,
    /// The authority of the target URI, or `Host`.
    Authority = 5,
    /// The path, byte-exact.
    Path = 6,
    /// The query, byte-exact unless the policy says otherwise.
    Query = 7,
    /// The name of a header field whose values follow.
    HeaderName = 8,
    /// One line of a header field.
    HeaderValue = 9,
    /// Which upstream, for one layer in front of several.
    Upstream = 10,
    /// The body as canonical JSON.
    JsonBody = 11,
    /// The body as it came.
    RawBody = 12,
    /// What the caller adds per request.
    Extra = 13,
    /// Which of several answers under one key.
    Slot = 14,
    /// The primary key, in the key of a variant.
    Primary = 15,
}

/// An envelope that has its domain and namespace, and takes the fields of one request after another.
#[derive(Clone)]
pub struct Envelope(Sha256);

impl Envelope {
    /// An envelope of the operator's namespace.
    pub fn new(namespace: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        let mut fields = Fields { hash };
        fields.add(Field::Namespace, namespace.as_bytes());
        Self(fields.hash)
    }

    /// The envelope of one request.
    pub fn open(&self) -> Fields {
        Fields { hash: self.0.clone() }
    }

    /// The key of a variant below a primary key, which carries the scope already (RFC 9111 section 4.1).
    pub fn variant(&self, primary: &Key, selecting: impl FnOnce(&mut Fields)) -> Key {
        let mut fields = self.open();
        fields.add(Field::Primary, primary.as_bytes());
        selecting(&mut fields);
        Key(fields.hash.finalize().into())
    }
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Envelope(..)")
    }
}

/// An open envelope: it takes fields, and becomes a key once it is told whose answer it is.
#[derive(Clone)]
pub struct Fields {
    hash: Sha256,
}

impl Fields {
    /// Adds a field.
    pub fn add(&mut self, field: Field, value: &[u8]) -> &mut Self {
        let mut head = [0; 9];
        head[0] = field as u8;
        head[1..].copy_from_slice(&(value.len() as u64).to_be_bytes());
        self.hash.update(head);
        self.hash.update(value);
        self
    }

    /// Says whose answer it is, and closes the envelope. The scope comes last, so that the digest without it costs no second pass.
    pub fn seal(self, scope: Scope) -> Identity {
        let digest = Digest(self.hash.clone().finalize().into());
        let mut sealed = self;
        sealed.add(Field::Scope, &scope.0);
        Identity { key: Key(sealed.hash.finalize().into()), digest }
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fields(..)")
    }
}

/// What identifies a request: its key, and what it asks for regardless of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The key.
    pub key: Key,
    /// The digest of the request without its scope.
    pub digest: Digest,
}

/// What a request asks for, regardless of who asks: equal questions of different callers have equal digests, and nothing in it
/// stems from a credential. Fit for logs and analytics; opens no entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// 64 hexadecimal digits, lower case.
impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        super::write_hex(&self.0, f)
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Digest({self})")
    }
}
