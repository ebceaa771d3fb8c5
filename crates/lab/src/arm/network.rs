//! Virtual networks with their subnets, and network cards with addresses of them.
//!
//! Of each subnet Azure keeps the first four addresses and the last one for itself.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::{Answer, ArmError, Request};
use super::faults::Fault;
use super::operations::{self, Begun};
use super::world::{self, Power, Resource, State, World};
use super::{REGION, groups, route};

pub(super) const CARD: &str = "Microsoft.Network/networkInterfaces";
const RESERVED: u32 = 4;
/// What Azure proposes instead of an address that is taken.
const PROPOSED_MAX: usize = 5;

/// Requests about a virtual network or one of its subnets; `tail` begins with `virtualnetworks`.
pub(super) fn virtual_network(
    world: &Arc<World>,
    request: &Request,
    tail: &[&str],
    fault: Option<Fault>,
) -> Result<Answer, ArmError> {
    let (kind, id) = route::id_of(request);
    let mut state = world.state();
    match (request.method.as_str(), tail) {
        ("GET", [_, _]) => route::read(&state, &id),
        ("PUT", [_, name]) => {
            let mut json = request.json()?;
            json["id"] = json!(id);
            json["name"] = json!(name);
            json["type"] = json!(kind);
            json["etag"] = json!("W/\"1\"");
            json["properties"]["provisioningState"] = json!("Succeeded");
            let subnets = json["properties"]["subnets"].as_array().cloned().unwrap_or_default();
            let whole = |one: &Value| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                world::subnet(&id, &text(&one["name"]), &text(&one["properties"]["addressPrefix"]))
            };
            json["properties"]["subnets"] = subnets.iter().map(whole).collect();
            state.put(json.clone(), Power::Stopped);
            drop(state);
            let begun =
                Begun { provider: "Microsoft.Network", answer: Answer::json(201, &json), resource: Some(id) };
            operations::begin(world, begun, fault, |_| Ok(()))
        }
        ("GET", [_, _, "checkipaddressavailability"]) => {
            let network = state.get(&id).ok_or_else(|| route::not_found(&id))?;
            available(&state, network, request.query("ipaddress"))
        }
        ("GET", [_, _, "subnets", rest @ ..]) => {
            let network = state.get(&id).ok_or_else(|| route::not_found(&id))?;
            let subnets = network.json["properties"]["subnets"].as_array().cloned().unwrap_or_default();
            let subnets: Vec<Value> = subnets.into_iter().map(|subnet| with_cards(&state, subnet)).collect();
            let [name] = rest else { return Ok(Answer::json(200, &json!({ "value": subnets }))) };
            let named = |one: &&Value| one["name"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(name));
            let found = subnets.iter().find(named);
            found.map(|one| Answer::json(200, one)).ok_or_else(|| route::not_found(&request.path()))
        }
        (method, _) => Err(ArmError::not_emulated(&format!("{method} {}", request.path()))),
    }
}

/// A subnet names the configurations of the cards in it.
fn with_cards(state: &State, mut subnet: Value) -> Value {
    let id = subnet["id"].as_str().unwrap_or_default().to_lowercase();
    let cards = state.of_kind(CARD).filter(|card| subnet_of(card).to_lowercase() == id);
    let used: Vec<Value> =
        cards.map(|card| json!({ "id": format!("{}/ipConfigurations/primary", card.text("/id")) })).collect();
    if !used.is_empty() {
        subnet["properties"]["ipConfigurations"] = json!(used);
    }
    subnet
}

fn subnet_of(card: &Resource) -> &str {
    card.text("/properties/ipConfigurations/0/properties/subnet/id")
}

fn address_of(card: &Resource) -> &str {
    card.text("/properties/ipConfigurations/0/properties/privateIPAddress")
}

