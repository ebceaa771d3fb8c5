//! One OpenAPI document of the whole API, made from what the router serves; the file with it is checked in, embedded, and served.
//!
//! What it is: [`document`] goes over the routes. What the contract has is taken from its official document, restricted to what is served; what is
//! ours is described beside its handler ([`operation`], in `additions`). A route that neither describes is an error. What it never does: run in the
//! server, which sends the file ([`DOCUMENT`]). A test holds the file against what would be made now; `cargo xtask openapi` writes it anew.
//!
//! It is OpenAPI 3.0: the contract's document is Swagger 2.0, which has no bearer tokens, no alternatives (`oneOf`) and no null; 3.1 is read by fewer
//! tools, and adds nothing that is needed here.

mod contract;
pub(crate) mod operation;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod shared;
mod show;

use serde_json::{Map, Value, json};

use self::contract::Contract;
use self::operation::{Description, Outcome};
use crate::additions::{descriptions, is_public, route_of};
use crate::arm::PNG;
use crate::arm::VERSIONS;
use crate::routes::Served;
use crate::{additions, arm};

/// The document as it is checked in: JSON.
pub const DOCUMENT: &str = include_str!("../../../docs/reference/openapi.json");

/// Where a schema is referred to.
const SCHEMAS: &str = "#/components/schemas/";
/// Where a parameter is.
const PARAMETERS: &str = "#/components/parameters/";
const VERSION: &str = "api-version";
/// What paths of resources begin with, as people write it.
const VAULT: &str = "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.RecoveryServices/vaults/{resourceName}";
/// Parameters of paths that are names which users give ([`switchback_model::ObjectName`]); of a failback policy it is longer than that.
const NAMES: [&str; 11] = [
    "account",
    "fabricName",
    "group",
    "item",
    "made",
    "networkMappingName",
    "recoveryPlanName",
    "replicatedProtectedItemName",
    "site",
    "target",
    "token",
];

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenApiError {
    /// Routes that nothing describes.
    #[error(
        "these routes are served and not described: {}; the contract's document does not have them, so describe them beside their handlers \
         (crates/api/src/additions) or, if they belong to the contract all the same, in crates/api/src/openapi/contract.rs",
        .0.join(", ")
    )]
    NotDescribed(Vec<String>),
    /// Two schemas of one name.
    #[error("the schema {0} is described in two ways; give one of them another title")]
    TwoOfAName(String),
    /// The contract's document cannot be read.
    #[error("the contract's document is not JSON")]
    Contract(#[from] serde_json::Error),
}

/// The document of what the router serves now.
///
/// # Errors
/// A route is not described, or a description contradicts another.
pub fn document() -> Result<Value, OpenApiError> {
    let contract = Contract::read()?;
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let mut missing = Vec::new();
    let ours: Vec<Description> = descriptions().into_iter().chain(contract::beside()).collect();
    let (arm, additions) = (arm::routes(), additions::routes());
    for served in arm.served().iter().chain(additions.served()) {
        let is_it = |known: &&Description| {
            known.method == served.method
                && contract::shape(&route_of(known.path)) == contract::shape(&served.path)
        };
        let (path, operation) = if let Some(found) = ours.iter().find(is_it) {
            (full_path(found.path), describe(found, served))
        } else if let Some(found) = contract.operation(served) {
            found
        } else {
            missing.push(format!("{} {}", served.method, served.path));
            continue;
        };
        let operation = hoist(operation, &mut schemas)?;
        if let Some(methods) = paths.entry(path).or_insert_with(|| json!({})).as_object_mut() {
            methods.insert(served.method.to_owned(), operation);
        }
    }
    if !missing.is_empty() {
        return Err(OpenApiError::NotDescribed(missing));
    }
    schemas.insert("Error".into(), error_schema());
    contract.add_schemas(&paths, &mut schemas);
    Ok(frame(paths, schemas))
}

fn frame(paths: Map<String, Value>, schemas: Map<String, Value>) -> Value {
    let mut parameters: Map<String, Value> =
        paths.keys().flat_map(|path| names_in(path)).map(path_parameter).collect();
    parameters.insert(VERSION.into(), version_parameter());
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Switchback",
            "version": VERSIONS.last(),
            "description": "Azure Site Recovery's REST contract for VMware and physical machines, and Switchback's own resources beside it. See docs/api.md.",
            "license": { "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": parameters,
            "responses": { "Accepted": accepted(), "Refused": refused() },
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
        },
        "security": [{ "bearer": [] }],
    })
}

fn full_path(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("{VAULT}/{path}") }
}

/// An operation of ours.
fn describe(description: &Description, served: &Served) -> Value {
    let path = full_path(description.path);
    let mut parameters = parameters_of(&path);
    for (name, schema, what) in &description.query {
        parameters.push(json!({ "name": name, "in": "query", "schema": schema, "description": what }));
    }
    let mut operation = json!({
        "operationId": operation_id(served.method, description.path),
        "summary": description.summary,
        "parameters": parameters,
        "responses": responses(&description.outcome),
    });
    if let Some(body) = &description.body {
        operation["requestBody"] = request_body(body, true);
    }
    if is_public(&axum::http::Method::GET, &served.path) {
        operation["security"] = json!([]);
    }
    operation
}

