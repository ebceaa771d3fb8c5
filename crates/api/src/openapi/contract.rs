//! The contract's part of the document: its official document (Swagger 2.0), restricted to what is served, as OpenAPI 3.0.
//!
//! Details of other providers (Azure to Azure, Hyper-V, …) are left out: no resource here has them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::operation::{Description, Outcome};
use super::schema::{choice, count_within, object, text, time, titled};
use super::{OpenApiError, SCHEMAS, VAULT, VERSION, operation_id, parameters_of, request_body, response};
use crate::arm::VAULT_PATH;
use crate::routes::Served;

const DOCUMENT: &str = include_str!("../../tests/contract/2024-04-01.json");
/// Beginnings of `instanceType`s that nothing here has.
const OTHER_PROVIDERS: [&str; 6] = ["A2A", "HyperV", "InMageRcm", "VMwareCbt", "VMM", "Vmm"];

/// The contract's document.
#[derive(Debug)]
pub(super) struct Contract {
    document: Value,
}

/// A path with its names left out and its types in lower case; below the vault if it is there. Two paths of one shape are matched by one route.
pub(super) fn shape(path: &str) -> String {
    if path == VAULT || path == VAULT_PATH {
        return "the vault".into();
    }
    let path = path.strip_prefix(VAULT).or_else(|| path.strip_prefix(VAULT_PATH)).unwrap_or(path);
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    segments.fold(String::new(), |shape, segment| {
        if segment.starts_with('{') {
            shape + "/{}"
        } else {
            format!("{shape}/{}", segment.to_ascii_lowercase())
        }
    })
}

/// Whether a route of one shape matches paths of another.
fn fits(route: &str, path: &str) -> bool {
    let (mut route, mut path) = (route.split('/'), path.split('/'));
    loop {
        match (route.next(), path.next()) {
            (None, None) => return true,
            (Some(one), Some(other)) if one == other || one == "{}" => {}
            _ => return false,
        }
    }
}

/// What belongs to the contract's way of long-running operations, and is not in its document.
pub(super) fn beside() -> Vec<Description> {
    let status = object([
        ("id", text()),
        ("name", text()),
        ("status", choice(&["InProgress", "Succeeded", "Failed", "Canceled"])),
        ("startTime?", time()),
        ("endTime?", time()),
        ("percentComplete", count_within(0, 100)),
        ("error?", json!({ "type": "object", "required": ["code", "message"] })),
    ]);
    let item = "replicationFabrics/{fabricName}/replicationProtectionContainers/{protectionContainerName}/replicationProtectedItems/{replicatedProtectedItemName}/operationresults/{jobName}";
    let plan = "replicationRecoveryPlans/{recoveryPlanName}/operationresults/{jobName}";
    let reference = |name: &str| json!({ "$ref": format!("{SCHEMAS}{name}") });
    let result =
        |path, name| Description::new("get", path, "The result of a job.", Outcome::Result(reference(name)));
    vec![
        Description::new(
            "get",
            "replicationOperationStatus/{jobName}",
            "How a job stands.",
            Outcome::Body(titled("SwitchbackOperationStatus", status)),
        ),
        result(item, "ReplicationProtectedItem"),
        result(plan, "RecoveryPlan"),
        Description::new(
            "post",
            "replicationFabrics/{fabricName}/replicationProtectionContainers/{protectionContainerName}/replicationProtectedItems/{replicatedProtectedItemName}/reinstallMobilityService",
            "Has no meaning here, and is refused: agents are installed as packages.",
            Outcome::Accepted,
        ),
    ]
    .into_iter()
    .chain(vaults())
    .collect()
}

