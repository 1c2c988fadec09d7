//! What may be stored (RFC 9111 section 3).

use http::{HeaderMap, HeaderName, Method, StatusCode, Version, header, request, response};

use super::{
    HttpPolicy, date,
    directives::Directives,
    freshness::{Arrival, Freshness, has_validator, is_heuristically_cacheable},
    invalidation, range,
    search::Said,
    targeted, vary,
};
use crate::{
    entry::Lifetime,
    options::CacheOptions,
    policy::{NotStored, Storing, is_hop_by_hop, strip_hop_by_hop},
};

impl HttpPolicy {
    /// The directives that apply to this cache, and whether they come from a targeted field.
    pub(super) fn directives(&self, headers: &HeaderMap) -> (Directives, bool) {
        targeted::directives(headers, &self.targets)
    }

    /// How long a response is fresh, or none at all where there is nothing to go by.
    pub(super) fn fresh_for(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        directives: &(Directives, bool),
        arrival: Arrival,
    ) -> std::time::Duration {
        match self.freshness(status, headers, directives, arrival) {
            Freshness::Explicit(fresh_for) | Freshness::Heuristic(fresh_for) => fresh_for,
            Freshness::Unknown => std::time::Duration::ZERO,
        }
    }

    pub(super) fn storing(
        &self,
        request: &request::Parts,
        options: &CacheOptions,
        response: &response::Parts,
        len: Option<u64>,
        arrival: Arrival,
    ) -> Result<Storing, NotStored> {
        let headers = &response.headers;
        if request.method == Method::HEAD || !answers_any(request, response) {
            return Err(NotStored::Request);
        }
        let directives = self.directives(headers);
        self.permits(request, response, &directives.0)?;
        let vary = vary::fields(headers).map_err(|_| NotStored::Vary)?;
        let said = self.said(request, options, response);
        if said == Said::Nothing {
            return Err(NotStored::Request);
        }
        let lifetime = self.worth(response, options, &directives, arrival)?;
        let promised = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()).or(len);
        if promised.is_some_and(|promised: u64| promised > self.max_body as u64) {
            return Err(NotStored::TooLarge);
        }
        if self.store_if.as_ref().is_some_and(|predicate| !predicate(response)) {
            return Err(NotStored::Predicate);
        }
        let mut kept = headers.clone();
        strip_hop_by_hop(&mut kept);
        self.leave_out(&mut kept, &directives.0);
        if !kept.contains_key(header::DATE) {
            // "A recipient with a clock that receives a response message without a Date header field MUST record the time it was
            // received and append a corresponding Date header field" (RFC 9110 section 6.6.1).
            kept.insert(header::DATE, date::format(arrival.at));
        }
        Ok(Storing {
            headers: kept,
            lifetime,
            max_body: self.max_body,
            tags: invalidation::groups(request, headers, self),
            vary: (!vary.is_empty()).then_some(vary),
            moved: said == Said::New,
            needs_proof: !self.close_delimited && promised.is_none() && is_close_delimited(response),
            upstream_request_id: None,
        })
    }

    /// Do the directives permit it (RFC 9111 sections 3 and 3.5)?
    fn permits(&self, request: &request::Parts, response: &response::Parts, directives: &Directives) -> Result<(), NotStored> {
        if forbids_storing(response.status, directives) {
            return Err(NotStored::Forbidden);
        }
        if !self.shared {
            return Ok(());
        }
        if directives.private.is_all() {
            return Err(NotStored::Personal);
        }
        if self.is_for_one(request, directives) {
            return Err(NotStored::Personal);
        }
        if response.headers.contains_key(header::SET_COOKIE) && !self.set_cookie {
            return Err(NotStored::Personal);
        }
        Ok(())
    }

    /// Was a response asked for with credentials, and does nothing say that it is for others as well (RFC 9111 section 3.5)?
    pub(super) fn is_for_one(&self, request: &request::Parts, directives: &Directives) -> bool {
        let shareable = directives.public || directives.must_revalidate || directives.s_maxage.is_some();
        self.shared && !shareable && has_credentials(request)
    }

    /// Will a stored response ever answer anything: fresh, stale, or after it was validated?
    fn worth(
        &self,
        response: &response::Parts,
        options: &CacheOptions,
        directives: &(Directives, bool),
        arrival: Arrival,
    ) -> Result<Lifetime, NotStored> {
        let (status, headers) = (response.status, &response.headers);
        let freshness = self.freshness(status, headers, directives, arrival);
        let fresh_for = match (options.wishes().ttl, freshness) {
            (Some(ttl), _) => ttl,
            (None, Freshness::Explicit(fresh_for) | Freshness::Heuristic(fresh_for)) => fresh_for,
            // What may be stored without explicit freshness (section 3) is not fresh, but can be validated.
            (None, Freshness::Unknown) if is_heuristically_cacheable(status) || directives.0.public => std::time::Duration::ZERO,
            (None, Freshness::Unknown) => return Err(NotStored::Freshness),
        };
        let lifetime = self.lifetime(headers, &directives.0, fresh_for, arrival);
        let stands_in = self.store_stale && matches!(freshness, Freshness::Explicit(_)) && !self.forbids_stale(&directives.0);
        let serves_stale = stands_in || !lifetime.stale_while_revalidate.is_zero() || !lifetime.stale_if_error.is_zero();
        if lifetime.ttl(arrival.at).is_none() && !serves_stale && !has_validator(headers) {
            return Err(NotStored::Freshness);
        }
        Ok(lifetime)
    }

    /// Takes out what the directives exclude from storage (sections 5.2.2.4 and 5.2.2.7), and what the policy does.
    pub(super) fn leave_out(&self, headers: &mut HeaderMap, directives: &Directives) {
        for name in directives.no_cache.names() {
            headers.remove(name);
        }
        if self.shared {
            for name in directives.private.names() {
                headers.remove(name);
            }
            if !self.set_cookie {
                headers.remove(header::SET_COOKIE);
            }
        }
    }
}

