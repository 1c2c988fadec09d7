//! Parts of stored responses (RFC 9110 section 14), and stored parts (RFC 9111 sections 3.3 and 3.4).

use std::{
    ops::Range,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request, response};

use super::{HttpPolicy, date, freshness::Arrival, validation::matches_strongly};
use crate::{
    entry::{Entry, Frames},
    policy::{Replay, Splice},
};

/// More ranges than this are answered with the whole: many small ranges are a way to make little work for oneself and much for a server
/// (RFC 9110 section 17.15).
const MAX_RANGES: usize = 16;

/// One asked for, of a length that is yet unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    From(u64),
    /// Both ends included.
    FromTo(u64, u64),
    Last(u64),
}

impl Asked {
    /// The bytes that it means in a representation of that length; none if there are none.
    fn of(self, len: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From(first) => first..len,
            Self::FromTo(first, last) => first..last.saturating_add(1).min(len),
            Self::Last(suffix) => len.saturating_sub(suffix)..len,
        };
        (range.start < range.end).then_some(range)
    }
}

/// What is asked for; `None` if it is the whole, or nothing that could be understood (RFC 9110 section 14.2).
fn asked(request: &request::Parts) -> Option<Vec<Asked>> {
    let mut lines = request.headers.get_all(header::RANGE).iter();
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    // A range is defined for GET alone.
    if request.method != Method::GET {
        return None;
    }
    let (unit, set) = line.to_str().ok()?.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // One too great to count is beyond every end.
        true => Some(text.parse().unwrap_or(u64::MAX)),
        false => None,
    };
    let ranges = set.split(',').map(str::trim).filter(|range| !range.is_empty()).map(|range| {
        let (first, last) = range.split_once('-')?;
        match (first, last) {
            ("", last) => Some(Asked::Last(number(last)?)),
            (first, "") => Some(Asked::From(number(first)?)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Asked::FromTo(first, last))
            }
        }
    });
    ranges.collect::<Option<Vec<_>>>().filter(|ranges| !ranges.is_empty() && ranges.len() <= MAX_RANGES)
}

/// Is the part wanted from the stored response rather than the whole of a newer one (RFC 9110 section 13.1.5)?
fn if_range_holds(request: &request::Parts, entry: &Entry) -> bool {
    let Some(condition) = request.headers.get(header::IF_RANGE) else { return true };
    let condition = condition.as_bytes().trim_ascii();
    if condition.starts_with(b"\"") || condition.starts_with(b"W/") {
        return entry.headers.get(header::ETAG).is_some_and(|tag| matches_strongly(condition, tag.as_bytes()));
    }
    // A date has to be the very same, and strong.
    let now = entry.lifetime.since;
    let modified = date::field(&entry.headers, &header::LAST_MODIFIED, now);
    is_strongly_dated(&entry.headers) && modified.is_some() && modified == date::parse(condition, now)
}

/// The part of a representation that a 206 has (RFC 9110 section 14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// The last byte is not included.
    pub(super) first: u64,
    pub(super) end: u64,
    /// Of the whole, if it is known.
    pub(super) len: Option<u64>,
}

impl Part {
    /// From `Content-Range`; `None` if it is absent, not of bytes, or contradicts itself.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (unit, range) = value.trim().split_once(' ')?;
        let (range, len) = range.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
        let (first, end) = (number(first)?, number(last)?.checked_add(1)?);
        let len = if len == "*" { None } else { Some(number(len)?) };
        (unit.eq_ignore_ascii_case("bytes") && first < end && len.is_none_or(|len| end <= len)).then_some(Self { first, end, len })
    }

    fn value(self) -> Option<HeaderValue> {
        let Self { first, end, len } = self;
        let last = end.checked_sub(1)?;
        let value = match len {
            Some(len) => format!("bytes {first}-{last}/{len}"),
            None => format!("bytes {first}-{last}/*"),
        };
        HeaderValue::try_from(value).ok()
    }

    /// The bytes of the whole that a request asks for, if this part has them all.
    fn covers(self, asked: Asked) -> Option<Range<u64>> {
        let range = match (self.len, asked) {
            (Some(len), asked) => asked.of(len)?,
            (None, Asked::FromTo(first, last)) => first..last.checked_add(1)?,
            (None, _) => return None,
        };
        (self.first <= range.start && range.end <= self.end).then_some(range)
    }
}

/// The part that a stored 206 has; none if its content is not as long as it says.
fn stored(entry: &Entry) -> Option<Part> {
    Part::of(&entry.headers).filter(|part| part.end - part.first == entry.body.len() as u64)
}

