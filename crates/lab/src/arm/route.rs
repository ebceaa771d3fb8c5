//! Which answer belongs to which request: tokens and blobs first, then what needs a token and an api-version.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::{Answer, ArmError, Request};
use super::faults::{self, Fault};
use super::world::{State, World};
use super::{SUBSCRIPTION, blobs, disks, groups, guests, machines, network, operations, tokens};

pub(super) fn answer(world: &Arc<World>, request: &Request) -> Answer {
    let own = tokens::answer(world, request)
        .or_else(|| blobs::answer(world, request))
        .or_else(|| guests::answer(world, request));
    if let Some(answer) = own {
        return answer;
    }
    {
        let query: Vec<String> =
            request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let call = format!("{} {}?{}", request.method, request.path(), query.join("&"));
        world.state().calls.push(call);
    }
    let answer = managed(world, request).unwrap_or_else(Answer::from);
    answer.header("x-ms-request-id", "00000000-0000-4000-8000-000000000000")
}

/// What Resource Manager answers.
fn managed(world: &Arc<World>, request: &Request) -> Result<Answer, ArmError> {
    let fault = {
        let mut state = world.state();
        must_be_authorized(&state, request)?;
        let fault = faults::take(&mut state.faults, request);
        // An operation that is looked at has begun before.
        fault.filter(|fault| !matches!(fault, Fault::FailsLater { .. }) || request.method != "GET")
    };
    if let Some(refusal) = fault.as_ref().and_then(Fault::refusal) {
        return Err(refusal);
    }
    must_have_version(request)?;
    let is_lost = matches!(fault, Some(Fault::AnswerLost));
    let answer = dispatch(world, request, fault);
    if is_lost {
        return Err(ArmError::new(504, "GatewayTimeout", "The gateway did not receive a response."));
    }
    answer
}

fn must_be_authorized(state: &State, request: &Request) -> Result<(), ArmError> {
    let token = request.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
    if state.tokens.contains(token) {
        return Ok(());
    }
    let (code, message) = match token {
        "" => ("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing."),
        _ => (
            "ExpiredAuthenticationToken",
            "The access token expiry UTC time is earlier than current UTC time.",
        ),
    };
    Err(ArmError::new(401, code, message))
}

/// `YYYY-MM-DD`, perhaps with `-preview`.
fn must_have_version(request: &Request) -> Result<(), ArmError> {
    let version = request.query("api-version");
    let date = version.strip_suffix("-preview").unwrap_or(version);
    let is_date = date.len() == 10
        && date.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    match (version, is_date) {
        ("", _) => Err(ArmError::new(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )),
        (_, true) => Ok(()),
        (_, false) => Err(ArmError::new(
            400,
            "InvalidApiVersionParameter",
            format!("The api-version '{version}' is invalid."),
        )),
    }
}

fn dispatch(world: &Arc<World>, request: &Request, fault: Option<Fault>) -> Result<Answer, ArmError> {
    let lower: Vec<String> = request.segments.iter().map(|segment| segment.to_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let ["subscriptions", subscription, rest @ ..] = lower.as_slice() else {
        return Err(ArmError::not_emulated(&request.path()));
    };
    if *subscription != SUBSCRIPTION {
        return Err(ArmError::new(
            404,
            "SubscriptionNotFound",
            format!("The subscription '{subscription}' could not be found."),
        ));
    }
    match rest {
        ["providers", _, "locations", _, kind @ ("operations" | "operationresults"), name] => {
            operations::look(&mut world.state(), *kind == "operationresults", name)
        }
        ["resourcegroups", group, "providers", "microsoft.compute" | "microsoft.network", tail @ ..] => {
            if world.state().get(&format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}")).is_none() {
                return Err(groups::no_group(&request.segments[3]));
            }
            resource(world, request, tail, fault)
        }
        ["providers", "microsoft.compute" | "microsoft.network", kind]
            if request.method == "GET" && *kind != "locations" =>
        {
            list(world, request, 2)
        }
        _ => groups::answer(world, request, rest, fault),
    }
}

