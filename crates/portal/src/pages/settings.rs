//! The tab Settings: what is set for all: protection groups and their policies, network mappings, backup; and, to a Contributor alone, who may come in (tokens, sign-ins),
//! as whom we go elsewhere (run-as accounts), and the audit log. The forms are in the files below.
//!
//! Invariant: what the API shows to a Contributor alone is read here for a Contributor alone. A secret is on one page once: a new token's, when it was made.

mod audit;
mod backup;
mod groups;
mod tokens;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use switchback_control::{Control, SignIn};
use switchback_model::{AccessRole, Account, NetworkMapping, ObjectName};

use crate::Portal;
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::visit::{Visit, page};

/// Where the forms come back to.
const HERE: &str = "/portal/settings";

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/settings", page(show))
        .merge(groups::routes())
        .merge(tokens::routes())
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
}

fn show(control: &Control, visit: &Visit) -> Result<String, Failure> {
    let access = if visit.is_contributor() {
        let (sign_ins, accounts) = (control.sign_ins()?, control.accounts()?);
        Some(Access { tokens: control.tokens()?, sign_ins, accounts })
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
