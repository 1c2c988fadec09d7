//! `Cache-Control` (RFC 9111 section 5.2), read so that doubt never widens what a cache may do.

use http::{HeaderMap, HeaderName, header};

/// The greatest number of seconds that means anything; more means as much (RFC 9111 section 1.2.2).
pub(in crate::policy) const FOREVER: u32 = 1 << 31;

/// What `Cache-Control` says, in a request or in a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct Directives {
    pub(in crate::policy) no_store: bool,
    pub(in crate::policy) no_cache: Fields,
    pub(in crate::policy) private: Fields,
    pub(in crate::policy) public: bool,
    pub(in crate::policy) must_revalidate: bool,
    pub(in crate::policy) proxy_revalidate: bool,
    pub(in crate::policy) must_understand: bool,
    pub(in crate::policy) immutable: bool,
    pub(in crate::policy) only_if_cached: bool,
    pub(in crate::policy) max_age: Option<Seconds>,
    pub(in crate::policy) s_maxage: Option<Seconds>,
    pub(in crate::policy) min_fresh: Option<Seconds>,
    /// Without an argument, [`FOREVER`].
    pub(in crate::policy) max_stale: Option<Seconds>,
    pub(in crate::policy) stale_while_revalidate: Option<Seconds>,
    pub(in crate::policy) stale_if_error: Option<Seconds>,
}

/// A number of seconds, or something that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Seconds {
    Of(u32),
    /// Not a non-negative integer: "caches are encouraged to consider responses that have invalid freshness information to be stale" (section 4.2.1).
    Invalid,
}

impl Seconds {
    /// The number; none at all if it is invalid.
    pub(in crate::policy) fn or_zero(self) -> u32 {
        match self {
            Self::Of(seconds) => seconds,
            Self::Invalid => 0,
        }
    }

    /// Digits and nothing else, saturating (section 1.2.2).
    pub(in crate::policy) fn parse(text: &[u8]) -> Self {
        if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
            return Self::Invalid;
        }
        let digit = |sum: u32, byte: &u8| sum.saturating_mul(10).saturating_add(u32::from(byte - b'0')).min(FOREVER);
        Self::Of(text.iter().fold(0, digit))
    }
}

/// What a directive that may list field names applies to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::policy) enum Fields {
    /// The directive is absent.
    #[default]
    None,
    /// To these fields.
    Some(Vec<HeaderName>),
    /// To the whole message.
    All,
}

impl Fields {
    /// A list of names, as the argument of `private` or `no-cache` (sections 5.2.2.4 and 5.2.2.7). One that cannot be read applies to all.
    pub(in crate::policy) fn parse(list: &[u8]) -> Self {
        let names = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
        match names.map(HeaderName::from_bytes).collect::<Result<Vec<_>, _>>() {
            Ok(names) if !names.is_empty() => Self::Some(names),
            _ => Self::All,
        }
    }

    pub(in crate::policy) fn is_all(&self) -> bool {
        *self == Self::All
    }

    pub(in crate::policy) fn names(&self) -> &[HeaderName] {
        match self {
            Self::Some(names) => names,
            Self::None | Self::All => &[],
        }
    }

    pub(in crate::policy) fn add(&mut self, other: Self) {
        *self = match (std::mem::take(self), other) {
            (Self::All, _) | (_, Self::All) => Self::All,
            (Self::None, fields) | (fields, Self::None) => fields,
            (Self::Some(mut names), Self::Some(more)) => {
                names.extend(more);
                Self::Some(names)
            }
        };
    }
}

