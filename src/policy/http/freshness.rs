//! How long a response is fresh, and how old it is (RFC 9111 section 4.2).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, StatusCode, header};

use super::{
    HttpPolicy, date,
    directives::{Directives, Seconds, element},
};
use crate::entry::Lifetime;

/// When a response came, and after how long a wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) at: SystemTime,
    pub(super) waited: Duration,
}

/// How long a response is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// As its origin says.
    Explicit(Duration),
    /// As is inferred from its last modification.
    Heuristic(Duration),
    /// There is nothing to go by. There is no default.
    Unknown,
}

impl HttpPolicy {
    /// RFC 9111 sections 4.2.1 and 4.2.2.
    pub(super) fn freshness(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        (directives, targeted): &(Directives, bool),
        arrival: Arrival,
    ) -> Freshness {
        let seconds = |seconds: Seconds| Freshness::Explicit(Duration::from_secs(seconds.or_zero().into()));
        if let Some(s_maxage) = directives.s_maxage.filter(|_| self.shared) {
            return seconds(s_maxage);
        }
        if let Some(max_age) = directives.max_age {
            return seconds(max_age);
        }
        let date = date::field(headers, &header::DATE, arrival.at).unwrap_or(arrival.at);
        if headers.contains_key(header::EXPIRES) && !targeted {
            // "Interpret invalid date formats, especially the value 0, as representing a time in the past" (section 5.3).
            let expires = date::field(headers, &header::EXPIRES, arrival.at);
            return Freshness::Explicit(expires.and_then(|expires| expires.duration_since(date).ok()).unwrap_or_default());
        }
        if !is_heuristically_cacheable(status) && !directives.public {
            return Freshness::Unknown;
        }
        match date::field(headers, &header::LAST_MODIFIED, arrival.at).and_then(|modified| date.duration_since(modified).ok()) {
            Some(unchanged) => Freshness::Heuristic(unchanged.mul_f64(self.heuristic).min(self.heuristic_max)),
            None => Freshness::Unknown,
        }
    }

    /// How long a response lives that is fresh for `fresh_for`.
    pub(super) fn lifetime(&self, headers: &HeaderMap, directives: &Directives, fresh_for: Duration, arrival: Arrival) -> Lifetime {
        let window = |seconds: Option<Seconds>| Duration::from_secs(seconds.map_or(0, Seconds::or_zero).into());
        let mut lifetime = Lifetime::fresh(since(headers, arrival), fresh_for);
        let obstinate = self.forbids_stale(directives);
        if directives.no_cache.is_all() {
            // Section 5.2.2.4: not "without forwarding it for validation".
            lifetime.fresh_for = Duration::ZERO;
        }
        if !obstinate {
            lifetime.stale_while_revalidate = window(directives.stale_while_revalidate);
            lifetime.stale_if_error = window(directives.stale_if_error);
        }
        if has_validator(headers) || ((self.stale_if_unreachable || self.store_stale) && !obstinate) {
            lifetime.kept_for = self.keep;
        }
        lifetime
    }

    /// Does the response forbid that it is served stale, whatever the need (RFC 9111 section 4.2.4)? `s-maxage` implies it (section 5.2.2.10).
    pub(super) fn forbids_stale(&self, directives: &Directives) -> bool {
        directives.must_revalidate
            || directives.no_cache.is_all()
            || (self.shared && (directives.proxy_revalidate || directives.s_maxage.is_some()))
    }
}

/// RFC 9110 section 15.1.
pub(super) fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 206 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

pub(super) fn has_validator(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED)
}

/// The moment at which the response was of age 0 (RFC 9111 section 4.2.3): its current age is the time since then.
fn since(headers: &HeaderMap, arrival: Arrival) -> SystemTime {
    // Dates have whole seconds, and so have ages that are told by them.
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let apparent = date::field(headers, &header::DATE, arrival.at).map_or(0, |date| seconds(arrival.at).saturating_sub(seconds(date)));
    let corrected = Duration::from_secs(age(headers).into()) + arrival.waited;
    let initial = corrected.max(Duration::from_secs(apparent));
    arrival.at.checked_sub(initial).unwrap_or(UNIX_EPOCH)
}

