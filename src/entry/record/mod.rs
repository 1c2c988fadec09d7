//! The versioned binary form of a record.
//!
//! A store outside of the process keeps a record as one string of bytes. Others may be able to write there, processes die in the middle of a
//! write, and versions of this crate meet: so the form is plain, written by hand, and a reader takes nothing on trust. It checks magic, version,
//! kind, flags, key, every length against a cap and against what is left, and two checksums, before it allocates for what they say. Whatever is
//! off is [corrupt](Error::is_corrupt): a miss, never a panic. Header fields pass the same validation as fresh ones.
//!
//! # The form, version 1
//!
//! All numbers are little-endian. Times are milliseconds since the Unix epoch. Every record begins with its front:
//!
//! | offset | bytes | what |
//! |-------:|------:|------|
//! |      0 |     4 | magic: `9f 54 52 43` (`\x9fTRC`; not the start of any UTF-8 text) |
//! |      4 |     1 | version: 1 |
//! |      5 |     1 | kind: 1 response, 2 variants |
//! |      6 |     2 | flags: 1 compressed, 2 sealed; 0 for a plain record; an unknown bit is corrupt |
//! |      8 |    32 | the key |
//! |     40 |     8 | length of the whole record |
//! |     48 |     4 | length of the front, its checksum included |
//!
//! The front of a **response** goes on with what a [`Listing`] needs, so that a prefix is enough for it:
//!
//! | offset | bytes | what |
//! |-------:|------:|------|
//! |     52 |     8 | `since`, a time |
//! |     60 |     8 | `fresh_for`, milliseconds |
//! |     68 |     8 | `stale_while_revalidate`, milliseconds |
//! |     76 |     8 | `stale_if_error`, milliseconds |
//! |     84 |     8 | `kept_for`, milliseconds |
//! |     92 |     8 | length of the body |
//! |    100 |     2 | status, 200 to 999 |
//! |    102 |     8 | `cached_at`, a time; all ones: none |
//! |    110 |     8 | `upstream_time`, microseconds |
//! |    118 |     8 | `upstream_first_byte`, microseconds |
//! |    126 |     1 | is there a usage: 0; 1 without audio, 2 with some |
//! |    127 | 0, 48, 72 | usage: six u64, with audio nine, as [`Usage`](crate::entry::Usage) lists them |
//! |        |     … | request id, provider, model, upstream request id, service tier: u16 length and UTF-8 each; length `ffff`: none |
//! |        |     … | tags: u16 count; u16 length and UTF-8 each |
//! |        |     … | labels: u16 count; name and value, u16 length and UTF-8 each |
//! |        |     8 | checksum of the front: XXH3-64 of all bytes before it, seed 0 |
//!
//! And then comes the response itself:
//!
//! | bytes | what |
//! |------:|------|
//! |     2 | count of header fields |
//! |     … | each: u16 length of the name, u32 length of the value (bit 31: sensitive, RFC 7541 section 7.1.3), name, value |
//! |     4 | count of body frames |
//! |     … | u32 length of each; none is empty |
//! |     … | the body |
//! |     1 | are there trailers: 0 or 1 |
//! |     … | trailers, if so: as header fields |
//! |     8 | checksum of the response: XXH3-64 of all bytes since the front, seeded with the front's |
//!
//! The record of **variants** is all front:
//!
//! | offset | bytes | what |
//! |-------:|------:|------|
//! |     52 |     8 | when the last may be forgotten, a time |
//! |     60 |     8 | epoch |
//! |     68 |     1 | count of lists |
//! |        |     … | each: u16 count of names; u16 length and name each |
//! |        |     1 | count of entity tags, if there are any: 1 to 8 |
//! |        |     … | each: the key of the variant (32), u16 length (256 at most) and tag |
//! |        |     8 | checksum of the front |
//!
//! A **compressed** or **sealed** record says at offset 52, in eight bytes, how long the plain record is, and goes on:
//!
//! | bytes | what |
//! |------:|------|
//! |     4 | sealed only: id of the key |
//! |    24 | sealed only: nonce; its last bit is 0 for the front and 1 for the response |
//! |     … | the rest of the plain front, without its checksum; sealed: encrypted |
//! |     8 | checksum as above; sealed: instead of it 16 bytes, the tag of XChaCha20-Poly1305 |
//! |     … | the plain response, without its checksum; compressed: as one frame of Zstandard (RFC 8878); sealed: encrypted |
//! |     8 | checksum as above; sealed: a tag, 16 bytes |
//!
//! Associated data of the first tag: the 60 bytes in the clear (so version, kind, flags, key and lengths), the id, the namespace; of the second
//! tag: the same, and the first tag. What comes out is a plain record, and is checked as one. Where records are sealed, one that is not is corrupt.
//!
//! The checksums tell damage, torn writes and foreign values. They do not stop a forger, who can compute them too; what a forger can do is bounded
//! by the rest: header fields that are no header fields, that are [hop-by-hop](crate::policy::is_hop_by_hop), or a `content-length` that belies
//! the body are corrupt, so that no stored value splits a response. The writer leaves such fields out, so it never writes what a reader refuses.
//! The one exception is a single `content-length` over an empty body: so answers to HEAD look (RFC 9110 section 8.6).

mod pack;
#[cfg(feature = "redis")]
pub(crate) mod part;
mod read;
#[cfg(test)]
mod tests;
mod write;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

