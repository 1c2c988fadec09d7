use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, Version};

use super::Generation;
use crate::{
    cost::NanoUsd,
    entry::{Lifetime, Usage},
    key::Key,
};

/// Someone in another process who wants to follow what is made under a lease: what there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audience {
    /// Bytes of body that may be published at most. If there is no room, nothing is: whoever asks only wants to know that the holder of the lease lives.
    pub max_bytes: usize,
    /// How often to publish something, be it a [sign of life](LivePart::SIGN): who hears nothing for much longer takes the publisher for dead.
    pub renew_in: Duration,
}

/// A part of what one process says while it makes an answer: a head, then frames, then the end, and then that all is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LivePart {
    /// The head of the response: the first part.
    Head(Box<LiveHead>),
    /// Frames of the body, in order; none is empty. Without any, a [sign of life](Self::SIGN).
    Frames(Vec<Bytes>),
    /// The body ended cleanly.
    End(Box<LiveEnd>),
    /// The answer is stored, or is not going to be: the last part.
    Settled,
    /// What was said is void, for the response failed, is too long, or is said no more of: nobody is to read on, or to begin.
    Withdrawn,
}

impl LivePart {
    /// Whoever publishes lives, and has nothing to say.
    pub const SIGN: Self = Self::Frames(Vec::new());
}

/// The head of a response that is on its way, as all who may share it see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveHead {
    /// Its status.
    pub status: StatusCode,
    /// The version of HTTP that it came in.
    pub version: Version,
    /// Its end-to-end header fields.
    pub headers: HeaderMap,
    /// How long it lives once it is stored. One that is not fresh is not to be shared.
    pub lifetime: Lifetime,
    /// The length of its body in bytes, where its framing says so.
    pub promised: Option<u64>,
    /// If it answers only some requests under its key: the fields that select it, and the key that they make.
    pub vary: Option<(Vec<HeaderName>, Key)>,
    /// What whoever makes it saw of the store. It is no answer to one who has seen a later invalidation.
    pub generation: Generation,
}

/// What proves that a body is whole, and what it came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveEnd {
    /// Its trailer fields.
    pub trailers: Option<HeaderMap>,
    /// Bytes of the body.
    pub length: u64,
    /// XXH3-64 of the body, seed 0.
    pub checksum: u64,
    /// The model that answered.
    pub model: Option<Arc<str>>,
    /// Who answered.
    pub provider: Option<Arc<str>>,
    /// Tokens that the answer cost.
    pub usage: Option<Usage>,
    /// What the call cost.
    pub cost: Option<NanoUsd>,
}
