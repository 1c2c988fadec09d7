//! What is read of an answer: one shape that holds the members of all dialects that any rule reads, borrowed from the body.
//!
//! All else is skipped, and a member of an unexpected type counts as absent: services grow, and compatible ones differ. What cannot be skipped over is an
//! error: text that is not JSON, and a member that is read but is there twice, for readers would differ in which they take.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

/// An event's data, or a whole document.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Message<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) object: Text<'a>,
    pub(super) error: Presence,
    #[serde(borrow)]
    pub(super) model: Text<'a>,
    #[serde(borrow, rename = "modelVersion")]
    pub(super) model_version: Text<'a>,
    #[serde(borrow)]
    pub(super) service_tier: Text<'a>,
    #[serde(borrow)]
    pub(super) usage: Object<Tokens<'a>>,
    /// OpenAI chat and completions.
    #[serde(borrow)]
    pub(super) choices: List<Choice<'a>>,
    /// OpenAI Responses: in events of a stream.
    #[serde(borrow)]
    pub(super) response: Object<Response<'a>>,
    /// OpenAI Responses: in documents.
    #[serde(borrow)]
    pub(super) status: Text<'a>,
    #[serde(borrow)]
    pub(super) incomplete_details: Object<Details<'a>>,
    /// Anthropic: in `message_start`.
    #[serde(borrow)]
    pub(super) message: Object<Start<'a>>,
    /// Anthropic: in `message_delta`.
    #[serde(borrow)]
    pub(super) delta: Object<Delta<'a>>,
    /// Anthropic: in documents.
    #[serde(borrow)]
    pub(super) stop_reason: Text<'a>,
    /// Gemini.
    #[serde(borrow)]
    pub(super) candidates: List<Candidate<'a>>,
    #[serde(borrow, rename = "promptFeedback")]
    pub(super) prompt_feedback: Object<Feedback<'a>>,
    #[serde(borrow, rename = "usageMetadata")]
    pub(super) usage_metadata: Object<Metadata<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Choice<'a> {
    pub(super) index: Count,
    #[serde(borrow)]
    pub(super) finish_reason: Text<'a>,
    pub(super) error: Presence,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Response<'a> {
    #[serde(borrow)]
    pub(super) status: Text<'a>,
    pub(super) error: Presence,
    #[serde(borrow)]
    pub(super) model: Text<'a>,
    #[serde(borrow)]
    pub(super) service_tier: Text<'a>,
    #[serde(borrow)]
    pub(super) usage: Object<Tokens<'a>>,
    #[serde(borrow)]
    pub(super) incomplete_details: Object<Details<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Details<'a> {
    #[serde(borrow)]
    pub(super) reason: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Start<'a> {
    #[serde(borrow)]
    pub(super) model: Text<'a>,
    #[serde(borrow)]
    pub(super) usage: Object<Tokens<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Delta<'a> {
    #[serde(borrow)]
    pub(super) stop_reason: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Candidate<'a> {
    pub(super) index: Count,
    #[serde(borrow)]
    pub(super) finish_reason: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Feedback<'a> {
    #[serde(borrow)]
    pub(super) block_reason: Text<'a>,
}

/// `usage`, as OpenAI, those compatible with it, and Anthropic have it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Tokens<'a> {
    /// What a transcription is billed by: `tokens` or `duration`.
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    pub(super) prompt_tokens: Count,
    pub(super) completion_tokens: Count,
    pub(super) total_tokens: Count,
    pub(super) prompt_tokens_details: Object<Cached>,
    pub(super) completion_tokens_details: Object<Reasoning>,
    pub(super) prompt_cache_hit_tokens: Count,
    pub(super) prompt_cache_miss_tokens: Count,
    pub(super) input_tokens: Count,
    pub(super) output_tokens: Count,
    pub(super) input_tokens_details: Object<Cached>,
    /// The same, as transcriptions spell it.
    pub(super) input_token_details: Object<Cached>,
    pub(super) output_tokens_details: Object<Reasoning>,
    pub(super) cache_read_input_tokens: Count,
    pub(super) cache_creation_input_tokens: Count,
    pub(super) cache_creation: Object<Creation>,
    #[serde(borrow)]
    pub(super) service_tier: Text<'a>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Cached {
    pub(super) cached_tokens: Count,
    pub(super) cache_write_tokens: Count,
    /// The same, as LiteLLM spells it.
    pub(super) cache_creation_tokens: Count,
    pub(super) audio_tokens: Count,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reasoning {
    pub(super) reasoning_tokens: Count,
    pub(super) audio_tokens: Count,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Creation {
    pub(super) ephemeral_5m_input_tokens: Count,
    pub(super) ephemeral_1h_input_tokens: Count,
}

/// `usageMetadata`, as Gemini has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Metadata<'a> {
    pub(super) prompt_token_count: Count,
    pub(super) cached_content_token_count: Count,
    pub(super) candidates_token_count: Count,
    pub(super) thoughts_token_count: Count,
    pub(super) tool_use_prompt_token_count: Count,
    pub(super) total_token_count: Count,
    pub(super) prompt_tokens_details: Modalities,
    pub(super) cache_tokens_details: Modalities,
    pub(super) candidates_tokens_details: Modalities,
    pub(super) tool_use_prompt_tokens_details: Modalities,
    #[serde(borrow)]
    pub(super) service_tier: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Modality<'a> {
    #[serde(borrow)]
    modality: Text<'a>,
    token_count: Count,
}

