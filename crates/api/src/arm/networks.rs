//! `replicationNetworks`: the networks of a site, under the names it has for them.

use serde::Serialize;
use serde_json::Value;
use switchback_control::Control;
use switchback_model::ObjectName;
use switchback_sites::Network;

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::fabrics;
use super::page::page;
use super::resource::resource;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    fabric_type: &'static str,
    subnets: Vec<Value>,
    friendly_name: String,
    network_type: String,
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = fabrics::find(control, call)?;
    Ok(Answer::Ok(show(call, &site.name, &find(control, &site.name, call.text("network"))?)?))
}

/// A network of a site, its name in any case.
pub(crate) fn find(control: &Control, site: &ObjectName, network: &str) -> Result<Network, ArmError> {
    let networks = control.site(site)?.networks().map_err(switchback_control::ControlError::from)?;
    let exact = networks.iter().find(|known| known.name == network);
    let found =
        exact.or_else(|| networks.iter().find(|known| known.name.eq_ignore_ascii_case(network))).cloned();
    found.ok_or_else(|| ArmError::not_found("network", network))
}

/// Of a fabric, or of all.
pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let sites = fabrics::asked_for(control, call)?;
    let mut networks = Vec::new();
    for site in sites {
        let known = control.site(&site.name)?.networks().map_err(switchback_control::ControlError::from)?;
        networks.extend(
            known.into_iter().map(|network| {
                (format!("{}/{}", site.name.key(), network.name), (site.name.clone(), network))
            }),
        );
    }
    Answer::of(&page(call, networks, |(site, network)| show(call, &site, &network))?)
}

fn show(call: &Call, site: &ObjectName, network: &Network) -> Result<Value, ArmError> {
    let properties = Properties {
        fabric_type: "VMware",
        subnets: Vec::new(),
        friendly_name: network.name.clone(),
        network_type: network.description.clone(),
    };
    resource(
        call.vault.network(site, &network.name),
        &network.name,
        "replicationFabrics/replicationNetworks",
        properties,
    )
}
