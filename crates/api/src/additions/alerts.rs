//! `switchbackAlertDestinations` and `switchbackAlertPolicy/default`: who is told of what is not well, how, and when. A password or a key goes in, and
//! never comes out.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::alerts::{AlertDestination, AlertPolicy, AlertWay, MailWay, WebhookWay};
use switchback_control::{Control, ErrorKind};
use switchback_model::Severity;
use zeroize::Zeroizing;

use crate::arm::{Answer, ArmError, Call, page, resource, show_time};
use crate::openapi::operation::{Operation, delete as remove, get as show_one, get_page, post, put as make};
use crate::openapi::schema::{
    choice, count, count_within, flag, list as many, object, open, or_null, problem, resource as schema,
    text, time,
};

const TYPE: &str = "switchbackAlertDestinations";
const POLICY: &str = "switchbackAlertPolicy";
/// Seconds between two messages to one destination, if nothing is said.
const INTERVAL_S: u64 = 60;

// No `Debug`: they hold secrets.
#[derive(Deserialize)]
struct Put {
    properties: PutProperties,
}

/// What is shown beside these is not looked at: a resource may be sent back as it was shown.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutProperties {
    #[serde(default = "warning")]
    severity_min: Severity,
    #[serde(default = "interval")]
    interval_s: u64,
    #[serde(default)]
    mail: Option<MailWay>,
    #[serde(default)]
    webhook: Option<WebhookWay>,
    #[serde(default)]
    secret: Option<String>,
}

const fn warning() -> Severity {
    Severity::Warning
}

const fn interval() -> u64 {
    INTERVAL_S
}

#[derive(Deserialize)]
struct PutPolicy {
    properties: AlertPolicy,
}

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let one = "switchbackAlertDestinations/{destination}";
    let policy = || object([("delayS?", count()), ("remindAfterS?", count())]);
    let policy_shown =
        || schema("SwitchbackAlertPolicy", object([("delayS", count()), ("remindAfterS", count())]));
    vec![
        get_page(TYPE, list, "Where alerts go.", shown_schema()),
        show_one(one, get, "Where alerts go, and how that gets on; without its secret.", shown_schema()),
        make(one, put, "Sends alerts there: by e-mail, or as a webhook.", shown_schema()).takes(open(
            object([
                ("severityMin?", severity()),
                ("intervalS?", count_within(0, 86_400)),
                ("mail?", or_null(mail())),
                ("webhook?", or_null(webhook())),
                ("secret?", or_null(text())),
            ]),
        )),
        remove(one, delete, "Sends no more alerts there."),
        post(
            "switchbackAlertDestinations/{destination}/test",
            test,
            "Sends a test there; answered when it got there, or why it did not.",
            shown_schema(),
        ),
        show_one("switchbackAlertPolicy/default", get_policy, "When alerts are sent.", policy_shown()),
        make("switchbackAlertPolicy/default", put_policy, "Sets when alerts are sent.", policy_shown())
            .takes(policy()),
    ]
}

fn severity() -> Value {
    choice(&["Info", "Warning", "Critical"])
}

fn mail() -> Value {
    object([
        ("host", text()),
        ("port", count_within(0, 65_535)),
        ("security", choice(&["starttls", "tls", "none"])),
        ("user?", or_null(text())),
        ("from", text()),
        ("recipients", many(text())),
        ("authority?", or_null(text())),
    ])
}

fn webhook() -> Value {
    object([("url", text()), ("allowPlainLoopback?", flag()), ("authority?", or_null(text()))])
}

fn shown_schema() -> Value {
    schema(
        "SwitchbackAlertDestination",
        object([
            ("severityMin", severity()),
            ("intervalS", count()),
            ("mail?", mail()),
            ("webhook?", webhook()),
            ("sent", or_null(time())),
            ("failures", count()),
            ("failure", or_null(problem())),
        ]),
    )
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let all = control.alert_destinations()?;
    let all = all.into_iter().map(|destination| (destination.name.key(), destination)).collect();
    Answer::of(&page(call, all, |destination| show(control, call, &destination))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(control, call, &control.alert_destination(&call.name("destination")?)?)?))
}

pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("destination")?;
    let PutProperties { severity_min, interval_s, mail, webhook, secret } = call.json::<Put>()?.properties;
    let way = match (mail, webhook) {
        (Some(mail), None) => AlertWay::Mail(mail),
        (None, Some(webhook)) => AlertWay::Webhook(webhook),
        _ => {
            return Err(ArmError::invalid("a destination sends either mail or webhooks")
                .remedy("give one of properties.mail and properties.webhook"));
        }
    };
    let destination = AlertDestination { name, severity_min, interval_s, way };
    control.set_alert_destination(destination.clone(), secret.map(Zeroizing::new).as_ref())?;
    Ok(Answer::Ok(show(control, call, &destination)?))
}

pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    match control.remove_alert_destination(&call.name("destination")?) {
        Ok(()) => Ok(Answer::NoContent),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Answer::NoContent),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn test(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    control.test_alert_destination(&call.name("destination")?)?;
    get(control, call)
}

pub(crate) fn get_policy(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let properties = json!(control.alert_policy()?);
    Ok(Answer::Ok(resource(call.vault.addition(POLICY, "default"), "default", POLICY, properties)?))
}

pub(crate) fn put_policy(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    control.set_alert_policy(call.json::<PutPolicy>()?.properties)?;
    get_policy(control, call)
}

fn show(control: &Control, call: &Call, destination: &AlertDestination) -> Result<Value, ArmError> {
    let state = control.delivery_state(&destination.name)?;
    let mut properties = json!(destination.way);
    properties["severityMin"] = json!(destination.severity_min);
    properties["intervalS"] = destination.interval_s.into();
    properties["sent"] = json!(state.sent.map(show_time));
    properties["failures"] = state.failures.into();
    properties["failure"] = json!(state.failure);
    let name = destination.name.as_str();
    resource(call.vault.addition(TYPE, name), name, TYPE, properties)
}