/// Tokens by what they stand for, if that is what stands there: of audio, and of images and video. All else is text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Modalities(pub(super) Option<Split>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Split {
    pub(super) audio: u64,
    pub(super) pictures: u64,
}

impl<'de> Deserialize<'de> for Modalities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let split = |list: Vec<Modality<'de>>| {
            list.iter().fold(Split::default(), |mut split, part| {
                let tokens = part.token_count.0.unwrap_or(0);
                match part.modality.as_str() {
                    "AUDIO" => split.audio = split.audio.saturating_add(tokens),
                    "IMAGE" | "VIDEO" => split.pictures = split.pictures.saturating_add(tokens),
                    _ => {}
                }
                split
            })
        };
        Ok(Self(List::deserialize(deserializer)?.0.map(split)))
    }
}

/// What stands at the top of a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Object,
    Array,
    Scalar,
}

/// Reads one JSON text, and shows its object, or the objects in its array one by one.
///
/// # Errors
///
/// It is not JSON, or says something twice.
pub(super) fn read<'a>(json: &'a [u8], see: impl FnMut(&Message<'a>)) -> Result<Shape, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let shape = deserializer.deserialize_any(Top { see })?;
    deserializer.end()?;
    Ok(shape)
}

struct Top<F> {
    see: F,
}

/// How a visitor takes what it does not look for.
macro_rules! otherwise {
    ($value:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any value")
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
    (str: $value:expr) => {
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
    (seq: $value:expr) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            Ok($value)
        }
    };
    (map: $value:expr) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok($value)
        }
    };
}

impl<'de, F> Visitor<'de> for Top<F>
where
    F: FnMut(&Message<'de>),
{
    type Value = Shape;

    fn visit_map<A: MapAccess<'de>>(mut self, map: A) -> Result<Shape, A::Error> {
        (self.see)(&Message::deserialize(MapAccessDeserializer::new(map))?);
        Ok(Shape::Object)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Shape, A::Error> {
        while let Some(element) = seq.next_element::<Object<Message<'de>>>()? {
            if let Object(Some(message)) = element {
                (self.see)(&message);
            }
        }
        Ok(Shape::Array)
    }

    otherwise!(Shape::Scalar);
    otherwise!(str: Shape::Scalar);
}

/// A number of tokens, if that is what stands there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count(pub(super) Option<u64>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By its text: how serde_json shows numbers to visitors is up to features that anybody may turn on.
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        let whole = |number: f64| ((0.0..9e15).contains(&number) && number.fract() == 0.0).then_some(number as u64);
        Ok(Self(raw.parse().ok().or_else(|| whole(raw.parse().ok()?))))
    }
}

/// A string, if that is what stands there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text<'a>(Option<Cow<'a, str>>);

impl Text<'_> {
    /// The string; empty if there is none.
    pub(super) fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = Text<'de>;
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Some(Cow::Owned(text.to_owned()))))
            }
            otherwise!(Text(None));
            otherwise!(seq: Text(None));
            otherwise!(map: Text(None));
        }
        deserializer.deserialize_any(Strings)
    }
}

/// Does something stand there other than `null`?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Presence(pub(super) bool);

impl<'de> Deserialize<'de> for Presence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::<IgnoredAny>::deserialize(deserializer).map(|value| Self(value.is_some()))
    }
}

/// An object, if that is what stands there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<T>(pub(super) Option<T>);

impl<T> Default for Object<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T> Deserialize<'de> for Object<T>
where
    T: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Objects<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Objects<T> {
            type Value = Object<T>;
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|object| Object(Some(object)))
            }
            otherwise!(Object(None));
            otherwise!(str: Object(None));
            otherwise!(seq: Object(None));
        }
        deserializer.deserialize_any(Objects(PhantomData))
    }
}

/// The objects of an array, if that is what stands there.
#[derive(Debug)]
pub(super) struct List<T>(pub(super) Option<Vec<T>>);

/// How long such an array may be. Services give out at most 128 choices.
const LONGEST: usize = 128;

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> List<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl<'de, T> Deserialize<'de> for List<T>
where
    T: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Lists<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Lists<T> {
            type Value = List<T>;
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(element) = seq.next_element::<Object<T>>()? {
                    if list.len() == LONGEST {
                        return Err(serde::de::Error::custom("longer than any service's"));
                    }
                    list.extend(element.0);
                }
                Ok(List(Some(list)))
            }
            otherwise!(List(None));
            otherwise!(str: List(None));
            otherwise!(map: List(None));
        }
        deserializer.deserialize_any(Lists(PhantomData))
    }
}
