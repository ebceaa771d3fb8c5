//! `switchbackNetworkMappings`, and `switchbackSites/{site}/networks/{network}/mappings/{target site}`: network mappings with the network of
//! test failovers.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::Control;
use switchback_model::NetworkMapping;

use crate::arm::{Answer, ArmError, Call, encode, page, resource};
use crate::openapi::operation::{Operation, delete as remove, get as show_one, get_page, put as make};
use crate::openapi::schema::{object, open, or_null, resource as schema, text};

#[derive(Deserialize)]
struct Put {
    properties: PutProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutProperties {
    target_network: String,
    #[serde(default)]
    test_network: Option<String>,
}

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let shown = || {
        let properties = object([
            ("site", text()),
            ("network", text()),
            ("targetSite", text()),
            ("targetNetwork", text()),
            ("testNetwork", or_null(text())),
        ]);
        schema("SwitchbackNetworkMapping", properties)
    };
    let one = "switchbackSites/{site}/networks/{network}/mappings/{target}";
    vec![
        get_page("switchbackNetworkMappings", list, "All network mappings.", shown()),
        show_one(one, get, "The network of a target site that a network is mapped to.", shown()),
        make(one, put, "Maps a network to one of a target site.", shown())
            .takes(open(object([("targetNetwork", text()), ("testNetwork?", or_null(text()))]))),
        remove(one, delete, "Removes a network mapping."),
    ]
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let key = |mapping: &NetworkMapping| {
        format!("{}/{}/{}", mapping.site.key(), mapping.network, mapping.target_site.key())
    };
    let mappings = control.network_mappings()?.into_iter().map(|mapping| (key(&mapping), mapping)).collect();
    Answer::of(&page(call, mappings, |mapping| show(call, &mapping))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let found =
        find(control, call)?.ok_or_else(|| ArmError::not_found("network mapping", call.text("network")))?;
    Ok(Answer::Ok(show(call, &found)?))
}

pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let PutProperties { target_network, test_network } = call.json::<Put>()?.properties;
    let mapping = NetworkMapping {
        site: call.name("site")?,
        network: call.text("network").to_owned(),
        target_site: call.name("target")?,
        target_network,
        test_network: test_network.filter(|network| !network.is_empty()),
    };
    control.put_network_mapping(&mapping)?;
    Ok(Answer::Ok(show(call, &mapping)?))
}

pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    if let Some(found) = find(control, call)? {
        control.delete_network_mapping(&found.site, &found.network, &found.target_site)?;
    }
    Ok(Answer::NoContent)
}

fn find(control: &Control, call: &Call) -> Result<Option<NetworkMapping>, ArmError> {
    let (site, network, target) = (call.name("site")?, call.text("network"), call.name("target")?);
    let is_it = |mapping: &NetworkMapping| {
        mapping.site == site && mapping.network == network && mapping.target_site == target
    };
    Ok(control.network_mappings()?.into_iter().find(is_it))
}

fn show(call: &Call, mapping: &NetworkMapping) -> Result<Value, ArmError> {
    let site = call.vault.addition("switchbackSites", mapping.site.as_str());
    let id = format!("{site}/networks/{}/mappings/{}", encode(&mapping.network), mapping.target_site);
    let properties = json!({
        "site": mapping.site,
        "network": mapping.network,
        "targetSite": mapping.target_site,
        "targetNetwork": mapping.target_network,
        "testNetwork": mapping.test_network,
    });
    resource(id, mapping.target_site.as_str(), "switchbackSites/networks/mappings", properties)
}
