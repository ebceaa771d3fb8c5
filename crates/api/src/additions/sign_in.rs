//! `switchbackSignIn`: whose tokens are taken beside our own, and what they are worth. One resource for each issuer; nothing in it is secret.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use switchback_control::{Control, ErrorKind, RoleMapping, SignIn, https};

use crate::arm::{Answer, ArmError, Call, page, resource};
use crate::openapi::operation::{Operation, delete as remove, get as show_one, get_page, put as make};
use crate::openapi::schema::{choice, list as list_of, object, resource as schema, text};

const TYPE: &str = "switchbackSignIn";
/// Where Entra ID has an application's roles.
const CLAIM: &str = "roles";

#[derive(Deserialize)]
struct Put {
    properties: Properties,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Properties {
    issuer: String,
    audiences: Vec<String>,
    #[serde(default = "default_claim")]
    claim: String,
    roles: Vec<RoleMapping>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authority: Option<String>,
}

fn default_claim() -> String {
    CLAIM.into()
}

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let role = choice(&["Reader", "Operator", "Contributor"]);
    let mapping = object([("role", role), ("value", text())]);
    let properties = |claim| {
        object([
            ("issuer", text()),
            ("audiences", list_of(text())),
            (claim, text()),
            ("roles", list_of(mapping.clone())),
            ("authority?", text()),
        ])
    };
    let shown = || schema("SwitchbackSignIn", properties("claim"));
    let one = "switchbackSignIn/{sign_in}";
    vec![
        get_page(TYPE, list, "Whose tokens are taken beside our own.", shown()),
        show_one(one, get, "An issuer of tokens, and what they are worth.", shown()),
        make(one, put, "Makes an issuer known, or changes what its tokens are worth.", shown())
            .takes(properties("claim?")),
        remove(one, delete, "Takes an issuer's tokens no more."),
    ]
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let all = control.sign_ins()?.into_iter().map(|sign_in| (sign_in.name.key(), sign_in)).collect();
    Answer::of(&page(call, all, |sign_in| show(call, sign_in))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("sign_in")?;
    let found = control.sign_ins()?.into_iter().find(|sign_in| sign_in.name == name);
    let found = found.ok_or_else(|| ArmError::not_found("sign-in", name.as_str()))?;
    Ok(Answer::Ok(show(call, found)?))
}

/// Makes or replaces one. The issuer is not asked: it may be down today, and its first token tells.
pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let Properties { issuer, audiences, claim, roles, authority } = call.json::<Put>()?.properties;
    if authority.is_some() {
        https::roots(authority.as_deref()).map_err(ArmError::invalid)?;
    }
    let sign_in = SignIn { name: call.name("sign_in")?, issuer, audiences, claim, roles, authority };
    control.set_sign_in(sign_in.clone())?;
    Ok(Answer::Ok(show(call, sign_in)?))
}

pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    match control.delete_sign_in(&call.name("sign_in")?) {
        Err(error) if error.kind != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(Answer::NoContent),
    }
}

fn show(call: &Call, sign_in: SignIn) -> Result<Value, ArmError> {
    let SignIn { name, issuer, audiences, claim, roles, authority } = sign_in;
    let properties = json!(Properties { issuer, audiences, claim, roles, authority });
    resource(call.vault.addition(TYPE, name.as_str()), name.as_str(), TYPE, properties)
}