impl Directives {
    /// From `Cache-Control` fields.
    pub(in crate::policy) fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        for line in headers.get_all(header::CACHE_CONTROL) {
            let mut rest = line.as_bytes();
            while let Some(directive) = next(&mut rest) {
                directives.take(&directive);
            }
        }
        directives
    }

    /// From a request: `Pragma: no-cache` counts where there is no `Cache-Control` (section 5.4).
    pub(in crate::policy) fn of_request(headers: &HeaderMap) -> Self {
        if headers.contains_key(header::CACHE_CONTROL) {
            return Self::of(headers);
        }
        let mut pragma = Self::default();
        for line in headers.get_all(header::PRAGMA) {
            let mut rest = line.as_bytes();
            while let Some(directive) = next(&mut rest) {
                if directive.name.eq_ignore_ascii_case(b"no-cache") {
                    pragma.no_cache = Fields::All;
                }
            }
        }
        pragma
    }

    /// What forbids counts although it is malformed; what permits does not. Of a duplicated number the first counts (section 4.2.1).
    fn take(&mut self, directive: &Directive<'_>) {
        let Directive { name, argument, sound } = directive;
        let seconds = || match argument {
            Some(argument) if *sound => Seconds::parse(argument),
            _ => Seconds::Invalid,
        };
        let fields = || match argument {
            Some(argument) if *sound => Fields::parse(argument),
            _ => Fields::All,
        };
        match name.to_ascii_lowercase().as_slice() {
            b"no-store" => self.no_store = true,
            b"no-cache" => self.no_cache.add(fields()),
            b"private" => self.private.add(fields()),
            b"must-revalidate" => self.must_revalidate = true,
            b"proxy-revalidate" => self.proxy_revalidate = true,
            b"only-if-cached" => self.only_if_cached = true,
            b"public" => self.public |= sound,
            b"must-understand" => self.must_understand |= sound,
            b"immutable" => self.immutable |= sound,
            b"max-age" => {
                self.max_age.get_or_insert_with(seconds);
            }
            b"s-maxage" => {
                self.s_maxage.get_or_insert_with(seconds);
            }
            b"min-fresh" => {
                self.min_fresh.get_or_insert_with(seconds);
            }
            b"max-stale" => {
                self.max_stale.get_or_insert_with(|| if argument.is_none() && *sound { Seconds::Of(FOREVER) } else { seconds() });
            }
            b"stale-while-revalidate" => {
                self.stale_while_revalidate.get_or_insert_with(seconds);
            }
            b"stale-if-error" => {
                self.stale_if_error.get_or_insert_with(seconds);
            }
            _ => {}
        }
    }
}

/// `token [ "=" ( token / quoted-string ) ]`.
#[derive(Debug, PartialEq, Eq)]
struct Directive<'a> {
    name: &'a [u8],
    argument: Option<Vec<u8>>,
    /// Is it of that form, with nothing before, between or behind?
    sound: bool,
}

/// The next directive of a list (RFC 9110 section 5.6.1). A comma in quotes ends nothing.
fn next<'a>(rest: &mut &'a [u8]) -> Option<Directive<'a>> {
    loop {
        let element = element(rest)?.trim_ascii();
        let name = element.iter().position(|byte| !is_token_byte(*byte)).map_or(element, |end| &element[..end]);
        if name.is_empty() {
            continue;
        }
        return Some(match &element[name.len()..] {
            [] => Directive { name, argument: None, sound: true },
            [b'=', argument @ ..] => match unquoted(argument) {
                Some(unquoted) => Directive { name, argument: Some(unquoted), sound: true },
                None => Directive { name, argument: Some(argument.to_vec()), sound: argument.iter().all(|byte| is_token_byte(*byte)) },
            },
            _ => Directive { name, argument: None, sound: false },
        });
    }
}

/// Takes the next element of a list off `rest`, whatever is in it.
pub(in crate::policy) fn element<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    if rest.is_empty() {
        return None;
    }
    let all = *rest;
    let end = end_of_element(all);
    *rest = all.get(end + 1..).unwrap_or_default();
    Some(&all[..end])
}

fn end_of_element(text: &[u8]) -> usize {
    let mut bytes = text.iter().enumerate();
    let mut quoted = false;
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' if quoted => drop(bytes.next()),
            b',' if !quoted => return at,
            _ => {}
        }
    }
    if quoted {
        // A quote that never ends is a byte like all others: what follows it is not hidden.
        return text.iter().position(|byte| *byte == b',').unwrap_or(text.len());
    }
    text.len()
}

/// The content of a quoted-string (RFC 9110 section 5.6.4); `None` if it is none.
fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    let [b'"', inner @ .., b'"'] = text else { return None };
    let mut content = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return None,
            b'\\' => content.push(*bytes.next()?),
            _ => content.push(*byte),
        }
    }
    Some(content)
}

