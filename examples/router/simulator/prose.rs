//! What the simulated models say: prose about the question, or JSON that fits a schema.

use fastrand::Rng;
use serde_json::{Map, Value, json};

const OPENINGS: &[&str] = &[
    "In short, {topic} comes down to {a} and {b}.",
    "The key to {topic} is how {a} meets {b}.",
    "There are two sides to {topic}: {a} and {b}.",
    "A good way to think about {topic} is as {a} that follows from {b}.",
];

const MIDDLES: &[&str] = &[
    "First, {a} sets the limits within which {b} can work.",
    "Most of the effect comes from {a}, and only a little of it from {b}.",
    "When {a} grows, {b} has to follow, which is why it looks so {adjective} from outside.",
    "This is easy to see in practice: take away {a}, and {b} hardly changes.",
    "People often mistake {a} for {b}, but the difference is {adjective}.",
    "With {topic}, {a} matters more than one would expect.",
    "That makes {topic} more {adjective} than it seems.",
];

const CLOSINGS: &[&str] = &[
    "So for {topic}, begin with {a} and let {b} come later.",
    "In the end, {topic} is mostly a question of {a}.",
    "If you want to go deeper into {topic}, look at {a} next.",
];

const NOUNS: &[&str] = &[
    "structure",
    "balance",
    "scale",
    "timing",
    "context",
    "feedback",
    "energy",
    "distance",
    "pressure",
    "memory",
    "symmetry",
    "friction",
    "chance",
    "order",
    "contrast",
    "repetition",
];

const ADJECTIVES: &[&str] = &["simple", "subtle", "important", "gradual", "robust", "surprising", "predictable", "delicate"];

/// Words that say nothing about what a question is about.
const STOPWORDS: &[&str] = &[
    "about", "answer", "because", "could", "does", "explain", "from", "give", "have", "hello", "into", "just", "like", "make", "many",
    "much", "please", "should", "some", "tell", "than", "that", "their", "them", "then", "there", "these", "they", "this", "what", "when",
    "where", "which", "will", "with", "word", "words", "would", "write", "your",
];

/// The shortest answer, in characters: with the usual length of words some 70 tokens.
const CHARS: usize = 330;

/// A few sentences on a subject.
pub(crate) fn prose(subject: &str, rng: &mut Rng) -> String {
    let topic = topic(subject);
    let mut text = sentence(OPENINGS, &topic, rng);
    let mut middles = MIDDLES.to_vec();
    rng.shuffle(&mut middles);
    for middle in middles {
        if text.len() >= CHARS - 70 {
            break;
        }
        text.push(' ');
        text.push_str(&sentence(&[middle], &topic, rng));
    }
    text.push(' ');
    text.push_str(&sentence(CLOSINGS, &topic, rng));
    text
}

/// A JSON value that fits a schema; without a schema an object that holds an answer.
pub(crate) fn value(schema: Option<&Value>, subject: &str, rng: &mut Rng) -> Value {
    match schema {
        Some(schema) => Filler { root: schema, topic: topic(subject), rng, budget: 256 }.fill(schema),
        None => json!({ "topic": topic(subject), "answer": prose(subject, rng), "confidence": f64::from(rng.u32(50..100)) / 100.0 }),
    }
}

/// The model declines.
pub(crate) const REFUSAL: &str = "I'm sorry, but I can't help with that.";

fn sentence(templates: &[&str], topic: &str, rng: &mut Rng) -> String {
    let template = templates[rng.usize(..templates.len())];
    let first = rng.usize(..NOUNS.len());
    let second = (first + rng.usize(1..NOUNS.len())) % NOUNS.len();
    template
        .replace("{a}", NOUNS[first])
        .replace("{b}", NOUNS[second])
        .replace("{adjective}", ADJECTIVES[rng.usize(..ADJECTIVES.len())])
        .replace("{topic}", topic)
}

/// The one or two words that tell most, in the order of the question.
fn topic(subject: &str) -> String {
    let words = subject.split(|c: char| !c.is_alphanumeric()).filter(|word| (3..=20).contains(&word.chars().count()));
    let mut words: Vec<(usize, String)> =
        words.map(str::to_lowercase).enumerate().filter(|(_, word)| !STOPWORDS.contains(&&word[..])).collect();
    words.sort_by_key(|(at, word)| (std::cmp::Reverse(word.chars().count()), *at));
    words.truncate(2);
    words.sort_by_key(|(at, _)| *at);
    match &words[..] {
        [] => "this question".to_owned(),
        words => words.iter().map(|(_, word)| &word[..]).collect::<Vec<_>>().join(" "),
    }
}

/// Fills a JSON schema.
struct Filler<'a> {
    root: &'a Value,
    topic: String,
    rng: &'a mut Rng,
    /// How many values may still be made; schemas can refer to themselves.
    budget: usize,
}

impl Filler<'_> {
    fn fill(&mut self, schema: &Value) -> Value {
        let Some(budget) = self.budget.checked_sub(1) else { return Value::Null };
        self.budget = budget;
        let list = |name: &str| schema.get(name).and_then(Value::as_array).filter(|list| !list.is_empty());
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let target = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer)).unwrap_or(&Value::Null);
            return self.fill(&target.clone());
        }
        if let Some(value) = schema.get("const").or_else(|| schema.get("default")) {
            return value.clone();
        }
        if let Some(values) = list("enum") {
            return values[self.rng.usize(..values.len())].clone();
        }
        if let Some(choices) = list("anyOf").or_else(|| list("oneOf")) {
            return self.fill(&choices[0]);
        }
        match kind(schema).as_str() {
            "object" => {
                let mut object = Map::new();
                for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
                    object.insert(name.clone(), self.fill(schema));
                }
                Value::Object(object)
            }
            "array" => schema.get("items").map_or_else(|| json!([]), |items| json!([self.fill(items)])),
            "integer" => json!(self.number(schema) as i64),
            "number" => json!(self.number(schema) + 0.5),
            "boolean" => json!(self.rng.bool()),
            "null" => Value::Null,
            _ => json!(self.topic),
        }
    }

    fn number(&mut self, schema: &Value) -> f64 {
        let low = schema.get("minimum").and_then(Value::as_f64).unwrap_or(1.0);
        let high = schema.get("maximum").and_then(Value::as_f64).unwrap_or(low + 20.0);
        (low + self.rng.f64() * (high - low)).floor().max(low)
    }
}

/// The type that a schema names, the first of several; OpenAI writes it small, Gemini in capitals.
fn kind(schema: &Value) -> String {
    let named = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        Some(kind) => kind.as_str(),
        None => schema.get("properties").map(|_| "object"),
    };
    named.unwrap_or("string").to_ascii_lowercase()
}
