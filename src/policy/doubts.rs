//! What beside the request line may decide which request an upstream answers.
//!
//! Out of the key, it would let one caller plant an answer for others. Where it says nothing unusual, it adds nothing.

use http::{header, request::Parts};

use crate::key::Field;

/// Fields by which many an upstream can be told of another method, host or path than the request line names.
pub(super) const OVERRIDES: &[&str] = &[
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];

/// What `Connection` lists of every day: none of it is a field that an upstream goes by.
const OF_THE_CONNECTION: [&str; 9] =
    ["close", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "trailers", "transfer-encoding", "upgrade"];

/// Notes `Host` lines that name another host than the target has, or more than a host, which upstreams differ over (RFC 9112 section 3.2.2, RFC 9113 section 8.3.1), and the fields that
/// whoever forwards the request leaves out because `Connection` lists them (RFC 9110 section 7.6.1), although the key has them.
pub(super) fn note<'a>(request: &'a Parts, is_target: impl Fn(&[u8]) -> bool, mut note: impl FnMut(Field, &'a [u8])) {
    for host in request.headers.get_all(header::HOST) {
        if host.as_bytes().contains(&b'@') || !is_target(host.as_bytes()) {
            note(Field::Authority, host.as_bytes());
        }
    }
    for line in request.headers.get_all(header::CONNECTION) {
        for name in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
            if !OF_THE_CONNECTION.iter().any(|usual| name.eq_ignore_ascii_case(usual.as_bytes())) {
                note(Field::HeaderName, b"connection");
                note(Field::HeaderValue, name);
            }
        }
    }
}
