use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::Labels;
use crate::key::Key;

/// A stored response: head, body frames, trailers, and what is known about it.
///
/// Entries are shared between readers behind an `Arc` and never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its status.
    pub status: StatusCode,
    /// Its end-to-end header fields, as the policy keeps them.
    pub headers: HeaderMap,
    /// Its body, in the chunks in which it came.
    pub body: Frames,
    /// Its trailer fields.
    pub trailers: Option<HeaderMap>,
    /// How long it lives.
    pub lifetime: Lifetime,
    /// What is known about it.
    pub metadata: Metadata,
}

impl Entry {
    /// Bytes that it takes in memory, overhead included.
    pub fn weight(&self) -> usize {
        let fields = |map: &HeaderMap| map.iter().map(|(name, value)| 48 + name.as_str().len() + value.len()).sum::<usize>();
        400 + self.body.len()
            + 40 * self.body.count()
            + fields(&self.headers)
            + self.trailers.as_ref().map_or(0, fields)
            + self.metadata.weight()
    }
}

/// Single chunks from this size on are not copied: what clients read at a time is not much larger.
const KEPT_FROM: usize = 256 << 10;

/// The same fields with values in one buffer of their own: as they were read, they keep all alive that a connection read at that time.
pub(crate) fn detached(mut fields: HeaderMap) -> HeaderMap {
    let mut all = BytesMut::with_capacity(fields.values().map(HeaderValue::len).sum());
    for value in fields.values() {
        all.extend_from_slice(value.as_bytes());
    }
    let mut rest = all.freeze();
    for value in fields.values_mut() {
        if let Ok(mut own) = HeaderValue::from_maybe_shared(rest.split_to(value.len())) {
            own.set_sensitive(value.is_sensitive());
            *value = own;
        }
    }
    fields
}

/// A body as a sequence of chunks, with their boundaries kept.
///
/// Event streams and gRPC messages are replayed as they were cut. All chunks are slices of shared buffers: cloning copies no bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frames {
    chunks: Chunks,
    len: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Chunks {
    #[default]
    None,
    One(Bytes),
    Many(std::sync::Arc<[Bytes]>),
}

impl Frames {
    /// Chunks in order; empty ones are left out.
    pub fn new(chunks: impl IntoIterator<Item = Bytes>) -> Self {
        let mut chunks: Vec<Bytes> = chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect();
        let len = chunks.iter().map(Bytes::len).sum();
        let chunks = match chunks.len() {
            0 => Chunks::None,
            1 => chunks.pop().map_or(Chunks::None, Chunks::One),
            _ => Chunks::Many(chunks.into()),
        };
        Self { chunks, len }
    }

    /// Copies chunks into one buffer and keeps their boundaries: many small allocations become one, and nothing else of what a connection read at a
    /// time is kept alive. A single chunk of 256 KiB or more is not copied.
    pub fn compact(chunks: &[Bytes]) -> Self {
        if let [one] = chunks {
            return Self::from(if one.len() < KEPT_FROM { Bytes::copy_from_slice(one) } else { one.clone() });
        }
        let mut all = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
        for chunk in chunks {
            all.extend_from_slice(chunk);
        }
        let mut rest = all.freeze();
        Self::new(chunks.iter().map(|chunk| rest.split_to(chunk.len())))
    }

    /// A body that is cut into chunks of these lengths, none of them empty, which add up to its own. Copies no bytes.
    pub(crate) fn cut(body: Bytes, lengths: impl ExactSizeIterator<Item = usize>) -> Self {
        let len = body.len();
        let chunks = match lengths.len() {
            0 => Chunks::None,
            1 => Chunks::One(body),
            _ => {
                let mut rest = body;
                Chunks::Many(lengths.map(|length| rest.split_to(length)).collect())
            }
        };
        Self { chunks, len }
    }

    /// Total length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there no byte?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many chunks there are.
    pub fn count(&self) -> usize {
        self.as_slice().len()
    }

    /// The chunks.
    pub fn as_slice(&self) -> &[Bytes] {
        match &self.chunks {
            Chunks::None => &[],
            Chunks::One(chunk) => std::slice::from_ref(chunk),
            Chunks::Many(chunks) => chunks,
        }
    }

