//! Compression and sealing: what is done to a plain record before it is stored, and undone before it is read.
//!
//! Both change the form of what follows the part that all kinds share; the plain record inside is the same, and goes through the same checks.

mod compress;
mod seal;

use std::borrow::Cow;

use bytes::Bytes;

pub use self::{compress::Compression, seal::SealKeys};
use super::{
    CHECKSUM, RESPONSE, SHARED, VARIANTS, checksum, cut_short,
    read::{Kind, Shared},
};
use crate::{error::Error, key::Key};

/// The response is one frame of Zstandard (RFC 8878).
const COMPRESSED: u16 = 1;
/// All but the shared part is sealed.
const SEALED: u16 = 2;

/// Length of the plain record, behind the shared part.
const PLAIN_LEN: usize = 8;

/// How records are packed.
#[derive(Clone, Debug, Default)]
pub(super) struct Packing {
    pub(super) compression: Compression,
    pub(super) seal: Option<SealKeys>,
}

impl Packing {
    /// Packs a plain record. `None` if it cannot be sealed.
    pub(super) fn pack(&self, plain: Vec<u8>, is_stream: bool, is_encoded: bool) -> Option<Vec<u8>> {
        let front = u32::from_le_bytes(*plain.get(48..)?.first_chunk()?) as usize;
        let tail = plain.get(front..plain.len().max(front + CHECKSUM) - CHECKSUM).unwrap_or_default();
        let squeezed = self.compression.applies(tail.len(), is_stream, is_encoded).then(|| compress::compress(tail)).flatten();
        if squeezed.is_none() && self.seal.is_none() {
            return Some(plain);
        }
        let flags = if squeezed.is_some() { COMPRESSED } else { 0 } | if self.seal.is_some() { SEALED } else { 0 };
        let tail = squeezed.as_deref().unwrap_or(tail);
        let own = &plain[SHARED..front - CHECKSUM];

        let (extra, check) = match &self.seal {
            Some(_) => (PLAIN_LEN + seal::HEADER, seal::TAG),
            None => (PLAIN_LEN, CHECKSUM),
        };
        let packed_front = SHARED + extra + own.len() + check;
        let whole = packed_front + if plain.len() > front { tail.len() + check } else { 0 };
        let mut out = Vec::with_capacity(whole);
        out.extend_from_slice(&plain[..SHARED]);
        out[6..8].copy_from_slice(&flags.to_le_bytes());
        out[40..48].copy_from_slice(&(whole as u64).to_le_bytes());
        out[48..SHARED].copy_from_slice(&u32::try_from(packed_front).ok()?.to_le_bytes());
        out.extend_from_slice(&(plain.len() as u64).to_le_bytes());
        match &self.seal {
            Some(keys) => keys.seal(&mut out, own, (plain.len() > front).then_some(tail))?,
            None => {
                out.extend_from_slice(own);
                let sum = checksum(0, &out);
                out.extend_from_slice(&sum.to_le_bytes());
                out.extend_from_slice(tail);
                let sum = checksum(sum, &out[packed_front..]);
                out.extend_from_slice(&sum.to_le_bytes());
            }
        }
        Some(out)
    }

    /// The plain record in a packed one.
    pub(super) fn unpack(&self, key: &Key, bytes: Bytes, max_record: usize) -> Result<Bytes, Error> {
        let shared = Shared::read(key, &bytes, max_record)?.ok_or_else(cut_short)?;
        if self.is_plain(&shared)? {
            return Ok(bytes);
        }
        if bytes.len() != shared.whole {
            return Err(Error::corrupt("the record's length is not what it says"));
        }
        let Front { plain: front, whole, proof } = self.front(&shared, &bytes, max_record)?;
        let mut tail = &bytes[shared.front..];
        if tail.is_empty() && whole == front.len() && shared.flags & COMPRESSED == 0 {
            return Ok(front.into());
        }
        let opened;
        match &proof {
            Proof::Sum(sum) => {
                let (summed, last) = tail.split_at_checked(tail.len().wrapping_sub(CHECKSUM)).ok_or_else(cut_short)?;
                if checksum(*sum, summed).to_le_bytes() != last {
                    return Err(Error::corrupt("the record is damaged"));
                }
                tail = summed;
            }
            Proof::Opener(opener) => {
                opened = opener.open_tail(tail)?;
                tail = &opened;
            }
        }
        let Some(len) = whole.checked_sub(front.len() + CHECKSUM) else { return Err(contradiction()) };
        let mut plain = Vec::with_capacity(whole);
        plain.extend_from_slice(&front);
        if shared.flags & COMPRESSED != 0 {
            compress::expand(tail, &mut plain, len)?;
        } else if tail.len() == len {
            plain.extend_from_slice(tail);
        } else {
            return Err(contradiction());
        }
        let sum = checksum(sum_of(&front), &plain[front.len()..]);
        plain.extend_from_slice(&sum.to_le_bytes());
        Ok(plain.into())
    }

