//! Conditional requests, ours and the caller's, and what a 304 or a HEAD says about a stored response (RFC 9111 sections 3.2 and 4.3).

use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request, response};

use super::{
    HttpPolicy, Rule, date,
    freshness::Arrival,
    range,
    reuse::is_conditional,
    storing::{forbids_storing, is_stored_field},
    vary,
};
use crate::entry::{Entry, Variants};

/// What the caller's conditions say of a stored response (RFC 9110 section 13.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conditions {
    /// The caller gets it, or the part that it asked for.
    Hold,
    /// The caller has it already.
    NotModified,
    /// Only the origin can tell: "If-Match and If-Unmodified-Since are not applicable to a cache" (RFC 9111 section 4.3.2), so a
    /// cache does not refuse by them.
    AskOrigin,
}

pub(super) fn conditions(request: &request::Parts, entry: &Entry, now: SystemTime) -> Conditions {
    let (asked, stored) = (&request.headers, &entry.headers);
    // "A server MUST ignore all received preconditions if its response to the same request without those conditions would have been
    // a status code other than a 2xx" (RFC 9110 section 13.2.1).
    if !entry.status.is_success() {
        return Conditions::Hold;
    }
    let tag = stored.get(header::ETAG).map(|tag| tag.as_bytes());
    let modified = date::field(stored, &header::LAST_MODIFIED, now);
    if asked.contains_key(header::IF_MATCH) {
        if !tags(asked, &header::IF_MATCH).any(|listed| listed == b"*" || tag.is_some_and(|tag| matches_strongly(listed, tag))) {
            return Conditions::AskOrigin;
        }
    } else if let Some(bound) = date::field(asked, &header::IF_UNMODIFIED_SINCE, now)
        && modified.is_none_or(|modified| modified > bound)
    {
        return Conditions::AskOrigin;
    }
    if asked.contains_key(header::IF_NONE_MATCH) {
        let matches =
            tags(asked, &header::IF_NONE_MATCH).any(|listed| listed == b"*" || tag.is_some_and(|tag| matches_weakly(listed, tag)));
        return if matches { Conditions::NotModified } else { Conditions::Hold };
    }
    // Without a modification date, the date of the response stands in (RFC 9111 section 4.3.2).
    let known = modified.or_else(|| date::field(stored, &header::DATE, now));
    match (date::field(asked, &header::IF_MODIFIED_SINCE, now), known) {
        (Some(since), Some(known)) if known <= since => Conditions::NotModified,
        _ => Conditions::Hold,
    }
}

/// RFC 9110 section 8.8.3.2. Tags are compared as bytes, quoted or not.
pub(super) fn matches_strongly(one: &[u8], other: &[u8]) -> bool {
    one == other && !one.starts_with(b"W/")
}

fn matches_weakly(one: &[u8], other: &[u8]) -> bool {
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    opaque(one) == opaque(other)
}

/// The members of a list of entity tags. A comma in quotes is part of a tag, and so is a backslash (RFC 9110 section 8.8.3).
fn tags<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().flat_map(|line| {
        let mut quoted = false;
        line.as_bytes()
            .split(move |byte| {
                quoted ^= *byte == b'"';
                *byte == b',' && !quoted
            })
            .map(<[u8]>::trim_ascii)
            .filter(|tag| !tag.is_empty())
    })
}

/// Fields that make a request conditional on a stored response (RFC 9111 section 4.3.1): all validators that it has.
pub(super) fn validators(entry: &Entry) -> HeaderMap {
    let mut conditions = HeaderMap::new();
    if let Some(tag) = entry.headers.get(header::ETAG) {
        conditions.insert(header::IF_NONE_MATCH, tag.clone());
    }
    if let Some(modified) = entry.headers.get(header::LAST_MODIFIED) {
        conditions.insert(header::IF_MODIFIED_SINCE, modified.clone());
    }
    conditions
}

/// Makes a request conditional on all variants of which the tags are known: any that the origin would choose for it, it need not send (RFC 9111 section 4.1). Only where all
/// of them are selected by the same fields, and only for one who asks for the whole.
pub(super) fn any_of(request: &request::Parts, variants: &Variants) -> Option<HeaderMap> {
    let special = is_conditional(&request.headers) || request.headers.contains_key(header::RANGE);
    let [fields] = &variants.fields[..] else { return None };
    // Servers that compress on the way would elect what is not compressed.
    if request.method != Method::GET || special || fields.contains(&header::ACCEPT_ENCODING) {
        return None;
    }
    let tags: Vec<&[u8]> = variants.tags.iter().map(|(tag, _)| tag.as_bytes()).filter(|tag| is_strong_tag(tag)).collect();
    let tags = HeaderValue::from_bytes(&tags.join(&b", "[..])).ok().filter(|tags| !tags.is_empty())?;
    Some(HeaderMap::from_iter([(header::IF_NONE_MATCH, tags)]))
}

