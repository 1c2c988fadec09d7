//! What is kept: one response, whole, with what is known about it.

#[allow(clippy::module_inception, reason = "the file of a type bears its name")]
mod entry;
mod labels;
pub mod record;

pub(crate) use entry::detached;
pub use entry::{Entry, Frames, Lifetime, Metadata, Usage, Variants};
pub use labels::Labels;

/// A value under a key in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A response.
    Response(std::sync::Arc<Entry>),
    /// Where the responses are: a policy that varies by request fields keeps this under the primary key
    /// (RFC 9111 section 4.1) and the responses under secondary keys.
    Variants(std::sync::Arc<Variants>),
}

impl Record {
    /// The response, if it is one.
    pub fn response(self) -> Option<std::sync::Arc<Entry>> {
        match self {
            Self::Response(entry) => Some(entry),
            Self::Variants(_) => None,
        }
    }

    /// When the store may forget it, wall-clock.
    pub fn expires(&self) -> std::time::SystemTime {
        match self {
            Self::Response(entry) => entry.lifetime.expires(),
            Self::Variants(variants) => variants.expires,
        }
    }

    /// Bytes that it takes in memory, overhead included; what bounds of stores count.
    pub fn weight(&self) -> usize {
        match self {
            Self::Response(entry) => entry.weight(),
            Self::Variants(variants) => {
                let names = variants.fields.iter().flatten().map(|name| 40 + name.as_str().len());
                200 + names.chain(variants.tags.iter().map(|(tag, _)| 80 + tag.len())).sum::<usize>()
            }
        }
    }
}
