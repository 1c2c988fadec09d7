//! What an answer to an unsafe request makes invalid (RFC 9111 section 4.4, RFC 9875).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method, Request, StatusCode, header, request, response};
use sfv::{BareItem, List, ListEntry, Parser};

use super::{
    HttpPolicy, Rule,
    identity::{Target, normal},
};
use crate::{
    key::{Envelope, Identity, Scope},
    options::{CacheOptions, Mode},
    policy::Invalidation,
    store::Selection,
};

static CACHE_GROUPS: HeaderName = HeaderName::from_static("cache-groups");
static CACHE_GROUP_INVALIDATION: HeaderName = HeaderName::from_static("cache-group-invalidation");

impl HttpPolicy {
    pub(super) fn invalidated(
        &self,
        envelope: &Envelope,
        request: &request::Parts,
        options: &CacheOptions,
        response: &response::Parts,
    ) -> Invalidation {
        // "A non-error response is one with a 2xx (Successful) or 3xx (Redirection) status code."
        if !response.status.is_success() && !response.status.is_redirection() {
            return Invalidation::default();
        }
        let target = Target::of(request, self.assumed_scheme);
        let named = [header::LOCATION, header::CONTENT_LOCATION].into_iter().filter_map(|name| {
            let reference = std::str::from_utf8(response.headers.get(name)?.as_bytes()).ok()?;
            // Another origin's are not for this one to invalidate.
            resolve(&target, reference.trim()).filter(|named| named.has_origin_of(&target))
        });
        let targets: Vec<Target<'_>> = std::iter::once(target.clone()).chain(named).collect();
        // What everyone shares, and what is kept for this caller.
        let mut scopes = vec![Scope::shared()];
        scopes.extend(Some(options.wishes().scope.unwrap_or_else(|| self.scope(&request.headers))).filter(|own| *own != scopes[0]));
        // Also what is stored by a rule that leaves out of a query what makes no difference; after all else, for that is where answers move to.
        let by_rule: Vec<_> = targets.iter().filter_map(|target| Some((target, Some(self.rules.get(target)?)))).collect();
        let places = targets.iter().map(|target| (target, None)).chain(by_rule);
        let key = |target: &Target<'_>, rule: Option<&Rule>, scope| target.key(envelope, options, rule, scope).key;
        let keys = places.flat_map(|(target, rule)| scopes.iter().map(move |scope| key(target, rule.as_deref(), *scope))).collect();
        let groups = strings(&response.headers, &CACHE_GROUP_INVALIDATION);
        let selections = groups.iter().map(|group| Selection::Tag(tag(&target, group))).collect();
        Invalidation { keys, selections }
    }
}

impl HttpPolicy {
    /// The GET that an answer to a POST is an answer to as well: the answer is explicit about its freshness, and "has a Content-Location header field that has
    /// the same value as the POST's target URI" (RFC 9110 section 9.3.3).
    pub(super) fn also_answered(
        &self,
        envelope: &Envelope,
        request: &request::Parts,
        options: &CacheOptions,
        response: &response::Parts,
    ) -> Option<(Identity, request::Parts)> {
        let unfit = request.method != Method::POST || response.status != StatusCode::OK;
        let stores = matches!(options.wishes().mode, Mode::ReadWrite | Mode::WriteOnly) && !self.demands(&request.headers).no_store;
        if unfit || !stores || self.bypass_if.as_ref().is_some_and(|predicate| predicate(request)) {
            return None;
        }
        let headers = &response.headers;
        let (directives, targeted) = self.directives(headers);
        let expires = headers.contains_key(header::EXPIRES) && !targeted;
        let explicit = expires || directives.max_age.is_some() || (self.shared && directives.s_maxage.is_some());
        let location = headers.get(header::CONTENT_LOCATION).filter(|_| explicit)?;
        let target = Target::of(request, self.assumed_scheme);
        if resolve(&target, std::str::from_utf8(location.as_bytes()).ok()?.trim())? != target {
            return None;
        }
        let scope = options.wishes().scope.unwrap_or_else(|| self.scope(&request.headers));
        let mut get = Request::new(()).into_parts().0;
        get.uri.clone_from(&request.uri);
        get.headers.clone_from(&request.headers);
        Some((target.key(envelope, options, options.wishes().search.as_deref(), scope), get))
    }
}

/// Tags for the groups that a response belongs to (RFC 9875 section 2). Groups of different origins are different groups.
pub(super) fn groups(request: &request::Parts, headers: &HeaderMap, policy: &HttpPolicy) -> Vec<String> {
    if !headers.contains_key(&CACHE_GROUPS) {
        return Vec::new();
    }
    let target = Target::of(request, policy.assumed_scheme);
    strings(headers, &CACHE_GROUPS).iter().map(|group| tag(&target, group)).collect()
}

fn tag(target: &Target<'_>, group: &str) -> String {
    format!("group {} {group}", target.origin())
}

/// How many groups one response may name, and how long their names may be (RFC 9875 section 2.1 asks for 32 of 32 at least).
const MAX_GROUPS: usize = 128;
const MAX_GROUP: usize = 128;

/// The strings of a structured list. One that is invalid has none.
fn strings(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    if !headers.contains_key(name) {
        return Vec::new();
    }
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
    let Ok(list) = Parser::new(&lines.join(&b", "[..])).parse::<List>() else { return Vec::new() };
    let string = |member: &ListEntry| match member {
        ListEntry::Item(item) => match &item.bare_item {
            BareItem::String(string) => Some(string.as_str().to_owned()),
            _ => None,
        },
        ListEntry::InnerList(_) => None,
    };
    list.iter().filter_map(string).filter(|group| group.len() <= MAX_GROUP).take(MAX_GROUPS).collect()
}

