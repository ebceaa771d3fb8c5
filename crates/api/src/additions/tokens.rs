//! `switchbackTokens`: who may use the API. A token's secret is shown once, in the answer to the PUT that made it.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::{Control, ErrorKind};
use switchback_model::{AccessRole, ObjectName};

use crate::arm::{Answer, ArmError, Call, page, resource};
use crate::openapi::operation::{Operation, delete as remove, get_page, put as make};
use crate::openapi::schema::{choice, object, open, resource as schema, text};

#[derive(Deserialize)]
struct Put {
    properties: PutProperties,
}

#[derive(Deserialize)]
struct PutProperties {
    role: AccessRole,
}

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let role = || choice(&["Reader", "Operator", "Contributor"]);
    let shown = || schema("SwitchbackToken", object([("role", role()), ("secret?", text())]));
    let one = "switchbackTokens/{token}";
    vec![
        get_page("switchbackTokens", list, "Who may use the API.", shown()),
        make(one, put, "Makes a token; its secret is in this answer, and never again.", shown())
            .takes(open(object([("role", role())]))),
        remove(one, delete, "Removes a token."),
    ]
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let tokens = control.tokens()?.into_iter().map(|(name, role)| (name.key(), (name, role))).collect();
    Answer::of(&page(call, tokens, |(name, role)| show(call, &name, role, None))?)
}

/// Makes a token. One of that name is not replaced: whoever has it would be shut out unawares.
pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("token")?;
    let role = call.json::<Put>()?.properties.role;
    let secret = control.create_token(&name, role)?;
    Ok(Answer::Ok(show(call, &name, role, Some(&secret))?))
}

pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    match control.delete_token(&call.name("token")?) {
        Ok(()) => Ok(Answer::NoContent),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Answer::NoContent),
        Err(error) => Err(error.into()),
    }
}

fn show(call: &Call, name: &ObjectName, role: AccessRole, secret: Option<&str>) -> Result<Value, ArmError> {
    let mut properties = json!({ "role": role });
    if let (Some(secret), Some(properties)) = (secret, properties.as_object_mut()) {
        properties.insert("secret".into(), secret.into());
    }
    resource(
        call.vault.addition("switchbackTokens", name.as_str()),
        name.as_str(),
        "switchbackTokens",
        properties,
    )
}
