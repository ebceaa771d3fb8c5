//! `replicationRecoveryServicesProviders`: what speaks for a fabric. For all of them that is the configuration server, so each fabric has one, under
//! the fabric's name.

use serde::Serialize;
use serde_json::Value;
use switchback_control::{Control, Health};
use switchback_model::Site;

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::fabrics;
use super::health::{HealthError, health_errors};
use super::page::page;
use super::resource::resource;
use super::time;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    fabric_type: &'static str,
    friendly_name: String,
    provider_version: String,
    server_version: String,
    provider_version_state: &'static str,
    fabric_friendly_name: String,
    last_heart_beat: String,
    connection_status: &'static str,
    protected_item_count: usize,
    allowed_scenarios: [&'static str; 1],
    health_error_details: Vec<HealthError>,
}

/// Also the answer to a refresh: a site is asked whenever something of it is shown.
pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = fabrics::find(control, call)?;
    let name = call.text("provider");
    if !name.eq_ignore_ascii_case(site.name.as_str()) {
        return Err(ArmError::not_found("recovery services provider", name)
            .remedy(format!("the one of the fabric {0} is called {0}", site.name)));
    }
    Ok(Answer::Ok(show(control, call, &site)?))
}

/// Of a fabric, or of all.
pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let sites = fabrics::asked_for(control, call)?;
    let sites = sites.into_iter().map(|site| (site.name.key(), site)).collect();
    Answer::of(&page(call, sites, |site| show(control, call, &site))?)
}

fn show(control: &Control, call: &Call, site: &Site) -> Result<Value, ArmError> {
    let reasons: Vec<_> = fabrics::look_at(control, &site.name).1.into_iter().collect();
    let items = control.protected()?;
    let properties = Properties {
        fabric_type: "VMware",
        friendly_name: site.name.to_string(),
        provider_version: call.server.build.clone(),
        server_version: call.server.build.clone(),
        provider_version_state: "Latest",
        fabric_friendly_name: site.name.to_string(),
        last_heart_beat: time::show(call.now),
        connection_status: if reasons.is_empty() { "Connected" } else { "Disconnected" },
        protected_item_count: items.iter().filter(|item| item.home.site == site.name).count(),
        allowed_scenarios: ["Refresh"],
        health_error_details: health_errors(&reasons, Health::Critical),
    };
    let kinds = "replicationFabrics/replicationRecoveryServicesProviders";
    resource(call.vault.provider(&site.name), site.name.as_str(), kinds, properties)
}