/// Vaults, which another contract of Azure's has (`Microsoft.RecoveryServices/vaults`): there is one, and it stays.
fn vaults() -> [Description; 6] {
    let vault = || titled("SwitchbackVault", json!({ "type": "object", "required": ["id", "name", "type"] }));
    let all = json!({ "type": "object", "required": ["value"], "properties": { "value": { "type": "array", "items": vault() } } });
    let list = |path| Description::new("get", path, "The one vault there is.", Outcome::Body(all.clone()));
    let one = |method, summary, outcome| Description::new(method, VAULT, summary, outcome);
    [
        list("/subscriptions/{subscriptionId}/providers/{namespace}/vaults"),
        list(
            "/subscriptions/{subscriptionId}/resourceGroups/{resourceGroupName}/providers/Microsoft.RecoveryServices/vaults",
        ),
        one("get", "The vault.", Outcome::Body(vault())),
        one("put", "The vault as it is: nothing of it can be changed.", Outcome::Body(vault())),
        one("patch", "The vault as it is: nothing of it can be changed.", Outcome::Body(vault())),
        one("delete", "Refused: the vault is the server itself.", Outcome::NoContent),
    ]
}

impl Contract {
    pub(super) fn read() -> Result<Self, OpenApiError> {
        Ok(Self { document: serde_json::from_str(DOCUMENT)? })
    }

    /// The path and operation that the contract has for a route.
    pub(super) fn operation(&self, served: &Served) -> Option<(String, Value)> {
        let wanted = shape(&served.path);
        let paths = self.document["paths"].as_object()?;
        let same = paths.iter().find(|(path, _)| shape(path) == wanted);
        // A route may take as a name what the contract has as a word: `export`.
        let fitting = || {
            paths
                .iter()
                .find(|(path, methods)| fits(&wanted, &shape(path)) && !methods[served.method].is_null())
        };
        let has_it = |(_, methods): &(&String, &Value)| !methods[served.method].is_null();
        let (path, methods) = same.filter(has_it).or_else(fitting)?;
        let path = if path.starts_with('/') { path.clone() } else { format!("{VAULT}/{path}") };
        let operation = methods.get(served.method)?;
        Some((path.clone(), self.convert(&path, served.method, operation)))
    }

