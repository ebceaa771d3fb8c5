//! Whether an answer is what the contract's OpenAPI document says (`tests/contract/2024-04-01.json`).
//!
//! A subset of JSON Schema, as far as that document uses it, and stricter than that: a property that the contract does not know is an error, and a
//! subtype (`instanceType`) is looked up and checked as such.

use std::sync::LazyLock;

use serde_json::{Map, Value};

static CONTRACT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../contract/2024-04-01.json")).unwrap());

/// What is wrong with an answer to `method` at `path` (below the vault); `body` is `None` for none. Paths that are not in the document are ours,
/// or operations' results, which it does not describe.
pub(crate) fn check(method: &str, path: &str, status: u16, body: Option<&Value>) -> Vec<String> {
    let Some(operation) = operation(method, path) else { return Vec::new() };
    let Some(response) = operation["responses"].get(status.to_string()) else {
        return vec![format!("{method} {path} cannot be answered with {status}")];
    };
    let mut errors = Vec::new();
    match (response.get("schema"), body) {
        (Some(schema), Some(body)) => check_value(schema, body, "", &mut errors),
        (Some(_), None) if status == 200 => errors.push("there is no body".into()),
        (None, Some(_)) => errors.push("there must be no body".into()),
        _ => {}
    }
    errors
}

/// What the document's paths of resources begin with.
const VAULT: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.RecoveryServices/vaults/{resourceName}/";

/// An operation of the contract.
pub(crate) struct Operation {
    /// `ReplicationFabrics_Get`.
    pub(crate) id: &'static str,
    /// `GET`.
    pub(crate) method: String,
    /// The path with `{…}` for names; below the vault without a slash before it.
    pub(crate) path: &'static str,
}

/// All operations of the document.
pub(crate) fn operations() -> Vec<Operation> {
    let paths = CONTRACT["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&'static String, &'static Value)| {
        let path = path.strip_prefix(VAULT).unwrap_or(path);
        let methods = methods.as_object().unwrap().iter();
        methods.map(move |(method, operation)| Operation {
            id: operation["operationId"].as_str().unwrap(),
            method: method.to_ascii_uppercase(),
            path,
        })
    };
    paths.iter().flat_map(of_path).collect()
}

/// The operation that the document has for a path, whose types have no case.
pub(crate) fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let segments: Vec<&str> = path.split('/').collect();
    let fits = |template: &str| {
        let template: Vec<&str> = template.strip_prefix(VAULT).unwrap_or(template).split('/').collect();
        template.len() == segments.len()
            && template
                .iter()
                .zip(&segments)
                .all(|(want, have)| want.starts_with('{') || want.eq_ignore_ascii_case(have))
    };
    let (_, operations) = CONTRACT["paths"].as_object()?.iter().find(|(template, _)| fits(template))?;
    operations.get(method)
}

fn is_time(text: &str) -> bool {
    time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_ok()
}

/// The same for a value of a model.
pub(crate) fn check_model(model: &str, value: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    check_value(&serde_json::json!({ "$ref": format!("#/definitions/{model}") }), value, "", &mut errors);
    errors
}

fn check_value(schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return check_model_value(name, &CONTRACT["definitions"][name], value, at, errors);
    }
    let expected = schema["type"].as_str().unwrap_or("object");
    let fits = match expected {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    if !fits {
        errors.push(format!("{at}: {value} is no {expected}"));
        return;
    }
    if let (Some(allowed), Some(text)) = (schema["enum"].as_array(), value.as_str())
        && !allowed.iter().any(|allowed| allowed == text)
    {
        errors.push(format!("{at}: {text:?} is none of {}", schema["enum"]));
    }
    if schema["format"] == "date-time" && !is_time(value.as_str().unwrap_or_default()) {
        errors.push(format!("{at}: {value} is no time"));
    }
    if schema["format"] == "int32" && value.as_i64().is_none_or(|number| i32::try_from(number).is_err()) {
        errors.push(format!("{at}: {value} is too large"));
    }
    for (index, element) in value.as_array().into_iter().flatten().enumerate() {
        check_value(&schema["items"], element, &format!("{at}[{index}]"), errors);
    }
    if let (Some(any), Some(fields)) =
        (schema.get("additionalProperties").filter(|any| any.is_object()), value.as_object())
    {
        for (name, field) in fields {
            check_value(any, field, &format!("{at}.{name}"), errors);
        }
    } else if schema["properties"].is_object() {
        check_fields(&[schema], value, at, errors);
    }
}

