//! Alerts: where they go, by e-mail and as webhooks, and when. A password or a key goes in and never comes out.

use std::sync::Arc;

use axum::Router;
use serde_json::{Value, json};
use switchback_control::Control;
use switchback_control::alerts::{
    AlertDestination, AlertPolicy, AlertWay, MailSecurity, MailWay, WebhookWay,
};
use switchback_model::{AccessRole, ObjectName, Severity};

use super::{HERE, is_new, new_name, number, or_nothing};
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::Tab;
use crate::pages::ask::{Answer, Field, Form};
use crate::pages::widgets::{self, Moment, Notice, Tone, notice};
use crate::visit::{Visit, button, form};

const TYPE: &str = "switchbackAlertDestinations";
const BACK: &str = "/portal/settings#alerts";
const HOUR_S: u64 = 3600;

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/settings/alerts", form(ask_policy, change_policy))
        .route("/settings/alerts/new-mail", form(ask_mail, make_mail))
        .route("/settings/alerts/new-webhook", form(ask_webhook, make_webhook))
        .route("/settings/alerts/{destination}/edit", form(ask, change))
        .route("/settings/alerts/{destination}/test", button(test))
        .route("/settings/alerts/{destination}/delete", form(confirm_delete, delete))
}

/// A destination in a line.
pub(super) struct Row {
    pub(super) name: ObjectName,
    pub(super) way: String,
    pub(super) severity: String,
    pub(super) sent: Option<Moment>,
    pub(super) problem: Option<Notice>,
}

pub(super) fn rows(control: &Control, visit: &Visit) -> Result<Vec<Row>, Failure> {
    let row = |destination: AlertDestination| {
        let state = control.delivery_state(&destination.name)?;
        let way = match &destination.way {
            AlertWay::Mail(mail) => {
                format!("e-mail to {} by {}:{}", mail.recipients.join(", "), mail.host, mail.port)
            }
            AlertWay::Webhook(hook) => format!("webhook {}", hook.url),
        };
        Ok(Row {
            way,
            severity: format!("{:?}", destination.severity_min),
            sent: state.sent.map(|at| widgets::moment(at, visit.now)),
            problem: state.failure.map(|failure| notice(Tone::Warning, failure)),
            name: destination.name,
        })
    };
    control.alert_destinations()?.into_iter().map(row).collect()
}

fn ask_policy(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "changing when alerts are sent")?;
    let AlertPolicy { delay_s, remind_after_s } = control.alert_policy()?;
    Form::new(visit.frame(Tab::Settings, "When alerts are sent"), "Keep it", BACK)
        .field(Field::line("delay", "Seconds that something must last").value(delay_s.to_string()))
        .field(
            Field::line("remind", "Hours after which of what lasts is told again")
                .value((remind_after_s / HOUR_S).to_string())
                .hint("0: never."),
        )
        .show()
}

fn change_policy(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let remind_s = number(visit, "remind")?.checked_mul(HOUR_S);
    let remind_s = remind_s.ok_or_else(|| Failure::invalid("that is too long"))?;
    let properties = json!({ "delayS": number(visit, "delay")?, "remindAfterS": remind_s });
    Ok(Act::put(visit.vault.addition("switchbackAlertPolicy", "default"), properties, Then::To(BACK.into())))
}

fn found(control: &Control, visit: &Visit) -> Result<AlertDestination, Failure> {
    Ok(control.alert_destination(&visit.name("destination")?)?)
}

fn new_form(visit: &Visit, title: &str) -> Result<Form, Failure> {
    visit.needs(AccessRole::Contributor, "sending alerts elsewhere")?;
    let form = Form::new(visit.frame(Tab::Settings, title), "Send alerts there", BACK);
    Ok(form.field(Field::line("name", "Name")))
}

fn ask_mail(_: &Control, visit: &Visit) -> Result<String, Failure> {
    mail_fields(new_form(visit, "Alerts by e-mail")?, None, (Severity::Warning, 60)).show()
}

fn ask_webhook(_: &Control, visit: &Visit) -> Result<String, Failure> {
    webhook_fields(new_form(visit, "Alerts as a webhook")?, None, (Severity::Warning, 60)).show()
}

fn ask(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "changing where alerts go")?;
    let AlertDestination { name, severity_min, interval_s, way } = found(control, visit)?;
    let form = Form::new(visit.frame(Tab::Settings, format!("Alerts to {name}")), "Keep it", BACK);
    let when = (severity_min, interval_s);
    match &way {
        AlertWay::Mail(mail) => mail_fields(form, Some(mail), when).show(),
        AlertWay::Webhook(hook) => webhook_fields(form, Some(hook), when).show(),
    }
}

fn when_fields(form: Form, (severity, interval_s): (Severity, u64)) -> Form {
    let severities = ["Info", "Warning", "Critical"].map(|name| (name, name));
    form.field(Field::choice("severity", "From which severity on", severities).value(format!("{severity:?}")))
        .field(Field::line("interval", "Seconds between two messages at least").value(interval_s.to_string()))
}

