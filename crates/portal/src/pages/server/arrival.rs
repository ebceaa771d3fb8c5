//! How components come: by enrolling with the passphrase, or, process servers at Azure, by being made there.
//!
//! Invariants: the passphrase is asked of the API, which writes who saw it into the audit log, only when a Contributor presses the button for it; it is in no command
//! line to copy, because command lines are seen by others on a host.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::http::StatusCode;
use serde_json::{Value, json};
use switchback_control::Control;
use switchback_model::{AccessRole, DATA_PORT, DISK_GIB, ObjectName, SiteKind};

use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::pages::ask::{Field, Form};
use crate::visit::{Visit, form};

/// The type of process servers that are made, in the API.
const MADE: &str = "switchbackDeployedServers";
/// What one is made as, unless another size is said: four processors, for some tens of machines.
const SIZE: &str = "Standard_D4s_v5";

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/servers/enrol", form(enrol, ask_passphrase))
        .route("/servers/deploy", form(ask_deploy, deploy))
        .route("/servers/made/{made}/retire", form(confirm_retire, retire))
}

#[derive(Template)]
#[template(path = "enrol.html")]
struct Page {
    frame: Frame,
    host: String,
    passphrase: Option<String>,
}

/// `GET /portal/servers/enrol`: the commands.
fn enrol(_: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "enrolling a server")?;
    enrol_page(visit, None)
}

fn enrol_page(visit: &Visit, passphrase: Option<String>) -> Result<String, Failure> {
    let frame = visit.frame(Tab::Servers, "Enrol a server or an agent");
    Ok(Page { frame, host: visit.host.clone(), passphrase }.render()?)
}

/// `POST /portal/servers/enrol`: the same with the passphrase.
fn ask_passphrase(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = format!("{}/showPassphrase", visit.vault.addition("switchbackEnrolment", "default"));
    let shown = |visit: &Visit, answer: &Value| {
        enrol_page(visit, answer["passphrase"].as_str().map(ToOwned::to_owned))
    };
    Ok(Act::post(path, json!({}), Then::Page(shown)))
}

/// `GET /portal/servers/deploy`.
fn ask_deploy(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "adding a process server")?;
    let sites = control.sites()?.into_iter().filter(|site| matches!(site.kind, SiteKind::Azure(_)));
    let sites: Vec<_> = sites.map(|site| (site.name.to_string(), site.name.to_string())).collect();
    if sites.is_empty() {
        let message = "process servers are made at sites of Azure, and there is none";
        return Err(Failure::new(StatusCode::CONFLICT, "portal.no-azure-site", message)
            .remedy("elsewhere install one on a machine of yours, and enrol it"));
    }
    let frame = visit.frame(Tab::Servers, "Add process server");
    Form::new(frame, "Make it", "/portal/servers")
        .note("A machine is made at the site. It installs itself, trusts this configuration server, enrols and reports: the job shows how far it is.")
        .field(Field::line("name", "Name").hint("Lower-case letters, digits and dashes."))
        .field(Field::choice("site", "Site", sites))
        .field(Field::line("network", "Network").hint("VNET/SUBNET, as the site's page shows it."))
        .field(Field::line("address", "Address").hint("A free one of the subnet, for good. A taken one is refused, with free ones named."))
        .field(Field::line("size", "Size").value(SIZE))
        .field(Field::line("administrator", "Administrator").hint("Enters by SSH."))
        .field(Field::text("ssh-key", "The administrator's public key").hint("One line, as ssh-keygen writes it (….pub)."))
        .field(Field::line("configuration-server", "Configuration server").value(visit.host.as_str()).hint("HOST:PORT, as the new server reaches it and as the certificate names it."))
        .field(Field::line("port", "Data port").value(DATA_PORT.to_string()))
        .field(Field::line("disk", "Disk in GiB").value(DISK_GIB.to_string()).hint("It holds what could not be delivered yet."))
        .show()
}

/// A name of the form or the address, so that the API is asked for no other resource.
fn name(text: &str) -> Result<ObjectName, Failure> {
    text.parse().map_err(|error: switchback_model::InvalidName| Failure::invalid(error.to_string()))
}

/// `POST /portal/servers/deploy`.
fn deploy(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let number = |field: &str, what: &str| {
        let text = visit.field(field);
        text.parse::<u32>().map_err(|_| Failure::invalid(format!("{what} is a number, not {text:?}")))
    };
    let properties = json!({
        "site": visit.field("site"),
        "network": visit.field("network"),
        "address": visit.field("address"),
        "size": visit.field("size"),
        "administrator": visit.field("administrator"),
        "sshKey": visit.field("ssh-key"),
        "configurationServer": visit.field("configuration-server"),
        "port": number("port", "the port")?,
        "diskGib": number("disk", "the size of the disk")?,
    });
    let name = name(visit.field("name"))?;
    Ok(Act::put(visit.vault.addition(MADE, name.as_str()), properties, Then::Job))
}

/// `GET /portal/servers/made/{made}/retire`.
fn confirm_retire(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let made = control.deployment(&visit.name("made")?)?;
    visit.needs(AccessRole::Contributor, "removing a process server")?;
    let request = &made.request;
    Form::new(visit.frame(Tab::Servers, format!("Remove {}", request.name)), "Remove it", "/portal/servers")
        .told(
            "Removed",
            format!(
                "the machine {} at {} with its disk, and the address {}",
                request.name, request.site, request.address
            ),
        )
        .note("One through which a machine replicates is refused: send that through another one first.")
        .grave()
        .show()
}

/// `POST /portal/servers/made/{made}/retire`.
fn retire(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    Ok(Act::delete(visit.vault.addition(MADE, visit.name("made")?.as_str()), Then::Job))
}
