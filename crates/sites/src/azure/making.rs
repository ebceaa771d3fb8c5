//! Machines described and removed, their disks lent.

use std::path::PathBuf;

use switchback_model::azure::MachinePlan;

use super::arm::version;
use super::description::{Card, Description, Disk, blob_of};
use super::error::{AzureError, failed};
use super::networks;
use super::resources::{ManagedDisk, NetworkInterface, Vm};
use super::view::{CARDS, DISKS, ID, VMS};
use super::{AzureSite, CAPACITY};
use crate::{Boot, DiskOrigin, NewDisk, NewMachine, SiteError};

/// A page blob has 8 TiB at most, and the footer needs room.
const DISK_SIZE_MAX: u64 = (8 << 40) - (1 << 20);
const SECTOR: u64 = 512;

impl AzureSite {
    pub(super) fn describe(&self, new: &NewMachine) -> Result<(), SiteError> {
        let making = format!("making the machine {}", new.id);
        blob_of(&new.id).map_err(failed(&making))?;
        if let Some(there) = self.look_up(&new.id).map_err(failed(&making))? {
            return is_it(new, &there.is);
        }
        match self.foreign_vm(&new.id) {
            Ok(vm) => return Err(SiteError::Taken { id: new.id.clone(), name: vm.name }),
            Err(SiteError::NoSuchMachine { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut is = Description::new(&new.id, &new.name);
        is.mark.clone_from(&new.mark);
        (is.cpus, is.memory_mib, is.boot) = (new.cpus, new.memory_mib, new.boot.clone());
        if let Boot::Kernel { .. } = is.boot {
            let detail = "Azure hands no kernel to a machine: it boots from its disk [azure-kernel]";
            return Err(SiteError::failed(making, detail));
        }
        is.disks = self.describe_disks(new, &making)?;
        let places = match new.nics.is_empty() {
            true => Vec::new(),
            false => self.places().map_err(failed(&making))?,
        };
        for nic in &new.nics {
            nic.network.as_ref().map(|name| networks::named(&places, name)).transpose()?;
            is.cards.push(Card { network: nic.network.clone() });
        }
        if self.save(&is, None).map_err(failed(&making))?.is_some() {
            return Ok(());
        }
        // Somebody was faster, or the answer to our first attempt was lost.
        is_it(new, &self.described(&new.id, &making)?.is)
    }

    fn describe_disks(&self, new: &NewMachine, making: &str) -> Result<Vec<Disk>, SiteError> {
        let own = self.settings.container_name();
        let mut needed = 0_u64;
        for disk in &new.disks {
            let (DiskOrigin::Empty { datastore } | DiskOrigin::Over { datastore, .. }) = &disk.origin;
            own_datastore(datastore, own)?;
            needed = needed.saturating_add(disk.size);
        }
        if needed > CAPACITY {
            return Err(SiteError::NoRoom { datastore: own.to_owned(), needed, free: CAPACITY });
        }
        let described = |(number, disk)| self.describe_disk(&new.id, number, disk, making);
        let disks = new.disks.iter().enumerate().map(described).collect::<Result<Vec<_>, _>>()?;
        if disks.is_empty() {
            return Err(SiteError::failed(
                making,
                "a machine at Azure needs a disk to boot from [azure-no-disk]",
            ));
        }
        Ok(disks)
    }

    /// A disk that gets this number, which no other disk of the machine has or had.
    pub(super) fn describe_disk(
        &self,
        id: &str,
        number: usize,
        disk: &NewDisk,
        making: &str,
    ) -> Result<Disk, SiteError> {
        let size = disk.size;
        if size == 0 || !size.is_multiple_of(SECTOR) || size > DISK_SIZE_MAX {
            let detail = format!(
                "disk {number} has {size} bytes; possible are multiples of {SECTOR} up to {DISK_SIZE_MAX} [azure-disk-size]"
            );
            return Err(SiteError::failed(making, detail));
        }
        let (blob, source) = match &disk.origin {
            DiskOrigin::Empty { .. } => {
                (self.container.place(&format!("replicas/{id}/disk-{number}.vhd")), None)
            }
            DiskOrigin::Over { image, .. } => (image.clone(), Some(image.clone())),
        };
        let serial = match disk.serial.as_str() {
            "" => format!("{id}-{number}"),
            serial => serial.to_owned(),
        };
        Ok(Disk { size, serial, blob, source })
    }

    pub(super) fn plan(&self, id: &str, plan: &MachinePlan) -> Result<(), SiteError> {
        let planning = format!("planning the machine {id}");
        self.change(id, &planning, |is| {
            if plan.zone.is_some() && plan.availability_set.is_some() {
                return Err(SiteError::failed(
                    &planning,
                    "a zone and an availability set exclude each other [azure-zone]",
                ));
            }
            if plan.addresses.len() > is.cards.len() {
                let detail = format!(
                    "it has {} network cards, addresses were named for {} [azure-nics]",
                    is.cards.len(),
                    plan.addresses.len()
                );
                return Err(SiteError::failed(&planning, detail));
            }
            is.plan = plan.clone();
            Ok(())
        })
        .map(drop)
    }

    /// What was planned for a machine.
    ///
    /// # Errors
    /// [`SiteError::NoSuchMachine`].
    pub fn machine_plan(&self, id: &str) -> Result<MachinePlan, SiteError> {
        Ok(self.described(id, &format!("looking up the machine {id}"))?.is.plan)
    }

    /// What the master target stands at is what the next life runs from.
    pub(super) fn note_sources(&self, id: &str, images: &[PathBuf]) -> Result<(), SiteError> {
        let noting = format!("noting what {id} is made from");
        self.change(id, &noting, |is| {
            if is.begun {
                let detail = "its virtual machine is being made, or has been: it stays what it is made from [azure-snapshot]";
                let same = is.disks.iter().map(|disk| disk.source.as_ref()).eq(images.iter().map(Some));
                return if same { Ok(()) } else { Err(SiteError::failed(&noting, detail)) };
            }
            if is.disks.len() != images.len() {
                let detail = format!("it has {} disks, blobs were named for {} [azure-disks]", is.disks.len(), images.len());
                return Err(SiteError::failed(&noting, detail));
            }
            for (disk, image) in is.disks.iter_mut().zip(images) {
                disk.source = Some(image.clone());
            }
            Ok(())
        })
        .map(drop)
    }

    pub(super) fn earlier_lives(&self, id: &str) -> Result<Vec<String>, SiteError> {
        let looking = format!("looking for what is left of {id}");
        let now = self.described(id, &looking)?.is;
        let all = self.made_for(id).map_err(failed(looking))?;
        let own = self.base(&now);
        Ok(all.vms.into_iter().map(|vm| vm.name).filter(|name| !name.eq_ignore_ascii_case(&own)).collect())
    }

    pub(super) fn remove_earlier_lives(&self, id: &str) -> Result<(), SiteError> {
        let cleaning = format!("removing what is left of {id}");
        let now = self.described(id, &cleaning)?.is;
        self.delete_made(id, Some(&self.base(&now)), &cleaning)
    }

    pub(super) fn lend(&self, id: &str, serials: &[String]) -> Result<Vec<PathBuf>, SiteError> {
        let lending = format!("lending the disks of {id}");
        let kept = self.described(id, &lending)?;
        if kept.is.begun {
            self.must_be_off(&kept.is, "lending its disks", &lending)?;
        }
        let blobs = |is: &Description| {
            let of = |serial: &String| {
                let found = is.disks.iter().find(|disk| disk.serial == *serial);
                let missing = || SiteError::failed(&lending, format!("it has no disk {serial} any more"));
                found.map(|disk| disk.blob.clone()).ok_or_else(missing)
            };
            match serials {
                [] => Ok(is.disks.iter().map(|disk| disk.blob.clone()).collect()),
                _ => serials.iter().map(of).collect::<Result<Vec<_>, _>>(),
            }
        };
        let (_, blobs) = self.change(id, &lending, |is| {
            let blobs = blobs(is)?;
            is.end_life();
            is.all_disks().for_each(|disk| disk.source = None);
            Ok(blobs)
        })?;
        Ok(blobs)
    }

    pub(super) fn remove(&self, id: &str) -> Result<(), SiteError> {
        let removing = format!("removing the machine {id}");
        let Some(_) = self.look_up(id).map_err(failed(&removing))? else {
            return match self.foreign_vm(id) {
                Err(SiteError::NoSuchMachine { .. }) => Ok(()),
                Err(error) => Err(error),
                Ok(_) => {
                    let detail = "Switchback did not make it: delete it in the portal [azure-foreign]";
                    Err(SiteError::failed(removing, detail))
                }
            };
        };
        self.delete_made(id, None, &removing)?;
        let blob = blob_of(id).map_err(failed(&removing))?;
        self.container.delete(&blob).map_err(failed(removing))
    }

    /// Deletes what was made for a machine, but for what a name begins with. Machines first: they hold the rest.
    pub(super) fn delete_made(&self, id: &str, but: Option<&str>, action: &str) -> Result<(), SiteError> {
        let mut all = self.made_for(id).map_err(failed(action))?;
        if let Some(but) = but {
            let machine = format!("/{but}").to_lowercase();
            let part = format!("{machine}-");
            let stays = |id: &str| id.to_lowercase().ends_with(&machine) || id.to_lowercase().contains(&part);
            all.vms.retain(|vm| !stays(&vm.id));
            all.rest.retain(|(id, _)| !stays(id));
        }
        for vm in &all.vms {
            let now = self.vm(&vm.id).map_err(failed(action))?;
            if now.is_some_and(|vm| !vm.is_surely_off()) {
                return Err(SiteError::Running {
                    action: format!("removing {}", vm.name),
                    id: id.to_owned(),
                });
            }
        }
        for vm in &all.vms {
            self.arm.delete(&vm.id, version::COMPUTE).map_err(failed(action))?;
        }
        for (id, version) in &all.rest {
            self.arm.delete(id, version).map_err(failed(action))?;
        }
        Ok(())
    }

    /// Everything that was made for a machine, in all its lives.
    fn made_for(&self, id: &str) -> Result<Made, AzureError> {
        let is_of = |tags: &std::collections::BTreeMap<String, String>| {
            self.is_ours(tags) && tags.get(ID).is_some_and(|own| own == id)
        };
        let mut vms: Vec<Vm> = self.arm.list(&self.arm.id(VMS), version::COMPUTE, "")?;
        vms.retain(|vm| is_of(&vm.tags));
        let cards: Vec<NetworkInterface> = self.arm.list(&self.arm.id(CARDS), version::NETWORK, "")?;
        let disks: Vec<ManagedDisk> = self.arm.list(&self.arm.id(DISKS), version::DISKS, "")?;
        let cards =
            cards.into_iter().filter(|card| is_of(&card.tags)).map(|card| (card.id, version::NETWORK));
        let disks = disks.into_iter().filter(|disk| is_of(&disk.tags)).map(|disk| (disk.id, version::DISKS));
        Ok(Made { vms, rest: cards.chain(disks).collect() })
    }

    pub(super) fn must_be_off(&self, is: &Description, action: &str, doing: &str) -> Result<(), SiteError> {
        let vm = self.vm(&self.vm_id(is)).map_err(failed(doing))?;
        if vm.is_some_and(|vm| !vm.is_surely_off()) {
            return Err(SiteError::Running { action: action.to_owned(), id: is.id.clone() });
        }
        Ok(())
    }
}

/// Disks are in the site's own container.
pub(super) fn own_datastore(named: &str, own: &str) -> Result<(), SiteError> {
    if named == own {
        return Ok(());
    }
    Err(SiteError::NoSuchDatastore { name: named.to_owned(), known: own.to_owned() })
}

/// What there is of a machine.
struct Made {
    vms: Vec<Vm>,
    /// Ids with the version of their API.
    rest: Vec<(String, &'static str)>,
}

/// Without a mark it may be one that somebody else has described.
fn is_it(new: &NewMachine, there: &Description) -> Result<(), SiteError> {
    if there.mark == new.mark && (new.mark.is_some() || there.name == new.name) {
        return Ok(());
    }
    Err(SiteError::Taken { id: new.id.clone(), name: there.name.clone() })
}
