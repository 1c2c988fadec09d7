use std::{borrow::Cow, time::Duration};

use http::{HeaderMap, HeaderName, header};

use super::{
    CHECKSUM, MAGIC, MAX_FIELDS, MAX_FRAMES, MAX_LISTED, NO_TEXT, NO_TIME, RESPONSE, SENSITIVE, SHARED, USAGE, USAGE_WITH_AUDIO, VARIANTS,
    VERSION, checksum, is_framing, is_measured,
};
use crate::{
    clock::unix_millis,
    entry::{Entry, Lifetime, Metadata, Usage, Variants},
    key::Key,
    policy::{is_hop_by_hop, strip_hop_by_hop},
};

pub(super) fn response(key: &Key, entry: &Entry) -> Option<Vec<u8>> {
    let headers = storable(&entry.headers, entry.body.len() as u64);
    let trailers = entry.trailers.as_ref().map(storable_trailers);
    let mut out = Writer::begin(key, RESPONSE, capacity(entry));

    out.lifetime(&entry.lifetime);
    out.u64(entry.body.len() as u64);
    out.u16(Some(entry.status.as_u16()).filter(|status| *status >= 200)?);
    out.metadata(&entry.metadata)?;
    let front = out.end_front()?;

    out.fields(&headers)?;
    out.u32(u32::try_from(entry.body.count()).ok().filter(|count| *count as usize <= MAX_FRAMES)?);
    for frame in entry.body.as_slice() {
        out.u32(u32::try_from(frame.len()).ok()?);
    }
    for frame in entry.body.as_slice() {
        out.bytes.extend_from_slice(frame);
    }
    out.u8(trailers.is_some().into());
    if let Some(trailers) = &trailers {
        out.fields(trailers)?;
    }
    Some(out.finish(front))
}

pub(super) fn variants(key: &Key, variants: &Variants) -> Option<Vec<u8>> {
    let mut out = Writer::begin(key, VARIANTS, 512);
    out.u64(unix_millis(variants.expires));
    out.u64(variants.epoch);
    out.u8(u8::try_from(variants.fields.len()).ok()?);
    for fields in &variants.fields {
        out.count(fields.len(), MAX_LISTED)?;
        for name in fields {
            out.text(name.as_str())?;
        }
    }
    // What follows was not there in the first records of this version, and is not where there is none of it.
    if !variants.tags.is_empty() {
        out.u8(u8::try_from(variants.tags.len()).ok().filter(|count| usize::from(*count) <= Variants::MAX_TAGS)?);
    }
    for (tag, key) in &variants.tags {
        out.bytes.extend_from_slice(key.as_bytes());
        out.u16(u16::try_from(tag.len()).ok().filter(|len| usize::from(*len) <= Variants::MAX_TAG)?);
        out.bytes.extend_from_slice(tag.as_bytes());
    }
    let front = out.end_front()?;
    Some(out.finish(front))
}

/// The fields that a reader accepts.
pub(super) fn storable(headers: &HeaderMap, body: u64) -> Cow<'_, HeaderMap> {
    let measured = is_measured(headers, body);
    if measured && !headers.keys().any(is_hop_by_hop) {
        return Cow::Borrowed(headers);
    }
    let mut headers = headers.clone();
    strip_hop_by_hop(&mut headers);
    if !measured {
        headers.remove(header::CONTENT_LENGTH);
    }
    Cow::Owned(headers)
}

pub(super) fn storable_trailers(trailers: &HeaderMap) -> Cow<'_, HeaderMap> {
    let refused: Vec<HeaderName> = trailers.keys().filter(|name| is_framing(name)).cloned().collect();
    if refused.is_empty() {
        return Cow::Borrowed(trailers);
    }
    let mut trailers = trailers.clone();
    for name in refused {
        trailers.remove(name);
    }
    Cow::Owned(trailers)
}

/// Room for nearly all records without growing.
fn capacity(entry: &Entry) -> usize {
    let fields = |map: &HeaderMap| map.iter().map(|(name, value)| 6 + name.as_str().len() + value.len()).sum::<usize>();
    512 + fields(&entry.headers) + 4 * entry.body.count() + entry.body.len() + entry.trailers.as_ref().map_or(0, fields)
}

pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    fn begin(key: &Key, kind: u8, capacity: usize) -> Self {
        let mut out = Self { bytes: Vec::with_capacity(capacity) };
        out.bytes.extend_from_slice(&MAGIC);
        out.u8(VERSION);
        out.u8(kind);
        out.u16(0);
        out.bytes.extend_from_slice(key.as_bytes());
        // Both lengths, once they are known.
        out.bytes.resize(SHARED, 0);
        out
    }

    pub(super) fn lifetime(&mut self, lifetime: &Lifetime) {
        self.u64(unix_millis(lifetime.since));
        for span in [lifetime.fresh_for, lifetime.stale_while_revalidate, lifetime.stale_if_error, lifetime.kept_for] {
            self.u64(millis(span));
        }
    }

    pub(super) fn usage(&mut self, usage: Option<&Usage>) {
        let Some(usage) = usage else { return self.u8(0) };
        let Usage {
            input_uncached,
            cache_read,
            cache_write_5m,
            cache_write_1h,
            output,
            reasoning,
            audio_input,
            audio_cache_read,
            audio_output,
        } = *usage;
        let (text, audio) = (
            [input_uncached, cache_read, cache_write_5m, cache_write_1h, output, reasoning],
            [audio_input, audio_cache_read, audio_output],
        );
        // Audio was not there in the first records of this version, and is not where there is none.
        let has_audio = audio != [0; 3];
        self.u8(if has_audio { USAGE_WITH_AUDIO } else { USAGE });
        for tokens in text.into_iter().chain(audio.into_iter().filter(|_| has_audio)) {
            self.u64(tokens);
        }
    }

    pub(super) fn optional_text(&mut self, text: Option<&str>) -> Option<()> {
        match text {
            Some(text) => self.text(text)?,
            None => self.u16(NO_TEXT),
        }
        Some(())
    }

    fn metadata(&mut self, metadata: &Metadata) -> Option<()> {
        self.u64(metadata.cached_at.map_or(NO_TIME, unix_millis));
        self.u64(micros(metadata.upstream_time));
        self.u64(micros(metadata.upstream_first_byte));
        self.usage(metadata.usage.as_ref());
        for text in [&metadata.request_id, &metadata.provider, &metadata.model, &metadata.upstream_request_id, &metadata.service_tier] {
            self.optional_text(text.as_deref())?;
        }
        self.count(metadata.tags.len(), MAX_LISTED)?;
        for tag in &metadata.tags {
            self.text(tag)?;
        }
        self.count(metadata.labels.len(), MAX_LISTED)?;
        for (name, value) in &*metadata.labels {
            self.text(name)?;
            self.text(value)?;
        }
        Some(())
    }

    pub(super) fn fields(&mut self, fields: &HeaderMap) -> Option<()> {
        self.count(fields.len(), MAX_FIELDS)?;
        for (name, value) in fields {
            self.u16(u16::try_from(name.as_str().len()).ok()?);
            let len = u32::try_from(value.len()).ok().filter(|len| len & SENSITIVE == 0)?;
            self.u32(if value.is_sensitive() { len | SENSITIVE } else { len });
            self.bytes.extend_from_slice(name.as_str().as_bytes());
            self.bytes.extend_from_slice(value.as_bytes());
        }
        Some(())
    }

    pub(super) fn count(&mut self, count: usize, max: usize) -> Option<()> {
        self.u16(u16::try_from(count).ok().filter(|_| count <= max)?);
        Some(())
    }

    pub(super) fn text(&mut self, text: &str) -> Option<()> {
        self.u16(u16::try_from(text.len()).ok().filter(|len| *len != NO_TEXT)?);
        self.bytes.extend_from_slice(text.as_bytes());
        Some(())
    }

    /// Ends the front and says how long it is. Its checksum covers the length of the whole, so [`finish`](Self::finish) fills it in.
    fn end_front(&mut self) -> Option<usize> {
        self.u64(0);
        let front = self.bytes.len();
        self.bytes[48..SHARED].copy_from_slice(&u32::try_from(front).ok()?.to_le_bytes());
        Some(front)
    }

    /// Fills in the length of the whole and the checksums.
    fn finish(mut self, front: usize) -> Vec<u8> {
        let whole = self.bytes.len() + if self.bytes.len() > front { CHECKSUM } else { 0 };
        self.bytes[40..48].copy_from_slice(&(whole as u64).to_le_bytes());
        let sum = checksum(0, &self.bytes[..front - CHECKSUM]);
        self.bytes[front - CHECKSUM..front].copy_from_slice(&sum.to_le_bytes());
        if whole > front {
            let sum = checksum(sum, &self.bytes[front..]);
            self.u64(sum);
        }
        self.bytes
    }

    pub(super) fn u8(&mut self, number: u8) {
        self.bytes.push(number);
    }

    pub(super) fn u16(&mut self, number: u16) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn u64(&mut self, number: u64) {
        self.bytes.extend_from_slice(&number.to_le_bytes());
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
