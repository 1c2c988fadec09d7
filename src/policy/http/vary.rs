//! Which requests a stored response answers (RFC 9111 section 4.1).

use http::{HeaderMap, HeaderName, header, request};

use super::{
    HttpPolicy,
    directives::{element, is_token_byte},
};
use crate::key::{Envelope, Field, Key};

/// The request fields that select a response, sorted; none if it answers all. An error if it answers none but its own: `*` in any line, or
/// something that is no name.
pub(super) fn fields(response: &HeaderMap) -> Result<Vec<HeaderName>, Unselectable> {
    let mut names = Vec::new();
    for line in response.get_all(header::VARY) {
        let parts = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|part| !part.is_empty());
        for part in parts {
            if part == b"*" || !part.iter().all(|byte| is_token_byte(*byte)) {
                return Err(Unselectable);
            }
            names.push(HeaderName::from_bytes(part).map_err(|_| Unselectable)?);
        }
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Ok(names)
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unselectable;

impl HttpPolicy {
    /// The key of the variant that the request selects by these fields. A field that is absent is not one that is empty.
    pub(super) fn selected(&self, envelope: &Envelope, primary: &Key, request: &request::Parts, fields: &[HeaderName]) -> Key {
        envelope.variant(primary, |key| {
            for name in fields {
                key.add(Field::HeaderName, name.as_str().as_bytes());
                if let Some(value) = self.normalised(&request.headers, name) {
                    key.add(Field::HeaderValue, &value);
                }
            }
        })
    }

    /// A request field in the one form that all spellings of the same meaning have in common.
    fn normalised(&self, headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
        if !headers.contains_key(name) {
            return None;
        }
        let lines = headers.get_all(name).iter().map(|line| line.as_bytes());
        if SINGLE.contains(&name.as_str()) {
            // Several lines are one only of cookies (RFC 9113 section 8.2.3). No line feed can be within one.
            let between = if name == header::COOKIE { &b"; "[..] } else { b"\n" };
            return Some(lines.collect::<Vec<_>>().join(between));
        }
        let mut members = Vec::new();
        for line in lines {
            let mut rest = line;
            while let Some(member) = element(&mut rest) {
                let member = member.trim_ascii();
                if !member.is_empty() {
                    members.push(member.to_vec());
                }
            }
        }
        if CASELESS.contains(name) {
            for member in &mut members {
                member.make_ascii_lowercase();
                close_up(member);
            }
            if self.normalise_order {
                members.sort_unstable();
                members.dedup();
            }
        }
        Some(members.join(&b","[..]))
    }
}

/// Takes out the white space around `;` and `=`; elsewhere it may not be, and whoever sends it there is not taken for one who did not
/// (RFC 9110 section 12.4.2).
fn close_up(member: &mut Vec<u8>) {
    let is_space = |byte: u8| matches!(byte, b' ' | b'\t');
    let is_mark = |byte: Option<&u8>| matches!(byte, Some(b';' | b'='));
    let mut kept = Vec::with_capacity(member.len());
    let mut rest = &member[..];
    while let Some(next) = rest.iter().position(|byte| !is_space(*byte)) {
        let (space, from) = rest.split_at(next);
        if !is_mark(from.first()) && !is_mark(kept.last()) {
            kept.extend_from_slice(space);
        }
        kept.push(from[0]);
        rest = &from[1..];
    }
    *member = kept;
}

/// Fields of which the names of things are compared without regard to case, and of which the order means nothing: weights do
/// (RFC 9110 sections 12.5.2, 12.5.3, 12.5.4).
const CASELESS: [HeaderName; 3] = [header::ACCEPT_CHARSET, header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE];

/// Fields that are no lists: a comma in them is text.
const SINGLE: [&str; 12] = [
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "from",
    "host",
    "if-modified-since",
    "origin",
    "range",
    "referer",
    "user-agent",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::http::tests::{get, headers};

    #[test]
    fn vary_is_one_list_over_all_lines() {
        let names = |names: &[&'static str]| Ok(names.iter().map(|name| HeaderName::from_static(name)).collect());
        for (lines, expected) in [
            (&[][..], names(&[])),
            (&["Foo"], names(&["foo"])),
            (&["foo, Bar ,,foo"], names(&["bar", "foo"])),
            (&["foo", "bar"], names(&["bar", "foo"])),
            (&[""], names(&[])),
            (&["*"], Err(Unselectable)),
            (&["foo, *"], Err(Unselectable)),
            (&["foo", "bar", " * "], Err(Unselectable)),
            (&["foo bar"], Err(Unselectable)),
            (&["foo;q=1"], Err(Unselectable)),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("vary", *line)).collect();
            assert_eq!(fields(&headers(&lines)), expected, "{lines:?}");
        }
    }

    fn same(policy: &HttpPolicy, name: &'static str, one: &[&str], other: &[&str]) -> bool {
        let envelope = Envelope::new("");
        let primary = Key::from_bytes([1; 32]);
        let key = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
            policy.selected(&envelope, &primary, &get("/", &lines), &[HeaderName::from_static(name)])
        };
        key(one) == key(other)
    }

    #[test]
    fn spellings_of_the_same_meaning_select_the_same_response() {
        let policy = HttpPolicy::shared();
        for (name, one, other, expected) in [
            ("foo", &["1"][..], &["1"][..], true),
            ("foo", &["1"], &["2"], false),
            ("foo", &["1"], &[], false),
            ("foo", &[""], &[], false),
            ("foo", &[], &[], true),
            ("foo", &["1, 2"], &["1", "2"], true),
            ("foo", &["1,2"], &["1 ,\t2"], true),
            ("foo", &["1, 2"], &["2, 1"], false),
            ("foo", &["a"], &["A"], false),
            ("foo", &["\"a, b\""], &["\"a,b\""], false),
            ("accept-language", &["en, DE"], &["EN,de"], true),
            ("accept-language", &["en;q=0.5"], &["en; q=0.5"], true),
            ("accept-language", &["en, de"], &["de, en"], false),
            ("accept-encoding", &["gzip"], &["GZIP"], true),
            ("accept-encoding", &["gzip ; q = 0.5"], &["gzip;q=0.5"], true),
            ("accept-encoding", &["gz ip"], &["gzip"], false),
            ("accept-language", &["d e"], &["de"], false),
            ("accept-language", &["d  e"], &["d e"], false),
            ("user-agent", &["a, b"], &["a,b"], false),
            ("cookie", &["a=1; b=2"], &["a=1;b=2"], false),
            ("cookie", &["a=1; b=2"], &["a=1", "b=2"], true),
            ("cookie", &["a=1, b=2"], &["a=1", "b=2"], false),
            ("authorization", &["a, b"], &["a", "b"], false),
        ] {
            assert_eq!(same(&policy, name, one, other), expected, "{name}: {one:?} {other:?}");
        }
        let loose = HttpPolicy::shared().normalise_order(true);
        assert!(same(&loose, "accept-language", &["en, de;q=0.5"], &["de; q=0.5,en"]));
        assert!(!same(&loose, "accept-language", &["en;q=0.5, de"], &["en, de;q=0.5"]));
        assert!(!same(&loose, "foo", &["en, de"], &["de, en"]));
    }

    proptest! {
        #[test]
        fn what_differs_beyond_white_space_around_commas_never_matches(one in "[a-z,\" ]{0,12}", other in "[a-z,\" ]{0,12}") {
            let squeeze = |text: &str| text.chars().filter(|c| !" ,".contains(*c)).collect::<String>();
            prop_assume!(squeeze(&one) != squeeze(&other));
            prop_assert!(!same(&HttpPolicy::shared(), "foo", &[&one], &[&other]));
        }
    }
}