fn mail_fields(form: Form, before: Option<&MailWay>, when: (Severity, u64)) -> Form {
    let securities = [
        ("starttls", "STARTTLS (port 587)"),
        ("tls", "TLS from the start (port 465)"),
        ("none", "none: a relay without a login"),
    ];
    let security = match before.map(|mail| mail.security) {
        Some(MailSecurity::Tls) => "tls",
        Some(MailSecurity::None) => "none",
        _ => "starttls",
    };
    let text = |of: fn(&MailWay) -> &str| before.map_or("", of).to_owned();
    let form = form
        .field(Field::line("host", "Mail server").value(text(|mail| &mail.host)))
        .field(Field::line("port", "Port").value(before.map_or(587, |mail| mail.port).to_string()))
        .field(Field::choice("security", "The connection is kept from others by", securities).value(security))
        .field(
            Field::line("user", "User")
                .value(text(|mail| mail.user.as_deref().unwrap_or_default()))
                .optional()
                .hint("Empty: nobody logs in."),
        )
        .field(
            Field::secret("secret", "Password")
                .optional()
                .hint("Empty: the one that is there stays, as long as server and user do."),
        )
        .field(Field::line("from", "From").value(text(|mail| &mail.from)))
        .field(
            Field::text("recipients", "To")
                .value(before.map(|mail| mail.recipients.join("\n")).unwrap_or_default())
                .hint("One address in a line."),
        )
        .field(Field::authority(before.and_then(|mail| mail.authority.as_ref())));
    when_fields(form, when)
}

fn webhook_fields(form: Form, before: Option<&WebhookWay>, when: (Severity, u64)) -> Form {
    let form = form
        .field(Field::line("url", "Address").value(before.map_or("", |hook| &hook.url)).hint("https://…"))
        .field(
            Field::secret("secret", "Key")
                .optional()
                .hint("16 characters at least; the receiver checks the signature by it. Empty: the one that is there stays, as long as the address does."),
        )
        .field(Field::check(
            "plain",
            "Take http, for an address on the configuration server's own host",
            before.is_some_and(|hook| hook.allow_plain_loopback),
        ))
        .field(Field::authority(before.and_then(|hook| hook.authority.as_ref())));
    when_fields(form, when)
}

fn mail(visit: &Visit) -> Result<Value, Failure> {
    let recipients: Vec<_> =
        visit.field("recipients").lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mail = json!({
        "host": visit.field("host"), "port": number(visit, "port")?, "security": visit.field("security"),
        "user": or_nothing(visit.field("user")), "from": visit.field("from"), "recipients": recipients,
        "authority": or_nothing(visit.field("authority")),
    });
    with_when(visit, json!({ "mail": mail }))
}

fn webhook(visit: &Visit) -> Result<Value, Failure> {
    let hook = json!({
        "url": visit.field("url"), "allowPlainLoopback": visit.field("plain") == "yes",
        "authority": or_nothing(visit.field("authority")),
    });
    with_when(visit, json!({ "webhook": hook }))
}

fn with_when(visit: &Visit, mut properties: Value) -> Result<Value, Failure> {
    properties["severityMin"] = visit.field("severity").into();
    properties["intervalS"] = number(visit, "interval")?.into();
    properties["secret"] = or_nothing(visit.field("secret"));
    Ok(properties)
}

fn make_mail(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    make(control, visit, mail(visit)?)
}

fn make_webhook(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    make(control, visit, webhook(visit)?)
}

fn make(control: &Control, visit: &Visit, properties: Value) -> Result<Act, Failure> {
    let name = new_name(visit)?;
    is_new("destination", control.alert_destinations()?.iter().map(|one| &one.name), &name)?;
    Ok(Act::put(visit.vault.addition(TYPE, name.as_str()), properties, Then::To(BACK.into())))
}

fn change(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let before = found(control, visit)?;
    let properties = match before.way {
        AlertWay::Mail(_) => mail(visit)?,
        AlertWay::Webhook(_) => webhook(visit)?,
    };
    Ok(Act::put(visit.vault.addition(TYPE, before.name.as_str()), properties, Then::To(BACK.into())))
}

fn test(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = format!("{}/test", visit.vault.addition(TYPE, visit.name("destination")?.as_str()));
    Ok(Act::post(path, json!({}), Then::Page(tested)))
}

fn tested(visit: &Visit, answer: &Value) -> Result<String, Failure> {
    let name = answer["name"].as_str().unwrap_or_default().to_owned();
    let (frame, told) = (visit.frame(Tab::Settings, "The test got there"), vec![("Sent to", name)]);
    Ok(askama::Template::render(&Answer { frame, notices: Vec::new(), told, back: HERE })?)
}

fn confirm_delete(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "sending no more alerts")?;
    super::removal(
        visit,
        &found(control, visit)?.name,
        BACK,
        "No more alerts go there; what waits is dropped.",
    )
}

fn delete(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let path = visit.vault.addition(TYPE, visit.name("destination")?.as_str());
    Ok(Act::delete(path, Then::To(BACK.into())))
}
