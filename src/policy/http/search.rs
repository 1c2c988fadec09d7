//! No-Vary-Search (draft-ietf-httpbis-no-vary-search): parameters of a query that make no difference.
//!
//! The field comes with a response, and a key is wanted before there is one. So a cache learns: what a response says of the queries to its path is remembered,
//! and the keys of later requests for that path hold the rule, and of the query what counts by it. Whatever is stored under such a key said the same rule itself, so what
//! is remembered decides what is found, never what is right.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use http::{HeaderMap, HeaderName, Method, StatusCode, request, response};
use sfv::{BareItem, Dictionary, InnerList, ListEntry, Parser};

use super::{HttpPolicy, identity::Target};
use crate::{
    entry::Entry,
    key::{Envelope, Field, Fields, Identity},
    options::CacheOptions,
};

static NO_VARY_SEARCH: HeaderName = HeaderName::from_static("no-vary-search");

/// Which parameters of a query count, and whether their order does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Sorted.
    names: Vec<String>,
    /// Do the names count, and nothing else does? Or does everything else?
    names_count: bool,
    order_counts: bool,
}

/// A rule with more names than this is none.
const MAX_NAMES: usize = 128;

impl Rule {
    /// "Parse a URL search variance" (section 5.1 of the draft). `None` where the whole query counts as it stands: without the field, and where it cannot be understood.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        if !headers.contains_key(&NO_VARY_SEARCH) {
            return None;
        }
        let lines: Vec<&[u8]> = headers.get_all(&NO_VARY_SEARCH).iter().map(|line| line.as_bytes()).collect();
        let dictionary: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
        let flag = |name: &str| match dictionary.get(name) {
            None => Some(false),
            Some(ListEntry::Item(item)) => match item.bare_item {
                BareItem::Boolean(flag) => Some(flag),
                _ => None,
            },
            Some(ListEntry::InnerList(_)) => None,
        };
        let order_counts = !flag("key-order")?;
        let (names_count, names) = match (dictionary.get("params"), dictionary.get("except")) {
            (Some(ListEntry::InnerList(names)), None) => (false, strings(names)?),
            (_, None) => (flag("params")?, Vec::new()),
            (_, Some(ListEntry::InnerList(names))) if flag("params")? => (true, strings(names)?),
            _ => return None,
        };
        let says_nothing = order_counts && !names_count && names.is_empty();
        (!says_nothing && names.len() <= MAX_NAMES).then_some(Self { names, names_count, order_counts })
    }

    /// Adds to a key what counts of a query, and by which rule (section 6 of the draft: "URLs are equivalent modulo search variance").
    pub(super) fn add(&self, query: Option<&str>, key: &mut Fields) {
        let Self { names, names_count, order_counts } = self;
        key.add(Field::Search, &[u8::from(*names_count), u8::from(*order_counts)]);
        key.add(Field::Search, &(names.len() as u64).to_be_bytes());
        for name in names {
            key.add(Field::Search, name.as_bytes());
        }
        let parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let mut counting: Vec<_> =
            parameters.filter(|(name, _)| names.binary_search_by(|known| known.as_str().cmp(name)).is_ok() == *names_count).collect();
        if !order_counts {
            // Stable: the order of values of one name counts.
            counting.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        for (name, value) in counting {
            key.add(Field::Search, name.as_bytes()).add(Field::Search, value.as_bytes());
        }
    }
}

/// Names of parameters, decoded as those of a query are, and sorted; `None` if something else is among them.
fn strings(list: &InnerList) -> Option<Vec<String>> {
    let name = |text: &str| {
        let escaped = text.replace('&', "%26").replace('=', "%3D");
        form_urlencoded::parse(escaped.as_bytes()).next().map(|(name, _)| name.into_owned()).unwrap_or_default()
    };
    let names = list.items.iter().map(|item| match &item.bare_item {
        BareItem::String(text) => Some(name(text.as_str())),
        _ => None,
    });
    let mut names = names.collect::<Option<Vec<_>>>()?;
    names.sort_unstable();
    names.dedup();
    Some(names)
}

/// The rules of paths, as far as they are known. Bounded: of those that are too many any is forgotten.
#[derive(Default)]
pub(super) struct Rules {
    /// Is there any? Most caches never see one.
    any: AtomicBool,
    /// By a hash of the target without its query. Two that share one have each other's rules, which costs hits and nothing else.
    known: Mutex<HashMap<u64, Arc<Rule>>>,
    hasher: RandomState,
}

const MAX_RULES: usize = 4096;

/// What one cache has learned is nothing to another.
impl Clone for Rules {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Rules {
    pub(super) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self, target: &Target<'_>) -> Option<Arc<Rule>> {
        if self.is_empty() {
            return None;
        }
        self.known().get(&self.slot(target)).cloned()
    }

    fn put(&self, target: &Target<'_>, rule: Option<Rule>) {
        let slot = self.slot(target);
        let mut known = self.known();
        match rule {
            None => drop(known.remove(&slot)),
            Some(rule) => {
                if known.len() >= MAX_RULES
                    && !known.contains_key(&slot)
                    && let Some(any) = known.keys().next().copied()
                {
                    known.remove(&any);
                }
                known.insert(slot, Arc::new(rule));
                self.any.store(true, Ordering::Relaxed);
            }
        }
    }

    fn slot(&self, target: &Target<'_>) -> u64 {
        self.hasher.hash_one((&target.scheme, &target.authority, &target.path))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<u64, Arc<Rule>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a response says of the key that its request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// What was known.
    Known,
    /// Something new: it belongs under another key.
    New,
    /// Nothing, which is no news: it is no page.
    Nothing,
}

impl HttpPolicy {
    /// Notes by which rule the key of a request is to be made.
    pub(super) fn recall(&self, request: &request::Parts, options: &mut CacheOptions) {
        if self.no_vary_search && !self.rules.is_empty() {
            options.wish().search = self.rules.get(&Target::of(request, self.assumed_scheme));
        }
    }

