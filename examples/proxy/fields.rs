//! What a proxy does to header fields (RFC 9110 section 7.6).

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header, request, uri};
use tower_response_cache::policy::strip_hop_by_hop;

static FORWARDED: HeaderName = HeaderName::from_static("forwarded");

/// Makes a request that came in one that can go on: its target is absolute, and what was for this connection alone is gone. Says what is wrong with it if it
/// cannot. `host` is whom it is for if it is too old to say it.
pub fn forward(request: &mut request::Parts, via: &str, forwarded: Option<SocketAddr>, host: &uri::Authority) -> Result<(), &'static str> {
    let received = request.version;
    absolute(request, host)?;
    strip_hop_by_hop(&mut request.headers);
    // Whether the content is wanted was settled with this connection.
    request.headers.remove(header::EXPECT);
    add_via(&mut request.headers, received, via);
    if let Some(peer) = forwarded {
        add_forwarded(request, peer);
    }
    // It says how the request came, which is no business of the origin's.
    request.version = Version::HTTP_11;
    Ok(())
}

/// Makes a response that came, from the cache or from the origin, one that can go out.
pub fn answer(headers: &mut HeaderMap, received: Version, via: &str) {
    strip_hop_by_hop(headers);
    add_via(headers, received, via);
}

/// The target as an absolute URI: the authority is in it, or in `Host` (RFC 9112 section 3.3).
fn absolute(request: &mut request::Parts, default: &uri::Authority) -> Result<(), &'static str> {
    let mut parts = std::mem::take(&mut request.uri).into_parts();
    if parts.authority.is_none() {
        let mut hosts = request.headers.get_all(header::HOST).iter();
        parts.authority = Some(match (hosts.next(), hosts.next()) {
            (Some(host), None) => uri::Authority::try_from(host.as_bytes()).map_err(|_| "the host is invalid")?,
            (None, _) if request.version <= Version::HTTP_10 => default.clone(),
            _ => return Err("a request needs one host"),
        });
    }
    parts.scheme = Some(uri::Scheme::HTTP);
    parts.path_and_query.get_or_insert(uri::PathAndQuery::from_static("/"));
    request.uri = Uri::from_parts(parts).map_err(|_| "the target is invalid")?;
    // One and the same for all that follows.
    let authority = request.uri.authority().map_or("", |authority| authority.as_str());
    request.headers.insert(header::HOST, HeaderValue::try_from(authority).map_err(|_| "the host is invalid")?);
    Ok(())
}

/// A name for `Via` and `Cache-Status`: a token in both (RFC 9110 section 7.6.3, RFC 9211 section 2).
pub fn pseudonym(name: &str) -> Result<String, &'static str> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    // As an item of `Cache-Status`, a token begins with a letter or an asterisk (RFC 9651 section 3.3.4).
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '*');
    if begins && name.bytes().all(is_token) { Ok(name.to_owned()) } else { Err("not a token, as in front-1") }
}

/// RFC 9110 section 7.6.3.
fn add_via(headers: &mut HeaderMap, received: Version, name: &str) {
    let version = match received {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2.0",
        Version::HTTP_3 => "3.0",
        _ => "1.1",
    };
    if let Ok(value) = HeaderValue::try_from(format!("{version} {name}")) {
        headers.append(header::VIA, value);
    }
}

/// RFC 7239.
fn add_forwarded(request: &mut request::Parts, peer: SocketAddr) {
    let host = request.uri.authority().map_or("", |authority| authority.as_str());
    let node = match peer {
        SocketAddr::V4(peer) => peer.ip().to_string(),
        SocketAddr::V6(peer) => format!("\"[{}]\"", peer.ip()),
    };
    // Lines are read as one list: a quote that stays open would swallow what is said here.
    if !request.headers.get_all(&FORWARDED).iter().all(|line| closes_its_quotes(line.as_bytes())) {
        request.headers.remove(&FORWARDED);
    }
    if let Ok(value) = HeaderValue::try_from(format!("for={node};host=\"{host}\";proto=http")) {
        request.headers.append(&FORWARDED, value);
    }
}

/// Does each quoted string (RFC 9110 section 5.6.4) in this end in it?
fn closes_its_quotes(line: &[u8]) -> bool {
    let mut bytes = line.iter();
    let mut is_quoted = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\\' if is_quoted => drop(bytes.next()),
            _ => {}
        }
    }
    !is_quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_is_said_whatever_the_one_who_asked_says() {
        for (line, is_kept) in [
            ("for=1.2.3.4", true),
            (r#"for="[::1]";by="a\"b", for="x""#, true),
            (r#"for="x"#, false),
            (r#"for="x\""#, false),
            (r#"for=x;by=" "", "#, false),
        ] {
            let (mut parts, ()) =
                http::Request::get("http://h/").header("host", "h").header("forwarded", line).body(()).unwrap().into_parts();
            forward(&mut parts, "proxy", Some(([127, 0, 0, 1], 1).into()), &uri::Authority::from_static("h")).unwrap();
            let lines: Vec<&str> = parts.headers.get_all("forwarded").iter().map(|line| line.to_str().unwrap()).collect();
            let ours = r#"for=127.0.0.1;host="h";proto=http"#;
            assert_eq!(lines, if is_kept { vec![line, ours] } else { vec![ours] });
        }
    }
}
