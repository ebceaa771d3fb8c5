//! Schemas in a few words, for what our own resources take and answer.
//!
//! Objects are strict: a property that is not named is an error, so that the tests which hold answers against their schema find what was forgotten
//! here. A name that ends with `?` may be missing. A schema with a title becomes one of the document's components.

use serde_json::{Map, Value, json};

pub(crate) fn text() -> Value {
    json!({ "type": "string" })
}

/// RFC 3339.
pub(crate) fn time() -> Value {
    json!({ "type": "string", "format": "date-time" })
}

/// A whole number from 0.
pub(crate) fn count() -> Value {
    json!({ "type": "integer", "format": "int64", "minimum": 0 })
}

/// A whole number within bounds.
pub(crate) fn count_within(minimum: u32, maximum: u32) -> Value {
    json!({ "type": "integer", "minimum": minimum, "maximum": maximum })
}

pub(crate) fn decimal() -> Value {
    json!({ "type": "number" })
}

pub(crate) fn flag() -> Value {
    json!({ "type": "boolean" })
}

/// One of these.
pub(crate) fn choice(values: &[&str]) -> Value {
    json!({ "type": "string", "enum": values })
}

pub(crate) fn list(element: Value) -> Value {
    json!({ "type": "array", "items": element })
}

/// The same, or null.
pub(crate) fn or_null(mut schema: Value) -> Value {
    schema["nullable"] = true.into();
    schema
}

/// An object of these properties.
pub(crate) fn object<const N: usize>(properties: [(&str, Value); N]) -> Value {
    let required = properties.iter().filter(|(name, _)| !name.ends_with('?'));
    let required: Vec<_> = required.map(|(name, _)| (*name).to_owned()).collect();
    let properties =
        properties.into_iter().map(|(name, schema)| (name.trim_end_matches('?').to_owned(), schema));
    let mut object = json!({ "type": "object", "additionalProperties": false });
    object["properties"] = properties.collect::<Map<_, _>>().into();
    if !required.is_empty() {
        object["required"] = required.into();
    }
    object
}

/// The same, where what else is said is not looked at: a resource may be sent back as it was shown.
pub(crate) fn open(mut object: Value) -> Value {
    if let Some(object) = object.as_object_mut() {
        object.remove("additionalProperties");
    }
    object
}

/// An object of any names and these values.
pub(crate) fn map_of(value: Value) -> Value {
    json!({ "type": "object", "additionalProperties": value })
}

/// One of several shapes, told apart by their `kind`.
pub(crate) fn kinds(shapes: &[Value]) -> Value {
    json!({ "oneOf": shapes })
}

/// The same with a name of its own.
pub(crate) fn titled(title: &str, mut schema: Value) -> Value {
    schema["title"] = title.into();
    schema
}

/// A resource of a type of ours.
pub(crate) fn resource(title: &str, properties: Value) -> Value {
    titled(title, object([("id", text()), ("name", text()), ("type", text()), ("properties", properties)]))
}

/// A page of a list.
pub(crate) fn page(element: Value) -> Value {
    object([("value", list(element)), ("nextLink?", text())])
}

/// The body of a request that makes or changes a resource. What clients send beside `properties` (`location`, `tags`) is not looked at.
pub(crate) fn body(properties: Value) -> Value {
    json!({ "type": "object", "required": ["properties"], "properties": { "properties": properties } })
}

/// What is wrong, as `control` tells it.
pub(crate) fn problem() -> Value {
    titled(
        "SwitchbackProblem",
        object([("code", text()), ("message", text()), ("cause", text()), ("remedy", text())]),
    )
}