/// Can the tag stand in a list (RFC 9110 section 8.8.3)?
fn is_strong_tag(tag: &[u8]) -> bool {
    matches!(tag, [b'"', inner @ .., b'"'] if !inner.contains(&b'"'))
}

impl HttpPolicy {
    /// The stored response as a 304 freshens it (RFC 9111 section 4.3.4); `None` if the 304 speaks of another, or says what a stored response cannot be told:
    /// then the whole is asked for.
    pub(super) fn freshened(&self, request: &request::Parts, entry: &Entry, response: &response::Parts, arrival: Arrival) -> Option<Entry> {
        let holds = selects(&response.headers, entry) && self.may_stay(entry, &response.headers);
        holds.then(|| self.updated(request, entry, &response.headers, arrival))
    }

    /// May the stored response stay where it is once these fields are its own? Not if they forbid to store it, and not if they have it answer other requests
    /// than it did.
    fn may_stay(&self, entry: &Entry, newer: &HeaderMap) -> bool {
        let (directives, _) = self.directives(newer);
        let selects_as_before = !newer.contains_key(header::VARY) || vary::fields(newer) == vary::fields(&entry.headers);
        let said_of_search = Rule::of(newer);
        let asked_as_before = said_of_search.is_none() || said_of_search == Rule::of(&entry.headers);
        asked_as_before && !forbids_storing(entry.status, &directives) && !(self.shared && directives.private.is_all()) && selects_as_before
    }

