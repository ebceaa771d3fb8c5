//! Sign-ins: whose tokens are taken beside ours, and where people can sign in by clicking. The portal's secret there goes in and never comes out.

use std::sync::Arc;

use axum::Router;
use serde_json::{Value, json};
use switchback_control::{Control, PortalClient, RoleMapping, SignIn};
use switchback_model::{AccessRole, JobError};

use super::{HERE, is_new, new_name, or_nothing};
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::Tab;
use crate::pages::ask::{Answer, Field, Form};
use crate::pages::widgets::{Tone, notice};
use crate::visit::{Visit, form};

const TYPE: &str = "switchbackSignIn";
const BACK: &str = "/portal/settings#sign-ins";

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/settings/sign-ins/new", form(ask_new, make))
        .route("/settings/sign-ins/{sign_in}/edit", form(ask, change))
        .route("/settings/sign-ins/{sign_in}/test", form(ask_test, test))
        .route("/settings/sign-ins/{sign_in}/delete", form(confirm_delete, delete))
}

fn found(control: &Control, visit: &Visit) -> Result<SignIn, Failure> {
    let name = visit.name("sign_in")?;
    let found = control.sign_ins()?.into_iter().find(|sign_in| sign_in.name == name);
    found.ok_or_else(|| Failure::not_found("sign-in", name.as_str()))
}

fn ask_new(_: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "making an issuer known")?;
    let name = Field::line("name", "Name")
        .hint("The audit log and jobs say NAME/WHO, and the button of the sign-in page NAME.");
    let form = Form::new(visit.frame(Tab::Settings, "New sign-in"), "Take its tokens", BACK).field(name);
    fields(form, visit, None).show()
}

fn make(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let name = new_name(visit)?;
    is_new("sign-in", control.sign_ins()?.iter().map(|sign_in| &sign_in.name), &name)?;
    Ok(Act::put(visit.vault.addition(TYPE, name.as_str()), properties(visit), Then::To(BACK.into())))
}

fn ask(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "changing a sign-in")?;
    let before = found(control, visit)?;
    let form = Form::new(visit.frame(Tab::Settings, format!("Sign-in {}", before.name)), "Keep it", BACK);
    fields(form, visit, Some(&before)).show()
}

fn change(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let name = found(control, visit)?.name;
    Ok(Act::put(visit.vault.addition(TYPE, name.as_str()), properties(visit), Then::To(BACK.into())))
}

fn fields(form: Form, visit: &Visit, before: Option<&SignIn>) -> Form {
    let lines = |of: fn(&SignIn) -> &Vec<String>| before.map(|one| of(one).join("\n")).unwrap_or_default();
    let role = |mapping: &RoleMapping| format!("{:?}={}", mapping.role, mapping.value);
    let roles = before.map(|one| one.roles.iter().map(role).collect::<Vec<_>>().join("\n"));
    let portal = before.and_then(|one| one.portal.as_ref());
    let form = form
        .field(
            Field::line("issuer", "Issuer")
                .value(before.map_or("", |one| &one.issuer))
                .hint("As `iss` in its tokens has it, to the letter: https://login.microsoftonline.com/TENANT/v2.0 for Entra ID."),
        )
        .field(
            Field::text("audiences", "Audiences")
                .value(lines(|one| &one.audiences))
                .hint("Whom tokens must be for (`aud`), one in a line."),
        )
        .field(
            Field::line("claim", "Claim with the roles")
                .value(before.map_or("roles", |one| &one.claim))
                .hint("A claim's name, or a JSON pointer such as /realm_access/roles."),
        )
        .field(
            Field::text("roles", "Roles")
                .value(roles.unwrap_or_default())
                .hint("One in a line: Reader=VALUE, Operator=VALUE or Contributor=VALUE; the highest counts."),
        )
        .field(Field::authority(before.and_then(|one| one.authority.as_ref())))
        .field(
            Field::line("client-id", "The portal's client id there")
                .value(portal.map_or("", |portal| &portal.client_id))
                .optional()
                .hint("With one, people sign in there by clicking. Empty: with a pasted token alone."),
        )
        .field(
            Field::line("scopes", "Scopes beside openid")
                .value(portal.map(|portal| portal.scopes.join(" ")).unwrap_or_default())
                .optional()
                .hint("Between spaces; such as api://switchback/user_impersonation, so that the access token is for the audience."),
        );
    let has_secret = portal.is_some_and(PortalClient::has_secret);
    let hint = if has_secret {
        "There is one. Empty: it stays."
    } else {
        "Empty: a public client, which PKCE alone proves."
    };
    let form = form.field(Field::secret("secret", "The client's secret").optional().hint(hint));
    let form = if has_secret {
        form.field(Field::check("no-secret", "Forget the secret that is there", false))
    } else {
        form
    };
    let name = before.map_or("NAME", |one| one.name.as_str());
    form.note(format!("Redirect address, to be registered at the issuer: https://{}/portal/sign-in/{name}/answer, or below --public-url.", visit.host.trim_end_matches(":443")))
}

