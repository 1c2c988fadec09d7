//! Any bytes in the header fields that the HTTP policy reads: it never panics, and what it must never do it does not.
//!
//! The input is lines. The first letter of a line says where it goes (`q` request, `r` response, `n` a newer response), the second which field it is.

#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use libfuzzer_sys::fuzz_target;
use tower_response_cache::{
    CacheOptions, HttpPolicy, Policy,
    entry::{Entry, Frames, Metadata},
    key::Envelope,
    policy::{Moment, Replay, Reuse},
};

const FIELDS: [&str; 25] = [
    "cache-control", "cdn-cache-control", "expires", "date", "age", "vary", "etag", "last-modified", "range", "if-range", "if-none-match", "if-match",
    "if-modified-since", "if-unmodified-since", "content-range", "connection", "cookie", "content-location", "cache-groups", "pragma",
    "no-vary-search", "location", "cache-group-invalidation", "content-length", "authorization",
];

fuzz_target!(|data: &[u8]| {
    let (mut asked, mut first, mut newer) = (HeaderMap::new(), HeaderMap::new(), HeaderMap::new());
    for line in data.split(|byte| *byte == b'\n').take(40) {
        let [place, field, value @ ..] = line else { continue };
        let Ok(value) = HeaderValue::from_bytes(value) else { continue };
        let name = HeaderName::from_static(FIELDS[usize::from(*field) % FIELDS.len()]);
        match place % 3 {
            0 => &mut asked,
            1 => &mut first,
            _ => &mut newer,
        }
        .append(name, value);
    }
    let policy = if data.len() % 2 == 0 { HttpPolicy::shared().rfc() } else { HttpPolicy::private() };
    let mut moment = Moment { now: UNIX_EPOCH + Duration::from_secs(1_800_000_000), luck: 0.5, waited: Duration::ZERO };
    let mut options = CacheOptions::new();
    let mut request = Request::get("http://host/path?query").body(()).unwrap().into_parts().0;
    request.headers = asked;
    policy.admit(&mut request, &mut options);
    let head = |status, headers| {
        let mut head = Response::new(()).into_parts().0;
        (head.status, head.headers) = (status, headers);
        head
    };
    let status = if first.contains_key("content-range") { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let response = head(status, first);
    let envelope = Envelope::new("");
    let identity = policy.identify(&envelope, &request, b"", &options, 0).unwrap();
    policy.invalidates(&envelope, &request, &options, &response);
    policy.adopts(&envelope, &request, &options, &response);
    let Ok(storing) = policy.store(&request, &options, &response, None, moment) else { return };
    if let Some(fields) = &storing.vary {
        policy.variant(&envelope, &identity.key, &request, fields);
    }
    let pass = policy.variant(&envelope, &identity.key, &request, &[HeaderName::from_static("range")]);
    assert_eq!(pass, policy.variant(&envelope, &identity.key, &request, &[HeaderName::from_static("range")]), "one request, one variant");
    let body = Frames::from(Bytes::from_static(b"0123456789"));
    let storing_moved = storing.moved;
    let entry = Entry { status, headers: storing.headers, body, trailers: None, lifetime: storing.lifetime, metadata: Metadata::default() };
    if storing_moved {
        // Learned: the request has the key from now on that its response was moved to.
        let moved = policy.relocate(&envelope, &request, &options, &entry).unwrap();
        let mut later = CacheOptions::new();
        policy.admit(&mut request.clone(), &mut later);
        assert_eq!(policy.identify(&envelope, &request, b"", &later, 0).unwrap(), moved);
    }
    moment.now += Duration::from_secs(data.len() as u64);
    let reuse = policy.reuse(&request, &options, &entry, moment);
    if matches!(reuse, Reuse::Fresh { .. } | Reuse::StaleWhileRevalidate | Reuse::StaleAccepted) {
        let mut answer = Replay { status, headers: entry.headers.clone(), body: None };
        policy.replay(&request, &entry, &mut answer);
        let is_part = answer.status == StatusCode::PARTIAL_CONTENT;
        assert!(!is_part || request.headers.contains_key("range"), "a part for one who did not ask for one");
        if let Some(body) = answer.body.as_ref().filter(|_| is_part) {
            assert_eq!(answer.headers["content-length"], body.len().to_string(), "a part is as long as it says");
        }
        assert!(!answer.headers.contains_key("connection"), "fields of a connection are not stored");
    }
    let newer = head(StatusCode::NOT_MODIFIED, newer);
    if let Some(fresh) = policy.freshen(&request, &entry, &newer, moment) {
        for name in ["content-length", "content-encoding", "content-range"] {
            assert_eq!(fresh.headers.get(name), entry.headers.get(name), "a 304 brings nothing that the body depends on");
        }
    }
    policy.revise(&request, &entry, &head(StatusCode::OK, newer.headers.clone()), moment);
    policy.splice(&request, &entry, &head(StatusCode::PARTIAL_CONTENT, newer.headers.clone()), moment);
    let other = Entry { status: StatusCode::PARTIAL_CONTENT, headers: newer.headers, ..entry.clone() };
    policy.merge(&entry, other);
});
