//! Sites made known and forgotten. One of Azure has a file of settings and is made known at the command line.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use serde_json::{Value, json};
use switchback_control::Control;
use switchback_model::{AccessRole, AccountKind, ObjectName};

use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::Tab;
use crate::pages::ask::{Field, Form};
use crate::visit::{Visit, form};

const TYPE: &str = "switchbackSites";
const HERE: &str = "/portal/sites";

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/new-site/{kind}", form(ask, make))
        .route("/sites/{site}/remove", form(confirm_removal, remove))
}

/// The kinds that a form makes known: what the address says, and what people read.
pub(super) const fn kinds() -> [(&'static str, &'static str); 3] {
    [("vsphere", "vSphere"), ("physical", "physical servers"), ("local", "local machines")]
}

fn ask(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "making a site known")?;
    let kind = kinds().into_iter().find(|(kind, _)| *kind == visit.param("kind"));
    let (kind, words) = kind.ok_or_else(|| Failure::not_found("kind of site", visit.param("kind")))?;
    let form = Form::new(visit.frame(Tab::Sites, format!("New site: {words}")), "Make it known", HERE)
        .field(Field::line("name", "Name"));
    match kind {
        "vsphere" => vsphere(form, control)?.show(),
        "physical" => {
            let none = (String::new(), "nowhere: they can only leave".to_owned());
            let sites =
                control.sites()?.into_iter().map(|site| (site.name.to_string(), site.name.to_string()));
            let home = Field::choice(
                "home",
                "They come home, as virtual machines, to",
                [none].into_iter().chain(sites),
            );
            form.note("Those from which mobility agents report, and that no other site has.")
                .field(home.optional())
                .show()
        }
        _ => form
            .field(
                Field::line("directory", "Directory of its machines")
                    .hint("An absolute path on the configuration server's host."),
            )
            .show(),
    }
}

fn vsphere(form: Form, control: &Control) -> Result<Form, Failure> {
    let accounts = control.accounts()?.into_iter().filter(|account| account.kind == AccountKind::Vsphere);
    let accounts: Vec<_> =
        accounts.map(|account| (account.name.to_string(), account.name.to_string())).collect();
    if accounts.is_empty() {
        return Err(Failure::new(
            StatusCode::CONFLICT,
            "portal.no-account",
            "there is no run-as account for vSphere yet",
        )
        .remedy("make one in Settings first"));
    }
    let some = |name, label, hint: &str| Field::line(name, label).optional().hint(hint);
    Ok(form
        .field(
            Field::line("url", "vCenter or ESXi host")
                .hint("Its name, or https://HOST:PORT/sdk; 6.5 or newer."),
        )
        .field(Field::choice("account", "Run-as account", accounts))
        .field(some(
            "fingerprint",
            "SHA-256 of its certificate",
            "ESXi shows it in its console. It, or the authority: nothing is trusted by itself.",
        ))
        .field(Field::authority(None).hint("A vCenter's is at https://HOST/certs/download.zip."))
        .field(some("host", "ESXi host that machines are made on", "Empty: the one there is."))
        .field(some("pool", "Resource pool", "Empty: the root."))
        .field(some("folder", "Folder", "Empty: the datacenter's own.")))
}

fn make(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let name: ObjectName = visit
        .field("name")
        .parse()
        .map_err(|error: switchback_model::InvalidName| Failure::invalid(error.to_string()))?;
    let kind = visit.param("kind");
    let said: Vec<(&str, &str)> = match kind {
        "vsphere" => vec![
            ("url", "url"),
            ("account", "account"),
            ("fingerprint", "fingerprint"),
            ("authority", "authority"),
            ("host", "host"),
            ("resourcePool", "pool"),
            ("folder", "folder"),
        ],
        "physical" => vec![("comesHomeTo", "home")],
        "local" => vec![("directory", "directory")],
        other => return Err(Failure::not_found("kind of site", other)),
    };
    let mut properties: Value = json!({ "kind": kind });
    for (key, field) in said.into_iter().filter(|(_, field)| !visit.field(field).is_empty()) {
        properties[key] = visit.field(field).into();
    }
    let there = Then::To(format!("/portal/sites/{name}"));
    Ok(Act::put(visit.vault.addition(TYPE, name.as_str()), properties, there))
}

fn confirm_removal(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "forgetting a site")?;
    let name = visit.name("site")?;
    if control.sites()?.iter().all(|site| site.name != name) {
        return Err(Failure::not_found("site", name.as_str()));
    }
    let form = Form::new(visit.frame(Tab::Sites, format!("Forget {name}")), "Forget it", HERE);
    form.note("The site itself stays as it is. One that groups or machines need is refused.").grave().show()
}

fn remove(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    Ok(Act::delete(visit.vault.addition(TYPE, visit.name("site")?.as_str()), Then::To(HERE.into())))
}
