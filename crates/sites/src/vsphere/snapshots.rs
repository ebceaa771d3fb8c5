//! Snapshots taken, gone back to and merged.
//!
//! vSphere keeps them as a tree and lets several have one name. [`Site`](crate::Site) knows a line of names: a name is the first snapshot that has it.

use super::inventory::{Snapshot, VirtualMachine};
use super::soap::{VimError, Xml};
use super::{VmPower, VsphereSite, failed};
use crate::SiteError;

impl VsphereSite {
    pub(super) fn take_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        let machine = self.find(id)?;
        must_be_off(&machine, id, "taking a snapshot")?;
        if snapshot(&machine, name).is_some() {
            return Ok(());
        }
        let what = Xml::new()
            .text("name", super::inventory::encoded_name(name))
            .text("description", "made by Switchback")
            .text("memory", false)
            .text("quiesce", false);
        let taken = self.session.task(&machine.object, "CreateSnapshot_Task", what);
        taken.map(drop).map_err(failed(format!("taking the snapshot {name:?} of {id}")))
    }

    pub(super) fn go_back(&self, id: &str, name: &str) -> Result<(), SiteError> {
        let machine = self.find(id)?;
        must_be_off(&machine, id, "going back to a snapshot")?;
        let missing = || SiteError::NoSuchSnapshot { id: id.to_owned(), name: name.to_owned() };
        let target = snapshot(&machine, name).ok_or_else(missing)?;
        let revert = || -> Result<(), VimError> {
            let how = Xml::new().text("suppressPowerOn", true);
            self.session.task(&target.object, "RevertToSnapshot_Task", how)?;
            let later = machine.snapshots.iter().filter(|one| one.parent.as_ref() == Some(&target.object));
            for child in later {
                self.remove_snapshot(child, true)?;
            }
            Ok(())
        };
        revert().map_err(failed(format!("taking {id} back to its snapshot {name:?}")))
    }

    pub(super) fn merge_snapshot(&self, id: &str, name: &str) -> Result<(), SiteError> {
        let machine = self.find(id)?;
        let Some(target) = snapshot(&machine, name) else { return Ok(()) };
        self.remove_snapshot(target, false).map_err(failed(format!("removing the snapshot {name:?} of {id}")))
    }

    fn remove_snapshot(&self, snapshot: &Snapshot, with_children: bool) -> Result<(), VimError> {
        let how = Xml::new().text("removeChildren", with_children).text("consolidate", true);
        match self.session.task(&snapshot.object, "RemoveSnapshot_Task", how) {
            Err(error) if error.is("ManagedObjectNotFound") => Ok(()),
            result => result.map(drop),
        }
    }
}

fn snapshot<'a>(machine: &'a VirtualMachine, name: &str) -> Option<&'a Snapshot> {
    machine.snapshots.iter().find(|snapshot| snapshot.name == name)
}

fn must_be_off(machine: &VirtualMachine, id: &str, action: &str) -> Result<(), SiteError> {
    match machine.power {
        VmPower::Off => Ok(()),
        VmPower::On | VmPower::Suspended => {
            Err(SiteError::Running { action: action.to_owned(), id: id.to_owned() })
        }
    }
}