pub use self::pack::{Compression, SealKeys};
use self::{
    pack::Packing,
    read::{Front, Kind},
};
use super::Record;
use crate::{error::Error, key::Key, policy::is_hop_by_hop, store::Listing};

/// Turns records into bytes and back, within bounds. The [module](self) describes the form.
#[derive(Clone, Debug)]
pub struct Codec {
    max_record: usize,
    packing: Packing,
}

impl Codec {
    /// A codec for records of up to `max_record` bytes.
    pub fn new(max_record: usize) -> Self {
        Self { max_record, packing: Packing { compression: Compression::Off, seal: None } }
    }

    /// Sets which records are compressed. Default: none. Compressed ones are read in any case, if the feature `zstd` is on.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.packing.compression = compression;
        self
    }

    /// Seals records, and takes none that are not. Default: neither.
    #[must_use]
    pub fn seal(mut self, keys: SealKeys) -> Self {
        self.packing.seal = Some(keys);
        self
    }

    /// The binary form of a record under a key. Copies the body once.
    ///
    /// `None` if it is over the bound, packed or not, or has what the form has no room for: a status below 200, more than 4096 header fields, tags or labels,
    /// more than 262,144 frames, or a text of 64 KiB. Header fields that a reader would refuse are left out.
    pub fn encode(&self, key: &Key, record: &Record) -> Option<Vec<u8>> {
        let (plain, is_stream, is_encoded) = match record {
            Record::Response(entry) if entry.body.len() <= self.max_record => {
                let stream = |value: &HeaderValue| value.as_bytes().starts_with(b"text/event-stream");
                let is_stream = entry.headers.get(header::CONTENT_TYPE).is_some_and(stream);
                (write::response(key, entry)?, is_stream, entry.headers.contains_key(header::CONTENT_ENCODING))
            }
            Record::Response(_) => return None,
            Record::Variants(variants) => (write::variants(key, variants)?, false, false),
        };
        if plain.len() > self.max_record {
            return None;
        }
        let bytes = self.packing.pack(plain, is_stream, is_encoded)?;
        (bytes.len() <= self.max_record).then_some(bytes)
    }

    /// The way back. Copies no body and no header value: they are slices of `bytes`, or of what was unpacked from them.
    ///
    /// Times come back in milliseconds.
    ///
    /// # Errors
    ///
    /// [Corrupt](Error::is_corrupt), whatever is wrong with the bytes.
    pub fn decode(&self, key: &Key, bytes: Bytes) -> Result<Record, Error> {
        let bytes = self.packing.unpack(key, bytes, self.max_record)?;
        let front = Front::read(key, &bytes, self.max_record)?.ok_or_else(cut_short)?;
        match front.kind {
            Kind::Response => front.response(*key, &bytes).map(|entry| Record::Response(entry.into())),
            Kind::Variants => front.variants(&bytes).map(|variants| Record::Variants(variants.into())),
        }
    }

    /// What the start of a record says of the response in it. `None` if it says too little, and the whole record has to be read:
    /// [`PREFIX`](Self::PREFIX) bytes are enough for most, and variants are not listed at all.
    ///
    /// # Errors
    ///
    /// [Corrupt](Error::is_corrupt), whatever is wrong with the bytes. What comes after them is not judged.
    pub fn listing(&self, key: &Key, prefix: &[u8]) -> Result<Option<Listing>, Error> {
        let Some(front) = self.packing.unpack_front(key, prefix, self.max_record)? else { return Ok(None) };
        match Front::read(key, &front, self.max_record)? {
            Some(front) if front.kind == Kind::Response => front.listing(*key).map(Some),
            _ => Ok(None),
        }
    }

    /// How much of a record to read for its listing, in bytes.
    pub const PREFIX: usize = 2048;
}

const MAGIC: [u8; 4] = *b"\x9fTRC";
const VERSION: u8 = 1;
const RESPONSE: u8 = 1;
const VARIANTS: u8 = 2;

/// Where the part that all kinds share ends.
const SHARED: usize = 52;
const CHECKSUM: usize = 8;

const NO_TIME: u64 = u64::MAX;
const NO_TEXT: u16 = u16::MAX;
const USAGE: u8 = 1;
const USAGE_WITH_AUDIO: u8 = 2;
const SENSITIVE: u32 = 1 << 31;

/// Caps on counts: what a record takes in memory stays within a small multiple of its length, and within a few megabytes beyond it.
const MAX_LISTED: usize = 4096;
const MAX_FIELDS: usize = 4096;
const MAX_FRAMES: usize = 1 << 18;

fn cut_short() -> Error {
    Error::corrupt("the record is cut short")
}

fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot_with_seed(seed, bytes)
}

/// Does `Content-Length`, if there is one, tell the length of the body?
fn is_measured(headers: &HeaderMap, body: u64) -> bool {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lines.next(), lines.next()) {
        (None, _) => true,
        (Some(line), None) => length(line).is_some_and(|length| length == body || body == 0),
        (Some(_), Some(_)) => false,
    }
}

fn length(value: &HeaderValue) -> Option<u64> {
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// May a trailer never carry the field (RFC 9110 section 6.5.1)?
fn is_framing(name: &HeaderName) -> bool {
    is_hop_by_hop(name) || name == header::CONTENT_LENGTH
}
