//! Network mappings: which network of the other site a machine's card is connected to, and which at test failovers.
//!
//! A network's name may have anything in it, so a mapping is named by the address's query.

use std::sync::Arc;

use axum::Router;
use serde_json::json;
use switchback_api::encode;
use switchback_control::Control;
use switchback_model::{AccessRole, NetworkMapping};
use url::form_urlencoded::Serializer;

use super::HERE;
use crate::Portal;
use crate::action::{Act, Then};
use crate::failure::Failure;
use crate::layout::Tab;
use crate::pages::ask::{Field, Form};
use crate::visit::{Visit, form};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new()
        .route("/settings/mappings/new", form(ask_new, make))
        .route("/settings/mappings/edit", form(ask, change))
        .route("/settings/mappings/delete", form(confirm_delete, delete))
}

/// The part of an address that names a mapping.
pub(super) fn query(mapping: &NetworkMapping) -> String {
    let mut query = Serializer::new(String::new());
    query.append_pair("site", mapping.site.as_str()).append_pair("network", &mapping.network);
    query.append_pair("target", mapping.target_site.as_str()).finish()
}

fn path(visit: &Visit, [site, network, target]: [&str; 3]) -> String {
    let site = visit.vault.addition("switchbackSites", site);
    format!("{site}/networks/{}/mappings/{}", encode(network), encode(target))
}

fn found(control: &Control, visit: &Visit) -> Result<NetworkMapping, Failure> {
    let [site, network, target] = ["site", "network", "target"].map(|name| visit.query(name));
    let is_it = |mapping: &NetworkMapping| {
        mapping.site.as_str() == site && mapping.network == network && mapping.target_site.as_str() == target
    };
    let found = control.network_mappings()?.into_iter().find(is_it);
    found.ok_or_else(|| Failure::not_found("network mapping", network))
}

fn target_fields(form: Form, before: Option<&NetworkMapping>) -> Form {
    form.field(
        Field::line("target-network", "Corresponds to the network")
            .value(before.map_or("", |mapping| &mapping.target_network)),
    )
    .field(
        Field::line("test-network", "At test failovers")
            .value(before.and_then(|mapping| mapping.test_network.as_deref()).unwrap_or_default())
            .optional()
            .hint("Empty: not connected."),
    )
}

fn ask_new(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "mapping a network")?;
    let sites: Vec<_> = control.sites()?.into_iter().map(|site| site.name.to_string()).collect();
    let sites =
        |name, label| Field::choice(name, label, sites.iter().map(|site| (site.clone(), site.clone())));
    let form = Form::new(visit.frame(Tab::Settings, "New network mapping"), "Map it", HERE)
        .note("The networks that a site has stand on its page.")
        .field(sites("site", "At the site"))
        .field(Field::line("network", "The network"))
        .field(sites("target", "At the other site"));
    target_fields(form, None).show()
}

fn put(visit: &Visit, names: [&str; 3]) -> Act {
    let properties = json!({
        "targetNetwork": visit.field("target-network"), "testNetwork": visit.field("test-network"),
    });
    Act::put(path(visit, names), properties, Then::To(HERE.into()))
}

/// One that is there is changed, as at the command line.
fn make(_: &Control, visit: &Visit) -> Result<Act, Failure> {
    let names = ["site", "network", "target"].map(|name| visit.field(name));
    if names.contains(&"") {
        return Err(Failure::invalid("which network, of which site, towards which?"));
    }
    Ok(put(visit, names))
}

fn ask(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "mapping a network")?;
    let mapping = found(control, visit)?;
    let form = Form::new(visit.frame(Tab::Settings, "Network mapping"), "Keep it", HERE)
        .told("Network", format!("{} at {}", mapping.network, mapping.site))
        .told("Towards", mapping.target_site.to_string());
    target_fields(form, Some(&mapping)).show()
}

fn change(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let mapping = found(control, visit)?;
    Ok(put(visit, [mapping.site.as_str(), &mapping.network, mapping.target_site.as_str()]))
}

fn confirm_delete(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "removing a network mapping")?;
    let mapping = found(control, visit)?;
    Form::new(visit.frame(Tab::Settings, "Remove a network mapping"), "Remove it", HERE)
        .told("Network", format!("{} at {}", mapping.network, mapping.site))
        .told("Corresponds to", format!("{} at {}", mapping.target_network, mapping.target_site))
        .note("Cards in that network are not connected after the next failover, unless a machine says otherwise.")
        .grave()
        .show()
}

fn delete(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    let mapping = found(control, visit)?;
    let names = [mapping.site.as_str(), &mapping.network, mapping.target_site.as_str()];
    Ok(Act::delete(path(visit, names), Then::To(HERE.into())))
}

#[cfg(test)]
mod tests {
    use switchback_model::NetworkMapping;

    use super::query;
    use crate::gate::pairs;

    #[test]
    fn a_mapping_is_found_whatever_its_network_is_called() {
        let network = "VM Network/ä&=<b>".to_owned();
        let mapping = NetworkMapping {
            site: "home".parse().unwrap(),
            network: network.clone(),
            target_site: "away".parse().unwrap(),
            target_network: "lan".into(),
            test_network: None,
        };
        let expected = [("site", "home"), ("network", network.as_str()), ("target", "away")];
        let read = pairs(query(&mapping).as_bytes());
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