    /// The front of the plain record in a packed one; `None` if there is more of it than was given.
    pub(super) fn unpack_front<'a>(&self, key: &Key, prefix: &'a [u8], max_record: usize) -> Result<Option<Cow<'a, [u8]>>, Error> {
        match Shared::read(key, prefix, max_record)? {
            Some(shared) if self.is_plain(&shared)? => Ok(Some(prefix.into())),
            Some(shared) if prefix.len() >= shared.front => self.front(&shared, prefix, max_record).map(|front| Some(front.plain.into())),
            _ => Ok(None),
        }
    }

    /// Packs one part, which is bound to its beginning in the clear, and to its place. `None` if it cannot be sealed.
    #[cfg(feature = "redis")]
    pub(super) fn pack_part(&self, clear: Vec<u8>, place: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let squeezed = self.compression.applies(plain.len(), true, false).then(|| compress::compress(plain)).flatten();
        let flags = if squeezed.is_some() { COMPRESSED } else { 0 } | if self.seal.is_some() { SEALED } else { 0 };
        let packed = squeezed.as_deref().unwrap_or(plain);
        let mut out = clear;
        out[6..8].copy_from_slice(&flags.to_le_bytes());
        match &self.seal {
            Some(keys) => keys.seal_part(&mut out, place, packed)?,
            None => {
                out.extend_from_slice(packed);
                let sum = checksum(checksum(0, place), &out);
                out.extend_from_slice(&sum.to_le_bytes());
            }
        }
        Some(out)
    }

    /// What was packed, `len` bytes of it.
    #[cfg(feature = "redis")]
    pub(super) fn unpack_part(&self, clear: &[u8], flags: u16, place: &[u8], rest: &[u8], len: usize) -> Result<Vec<u8>, Error> {
        if flags & !(COMPRESSED | SEALED) != 0 || self.seal.is_some() != (flags & SEALED != 0) {
            return Err(Error::corrupt("a part of a live stream has unknown flags, or is not sealed as it should be"));
        }
        let packed = match &self.seal {
            Some(keys) => keys.open_part(clear, place, rest)?,
            None => {
                let (packed, sum) = rest.split_at_checked(rest.len().wrapping_sub(CHECKSUM)).ok_or_else(cut_short)?;
                if checksum(checksum(0, place), &[clear, packed].concat()).to_le_bytes() != sum {
                    return Err(Error::corrupt("a part of a live stream is damaged, or out of its place"));
                }
                packed.to_vec()
            }
        };
        if flags & COMPRESSED != 0 {
            let mut plain = Vec::with_capacity(len);
            compress::expand(&packed, &mut plain, len)?;
            return Ok(plain);
        }
        if packed.len() == len { Ok(packed) } else { Err(contradiction()) }
    }

    fn is_plain(&self, shared: &Shared) -> Result<bool, Error> {
        if shared.flags & !(COMPRESSED | SEALED) != 0 || shared.flags & COMPRESSED != 0 && shared.kind != Kind::Response {
            return Err(Error::corrupt("the record has unknown flags"));
        }
        // Whoever could write an unsealed one in the place of a sealed one had no need to forge.
        if self.seal.is_some() && shared.flags & SEALED == 0 {
            return Err(Error::corrupt("the record is not sealed"));
        }
        Ok(shared.flags == 0)
    }

    fn front(&self, shared: &Shared, bytes: &[u8], max_record: usize) -> Result<Front<'_>, Error> {
        let front = bytes.get(..shared.front).ok_or_else(cut_short)?;
        let (rest, whole) = front
            .get(SHARED..)
            .and_then(|rest| rest.split_first_chunk::<PLAIN_LEN>())
            .map_or_else(|| Err(cut_short()), |(whole, rest)| Ok((rest, u64::from_le_bytes(*whole))))?;
        // Now it is within a `usize`.
        let whole = usize::try_from(whole)
            .ok()
            .filter(|whole| *whole <= max_record)
            .ok_or_else(|| Error::corrupt("the record is longer than allowed"))?;
        let (own, proof) = if shared.flags & SEALED == 0 {
            let (own, sum) = rest.split_at_checked(rest.len().wrapping_sub(CHECKSUM)).ok_or_else(cut_short)?;
            let computed = checksum(0, &front[..front.len() - CHECKSUM]);
            if computed.to_le_bytes() != sum {
                return Err(Error::corrupt("the record's front is damaged"));
            }
            (own.to_vec(), Proof::Sum(computed))
        } else {
            let keys = self.seal.as_ref().ok_or_else(|| Error::corrupt("the record is sealed, and there is no key for it"))?;
            let (own, opener) = keys.open(&front[..SHARED + PLAIN_LEN], rest)?;
            (own, Proof::Opener(opener))
        };
        let len = SHARED + own.len() + CHECKSUM;
        if len > whole {
            return Err(contradiction());
        }
        let mut plain = Vec::with_capacity(len);
        plain.extend_from_slice(&front[..SHARED]);
        plain[5] = match shared.kind {
            Kind::Response => RESPONSE,
            Kind::Variants => VARIANTS,
        };
        plain[6..8].copy_from_slice(&[0; 2]);
        plain[40..48].copy_from_slice(&(whole as u64).to_le_bytes());
        // It is shorter than `whole` was, which was a `u32`'s worth of front.
        plain[48..SHARED].copy_from_slice(&u32::try_from(len).map_err(|_| contradiction())?.to_le_bytes());
        plain.extend_from_slice(&own);
        let sum = checksum(0, &plain);
        plain.extend_from_slice(&sum.to_le_bytes());
        Ok(Front { plain, whole, proof })
    }
}

struct Front<'a> {
    /// As it is in the plain record.
    plain: Vec<u8>,
    /// Length of the plain record.
    whole: usize,
    proof: Proof<'a>,
}

/// What tells that the rest is what was written.
enum Proof<'a> {
    Sum(u64),
    Opener(seal::Opener<'a>),
}

fn sum_of(front: &[u8]) -> u64 {
    front.last_chunk().map_or(0, |sum| u64::from_le_bytes(*sum))
}

fn contradiction() -> Error {
    Error::corrupt("the record's lengths contradict each other")
}

#[cfg(test)]
mod tests;
