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
    "front-end-https",
    "x-forwarded-port",
    "x-forwarded-scheme",
    "x-forwarded-ssl",
    "x-original-host",
    "x-url-scheme",
];

/// What `Connection` lists of every day: none of it is a field that an upstream goes by.
const OF_THE_CONNECTION: [&str; 9] =
    ["close", "http2-settings", "keep-alive", "proxy-connection", "te", "trailer", "trailers", "transfer-encoding", "upgrade"];

/// Notes what names another host than the target has, or more than a host: lines of `Host`, which upstreams differ over (RFC 9112 section 3.2.2, RFC 9113 section 8.3.1), and
/// `host` and `proto` of `Forwarded` (RFC 7239); and the fields that whoever forwards the request leaves out because `Connection` lists them (RFC 9110 section
/// 7.6.1), although the key has them.
pub(super) fn note<'a>(request: &'a Parts, scheme: &str, is_target: impl Fn(&[u8]) -> bool, mut note: impl FnMut(Field, &'a [u8])) {
    let is_host = |host: &[u8]| !host.contains(&b'@') && is_target(host);
    let mut add = |name: &'static str, value: &'a [u8]| {
        note(Field::HeaderName, name.as_bytes());
        note(Field::HeaderValue, value);
    };
    for host in request.headers.get_all(header::HOST) {
        if !is_host(host.as_bytes()) {
            add("host", host.as_bytes());
        }
    }
    for line in request.headers.get_all(header::FORWARDED) {
        let pairs = || line.as_bytes().split(|byte| matches!(byte, b',' | b';')).map(<[u8]>::trim_ascii);
        if pairs().any(|pair| named(pair).1.is_none()) {
            add("forwarded", line.as_bytes());
        } else {
            // Who asked is not what was asked for.
            let unusual = |pair: &&[u8]| match named(pair) {
                (name, Some(host)) if name.eq_ignore_ascii_case(b"host") => !is_host(host),
                (name, Some(proto)) if name.eq_ignore_ascii_case(b"proto") => !proto.eq_ignore_ascii_case(scheme.as_bytes()),
                _ => false,
            };
            pairs().filter(unusual).for_each(|pair| add("forwarded", pair));
        }
    }
    for line in request.headers.get_all(header::CONNECTION) {
        for name in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty()) {
            if !OF_THE_CONNECTION.iter().any(|usual| name.eq_ignore_ascii_case(usual.as_bytes())) {
                add("connection", name);
            }
        }
    }
}

/// A name and its value, without quotes around it; none if there is anything in it to be unraveled.
fn named(pair: &[u8]) -> (&[u8], Option<&[u8]>) {
    let (name, value) = pair.iter().position(|byte| *byte == b'=').map_or((pair, &[][..]), |at| (&pair[..at], &pair[at + 1..]));
    let value = value.trim_ascii();
    let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    (name.trim_ascii(), Some(value).filter(|value| !value.contains(&b'"') && !value.contains(&b'\\')))
}
