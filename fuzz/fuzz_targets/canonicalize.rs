//! The canonical form of JSON, against a reader that is known: it takes and refuses the same bodies, means the same by them, and a
//! form is its own form.

#![no_main]

use std::{collections::HashSet, fmt};

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tower_response_cache::key::json::{Form, Options, canonicalize};

fuzz_target!(|body: &[u8]| {
    let mut members = Vec::new();
    let mut show = |name: &str, value: &[u8]| members.push((name.to_owned(), value.to_vec()));
    let form = canonical(body, &[], &mut show);

    // The reader represents numbers as objects with a member of this name, and knows one depth less.
    if body.windows(10).any(|window| window == b"serde_json") {
        return;
    }
    let value: Value = match serde_json::from_slice::<Unique>(body).and_then(|_| serde_json::from_slice(body)) {
        Ok(value) => value,
        Err(error) if error.to_string().contains("recursion limit") => return,
        Err(error) => return assert!(form.is_none(), "{error}"),
    };
    let form = form.expect("the reader takes it");
    assert_eq!(serde_json::from_slice::<Value>(&form).expect("a form is JSON"), value);
    assert_eq!(canonical(&form, &[], &mut |_, _| {}).as_ref(), Some(&form));

    let Value::Object(mut object) = value else { return assert!(members.is_empty()) };
    assert_eq!(members.len(), object.len());
    for (name, value) in &members {
        assert_eq!(serde_json::from_slice::<Value>(value).expect("a value is JSON"), object[name]);
    }
    if let Some((name, _)) = members.pop() {
        object.remove(&name);
        let rest = canonical(body, &[&name], &mut |_, _| {}).expect("leaving out changes nothing else");
        assert_eq!(serde_json::from_slice::<Value>(&rest).expect("a form is JSON"), Value::Object(object));
    }
});

fn canonical(body: &[u8], ignore: &[&str], show: &mut dyn FnMut(&str, &[u8])) -> Option<Vec<u8>> {
    let options = Options { ignore: ignore.iter().map(|&name| name.to_owned()).collect() };
    let mut out = b"before".to_vec();
    let done = canonicalize(body, &options, &mut out, show) == Form::Canonical;
    let form = out.strip_prefix(b"before").expect("what is there stays").to_vec();
    assert!(done || form.is_empty());
    done.then_some(form)
}

/// JSON without duplicate names.
struct Unique;

impl<'de> serde::Deserialize<'de> for Unique {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> serde::de::Visitor<'de> for Unique {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate names")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(Self)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut elements: A) -> Result<Self, A::Error> {
        while elements.next_element::<Self>()?.is_some() {}
        Ok(Self)
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        let mut names = HashSet::new();
        while let Some((name, _)) = members.next_entry::<String, Self>()? {
            if !names.insert(name) {
                return Err(serde::de::Error::custom("duplicate name"));
            }
        }
        Ok(Self)
    }
}
