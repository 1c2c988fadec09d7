//! The length-prefixed envelope that is hashed into a key.

use std::sync::{Arc, Mutex, PoisonError};

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
    /// When the index of variants began that a variant belongs to.
    Epoch = 16,
    /// What a rule of the operator's adds.
    Rule = 17,
    /// What counts of a query, and by which rule.
    Search = 18,
}

/// An envelope that has its domain and namespace, and takes the fields of one request after another.
#[derive(Clone)]
pub struct Envelope(Fields);

/// Which fields went into an envelope, for whoever wants an explanation.
pub(crate) type Trace = Arc<Mutex<Vec<(Field, Vec<u8>)>>>;

impl Envelope {
    /// An envelope of the operator's namespace.
    pub fn new(namespace: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        let mut fields = Fields { hash, trace: None };
        fields.add(Field::Namespace, namespace.as_bytes());
        Self(fields)
    }

    /// The envelope of one request.
    pub fn open(&self) -> Fields {
        self.0.clone()
    }

    /// The key of a variant below a primary key, which carries the scope already (RFC 9111 section 4.1).
    pub fn variant(&self, primary: &Key, selecting: impl FnOnce(&mut Fields)) -> Key {
        let mut fields = self.open();
        fields.add(Field::Primary, primary.as_bytes());
        selecting(&mut fields);
        Key(fields.hash.finalize().into())
    }
}

impl Envelope {
    /// The same envelope, which notes what fields go into it.
    pub(crate) fn traced(&self, trace: &Trace) -> Self {
        Self(Fields { trace: Some(Arc::clone(trace)), ..self.0.clone() })
    }

    /// The key of a variant in an epoch of its index: once the index is removed, no later one leads to it.
    pub(crate) fn in_epoch(&self, variant: &Key, epoch: u64) -> Key {
        self.variant(variant, |key| {
            key.add(Field::Epoch, &epoch.to_be_bytes());
        })
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
    trace: Option<Trace>,
}

impl Fields {
    /// Adds a field.
    pub fn add(&mut self, field: Field, value: &[u8]) -> &mut Self {
        let mut head = [0; 9];
        head[0] = field as u8;
        head[1..].copy_from_slice(&(value.len() as u64).to_be_bytes());
        self.hash.update(head);
        self.hash.update(value);
        if let Some(trace) = &self.trace {
            trace.lock().unwrap_or_else(PoisonError::into_inner).push((field, value.to_vec()));
        }
        self
    }

    /// Says whose answer it is, and closes the envelope. The scope comes last, so that the digest without it costs no second pass.
    pub fn seal(mut self, scope: Scope) -> Identity {
        let question = Question(self.hash.clone());
        self.add(Field::Scope, &scope.0);
        Identity { key: Key(self.hash.finalize().into()), question }
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fields(..)")
    }
}

/// What identifies a request: its key, and what it asks for regardless of who asks.
#[derive(Clone)]
pub struct Identity {
    /// The key.
    pub key: Key,
    pub(crate) question: Question,
}

impl Identity {
    /// The digest of the request without its scope. Worked out when it is asked for: most hits need the key alone.
    pub fn digest(&self) -> Digest {
        self.question.digest()
    }
}

/// What is asked, before it is said by whom: most of those who might want to know its digest never do.
#[derive(Clone)]
pub(crate) struct Question(Sha256);

impl Question {
    pub(crate) fn digest(&self) -> Digest {
        Digest(self.0.clone().finalize().into())
    }
}

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.digest().fmt(f)
    }
}

