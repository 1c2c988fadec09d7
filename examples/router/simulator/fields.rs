//! Reads the fields of a request, and says which one is wrong. A `null` is as good as no field.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::problem::Problem;

/// A field that must be there.
pub(crate) fn required<'a>(body: &'a Value, name: &str) -> Result<&'a Value, Problem> {
    body.get(name).filter(|value| !value.is_null()).ok_or_else(|| Problem::missing(name))
}

/// A text that must be there and not be empty.
pub(crate) fn text<'a>(body: &'a Value, name: &str) -> Result<&'a str, Problem> {
    let text = required(body, name)?.as_str().ok_or_else(|| Problem::invalid(name, "expected a string"))?;
    if text.is_empty() { Err(Problem::invalid(name, "expected a string that is not empty")) } else { Ok(text) }
}

/// A list that must be there and not be empty.
pub(crate) fn list<'a>(body: &'a Value, name: &str) -> Result<&'a [Value], Problem> {
    match required(body, name)?.as_array() {
        Some(list) if list.is_empty() => Err(Problem::invalid(name, "expected at least one element")),
        Some(list) => Ok(list),
        None => Err(Problem::invalid(name, "expected an array")),
    }
}

/// A switch that is off unless it is there.
pub(crate) fn flag(body: &Value, name: &str) -> Result<bool, Problem> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| Problem::invalid(name, "expected a boolean")),
    }
}

/// A whole number that may be there.
pub(crate) fn count(body: &Value, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, Problem> {
    let Some(value) = body.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| range.contains(count));
    match count {
        Some(count) => Ok(Some(count)),
        None if *range.end() == usize::MAX => Err(Problem::invalid(name, format!("expected an integer of at least {}", range.start()))),
        None => Err(Problem::invalid(name, format!("expected an integer from {} to {}", range.start(), range.end()))),
    }
}

/// Messages that must be there, each with one of these roles.
pub(crate) fn messages<'a>(body: &'a Value, name: &str, roles: &[&str]) -> Result<&'a [Value], Problem> {
    let messages = list(body, name)?;
    for (index, message) in messages.iter().enumerate() {
        let field = || format!("{name}[{index}].role");
        let role = message.get("role").ok_or_else(|| Problem::missing(field()))?;
        if !role.as_str().is_some_and(|role| roles.contains(&role)) {
            return Err(Problem::invalid(field(), format!("expected one of {}", roles.join(", "))));
        }
    }
    Ok(messages)
}
