//! One opaque error for everything that the crate itself can fail at.
//!
//! Requests never see it: trouble with a store is a miss. It reaches callers of [`Handle`](crate::Handle),
//! implementers of [`Store`](crate::store::Store), and observers. Neither `Display` nor `Debug` shows URLs, keys or bodies.

use std::{borrow::Cow, error::Error as StdError, fmt};

/// A boxed error, as the field spells it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What went wrong in the cache.
pub struct Error {
    kind: Kind,
    context: Cow<'static, str>,
    source: Option<BoxError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Config,
    Unavailable,
    Timeout,
    Refused,
    Corrupt,
    Unsupported,
}

impl Error {
    /// A setting that cannot work; `context` says which one and what to do.
    pub fn config(context: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Kind::Config, context)
    }

    /// The store cannot be reached, or its breaker is open.
    pub fn unavailable(context: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Kind::Unavailable, context)
    }

    /// An operation did not finish within its deadline. Whether it took effect is unknown.
    pub fn timeout(context: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Kind::Timeout, context)
    }

    /// The store answered, and refused: out of memory, read only, no permission.
    pub fn refused(context: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Kind::Refused, context)
    }

    /// A stored value is not what was stored: damaged, foreign, from a newer version, or under another key.
    pub fn corrupt(context: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Kind::Corrupt, context)
    }

    /// The store cannot do this at all.
    pub fn unsupported(context: impl Into<Cow<'static, str>>) -> Self {
        Self::of(Kind::Unsupported, context)
    }

    /// Adds the error underneath. Its text must not carry secrets: URLs with passwords in particular.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    fn of(kind: Kind, context: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// Is a setting wrong?
    pub fn is_config(&self) -> bool {
        self.kind == Kind::Config
    }

    /// Was the store out of reach?
    pub fn is_unavailable(&self) -> bool {
        self.kind == Kind::Unavailable
    }

    /// Did the operation run out of time?
    pub fn is_timeout(&self) -> bool {
        self.kind == Kind::Timeout
    }

    /// Did the store refuse?
    pub fn is_refused(&self) -> bool {
        self.kind == Kind::Refused
    }

    /// Was a stored value unusable?
    pub fn is_corrupt(&self) -> bool {
        self.kind == Kind::Corrupt
    }

    /// Is it beyond what the store can do?
    pub fn is_unsupported(&self) -> bool {
        self.kind == Kind::Unsupported
    }

    /// The kind in one word, as a label for metrics.
    pub fn label(&self) -> &'static str {
        match self.kind {
            Kind::Config => "config",
            Kind::Unavailable => "unavailable",
            Kind::Timeout => "timeout",
            Kind::Refused => "refused",
            Kind::Corrupt => "corrupt",
            Kind::Unsupported => "unsupported",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error").field("kind", &self.kind).field("context", &self.context).field("source", &self.source).finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