/// The `Age` field, 0 where it is absent: of a list "the first member", and if that is invalid none (RFC 9111 section 5.1).
pub(super) fn age(headers: &HeaderMap) -> u32 {
    let Some(line) = headers.get(header::AGE) else { return 0 };
    let mut rest = line.as_bytes();
    element(&mut rest).map_or(0, |first| Seconds::parse(first.trim_ascii()).or_zero())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::http::tests::{at, date_at, headers, now};

    fn freshness(policy: &HttpPolicy, status: u16, lines: &[(&str, &str)]) -> Freshness {
        let headers = headers(lines);
        let directives = policy.directives(&headers);
        policy.freshness(StatusCode::from_u16(status).unwrap(), &headers, &directives, Arrival { at: now(), waited: Duration::ZERO })
    }

    #[test]
    fn explicit_freshness_has_an_order() {
        let (shared, private) = (HttpPolicy::shared(), HttpPolicy::private());
        let explicit = |seconds| Freshness::Explicit(Duration::from_secs(seconds));
        let (date, expires) = (date_at(0), date_at(100));
        for (policy, lines, expected) in [
            (&shared, vec![("cache-control", "max-age=5")], explicit(5)),
            (&shared, vec![("cache-control", "max-age=5, s-maxage=6")], explicit(6)),
            (&private, vec![("cache-control", "max-age=5, s-maxage=6")], explicit(5)),
            (&shared, vec![("cache-control", "s-maxage=x, max-age=5")], explicit(0)),
            (&shared, vec![("cache-control", "max-age=5"), ("expires", &expires), ("date", &date)], explicit(5)),
            (&shared, vec![("expires", &expires), ("date", &date)], explicit(100)),
            (&shared, vec![("expires", &expires)], explicit(100)),
            (&shared, vec![("expires", &date), ("date", &date)], explicit(0)),
            (&shared, vec![("expires", &date), ("date", &expires)], explicit(0)),
            (&shared, vec![("expires", "0"), ("last-modified", &date_at(-1000))], explicit(0)),
            (&shared, vec![("expires", "soon")], explicit(0)),
            (&shared, vec![("expires", &expires), ("date", "junk")], explicit(100)),
            (&shared, vec![("expires", &expires), ("expires", &date)], explicit(100)),
            (&shared, vec![("cdn-cache-control", "max-age=5"), ("cache-control", "max-age=6, no-store")], explicit(5)),
            (&shared, vec![("cdn-cache-control", "foo"), ("expires", &expires)], Freshness::Unknown),
            (&private, vec![("cdn-cache-control", "max-age=5"), ("cache-control", "max-age=6")], explicit(6)),
            (&shared, vec![], Freshness::Unknown),
            (&shared, vec![("cache-control", "foo=\"max-age=5\"")], Freshness::Unknown),
        ] {
            assert_eq!(freshness(policy, 200, &lines), expected, "{lines:?}");
            // Whatever the status, where the origin is explicit.
            if let Freshness::Explicit(_) = expected {
                assert_eq!(freshness(policy, 599, &lines), expected, "{lines:?}");
            }
        }
    }

    #[test]
    fn heuristics_need_a_status_that_allows_them_and_a_modification_in_the_past() {
        let policy = HttpPolicy::shared();
        let (old, future, ancient) = (date_at(-1000), date_at(1000), date_at(-1_000_000_000));
        let heuristic = |seconds| Freshness::Heuristic(Duration::from_secs(seconds));
        for status in [200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501] {
            assert_eq!(freshness(&policy, status, &[("last-modified", &old)]), heuristic(100), "{status}");
        }
        for status in [201, 202, 299, 302, 303, 307, 400, 403, 418, 500, 502, 503, 504, 599] {
            assert_eq!(freshness(&policy, status, &[("last-modified", &old)]), Freshness::Unknown, "{status}");
            let public = [("last-modified", old.as_str()), ("cache-control", "public")];
            assert_eq!(freshness(&policy, status, &public), heuristic(100), "{status} public");
        }
        assert_eq!(freshness(&policy, 200, &[("last-modified", &future)]), Freshness::Unknown);
        assert_eq!(freshness(&policy, 200, &[("last-modified", "junk")]), Freshness::Unknown);
        assert_eq!(freshness(&policy, 200, &[("last-modified", &ancient)]), heuristic(7 * 86_400));
        assert_eq!(freshness(&policy, 200, &[("last-modified", &old), ("date", &date_at(-500))]), heuristic(50));
        let none = HttpPolicy::shared().heuristic(0.0);
        assert_eq!(freshness(&none, 200, &[("last-modified", &old)]), heuristic(0));
    }

    #[test]
    fn the_first_member_of_age_counts_if_it_is_a_number() {
        for (value, expected) in [
            ("10", 10),
            ("10, 20", 10),
            ("10,20", 10),
            (" 10 ", 10),
            ("010", 10),
            ("99999999999", 1 << 31),
            ("-10", 0),
            ("10.5", 0),
            ("10;a=b", 0),
            ("foo, 10", 0),
            ("foo", 0),
            (",10", 0),
            ("", 0),
        ] {
            assert_eq!(age(&headers(&[("age", value)])), expected, "{value:?}");
        }
        assert_eq!(age(&headers(&[("age", "1"), ("age", "2")])), 1);
    }

    #[test]
    fn the_age_is_the_greater_of_what_is_told_and_what_is_apparent() {
        for (date, age, waited, expected) in [
            (Some(0), None, 0, 0),
            (Some(-30), None, 0, 30),
            (Some(-30), Some("10"), 0, 30),
            (Some(-30), Some("50"), 0, 50),
            (Some(30), None, 0, 0),
            (Some(30), Some("50"), 0, 50),
            (None, None, 0, 0),
            (None, Some("50"), 3, 53),
            (Some(0), None, 3, 3),
            (Some(-2), None, 3, 3),
        ] {
            let mut lines = Vec::new();
            let date = date.map(date_at);
            lines.extend(date.as_deref().map(|date| ("date", date)));
            lines.extend(age.map(|age| ("age", age)));
            let since = since(&headers(&lines), Arrival { at: now(), waited: Duration::from_secs(waited) });
            assert_eq!(now().duration_since(since).unwrap().as_secs(), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_must_be_revalidated_has_no_stale_windows() {
        let (shared, private) = (HttpPolicy::shared(), HttpPolicy::private());
        for (directives, in_shared, in_private) in [
            ("max-age=1", true, true),
            ("max-age=1, must-revalidate", false, false),
            ("max-age=1, proxy-revalidate", false, true),
            ("max-age=1, s-maxage=1", false, true),
            ("max-age=1, no-cache", false, false),
            ("max-age=1, no-cache=\"a\"", true, true),
        ] {
            let headers = headers(&[("cache-control", &format!("{directives}, stale-while-revalidate=5, stale-if-error=6"))]);
            for (policy, windows) in [(&shared, in_shared), (&private, in_private)] {
                let (directives, _) = policy.directives(&headers);
                let lifetime =
                    policy.lifetime(&headers, &directives, Duration::from_secs(1), Arrival { at: now(), waited: Duration::ZERO });
                assert_eq!(lifetime.stale_while_revalidate.as_secs(), if windows { 5 } else { 0 }, "{directives:?}");
                assert_eq!(lifetime.stale_if_error.as_secs(), if windows { 6 } else { 0 }, "{directives:?}");
                assert_eq!(lifetime.kept_for.is_zero(), !windows, "{directives:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn arithmetic_never_panics_and_ages_never_shrink(
            max_age in "[0-9]{0,30}", age in "[0-9,.-]{0,30}", date in any::<i32>(), waited in any::<u32>(), later in any::<u32>()
        ) {
            let headers = headers(&[("cache-control", &format!("max-age={max_age}")), ("age", &age), ("date", &date_at(date.into()))]);
            let policy = HttpPolicy::shared();
            let arrival = Arrival { at: now(), waited: Duration::from_secs(waited.into()) };
            let directives = policy.directives(&headers);
            if let Freshness::Explicit(fresh_for) = policy.freshness(StatusCode::OK, &headers, &directives, arrival) {
                let lifetime = policy.lifetime(&headers, &directives.0, fresh_for, arrival);
                lifetime.expires();
                prop_assert!(lifetime.age(at(later.into())) >= lifetime.age(now()));
            }
        }
    }
}