fn available(state: &State, network: &Resource, address: &str) -> Result<Answer, ArmError> {
    let wrong = |text: String| ArmError::new(400, "InvalidIPAddress", text);
    let asked: Ipv4Addr =
        address.parse().map_err(|_| wrong(format!("IP address '{address}' is not valid.")))?;
    let subnets = network.json["properties"]["subnets"].as_array().cloned().unwrap_or_default();
    for subnet in subnets {
        let free = free_addresses(state, &subnet);
        let (net, bits) = prefix_of(&subnet);
        if in_prefix(asked, net, bits) {
            if free.contains(&asked) {
                return Ok(Answer::json(200, &json!({ "available": true })));
            }
            let proposed: Vec<String> = free
                .into_iter()
                .filter(|one| *one > asked)
                .take(PROPOSED_MAX)
                .map(|one| one.to_string())
                .collect();
            return Ok(Answer::json(200, &json!({ "available": false, "availableIPAddresses": proposed })));
        }
    }
    Err(ArmError::new(
        400,
        "PrivateIPAddressNotInAnySubnet",
        format!(
            "Private static IP address {address} does not belong to the range of any subnet in the virtual network."
        ),
    ))
}

/// `ADDRESS/PREFIX` of a card.
pub(super) fn address_with_prefix(state: &State, card: &Resource) -> Option<String> {
    let id = subnet_of(card);
    let network = state.get(id.split("/subnets/").next()?)?;
    let subnets = network.json["properties"]["subnets"].as_array()?;
    let named = |one: &&Value| one["id"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(id));
    let (_, bits) = prefix_of(subnets.iter().find(named)?);
    Some(format!("{}/{bits}", address_of(card)))
}

fn prefix_of(subnet: &Value) -> (Ipv4Addr, u32) {
    let text = subnet["properties"]["addressPrefix"].as_str().unwrap_or_default();
    let parsed = text.split_once('/').and_then(|(net, bits)| Some((net.parse().ok()?, bits.parse().ok()?)));
    parsed.unwrap_or((Ipv4Addr::UNSPECIFIED, 32))
}

fn in_prefix(address: Ipv4Addr, net: Ipv4Addr, bits: u32) -> bool {
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    address.to_bits() & mask == net.to_bits() & mask
}

fn free_addresses(state: &State, subnet: &Value) -> BTreeSet<Ipv4Addr> {
    let id = subnet["id"].as_str().unwrap_or_default().to_lowercase();
    let (net, bits) = prefix_of(subnet);
    let count = 1_u32.checked_shl(32 - bits).unwrap_or(0);
    let all = (RESERVED..count.saturating_sub(1)).map(|host| Ipv4Addr::from_bits(net.to_bits() + host));
    let used: BTreeSet<Ipv4Addr> = state
        .of_kind(CARD)
        .filter(|card| subnet_of(card).to_lowercase() == id)
        .filter_map(|card| address_of(card).parse().ok())
        .collect();
    all.filter(|address| !used.contains(address)).collect()
}

/// Requests about a network card.
pub(super) fn card(world: &Arc<World>, request: &Request, fault: Option<Fault>) -> Result<Answer, ArmError> {
    let (_, id) = route::id_of(request);
    match request.method.as_str() {
        "GET" => route::read(&world.state(), &id),
        "PUT" => put_card(world, request, &id, fault),
        "DELETE" => delete_card(world, id, fault),
        method => Err(ArmError::not_emulated(&format!("{method} of a network interface"))),
    }
}

fn delete_card(world: &Arc<World>, id: String, fault: Option<Fault>) -> Result<Answer, ArmError> {
    {
        let mut state = world.state();
        let Some(card) = state.get_mut(&id) else { return Ok(Answer::empty(204)) };
        let owner = card.text("/properties/virtualMachine/id").to_owned();
        if !owner.is_empty() {
            return Err(ArmError::new(
                400,
                "NicInUse",
                format!("Network Interface {id} is used by existing resource {owner}."),
            ));
        }
        card.set_state("Deleting");
    }
    let begun = Begun { provider: "Microsoft.Network", answer: Answer::empty(202), resource: None };
    operations::begin(world, begun, fault, move |world| {
        world.state().resources.remove(&id.to_lowercase());
        Ok(())
    })
}

