//! Whether a stored response answers a request (RFC 9111 section 4).

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header, request};

use super::{
    HttpPolicy,
    directives::{Directives, Seconds},
    range,
    validation::{self, Conditions},
};
use crate::{
    entry::Entry,
    options::CacheOptions,
    policy::{Moment, OnFailure, Replay, Reuse},
    status::Miss,
};

impl HttpPolicy {
    /// What the caller demands of stored responses.
    pub(super) fn demands(&self, headers: &HeaderMap) -> Directives {
        if self.heed_requests { Directives::of_request(headers) } else { Directives::default() }
    }

    pub(super) fn reusable(&self, request: &request::Parts, options: &CacheOptions, entry: &Entry, moment: Moment) -> Reuse {
        if entry.status == StatusCode::PARTIAL_CONTENT && !range::covers(request, entry) {
            return self.unfit_part(request, entry);
        }
        if is_conditional(&request.headers) && validation::conditions(request, entry, moment.now) == Conditions::AskOrigin {
            return Reuse::No(Miss::Request);
        }
        let asked = self.demands(&request.headers);
        let (age, left) = (entry.lifetime.age(moment.now), entry.lifetime.ttl(moment.now));
        let conditions = || validation::validators(entry);
        let refused = || Reuse::Validate { conditions: conditions(), why: Miss::Request, on_failure: OnFailure::Pass };
        if asked.no_cache.is_all() {
            return refused();
        }
        let bound = asked.max_age.map(|max_age| Duration::from_secs(max_age.or_zero().into()));
        let bound = bound.into_iter().chain(options.wishes().max_age).min();
        if bound.is_some_and(|bound| age > bound) && !self.is_immutable(entry, left) {
            return refused();
        }
        if let Some(left) = left {
            let wanted = Duration::from_secs(asked.min_fresh.map_or(0, Seconds::or_zero).into());
            return if left < wanted { refused() } else { Reuse::Fresh { refresh: false } };
        }

        let stale_for = entry.lifetime.staleness(moment.now).unwrap_or_default();
        let within = |seconds: Option<Seconds>| stale_for < Duration::from_secs(seconds.map_or(0, Seconds::or_zero).into());
        if self.forbids_stale(&self.directives(&entry.headers).0) {
            // "MUST generate an error response rather than reuse the stale response", 504 preferably (section 5.2.2.2).
            return Reuse::Validate { conditions: conditions(), why: Miss::Stale, on_failure: OnFailure::Timeout };
        }
        // Stores forget by their own clocks; whatever those say, and whatever the need, there is an end.
        let is_kept = moment.now < entry.lifetime.expires();
        if is_kept && asked.min_fresh.is_none() && within(asked.max_stale) {
            return Reuse::StaleAccepted;
        }
        // Who asks for freshness is not answered with less, whatever the origin permits.
        if bound.is_none() && asked.min_fresh.is_none() && stale_for < entry.lifetime.stale_while_revalidate {
            return Reuse::StaleWhileRevalidate;
        }
        // A stale failure is no better than a new one.
        let stands_in = is_kept && !entry.status.is_server_error();
        let lenient = self.stale_if_failing || stale_for < entry.lifetime.stale_if_error || within(asked.stale_if_error);
        let on_failure = if stands_in && lenient {
            OnFailure::Stale
        } else if is_kept && self.stale_if_unreachable {
            OnFailure::StaleIfUnreachable
        } else {
            OnFailure::Pass
        };
        Reuse::Validate { conditions: conditions(), why: Miss::Stale, on_failure }
    }

    /// A part that does not have what is asked for. Whoever asks for the whole gets it from this part and the rest of it.
    fn unfit_part(&self, request: &request::Parts, entry: &Entry) -> Reuse {
        let whole = request.method == Method::GET && !request.headers.contains_key(header::RANGE) && !is_conditional(&request.headers);
        match range::completing(entry).filter(|_| whole) {
            Some(conditions) => Reuse::Validate { conditions, why: Miss::Partial, on_failure: OnFailure::Pass },
            None => Reuse::No(Miss::Partial),
        }
    }

    /// RFC 8246: a reload does not validate what will not change while it is fresh. Only a private cache is told of reloads by its user.
    fn is_immutable(&self, entry: &Entry, left: Option<Duration>) -> bool {
        !self.shared && left.is_some() && self.directives(&entry.headers).0.immutable
    }

