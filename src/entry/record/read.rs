use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    CHECKSUM, MAGIC, MAX_FIELDS, MAX_FRAMES, MAX_LISTED, NO_TEXT, NO_TIME, RESPONSE, SENSITIVE, SHARED, USAGE, USAGE_WITH_AUDIO, VARIANTS,
    VERSION, checksum, cut_short, is_framing, is_measured,
};
use crate::{
    clock::from_unix_millis,
    entry::{Entry, Frames, Lifetime, Metadata, Usage, Variants},
    error::Error,
    key::Key,
    policy::is_hop_by_hop,
    store::Listing,
};

/// The start of a record that is what it says, as far as it goes.
pub(super) struct Front<'a> {
    pub(super) kind: Kind,
    /// The part that belongs to the kind.
    own: Reader<'a>,
    /// Length of the front.
    len: usize,
    /// Length of the whole record.
    whole: usize,
    sum: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Response,
    Variants,
}

/// The part that all kinds share.
pub(super) struct Shared {
    pub(super) kind: Kind,
    pub(super) flags: u16,
    /// Length of the whole record.
    pub(super) whole: usize,
    /// Length of the front.
    pub(super) front: usize,
}

impl Shared {
    /// `None` if there is more of it than was given.
    pub(super) fn read(key: &Key, bytes: &[u8], max_record: usize) -> Result<Option<Self>, Error> {
        if bytes.len() < SHARED {
            return Ok(None);
        }
        let mut shared = Reader { rest: bytes };
        if shared.array::<4>()? != MAGIC {
            return Err(Error::corrupt("not a record"));
        }
        // Before all else: what comes after it may mean something else in another version.
        match shared.u8()? {
            VERSION => {}
            0 => return Err(Error::corrupt("not a record: it has no version")),
            _ => return Err(Error::corrupt("the record was written by a newer version")),
        }
        let kind = match shared.u8()? {
            RESPONSE => Kind::Response,
            VARIANTS => Kind::Variants,
            _ => return Err(Error::corrupt("the record is of an unknown kind")),
        };
        let flags = shared.u16()?;
        if shared.array::<32>()? != *key.as_bytes() {
            return Err(Error::corrupt("the record belongs to another key"));
        }
        let whole = shared.u64()?;
        let front = u64::from(shared.u32()?);
        if whole > max_record as u64 {
            return Err(Error::corrupt("the record is longer than allowed"));
        }
        if front < (SHARED + CHECKSUM) as u64 || front > whole {
            return Err(Error::corrupt("the record's lengths contradict each other"));
        }
        // Neither is over `max_record` now, which is a `usize`.
        Ok(Some(Self { kind, flags, whole: whole as usize, front: front as usize }))
    }
}

impl<'a> Front<'a> {
    /// Of a plain record. `None` if there is more of it than was given.
    pub(super) fn read(key: &Key, bytes: &'a [u8], max_record: usize) -> Result<Option<Self>, Error> {
        let Some(Shared { kind, flags, whole, front: len }) = Shared::read(key, bytes, max_record)? else { return Ok(None) };
        if flags != 0 {
            return Err(Error::corrupt("the record has unknown flags"));
        }
        let Some(front) = bytes.get(..len) else { return Ok(None) };
        let (summed, sum) = front.split_at(len - CHECKSUM);
        let sum = Reader { rest: sum }.u64()?;
        if checksum(0, summed) != sum {
            return Err(Error::corrupt("the record's front is damaged"));
        }
        Ok(Some(Self { kind, own: Reader { rest: &summed[SHARED..] }, len, whole, sum }))
    }

    pub(super) fn listing(mut self, key: Key) -> Result<Listing, Error> {
        let own = &mut self.own;
        let lifetime = own.lifetime()?;
        let body_len = own.u64()?;
        if body_len > self.whole as u64 {
            return Err(Error::corrupt("the record's body is longer than the record"));
        }
        let status = own.status()?;
        let metadata = own.metadata()?;
        own.end()?;
        Ok(Listing { key, status, lifetime, body_len, metadata })
    }