    /// The body as one buffer; copies only if there are several chunks.
    pub fn concat(&self) -> Bytes {
        match self.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => {
                let mut all = BytesMut::with_capacity(self.len);
                for chunk in many {
                    all.extend_from_slice(chunk);
                }
                all.freeze()
            }
        }
    }
}

impl From<Bytes> for Frames {
    fn from(body: Bytes) -> Self {
        Self::new([body])
    }
}

/// How long an entry is fresh, and how long after that it may still serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// When the response was generated or last validated, wall-clock. Ages count from here.
    pub since: SystemTime,
    /// How long it is fresh after that.
    pub fresh_for: Duration,
    /// How long after it went stale it may be served while a refresh runs (RFC 5861 section 3).
    pub stale_while_revalidate: Duration,
    /// How long after it went stale it may be served when the upstream fails (RFC 5861 section 4).
    pub stale_if_error: Duration,
    /// How long after it went stale it is kept at all, for validation. The longest of the three windows bounds the entry.
    pub kept_for: Duration,
}

impl Lifetime {
    /// Fresh from `since` for `ttl`, then gone.
    pub fn fresh(since: SystemTime, ttl: Duration) -> Self {
        Self { since, fresh_for: ttl, stale_while_revalidate: Duration::ZERO, stale_if_error: Duration::ZERO, kept_for: Duration::ZERO }
    }

    /// How old it is. A clock that ran backwards makes it 0, never negative.
    pub fn age(&self, now: SystemTime) -> Duration {
        now.duration_since(self.since).unwrap_or_default()
    }

    /// How long it has still to be fresh; `None` once stale. An entry from the future, as after a clock jump,
    /// is fresh for no longer than its lifetime.
    pub fn ttl(&self, now: SystemTime) -> Option<Duration> {
        self.ttl_at(self.age(now))
    }

    /// How long it has been stale; `None` while fresh.
    pub fn staleness(&self, now: SystemTime) -> Option<Duration> {
        self.staleness_at(self.age(now))
    }

    pub(crate) fn ttl_at(&self, age: Duration) -> Option<Duration> {
        self.fresh_for.checked_sub(age).filter(|left| !left.is_zero())
    }

    pub(crate) fn staleness_at(&self, age: Duration) -> Option<Duration> {
        age.checked_sub(self.fresh_for)
    }

    /// When a store may forget it. Saturates far in the future.
    pub fn expires(&self) -> SystemTime {
        let tail = self.stale_while_revalidate.max(self.stale_if_error).max(self.kept_for);
        // A thousand years: beyond any use, within what platforms can represent.
        const FAR: Duration = Duration::from_secs(1000 * 365 * 86_400);
        let life = self.fresh_for.min(FAR).saturating_add(tail.min(FAR));
        self.since.checked_add(life).unwrap_or(self.since)
    }
}

/// What is known about an entry besides the response itself. Readable without loading the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The request that caused it to be stored, as its caller named it.
    pub request_id: Option<Arc<str>>,
    /// Who answered: the `provider` label of that request.
    pub provider: Option<Arc<str>>,
    /// The model that answered, as the response says.
    pub model: Option<Arc<str>>,
    /// When it was stored, wall-clock; the Unix epoch in an entry that is not stored yet.
    pub cached_at: Option<SystemTime>,
    /// How long the upstream took to the end of the body.
    pub upstream_time: Duration,
    /// How long the upstream took to the response head.
    pub upstream_first_byte: Duration,
    /// Tokens that the answer cost.
    pub usage: Option<Usage>,
    /// The service tier at which the upstream served the answer, as the response says; it selects among the model's prices.
    pub service_tier: Option<Arc<str>>,
    /// Surrogate tags: handles for invalidation.
    pub tags: Vec<String>,
    /// The labels of the request that stored it: `model`, `route` and whatever else its caller set.
    pub labels: Labels,
    /// The names of the upstream's request ids, kept out of replayed heads.
    pub upstream_request_id: Option<Arc<str>>,
}

