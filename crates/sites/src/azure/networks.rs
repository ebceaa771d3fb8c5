//! Networks: subnets of virtual networks, named `VNET/SUBNET`.

use std::net::Ipv4Addr;

use serde::Deserialize;

use super::AzureSite;
use super::arm::version;
use super::error::{AzureError, failed};
use super::resources::{Subnet, VirtualNetwork};
use crate::{Network, SiteError};

/// Subnets that are Azure's own devices'.
const RESERVED: [&str; 4] =
    ["GatewaySubnet", "AzureBastionSubnet", "AzureFirewallSubnet", "RouteServerSubnet"];
/// Azure keeps the first four addresses of a subnet and the last one for itself.
const RESERVED_ADDRESSES: u64 = 5;

/// Whether an address of a network can be given to a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressAvailability {
    /// It can.
    pub is_free: bool,
    /// Some that can be instead.
    pub others: Vec<Ipv4Addr>,
}

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
struct Checked {
    available: bool,
    #[serde(rename = "availableIPAddresses")]
    addresses: Vec<Ipv4Addr>,
}

/// A subnet that machines can be in, with its name here.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) network: String,
    pub(super) subnet: Subnet,
}

impl Place {
    /// How many addresses are free; `None`: its prefix is none of version 4.
    pub(super) fn free(&self) -> Option<u64> {
        let bits: u32 = self.subnet.prefix().split_once('/')?.1.parse().ok()?;
        let all = 1_u64 << 32_u32.checked_sub(bits)?;
        let used = u64::try_from(self.subnet.properties.ip_configurations.len()).unwrap_or(u64::MAX);
        Some(all.saturating_sub(RESERVED_ADDRESSES).saturating_sub(used))
    }
}

impl AzureSite {
    /// The subnets that machines can be in.
    pub(super) fn places(&self) -> Result<Vec<Place>, AzureError> {
        let networks: Vec<VirtualNetwork> = if self.settings.networks.is_empty() {
            self.arm.list(&self.arm.id("Microsoft.Network/virtualNetworks"), version::NETWORK, "")?
        } else {
            let mut found = Vec::new();
            for id in &self.settings.networks {
                match self.arm.get(id, version::NETWORK, "")? {
                    Some(network) => found.push(network),
                    None => {
                        tracing::warn!(network = id, "a virtual network of the site's settings is not there")
                    }
                }
            }
            found
        };
        let here =
            networks.into_iter().filter(|one| one.location.eq_ignore_ascii_case(&self.settings.region));
        let of = |network: VirtualNetwork| {
            let usable = network.properties.subnets.into_iter().filter(|subnet| {
                subnet.properties.delegations.is_empty() && !RESERVED.contains(&subnet.name.as_str())
            });
            let named = usable.map(|subnet| Place {
                name: format!("{}/{}", network.name, subnet.name),
                network: network.id.clone(),
                subnet,
            });
            named.collect::<Vec<_>>()
        };
        Ok(here.flat_map(of).collect())
    }

    pub(super) fn all_networks(&self) -> Result<Vec<Network>, SiteError> {
        let places = self.places().map_err(failed("listing the networks"))?;
        let view = |place: Place| {
            let description = format!("subnet {}", place.subnet.prefix());
            Network { name: place.name, description }
        };
        Ok(places.into_iter().map(view).collect())
    }

    /// Whether an address of a network, `VNET/SUBNET`, is free, and which ones are.
    ///
    /// # Errors
    /// [`SiteError::NoSuchNetwork`]; [`SiteError::Failed`]: Azure cannot be asked, or the address is of no subnet there.
    pub fn check_address(&self, network: &str, address: Ipv4Addr) -> Result<AddressAvailability, SiteError> {
        let action = format!("looking whether {address} is free in {network}");
        let places = self.places().map_err(failed(&action))?;
        let place = named(&places, network)?;
        let id = format!("{}/CheckIPAddressAvailability", place.network);
        let more = format!("ipAddress={address}");
        let checked: Option<Checked> = self.arm.get(&id, version::NETWORK, &more).map_err(failed(action))?;
        let checked = checked.unwrap_or_default();
        Ok(AddressAvailability { is_free: checked.available, others: checked.addresses })
    }
}

/// A place by its name.
pub(super) fn named<'a>(places: &'a [Place], name: &str) -> Result<&'a Place, SiteError> {
    let known = || places.iter().map(|place| place.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = places.iter().find(|place| place.name == name);
    found.ok_or_else(|| SiteError::NoSuchNetwork { name: name.to_owned(), known: known() })
}
