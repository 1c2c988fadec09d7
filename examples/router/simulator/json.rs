//! JSON that keeps the order in which it was written, as the providers' answers do; and server-sent events made of it.

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};

/// A JSON object in the order of its making. `serde_json::Value` would sort the names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Object(Vec<(&'static str, Box<RawValue>)>);

impl Object {
    /// Adds a field at the end.
    pub(crate) fn with(mut self, name: &'static str, value: impl Serialize) -> Self {
        let value = to_raw_value(&value).unwrap_or_else(|_| RawValue::NULL.to_owned());
        self.0.push((name, value));
        self
    }

    /// The object as a document.
    pub(crate) fn document(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// The object as an event without a name.
    pub(crate) fn data(&self) -> Bytes {
        [b"data: ", &self.document()[..], b"\n\n"].concat().into()
    }

    /// The object as an event with a name.
    pub(crate) fn event(&self, name: &str) -> Bytes {
        [b"event: ", name.as_bytes(), b"\ndata: ", &self.document()[..], b"\n\n"].concat().into()
    }
}

impl Serialize for Object {
    fn serialize<S>(&self, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// `object! { "name": value, .. }`: an [`Object`](crate::simulator::json::Object).
macro_rules! object {
    ($($name:literal: $value:expr),* $(,)?) => { $crate::simulator::json::Object::default()$(.with($name, &$value))* };
}
pub(crate) use object;
