//! What happened to a request: [`CacheStatus`], and its header form (RFC 9211).

use std::{cell::RefCell, fmt::Write as _, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode, header::HeaderName};

use crate::{key::Key, policy::Bypass};

pub(crate) static CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What happened to a request. In the extensions of every response that did not bypass the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheStatus {
    /// Where the answer came from.
    pub outcome: Outcome,
    /// The key of the entry.
    pub key: Option<Key>,
    /// How old the answer is; `None` if it came from upstream just now.
    pub age: Option<Duration>,
    /// How long it is still fresh; `None` if it is stale or not stored.
    pub ttl: Option<Duration>,
    /// How long it has been stale; `None` if it is fresh, or came from upstream just now.
    pub stale_for: Option<Duration>,
    /// Is the response being stored as it goes by? Whether it will be is known when it ended: ask an observer.
    pub storing: bool,
    /// The upstream's status, if it was asked.
    pub upstream_status: Option<StatusCode>,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// From the store, fresh.
    Hit,
    /// From the store, stale.
    Stale(Stale),
    /// From the store, after the upstream, asked for this reason, said that it still holds.
    Revalidated(Miss),
    /// From upstream.
    Miss(Miss),
    /// From an upstream call that another request made.
    Collapsed,
    /// From an upstream call that another process makes, as it speaks.
    CollapsedElsewhere,
    /// From upstream, untouched.
    Bypass(Bypass),
    /// A 504: the caller wanted a stored answer or none (RFC 9111 section 5.2.1.7).
    Unsatisfied,
    /// A 504: the upstream gave no response, and what is stored must not be served without one (RFC 9111 section 5.2.2.2).
    Unreachable,
    /// There was none: the caller left before it was known.
    Unanswered,
}

/// Why a stale answer was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stale {
    /// A refresh runs (RFC 5861 section 3).
    WhileRevalidate,
    /// The upstream failed (RFC 5861 section 4).
    IfError,
    /// The request takes it (RFC 9111 section 5.2.1.2).
    Accepted,
}

/// Why the upstream was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Miss {
    /// Nothing was stored.
    Absent,
    /// Nothing was stored for the target, for whomever and in whatever variant (RFC 9211 section 2.2).
    Uri,
    /// What was stored is for requests with other fields (RFC 9111 section 4.1).
    Vary,
    /// What was stored is a part, and lacks what is asked for.
    Partial,
    /// What was stored had gone stale.
    Stale,
    /// The request wanted none of it.
    Request,
}

impl Miss {
    const fn label(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Uri => "uri",
            Self::Vary => "vary",
            Self::Partial => "partial",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }

    /// Why a request was forwarded, in the words of RFC 9211 section 2.2.
    const fn fwd(self) -> &'static str {
        match self {
            Self::Absent => "miss",
            Self::Uri => "uri-miss",
            Self::Vary => "vary-miss",
            Self::Partial => "partial",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
}

impl Outcome {
    /// In a word, for labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale(_) => "stale",
            Self::Revalidated(_) => "revalidated",
            Self::Miss(_) => "miss",
            Self::Collapsed | Self::CollapsedElsewhere => "collapsed",
            Self::Bypass(_) => "bypass",
            Self::Unsatisfied => "unsatisfied",
            Self::Unreachable => "unreachable",
            Self::Unanswered => "unanswered",
        }
    }

    /// The reason in a word, for labels; empty where there is only one.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Bypass(reason) => reason.label(),
            Self::Stale(Stale::WhileRevalidate) => "while-revalidate",
            Self::Stale(Stale::IfError) => "if-error",
            Self::Stale(Stale::Accepted) => "accepted",
            Self::Miss(why) | Self::Revalidated(why) => why.label(),
            Self::CollapsedElsewhere => "elsewhere",
            _ => "",
        }
    }
}

impl CacheStatus {
    pub(crate) fn of(outcome: Outcome) -> Self {
        Self { outcome, key: None, age: None, ttl: None, stale_for: None, storing: false, upstream_status: None }
    }

    /// Appends the member that says this to the `cache-status` field, after those of caches nearer to the origin (RFC 9211 section 2).
    pub(crate) fn append(&self, name: &str, show_key: bool, headers: &mut HeaderMap) {
        if let Some(member) = self.member(name, show_key) {
            headers.append(&CACHE_STATUS, member);
        }
    }

