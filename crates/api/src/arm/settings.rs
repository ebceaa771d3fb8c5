//! `replicationAlertSettings` and `replicationVaultSettings`: what the contract lets a vault be told, and what is only one way here.
//!
//! Of alerts the contract knows the recipients of e-mail: they are those of the one destination that sends mail (`switchbackAlertDestinations`), and may be
//! set here once there is one. Else nothing is stored: what is asked for must be what is so, and anything else is refused with what to do instead. A
//! setting that was accepted and did nothing would be believed.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::Control;
use switchback_control::alerts::{AlertDestination, AlertWay, MailWay};

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::page::page;
use super::resource::resource;
use super::state;

const ALERTS: &str = "replicationAlertSettings";
const ALERT: &str = "defaultAlertSetting";
const SETTINGS: &str = "replicationVaultSettings";
const SETTING: &str = "default";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Put {
    properties: PutProperties,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PutProperties {
    send_to_owners: Option<String>,
    custom_email_addresses: Option<Vec<String>>,
    vmware_to_azure_provider_type: Option<String>,
    migration_solution_id: Option<String>,
}

pub(crate) fn list_alerts(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Answer::of(&page(call, vec![(String::new(), ())], |()| show_alert(control, call))?)
}

pub(crate) fn alert(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    check_name(call, ALERT)?;
    Ok(Answer::Ok(show_alert(control, call)?))
}

/// The destination that sends mail, if there is one.
fn mail(control: &Control) -> Result<Option<(AlertDestination, MailWay)>, ArmError> {
    let found = control.alert_destinations()?.into_iter().find_map(|destination| match &destination.way {
        AlertWay::Mail(mail) => Some((destination.clone(), mail.clone())),
        AlertWay::Webhook(_) => None,
    });
    Ok(found)
}

/// Who gets mail. What is not said stays.
pub(crate) fn put_alert(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    check_name(call, ALERT)?;
    let wanted = call.json::<Put>()?.properties;
    let owners = wanted.send_to_owners.as_deref().unwrap_or_default();
    if !["", "false", "DoNotSend"].iter().any(|none| owners.eq_ignore_ascii_case(none)) {
        return Err(ArmError::invalid("mail cannot be sent to owners")
            .cause("the vault has no owners whose addresses are known")
            .remedy("name those who are to get mail in customEmailAddresses"));
    }
    let Some(addresses) = wanted.custom_email_addresses else {
        return Ok(Answer::Ok(show_alert(control, call)?));
    };
    match mail(control)? {
        Some((mut destination, mut mail)) => {
            mail.recipients = addresses;
            destination.way = AlertWay::Mail(mail);
            control.set_alert_destination(destination, None)?;
        }
        None if addresses.is_empty() => {}
        None => {
            return Err(ArmError::invalid("no mail is sent from here")
                .cause("the configuration server has no mail server to give it to")
                .remedy("set one first: `switchback alerts mail`, or PUT switchbackAlertDestinations/mail"));
        }
    }
    Ok(Answer::Ok(show_alert(control, call)?))
}

fn show_alert(control: &Control, call: &Call) -> Result<Value, ArmError> {
    let addresses = mail(control)?.map(|(_, mail)| mail.recipients).unwrap_or_default();
    let properties =
        json!({ "sendToOwners": "DoNotSend", "customEmailAddresses": addresses, "locale": "en-US" });
    resource(format!("{}/{ALERTS}/{ALERT}", call.vault.id()), ALERT, ALERTS, properties)
}

pub(crate) fn list(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    Answer::of(&page(call, vec![(String::new(), ())], |()| show(call))?)
}

pub(crate) fn get(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    check_name(call, SETTING)?;
    Ok(Answer::Ok(show(call)?))
}

pub(crate) fn put(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    check_name(call, SETTING)?;
    let wanted = call.json::<Put>()?.properties;
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    if let Some(provider) = said(wanted.vmware_to_azure_provider_type)
        && !provider.eq_ignore_ascii_case(state::AWAY)
    {
        return Err(ArmError::invalid(format!("machines are not replicated with {provider:?} here"))
            .remedy(format!("vmwareToAzureProviderType is {}", state::AWAY)));
    }
    if let Some(solution) = said(wanted.migration_solution_id) {
        return Err(ArmError::invalid(format!("the migration solution {solution:?} cannot be used"))
            .cause("Azure Migrate has no part in this vault")
            .remedy("leave migrationSolutionId out"));
    }
    Ok(Answer::Ok(show(call)?))
}

fn show(call: &Call) -> Result<Value, ArmError> {
    let properties = json!({ "vmwareToAzureProviderType": state::AWAY });
    resource(format!("{}/{SETTINGS}/{SETTING}", call.vault.id()), SETTING, SETTINGS, properties)
}

fn check_name(call: &Call, only: &str) -> Result<(), ArmError> {
    let name = call.text("setting");
    if name.eq_ignore_ascii_case(only) {
        return Ok(());
    }
    Err(ArmError::not_found("setting", name).remedy(format!("there is one: {only}")))
}