/// Can a stored 206 answer the request?
pub(super) fn covers(request: &request::Parts, entry: &Entry) -> bool {
    let (Some(part), Some(asked)) = (stored(entry), asked(request)) else { return false };
    // Whoever wants the whole unless it is this one has to ask for it.
    matches!(asked[..], [one] if part.covers(one).is_some()) && if_range_holds(request, entry)
}

/// Fields that ask for what a stored part is lacking (RFC 9111 section 3.4), if it is the beginning and has a strong validator.
pub(super) fn completing(entry: &Entry) -> Option<HeaderMap> {
    let part = stored(entry)?;
    let (_, validator) = strong_validator(&entry.headers)?;
    if part.first > 0 || part.len.is_none_or(|len| part.end >= len) {
        return None;
    }
    let mut conditions = HeaderMap::new();
    conditions.insert(header::RANGE, HeaderValue::try_from(format!("bytes={}-", part.end)).ok()?);
    conditions.insert(header::IF_RANGE, validator.clone());
    Some(conditions)
}

/// An entity tag that is not weak; without any tag, a date of modification that is strong by its age (RFC 9110 sections 8.8.1 and 8.8.2.2).
fn strong_validator(headers: &HeaderMap) -> Option<(HeaderName, &HeaderValue)> {
    match headers.get(header::ETAG) {
        Some(tag) => (!tag.as_bytes().starts_with(b"W/")).then_some((header::ETAG, tag)),
        None => Some((header::LAST_MODIFIED, headers.get(header::LAST_MODIFIED).filter(|_| is_strongly_dated(headers))?)),
    }
}

/// Was the last modification so long before the response that a second one within its second would show? At least one (RFC 9110 section 8.8.2.2).
fn is_strongly_dated(headers: &HeaderMap) -> bool {
    // Which century a two-digit year is of is not worth a clock here: around this one.
    let around = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let Some(dated) = date::field(headers, &header::DATE, around) else { return false };
    let modified = date::field(headers, &header::LAST_MODIFIED, dated);
    modified.and_then(|modified| dated.duration_since(modified).ok()).is_some_and(|gap| gap.as_secs() >= 1)
}

/// Do two parts belong to one representation (RFC 9110 section 15.3.7.3)?
fn is_of_the_same(one: &HeaderMap, other: &HeaderMap) -> bool {
    matches!((strong_validator(one), strong_validator(other)), (Some(one), Some(other)) if one == other)
}

/// Is a 206 the rest that was asked for on the condition that nothing has changed? One to a date may leave the date out (RFC 9110 section 15.3.7).
fn is_of_what_was_asked(stored: &HeaderMap, rest: &HeaderMap) -> bool {
    let undated = !rest.contains_key(header::ETAG) && !rest.contains_key(header::LAST_MODIFIED);
    is_of_the_same(stored, rest) || (undated && matches!(strong_validator(stored), Some((header::LAST_MODIFIED, _))))
}

impl HttpPolicy {
    /// The whole that a stored beginning and the response to [`completing`] make.
    pub(super) fn spliced(&self, entry: &Entry, response: &response::Parts, arrival: Arrival) -> Option<Splice> {
        let (stored, rest) = (stored(entry)?, Part::of(&response.headers)?);
        let len = stored.len?;
        if response.status != StatusCode::PARTIAL_CONTENT
            || !is_of_what_was_asked(&entry.headers, &response.headers)
            || stored.first > 0
            || rest.first != stored.end
            || rest.end != len
            || rest.len != Some(len)
        {
            return None;
        }
        let mut headers = entry.headers.clone();
        self.update(&mut headers, &response.headers, arrival);
        headers.remove(header::CONTENT_RANGE);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
        Some(Splice { status: StatusCode::OK, headers, before: entry.body.clone() })
    }

