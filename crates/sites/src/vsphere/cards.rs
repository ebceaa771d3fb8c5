//! Network cards made and connected.

use super::inventory::{NetworkCard, NetworkInfo, encoded_name};
use super::soap::{Node, Xml};
use super::view::networks_of;
use super::{VsphereSite, failed};
use crate::{Nic, SiteError};

impl VsphereSite {
    pub(super) fn connect_cards(&self, id: &str, names: &[Option<String>]) -> Result<(), SiteError> {
        let action = format!("connecting the network cards of {id}");
        let machine = self.find(id)?;
        if names.len() != machine.cards.len() {
            let has = machine.cards.len();
            let detail = format!("it has {has} network cards, networks were named for {}", names.len());
            return Err(SiteError::failed(action, detail));
        }
        let inventory = self.inventory()?;
        let host = inventory.hosts.iter().find(|host| Some(&host.object) == machine.host.as_ref());
        let networks: Vec<_> = networks_of(&inventory, host).collect();
        let mut changes = Xml::new();
        for (card, name) in machine.cards.iter().zip(names) {
            let network = name.as_deref().map(|name| named(&networks, name)).transpose()?;
            changes = changes.group("deviceChange", edited(card, network));
        }
        if names.is_empty() {
            return Ok(());
        }
        let spec = Xml::new().group("spec", changes);
        self.session.task(&machine.object, "ReconfigVM_Task", spec).map(drop).map_err(failed(&action))?;
        // Servers ignore what they do not understand, and say it is done.
        let now = self.one_machine(id)?.nics;
        let is_done = now.iter().map(|nic| &nic.network).eq(names);
        is_done
            .then_some(())
            .ok_or_else(|| SiteError::failed(action, "the server says it is done, and it is not"))
    }
}

/// The network of a name.
pub(super) fn named<'a>(networks: &[&'a NetworkInfo], name: &str) -> Result<&'a NetworkInfo, SiteError> {
    let known = || networks.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = networks.iter().copied().find(|one| one.name == name);
    found.ok_or_else(|| SiteError::NoSuchNetwork { name: name.to_owned(), known: known() })
}

/// A card that is made with its machine.
pub(super) fn new(key: i32, nic: &Nic, network: &NetworkInfo) -> Xml {
    let mac = nic.mac.to_ascii_lowercase();
    let device = Xml::new()
        .text("key", key)
        .with(backing(network))
        .group("connectable", connectable(nic.network.is_some()))
        .maybe("addressType", address_kind(&mac))
        .maybe("macAddress", Some(&mac).filter(|mac| !mac.is_empty()));
    Xml::new().text("operation", "add").typed("device", "VirtualVmxnet3", device)
}

/// A card as it is, but for what it is connected to.
fn edited(card: &NetworkCard, network: Option<&NetworkInfo>) -> Xml {
    let told = |tag| card.device.text_at(tag);
    let mut device = Xml::new().text("key", card.key);
    if let Some(info) = card.device.at("deviceInfo") {
        let info = Xml::new().text("label", info.owned_at("label")).text("summary", info.owned_at("summary"));
        device = device.group("deviceInfo", info);
    }
    device = match (network, card.device.at("backing")) {
        (Some(network), _) => device.with(backing(network)),
        (None, Some(backing)) => device.typed_by("backing", &backing.xsi_type, copied(backing)),
        (None, None) => device,
    };
    let device = device
        .group("connectable", connectable(network.is_some()))
        .maybe("controllerKey", told("controllerKey"))
        .maybe("unitNumber", told("unitNumber"))
        .maybe("addressType", told("addressType"))
        .maybe("macAddress", told("macAddress"));
    Xml::new().text("operation", "edit").typed_by("device", &card.device.xsi_type, device)
}

/// What a card is connected to, as the server told it.
fn copied(backing: &Node) -> Xml {
    if let Some(port) = backing.at("port") {
        let port = Xml::new()
            .text("switchUuid", port.owned_at("switchUuid"))
            .maybe("portgroupKey", port.text_at("portgroupKey"));
        return Xml::new().group("port", port);
    }
    Xml::new().text("deviceName", backing.owned_at("deviceName"))
}

fn backing(network: &NetworkInfo) -> Xml {
    match &network.distributed {
        Some((key, switch)) => {
            let port = Xml::new().text("switchUuid", switch).text("portgroupKey", key);
            let backing = Xml::new().group("port", port);
            Xml::new().typed("backing", "VirtualEthernetCardDistributedVirtualPortBackingInfo", backing)
        }
        None => {
            let backing = Xml::new().text("deviceName", encoded_name(&network.name));
            Xml::new().typed("backing", "VirtualEthernetCardNetworkBackingInfo", backing)
        }
    }
}

/// `connected` counts for a machine that runs, `startConnected` for one that starts.
fn connectable(is_connected: bool) -> Xml {
    Xml::new()
        .text("startConnected", is_connected)
        .text("allowGuestControl", true)
        .text("connected", is_connected)
}

/// Who is said to have given out an address. vSphere refuses one from its own ranges as given by hand: 00:0c:29 is an ESXi host's,
/// 00:50:56 from 40 on a vCenter's (*vSphere Networking*, "MAC Address Assignment").
fn address_kind(mac: &str) -> Option<&'static str> {
    let fourth = mac.strip_prefix("00:50:56:").and_then(|rest| u8::from_str_radix(rest.get(..2)?, 16).ok());
    match fourth {
        _ if mac.is_empty() => None,
        _ if mac.starts_with("00:0c:29:") => Some("generated"),
        Some(0x40..) => Some("assigned"),
        _ => Some("manual"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_what_it_was() {
        for (mac, kind) in [
            ("", None),
            ("00:0c:29:01:02:03", Some("generated")),
            ("00:50:56:3f:00:01", Some("manual")),
            ("00:50:56:80:00:01", Some("assigned")),
            ("52:54:00:00:00:01", Some("manual")),
        ] {
            assert_eq!(address_kind(mac), kind, "{mac}");
        }
    }
}