/// Requests below `…/providers/Microsoft.Compute` or `Microsoft.Network` of a resource group.
fn resource(
    world: &Arc<World>,
    request: &Request,
    tail: &[&str],
    fault: Option<Fault>,
) -> Result<Answer, ArmError> {
    match tail {
        [_] if request.method == "GET" => list(world, request, 4),
        ["disks", _] => disks::answer(world, request, fault),
        ["virtualmachines", _, action @ ..] => machines::answer(world, request, action, fault),
        ["virtualnetworks", ..] => network::virtual_network(world, request, tail, fault),
        ["networkinterfaces", _] => network::card(world, request, fault),
        [kind @ ("availabilitysets" | "networksecuritygroups"), _] => groups::simple(world, request, kind),
        _ => Err(ArmError::not_emulated(&request.path())),
    }
}

/// The type and id of the resource that a request is about, written as Azure does.
pub(super) fn id_of(request: &Request) -> (String, String) {
    let kind = format!("{}/{}", provider(&request.segments[5]), spelled(&request.segments[6]));
    let id = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{}/providers/{kind}/{}",
        request.segments[3], request.segments[7]
    );
    (kind, id)
}

fn provider(given: &str) -> &'static str {
    if given.eq_ignore_ascii_case("microsoft.network") { "Microsoft.Network" } else { "Microsoft.Compute" }
}

fn spelled(kind: &str) -> &str {
    const SPELLED: [&str; 6] = [
        "disks",
        "virtualMachines",
        "virtualNetworks",
        "networkInterfaces",
        "networkSecurityGroups",
        "availabilitySets",
    ];
    SPELLED.into_iter().find(|one| one.eq_ignore_ascii_case(kind)).unwrap_or(kind)
}

/// What is not there.
pub(super) fn not_found(id: &str) -> ArmError {
    let shown = id.split("/providers/").nth(1).unwrap_or(id);
    ArmError::new(404, "ResourceNotFound", format!("The Resource '{shown}' was not found."))
}

/// A resource as it is.
pub(super) fn read(state: &State, id: &str) -> Result<Answer, ArmError> {
    let found = state.get(id).ok_or_else(|| not_found(id))?;
    Ok(Answer::json(200, &found.json))
}

/// A list of resources, in pages: of a resource group, or of the subscription. The kind's segment is the one behind the provider's.
fn list(world: &World, request: &Request, provider_at: usize) -> Result<Answer, ArmError> {
    let at = provider_at + 1;
    let kind = format!("{}/{}", provider(&request.segments[at]), spelled(&request.segments[at + 1]));
    let group =
        (provider_at == 4).then(|| format!("/resourcegroups/{}/", request.segments[3].to_lowercase()));
    let skip: usize = request.query("$skiptoken").parse().unwrap_or(0);
    let (shown, more) = {
        let state = world.state();
        let fits = |id: &str| group.as_ref().is_none_or(|group| id.contains(group));
        let all: Vec<Value> = state
            .of_kind(&kind)
            .filter(|resource| fits(&resource.text("/id").to_lowercase()))
            .map(|resource| machines::shown(resource, request.query("statusonly") == "true"))
            .collect();
        let more = all.len() > skip + world.options.page_len;
        (all.into_iter().skip(skip).take(world.options.page_len).collect::<Vec<_>>(), more)
    };
    let mut body = json!({ "value": shown });
    if more {
        let next = skip + world.options.page_len;
        let status = if request.query("statusonly").is_empty() { "" } else { "&statusOnly=true" };
        let version = request.query("api-version");
        let path = request.path();
        body["nextLink"] =
            json!(format!("{}{path}?api-version={version}{status}&$skiptoken={next}", world.url));
    }
    Ok(Answer::json(200, &body))
}