    /// What a stored part and a newer one make together, if they touch and are of one representation; else the newer one.
    pub(super) fn combined(&self, entry: &Entry, newer: Entry) -> Entry {
        let combined = || {
            let (stored, part) = (stored(entry)?, stored(&newer)?);
            let is_apart = stored.end < part.first || part.end < stored.first;
            if newer.status != StatusCode::PARTIAL_CONTENT
                || entry.status != StatusCode::PARTIAL_CONTENT
                || !is_of_the_same(&entry.headers, &newer.headers)
                || stored.len != part.len
                || is_apart
                || newer.trailers.is_some()
            {
                return None;
            }
            let mut body = Vec::new();
            if stored.first < part.first {
                cut(&entry.body, 0..part.first - stored.first, &mut body);
            }
            body.extend(newer.body.as_slice().iter().cloned());
            if part.end < stored.end {
                cut(&entry.body, part.end - stored.first..stored.end - stored.first, &mut body);
            }
            let whole = Part { first: stored.first.min(part.first), end: stored.end.max(part.end), len: part.len };
            let body = Frames::compact(&body);
            if body.len() as u64 != whole.end - whole.first || body.len() > self.max_body {
                return None;
            }
            // A newer part may leave out what its caller has: the stored fields are updated, not replaced.
            let mut headers = entry.headers.clone();
            self.update(&mut headers, &newer.headers, Arrival { at: newer.lifetime.since, waited: Duration::ZERO });
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            let is_all = whole.first == 0 && Some(whole.end) == whole.len;
            let status = if is_all {
                headers.remove(header::CONTENT_RANGE);
                StatusCode::OK
            } else {
                headers.insert(header::CONTENT_RANGE, whole.value()?);
                StatusCode::PARTIAL_CONTENT
            };
            Some((status, headers, body))
        };
        match combined() {
            Some((status, headers, body)) => Entry { status, headers, body, ..newer },
            None => newer,
        }
    }
}

/// Makes an answer one of the part that the request asks for.
pub(super) fn select(request: &request::Parts, entry: &Entry, answer: &mut Replay) {
    let Some(asked) = asked(request) else { return };
    if entry.status == StatusCode::PARTIAL_CONTENT {
        if let (Some(stored), [one]) = (stored(entry), &asked[..])
            && let Some(range) = stored.covers(*one)
        {
            let mut chunks = Vec::new();
            cut(&entry.body, range.start - stored.first..range.end - stored.first, &mut chunks);
            part(range, stored.len, chunks, answer);
        }
        return;
    }
    if entry.status != StatusCode::OK || !if_range_holds(request, entry) {
        return;
    }
    let len = entry.body.len() as u64;
    // The last bytes of nothing are satisfiable, and no part (RFC 9110 section 14.1.2).
    if len == 0 && asked.iter().any(|asked| matches!(asked, Asked::Last(1..))) {
        return;
    }
    let ranges: Vec<Range<u64>> = asked.into_iter().filter_map(|asked| asked.of(len)).collect();
    match &ranges[..] {
        [] => {
            answer.status = StatusCode::RANGE_NOT_SATISFIABLE;
            answer.headers.remove(header::CONTENT_TYPE);
            answer.headers.remove(header::CONTENT_ENCODING);
            answer.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
            if let Ok(value) = HeaderValue::try_from(format!("bytes */{len}")) {
                answer.headers.insert(header::CONTENT_RANGE, value);
            }
            answer.body = Some(Frames::default());
        }
        [one] => {
            let mut chunks = Vec::new();
            cut(&entry.body, one.clone(), &mut chunks);
            part(one.clone(), Some(len), chunks, answer);
        }
        // Ranges that together are more than the whole are answered with the whole.
        many if many.iter().map(|range| range.end - range.start).sum::<u64>() <= len => parts(many, len, entry, answer),
        _ => {}
    }
}

/// One part.
fn part(range: Range<u64>, len: Option<u64>, chunks: Vec<Bytes>, answer: &mut Replay) {
    let part = Part { first: range.start, end: range.end, len };
    let Some(value) = part.value() else { return };
    answer.status = StatusCode::PARTIAL_CONTENT;
    answer.headers.insert(header::CONTENT_RANGE, value);
    answer.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
    answer.body = Some(Frames::new(chunks));
}

