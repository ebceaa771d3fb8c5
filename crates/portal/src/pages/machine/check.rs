//! A machine is looked at again at once: for whoever has mended what readiness or its health told of.

use serde_json::json;
use switchback_control::{Control, ItemView};
use switchback_model::AccessRole;

use super::path::form;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::visit::Visit;

pub(super) const SLUG: &str = "check";

/// Whether the machine's state and the caller's role allow it.
pub(super) fn is_offered(visit: &Visit, view: &ItemView) -> bool {
    visit.may(AccessRole::Operator) && view.item.job.is_none() && view.item.held.is_none()
}

/// `GET /portal/machines/{machine}/check`.
pub(super) fn ask(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Operator, "checking a machine again")?;
    let view = control.item(&visit.name("machine")?)?;
    let raised = control.raised(&view);
    let mut form = form(visit, &view, "Check again", "Check again");
    if raised.is_empty() {
        form = form.note("Nothing is known to be wrong with it.");
    }
    for error in raised {
        form = form.told("Has this gone?", error.message);
    }
    form.note("Its components are heard and its sites are asked now, not at the next minute. Nothing is changed. The job fails while one of these still holds, and says what to do.").show()
}

/// `POST /portal/machines/{machine}/check`: all that there is, since none is named.
pub(super) fn check(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    let id = visit.vault.protected_item(&view.item.home.site, &view.item.name);
    Ok(Act::post(format!("{id}/resolveHealthErrors"), json!({}), Then::Job))
}