fn put_card(
    world: &Arc<World>,
    request: &Request,
    id: &str,
    fault: Option<Fault>,
) -> Result<Answer, ArmError> {
    let mut json = request.json()?;
    let name = request.segments[7].clone();
    if json["location"].as_str().is_none_or(|location| !location.eq_ignore_ascii_case(REGION)) {
        return Err(groups::no_region(json["location"].as_str().unwrap_or_default()));
    }
    let mut state = world.state();
    let group = json["properties"]["networkSecurityGroup"]["id"].as_str().unwrap_or_default();
    if !group.is_empty() && state.get(group).is_none() {
        return Err(invalid_reference(group));
    }
    let there = state.get(id).cloned();
    let address = address_for(&state, &json, there.as_ref())?;
    let configuration = &mut json["properties"]["ipConfigurations"][0];
    configuration["id"] =
        json!(format!("{id}/ipConfigurations/{}", configuration["name"].as_str().unwrap_or("primary")));
    configuration["properties"]["privateIPAddress"] = json!(address.to_string());
    configuration["properties"]["primary"] = json!(true);
    configuration["properties"]["provisioningState"] = json!("Succeeded");
    json["id"] = json!(id);
    json["name"] = json!(name);
    json["type"] = json!(CARD);
    json["etag"] = json!(format!("W/\"{}\"", state.number()));
    json["properties"]["provisioningState"] = json!("Succeeded");
    for kept in ["virtualMachine", "macAddress"] {
        if let Some(value) = there.as_ref().and_then(|there| there.json["properties"].get(kept)) {
            json["properties"][kept] = value.clone();
        }
    }
    state.put(json.clone(), Power::Stopped);
    drop(state);
    let status = if there.is_some() { 200 } else { 201 };
    let begun = Begun {
        provider: "Microsoft.Network",
        answer: Answer::json(status, &json),
        resource: Some(id.to_owned()),
    };
    operations::begin(world, begun, fault, |_| Ok(()))
}

pub(super) fn invalid_reference(id: &str) -> ArmError {
    ArmError::new(
        400,
        "InvalidResourceReference",
        format!(
            "Resource {id} referenced by another resource was not found. Please make sure that the referenced resource exists, and that both resources are in the same region."
        ),
    )
}

/// The address that a card gets: the static one it asks for, the one it has, or the next that is free.
fn address_for(state: &State, json: &Value, there: Option<&Resource>) -> Result<Ipv4Addr, ArmError> {
    let properties = &json["properties"]["ipConfigurations"][0]["properties"];
    let subnet_id = properties["subnet"]["id"].as_str().unwrap_or_default();
    let network = subnet_id.split("/subnets/").next().unwrap_or_default();
    let network = state.get(network).ok_or_else(|| invalid_reference(subnet_id))?;
    let subnets = network.json["properties"]["subnets"].as_array().cloned().unwrap_or_default();
    let named = |one: &Value| one["id"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(subnet_id));
    let subnet = subnets.into_iter().find(named).ok_or_else(|| invalid_reference(subnet_id))?;
    let own = there.filter(|card| subnet_of(card).eq_ignore_ascii_case(subnet_id));
    let own: Option<Ipv4Addr> = own.and_then(|card| address_of(card).parse().ok());
    let free = free_addresses(state, &subnet);
    if properties["privateIPAllocationMethod"].as_str() != Some("Static") {
        let full = || {
            ArmError::new(
                400,
                "SubnetIsFull",
                format!("Subnet {subnet_id} with address prefix is already full."),
            )
        };
        return own.or_else(|| free.into_iter().next()).ok_or_else(full);
    }
    let text = properties["privateIPAddress"].as_str().unwrap_or_default();
    let (net, bits) = prefix_of(&subnet);
    let asked: Option<Ipv4Addr> = text.parse().ok().filter(|asked| in_prefix(*asked, net, bits));
    let Some(asked) = asked else {
        return Err(ArmError::new(
            400,
            "PrivateIPAddressNotInSubnet",
            format!(
                "Private static IP address {text} does not belong to the range of subnet prefix {net}/{bits}."
            ),
        ));
    };
    if free.contains(&asked) || own == Some(asked) {
        return Ok(asked);
    }
    Err(ArmError::new(
        400,
        "PrivateIPAddressInUse",
        format!(
            "IP configuration is using the private IP address {text} which is already allocated to another resource."
        ),
    ))
}