fn check_model_value(name: &str, model: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
    if model.get("type").is_some_and(|kind| kind != "object")
        || (model["properties"].is_null() && model["allOf"].is_null())
    {
        return check_value(model, value, at, errors);
    }
    let subtype = value["instanceType"].as_str().and_then(|kind| subtype_of(name, kind));
    let chain: Vec<&Value> =
        ancestors(subtype.unwrap_or(name)).into_iter().map(|name| &CONTRACT["definitions"][name]).collect();
    check_fields(&chain, value, at, errors);
}

/// The model of a base's `instanceType`. Bases look all the same, so they are told apart by name.
fn subtype_of(base: &str, kind: &str) -> Option<&'static str> {
    CONTRACT["definitions"].as_object()?.iter().find_map(|(name, model)| {
        let is_kind = model.get("x-ms-discriminator-value").and_then(Value::as_str).unwrap_or(name) == kind;
        (is_kind && name != base && ancestors(name).contains(&base)).then_some(name.as_str())
    })
}

/// A model and all that it is composed of, by name.
fn ancestors(name: &str) -> Vec<&str> {
    let mut chain = vec![name];
    for base in CONTRACT["definitions"][name]["allOf"].as_array().into_iter().flatten() {
        let base =
            base["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()).unwrap_or_default();
        if CONTRACT["definitions"].get(base).is_some() {
            chain.extend(ancestors(base));
        }
    }
    chain
}

fn check_fields(chain: &[&Value], value: &Value, at: &str, errors: &mut Vec<String>) {
    let Some(fields) = value.as_object() else {
        errors.push(format!("{at}: {value} is no object"));
        return;
    };
    let empty = Map::new();
    for (name, field) in fields {
        let known =
            chain.iter().find_map(|model| model["properties"].as_object().unwrap_or(&empty).get(name));
        match known {
            Some(schema) => check_value(schema, field, &format!("{at}.{name}"), errors),
            None => errors.push(format!("{at}.{name} is not in the contract")),
        }
    }
    for required in chain.iter().flat_map(|model| model["required"].as_array().into_iter().flatten()) {
        if !fields.contains_key(required.as_str().unwrap_or_default()) {
            errors.push(format!("{at}: {required} is missing"));
        }
    }
}

mod tests {
    use serde_json::json;

    use super::{check, check_model};

    #[test]
    fn what_the_contract_does_not_say_is_found() {
        let policy = "replicationpolicies/PG1";
        let with = |details: serde_json::Value| {
            let body = json!({ "id": "a", "name": "b", "type": "c", "properties": { "friendlyName": "b", "providerSpecificDetails": details } });
            check("get", policy, 200, Some(&body))
        };
        assert_eq!(with(json!({ "instanceType": "InMage", "recoveryPointHistory": 5 })), [""; 0]);
        assert_eq!(with(json!({ "instanceType": "InMage", "recoveryPointHistory": "5" })).len(), 1);
        assert_eq!(
            with(json!({ "instanceType": "InMage", "crashConsistentFrequencyInMinutes": 5 })).len(),
            1
        );
        assert_eq!(with(json!({ "recoveryPointHistory": 5 })).len(), 2, "missing, and not of the base");
        assert_eq!(check("get", policy, 202, None).len(), 1);
        assert_eq!(check("delete", policy, 204, None), [""; 0]);
        assert_eq!(check("get", policy, 200, None).len(), 1);
        assert_eq!(check("get", "switchbackSites", 200, None), [""; 0]);
        assert_eq!(check_model("JobProperties", &json!({ "startTime": "yesterday" })).len(), 1);
    }
}