/// RFC 9110 section 5.6.2.
pub(in crate::policy) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn of(lines: &[&str]) -> Directives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        Directives::of(&headers)
    }

    #[test]
    fn numbers_are_digits_alone_and_saturate() {
        for (text, expected) in [
            ("max-age=3600", Some(Seconds::Of(3600))),
            ("MaX-aGe=3600", Some(Seconds::Of(3600))),
            ("max-age=\"3600\"", Some(Seconds::Of(3600))),
            ("max-age=\"36\\00\"", Some(Seconds::Of(3600))),
            ("max-age=0003600", Some(Seconds::Of(3600))),
            ("max-age=2147483648", Some(Seconds::Of(FOREVER))),
            ("max-age=2147483649", Some(Seconds::Of(FOREVER))),
            ("max-age=99999999999999999999999999", Some(Seconds::Of(FOREVER))),
            ("max-age=0", Some(Seconds::Of(0))),
            ("max-age=-1", Some(Seconds::Invalid)),
            ("max-age=+1", Some(Seconds::Invalid)),
            ("max-age=1.0", Some(Seconds::Invalid)),
            ("max-age='3600'", Some(Seconds::Invalid)),
            ("max-age=3600s", Some(Seconds::Invalid)),
            ("max-age=3600; foo", Some(Seconds::Invalid)),
            ("max-age=36 00", Some(Seconds::Invalid)),
            ("max-age= 3600", Some(Seconds::Invalid)),
            ("max-age =3600", Some(Seconds::Invalid)),
            ("max-age=", Some(Seconds::Invalid)),
            ("max-age=\"\"", Some(Seconds::Invalid)),
            ("max-age", Some(Seconds::Invalid)),
            ("max-age=\"3600", Some(Seconds::Invalid)),
            ("xmax-age=3600", None),
            ("max-agex=3600", None),
            ("\"max-age=3600\"", None),
            ("a=\"max-age=3600\"", None),
            ("a=\"b, max-age=3600\"", None),
            ("a=\"b\\\", max-age=3600\"", None),
            ("=max-age=3600", None),
        ] {
            assert_eq!(of(&[text]).max_age, expected, "{text:?}");
        }
    }

    #[test]
    fn the_first_of_several_counts_over_all_lines() {
        assert_eq!(of(&["max-age=1, max-age=2"]).max_age, Some(Seconds::Of(1)));
        assert_eq!(of(&["max-age=1", "max-age=2"]).max_age, Some(Seconds::Of(1)));
        assert_eq!(of(&["max-age=x, max-age=2"]).max_age, Some(Seconds::Invalid));
        assert_eq!(of(&["foo, , ,max-age=1,"]).max_age, Some(Seconds::Of(1)));
        assert!(of(&["foo", "NO-STORE"]).no_store);
    }

    #[test]
    fn what_forbids_counts_although_malformed_and_what_permits_does_not() {
        let fuzzy = of(&["no-store;, no-cache foo, must-revalidate bar, proxy-revalidate=1, private=("]);
        assert!(fuzzy.no_store && fuzzy.no_cache.is_all() && fuzzy.must_revalidate && fuzzy.proxy_revalidate && fuzzy.private.is_all());
        let fuzzy = of(&["public; max-age=3600, must-understand x, immutable:"]);
        assert!(!fuzzy.public && !fuzzy.must_understand && !fuzzy.immutable);
        assert_eq!(fuzzy.max_age, None);
        // A quote that never ends hides nothing.
        assert!(of(&["a=\"b, no-store"]).no_store);
    }

    #[test]
    fn lists_of_fields_are_read_bare_and_quoted() {
        let names = |names: &[&'static str]| Fields::Some(names.iter().map(|name| HeaderName::from_static(name)).collect());
        for (text, expected) in [
            ("private", Fields::All),
            ("private=\"a\"", names(&["a"])),
            ("private=a", names(&["a"])),
            ("private=\"A, b ,\"", names(&["a", "b"])),
            ("private=\"a\", private=\"b\"", names(&["a", "b"])),
            ("private=\"a\", private", Fields::All),
            ("private=\"\"", Fields::All),
            ("private=\"a b\"", Fields::All),
            ("private=", Fields::All),
        ] {
            assert_eq!(of(&[text]).private, expected, "{text:?}");
        }
    }

    #[test]
    fn max_stale_without_an_argument_has_no_bound() {
        assert_eq!(of(&["max-stale"]).max_stale, Some(Seconds::Of(FOREVER)));
        assert_eq!(of(&["max-stale=5"]).max_stale, Some(Seconds::Of(5)));
        assert_eq!(of(&["max-stale=x"]).max_stale, Some(Seconds::Invalid));
        assert_eq!(of(&["max-stale x"]).max_stale, Some(Seconds::Invalid));
    }

    #[test]
    fn pragma_counts_in_a_request_without_cache_control() {
        let mut headers = HeaderMap::new();
        headers.insert(header::PRAGMA, HeaderValue::from_static("foo, No-Cache"));
        assert!(Directives::of_request(&headers).no_cache.is_all());
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=1"));
        assert!(!Directives::of_request(&headers).no_cache.is_all());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                headers.insert(header::CACHE_CONTROL, value);
                Directives::of(&headers);
            }
        }

        #[test]
        fn no_store_is_found_wherever_it_stands(before in "[a-z=\",; ]{0,20}", after in "[a-z=\",; ]{0,20}") {
            // Unless an open quote makes it text.
            prop_assume!(before.matches('"').count() % 2 == 0);
            let line = format!("{before},no-store,{after}");
            prop_assert!(of(&[&line]).no_store, "{}", line);
        }
    }
}
