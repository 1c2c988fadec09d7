//! Header fields that are never stored, whatever the policy.

use http::{HeaderMap, HeaderName, header};

/// Is the field about one connection only (RFC 9110 section 7.6.1, RFC 9111 section 3.1)?
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Removes the fields that are about one connection only, those that `Connection` lists (RFC 9110 section 7.6.1), and a `Content-Length` that a
/// `Transfer-Encoding` overrides (RFC 9112 section 6.3).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    drop_overridden_length(headers);
    let doomed: Vec<HeaderName> = headers.keys().filter(|name| is_hop_by_hop(name)).cloned().chain(listed).collect();
    for name in doomed {
        headers.remove(name);
    }
}

/// "The Transfer-Encoding overrides the Content-Length", which "an intermediary that chooses to forward the message MUST first remove" (RFC 9112 section 6.3).
pub(crate) fn drop_overridden_length(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// Removes what makes a request one for a part, or for one caller's state of knowledge (RFC 9110 sections 13.1 and 14.2).
pub(crate) fn strip_conditions(headers: &mut HeaderMap) {
    for name in
        [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE, header::IF_RANGE, header::RANGE]
    {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_fields_go_and_take_with_them_what_they_list() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("connection", "x-other"),
            ("x-hop", "1"),
            ("x-other", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-type", "text/plain"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
    }

    #[test]
    fn a_length_goes_where_the_transfer_coding_overrides_it_and_nowhere_else() {
        for (coding, left) in [(Some("chunked"), 0), (None, 1)] {
            let mut headers = HeaderMap::new();
            headers.insert("content-length", "3".parse().unwrap());
            if let Some(coding) = coding {
                headers.insert("transfer-encoding", coding.parse().unwrap());
            }
            strip_hop_by_hop(&mut headers);
            assert_eq!(headers.len(), left, "{coding:?}");
        }
    }
}