    /// `None` if the name cannot stand in a header field.
    pub(crate) fn member(&self, name: &str, show_key: bool) -> Option<HeaderValue> {
        MEMBER.with_borrow_mut(|member| {
            member.clear();
            self.write(name, show_key, member);
            HeaderValue::from_str(member).ok()
        })
    }

    fn write(&self, name: &str, show_key: bool, member: &mut String) {
        member.push_str(name);
        match self.outcome {
            Outcome::Hit => member.push_str("; hit"),
            Outcome::Stale(Stale::WhileRevalidate) => member.push_str("; hit; detail=stale-while-revalidate"),
            Outcome::Stale(Stale::Accepted) => member.push_str("; hit; detail=max-stale"),
            Outcome::Stale(Stale::IfError) => member.push_str("; fwd=stale; detail=stale-if-error"),
            // Where the upstream was asked it was no hit, whatever the answer is made of (RFC 9211 section 2.1).
            Outcome::Miss(why) | Outcome::Revalidated(why) => {
                member.push_str("; fwd=");
                member.push_str(why.fwd());
            }
            Outcome::Collapsed => member.push_str("; fwd=miss; collapsed"),
            Outcome::CollapsedElsewhere => member.push_str("; fwd=miss; collapsed; detail=elsewhere"),
            Outcome::Bypass(Bypass::Semantics) => member.push_str("; fwd=method"),
            Outcome::Bypass(reason) => {
                member.push_str("; fwd=bypass; detail=");
                member.push_str(reason.label());
            }
            Outcome::Unsatisfied => member.push_str("; detail=only-if-cached"),
            Outcome::Unreachable => member.push_str("; fwd=stale; detail=unreachable"),
            Outcome::Unanswered => {}
        }
        let mut number = itoa::Buffer::new();
        if let Some(status) = self.upstream_status {
            member.push_str("; fwd-status=");
            member.push_str(status.as_str());
        }
        if self.storing {
            member.push_str("; stored");
        }
        if let Some(ttl) = self.ttl {
            member.push_str("; ttl=");
            member.push_str(number.format(ttl.as_secs()));
        } else if let Some(stale_for) = self.stale_for {
            // "A negative value if the response is stale" (RFC 9211 section 2.5).
            member.push_str("; ttl=-");
            member.push_str(number.format(stale_for.as_secs()));
        }
        if let Some(key) = self.key.filter(|_| show_key) {
            let written = write!(member, "; key=\"{key}\"");
            debug_assert!(written.is_ok(), "writing to a string cannot fail");
        }
    }
}

thread_local! {
    /// Where members are put together: what they become is as long as it has to be.
    static MEMBER: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Sets `age` (RFC 9111 section 5.1), in whole seconds.
pub(crate) fn set_age(age: Duration, headers: &mut HeaderMap) {
    if let Ok(age) = HeaderValue::from_str(itoa::Buffer::new().format(age.as_secs())) {
        headers.insert(http::header::AGE, age);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_an_outcome_stands_in_the_readme() {
        let readme = include_str!("../README.md");
        let missed = [Miss::Absent, Miss::Uri, Miss::Vary, Miss::Stale, Miss::Request].map(Outcome::Miss);
        let stale = [Stale::WhileRevalidate, Stale::IfError, Stale::Accepted].map(Outcome::Stale);
        let validated = [Miss::Stale, Miss::Request].map(Outcome::Revalidated);
        let others = [
            Outcome::Hit,
            Outcome::Collapsed,
            Outcome::CollapsedElsewhere,
            Outcome::Unsatisfied,
            Outcome::Unreachable,
            Outcome::Bypass(Bypass::Path),
        ];
        for outcome in missed.into_iter().chain(stale).chain(validated).chain(others) {
            let said = CacheStatus::of(outcome).member("cache", false).unwrap();
            let said = said.to_str().unwrap().trim_start_matches("cache; ").replace("detail=path", "detail=..");
            let row = format!("| {} | ", outcome.label());
            let rows = || readme.lines().filter_map(|line| line.strip_prefix(&row)?.split('|').next());
            let is_told =
                |cell: &str| cell.split('`').skip(1).step_by(2).any(|words| words == said || words.starts_with(&format!("{said};")));
            assert!(rows().any(is_told), "{outcome:?}: `{said}` is in none of {:?}", rows().collect::<Vec<_>>());
        }
    }
}
