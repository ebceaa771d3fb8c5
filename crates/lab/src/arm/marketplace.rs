//! Virtual machines made of a marketplace image that really run: [`MarketplaceImage`] on their managed disk, and beside it
//! a provisioning disk, which only the guest reads.
//!
//! The path of one: `PUT virtualMachines/NAME` has the image written to the new managed disk, in its operation; each start writes the provisioning disk (the
//! `vmId`, the computer's name, the cards' addresses, custom data) into the machine's directory, which goes with the virtual machine.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::answer::ArmError;
use super::world::{State, World};
use super::{images, network};
use crate::machine::{MarketplaceImage, Provisioning};

const DISK: &str = "provisioning.raw";

/// What machines that are made of a marketplace image run with, whichever image that is.
#[derive(Debug, Clone)]
pub struct Marketplace {
    /// The system.
    pub image: MarketplaceImage,
    /// The network of the local site by which they reach what is outside, beside their own card's: Azure's default outbound access, or a NAT gateway. Azure
    /// shows no card for it, the guest sees one more.
    pub outbound: Option<String>,
}

fn failed(error: impl ToString) -> ArmError {
    ArmError::new(409, "OSProvisioningInternalError", error.to_string())
}

impl World {
    /// Writes the image to the managed disk of a virtual machine that is being made of one.
    pub(super) fn write_image(&self, id: &str) -> Result<(), ArmError> {
        let Some(marketplace) = &self.options.marketplace else { return Ok(()) };
        let file = {
            let state = self.state();
            let machine = state.get(id).filter(|machine| images::is_wanted(&machine.json));
            let disk = machine.map(|one| one.text("/properties/storageProfile/osDisk/managedDisk/id"));
            let Some(disk) = disk.and_then(|disk| state.get(disk)) else { return Ok(()) };
            self.disk_file(&disk.name())
        };
        marketplace.image.write_to(&file).map_err(failed)
    }

    /// Adds what such a machine runs with to its description, and writes its provisioning disk. Other machines stay as they are.
    pub(super) fn provision(
        &self,
        id: &str,
        description: &mut Value,
        directory: &Path,
    ) -> Result<(), ArmError> {
        let Some(marketplace) = &self.options.marketplace else { return Ok(()) };
        let Some(told) = told(&self.state(), id) else { return Ok(()) };
        let path = directory.join(DISK);
        // It has the custom data, and that may have a secret in it.
        let mut options = fs::File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(&told.disk()?)).map_err(failed)?;
        let disk = json!({ "path": path, "serial": Provisioning::SERIAL });
        let outbound = marketplace.outbound.as_ref().map(|network| json!({ "network": network }));
        let boot = serde_json::to_value(marketplace.image.boot()).map_err(failed)?;
        description["boot"] = boot;
        for (list, more) in [("disks", Some(disk)), ("nics", outbound)] {
            if let Some(list) = description[list].as_array_mut() {
                list.extend(more);
            }
        }
        Ok(())
    }
}

/// What a machine is told; `None`: it is not made of an image.
fn told(state: &State, id: &str) -> Option<Provisioning> {
    let machine = state.get(id).filter(|machine| images::is_wanted(&machine.json))?;
    let cards = machine.json["properties"]["networkProfile"]["networkInterfaces"].as_array()?;
    let cards = cards.iter().filter_map(|card| {
        let card = state.get(card["id"].as_str()?)?;
        let mac = card.text("/properties/macAddress").replace('-', ":").to_lowercase();
        Some(format!("{mac} {}", network::address_with_prefix(state, card)?))
    });
    Some(Provisioning {
        instance: machine.text("/properties/vmId").to_lowercase(),
        name: machine.text("/properties/osProfile/computerName").to_owned(),
        cards: cards.collect(),
        custom_data: state.custom_data.get(&id.to_lowercase()).cloned(),
    })
}
