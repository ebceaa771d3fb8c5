//! The OpenAPI document against the server: it is what the router serves, no more and no less, and answers are as it says.
//!
//! `SWITCHBACK_WRITE_OPENAPI=1` (`cargo xtask openapi`) makes the first test write the document instead.

use std::sync::LazyLock;

use serde_json::Value;
use switchback_api::Vault;
use switchback_api::openapi::{DOCUMENT, document};

use crate::server::Server;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/openapi.json");

static PARSED: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(DOCUMENT).unwrap());

#[test]
fn the_file_is_what_the_router_serves_now() {
    let now = document().unwrap_or_else(|error| panic!("{error}"));
    if std::env::var_os("SWITCHBACK_WRITE_OPENAPI").is_some() {
        std::fs::write(FILE, serde_json::to_string_pretty(&now).unwrap() + "\n").unwrap();
        return;
    }
    let differs = |part: &str| {
        let (now, file) = (now[part].as_object().unwrap(), PARSED[part].as_object());
        let names = now.keys().chain(file.into_iter().flat_map(|file| file.keys()));
        let differing = names.filter(|name| now.get(*name) != file.and_then(|file| file.get(*name)));
        differing.cloned().collect::<std::collections::BTreeSet<_>>()
    };
    assert!(
        now == *PARSED,
        "docs/reference/openapi.json is not what the code says (paths {:?}, components {:?}): run `cargo xtask openapi`, look at the change, \
         and check it in",
        differs("paths"),
        differs("components")
    );
}

/// A request for each path, with names that nothing has.
fn paths() -> impl Iterator<Item = (&'static Value, String)> {
    let vault = Vault::default();
    PARSED["paths"].as_object().unwrap().iter().map(move |(path, methods)| {
        let prefix = vault.id().to_string();
        let path = match path.split_once("{resourceName}") {
            Some((_, below)) => format!("{prefix}{below}"),
            None => path.clone(),
        };
        let names = path.split('/').map(|segment| if segment.starts_with('{') { "nothing" } else { segment });
        (methods, names.collect::<Vec<_>>().join("/"))
    })
}

#[tokio::test]
async fn what_is_in_the_document_is_served_and_nothing_beside_it() {
    let server = Server::unlimited();
    assert!(paths().count() > 80, "{}", paths().count());
    for (methods, path) in paths() {
        for method in ["get", "put", "post", "patch", "delete"] {
            let uri = format!("{path}?api-version=2024-04-01");
            let answered =
                server.raw(&method.to_uppercase(), &uri, Some(&server.token), b"{}".to_vec()).await;
            assert!(!answered.status.is_server_error(), "{method} {path}: {answered:?}");
            let is_served = answered.status != 405
                && !answered.body["error"]["message"]
                    .as_str()
                    .unwrap_or_default()
                    .starts_with("there is no resource \"/");
            assert_eq!(is_served, !methods[method].is_null(), "{method} {path}: {answered:?}");
        }
    }
}

#[tokio::test]
async fn the_document_and_its_page_are_for_everybody_and_ask_nobody_else() {
    let server = Server::new();
    let shown = server.raw("GET", "/openapi.json", None, Vec::new()).await;
    assert_eq!((shown.status.as_u16(), &shown.body), (200, &*PARSED));
    let page = server.raw("GET", "/docs", None, Vec::new()).await;
    let html = page.body.as_str().unwrap();
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy = page.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'self';") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(!html.contains("<script") && !html.contains("src=") && !html.contains("style="));
    let others = html.split("href=\"").skip(1).filter(|link| !link.starts_with(['#', '/']));
    assert_eq!(others.count(), 0);
    for (path, methods) in PARSED["paths"].as_object().unwrap() {
        let below = path.split_once("{resourceName}").map_or(path.as_str(), |(_, below)| below);
        let below = below.replace('\'', "&#39;");
        assert!(html.matches(&below).count() >= methods.as_object().unwrap().len(), "{path}");
    }
    for name in PARSED["components"]["schemas"].as_object().unwrap().keys() {
        assert!(html.contains(&format!("<details id=\"{name}\">")), "{name}");
    }
    assert_eq!(server.raw("GET", "/docs/style.css", None, Vec::new()).await.status, 200);
    assert_eq!(server.raw("POST", "/docs", None, Vec::new()).await.status, 401);
}