    pub(super) fn response(self, key: Key, bytes: &Bytes) -> Result<Entry, Error> {
        let tail = bytes.get(self.len..).filter(|_| bytes.len() == self.whole).ok_or_else(wrong_length)?;
        let (summed, sum) = tail.split_at_checked(tail.len().wrapping_sub(CHECKSUM)).ok_or_else(cut_short)?;
        if checksum(self.sum, summed) != (Reader { rest: sum }).u64()? {
            return Err(Error::corrupt("the record is damaged"));
        }
        let Listing { status, lifetime, body_len, metadata, .. } = self.listing(key)?;
        let mut tail = Reader { rest: summed };
        let headers = tail.fields(bytes, is_hop_by_hop)?;
        if !is_measured(&headers, body_len) {
            return Err(Error::corrupt("the record's content-length belies its body"));
        }
        let body = tail.frames(bytes, body_len)?;
        let trailers = match tail.flag()? {
            true => Some(tail.fields(bytes, is_framing)?),
            false => None,
        };
        tail.end()?;
        Ok(Entry { status, headers, body, trailers, lifetime, metadata })
    }

    pub(super) fn variants(mut self, bytes: &Bytes) -> Result<Variants, Error> {
        if bytes.len() != self.whole || self.len != self.whole {
            return Err(wrong_length());
        }
        let own = &mut self.own;
        let expires = from_unix_millis(own.u64()?);
        let epoch = own.u64()?;
        let lists = own.u8()?;
        let fields = (0..lists).map(|_| {
            let names = own.count(MAX_LISTED, 2)?;
            (0..names).map(|_| own.name()).collect()
        });
        let fields = fields.collect::<Result<_, _>>()?;
        let mut tags = Vec::new();
        if !own.rest.is_empty() {
            let count = usize::from(own.u8()?);
            if count == 0 || count > Variants::MAX_TAGS {
                return Err(Error::corrupt("the record has fewer or more tags than allowed"));
            }
            for _ in 0..count {
                let key = Key::from_bytes(own.array()?);
                let len = usize::from(own.u16()?);
                let tag = HeaderValue::from_bytes(own.take(len)?).ok().filter(|_| len <= Variants::MAX_TAG);
                tags.push((tag.ok_or_else(|| Error::corrupt("the record has a tag that is none"))?, key));
            }
        }
        own.end()?;
        Ok(Variants { fields, tags, epoch, expires })
    }
}

fn wrong_length() -> Error {
    Error::corrupt("the record's length is not what it says")
}