    fn convert(&self, path: &str, method: &'static str, operation: &Value) -> Value {
        let mut parameters = parameters_of(path);
        let mut body = None;
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = self.resolve(parameter);
            match (parameter["in"].as_str(), parameter["name"].as_str()) {
                (Some("body"), _) => {
                    let is_required = parameter["required"] == true;
                    body = Some(match path.ends_with("/remove") {
                        // What is removed is named by the path: nothing of a body is needed.
                        true => request_body(&json!({ "type": "object" }), false),
                        false => request_body(&self.schema(&parameter["schema"]), is_required),
                    });
                }
                (Some("query" | "header"), Some(name)) if name != VERSION => {
                    parameters.push(json!({
                        "name": name, "in": parameter["in"], "required": parameter["required"] == true,
                        "schema": { "type": parameter["type"] },
                    }));
                }
                _ => {}
            }
        }
        let below = path.strip_prefix(VAULT).unwrap_or(path);
        let id = operation.get("operationId").cloned().unwrap_or_else(|| operation_id(method, below).into());
        let mut converted = json!({ "operationId": id, "parameters": parameters, "responses": self.responses(&operation["responses"]) });
        if let Some(body) = body {
            converted["requestBody"] = body;
        }
        converted
    }

    fn resolve<'a>(&'a self, parameter: &'a Value) -> &'a Value {
        match parameter["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/parameters/")) {
            Some(name) => &self.document["parameters"][name],
            None => parameter,
        }
    }

    fn responses(&self, responses: &Value) -> Value {
        let mut converted = Map::new();
        for (status, described) in responses.as_object().into_iter().flatten() {
            let mut answer = json!({ "description": "done" });
            if status == "202" {
                answer = response("Accepted");
            } else if let Some(schema) = described.get("schema") {
                answer["content"] = json!({ "application/json": { "schema": self.schema(schema) } });
            }
            converted.insert(status.clone(), answer);
        }
        converted.insert("default".into(), response("Refused"));
        converted.into()
    }

    /// A schema in the words of 3.0, without what tools do not read.
    fn schema(&self, schema: &Value) -> Value {
        match schema {
            Value::Array(elements) => elements.iter().map(|element| self.schema(element)).collect(),
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    return self.reference(reference);
                }
                let kept =
                    fields.iter().filter(|(name, _)| !name.starts_with("x-ms-") && *name != "discriminator");
                kept.map(|(name, field)| (name.clone(), self.schema(field))).collect::<Map<_, _>>().into()
            }
            other => other.clone(),
        }
    }

    /// Models of other documents (errors of Azure Resource Manager itself) are not spelt out.
    fn reference(&self, reference: &str) -> Value {
        let name = reference.strip_prefix("#/definitions/").unwrap_or_default();
        match self.document["definitions"].get(name) {
            Some(_) => json!({ "$ref": format!("{SCHEMAS}{name}") }),
            None => json!({}),
        }
    }

    /// Adds the contract's schemas that are referred to, by `paths` or by one another.
    pub(super) fn add_schemas(&self, paths: &Map<String, Value>, schemas: &mut Map<String, Value>) {
        let mut wanted = BTreeSet::new();
        paths.values().for_each(|path| references(path, &mut wanted));
        while let Some(name) = wanted.pop_first() {
            let Some(definition) =
                self.document["definitions"].get(&name).filter(|_| !schemas.contains_key(&name))
            else {
                continue;
            };
            let mut schema = self.schema(definition);
            if let Some(property) = definition["discriminator"].as_str() {
                let kinds = self.kinds_of(&name);
                wanted.extend(kinds.iter().map(|(_, model)| (*model).to_owned()));
                let mapping = kinds
                    .iter()
                    .map(|(kind, model)| ((*kind).to_owned(), format!("{SCHEMAS}{model}").into()));
                schema["discriminator"] =
                    json!({ "propertyName": property, "mapping": mapping.collect::<Map<String, Value>>() });
            }
            references(&schema, &mut wanted);
            schemas.insert(name, schema);
        }
    }

    /// The kinds of a base that there are here, with their models.
    fn kinds_of<'a>(&'a self, base: &str) -> Vec<(&'a str, &'a str)> {
        let base = format!("#/definitions/{base}");
        let models = self.document["definitions"].as_object().into_iter().flatten();
        models
            .filter(|(_, model)| {
                model["allOf"].as_array().into_iter().flatten().any(|parent| parent["$ref"] == base.as_str())
            })
            .map(|(name, model)| (model["x-ms-discriminator-value"].as_str().unwrap_or(name), name.as_str()))
            .filter(|(kind, _)| !OTHER_PROVIDERS.iter().any(|other| kind.starts_with(other)))
            .collect()
    }
}

/// The names of schemas that a value refers to.
fn references(value: &Value, names: &mut BTreeSet<String>) {
    match value {
        Value::Array(elements) => elements.iter().for_each(|element| references(element, names)),
        Value::Object(fields) => {
            let name = fields.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix(SCHEMAS));
            names.extend(name.map(str::to_owned));
            fields.values().for_each(|field| references(field, names));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::shape;

    #[test]
    fn a_route_and_the_contract_s_path_have_one_shape() {
        let route = format!("{}/replicationfabrics/{{site}}", crate::arm::VAULT_PATH);
        assert_eq!(shape(&route), "/replicationfabrics/{}");
        assert_eq!(shape("replicationFabrics/{fabricName}"), "/replicationfabrics/{}");
        assert_eq!(shape(&format!("{}/replicationFabrics/{{x}}", super::VAULT)), "/replicationfabrics/{}");
        assert_eq!(shape("/docs"), "/docs");
        assert_eq!(shape("/"), "");
        assert_eq!(shape(super::VAULT), shape(super::VAULT_PATH));
    }
}