/// What is wrong with an answer to a request; nothing if the document does not have its operation.
pub(crate) fn check(method: &str, uri: &str, status: u16, body: &Value) -> Vec<String> {
    let path = uri.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("https://cs.example:443").unwrap_or(path);
    let Some(operation) = operation(&method.to_ascii_lowercase(), path) else { return Vec::new() };
    let responses = &operation["responses"];
    let response = match responses.get(status.to_string()) {
        Some(response) => response,
        None if status < 400 => return vec![format!("{method} {path} cannot be answered with {status}")],
        None => &responses["default"],
    };
    let shared = response["$ref"].as_str().map(|reference| PARSED.pointer(&reference[1..]).unwrap());
    let content = shared.unwrap_or(response)["content"].as_object();
    let mut errors = Vec::new();
    match content.and_then(|content| content.get("application/json")) {
        Some(content) => check_value(&content["schema"], body, "", &mut errors),
        None if content.is_none() && !body.is_null() => errors.push("there must be no body".into()),
        None => {}
    }
    errors
}

fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let segments = |path: &str| -> Vec<String> {
        path.split('/').filter(|segment| !segment.is_empty()).map(str::to_ascii_lowercase).collect()
    };
    let wanted = segments(path);
    let fits = |template: &&String| {
        let template = segments(template);
        template.len() == wanted.len()
            && template.iter().zip(&wanted).all(|(known, have)| known.starts_with('{') || known == have)
    };
    let paths = PARSED["paths"].as_object()?;
    paths.keys().find(fits).and_then(|template| paths[template].get(method))
}

fn check_value(schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/components/schemas/").unwrap();
        return check_value(&PARSED["components"]["schemas"][name], value, at, errors);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        check_value(part, value, at, errors);
    }
    if let Some(shapes) = schema["oneOf"].as_array() {
        let fails = |shape: &Value| {
            let mut errors = Vec::new();
            check_value(shape, value, at, &mut errors);
            !errors.is_empty()
        };
        if shapes.iter().filter(|shape| !fails(shape)).count() != 1 {
            errors.push(format!("{at}: {value} is not one of its kinds"));
        }
    }
    let fits = match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    if !fits {
        return errors.push(format!("{at}: {value} is no {}", schema["type"]));
    }
    check_limits(schema, value, at, errors);
    for (index, element) in value.as_array().into_iter().flatten().enumerate() {
        check_value(&schema["items"], element, &format!("{at}[{index}]"), errors);
    }
    if value.is_object() {
        check_fields(schema, value, at, errors);
    }
}

fn check_limits(schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
    if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
        errors.push(format!("{at}: {value} is none of {}", schema["enum"]));
    }
    let is_time = |text: &str| {
        time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_ok()
    };
    if schema["format"] == "date-time" && !value.as_str().is_some_and(is_time) {
        errors.push(format!("{at}: {value} is no time"));
    }
    let number = value.as_f64().unwrap_or_default();
    let is_below = schema["minimum"].as_f64().is_some_and(|minimum| number < minimum);
    if is_below || schema["maximum"].as_f64().is_some_and(|maximum| number > maximum) {
        errors.push(format!("{at}: {value} is out of bounds"));
    }
}

fn check_fields(schema: &Value, value: &Value, at: &str, errors: &mut Vec<String>) {
    for (name, field) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        match (schema["properties"].get(name), &schema["additionalProperties"]) {
            (Some(known), _) => check_value(known, field, &at, errors),
            (None, Value::Bool(false)) => errors.push(format!("{at} is not in the document")),
            (None, any) => check_value(any, field, &at, errors),
        }
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        if value.get(required.as_str().unwrap_or_default()).is_none() {
            errors.push(format!("{at}: {required} is missing"));
        }
    }
}

#[test]
fn answers_that_are_not_as_the_document_says_are_found() {
    let uri = format!("{}/switchbackTokens", Vault::default().id());
    let token = |properties: Value| {
        let token = serde_json::json!({ "id": "a", "name": "b", "type": "c", "properties": properties });
        check("GET", &uri, 200, &serde_json::json!({ "value": [token] }))
    };
    assert_eq!(token(serde_json::json!({ "role": "Reader" })), [""; 0]);
    assert_eq!(token(serde_json::json!({ "role": "King" })).len(), 1);
    assert_eq!(token(serde_json::json!({ "role": "Reader", "age": 5 })).len(), 1);
    assert_eq!(token(serde_json::json!({})).len(), 1);
    assert_eq!(check("GET", &uri, 204, &Value::Null).len(), 1);
    assert_eq!(check("GET", &uri, 404, &serde_json::json!({ "error": "none" })).len(), 1);
}