/// Resolves a reference against the target (RFC 3986 section 5.2). The URL crates of the field normalise on the way, and keys are byte-exact.
fn resolve<'a>(base: &Target<'a>, reference: &'a str) -> Option<Target<'a>> {
    let reference = reference.split('#').next().unwrap_or_default();
    let (rest, query) = match reference.split_once('?') {
        Some((rest, query)) => (rest, Some(Cow::Borrowed(query))),
        None => (reference, None),
    };
    let scheme = rest.split_once(':').filter(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    let (scheme, rest) = match scheme {
        Some((scheme, rest)) => (Cow::Owned(scheme.to_ascii_lowercase()), rest),
        None => (base.scheme.clone(), rest),
    };
    if let Some(rest) = rest.strip_prefix("//") {
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        return Some(Target {
            authority: normal(&scheme, authority),
            scheme,
            path: without_dots(path).into(),
            query,
            doubts: base.doubts.clone(),
        });
    }
    if scheme != base.scheme {
        return None;
    }
    let (path, query) = match rest {
        "" => (base.path.clone(), query.or_else(|| base.query.clone())),
        absolute if absolute.starts_with('/') => (without_dots(absolute).into(), query),
        relative => {
            let directory = base.path.rfind('/').map_or("/", |slash| &base.path[..=slash]);
            (without_dots(&format!("{directory}{relative}")).into(), query)
        }
    };
    Some(Target { path, query, ..base.clone() })
}

/// RFC 3986 section 5.2.4.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::http::tests::{get, headers, response};

    #[test]
    fn references_are_resolved_against_the_target() {
        let base =
            Target { scheme: "http".into(), authority: "host".into(), path: "/a/b/c".into(), query: Some("q".into()), doubts: Vec::new() };
        for (reference, expected) in [
            ("/x", "http://host/x"),
            ("/x?y=1", "http://host/x?y=1"),
            ("x", "http://host/a/b/x"),
            ("../x", "http://host/a/x"),
            ("../../../x", "http://host/x"),
            ("./", "http://host/a/b/"),
            ("..", "http://host/a/"),
            ("?y", "http://host/a/b/c?y"),
            ("", "http://host/a/b/c?q"),
            ("#f", "http://host/a/b/c?q"),
            ("/x#f", "http://host/x"),
            ("http://HOST:80/x", "http://host/x"),
            ("http://host", "http://host/"),
            ("//other/x", "http://other/x"),
            ("https://host/x", "https://host/x"),
            ("/a%2Fb", "http://host/a%2Fb"),
        ] {
            let target = resolve(&base, reference).unwrap();
            let query = target.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
            assert_eq!(format!("{}{}{query}", target.origin(), target.path), expected, "{reference}");
        }
        assert_eq!(resolve(&base, "mailto:a@host"), None);
    }

    #[test]
    fn a_non_error_answer_voids_its_target_and_what_it_names_of_the_same_origin() {
        let policy = HttpPolicy::shared();
        let envelope = Envelope::new("");
        let mut request = get("/a", &[]);
        request.method = Method::POST;
        let key = |path: &str| policy.identity(&envelope, &get(path, &[]), b"", &CacheOptions::new()).unwrap().key;
        let voided =
            |status, lines: &[(&str, &str)]| policy.invalidated(&envelope, &request, &CacheOptions::new(), &response(status, lines)).keys;
        for status in [200, 201, 204, 299, 302, 303, 399] {
            assert_eq!(voided(status, &[]), [key("/a")], "{status}");
        }
        for status in [400, 404, 500, 503, 599] {
            assert!(voided(status, &[("location", "/b")]).is_empty(), "{status}");
        }
        assert_eq!(voided(201, &[("location", "/b"), ("content-location", "http://host/c")]), [key("/a"), key("/b"), key("/c")]);
        assert_eq!(voided(201, &[("location", "http://other/b"), ("content-location", "https://host/c")]), [key("/a")]);
    }

    #[test]
    fn what_is_shared_and_what_is_kept_for_the_caller_both_go() {
        let policy = HttpPolicy::shared();
        let envelope = Envelope::new("");
        let mut request = get("/a", &[("cookie", "sid=1")]);
        let own = policy.identity(&envelope, &request, b"", &CacheOptions::new()).unwrap().key;
        let shared = policy.identity(&envelope, &get("/a", &[]), b"", &CacheOptions::new()).unwrap().key;
        request.method = Method::POST;
        assert_eq!(policy.invalidated(&envelope, &request, &CacheOptions::new(), &response(200, &[])).keys, [shared, own]);
    }

    #[test]
    fn groups_are_strings_of_one_origin() {
        let names = |line: &str| groups(&get("/", &[]), &headers(&[("cache-groups", line)]), &HttpPolicy::shared());
        assert_eq!(names("\"a\", \"b b\";x=1"), ["group http://host a", "group http://host b b"]);
        assert_eq!(names("a, \"b\", 1"), ["group http://host b"]);
        assert!(names("\"a").is_empty());
        let mut request = get("/", &[]);
        request.method = Method::POST;
        let answer = response(200, &[("cache-group-invalidation", "\"a\"")]);
        let voided = HttpPolicy::shared().invalidated(&Envelope::new(""), &request, &CacheOptions::new(), &answer);
        assert_eq!(voided.selections, [Selection::Tag("group http://host a".into())]);
    }
}