fn properties(visit: &Visit) -> Value {
    let role = |line: &str| {
        let (role, value) = line.trim().split_once('=').unwrap_or((line.trim(), ""));
        json!({ "role": role, "value": value })
    };
    let roles = visit.field("roles").lines().filter(|line| !line.trim().is_empty()).map(role);
    let words = |name: &str| visit.field(name).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut properties = json!({
        "issuer": visit.field("issuer"), "audiences": words("audiences"), "claim": visit.field("claim"),
        "roles": roles.collect::<Vec<_>>(), "authority": or_nothing(visit.field("authority")),
    });
    if !visit.field("client-id").is_empty() {
        let secret =
            if visit.field("no-secret") == "yes" { json!("") } else { or_nothing(visit.field("secret")) };
        properties["portal"] =
            json!({ "clientId": visit.field("client-id"), "scopes": words("scopes"), "secret": secret });
    }
    properties
}

fn ask_test(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "trying a sign-in")?;
    let name = found(control, visit)?.name;
    Form::new(visit.frame(Tab::Settings, format!("Try {name}")), "Try it", BACK)
        .note("Its issuer is asked for its keys now, from where the configuration server is.")
        .field(
            Field::secret("token", "A token of it")
                .optional()
                .hint("Whose it is and which role it has is told; it is kept nowhere."),
        )
        .show()
}

fn test(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = format!("{}/test", visit.vault.addition(TYPE, found(control, visit)?.name.as_str()));
    Ok(Act::post(path, json!({ "token": or_nothing(visit.field("token")) }), Then::Page(tested)))
}

fn tested(visit: &Visit, answer: &Value) -> Result<String, Failure> {
    let properties = &answer["properties"];
    let told = [
        ("Keys of the issuer", "keys"),
        ("The token is of", "name"),
        ("Its role here", "role"),
        ("Why it has none", "withoutRole"),
    ];
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let told = told.into_iter().filter(|(_, key)| !properties[*key].is_null());
    let problem = serde_json::from_value::<JobError>(properties["problem"].clone()).ok();
    let page = Answer {
        frame: visit.frame(Tab::Settings, if problem.is_none() { "It answers" } else { "It is not well" }),
        notices: problem.into_iter().map(|problem| notice(Tone::Bad, problem)).collect(),
        told: told.map(|(what, key)| (what, text(&properties[key]))).collect(),
        back: HERE,
    };
    Ok(askama::Template::render(&page)?)
}

fn confirm_delete(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "removing a sign-in")?;
    super::removal(
        visit,
        &found(control, visit)?.name,
        BACK,
        "Its tokens are refused from now on, and whoever has signed in with one is shut out at once.",
    )
}

fn delete(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = visit.vault.addition(TYPE, visit.name("sign_in")?.as_str());
    Ok(Act::delete(path, Then::To(BACK.into())))
}
