//! The model that a request names.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// The top-level `model` of a JSON body: the first, if there are several.
///
/// The search ends where it is found; what stands before it is skipped, not built. So a body may be cut off anywhere behind it, and nothing is said about whether it is
/// valid JSON: that is the upstream's business.
pub(crate) fn model_of(json: &[u8]) -> Option<String> {
    let mut found = None;
    // An error is an end like any other: the upstream will find it, too.
    let _ = Search(&mut found).deserialize(&mut serde_json::Deserializer::from_slice(json));
    found
}

struct Search<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = ();

    fn deserialize<D>(self, deserializer: D) -> Result<(), D::Error>
    where
        D: Deserializer<'de>,
    {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A>(self, mut map: A) -> Result<(), A::Error>
    where
        A: MapAccess<'de>,
    {
        while let Some(is_model) = map.next_key_seed(IsModel)? {
            if is_model {
                *self.0 = Some(map.next_value()?);
                return Ok(());
            }
            map.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

struct IsModel;

impl<'de> DeserializeSeed<'de> for IsModel {
    type Value = bool;

    fn deserialize<D>(self, deserializer: D) -> Result<bool, D::Error>
    where
        D: Deserializer<'de>,
    {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsModel {
    type Value = bool;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == "model")
    }
}

#[cfg(test)]
mod tests {
    use super::model_of;

    #[test]
    fn the_model_is_the_first_at_the_top_level_however_it_is_written() {
        for (json, expected) in [
            (r#"{"model":"gpt-4o"}"#, Some("gpt-4o")),
            (r#" { "messages" : [ {"model": "inner"} ], "model" : "outer" } "#, Some("outer")),
            (r#"{"a":{"model":"inner"}}"#, None),
            (r#"{"mod\u0065l":"gpt\u002d4o"}"#, Some("gpt-4o")),
            (r#"{"model":"one","model":"two"}"#, Some("one")),
            (r#"{"model":5}"#, None),
            (r#"{"model":null}"#, None),
            (r#"["model","gpt-4o"]"#, None),
            ("", None),
            ("model", None),
        ] {
            assert_eq!(model_of(json.as_bytes()).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn a_body_that_is_cut_off_behind_its_model_still_names_it() {
        assert_eq!(model_of(br#"{"model":"gpt-4o","input":"and so on and so"#).as_deref(), Some("gpt-4o"));
        assert_eq!(model_of(br#"{"input":"and so on and so"#), None);
        assert_eq!(model_of(br#"{"model":"gpt-4"#), None);
    }

    #[test]
    fn depth_is_no_danger() {
        let deep = format!("{{\"a\":{}1{},\"model\":\"m\"}}", "[".repeat(200_000), "]".repeat(200_000));
        // Found or not: it returns.
        let _ = model_of(deep.as_bytes());
    }
}
