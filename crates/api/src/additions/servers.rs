//! `switchbackServers`: components that have enrolled; their names here are `ROLE.NAME`.

use serde_json::{Value, json};
use switchback_control::{Control, ServerView};
use switchback_identity::PeerIdentity;
use switchback_model::component::State;

use crate::arm::{Answer, ArmError, Call, page_at_once, resource, show_time};
use crate::openapi::operation::{Operation, delete as remove, get as show_one, get_page};
use crate::openapi::schema::{count, list as many, object, or_null, problem, resource as schema, text, time};
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
        ]);
        schema("SwitchbackServer", properties)
    };
    let one = "switchbackServers/{server}";
    vec![
        get_page("switchbackServers", list, "Components that have enrolled.", shown()),
        show_one(one, get, "A component that has enrolled: ROLE.NAME.", shown()),
        remove(one, delete, "Its certificate is not renewed any more."),
    ]
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let servers = control.enrolled_servers()?.into_iter().map(|server| (name(&server), server)).collect();
    Answer::of(&page_at_once(call, servers, |shown| {
        let mut views = control.servers_if(|server| shown.contains(server))?;
        views.sort_by_cached_key(|view| name(&view.identity));
        views.iter().map(|view| show(call, view)).collect()
    })?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let found = find(control, call)?.ok_or_else(|| ArmError::not_found("server", call.text("server")))?;
    Ok(Answer::Ok(show(call, &found)?))
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

fn show(call: &Call, server: &ServerView) -> Result<Value, ArmError> {
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
    let properties = json!({
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
    let name = name(&server.identity);
    resource(call.vault.addition("switchbackServers", &name), &name, "switchbackServers", properties)
}
