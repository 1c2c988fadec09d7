use std::{cell::RefCell, sync::LazyLock, time::Duration};

use http::{HeaderMap, HeaderName, Method, header, request::Parts};
use memchr::memmem::{self, Finder};

use super::{ApiPolicy, Sharing};
use crate::{
    key::{CREDENTIAL_PARAMETERS, Envelope, Field, Fields, Identity, Scope, json, json::Form},
    options::{CacheOptions, Mode},
    policy::{
        Admission, Bypass, doubts,
        http::{Directives, Fields as DirectiveFields},
    },
};

impl ApiPolicy {
    pub(super) fn admission(&self, request: &mut Parts, options: &mut CacheOptions) -> Admission {
        if let Some(trust) = &self.trust {
            heed(&mut request.headers, trust.ttl_header.as_ref(), options);
        }
        let reason = if options.wishes().mode == Mode::Off {
            Bypass::Off
        } else if request.method == Method::CONNECT || request.headers.contains_key(header::UPGRADE) {
            Bypass::Upgrade
        } else if !self.methods.contains(&request.method) {
            Bypass::Method
        } else if request.headers.contains_key(header::RANGE) {
            Bypass::Range
        } else if self.paths.as_ref().is_some_and(|cached| !cached(request.uri.path())) {
            Bypass::Path
        } else if self.bypass_if.as_ref().is_some_and(|predicate| predicate(request)) {
            Bypass::Predicate
        } else {
            return Admission::Cache;
        };
        Admission::Bypass(reason)
    }