/// Several parts, as multipart/byteranges (RFC 9110 section 14.6).
fn parts(ranges: &[Range<u64>], len: u64, entry: &Entry, answer: &mut Replay) {
    // Nobody who writes a body can know it.
    let boundary = format!("{:032x}", fastrand::u128(..));
    let mut chunks = Vec::new();
    for range in ranges {
        let mut head = format!("{}--{boundary}\r\n", if chunks.is_empty() { "" } else { "\r\n" }).into_bytes();
        if let Some(media_type) = entry.headers.get(header::CONTENT_TYPE) {
            head.extend_from_slice(b"Content-Type: ");
            head.extend_from_slice(media_type.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(format!("Content-Range: bytes {}-{}/{len}\r\n\r\n", range.start, range.end - 1).as_bytes());
        chunks.push(head.into());
        cut(&entry.body, range.clone(), &mut chunks);
    }
    chunks.push(format!("\r\n--{boundary}--\r\n").into());
    let Ok(media_type) = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}")) else { return };
    let body = Frames::new(chunks);
    answer.status = StatusCode::PARTIAL_CONTENT;
    answer.headers.insert(header::CONTENT_TYPE, media_type);
    answer.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    answer.body = Some(body);
}

/// Appends the chunks, or parts of chunks, that make up a range of a body. Copies nothing.
fn cut(body: &Frames, range: Range<u64>, chunks: &mut Vec<Bytes>) {
    let mut at = 0;
    for chunk in body.as_slice() {
        let end = at + chunk.len() as u64;
        let (from, to) = (range.start.max(at), range.end.min(end));
        if from < to {
            // Within the chunk, whose length is a `usize`.
            let within = |position: u64| usize::try_from(position - at).unwrap_or(usize::MAX);
            chunks.push(chunk.slice(within(from)..within(to)));
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::http::tests::{date_at, entry, get, now, response};

    fn answer(request: &request::Parts, entry: &Entry) -> (u16, Option<String>, Option<Vec<u8>>) {
        let mut answer = Replay { status: entry.status, headers: entry.headers.clone(), body: None };
        select(request, entry, &mut answer);
        let range = answer.headers.get("content-range").map(|value| value.to_str().unwrap().to_owned());
        (answer.status.as_u16(), range, answer.body.map(|body| body.concat().to_vec()))
    }

    #[test]
    fn a_part_of_a_complete_response_is_cut_out_of_it() {
        let mut stored = entry(200, &[("etag", "\"a\""), ("last-modified", &date_at(-100)), ("date", &date_at(0))], b"");
        stored.body = Frames::new([Bytes::from_static(b"012"), Bytes::from_static(b"3456"), Bytes::from_static(b"789")]);
        let part = |range: &str, body: &str| (206, Some(format!("bytes {range}/10")), Some(body.as_bytes().to_vec()));
        let whole = (200, None, None);
        let none = (416, Some("bytes */10".to_owned()), Some(Vec::new()));
        for (fields, expected) in [
            (vec![("range", "bytes=0-0")], part("0-0", "0")),
            (vec![("range", "bytes=2-7")], part("2-7", "234567")),
            (vec![("range", "bytes=7-")], part("7-9", "789")),
            (vec![("range", "bytes=0-")], part("0-9", "0123456789")),
            (vec![("range", "bytes=-3")], part("7-9", "789")),
            (vec![("range", "bytes=-30")], part("0-9", "0123456789")),
            (vec![("range", "bytes=8-99999999999999999999999")], part("8-9", "89")),
            (vec![("range", "Bytes=8-9")], part("8-9", "89")),
            (vec![("range", "bytes=, 8-9 ,")], part("8-9", "89")),
            (vec![("range", "bytes=8-9, 20-30")], part("8-9", "89")),
            (vec![("range", "bytes=10-")], none.clone()),
            (vec![("range", "bytes=-0")], none.clone()),
            (vec![("range", "bytes=10-11, 20-")], none),
            (vec![("range", "bytes=5-4")], whole.clone()),
            (vec![("range", "bytes=a-b")], whole.clone()),
            (vec![("range", "bytes=-")], whole.clone()),
            (vec![("range", "bytes=")], whole.clone()),
            (vec![("range", "bytes=0-1-2")], whole.clone()),
            (vec![("range", "bytes 0-1")], whole.clone()),
            (vec![("range", "lines=0-1")], whole.clone()),
            (vec![("range", "bytes=0-1"), ("range", "bytes=2-3")], whole.clone()),
            // More than the whole.
            (vec![("range", "bytes=0-8, 1-9")], whole.clone()),
            (vec![("range", "bytes=0-1"), ("if-range", "\"a\"")], part("0-1", "01")),
            (vec![("range", "bytes=0-1"), ("if-range", "\"b\"")], whole.clone()),
            (vec![("range", "bytes=0-1"), ("if-range", "W/\"a\"")], whole.clone()),
            (vec![("range", "bytes=0-1"), ("if-range", &date_at(-100))], part("0-1", "01")),
            (vec![("range", "bytes=0-1"), ("if-range", &date_at(-99))], whole.clone()),
            (vec![("range", "bytes=0-1"), ("if-range", "junk")], whole.clone()),
        ] {
            assert_eq!(answer(&get("/", &fields), &stored), expected, "{fields:?}");
        }
        let mut head = get("/", &[("range", "bytes=0-1")]);
        head.method = Method::HEAD;
        assert_eq!(answer(&head, &stored), whole);
    }

    #[test]
    fn several_parts_come_as_multipart() {
        let stored = entry(200, &[("content-type", "text/plain")], b"0123456789");
        let mut answer = Replay { status: stored.status, headers: stored.headers.clone(), body: None };
        select(&get("/", &[("range", "bytes=0-1,8-")]), &stored, &mut answer);
        let media_type = answer.headers["content-type"].to_str().unwrap();
        let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
        let body = answer.body.unwrap().concat();
        let expected = format!(
            "--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
             \r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\n89\r\n--{boundary}--\r\n"
        );
        assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
        assert_eq!(answer.headers["content-length"], expected.len().to_string());
        assert!(!answer.headers.contains_key("content-range"));
    }

    #[test]
    fn a_stored_part_answers_what_it_covers() {
        let known = entry(206, &[("content-range", "bytes 2-5/10")], b"2345");
        let unknown = entry(206, &[("content-range", "bytes 2-5/*")], b"2345");
        let last = entry(206, &[("content-range", "bytes 6-9/10")], b"6789");
        for (stored, range, expected) in [
            (&known, "bytes=2-5", Some(("bytes 2-5/10", "2345"))),
            (&known, "bytes=3-4", Some(("bytes 3-4/10", "34"))),
            (&known, "bytes=1-3", None),
            (&known, "bytes=4-6", None),
            (&known, "bytes=4-", None),
            (&known, "bytes=-2", None),
            (&known, "bytes=20-", None),
            (&known, "bytes=2-3,4-5", None),
            (&unknown, "bytes=3-4", Some(("bytes 3-4/*", "34"))),
            (&unknown, "bytes=3-", None),
            (&last, "bytes=6-", Some(("bytes 6-9/10", "6789"))),
            (&last, "bytes=-2", Some(("bytes 8-9/10", "89"))),
            (&last, "bytes=8-20", Some(("bytes 8-9/10", "89"))),
            (&last, "bytes=-5", None),
        ] {
            let request = get("/", &[("range", range)]);
            assert_eq!(covers(&request, stored), expected.is_some(), "{range}");
            if let Some((range, body)) = expected {
                assert_eq!(answer(&request, stored), (206, Some(range.to_owned()), Some(body.as_bytes().to_vec())));
            }
        }
        assert!(!covers(&get("/", &[]), &known), "a part never stands for the whole");
        assert!(!covers(&get("/", &[("range", "bytes=2-5"), ("if-range", "\"x\"")]), &known));
        for body in [&b"234"[..], b"23456"] {
            let lying = entry(206, &[("content-range", "bytes 2-5/10"), ("etag", "\"a\"")], body);
            assert!(!covers(&get("/", &[("range", "bytes=2-3")]), &lying), "a part that is not as long as it says has nothing");
            assert!(completing(&lying).is_none());
        }
    }

    #[test]
    fn parts_are_combined_if_they_touch_and_have_one_strong_tag() {
        let policy = HttpPolicy::shared();
        let part = |tag: &str, range: &str, body: &'static [u8]| entry(206, &[("etag", tag), ("content-range", range)], body);
        let stored = part("\"a\"", "bytes 2-5/8", b"2345");
        for (newer, expected) in [
            (part("\"a\"", "bytes 6-7/8", b"67"), (206, Some("bytes 2-7/8"), "234567")),
            (part("\"a\"", "bytes 0-1/8", b"01"), (206, Some("bytes 0-5/8"), "012345")),
            (part("\"a\"", "bytes 0-7/8", b"01234567"), (200, None, "01234567")),
            (part("\"a\"", "bytes 3-4/8", b"34"), (206, Some("bytes 2-5/8"), "2345")),
            (part("\"a\"", "bytes 7-7/8", b"7"), (206, Some("bytes 7-7/8"), "7")),
            (part("\"b\"", "bytes 6-7/8", b"67"), (206, Some("bytes 6-7/8"), "67")),
            (part("W/\"a\"", "bytes 6-7/8", b"67"), (206, Some("bytes 6-7/8"), "67")),
            (part("\"a\"", "bytes 6-8/9", b"678"), (206, Some("bytes 6-8/9"), "678")),
            (part("\"a\"", "junk", b"67"), (206, Some("junk"), "67")),
        ] {
            let combined = policy.combined(&stored, newer);
            let range = combined.headers.get("content-range").map(|value| value.to_str().unwrap().to_owned());
            let body = String::from_utf8(combined.body.concat().to_vec()).unwrap();
            assert_eq!((combined.status.as_u16(), range.as_deref(), body.as_str()), expected);
        }
    }

    #[test]
    fn a_stored_beginning_is_completed_rather_than_asked_for_again() {
        let policy = HttpPolicy::shared();
        let arrival = Arrival { at: now(), waited: Duration::ZERO };
        let stored = entry(206, &[("etag", "\"a\""), ("content-range", "bytes 0-3/8"), ("content-length", "4")], b"0123");
        let asked = completing(&stored).unwrap();
        assert_eq!((asked["range"].to_str().unwrap(), asked["if-range"].to_str().unwrap()), ("bytes=4-", "\"a\""));
        let whole = policy.spliced(&stored, &response(206, &[("etag", "\"a\""), ("content-range", "bytes 4-7/8")]), arrival).unwrap();
        assert_eq!(whole.status, 200);
        assert_eq!(whole.headers["content-length"], "8");
        assert!(!whole.headers.contains_key("content-range"));
        for (status, tag, range) in
            [(206, "\"b\"", "bytes 4-7/8"), (206, "\"a\"", "bytes 5-7/8"), (206, "\"a\"", "bytes 4-6/8"), (200, "\"a\"", "bytes 4-7/8")]
        {
            assert!(policy.spliced(&stored, &response(status, &[("etag", tag), ("content-range", range)]), arrival).is_none());
        }
        for unfit in [
            entry(206, &[("etag", "W/\"a\""), ("content-range", "bytes 0-3/8")], b"0123"),
            entry(206, &[("etag", "\"a\""), ("content-range", "bytes 1-3/8")], b"123"),
            entry(206, &[("etag", "\"a\""), ("content-range", "bytes 0-3/*")], b"0123"),
            entry(206, &[("content-range", "bytes 0-3/8")], b"0123"),
            entry(206, &[("content-range", "bytes 0-3/8"), ("last-modified", &date_at(0)), ("date", &date_at(0))], b"0123"),
        ] {
            assert!(completing(&unfit).is_none());
        }
        // By date, where there is no tag.
        let (modified, date) = (date_at(-1), date_at(0));
        let dated = entry(206, &[("content-range", "bytes 0-3/8"), ("last-modified", &modified), ("date", &date)], b"0123");
        assert_eq!(completing(&dated).unwrap()["if-range"].to_str().unwrap(), modified);
        for (fields, whole) in [
            (vec![("last-modified", modified.as_str()), ("date", &date)], true),
            (vec![], true),
            (vec![("last-modified", &date)], false),
            (vec![("etag", "\"a\"")], false),
        ] {
            let rest = response(206, &[&fields[..], &[("content-range", "bytes 4-7/8")]].concat());
            assert_eq!(policy.spliced(&dated, &rest, arrival).is_some(), whole, "{fields:?}");
        }
    }

    #[test]
    fn content_range_is_read_strictly() {
        let part = |text: &str| Part::of(&crate::policy::http::tests::headers(&[("content-range", text)]));
        assert_eq!(part("bytes 0-4/10"), Some(Part { first: 0, end: 5, len: Some(10) }));
        assert_eq!(part("bytes 0-4/*"), Some(Part { first: 0, end: 5, len: None }));
        for text in ["bytes */10", "bytes 4-0/10", "bytes 0-10/10", "bytes 0-4", "lines 0-4/10", "bytes -4/10", "bytes +0-4/10", ""] {
            assert_eq!(part(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_part_is_what_slicing_gives(lens in proptest::collection::vec(0_usize..5, 0..6), a in 0_u64..30, b in 0_u64..30) {
            let all: Vec<u8> = (0..u8::try_from(lens.iter().sum::<usize>()).unwrap()).collect();
            let mut rest = Bytes::from(all.clone());
            let frames = Frames::new(lens.iter().map(|len| rest.split_to(*len)));
            let mut chunks = Vec::new();
            cut(&frames, a..b, &mut chunks);
            let len = all.len();
            let (from, to) = (usize::try_from(a).unwrap().min(len), usize::try_from(b).unwrap().min(len));
            prop_assert_eq!(chunks.concat(), all.get(from..to).unwrap_or_default());
        }

        #[test]
        fn any_range_is_read_without_a_panic(text in ".{0,40}") {
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                let mut request = get("/", &[]);
                request.headers.insert(header::RANGE, value);
                answer(&request, &entry(200, &[], b"0123456789"));
            }
        }
    }
}