/// In `Authorization`, or where clients make it from: before the host (RFC 9110 section 4.2.4).
fn has_credentials(request: &request::Parts) -> bool {
    request.headers.contains_key(header::AUTHORIZATION) || request.uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
}

/// Is the response an answer to the question alone, whatever conditions and ranges it was asked with?
fn answers_any(request: &request::Parts, response: &response::Parts) -> bool {
    match response.status.as_u16() {
        100..=199 | 304 | 412 | 416 => false,
        // Section 3.3. A part that does not say which it is is good for nothing; several in one body are not taken apart.
        206 => {
            // To `If-Range` it may leave out what the caller has (RFC 9110 section 15.3.7), which others have not.
            let whole_head = !request.headers.contains_key(header::IF_RANGE) || response.headers.contains_key(header::CONTENT_TYPE);
            request.headers.contains_key(header::RANGE) && whole_head && range::Part::of(&response.headers).is_some()
        }
        _ => true,
    }
}

/// "A cache that implements must-understand and that understands the status code SHOULD ignore the no-store directive" (section 5.2.2.3).
pub(super) fn forbids_storing(status: StatusCode, directives: &Directives) -> bool {
    if directives.must_understand { !is_understood(status) } else { directives.no_store }
}

/// Does this cache conform to what the status code requires of caches (section 5.2.2.3)? That is so for all that are registered.
fn is_understood(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200..=208 | 226 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421..=426 | 428 | 429 | 431 | 451 | 500..=508 | 510 | 511)
}

