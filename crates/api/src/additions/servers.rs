//! `switchbackServers`: components that have enrolled; their names here are `ROLE.NAME`. Below a process server or master target is how much it may send.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::{Control, ServerView};
use switchback_identity::{PeerIdentity, Role};
use switchback_model::Bandwidth;
use switchback_model::component::State;

use crate::arm::{Answer, ArmError, Call, page_at_once, resource, show_time};
use crate::openapi::operation::{Operation, delete as remove, get as show_one, get_page, put as make};
use crate::openapi::schema::{
    count, count_within, list as many, map_of, object, or_null, problem, resource as schema, text, time,
    titled,
};
use crate::openapi::shared::health;

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let shown = || {
        let state = object([
            ("hostname?", text()),
            ("system?", text()),
            ("systemUuid?", text()),
            ("spools?", count()),
            ("replicas?", count()),
            ("freeBytes?", count()),
            ("receivedBytes?", count()),
            ("forwardedBytes?", count()),
        ]);
        let properties = object([
            ("role", text()),
            ("friendlyName", text()),
            ("enrolled", time()),
            ("lastReport", or_null(time())),
            ("build", or_null(text())),
            ("address", or_null(text())),
            ("site", or_null(text())),
            ("health", health()),
            ("reasons", many(problem())),
            ("state", or_null(state)),
            ("bandwidth?", bandwidth_schema()),
        ]);
        schema("SwitchbackServer", properties)
    };
    let one = "switchbackServers/{server}";
    vec![
        get_page("switchbackServers", list, "Components that have enrolled.", shown()),
        show_one(one, get, "A component that has enrolled: ROLE.NAME.", shown()),
        remove(one, delete, "Its certificate is not renewed any more."),
        show_one(BANDWIDTH, get_bandwidth, "How much a process server may forward, and when.", limited()),
        make(
            BANDWIDTH,
            put_bandwidth,
            "Sets how much a process server may forward; it follows at once.",
            limited(),
        )
        .takes(bandwidth_schema()),
    ]
}

const BANDWIDTH: &str = "switchbackServers/{server}/bandwidth/default";

fn limited() -> Value {
    schema("SwitchbackServerBandwidth", bandwidth_schema())
}

fn bandwidth_schema() -> Value {
    let window = object([
        ("days", many(count_within(0, 6))),
        ("fromMinute", count_within(0, 1439)),
        ("toMinute", count_within(0, 1440)),
        ("bytesPerSMax?", or_null(count())),
    ]);
    let limit = || {
        let limit = object([("bytesPerSMax?", or_null(count())), ("windows?", many(window.clone()))]);
        titled("SwitchbackBandwidthLimit", limit)
    };
    let minutes = json!({ "type": "integer", "minimum": -840, "maximum": 840 });
    let properties =
        object([("utcOffsetMinutes?", minutes), ("total?", limit()), ("targets?", map_of(limit()))]);
    titled("SwitchbackBandwidth", properties)
}

#[derive(Deserialize)]
struct PutBandwidth {
    properties: Bandwidth,
}

fn found(control: &Control, call: &Call) -> Result<ServerView, ArmError> {
    find(control, call)?.ok_or_else(|| ArmError::not_found("server", call.text("server")))
}

pub(crate) fn get_bandwidth(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let server = found(control, call)?;
    let id =
        format!("{}/bandwidth/default", call.vault.addition("switchbackServers", &name(&server.identity)));
    let properties = json!(control.bandwidth(&server.identity)?);
    Ok(Answer::Ok(resource(id, "default", "switchbackServers/bandwidth", properties)?))
}

pub(crate) fn put_bandwidth(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let server = found(control, call)?;
    control.set_bandwidth(&server.identity, call.json::<PutBandwidth>()?.properties)?;
    get_bandwidth(control, call)
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let servers = control.enrolled_servers()?.into_iter().map(|server| (name(&server), server)).collect();
    Answer::of(&page_at_once(call, servers, |shown| {
        let mut views = control.servers_if(|server| shown.contains(server))?;
        views.sort_by_cached_key(|view| name(&view.identity));
        views.iter().map(|view| show(control, call, view)).collect()
    })?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(control, call, &found(control, call)?)?))
}

/// Its certificate is not renewed any more.
pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    if let Some(server) = find(control, call)? {
        control.remove_server(&server.identity)?;
    }
    Ok(Answer::NoContent)
}

fn find(control: &Control, call: &Call) -> Result<Option<ServerView>, ArmError> {
    let wanted = call.text("server");
    Ok(control.servers_if(|server| name(server).eq_ignore_ascii_case(wanted))?.pop())
}

fn name(server: &PeerIdentity) -> String {
    format!("{}.{}", server.role.as_str(), server.name.as_str())
}

fn show(control: &Control, call: &Call, server: &ServerView) -> Result<Value, ArmError> {
    let report = server.last_report.as_ref();
    let state = report.map(|(_, report)| match &report.state {
        State::Agent(state) => {
            json!({ "hostname": state.hostname, "system": state.system, "systemUuid": state.system_uuid })
        }
        State::ProcessServer(state) => json!({
            "spools": state.spools.len(), "freeBytes": state.free_bytes,
            "receivedBytes": state.received_bytes, "forwardedBytes": state.forwarded_bytes,
        }),
        State::MasterTarget(state) => {
            json!({ "replicas": state.replicas.len(), "freeBytes": state.free_bytes })
        }
    });
    let mut properties = json!({
        "role": server.identity.role.as_str(),
        "friendlyName": server.identity.name.as_str(),
        "enrolled": show_time(server.enrolled),
        "lastReport": report.map(|(time, _)| show_time(*time)),
        "build": report.map(|(_, report)| report.build.as_str()),
        "address": report.map(|(_, report)| report.address.as_str()),
        "site": report.map(|(_, report)| report.site.as_str()),
        "health": server.health,
        "reasons": server.reasons,
        "state": state,
    });
    if server.identity.role != Role::Source {
        properties["bandwidth"] = json!(control.bandwidth(&server.identity)?);
    }
    let name = name(&server.identity);
    resource(call.vault.addition("switchbackServers", &name), &name, "switchbackServers", properties)
}