    /// May the request share an upstream call with others? Not if it asks for what others do not, or for more than an answer that is under way.
    pub(super) fn shares_call(&self, request: &request::Parts, validates: bool) -> bool {
        let asked = self.demands(&request.headers);
        let wants_newest = asked.no_cache.is_all() || asked.no_store || asked.max_age == Some(Seconds::Of(0));
        let special = request.headers.contains_key(header::RANGE) || is_conditional(&request.headers);
        request.method != Method::HEAD && !wants_newest && (validates || !special)
    }

    /// Fits the answer to the request: not modified, a part, or a head alone.
    pub(super) fn fit(&self, request: &request::Parts, entry: &Entry, answer: &mut Replay) {
        let is_head = request.method == Method::HEAD;
        if is_conditional(&request.headers) && validation::conditions(request, entry, entry.lifetime.since) == Conditions::NotModified {
            answer.status = StatusCode::NOT_MODIFIED;
            validation::not_modified(&mut answer.headers);
            answer.body = Some(Default::default());
        } else if is_head {
            answer.body = Some(Default::default());
        } else if request.headers.contains_key(header::RANGE) {
            range::select(request, entry, answer);
        }
    }
}

/// RFC 9110 section 13.1. `If-Range` is a condition of a range, not of the request.
pub(super) fn is_conditional(headers: &HeaderMap) -> bool {
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE]
        .iter()
        .any(|name| headers.contains_key(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::http::{
        freshness::Arrival,
        tests::{entry, get, now, response},
    };

    /// A response that was stored `age` seconds ago.
    fn stored(directives: &str, age: u64) -> Entry {
        let policy = HttpPolicy::shared();
        let lines = [("cache-control", directives), ("etag", "\"a\"")];
        let arrival = Arrival { at: now() - Duration::from_secs(age), waited: Duration::ZERO };
        let storing = policy.storing(&get("/", &[]), &CacheOptions::new(), &response(200, &lines), None, arrival).unwrap();
        Entry { headers: storing.headers, lifetime: storing.lifetime, ..entry(200, &[], b"body") }
    }

    fn said(reuse: &Reuse) -> String {
        match reuse {
            Reuse::Fresh { .. } => "fresh".to_owned(),
            Reuse::StaleAccepted => "accepted".to_owned(),
            Reuse::StaleWhileRevalidate => "swr".to_owned(),
            Reuse::Validate { conditions, why, on_failure } => {
                assert_eq!(conditions["if-none-match"], "\"a\"");
                format!("{why:?} {on_failure:?}")
            }
            Reuse::No(why) => format!("no {why:?}"),
        }
    }

    #[test]
    fn what_is_served_depends_on_age_on_the_origin_and_on_the_caller() {
        for (directives, age, asked, expected) in [
            ("max-age=10", 5, "", "fresh"),
            ("max-age=10", 10, "", "Stale StaleIfUnreachable"),
            ("max-age=10", 11, "", "Stale StaleIfUnreachable"),
            ("max-age=10, must-revalidate", 5, "", "fresh"),
            ("max-age=10, must-revalidate", 11, "", "Stale Timeout"),
            ("max-age=10, proxy-revalidate", 11, "", "Stale Timeout"),
            ("s-maxage=10", 11, "", "Stale Timeout"),
            ("no-cache", 0, "", "Stale Timeout"),
            ("max-age=10, stale-while-revalidate=5", 12, "", "swr"),
            ("max-age=10, stale-while-revalidate=5", 15, "", "Stale StaleIfUnreachable"),
            ("max-age=10, stale-while-revalidate=5, must-revalidate", 12, "", "Stale Timeout"),
            ("max-age=10, stale-if-error=5", 12, "", "Stale Stale"),
            ("max-age=10, stale-if-error=5", 16, "", "Stale StaleIfUnreachable"),
            // Section 5.2.1.
            ("max-age=10", 5, "no-cache", "Request Pass"),
            ("max-age=10", 5, "max-age=5", "fresh"),
            ("max-age=10", 5, "max-age=4", "Request Pass"),
            ("max-age=10", 0, "max-age=0", "fresh"),
            ("max-age=10", 1, "max-age=0", "Request Pass"),
            ("max-age=10", 1, "max-age=junk", "Request Pass"),
            ("max-age=10", 5, "min-fresh=5", "fresh"),
            ("max-age=10", 5, "min-fresh=6", "Request Pass"),
            ("max-age=10", 12, "max-stale", "accepted"),
            ("max-age=10", 12, "max-stale=3", "accepted"),
            ("max-age=10", 12, "max-stale=2", "Stale StaleIfUnreachable"),
            ("max-age=10", 12, "max-stale=junk", "Stale StaleIfUnreachable"),
            ("max-age=10, must-revalidate", 12, "max-stale", "Stale Timeout"),
            ("s-maxage=10", 12, "max-stale", "Stale Timeout"),
            ("max-age=10", 12, "max-stale, max-age=11", "Request Pass"),
            ("max-age=10", 12, "max-stale, min-fresh=1", "Stale StaleIfUnreachable"),
            ("max-age=10", 12, "max-stale, no-cache", "Request Pass"),
            ("max-age=10, stale-while-revalidate=5", 12, "max-age=100", "Stale StaleIfUnreachable"),
            ("max-age=10, stale-while-revalidate=5", 12, "min-fresh=0", "Stale StaleIfUnreachable"),
            ("max-age=10", 12, "stale-if-error=5", "Stale Stale"),
            ("max-age=10", 90_000, "", "Stale Pass"),
            ("max-age=10", 90_000, "max-stale", "Stale Pass"),
            ("max-age=10", 90_000, "stale-if-error=100000", "Stale Pass"),
            ("max-age=10", 5, "unknown", "fresh"),
        ] {
            let entry = stored(directives, age);
            let fields: &[_] = if asked.is_empty() { &[] } else { &[("cache-control", asked)] };
            let moment = Moment { now: now(), luck: 0.5, waited: Duration::ZERO };
            let reuse = HttpPolicy::shared().reusable(&get("/", fields), &CacheOptions::new(), &entry, moment);
            assert_eq!(said(&reuse), expected, "{directives}, {age} s old, asked {asked:?}");
        }
    }

    #[test]
    fn request_directives_can_be_ignored_and_options_cannot() {
        let moment = Moment { now: now(), luck: 0.5, waited: Duration::ZERO };
        let entry = stored("max-age=10", 5);
        let deaf = HttpPolicy::shared().heed_requests(false);
        let asked = get("/", &[("cache-control", "no-cache, max-age=0")]);
        assert_eq!(said(&deaf.reusable(&asked, &CacheOptions::new(), &entry, moment)), "fresh");
        let options = CacheOptions::new().max_age(Duration::from_secs(4));
        assert_eq!(said(&deaf.reusable(&asked, &options, &entry, moment)), "Request Pass");
    }

    #[test]
    fn a_private_cache_does_not_validate_the_immutable_on_reload() {
        let moment = Moment { now: now(), luck: 0.5, waited: Duration::ZERO };
        let reload = get("/", &[("cache-control", "max-age=0")]);
        for (policy, age, expected) in
            [(HttpPolicy::private(), 5, "fresh"), (HttpPolicy::shared(), 5, "Request Pass"), (HttpPolicy::private(), 11, "Request Pass")]
        {
            let reuse = policy.reusable(&reload, &CacheOptions::new(), &stored("max-age=10, immutable", age), moment);
            assert_eq!(said(&reuse), expected);
        }
    }

    #[test]
    fn a_call_is_shared_by_those_who_ask_the_same_and_take_what_comes() {
        let policy = HttpPolicy::shared();
        let mut head = get("/", &[]);
        head.method = Method::HEAD;
        for (request, on_a_miss, on_a_validation) in [
            (get("/", &[]), true, true),
            (get("/", &[("range", "bytes=0-1")]), false, true),
            (get("/", &[("if-none-match", "\"x\"")]), false, true),
            (get("/", &[("cache-control", "no-cache")]), false, false),
            (get("/", &[("cache-control", "no-store")]), false, false),
            (get("/", &[("cache-control", "max-age=0")]), false, false),
            (head, false, false),
        ] {
            assert_eq!(policy.shares_call(&request, false), on_a_miss, "{:?}", request.headers);
            assert_eq!(policy.shares_call(&request, true), on_a_validation, "{:?}", request.headers);
        }
    }
}
