//! Who answers: the upstreams, and which model goes to which.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use tower_response_cache::key::CREDENTIAL_HEADERS;

/// One upstream.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) destination: Destination,
    /// What every request to it carries, in place of what the caller sent under these names.
    pub(crate) headers: HeaderMap,
}

#[derive(Debug)]
pub(crate) enum Destination {
    /// The provider that is built in.
    Simulator,
    Http(Base),
}

impl Upstream {
    /// What `host` says to it, and with that what the cache's keys say.
    pub(crate) fn host(&self) -> HeaderValue {
        match &self.destination {
            Destination::Simulator => HeaderValue::from_static("simulator"),
            Destination::Http(base) => base.host.clone(),
        }
    }

    /// Who it is to the cache's keys: two of one name, in routers that share a Redis, are two if they are in different places. `host` does not tell all of that.
    pub(crate) fn identity(&self) -> String {
        match &self.destination {
            Destination::Simulator => self.name.clone(),
            Destination::Http(Base { scheme, authority, prefix, .. }) => format!("{} {scheme}://{authority}{prefix}", self.name),
        }
    }

    /// Has it credentials of its own? Then callers' are not for it.
    pub(crate) fn has_credentials(&self) -> bool {
        CREDENTIAL_HEADERS.iter().any(|name| self.headers.contains_key(*name))
    }
}

/// Where an upstream is: scheme, authority, and what goes before every path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    prefix: String,
}

impl Base {
    /// Reads a base URL. The error says what is wrong with it and does not repeat it: it may hold a password.
    pub(crate) fn parse(url: &str) -> Result<Self, &'static str> {
        const FORM: &str = "is no base URL, as in https://api.openai.com";
        let uri: Uri = url.parse().map_err(|_| FORM)?;
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else { return Err(FORM) };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err("is neither an http nor an https URL");
        }
        if authority.as_str().contains('@') {
            return Err("has credentials in it: they belong into `headers`");
        }
        // A port that is none would be the scheme's own to the key, and an error to the client.
        let port = authority.as_str().strip_prefix(authority.host()).map(|port| port.trim_start_matches(':'));
        if authority.host().is_empty() || port.is_none_or(|port| !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0)) {
            return Err(FORM);
        }
        let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.query().is_some() || url.contains('#') {
            return Err("has a query or a fragment, and paths are to be added to it");
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| FORM)?;
        Ok(Self { scheme, authority, host, prefix: path.path().trim_end_matches('/').to_owned() })
    }

    pub(crate) fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The URL of a request. Where the base ends with the version that the path begins with, as in `https://api.openai.com/v1`, it stands there once.
    pub(crate) fn join(&self, path: &PathAndQuery) -> Result<Uri, http::Error> {
        let builder = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        if self.prefix.is_empty() {
            return builder.path_and_query(path.clone()).build();
        }
        builder.path_and_query(format!("{}{}", self.prefix, self.without_version(path.as_str()))).build()
    }

    fn without_version<'a>(&self, path: &'a str) -> &'a str {
        let last = self.prefix.rsplit('/').next().unwrap_or_default();
        if !is_version(last) {
            return path;
        }
        match path.strip_prefix('/').and_then(|path| path.strip_prefix(last)) {
            Some(rest) if rest.is_empty() || rest.starts_with(['/', '?']) => rest,
            _ => path,
        }
    }
}

/// `v1`, `v1beta`.
fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Which model goes where.
#[derive(Debug)]
pub(crate) struct Directory {
    /// Beginnings of models' names, longest first.
    rules: Vec<(String, Arc<Upstream>)>,
    default: Arc<Upstream>,
}

impl Directory {
    pub(crate) fn new(mut rules: Vec<(String, Arc<Upstream>)>, default: Arc<Upstream>) -> Self {
        rules.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { rules, default }
    }

    /// Sends everything to one upstream.
    pub(crate) fn single(upstream: Upstream) -> Self {
        Self::new(Vec::new(), Arc::new(upstream))
    }

    /// The upstream for a model: that of the longest prefix, or else the default.
    pub(crate) fn choose(&self, model: Option<&str>) -> &Arc<Upstream> {
        let rule = model.and_then(|model| self.rules.iter().find(|(prefix, _)| model.starts_with(prefix.as_str())));
        rule.map_or(&self.default, |(_, upstream)| upstream)
    }

    /// Does it matter which model it is?
    pub(crate) fn is_choice(&self) -> bool {
        self.rules.iter().any(|(_, upstream)| !Arc::ptr_eq(upstream, &self.default))
    }

    /// All of them, the default first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        std::iter::once(&self.default).chain(self.rules.iter().map(|(_, upstream)| upstream))
    }

    /// In a line, for the log.
    pub(crate) fn describe(&self) -> String {
        let mut said: Vec<String> = self.rules.iter().map(|(prefix, upstream)| format!("{prefix}* to {}", upstream.name)).collect();
        said.push(format!("{} to {}", if self.rules.is_empty() { "all" } else { "the rest" }, self.default.name));
        said.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_to_bases_with_one_slash_and_one_version() {
        for (base, path, expected) in [
            ("http://h", "/v1/x?y=1", "http://h/v1/x?y=1"),
            ("http://h/", "/v1/x", "http://h/v1/x"),
            ("http://h:81/prefix", "/v1/x?y=1", "http://h:81/prefix/v1/x?y=1"),
            ("http://h/prefix/", "/v1/x", "http://h/prefix/v1/x"),
            ("https://h/v1", "/v1/x", "https://h/v1/x"),
            ("https://h/api/v1/", "/v1/x?y", "https://h/api/v1/x?y"),
            ("https://h/v1", "/v1?y", "https://h/v1?y"),
            ("https://h/v1", "/v1beta/x", "https://h/v1/v1beta/x"),
            ("https://h/v1beta", "/v1beta/x", "https://h/v1beta/x"),
            ("https://h/api", "/api/x", "https://h/api/api/x"),
            ("https://h/v1", "/", "https://h/v1/"),
            ("http://[::1]:81/v1", "/v1/x", "http://[::1]:81/v1/x"),
            ("http://[::1]", "/v1/x", "http://[::1]/v1/x"),
        ] {
            let joined = Base::parse(base).unwrap().join(&path.parse().unwrap()).unwrap();
            assert_eq!(joined.to_string(), expected, "{base} and {path}");
        }
    }

    #[test]
    fn what_is_no_base_is_refused_without_repeating_it() {
        for url in [
            "",
            "/path",
            "host",
            "ftp://h",
            "http://",
            "http://:80",
            "http://h:0",
            "http://h:65536",
            "https://user:secret@h",
            "http://h/?a=b",
            "http://h/#f",
            "http://h h",
        ] {
            let error = Base::parse(url).err().unwrap_or_else(|| panic!("taken: {url}"));
            assert!(!error.contains("secret"), "{url}");
        }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let upstream =
            |name: &str| Arc::new(Upstream { name: name.to_owned(), destination: Destination::Simulator, headers: HeaderMap::new() });
        let rules = vec![("gpt-".to_owned(), upstream("a")), ("gpt-4".to_owned(), upstream("b")), ("claude".to_owned(), upstream("c"))];
        let directory = Directory::new(rules, upstream("rest"));
        for (model, expected) in [
            (Some("gpt-4o"), "b"),
            (Some("gpt-3"), "a"),
            (Some("claude-x"), "c"),
            (Some("GPT-4"), "rest"),
            (Some(""), "rest"),
            (None, "rest"),
        ] {
            assert_eq!(directory.choose(model).name, expected, "{model:?}");
        }
    }
}
