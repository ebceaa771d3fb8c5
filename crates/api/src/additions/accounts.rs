//! `switchbackAccounts`: run-as accounts. A password goes in, and never comes out.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::{Control, ErrorKind};
use switchback_model::{Account, AccountKind};
use zeroize::Zeroizing;

use crate::arm::{Answer, ArmError, Call, page, resource, show_time};
use crate::openapi::operation::{Operation, delete as remove, get as show_one, get_page, post, put as make};
use crate::openapi::schema::{choice, object, resource as schema, text, time};

// No `Debug`: they hold passwords.
#[derive(Deserialize)]
struct Put {
    properties: PutProperties,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PutProperties {
    kind: AccountKind,
    user: String,
    password: String,
}

#[derive(Deserialize)]
struct Rotate {
    properties: RotateProperties,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateProperties {
    #[serde(default)]
    user: Option<String>,
    password: String,
}

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let kind = || choice(&["vsphere", "azure", "azure-sas"]);
    let shown =
        || schema("SwitchbackAccount", object([("kind", kind()), ("user", text()), ("changed", time())]));
    let one = "switchbackAccounts/{account}";
    vec![
        get_page("switchbackAccounts", list, "Run-as accounts.", shown()),
        show_one(one, get, "A run-as account, without its password.", shown()),
        make(one, put, "Makes a run-as account; a name that is taken is refused.", shown()).takes(object([
            ("kind", kind()),
            ("user", text()),
            ("password", text()),
        ])),
        remove(one, delete, "Removes a run-as account."),
        post("switchbackAccounts/{account}/rotate", rotate, "Sets another password.", shown())
            .takes(object([("user?", text()), ("password", text())])),
        post("switchbackAccounts/{account}/test", test, "Tries it at each site that it enters.", shown()),
    ]
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let accounts = control.accounts()?.into_iter().map(|account| (account.name.key(), account)).collect();
    Answer::of(&page(call, accounts, |account| show(call, &account))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(call, &control.account(&call.name("account")?)?)?))
}

/// Makes one. One of that name is not replaced: see `rotate`.
pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("account")?;
    let PutProperties { kind, user, password } = call.json::<Put>()?.properties;
    let account =
        control.add_account(Account { name, kind, user, changed: call.now }, &Zeroizing::new(password))?;
    Ok(Answer::Ok(show(call, &account)?))
}

pub(crate) fn rotate(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("account")?;
    let RotateProperties { user, password } = call.json::<Rotate>()?.properties;
    Ok(Answer::Ok(show(call, &control.rotate_account(&name, user, &Zeroizing::new(password))?)?))
}

pub(crate) fn test(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("account")?;
    control.test_account(&name)?;
    Ok(Answer::Ok(show(call, &control.account(&name)?)?))
}

pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    match control.remove_account(&call.name("account")?) {
        Ok(()) => Ok(Answer::NoContent),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Answer::NoContent),
        Err(error) => Err(error.into()),
    }
}

fn show(call: &Call, account: &Account) -> Result<Value, ArmError> {
    let properties =
        json!({ "kind": account.kind, "user": account.user, "changed": show_time(account.changed) });
    let id = call.vault.addition("switchbackAccounts", account.name.as_str());
    resource(id, account.name.as_str(), "switchbackAccounts", properties)
}