/// `get_switchbackSites_site`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(['/', '{', '}', '.']).filter(|word| !word.is_empty());
    words.fold(method.to_owned(), |id, word| format!("{id}_{word}"))
}

fn responses(outcome: &Outcome) -> Value {
    let with = |media_type: &str, schema: Value| json!({ "description": "done", "content": { media_type: { "schema": schema } } });
    let mut responses = match outcome {
        Outcome::Body(schema) => json!({ "200": with("application/json", schema.clone()) }),
        Outcome::Other("application/json") => {
            json!({ "200": with("application/json", json!({ "type": "object" })) })
        }
        Outcome::Other(media_type @ ("application/octet-stream" | PNG)) => {
            json!({ "200": with(media_type, json!({ "type": "string", "format": "binary" })) })
        }
        Outcome::Other(media_type) => json!({ "200": with(media_type, schema::text()) }),
        Outcome::Accepted => json!({ "202": response("Accepted") }),
        Outcome::Result(schema) => json!({
            "200": with("application/json", schema.clone()), "202": response("Accepted"), "204": { "description": "done; it is gone" },
        }),
        Outcome::NoContent => json!({ "204": { "description": "done" } }),
    };
    responses["default"] = response("Refused");
    responses
}

/// 202, with what leads to the job.
fn accepted() -> Value {
    let header = |what: &str| json!({ "description": what, "schema": schema::text() });
    json!({
        "description": "a job works on it",
        "headers": {
            "Azure-AsyncOperation": header("where its status is"),
            "Location": header("where its result is"),
            "Retry-After": { "description": "seconds to the next look", "schema": schema::count() },
            "x-ms-request-id": header("the job's id"),
        },
    })
}

fn refused() -> Value {
    let schema = json!({ "$ref": format!("{SCHEMAS}Error") });
    json!({ "description": "refused", "content": { "application/json": { "schema": schema } } })
}

/// A reference to a response that many operations have.
fn response(name: &str) -> Value {
    json!({ "$ref": format!("#/components/responses/{name}") })
}

fn request_body(schema: &Value, required: bool) -> Value {
    json!({ "required": required, "content": { "application/json": { "schema": schema } } })
}

fn names_in(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
}

fn path_parameter(name: &str) -> (String, Value) {
    let mut schema = json!({ "type": "string", "minLength": 1 });
    if NAMES.contains(&name) {
        schema["pattern"] = "^[A-Za-z0-9][A-Za-z0-9._-]*$".into();
        schema["maxLength"] = 63.into();
    }
    (name.to_owned(), json!({ "name": name, "in": "path", "required": true, "schema": schema }))
}

fn version_parameter() -> Value {
    json!({ "name": VERSION, "in": "query", "required": true, "schema": schema::choice(&VERSIONS) })
}

/// References to the parameters that a path has, and the version if it is the vault's.
fn parameters_of(path: &str) -> Vec<Value> {
    let version = path.starts_with(VAULT).then_some(VERSION);
    let names = names_in(path).chain(version);
    names.map(|name| json!({ "$ref": format!("{PARAMETERS}{name}") })).collect()
}

/// As `arm::error` writes it.
fn error_schema() -> Value {
    use schema::{list, object, text};
    let (causes, action) = (("possibleCauses?", text()), ("recommendedAction?", text()));
    let detail = object([("code", text()), ("message", text()), causes.clone(), action.clone()]);
    let info = object([("message", text()), causes, action]);
    let additional = list(object([("type", text()), ("info", info)]));
    let details = ("details?", list(detail));
    let error = object([("code", text()), ("message", text()), details, ("additionalInfo", additional)]);
    object([("error", error)])
}

/// Makes schemas with a title components of the document.
fn hoist(value: Value, schemas: &mut Map<String, Value>) -> Result<Value, OpenApiError> {
    match value {
        Value::Array(elements) => elements
            .into_iter()
            .map(|element| hoist(element, schemas))
            .collect::<Result<Vec<_>, _>>()
            .map(Value::Array),
        Value::Object(mut fields) => {
            let is_nullable = fields.contains_key("nullable");
            // A property may be called `title`, too; then it is a schema.
            let title = fields.get("title").and_then(Value::as_str).map(str::to_owned);
            if title.is_some() {
                fields.remove("title");
                fields.remove("nullable");
            }
            let inner = fields.into_iter().map(|(name, field)| Ok((name, hoist(field, schemas)?)));
            let inner = Value::Object(inner.collect::<Result<_, OpenApiError>>()?);
            let Some(title) = title else { return Ok(inner) };
            let known = schemas.entry(title.clone()).or_insert_with(|| inner.clone());
            if *known != inner {
                return Err(OpenApiError::TwoOfAName(title));
            }
            let reference = json!({ "$ref": format!("{SCHEMAS}{title}") });
            Ok(if is_nullable { json!({ "nullable": true, "allOf": [reference] }) } else { reference })
        }
        other => Ok(other),
    }
}