/// Is the field part of what is stored (section 3.1)?
pub(super) fn is_stored_field(name: &HeaderName, headers: &HeaderMap) -> bool {
    let listed = || {
        let lines = headers.get_all(header::CONNECTION).iter();
        lines
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .any(|one| one.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    };
    !is_hop_by_hop(name) && !listed()
}

/// Does nothing but the end of the connection end the body (RFC 9112 section 6.3)?
fn is_close_delimited(response: &response::Parts) -> bool {
    response.version <= Version::HTTP_11 && !response.headers.contains_key(header::TRANSFER_ENCODING)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::http::tests::{date_at, get, headers, now, response};

    fn store(policy: &HttpPolicy, request: &request::Parts, response: &response::Parts) -> Result<Storing, NotStored> {
        policy.storing(request, &CacheOptions::new(), response, None, Arrival { at: now(), waited: Duration::ZERO })
    }

    #[test]
    fn what_is_stored_is_what_section_3_permits() {
        let (shared, private) = (HttpPolicy::shared(), HttpPolicy::private());
        let tagged = |directives: &'static str| vec![("cache-control", directives), ("etag", "\"a\"")];
        let fresh = |directives: &'static str| vec![("cache-control", directives)];
        for (status, lines, in_shared, in_private) in [
            (200, fresh("max-age=5"), Ok(()), Ok(())),
            (200, fresh("s-maxage=5"), Ok(()), Err(NotStored::Freshness)),
            (200, fresh("max-age=5, no-store"), Err(NotStored::Forbidden), Err(NotStored::Forbidden)),
            (200, fresh("max-age=5, private"), Err(NotStored::Personal), Ok(())),
            (200, fresh("max-age=5, private=\"x\""), Ok(()), Ok(())),
            (200, fresh("max-age=5, no-store, must-understand"), Ok(()), Ok(())),
            (299, fresh("max-age=5, must-understand"), Err(NotStored::Forbidden), Err(NotStored::Forbidden)),
            (200, fresh("no-cache"), Err(NotStored::Freshness), Err(NotStored::Freshness)),
            (200, tagged("no-cache"), Ok(()), Ok(())),
            (200, fresh("max-age=0"), Err(NotStored::Freshness), Err(NotStored::Freshness)),
            (200, fresh("max-age=0, stale-while-revalidate=5"), Ok(()), Ok(())),
            (200, tagged("max-age=0"), Ok(()), Ok(())),
            (200, tagged("foo"), Ok(()), Ok(())),
            (200, fresh("foo"), Err(NotStored::Freshness), Err(NotStored::Freshness)),
            (299, tagged("foo"), Err(NotStored::Freshness), Err(NotStored::Freshness)),
            (299, tagged("public"), Ok(()), Ok(())),
            (299, fresh("max-age=5"), Ok(()), Ok(())),
            (499, fresh("max-age=5"), Ok(()), Ok(())),
            (599, fresh("max-age=5"), Ok(()), Ok(())),
            (304, fresh("max-age=5"), Err(NotStored::Request), Err(NotStored::Request)),
            (206, fresh("max-age=5"), Err(NotStored::Request), Err(NotStored::Request)),
            (416, fresh("max-age=5"), Err(NotStored::Request), Err(NotStored::Request)),
        ] {
            let response = response(status, &lines);
            for (policy, expected) in [(&shared, in_shared), (&private, in_private)] {
                assert_eq!(store(policy, &get("/", &[]), &response).map(|_| ()), expected, "{status} {lines:?}");
            }
        }
    }

    #[test]
    fn answers_to_those_who_authenticate_are_shared_only_if_the_origin_says_so() {
        let asked = get("/", &[("authorization", "x")]);
        for (directives, expected) in [
            ("max-age=5", Err(NotStored::Personal)),
            ("max-age=5, public", Ok(())),
            ("max-age=5, must-revalidate", Ok(())),
            ("s-maxage=5", Ok(())),
            ("max-age=5, proxy-revalidate", Err(NotStored::Personal)),
        ] {
            let response = response(200, &[("cache-control", directives)]);
            assert_eq!(store(&HttpPolicy::shared(), &asked, &response).map(|_| ()), expected, "{directives}");
        }
        let mut named = get("/", &[]);
        named.uri = "http://me:secret@host/".parse().unwrap();
        assert_eq!(
            store(&HttpPolicy::shared(), &named, &response(200, &[("cache-control", "max-age=5")])).unwrap_err(),
            NotStored::Personal
        );
        assert!(store(&HttpPolicy::private(), &asked, &response(200, &[("cache-control", "max-age=5")])).is_ok());
    }

    #[test]
    fn cookies_are_stored_only_where_that_was_asked_for() {
        let response = response(200, &[("cache-control", "max-age=5"), ("set-cookie", "a=1")]);
        assert_eq!(store(&HttpPolicy::shared(), &get("/", &[]), &response).unwrap_err(), NotStored::Personal);
        for policy in [HttpPolicy::shared().store_set_cookie(true), HttpPolicy::private()] {
            assert_eq!(store(&policy, &get("/", &[]), &response).unwrap().headers["set-cookie"], "a=1");
        }
    }

    #[test]
    fn all_fields_are_kept_but_those_of_a_connection_and_those_excluded() {
        let lines = [
            ("cache-control", "max-age=5, private=\"x-private\", no-cache=\"x-checked, x-other\""),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "1"),
            ("proxy-authenticate", "1"),
            ("transfer-encoding", "chunked"),
            ("x-private", "1"),
            ("x-checked", "1"),
            ("x", "2"),
            ("x", "1"),
            ("age", "1"),
            ("warning", "110 - \"x\""),
        ];
        let stored = store(&HttpPolicy::shared(), &get("/", &[]), &response(200, &lines)).unwrap();
        let mut expected = headers(&[lines[0], ("x", "2"), ("x", "1"), ("age", "1"), ("warning", "110 - \"x\""), ("date", &date_at(0))]);
        assert_eq!(stored.headers, expected);
        let stored = store(&HttpPolicy::private(), &get("/", &[]), &response(200, &lines)).unwrap();
        expected.insert("x-private", "1".parse().unwrap());
        assert_eq!(stored.headers, expected);
    }

    #[test]
    fn a_part_is_stored_if_it_was_asked_for_and_says_which_it_is() {
        let asked = get("/", &[("range", "bytes=0-1")]);
        let lines = |range: &'static str| [("cache-control", "max-age=5"), ("content-range", range)];
        assert!(store(&HttpPolicy::shared(), &asked, &response(206, &lines("bytes 0-1/5"))).is_ok());
        assert!(store(&HttpPolicy::shared(), &asked, &response(206, &lines("bytes 1-0/5"))).is_err());
        assert!(store(&HttpPolicy::shared(), &asked, &response(206, &[("cache-control", "max-age=5")])).is_err());
        assert!(store(&HttpPolicy::shared(), &get("/", &[]), &response(206, &lines("bytes 0-1/5"))).is_err());
    }
}
