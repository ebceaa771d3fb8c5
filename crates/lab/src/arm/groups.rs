//! What is not compute or network: the subscription, resource groups, what the account may do, quotas, sizes; and resources that have no life of
//! their own here.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::{Answer, ArmError, Request};
use super::faults::Fault;
use super::operations::{self, Begun};
use super::world::{self, Power, World};
use super::{REGION, SUBSCRIPTION, TENANT, machines, route, sizes};

/// `rest` are the segments behind the subscription, in lower case.
pub(super) fn answer(
    world: &Arc<World>,
    request: &Request,
    rest: &[&str],
    fault: Option<Fault>,
) -> Result<Answer, ArmError> {
    let method = request.method.as_str();
    match (method, rest) {
        ("GET", []) => Ok(Answer::json(200, &subscription())),
        ("GET", ["providers", name]) => Ok(Answer::json(
            200,
            &json!({
                "id": format!("/subscriptions/{SUBSCRIPTION}/providers/{name}"), "namespace": request.segments[3],
                "registrationState": "Registered", "registrationPolicy": "RegistrationRequired", "resourceTypes": [],
            }),
        )),
        ("GET", ["providers", "microsoft.compute", "locations", region, kind @ ("usages" | "vmsizes")]) => {
            if *region != REGION {
                return Err(no_region(region));
            }
            let value =
                if *kind == "usages" { usages(world) } else { sizes::SIZES.map(sizes::shown).to_vec() };
            Ok(Answer::json(200, &json!({ "value": value })))
        }
        ("GET", ["resourcegroups", name, "providers", "microsoft.authorization", "permissions"]) => {
            let state = world.state();
            let id = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}");
            state.get(&id).ok_or_else(|| no_group(&request.segments[3]))?;
            Ok(Answer::json(200, &json!({ "value": [state.permissions] })))
        }
        ("GET", ["resourcegroups"]) => {
            let state = world.state();
            let all: Vec<Value> =
                state.of_kind("Microsoft.Resources/resourceGroups").map(|group| group.json.clone()).collect();
            Ok(Answer::json(200, &json!({ "value": all })))
        }
        (_, ["resourcegroups", _]) => group(world, request, fault),
        _ => Err(ArmError::not_emulated(&format!("{method} {}", request.path()))),
    }
}

fn subscription() -> Value {
    json!({
        "id": format!("/subscriptions/{SUBSCRIPTION}"), "subscriptionId": SUBSCRIPTION, "tenantId": TENANT,
        "displayName": "Emulated", "state": "Enabled",
    })
}

fn usages(world: &World) -> Vec<Value> {
    let usage = |name: &str, shown: &str, current: u32, limit: u32| {
        json!({
            "unit": "Count", "currentValue": current, "limit": limit,
            "name": { "value": name, "localizedValue": shown },
        })
    };
    let state = world.state();
    let machines = u32::try_from(state.of_kind(machines::KIND).count()).unwrap_or(u32::MAX);
    vec![
        usage("cores", "Total Regional vCPUs", machines::cores_used(&state), world.options.cores_max),
        usage("virtualMachines", "Virtual Machines", machines, 25_000),
    ]
}

pub(super) fn no_region(region: &str) -> ArmError {
    ArmError::new(
        400,
        "NoRegisteredProviderFound",
        format!("No registered resource provider found for location '{region}'."),
    )
}

pub(super) fn no_group(name: &str) -> ArmError {
    ArmError::new(404, "ResourceGroupNotFound", format!("Resource group '{name}' could not be found."))
}

fn group(world: &Arc<World>, request: &Request, fault: Option<Fault>) -> Result<Answer, ArmError> {
    let name = request.segments[3].clone();
    let id = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}");
    let there = world.state().get(&id).map(|group| group.json.clone());
    match (request.method.as_str(), there) {
        ("GET", Some(group)) => Ok(Answer::json(200, &group)),
        ("HEAD", Some(_)) => Ok(Answer::empty(204)),
        ("PUT", there) => {
            let body = request.json()?;
            if body["location"].as_str().is_none_or(|location| !location.eq_ignore_ascii_case(REGION)) {
                return Err(no_region(body["location"].as_str().unwrap_or_default()));
            }
            let mut group = world::group(&name);
            if let Some(tags) = body.get("tags") {
                group["tags"] = tags.clone();
            }
            world.state().put(group.clone(), Power::Stopped);
            Ok(Answer::json(if there.is_some() { 200 } else { 201 }, &group))
        }
        ("DELETE", Some(_)) => {
            let begun = Begun { provider: "Microsoft.Resources", answer: Answer::empty(202), resource: None };
            operations::begin(world, begun, fault, move |world| {
                let within = format!("{}/", id.to_lowercase());
                let machines: Vec<String> = {
                    let state = world.state();
                    let all = state.of_kind(machines::KIND).map(|one| one.text("/id").to_owned());
                    all.filter(|one| one.to_lowercase().starts_with(&within)).collect()
                };
                machines.iter().for_each(|machine| machines::switch_off(world, machine));
                let mut state = world.state();
                state.resources.retain(|one, _| *one != id.to_lowercase() && !one.starts_with(&within));
                Ok(())
            })
        }
        ("GET" | "HEAD" | "DELETE", None) => Err(no_group(&name)),
        (method, _) => Err(ArmError::not_emulated(&format!("{method} of a resource group"))),
    }
}

/// Availability sets and network security groups: they are there, or not.
pub(super) fn simple(world: &World, request: &Request, kind: &str) -> Result<Answer, ArmError> {
    let (kind, id) = match kind {
        _ if !matches!(request.method.as_str(), "GET" | "PUT" | "DELETE") => {
            return Err(ArmError::not_emulated(&format!("{} of {kind}", request.method)));
        }
        _ => route::id_of(request),
    };
    let mut state = world.state();
    match request.method.as_str() {
        "GET" => route::read(&state, &id),
        "DELETE" => {
            Ok(Answer::empty(if state.resources.remove(&id.to_lowercase()).is_some() { 200 } else { 204 }))
        }
        _ => {
            let mut json = request.json()?;
            json["id"] = json!(id);
            json["name"] = json!(request.segments[7]);
            json["type"] = json!(kind);
            json["properties"]["provisioningState"] = json!("Succeeded");
            state.put(json.clone(), Power::Stopped);
            Ok(Answer::json(200, &json))
        }
    }
}
