//! Tokens made and deleted. A new one's secret is on the page that answers the form, and nowhere after it.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use serde_json::{Value, json};
use switchback_control::Control;
use switchback_model::AccessRole;

use super::{HERE, new_name};
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::{Frame, Tab};
use crate::pages::ask::{Field, Form};
use crate::visit::{Visit, form};

const TYPE: &str = "switchbackTokens";

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/settings/tokens/new", form(ask, make))
        .route("/settings/tokens/{token}/delete", form(confirm_delete, delete))
}

#[derive(Template)]
#[template(path = "token.html")]
struct Made<'a> {
    frame: Frame,
    name: &'a str,
    role: &'a str,
    secret: &'a str,
}

fn ask(_: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "making a token")?;
    let roles = [
        ("Reader", "Reader: looks"),
        ("Operator", "Operator: fails over, commits, runs plans, manages jobs"),
        ("Contributor", "Contributor: all of it"),
    ];
    Form::new(visit.frame(Tab::Settings, "New token"), "Make it", HERE)
        .note("The next page shows its secret, once. It is kept nowhere.")
        .field(
            Field::line("name", "Name")
                .hint("Of the person or program that has it: jobs and the audit log say it."),
        )
        .field(Field::choice("role", "Role", roles))
        .show()
}

fn make(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = visit.vault.addition(TYPE, new_name(visit)?.as_str());
    Ok(Act::put(path, json!({ "role": visit.field("role") }), Then::Page(made)))
}

fn made(visit: &Visit, answer: &Value) -> Result<String, Failure> {
    let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    let properties = &answer["properties"];
    let (name, role, secret) =
        (text(&answer["name"]), text(&properties["role"]), text(&properties["secret"]));
    let frame = visit.frame(Tab::Settings, "The new token");
    Ok(Made { frame, name: &name, role: &role, secret: &secret }.render()?)
}

fn confirm_delete(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "deleting a token")?;
    let name = visit.name("token")?;
    if !control.tokens()?.iter().any(|(known, _)| *known == name) {
        return Err(Failure::not_found("token", name.as_str()));
    }
    let form = Form::new(visit.frame(Tab::Settings, format!("Delete the token {name}")), "Delete it", HERE);
    let form = form
        .note("Whoever has it is shut out at once, here and at the API. Jobs that it has asked for go on.");
    let form = if visit.caller == name.as_str() {
        form.note("It is the one that you are signed in with.")
    } else {
        form
    };
    form.grave().show()
}

fn delete(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = visit.vault.addition(TYPE, visit.name("token")?.as_str());
    Ok(Act::delete(path, Then::To(format!("{HERE}#tokens"))))
}
