//! The primary key (RFC 9111 section 4): target and method; in a shared cache, by default, also the caller's cookies.

use std::{borrow::Cow, sync::LazyLock};

use http::{HeaderMap, header, request};

use super::{HttpPolicy, QUERY, Rule};
use crate::{
    key::{Envelope, Field, Fields, Identity, Scope},
    options::CacheOptions,
    policy::{
        Bypass,
        doubts::{self, OVERRIDES},
        names::Names,
    },
    status::Miss,
};

/// Scheme, authority, path and query. What needs no change is borrowed: a hit allocates nothing for its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) scheme: Cow<'a, str>,
    pub(super) authority: Cow<'a, str>,
    pub(super) path: Cow<'a, str>,
    pub(super) query: Option<Cow<'a, str>>,
    /// What else may decide which target an upstream answers for; nothing in most requests.
    pub(super) doubts: Vec<(Field, &'a [u8])>,
}

/// Fields that override the target, as careless upstreams have it.
static OVERRIDING: LazyLock<Names> = LazyLock::new(|| Names::of(OVERRIDES.iter().copied()));

impl<'a> Target<'a> {
    /// Of a request: from its URI, or else from `Host`, so that absolute form and origin form are one.
    pub(super) fn of(request: &'a request::Parts, assumed_scheme: &'static str) -> Self {
        let uri = &request.uri;
        let scheme = lower(uri.scheme_str().unwrap_or(assumed_scheme));
        let host = || request.headers.get(header::HOST).map(|host| String::from_utf8_lossy(host.as_bytes()));
        let authority = uri.authority().map(|authority| Cow::Borrowed(authority.as_str())).or_else(host).unwrap_or_default();
        let authority = match authority {
            Cow::Borrowed(authority) => normal(&scheme, authority),
            Cow::Owned(authority) => Cow::Owned(normal(&scheme, &authority).into_owned()),
        };
        let path = if uri.path().is_empty() { "/" } else { uri.path() };
        let mut doubts = Vec::new();
        let is_target = |host: &[u8]| std::str::from_utf8(host).is_ok_and(|host| normal(&scheme, host) == authority);
        doubts::note(request, &scheme, is_target, |field, value| doubts.push((field, value)));
        for name in OVERRIDING.among(&request.headers) {
            doubts.push((Field::HeaderName, name.as_str().as_bytes()));
            doubts.extend(request.headers.get_all(name).iter().map(|value| (Field::HeaderValue, value.as_bytes())));
        }
        Self { scheme, authority, path: Cow::Borrowed(path), query: uri.query().map(Cow::Borrowed), doubts }
    }

    /// The same origin (RFC 9110 section 4.3.1), which is all that one response may speak for.
    pub(super) fn has_origin_of(&self, other: &Target<'_>) -> bool {
        (&self.scheme, &self.authority) == (&other.scheme, &other.authority)
    }

    pub(super) fn origin(&self) -> String {
        format!("{}://{}", self.scheme, self.authority)
    }

    /// The key of its stored response, whatever of it was asked for.
    pub(super) fn key(&self, envelope: &Envelope, options: &CacheOptions, rule: Option<&Rule>, scope: Scope) -> Identity {
        self.fields(envelope, "GET", options, rule).seal(scope)
    }

    fn fields(&self, envelope: &Envelope, method: &str, options: &CacheOptions, rule: Option<&Rule>) -> Fields {
        let mut fields = envelope.open();
        fields
            .add(Field::Method, method.as_bytes())
            .add(Field::Scheme, self.scheme.as_bytes())
            .add(Field::Authority, self.authority.as_bytes())
            .add(Field::Path, self.path.as_bytes());
        for (field, value) in &self.doubts {
            fields.add(*field, value);
        }
        if let Some(rule) = rule {
            rule.add(self.query.as_deref(), &mut fields);
        } else if let Some(query) = &self.query {
            fields.add(Field::Query, query.as_bytes());
        }
        if let Some(upstream) = &options.wishes().upstream {
            fields.add(Field::Upstream, upstream.as_bytes());
        }
        if !options.wishes().extra.is_empty() {
            fields.add(Field::Extra, &options.wishes().extra);
        }
        fields
    }
}

/// Host names have no case, and the default port of a scheme goes without saying (RFC 9110 section 4.2.3). Who asks is no part of where.
pub(super) fn normal<'a>(scheme: &str, authority: &'a str) -> Cow<'a, str> {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let default = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "",
    };
    lower(host.strip_suffix(default).or_else(|| host.strip_suffix(':')).unwrap_or(host))
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) { Cow::Owned(text.to_ascii_lowercase()) } else { Cow::Borrowed(text) }
}