    /// The identity of a request, with these of its fields in the key.
    pub(in crate::policy) fn identity_by<'a>(
        &self,
        envelope: &Envelope,
        request: &Parts,
        body: &[u8],
        options: &CacheOptions,
        slot: u32,
        headers: impl Iterator<Item = &'a HeaderName>,
    ) -> Result<Identity, Bypass> {
        let (user, authority) = self.authority(request);
        let mut fields = envelope.open();
        let scheme = request.uri.scheme_str().unwrap_or(self.assumed_scheme);
        fields
            .add(Field::Method, request.method.as_str().as_bytes())
            .add(Field::Scheme, scheme.as_bytes())
            .add(Field::Authority, authority)
            .add(Field::Path, request.uri.path().as_bytes());
        doubts::note(request, scheme, |host| host.eq_ignore_ascii_case(authority), |field, value| _ = fields.add(field, value));
        add_query(request.uri.query(), &mut fields);
        let essence = essence(&request.headers);
        // What the bytes of a body mean: `charset` and `boundary` count, but not for JSON what it means anyway (RFC 8259 section 8.1).
        let meaning = parameters_of_type(&request.headers).filter(|parameters| !(is_json(essence) && names_utf8(parameters)));
        let mut types = request.headers.get_all(header::CONTENT_TYPE).iter();
        let unreadable = types.next().filter(|value| value.to_str().is_err());
        let essence_or_all = unreadable.map_or(essence.as_bytes(), |value| value.as_bytes());
        add_header(&header::CONTENT_TYPE, std::iter::once(essence_or_all).chain(meaning.map(str::as_bytes)), &mut fields);
        // Upstreams differ over which of several lines they believe.
        add_header(&header::CONTENT_TYPE, types.map(|value| value.as_bytes()), &mut fields);
        add_header(
            &header::CONTENT_ENCODING,
            request.headers.get_all(header::CONTENT_ENCODING).iter().map(|value| value.as_bytes()),
            &mut fields,
        );
        for name in headers {
            add_header(name, request.headers.get_all(name).iter().map(|value| value.as_bytes()), &mut fields);
        }
        if self.encoded {
            add_header(&header::ACCEPT_ENCODING, encodings(&request.headers).iter().map(|coding| coding.as_bytes()), &mut fields);
        }
        if let Some(upstream) = &options.wishes().upstream {
            fields.add(Field::Upstream, upstream.as_bytes());
        }
        self.add_body(essence, body, &mut fields)?;
        if !options.wishes().extra.is_empty() {
            fields.add(Field::Extra, &options.wishes().extra);
        }
        if let Some(rule) = &self.key_rule {
            fields.add(Field::Rule, &rule(request));
        }
        if slot > 0 {
            fields.add(Field::Slot, &slot.to_be_bytes());
        }
        Ok(fields.seal(options.wishes().scope.unwrap_or_else(|| self.scope(request, user))))
    }

    /// Credentials in the authority, and the rest of it: from the URI or else `Host`, so that absolute-form and origin-form give one key.
    fn authority<'a>(&self, request: &'a Parts) -> (&'a [u8], &'a [u8]) {
        let authority = match request.uri.authority() {
            Some(authority) => authority.as_str().as_bytes(),
            None => request.headers.get(header::HOST).map_or(&[][..], |host| host.as_bytes()),
        };
        without_user(authority)
    }

    fn scope(&self, request: &Parts, user: &[u8]) -> Scope {
        match &self.sharing {
            Sharing::Shared => Scope::shared(),
            Sharing::By(scope) => scope(request),
            Sharing::PerCredential => {
                let headers = self.credentials.among(&request.headers).flat_map(|name| {
                    let values = request.headers.get_all(name).iter();
                    values.map(|value| (name.as_str().as_bytes(), value.as_bytes()))
                });
                let parameters =
                    parameters(request.uri.query()).filter(|part| is_credential(part)).map(|part| (&b"?"[..], part.as_bytes()));
                let user = Some((&b"@"[..], user)).filter(|(_, user)| !user.is_empty());
                Scope::credentials(headers.chain(parameters).chain(user))
            }
        }
    }

    fn add_body(&self, essence: &str, body: &[u8], fields: &mut Fields) -> Result<(), Bypass> {
        let is_json = is_json(essence);
        let canonical = is_json && self.canonical;
        // A careless upstream reads JSON whatever it is called.
        if !canonical && !self.must_look_into(body) {
            fields.add(Field::RawBody, body);
            return Ok(());
        }
        let mut bypass = None;
        let mut member = |name: &str, value: &[u8]| bypass = bypass.or(self.objection(name, value));
        let form = SCRATCH.with_borrow_mut(|text| {
            text.clear();
            let form = json::canonicalize(body, &self.json, text, &mut member);
            if canonical && form == Form::Canonical {
                fields.add(Field::JsonBody, text);
            } else {
                fields.add(Field::RawBody, body);
            }
            text.shrink_to(KEEP_SCRATCH);
            form
        });
        // What this reader gives up on, a more lenient one may still understand: it may name what could not be seen.
        let is_opaque = is_json && form == Form::Unreadable && self.must_look_into(body);
        bypass.or(is_opaque.then_some(Bypass::Unreadable)).map_or(Ok(()), Err)
    }

    /// Could a body that is compared by its bytes name something that [`objection`](Self::objection) would object to?
    fn must_look_into(&self, body: &[u8]) -> bool {
        let names = |needle: &Finder<'_>| needle.find(body).is_some();
        let [escape, temperature, stateful @ ..] = &*NAMES;
        (self.stateful && stateful.iter().any(names))
            || (self.max_temperature.is_some() && names(temperature))
            || ((self.stateful || self.max_temperature.is_some()) && names(escape))
    }

    /// Is this member of the body a reason to bypass?
    fn objection(&self, name: &str, value: &[u8]) -> Option<Bypass> {
        match name {
            "previous_response_id" | "previous_interaction_id" | "conversation" if self.stateful && value != b"null" => {
                Some(Bypass::Stateful)
            }
            "background" | "deferred" if self.stateful && value == b"true" => Some(Bypass::Stateful),
            // Anthropic's have ids that begin so; other APIs have members of this name as well.
            "container" if self.stateful && memmem::find(value, b"container_").is_some() => Some(Bypass::Stateful),
            "temperature" => {
                let bound = self.max_temperature?;
                let temperature: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
                (temperature > bound).then_some(Bypass::Temperature)
            }
            _ => None,
        }
    }
}