    pub(super) fn said(&self, request: &request::Parts, options: &CacheOptions, response: &response::Parts) -> Said {
        if !self.no_vary_search || request.method != Method::GET {
            return Said::Known;
        }
        match Rule::of(&response.headers) {
            rule if rule.as_ref() == options.wishes().search.as_deref() => Said::Known,
            None if response.status != StatusCode::OK => Said::Nothing,
            _ => Said::New,
        }
    }

    /// Learns from a response, and says which key its request has from now on.
    pub(super) fn relocated(&self, envelope: &Envelope, request: &request::Parts, options: &CacheOptions, entry: &Entry) -> Identity {
        let target = Target::of(request, self.assumed_scheme);
        let rule = Rule::of(&entry.headers);
        self.rules.put(&target, rule.clone());
        let scope = options.wishes().scope.unwrap_or_else(|| self.scope(&request.headers));
        target.key(envelope, options, rule.as_ref(), scope)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{key::Scope, policy::http::tests::headers};

    fn rule(field: &str) -> Option<Rule> {
        Rule::of(&headers(&[("no-vary-search", field)]))
    }

    fn same(field: &str, one: &str, other: &str) -> bool {
        let rule = rule(field).unwrap();
        let key = |query: &str| {
            let mut fields = Envelope::new("").open();
            rule.add(Some(query), &mut fields);
            fields.seal(Scope::shared()).key
        };
        key(one) == key(other)
    }

    #[test]
    fn what_counts_is_what_the_field_leaves() {
        for (field, one, other, expected) in [
            ("params", "a=1&b=2", "", true),
            ("params", "a=1", "b=1", true),
            ("params=(\"a\")", "a=1&b=2", "b=2", true),
            ("params=(\"a\")", "a=1&b=2", "b=3", false),
            ("params=(\"a\")", "b=2&a=1&c=3&a=4", "b=2&c=3", true),
            ("params=(\"a\")", "b=2&c=3", "c=3&b=2", false),
            ("params=(\"a\"), key-order", "b=2&c=3", "c=3&a=1&b=2", true),
            ("key-order", "b=2&c=3&b=1", "c=3&b=2&b=1", true),
            ("key-order", "b=2&b=1", "b=1&b=2", false),
            ("key-order", "b=1&c=3", "b=1&c=4", false),
            ("params, except=(\"a\")", "a=1&b=2", "a=1&c=3", true),
            ("params, except=(\"a\")", "a=1", "a=2", false),
            ("params, except=()", "a=1", "a=2", true),
            // Compared as a form is read.
            ("params=(\"a\")", "b=%31", "b=1", true),
            ("params=(\"a b\")", "a+b=1&c", "c=", true),
            ("params=(\"a%20b\" \"a=b\")", "a%20b=1&a%3Db=2&c", "c", true),
            ("params=(\"a\")", "b&", "b", true),
            ("params=(\"a\")", "b=c&d", "b=cd", false),
            ("foo, params=(\"a\")", "a=1", "a=2", true),
        ] {
            assert_eq!(same(field, one, other), expected, "{field}: {one:?} {other:?}");
        }
    }

    #[test]
    fn what_cannot_be_understood_leaves_the_query_as_it_is() {
        for field in [
            "",
            "foo",
            "params=?0",
            "key-order=?0",
            "key-order=1",
            "key-order=()",
            "params=1",
            "params=\"a\"",
            "params=a",
            "params=(a)",
            "params=(\"a\" 1)",
            "params=()",
            "except=(\"a\")",
            "params=?0, except=(\"a\")",
            "params=(\"a\"), except=(\"b\")",
            "params, except",
            "params, except=(a)",
            "params, except=\"a\"",
            "params=(\"a\"",
            "Params",
        ] {
            assert_eq!(rule(field), None, "{field:?}");
        }
        let many = |count| format!("params=({})", (0..count).map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(" "));
        assert!(rule(&many(MAX_NAMES)).is_some());
        assert_eq!(rule(&many(MAX_NAMES + 1)), None);
    }

    #[test]
    fn rules_are_bounded() {
        let rules = Rules::default();
        let path = |n: usize| Target {
            scheme: "http".into(),
            authority: "host".into(),
            path: format!("/{n}").into(),
            query: None,
            doubts: Vec::new(),
        };
        for n in 0..MAX_RULES + 10 {
            rules.put(&path(n), rule("params"));
        }
        assert_eq!(rules.known().len(), MAX_RULES);
        assert!(rules.get(&path(MAX_RULES + 9)).is_some());
        rules.put(&path(MAX_RULES + 9), None);
        assert!(rules.get(&path(MAX_RULES + 9)).is_none());
    }

    proptest! {
        #[test]
        fn any_field_is_read_without_a_panic(field in "[ -~]{0,60}", query in "[ -~]{0,60}") {
            if let Some(rule) = rule(&field) {
                rule.add(Some(&query), &mut Envelope::new("").open());
            }
        }

        #[test]
        fn a_parameter_that_counts_tells_apart(name in "[a-z]{1,3}", one in "[a-z]{0,3}", other in "[a-z]{0,3}") {
            prop_assume!(one != other && name != "x");
            let (first, last) = (format!("{name}={one}&x=1"), format!("x=2&{name}={other}"));
            let differ = !same("params=(\"x\"), key-order", &first, &last);
            prop_assert!(differ);
            let (first, last) = (format!("{name}={one}&x={one}"), format!("x={other}&{name}={one}"));
            let alike = same("params=(\"x\"), key-order", &first, &last);
            prop_assert!(alike);
        }
    }
}
