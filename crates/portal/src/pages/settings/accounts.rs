//! Run-as accounts: as whom we go elsewhere. A password goes in and never comes out.

use std::sync::Arc;

use axum::Router;
use serde_json::{Value, json};
use switchback_control::Control;
use switchback_model::{AccessRole, Account};

use super::{HERE, new_name, or_nothing};
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::Tab;
use crate::pages::ask::{Answer, Field, Form};
use crate::visit::{Visit, button, form};

const TYPE: &str = "switchbackAccounts";
const BACK: &str = "/portal/settings#accounts";

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/settings/accounts/new", form(ask_new, make))
        .route("/settings/accounts/{account}/edit", form(ask, change))
        .route("/settings/accounts/{account}/test", button(test))
        .route("/settings/accounts/{account}/delete", form(confirm_delete, delete))
}

fn found(control: &Control, visit: &Visit) -> Result<Account, Failure> {
    Ok(control.account(&visit.name("account")?)?)
}

fn ask_new(_: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "making a run-as account")?;
    let kinds = [
        ("vsphere", "A user of a vCenter or an ESXi host"),
        ("azure", "A service principal of Azure: CLIENT_ID@TENANT_ID and its secret"),
        ("azure-sas", "What opens a container of Azure: a name for people, and the SAS"),
    ];
    Form::new(visit.frame(Tab::Settings, "New run-as account"), "Make it", BACK)
        .field(Field::line("name", "Name"))
        .field(Field::choice("kind", "What it is", kinds))
        .field(Field::line("user", "User"))
        .field(Field::secret("password", "Password").hint("Kept encrypted, and shown to nobody."))
        .show()
}

fn make(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let properties = json!({
        "kind": visit.field("kind"), "user": visit.field("user"), "password": visit.field("password"),
    });
    let path = visit.vault.addition(TYPE, new_name(visit)?.as_str());
    Ok(Act::put(path, properties, Then::To(BACK.into())))
}

fn ask(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "changing a run-as account")?;
    let account = found(control, visit)?;
    Form::new(visit.frame(Tab::Settings, format!("Account {}", account.name)), "Keep it", BACK)
        .note("Change it at the other system first. Sites that it enters are entered anew.")
        .field(Field::line("user", "User").optional().hint("Empty: it stays."))
        .field(Field::secret("password", "New password"))
        .show()
}

fn change(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = format!("{}/rotate", visit.vault.addition(TYPE, found(control, visit)?.name.as_str()));
    let properties = json!({ "user": or_nothing(visit.field("user")), "password": visit.field("password") });
    Ok(Act::post(path, properties, Then::To(BACK.into())))
}

fn test(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = format!("{}/test", visit.vault.addition(TYPE, visit.name("account")?.as_str()));
    Ok(Act::post(path, json!({}), Then::Page(tested)))
}

fn tested(visit: &Visit, answer: &Value) -> Result<String, Failure> {
    let name = answer["name"].as_str().unwrap_or_default().to_owned();
    let (frame, told) = (visit.frame(Tab::Settings, "It is good"), vec![("Tried at all sites of", name)]);
    Ok(askama::Template::render(&Answer { frame, notices: Vec::new(), told, back: HERE })?)
}

fn confirm_delete(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "removing a run-as account")?;
    super::removal(
        visit,
        &found(control, visit)?.name,
        BACK,
        "It is forgotten here, with its password. One that a site is entered with is refused.",
    )
}

fn delete(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = visit.vault.addition(TYPE, visit.name("account")?.as_str());
    Ok(Act::delete(path, Then::To(BACK.into())))
}