impl HttpPolicy {
    pub(super) fn identity(
        &self,
        envelope: &Envelope,
        request: &request::Parts,
        body: &[u8],
        options: &CacheOptions,
    ) -> Result<Identity, Bypass> {
        let target = Target::of(request, self.assumed_scheme);
        let scope = options.wishes().scope.unwrap_or_else(|| self.scope(&request.headers));
        if request.method != *QUERY {
            // What a body of a GET means is between its two ends (RFC 9110 section 9.3.1): no key could hold it.
            return if body.is_empty() {
                Ok(target.key(envelope, options, options.wishes().search.as_deref(), scope))
            } else {
                Err(Bypass::Content)
            };
        }
        let mut fields = target.fields(envelope, "QUERY", options, None);
        for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE] {
            for value in request.headers.get_all(&name) {
                fields.add(Field::HeaderName, name.as_str().as_bytes()).add(Field::HeaderValue, value.as_bytes());
            }
        }
        fields.add(Field::RawBody, body);
        Ok(fields.seal(scope))
    }

    /// Nothing is stored under the key: is that all that can be said of the target?
    pub(super) fn unknown(&self, request: &request::Parts, options: &CacheOptions) -> Miss {
        let scope = options.wishes().scope.unwrap_or_else(|| self.scope(&request.headers));
        // There may be something for others, or in answer to other content.
        let is_target = request.method != *QUERY
            && scope == Scope::shared()
            && options.wishes().extra.is_empty()
            && options.wishes().upstream.is_none();
        if is_target { Miss::Uri } else { Miss::Absent }
    }

    /// Callers with other cookies are other callers, unless told otherwise.
    pub(super) fn scope(&self, headers: &HeaderMap) -> Scope {
        if !self.key_cookies {
            return Scope::shared();
        }
        let cookies = headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
        let mut kept = cookies.map(<[u8]>::trim_ascii).filter(|cookie| !cookie.is_empty() && !self.is_ignored(cookie)).peekable();
        if kept.peek().is_none() {
            return Scope::shared();
        }
        Scope::credentials(kept.map(|cookie| (&b"cookie"[..], cookie)))
    }

    fn is_ignored(&self, cookie: &[u8]) -> bool {
        let name = cookie.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        self.ignored_cookies.iter().any(|ignored| ignored.as_bytes() == name)
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Uri};

    use super::*;
    use crate::{key::Key, policy::http::tests::get};

    fn key(policy: &HttpPolicy, request: &request::Parts, body: &[u8]) -> Key {
        policy.identity(&Envelope::new(""), request, body, &CacheOptions::new()).unwrap().key
    }

    #[test]
    fn one_target_has_one_key_and_another_has_another() {
        let policy = HttpPolicy::shared();
        let at = |uri: &str, fields: &[(&str, &str)]| {
            let mut request = get("/", fields);
            request.uri = uri.parse::<Uri>().unwrap();
            key(&policy, &request, b"")
        };
        let one = at("http://host/a?b=1", &[]);
        for same in ["http://HOST/a?b=1", "http://host:80/a?b=1", "http://user:secret@host/a?b=1"] {
            assert_eq!(at(same, &[]), one, "{same}");
        }
        assert_eq!(at("/a?b=1", &[("host", "Host:80")]), one);
        assert_eq!(at("http://host/a?b=1", &[("host", "HOST:80"), ("connection", "close, TE")]), one);
        assert_ne!(at("/a?b=1", &[("host", "<evil>@host")]), one);
        assert_ne!(at("/", &[("host", "\u{e4}")]), at("/", &[("host", "\u{f6}")]));
        assert_eq!(at("http://host", &[]), at("http://host/", &[]));
        for other in [
            "https://host/a?b=1",
            "http://host:8080/a?b=1",
            "http://other/a?b=1",
            "http://host/A?b=1",
            "http://host/a?b=2",
            "http://host/a",
            "http://host/a?",
        ] {
            assert_ne!(at(other, &[]), one, "{other}");
        }
        let mut head = get("/", &[]);
        head.method = Method::HEAD;
        assert_eq!(key(&policy, &head, b""), key(&policy, &get("/", &[]), b""), "a HEAD is answered from what a GET brought");
    }

    #[test]
    fn a_query_is_what_its_content_says() {
        let policy = HttpPolicy::shared();
        let query = |media_type: &str, body: &[u8]| {
            let mut request = get("/", &[("content-type", media_type)]);
            request.method = QUERY.clone();
            key(&policy, &request, body)
        };
        assert_eq!(query("a/b", b"1"), query("a/b", b"1"));
        assert_ne!(query("a/b", b"1"), query("a/b", b"2"));
        assert_ne!(query("a/b", b"1"), query("a/c", b"1"));
        assert_ne!(query("a/b", b""), key(&policy, &get("/", &[("content-type", "a/b")]), b""));
        assert_eq!(
            policy.identity(&Envelope::new(""), &get("/", &[]), b"fat", &CacheOptions::new()),
            Err(Bypass::Content),
            "a GET with content has no key"
        );
    }

    #[test]
    fn callers_with_other_cookies_are_other_callers_unless_told_otherwise() {
        let with = |policy: &HttpPolicy, cookie: &str| key(policy, &get("/", &[("cookie", cookie)]), b"");
        let policy = HttpPolicy::shared().ignore_cookies(["_ga", "theme"]);
        let none = key(&policy, &get("/", &[]), b"");
        assert_eq!(with(&policy, "_ga=1; theme=dark"), none);
        assert_ne!(with(&policy, "sid=1"), none);
        assert_ne!(with(&policy, "sid=1"), with(&policy, "sid=2"));
        assert_eq!(with(&policy, "sid=1; _ga=1"), with(&policy, "sid=1;_ga=2"));
        for policy in [HttpPolicy::shared().key_cookies(false), HttpPolicy::private()] {
            assert_eq!(with(&policy, "sid=1"), none);
        }
    }
}