/// By the key: what has the same one asks the same.
impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Identity {}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("key", &self.key).field("digest", &self.digest()).finish()
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIELDS: [Field; 15] = [
        Field::Method,
        Field::Scheme,
        Field::Authority,
        Field::Path,
        Field::Query,
        Field::HeaderName,
        Field::HeaderValue,
        Field::Upstream,
        Field::JsonBody,
        Field::RawBody,
        Field::Extra,
        Field::Rule,
        Field::Slot,
        Field::Primary,
        Field::Namespace,
    ];

    type Content = (String, Vec<(usize, Vec<u8>)>, u8);

    fn identity((namespace, fields, scope): &Content) -> Identity {
        let mut open = Envelope::new(namespace).open();
        for (field, value) in fields {
            open.add(FIELDS[*field], value);
        }
        open.seal(Scope::tenant([*scope]))
    }

    /// Values among which lengths and tags of fields occur, so that one might pass for another's head.
    fn fields() -> impl Strategy<Value = Vec<(usize, Vec<u8>)>> {
        let bytes = prop_oneof![Just(0), Just(1), Just(2), Just(9), any::<u8>()];
        proptest::collection::vec((0..FIELDS.len(), proptest::collection::vec(bytes, 0..24)), 0..5)
    }

    fn contents() -> impl Strategy<Value = Content> {
        ("[a\0]{0,2}", fields(), 0..2_u8)
    }

    proptest! {
        #[test]
        fn two_requests_share_a_key_exactly_if_they_have_the_same_fields(one in contents(), two in contents()) {
            let (this, other) = (identity(&one), identity(&two));
            prop_assert_eq!(this.key == other.key, one == two);
            prop_assert_eq!(this.digest() == other.digest(), one.0 == two.0 && one.1 == two.1);
        }

        #[test]
        fn bytes_that_move_into_the_neighbouring_field_give_another_key(content in contents(), at: prop::sample::Index, take: prop::sample::Index) {
            let mut moved = content.clone();
            prop_assume!(moved.1.len() >= 2);
            let at = at.index(moved.1.len() - 1);
            let (left, right) = moved.1.split_at_mut(at + 1);
            let (left, right) = (&mut left[at].1, &mut right[0].1);
            prop_assume!(!left.is_empty());
            let tail = left.split_off(take.index(left.len()));
            right.splice(0..0, tail);
            prop_assert_ne!(identity(&content).key, identity(&moved).key);
        }

        #[test]
        fn a_field_split_in_two_a_field_joined_or_dropped_gives_another_key(content in contents(), at: prop::sample::Index, cut: prop::sample::Index) {
            prop_assume!(!content.1.is_empty());
            let at = at.index(content.1.len());
            let mut split = content.clone();
            let (field, value) = &mut split.1[at];
            let (field, tail) = (*field, value.split_off(cut.index(value.len() + 1)));
            split.1.insert(at + 1, (field, tail));
            let mut dropped = content.clone();
            dropped.1.remove(at);
            // The head of a field as part of the value before it.
            let mut swallowed = dropped.clone();
            if let Some((_, value)) = swallowed.1.get_mut(at.wrapping_sub(1)) {
                value.push(FIELDS[content.1[at].0] as u8);
                value.extend((content.1[at].1.len() as u64).to_be_bytes());
                value.extend(&content.1[at].1);
                prop_assert_ne!(identity(&content).key, identity(&swallowed).key);
            }
            prop_assert_ne!(identity(&content).key, identity(&split).key);
            prop_assert_ne!(identity(&content).key, identity(&dropped).key);
        }
    }

    #[test]
    fn a_variant_is_neither_its_primary_nor_another_primarys() {
        let envelope = Envelope::new("");
        let keys = [1, 2].map(|byte| Key::from_bytes([byte; 32]));
        let [one, two] = keys.map(|key| envelope.variant(&key, |fields| _ = fields.add(Field::HeaderName, b"accept")));
        assert_ne!(one, two);
        assert!(!keys.contains(&one));
        assert_ne!(one, envelope.variant(&keys[0], |fields| _ = fields.add(Field::HeaderValue, b"accept")));
        assert_ne!(one, Envelope::new("other").variant(&keys[0], |fields| _ = fields.add(Field::HeaderName, b"accept")));
    }
}