impl Metadata {
    /// What the request says of itself.
    pub(crate) fn of(options: &crate::options::CacheOptions) -> Self {
        let wishes = options.wishes();
        let label = |wanted| wishes.labels.get(wanted).map(Arc::from);
        let mut metadata = Self {
            request_id: wishes.request_id.clone(),
            provider: label("provider"),
            model: label("model"),
            labels: wishes.labels.clone(),
            ..Self::default()
        };
        metadata.add_tags(wishes.tags.iter().cloned());
        metadata
    }

    /// Adds tags: each is there once, in order.
    pub(crate) fn add_tags(&mut self, tags: impl IntoIterator<Item = String>) {
        self.tags.extend(tags);
        self.tags.sort_unstable();
        self.tags.dedup();
    }

    fn weight(&self) -> usize {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        text(&self.request_id)
            + text(&self.provider)
            + text(&self.model)
            + text(&self.upstream_request_id)
            + text(&self.service_tier)
            + self.tags.iter().map(|tag| 24 + tag.len()).sum::<usize>()
            + self.labels.iter().map(|(name, value)| 48 + name.len() + value.len()).sum::<usize>()
    }
}

/// Tokens of one call, normalised over providers: classes that are billed apart stand apart and do not overlap, and what is said to be of a class is counted in it already.
///
/// Make one with `..Usage::default()`: providers bill ever more classes apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens that were read afresh.
    pub input_uncached: u64,
    /// Prompt tokens that the provider read from its own cache.
    pub cache_read: u64,
    /// Prompt tokens that the provider wrote into its own cache for five minutes, or for as long as it does by default.
    pub cache_write_5m: u64,
    /// Prompt tokens that the provider wrote into its own cache for an hour.
    pub cache_write_1h: u64,
    /// Tokens that were generated and billed, reasoning included.
    pub output: u64,
    /// Of `output`, those that were reasoning.
    pub reasoning: u64,
    /// Of `input_uncached`, those that were audio.
    pub audio_input: u64,
    /// Of `cache_read`, those that were audio.
    pub audio_cache_read: u64,
    /// Of `output`, those that were audio; none of them reasoning.
    pub audio_output: u64,
}

impl Usage {
    /// All prompt tokens, however they were read.
    pub fn input(&self) -> u64 {
        let Self { input_uncached, cache_read, cache_write_5m, cache_write_1h, .. } = self;
        [input_uncached, cache_read, cache_write_5m, cache_write_1h].into_iter().fold(0, |sum, tokens| sum.saturating_add(*tokens))
    }
}

/// The index under a primary key: which request fields select among the variants (RFC 9111 section 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variants {
    /// Lists of field names, the most recently stored first.
    pub fields: Vec<Vec<HeaderName>>,
    /// Strong entity tags of variants, and the keys that these are under, the most recently stored first: by them the origin may choose one for a request that selects none
    /// (RFC 9111 section 4.1). Of at most [`Self::MAX_TAGS`], all of them whole and none of them encoded: whoever asked for another encoding may be unable to read it.
    pub tags: Vec<(HeaderValue, Key)>,
    /// A number at random, drawn when the index began, and part of the variants' keys: removing the index removes them all from sight.
    pub epoch: u64,
    /// When the last of the variants may be forgotten.
    pub expires: SystemTime,
}

impl Variants {
    /// How many entity tags are kept.
    pub const MAX_TAGS: usize = 8;

    /// The longest tag that is kept, in bytes.
    pub const MAX_TAG: usize = 256;

    /// Notes the tag of the variant that is stored under a key, if it is one to choose by.
    pub(crate) fn note(&mut self, entry: &Entry, key: &Key) {
        self.tags.retain(|(_, known)| known != key);
        let is_plain = entry.status == StatusCode::OK && !entry.headers.contains_key(header::CONTENT_ENCODING);
        let is_strong = |tag: &&HeaderValue| tag.as_bytes().starts_with(b"\"") && tag.len() <= Self::MAX_TAG;
        if let Some(tag) = entry.headers.get(header::ETAG).filter(|_| is_plain).filter(is_strong) {
            self.tags.insert(0, (tag.clone(), *key));
            self.tags.truncate(Self::MAX_TAGS);
        }
    }
}
