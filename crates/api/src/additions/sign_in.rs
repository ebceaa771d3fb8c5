//! `switchbackSignIn`: whose tokens are taken beside our own, and what they are worth. One resource for each issuer; the portal's secret
//! there goes in and never comes out. It can be tried out.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use switchback_control::{Control, ErrorKind, PortalClient, RoleMapping, SignIn, https};
use tokio::runtime::Handle;
use zeroize::Zeroizing;

use crate::arm::{Answer, ArmError, Call, page, resource};
use crate::auth::Standing;
use crate::openapi::operation::{Operation, delete as remove, get as show_one, get_page, post, put as make};
use crate::openapi::schema::{
    choice, count, flag, list as list_of, object, or_null, problem, resource as schema, text,
};
use crate::sign_in::try_out;

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    portal: Option<PortalProperties>,
}

/// As what the portal sends people to the issuer. No `Debug`: it may hold a secret.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PortalProperties {
    client_id: String,
    #[serde(default)]
    scopes: Vec<String>,
    /// Goes in, and never comes out.
    #[serde(default, skip_serializing)]
    secret: Option<String>,
    /// Shown alone: a resource may be sent back as it was shown.
    #[serde(default)]
    has_secret: bool,
}

fn default_claim() -> String {
    CLAIM.into()
}

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let role = choice(&["Reader", "Operator", "Contributor"]);
    let mapping = object([("role", role), ("value", text())]);
    let portal_shown = object([("clientId", text()), ("scopes", list_of(text())), ("hasSecret", flag())]);
    let portal_taken = object([
        ("clientId", text()),
        ("scopes?", list_of(text())),
        ("secret?", or_null(text())),
        ("hasSecret?", flag()),
    ]);
    let properties = |claim, portal| {
        object([
            ("issuer", text()),
            ("audiences", list_of(text())),
            (claim, text()),
            ("roles", list_of(mapping.clone())),
            ("authority?", text()),
            ("portal?", portal),
        ])
    };
    let shown = || schema("SwitchbackSignIn", properties("claim", portal_shown.clone()));
    let one = "switchbackSignIn/{sign_in}";
    let tested = object([
        ("keys", or_null(count())),
        ("problem", or_null(problem())),
        ("name", or_null(text())),
        ("role", or_null(choice(&["Reader", "Operator", "Contributor"]))),
        ("withoutRole", or_null(text())),
    ]);
    let tested = schema("SwitchbackSignInTest", tested);
    vec![
        get_page(TYPE, list, "Whose tokens are taken beside our own.", shown()),
        show_one(one, get, "An issuer of tokens, and what they are worth.", shown()),
        make(one, put, "Makes an issuer known, or changes what its tokens are worth.", shown())
            .takes(properties("claim?", portal_taken)),
        remove(one, delete, "Takes an issuer's tokens no more."),
        post(
            "switchbackSignIn/{sign_in}/test",
            test,
            "Asks the issuer for its keys now, and judges a token by them.",
            tested,
        )
        .takes(object([("token?", text())])),
    ]
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let all = control.sign_ins()?.into_iter().map(|sign_in| (sign_in.name.key(), sign_in)).collect();
    Answer::of(&page(call, all, |sign_in| show(call, sign_in))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(call, find(control, call)?)?))
}

fn find(control: &Control, call: &Call) -> Result<SignIn, ArmError> {
    let name = call.name("sign_in")?;
    let found = control.sign_ins()?.into_iter().find(|sign_in| sign_in.name == name);
    found.ok_or_else(|| ArmError::not_found("sign-in", name.as_str()))
}

/// Makes or replaces one. The issuer is not asked: it may be down today, and its first token tells.
pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let Properties { issuer, audiences, claim, roles, authority, portal } = call.json::<Put>()?.properties;
    if authority.is_some() {
        https::roots(authority.as_deref()).map_err(ArmError::invalid)?;
    }
    let (portal, secret) =
        portal.map_or((None, None), |PortalProperties { client_id, scopes, secret, .. }| {
            (Some(PortalClient::new(client_id, scopes)), secret.map(Zeroizing::new))
        });
    let sign_in = SignIn { name: call.name("sign_in")?, issuer, audiences, claim, roles, authority, portal };
    Ok(Answer::Ok(show(call, control.set_sign_in(sign_in, secret.as_ref())?)?))
}

pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    match control.delete_sign_in(&call.name("sign_in")?) {
        Err(error) if error.kind != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(Answer::NoContent),
    }
}

#[derive(Default, Deserialize)]
struct Test {
    #[serde(default)]
    properties: TestProperties,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestProperties {
    /// A secret: it goes nowhere but to the judgement.
    token: Option<String>,
}

/// What is found wrong is what is asked for, and no refusal of the request.
pub(crate) fn test(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let TestProperties { token } = call.json_if_any::<Test>()?.properties;
    let sign_in = find(control, call)?;
    // Handlers run on threads that may block; an issuer has a limited time to answer.
    let tried = Handle::current().block_on(try_out(&sign_in, token.as_deref(), call.now));
    let (keys, caller, problem) = match tried {
        Ok((keys, None)) => (Some(keys), None, None),
        Ok((keys, Some(Ok(caller)))) => (Some(keys), Some(caller), None),
        Ok((keys, Some(Err(refusal)))) => (Some(keys), None, Some(refusal.error)),
        Err(refusal) => (None, None, Some(refusal.error)),
    };
    let (role, without_role) = match caller.as_ref().map(|caller| &caller.standing) {
        Some(Standing::Role(role)) => (Some(*role), None),
        Some(Standing::NoRole(looked_at)) => (None, Some(looked_at)),
        None => (None, None),
    };
    let name = caller.as_ref().map(|caller| &caller.name);
    let properties =
        json!({ "keys": keys, "problem": problem, "name": name, "role": role, "withoutRole": without_role });
    let id = format!("{}/test", call.vault.addition(TYPE, sign_in.name.as_str()));
    Ok(Answer::Ok(resource(id, "test", "switchbackSignIn/test", properties)?))
}

fn show(call: &Call, sign_in: SignIn) -> Result<Value, ArmError> {
    let SignIn { name, issuer, audiences, claim, roles, authority, portal } = sign_in;
    let portal = portal.map(|portal| PortalProperties {
        has_secret: portal.has_secret(),
        client_id: portal.client_id,
        scopes: portal.scopes,
        secret: None,
    });
    let properties = json!(Properties { issuer, audiences, claim, roles, authority, portal });
    resource(call.vault.addition(TYPE, name.as_str()), name.as_str(), TYPE, properties)
}