/// What may be named in a body that is compared by its bytes. An escape could hide any name.
static NAMES: LazyLock<[Finder<'static>; 7]> =
    LazyLock::new(|| ["\\u", "temperature", "previous_", "conversation", "background", "deferred", "container_"].map(Finder::new));

/// How much of the buffer for canonical bodies a thread keeps.
const KEEP_SCRATCH: usize = 128 << 10;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What stands before the last `@` of an authority, and what behind.
fn without_user(authority: &[u8]) -> (&[u8], &[u8]) {
    match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => (&authority[..at], &authority[at + 1..]),
        None => (&[], authority),
    }
}

/// The query without its credentials, which belong to the scope.
fn add_query(query: Option<&str>, fields: &mut Fields) {
    let Some(query) = query else { return };
    if parameters(Some(query)).any(is_credential) {
        let kept: Vec<&str> = parameters(Some(query)).filter(|part| !is_credential(part)).collect();
        if !kept.is_empty() {
            fields.add(Field::Query, kept.join("&").as_bytes());
        }
    } else {
        fields.add(Field::Query, query.as_bytes());
    }
}

fn parameters(query: Option<&str>) -> impl Iterator<Item = &str> {
    query.into_iter().flat_map(|query| query.split('&'))
}

fn is_credential(parameter: &str) -> bool {
    let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
    CREDENTIAL_PARAMETERS.iter().any(|credential| name.eq_ignore_ascii_case(credential))
}

/// A field that is absent adds nothing; one with several lines adds them in order.
fn add_header<'a>(name: &HeaderName, values: impl Iterator<Item = &'a [u8]>, fields: &mut Fields) {
    let mut named = false;
    for value in values {
        if !named {
            fields.add(Field::HeaderName, name.as_str().as_bytes());
            named = true;
        }
        fields.add(Field::HeaderValue, value);
    }
}

/// The media type without its parameters (RFC 9110 section 8.3.1).
fn essence(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// The parameters of the media type; `None` if there are none.
fn parameters_of_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split_once(';').map(|(_, parameters)| parameters.trim()).filter(|parameters| !parameters.is_empty())
}

/// Do the parameters of a media type say that the text is UTF-8, and nothing else?
fn names_utf8(parameters: &str) -> bool {
    let (name, value) = parameters.trim_end_matches([';', ' ']).split_once('=').unwrap_or((parameters, ""));
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    name.eq_ignore_ascii_case("charset") && (value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8"))
}

fn is_json(essence: &str) -> bool {
    let ends =
        |end: &str| essence.len() >= end.len() && essence.as_bytes()[essence.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes());
    essence.eq_ignore_ascii_case("application/json") || ends("+json")
}

/// The codings that a caller accepts, in one order, without weights, those refused left out (RFC 9110 section 12.5.3).
fn encodings(headers: &HeaderMap) -> Vec<String> {
    let mut codings: Vec<String> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|item| {
            let (coding, weight) = item.split_once(';').unwrap_or((item, ""));
            let weight = weight.trim().strip_prefix("q=").and_then(|q| q.trim().parse::<f32>().ok()).unwrap_or(1.0);
            (weight > 0.0).then(|| coding.trim().to_ascii_lowercase())
        })
        .filter(|coding| !coding.is_empty())
        .collect();
    codings.sort_unstable();
    codings.dedup();
    codings
}

/// Takes control fields from the head and into the options (RFC 9111 section 5.2.1).
fn heed(headers: &mut HeaderMap, ttl_header: Option<&HeaderName>, options: &mut CacheOptions) {
    let directives = Directives::of(headers);
    if directives.no_store {
        options.wish().mode = Mode::Off;
    } else if directives.no_cache != DirectiveFields::None && options.wishes().mode == Mode::ReadWrite {
        options.wish().mode = Mode::WriteOnly;
    }
    if directives.only_if_cached {
        options.wish().only_if_cached = true;
    }
    if let Some(max_age) = directives.max_age {
        // What cannot be read as an age accepts none but the newest.
        options.wish().max_age = Some(Duration::from_secs(max_age.or_zero().into()));
    }
    headers.remove(header::CACHE_CONTROL);
    headers.remove(header::PRAGMA);
    if let Some(name) = ttl_header
        && let Some(value) = headers.remove(name)
        && let Some(ttl) = value.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok())
    {
        options.wish().ttl = Some(Duration::from_secs(ttl));
    }
}