    /// What a HEAD says about the stored answer to a GET (RFC 9111 section 4.3.5): freshened, or `None` if it holds no more.
    pub(super) fn updated_by_head(
        &self,
        request: &request::Parts,
        entry: &Entry,
        response: &response::Parts,
        arrival: Arrival,
    ) -> Option<Entry> {
        let same = |name: HeaderName| match response.headers.get(&name) {
            None => true,
            Some(value) => entry.headers.get(&name) == Some(value),
        };
        let whole = match entry.status {
            StatusCode::PARTIAL_CONTENT => range::Part::of(&entry.headers).and_then(|part| part.len),
            _ => Some(entry.body.len() as u64),
        };
        let as_long = match response.headers.get(header::CONTENT_LENGTH) {
            None => true,
            Some(length) => whole.is_some_and(|whole| length.as_bytes() == whole.to_string().as_bytes()),
        };
        let holds = response.status == StatusCode::OK
            && matches!(entry.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
            && same(header::ETAG)
            && same(header::LAST_MODIFIED)
            && as_long
            && self.may_stay(entry, &response.headers);
        holds.then(|| self.updated(request, entry, &response.headers, arrival))
    }

    /// The stored response with newer header fields (RFC 9111 section 3.2), and the lifetime that they give it.
    fn updated(&self, request: &request::Parts, entry: &Entry, newer: &HeaderMap, arrival: Arrival) -> Entry {
        let mut headers = entry.headers.clone();
        self.replace(&mut headers, newer, arrival, |name| OF_FRESHNESS.contains(name) || self.targets.contains(name));
        let directives = self.directives(&headers);
        if !self.is_for_one(request, &directives.0) {
            self.update(&mut headers, newer, arrival);
        }
        let fresh_for = self.fresh_for(entry.status, &headers, &directives, arrival);
        let lifetime = self.lifetime(&headers, &directives.0, fresh_for, arrival);
        Entry { headers, lifetime, ..entry.clone() }
    }

    /// Replaces stored fields by newer ones of the same names.
    pub(super) fn update(&self, stored: &mut HeaderMap, newer: &HeaderMap, arrival: Arrival) {
        self.replace(stored, newer, arrival, |_| true);
    }

    fn replace(&self, stored: &mut HeaderMap, newer: &HeaderMap, arrival: Arrival, is_wanted: impl Fn(&HeaderName) -> bool) {
        // What the body as it is stored depends on stays as it is.
        const OF_THE_BODY: [HeaderName; 3] = [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::CONTENT_RANGE];
        let is_weak = |headers: &HeaderMap| headers.get(header::ETAG).is_some_and(|tag| tag.as_bytes().starts_with(b"W/"));
        // One who says that what is stored is the same in meaning has not said that it is so byte for byte.
        let keeps_tag = is_weak(stored) && !is_weak(newer);
        let updates = |name: &&HeaderName| {
            is_wanted(name) && is_stored_field(name, newer) && !OF_THE_BODY.contains(name) && !(keeps_tag && **name == header::ETAG)
        };
        for name in newer.keys().filter(updates) {
            stored.remove(name);
            for value in newer.get_all(name) {
                stored.append(name, value.clone());
            }
        }
        // Age and date are those of the newer message, or of its arrival (RFC 9110 section 6.6.1).
        if !newer.contains_key(header::AGE) {
            stored.remove(header::AGE);
        }
        if !newer.contains_key(header::DATE) {
            stored.insert(header::DATE, date::format(arrival.at));
        }
        // By what holds now: directives that the newer message does not repeat are still those of what is stored.
        self.leave_out(stored, &self.directives(stored).0);
    }
}

/// What is taken over of a message for one caller alone (RFC 9111 section 3.5), with the targeted fields: that and for how long the stored response holds.
const OF_FRESHNESS: [HeaderName; 7] =
    [header::AGE, header::CACHE_CONTROL, header::DATE, header::ETAG, header::EXPIRES, header::LAST_MODIFIED, header::VARY];

/// Is the stored response the one that a 304 speaks of? A 304 without any validator speaks of the one that was asked about: we ask about one at a time.
fn selects(newer: &HeaderMap, entry: &Entry) -> bool {
    if let Some(tag) = newer.get(header::ETAG) {
        let Some(stored) = entry.headers.get(header::ETAG) else { return false };
        // Servers that compress on the way give what they compress a weak tag, and in a 304 have nothing to compress: theirs says the strong one.
        return matches_weakly(tag.as_bytes(), stored.as_bytes());
    }
    match newer.get(header::LAST_MODIFIED) {
        Some(modified) => entry.headers.get(header::LAST_MODIFIED) == Some(modified),
        None => true,
    }
}

/// Makes the head of a stored response that of a 304 (RFC 9110 section 15.4.5): no fields about content that it does not have.
pub(super) fn not_modified(headers: &mut HeaderMap) {
    let doomed: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("content-") && **name != header::CONTENT_LOCATION).cloned().collect();
    for name in doomed {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::http::tests::{date_at, entry, get, headers, now, response};

    #[test]
    fn the_callers_conditions_are_answered_in_their_order() {
        use Conditions::{AskOrigin, Hold, NotModified};
        let (old, new) = (date_at(-200), date_at(-100));
        let tagged = entry(200, &[("etag", "\"a,b\""), ("last-modified", &old), ("date", &new)], b"");
        let weak = entry(200, &[("etag", "W/\"a\"")], b"");
        let dated = entry(200, &[("date", &new)], b"");
        let missing = entry(404, &[("etag", "\"a,b\"")], b"");
        for (stored, asked, expected) in [
            (&tagged, vec![("if-none-match", "\"a,b\"")], NotModified),
            (&tagged, vec![("if-none-match", "W/\"a,b\"")], NotModified),
            (&tagged, vec![("if-none-match", "\"x\", \"a,b\"")], NotModified),
            (&tagged, vec![("if-none-match", "\"x\""), ("if-none-match", "\"a,b\"")], NotModified),
            (&tagged, vec![("if-none-match", "*")], NotModified),
            (&tagged, vec![("if-none-match", "\"a\"")], Hold),
            (&tagged, vec![("if-none-match", "a,b")], Hold),
            (&tagged, vec![("if-none-match", "\"x\""), ("if-modified-since", &new)], Hold),
            (&tagged, vec![("if-modified-since", &old)], NotModified),
            (&tagged, vec![("if-modified-since", &new)], NotModified),
            (&tagged, vec![("if-modified-since", &date_at(-201))], Hold),
            (&tagged, vec![("if-modified-since", "junk")], Hold),
            (&tagged, vec![("if-match", "\"a,b\"")], Hold),
            (&tagged, vec![("if-match", "*")], Hold),
            (&tagged, vec![("if-match", "W/\"a,b\"")], AskOrigin),
            (&tagged, vec![("if-match", "\"x\"")], AskOrigin),
            (&tagged, vec![("if-match", "\"a,b\""), ("if-none-match", "\"a,b\"")], NotModified),
            (&tagged, vec![("if-unmodified-since", &new)], Hold),
            (&tagged, vec![("if-unmodified-since", &date_at(-300))], AskOrigin),
            (&tagged, vec![("if-match", "*"), ("if-unmodified-since", &date_at(-300))], Hold),
            (&weak, vec![("if-none-match", "\"a\"")], NotModified),
            (&weak, vec![("if-match", "W/\"a\"")], AskOrigin),
            (&weak, vec![("if-unmodified-since", &new)], AskOrigin),
            (&dated, vec![("if-modified-since", &new)], NotModified),
            (&dated, vec![("if-modified-since", &old)], Hold),
            (&missing, vec![("if-none-match", "\"a,b\""), ("if-match", "\"x\"")], Hold),
            (&tagged, vec![], Hold),
        ] {
            assert_eq!(conditions(&get("/", &asked), stored, now()), expected, "{asked:?}");
        }
    }

    #[test]
    fn a_304_speaks_of_the_response_that_has_its_validator() {
        let stored = entry(200, &[("etag", "\"a\""), ("last-modified", &date_at(-9))], b"");
        let weak = entry(200, &[("etag", "W/\"a\"")], b"");
        let bare = entry(200, &[], b"");
        for (entry, newer, expected) in [
            (&stored, vec![("etag", "\"a\"")], true),
            (&stored, vec![("etag", "\"b\"")], false),
            (&stored, vec![("etag", "W/\"a\"")], true),
            (&weak, vec![("etag", "W/\"a\"")], true),
            (&weak, vec![("etag", "\"a\"")], true),
            (&weak, vec![("etag", "\"b\"")], false),
            (&bare, vec![("etag", "\"a\"")], false),
            (&stored, vec![("last-modified", &date_at(-9))], true),
            (&stored, vec![("last-modified", &date_at(-8))], false),
            (&stored, vec![], true),
        ] {
            assert_eq!(selects(&headers(&newer), entry), expected, "{newer:?}");
        }
    }

    #[test]
    fn a_304_makes_no_tag_strong() {
        let policy = HttpPolicy::shared();
        let arrival = Arrival { at: now(), waited: Duration::ZERO };
        for (stored, newer, expected) in [
            ("W/\"a\"", "\"a\"", "W/\"a\""),
            ("W/\"a\"", "W/\"a\"", "W/\"a\""),
            ("\"a\"", "W/\"a\"", "W/\"a\""),
            ("\"a\"", "\"a\"", "\"a\""),
        ] {
            let entry = entry(200, &[("etag", stored)], b"");
            let fresh = policy.freshened(&get("/", &[]), &entry, &response(304, &[("etag", newer)]), arrival).unwrap();
            assert_eq!(fresh.headers["etag"], expected, "{stored} {newer}");
        }
    }

    #[test]
    fn a_304_replaces_fields_but_not_what_the_body_depends_on() {
        let policy = HttpPolicy::shared();
        let stored = entry(
            200,
            &[
                ("etag", "\"a\""),
                ("date", &date_at(-100)),
                ("age", "7"),
                ("cache-control", "max-age=10"),
                ("content-length", "4"),
                ("content-type", "text/plain"),
                ("x", "1"),
                ("x", "2"),
                ("y", "1"),
            ],
            b"body",
        );
        let newer = response(
            304,
            &[
                ("date", &date_at(0)),
                ("cache-control", "max-age=50, private=\"z\""),
                ("content-length", "0"),
                ("content-encoding", "gzip"),
                ("content-range", "bytes 0-1/2"),
                ("content-type", "text/html"),
                ("connection", "hop"),
                ("hop", "1"),
                ("transfer-encoding", "chunked"),
                ("x", "3"),
                ("z", "1"),
            ],
        );
        let fresh = policy.freshened(&get("/", &[]), &stored, &newer, Arrival { at: now(), waited: Duration::ZERO }).unwrap();
        let expected = headers(&[
            ("etag", "\"a\""),
            ("date", &date_at(0)),
            ("cache-control", "max-age=50, private=\"z\""),
            ("content-length", "4"),
            ("content-type", "text/html"),
            ("x", "3"),
            ("y", "1"),
        ]);
        assert_eq!(fresh.headers, expected);
        assert_eq!(fresh.lifetime.ttl(now()), Some(Duration::from_secs(50)));
        // A 304 without a date is as old as its arrival.
        let undated =
            policy.freshened(&get("/", &[]), &stored, &response(304, &[]), Arrival { at: now(), waited: Duration::ZERO }).unwrap();
        assert_eq!(undated.lifetime.ttl(now()), Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_head_freshens_what_it_agrees_with_and_voids_all_else() {
        let policy = HttpPolicy::shared();
        let stored = entry(200, &[("etag", "\"a\""), ("last-modified", "x"), ("x", "1")], b"body");
        for (status, newer, holds) in [
            (200, vec![("x", "2")], true),
            (200, vec![("etag", "\"a\""), ("content-length", "4")], true),
            (200, vec![("etag", "\"b\"")], false),
            (200, vec![("last-modified", "y")], false),
            (200, vec![("content-length", "5")], false),
            (404, vec![], false),
        ] {
            let updated =
                policy.updated_by_head(&get("/", &[]), &stored, &response(status, &newer), Arrival { at: now(), waited: Duration::ZERO });
            assert_eq!(updated.is_some(), holds, "{newer:?}");
        }
    }

    #[test]
    fn a_304_of_ours_has_no_fields_about_content() {
        let mut head =
            headers(&[("content-length", "4"), ("content-type", "a/b"), ("content-location", "/x"), ("etag", "\"a\""), ("x", "1")]);
        not_modified(&mut head);
        assert_eq!(head, headers(&[("content-location", "/x"), ("etag", "\"a\""), ("x", "1")]));
    }
}