/// Takes a record apart, from its start. Every length is checked against what is left.
pub(super) struct Reader<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn lifetime(&mut self) -> Result<Lifetime, Error> {
        Ok(Lifetime {
            since: from_unix_millis(self.u64()?),
            fresh_for: self.millis()?,
            stale_while_revalidate: self.millis()?,
            stale_if_error: self.millis()?,
            kept_for: self.millis()?,
        })
    }

    pub(super) fn status(&mut self) -> Result<StatusCode, Error> {
        let status = self.u16()?;
        let status = StatusCode::from_u16(status).ok().filter(|status| !status.is_informational());
        status.ok_or_else(|| Error::corrupt("the record's status is not that of a final response"))
    }

    pub(super) fn usage(&mut self) -> Result<Option<Usage>, Error> {
        let form = self.u8()?;
        if form == 0 {
            return Ok(None);
        }
        if form != USAGE && form != USAGE_WITH_AUDIO {
            return Err(Error::corrupt("the record has a usage in an unknown form"));
        }
        let mut usage = Usage {
            input_uncached: self.u64()?,
            cache_read: self.u64()?,
            cache_write_5m: self.u64()?,
            cache_write_1h: self.u64()?,
            output: self.u64()?,
            reasoning: self.u64()?,
            ..Usage::default()
        };
        if form == USAGE_WITH_AUDIO {
            (usage.audio_input, usage.audio_cache_read, usage.audio_output) = (self.u64()?, self.u64()?, self.u64()?);
        }
        Ok(Some(usage))
    }

    fn metadata(&mut self) -> Result<Metadata, Error> {
        let cached_at = Some(self.u64()?).filter(|millis| *millis != NO_TIME).map(from_unix_millis);
        let (upstream_time, upstream_first_byte) = (self.micros()?, self.micros()?);
        let usage = self.usage()?;
        let [request_id, provider, model, upstream_request_id, service_tier] =
            [self.optional_text()?, self.optional_text()?, self.optional_text()?, self.optional_text()?, self.optional_text()?];
        let tags = (0..self.count(MAX_LISTED, 2)?).map(|_| self.text()).collect::<Result<_, _>>()?;
        let labels = (0..self.count(MAX_LISTED, 4)?).map(|_| Ok((self.text()?, self.text()?))).collect::<Result<_, Error>>()?;
        Ok(Metadata {
            request_id,
            provider,
            model,
            cached_at,
            upstream_time,
            upstream_first_byte,
            usage,
            service_tier,
            tags,
            labels,
            upstream_request_id,
        })
    }

    /// Header or trailer fields, validated as those of a fresh response are.
    pub(super) fn fields(&mut self, bytes: &Bytes, is_refused: fn(&HeaderName) -> bool) -> Result<HeaderMap, Error> {
        let count = self.count(MAX_FIELDS, 6)?;
        let invalid = || Error::corrupt("the record has an invalid header field");
        let mut fields = HeaderMap::try_with_capacity(count).map_err(|_| invalid())?;
        for _ in 0..count {
            let name_len = self.u16()?.into();
            let value_len = self.u32()?;
            let name = HeaderName::from_bytes(self.take(name_len)?).map_err(|_| invalid())?;
            if is_refused(&name) {
                return Err(Error::corrupt("the record has a header field that is never stored"));
            }
            let value = bytes.slice_ref(self.take((value_len & !SENSITIVE) as usize)?);
            let mut value = HeaderValue::from_maybe_shared(value).map_err(|_| invalid())?;
            value.set_sensitive(value_len & SENSITIVE != 0);
            fields.try_append(name, value).map_err(|_| invalid())?;
        }
        Ok(fields)
    }

    fn frames(&mut self, bytes: &Bytes, body_len: u64) -> Result<Frames, Error> {
        let contradiction = || Error::corrupt("the record's frames do not make up its body");
        let count = self.u32()? as usize;
        if count > MAX_FRAMES {
            return Err(Error::corrupt("the record has more frames than allowed"));
        }
        let table = self.take(4 * count)?;
        let lengths = || table.chunks_exact(4).map(|length| u32::from_le_bytes(std::array::from_fn(|i| length[i])));
        if lengths().any(|length| length == 0) || lengths().map(u64::from).sum::<u64>() != body_len {
            return Err(contradiction());
        }
        let body = self.take(usize::try_from(body_len).map_err(|_| contradiction())?)?;
        Ok(Frames::cut(bytes.slice_ref(body), lengths().map(|length| length as usize)))
    }

    /// A count of things that take at least `least` bytes each.
    pub(super) fn count(&mut self, max: usize, least: usize) -> Result<usize, Error> {
        let count = usize::from(self.u16()?);
        if count > max {
            return Err(Error::corrupt("the record has more of something than allowed"));
        }
        if count * least > self.rest.len() {
            return Err(cut_short());
        }
        Ok(count)
    }

    fn text(&mut self) -> Result<String, Error> {
        self.str()?.map(str::to_owned).ok_or_else(|| Error::corrupt("the record lacks a text"))
    }

    pub(super) fn optional_text(&mut self) -> Result<Option<Arc<str>>, Error> {
        Ok(self.str()?.map(Arc::from))
    }

    fn str(&mut self) -> Result<Option<&str>, Error> {
        let len = self.u16()?;
        if len == NO_TEXT {
            return Ok(None);
        }
        let text = std::str::from_utf8(self.take(len.into())?).map_err(|_| Error::corrupt("a text of the record is not UTF-8"))?;
        Ok(Some(text))
    }

    pub(super) fn name(&mut self) -> Result<HeaderName, Error> {
        let len = self.u16()?.into();
        HeaderName::from_bytes(self.take(len)?).map_err(|_| Error::corrupt("the record has an invalid field name"))
    }

    pub(super) fn flag(&mut self) -> Result<bool, Error> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::corrupt("the record has a flag that is neither set nor unset")),
        }
    }

    fn millis(&mut self) -> Result<Duration, Error> {
        self.u64().map(Duration::from_millis)
    }

    fn micros(&mut self) -> Result<Duration, Error> {
        self.u64().map(Duration::from_micros)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (array, rest) = self.rest.split_first_chunk().ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(*array)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn end(&self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::corrupt("the record has more in it than it should")) }
    }
}
