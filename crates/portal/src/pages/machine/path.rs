//! Two things that change no direction: sending through another process server, and letting a machine go that is held since the configuration server was restored.

use serde_json::json;
use switchback_control::{Control, ItemView};
use switchback_identity::Role;
use switchback_model::{AccessRole, Held, Operation};

use super::operations::{Offered, machine_page};
use crate::action::Act;
use crate::failure::Failure;
use crate::layout::Tab;
use crate::pages::ask::{Field, Form};
use crate::shown::Moment;
use crate::visit::Visit;

pub(super) const SWITCH: &str = "switch-process-server";
pub(super) const RELEASE: &str = "release";

/// What of it the machine's state and the caller's role allow.
pub(super) fn offered(visit: &Visit, view: &ItemView) -> Vec<Offered> {
    let may_switch =
        view.allowed.contains(&Operation::SwitchProcessServer) && view.item.replication.is_some();
    let all = [
        (may_switch, SWITCH, "Switch process server", false),
        (view.item.held.is_some(), RELEASE, "Release", true),
    ];
    let offered = all.into_iter().filter(|(may, ..)| *may && visit.is_contributor());
    offered.map(|(_, slug, name, is_grave)| Offered { slug, name: name.into(), is_grave }).collect()
}

/// An action of ours on a machine.
pub(super) fn addition(visit: &Visit, view: &ItemView, action: &str) -> String {
    let id = visit.vault.addition("switchbackProtectedMachines", view.item.name.as_str());
    format!("{id}/{action}")
}

/// A form about a machine, which leads back to its page.
pub(super) fn form(visit: &Visit, view: &ItemView, title: &str, button: &str) -> Form {
    let name = &view.item.name;
    Form::new(
        visit.frame(Tab::Machines, format!("{title}: {name}")),
        button,
        format!("/portal/machines/{name}"),
    )
}

/// `GET /portal/machines/{machine}/switch-process-server`.
pub(super) fn ask_switch(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "switching the process server")?;
    let view = control.item(&visit.name("machine")?)?;
    let now = view.item.replication.as_ref().map(|path| path.process_server.to_string()).unwrap_or_default();
    let site = &view.item.active().site;
    let mut servers = control.servers_if(|server| server.role == Role::ProcessServer)?;
    servers.retain(|server| {
        let report = server.last_report.as_ref();
        report.is_some_and(|(_, report)| report.site.eq_ignore_ascii_case(site.as_str()))
    });
    servers.sort_by_cached_key(|server| (server.health, server.identity.name.to_string()));
    let others =
        servers.into_iter().filter(|server| !server.identity.name.as_str().eq_ignore_ascii_case(&now));
    let others: Vec<_> = others
        .map(|server| {
            let name = server.identity.name.to_string();
            let words = format!("{name}: {}", format!("{:?}", server.health).to_lowercase());
            (name, words)
        })
        .collect();
    let form = form(visit, &view, "Switch process server", "Switch").told("Sends through", now);
    if others.is_empty() {
        return form.note(format!("No other process server reports from {site}: enrol one first.")).show();
    }
    form.note("What the former one holds and has not forwarded is sent anew. The machine goes on meanwhile.")
        .field(Field::choice("process-server", "From now on through", others))
        .show()
}

/// `POST /portal/machines/{machine}/switch-process-server`.
pub(super) fn switch(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    let properties = json!({ "processServer": visit.field("process-server") });
    Ok(Act::post(addition(visit, &view, "switchProcessServer"), properties, machine_page(&view)))
}

/// `GET /portal/machines/{machine}/release`.
pub(super) fn ask_release(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "releasing a machine")?;
    let view = control.item(&visit.name("machine")?)?;
    let form = form(visit, &view, "Release", "Release it");
    let form = match &view.item.held {
        None => form.told("Held", "no: it is led as always"),
        Some(Held::Unconfirmed { since }) => form.told(
            "Held",
            format!(
                "since the configuration server was restored, {}: its components have not reported yet",
                Moment::of(*since, visit.now).text
            ),
        ),
        Some(Held::Behind { evidence }) => {
            form.told("Held", format!("the backup is older than the machine's last change: {evidence}"))
        }
    };
    form.told("Runs at", view.item.active().site.to_string())
        .told("As the backup has it", view.item.protection.to_string())
        .note("Release it if that is right. The configuration server leads it from then on as the backup has it; if it is wrong, it may run twice.")
        .grave()
        .show()
}

/// `POST /portal/machines/{machine}/release`.
pub(super) fn release(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    Ok(Act::post(addition(visit, &view, "release"), json!({}), machine_page(&view)))
}
