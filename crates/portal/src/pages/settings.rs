//! The tab Settings: what is set for all: protection groups and their policies, network mappings, backup; and, to a Contributor alone, who may come in (tokens, sign-ins),
//! as whom we go elsewhere (run-as accounts), who is told of what is not well (alerts), and the audit log. The forms are in the files below.
//!
//! Invariant: what the API shows to a Contributor alone is read here for a Contributor alone. A secret is on one page once: a new token's, when it was made.

mod accounts;
mod alerts;
mod audit;
mod backup;
mod groups;
mod mappings;
mod sign_ins;
mod tokens;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::http::StatusCode;
use serde_json::Value;
use switchback_control::{Control, SignIn};
use switchback_model::{AccessRole, Account, NetworkMapping, ObjectName};

use crate::Portal;
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::pages::ask::Form;
use crate::visit::{Visit, page};

/// Where the forms come back to.
const HERE: &str = "/portal/settings";

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/settings", page(show))
        .merge(groups::routes())
        .merge(tokens::routes())
        .merge(sign_ins::routes())
        .merge(accounts::routes())
        .merge(alerts::routes())
        .merge(mappings::routes())
        .merge(backup::routes())
        .merge(audit::routes())
}

#[derive(Template)]
#[template(path = "settings.html")]
struct Page {
    frame: Frame,
    groups: Vec<groups::Row>,
    mappings: Vec<NetworkMapping>,
    backup: backup::Shown,
    /// For a Contributor.
    access: Option<Access>,
}

/// Who may come in, and as whom we go elsewhere.
struct Access {
    tokens: Vec<(ObjectName, AccessRole)>,
    sign_ins: Vec<SignIn>,
    accounts: Vec<Account>,
    alerts: Vec<alerts::Row>,
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let access = if visit.is_contributor() {
        let (sign_ins, accounts) = (control.sign_ins()?, control.accounts()?);
        let alerts = alerts::rows(control, visit)?;
        Some(Access { tokens: control.tokens()?, sign_ins, accounts, alerts })
    } else {
        None
    };
    let page = Page {
        frame: visit.frame(Tab::Settings, "Settings"),
        groups: groups::rows(control)?,
        mappings: control.network_mappings()?,
        backup: backup::shown(control, visit)?,
        access,
    };
    Ok(page.render()?)
}

/// A name that a form made up.
fn new_name(visit: &Visit) -> Result<ObjectName, Failure> {
    let text = visit.field("name");
    text.parse().map_err(|error: switchback_model::InvalidName| Failure::invalid(error.to_string()))
}

/// The API changes something of the same name, so one that is there is refused here.
fn is_new<'a>(
    what: &str,
    mut known: impl Iterator<Item = &'a ObjectName>,
    name: &ObjectName,
) -> Result<(), Failure> {
    if known.all(|known| known != name) {
        return Ok(());
    }
    let message = format!("there is a {what} {name} already");
    Err(Failure::new(StatusCode::CONFLICT, "portal.name-taken", message)
        .remedy("choose another name, or change that one"))
}

/// A number that a form has.
fn number(visit: &Visit, field: &str) -> Result<u64, Failure> {
    let text = visit.field(field);
    text.parse().map_err(|_| Failure::invalid(format!("{field} is a number, not {text:?}")))
}

/// What was left empty was not said.
fn or_nothing(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

/// The form that removes something of Settings; `note` says what comes of it.
fn removal(visit: &Visit, name: &ObjectName, back: &str, note: &str) -> Result<String, Failure> {
    Form::new(visit.frame(Tab::Settings, format!("Remove {name}")), "Remove it", back)
        .note(note)
        .grave()
        .show()
}
