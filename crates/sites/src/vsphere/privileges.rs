//! What the account may do, found out before it matters.
//!
//! Privileges are asked for by name on the very objects that a failback would touch. A free ESXi host grants every privilege and refuses every change; the
//! proof is a harmless change: a directory made in a datastore, and removed.

use std::collections::BTreeMap;

use super::soap::{MoRef, Node, VimError, Xml};
use super::{VsphereSite, failed};
use crate::SiteError;

/// What failing back needs, by vSphere's names of privileges (*vSphere Security*, "Defined Privileges").
pub const PRIVILEGES: [&str; 42] = [
    "Datastore.AllocateSpace",
    "Datastore.Browse",
    "Datastore.DeleteFile",
    "Datastore.FileManagement",
    "Datastore.UpdateVirtualMachineFiles",
    "Network.Assign",
    "Resource.AssignVMToPool",
    "Resource.ColdMigrate",
    "Resource.HotMigrate",
    "Task.Create",
    "Task.Update",
    "VirtualMachine.Config.AddExistingDisk",
    "VirtualMachine.Config.AddNewDisk",
    "VirtualMachine.Config.AddRemoveDevice",
    "VirtualMachine.Config.AdvancedConfig",
    "VirtualMachine.Config.Annotation",
    "VirtualMachine.Config.CPUCount",
    "VirtualMachine.Config.ChangeTracking",
    "VirtualMachine.Config.DiskExtend",
    "VirtualMachine.Config.DiskLease",
    "VirtualMachine.Config.EditDevice",
    "VirtualMachine.Config.Memory",
    "VirtualMachine.Config.RawDevice",
    "VirtualMachine.Config.RemoveDisk",
    "VirtualMachine.Config.Rename",
    "VirtualMachine.Config.Resource",
    "VirtualMachine.Config.Settings",
    "VirtualMachine.Interact.AnswerQuestion",
    "VirtualMachine.Interact.DeviceConnection",
    "VirtualMachine.Interact.PowerOff",
    "VirtualMachine.Interact.PowerOn",
    "VirtualMachine.Interact.SetCDMedia",
    "VirtualMachine.Interact.SetFloppyMedia",
    "VirtualMachine.Inventory.Create",
    "VirtualMachine.Inventory.Delete",
    "VirtualMachine.Inventory.Register",
    "VirtualMachine.Inventory.Unregister",
    "VirtualMachine.Provisioning.GetVmFiles",
    "VirtualMachine.Provisioning.PutVmFiles",
    "VirtualMachine.State.CreateSnapshot",
    "VirtualMachine.State.RemoveSnapshot",
    "VirtualMachine.State.RevertToSnapshot",
];

/// The directory that is made and removed to find out whether the server allows changes at all.
const PROBE: &str = "switchback-write-probe";

/// What the account lacks on an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingPrivileges {
    /// The object.
    pub object: MoRef,
    /// Of [`PRIVILEGES`], those that are not granted.
    pub privileges: Vec<String>,
}

impl VsphereSite {
    /// Which privileges of a failback the account lacks on these objects: machines, datastores, networks, hosts, datacenters. Objects that lack none are not
    /// in the result.
    ///
    /// # Errors
    /// [`SiteError::Failed`].
    pub fn missing_privileges(&self, objects: &[MoRef]) -> Result<Vec<MissingPrivileges>, SiteError> {
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let granted = match self.has_privileges(objects) {
            // Either method is enough; which one a server has depends on its version.
            Err(error)
                if ["NotSupported", "NotImplemented", "MethodNotFound", "InvalidRequest"]
                    .map(Some)
                    .contains(&error.kind()) =>
            {
                self.fetch_privileges(objects)
            }
            result => result,
        };
        let granted = granted.map_err(failed("asking for the account's privileges"))?;
        let missing = objects.iter().map(|object| {
            let has = |privilege: &&str| {
                granted.get(object).is_some_and(|all| all.iter().any(|one| one == privilege))
            };
            let lacks = PRIVILEGES.iter().filter(|privilege| !has(privilege)).map(|one| (*one).to_owned());
            MissingPrivileges { object: object.clone(), privileges: lacks.collect() }
        });
        Ok(missing.filter(|missing| !missing.privileges.is_empty()).collect())
    }

    fn has_privileges(&self, objects: &[MoRef]) -> Result<BTreeMap<MoRef, Vec<String>>, VimError> {
        let login = self.session.login()?;
        let what = Xml::new()
            .references("entity", objects)
            .text("sessionId", &login.key)
            .texts("privId", PRIVILEGES);
        let manager = login.manager("authorizationManager")?;
        let found = self.session.read(&manager, "HasPrivilegeOnEntities", what)?;
        let one = |entity: &Node| {
            let granted = entity.all("privAvailability").filter(|one| one.is_true_at("isGranted"));
            Some((entity.reference_at("entity")?, granted.map(|one| one.owned_at("privId")).collect()))
        };
        Ok(found.iter().filter_map(one).collect())
    }

    pub(super) fn fetch_privileges(
        &self,
        objects: &[MoRef],
    ) -> Result<BTreeMap<MoRef, Vec<String>>, VimError> {
        let login = self.session.login()?;
        let what = Xml::new().references("entities", objects).text("userName", &login.user);
        let manager = login.manager("authorizationManager")?;
        let found = self.session.read(&manager, "FetchUserPrivilegeOnEntities", what)?;
        let one = |entity: &Node| {
            let granted = entity.all("privileges").map(|one| one.text.clone()).collect();
            Some((entity.reference_at("entity")?, granted))
        };
        Ok(found.iter().filter_map(one).collect())
    }

    /// Whether the server refuses changes whoever asks: the free edition of ESXi. Found out by making a directory in the datastore and removing it.
    ///
    /// # Errors
    /// [`SiteError::NoSuchDatastore`]; [`SiteError::Failed`]: it could not be found out, as when the account lacks the privilege.
    pub fn refuses_changes(&self, datastore: &str) -> Result<bool, SiteError> {
        let action = "finding out whether the server allows changes";
        let inventory = self.inventory()?;
        let known =
            || inventory.datastores.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = inventory.datastores.iter().find(|one| one.name == datastore);
        let found =
            found.ok_or_else(|| SiteError::NoSuchDatastore { name: datastore.to_owned(), known: known() })?;
        let mounted_by = found.mounts.first().and_then(|mount| inventory.datacenter_of(&mount.host));
        let directory = || {
            let name = Xml::new().text("name", format!("[{datastore}] {PROBE}"));
            match mounted_by {
                Some(datacenter) => name.reference("datacenter", &datacenter.object),
                None => name,
            }
        };
        let manager = self.session.manager("fileManager").map_err(failed(action))?;
        let make = directory().text("createParentDirectories", false);
        match self.session.change(&manager, "MakeDirectory", make) {
            Err(error) if error.is("RestrictedVersion") => return Ok(true),
            // One that was left by an attempt that was cut short.
            Err(error) if error.is("FileAlreadyExists") => {}
            result => drop(result.map_err(failed(action))?),
        }
        let removed = self.session.task(&manager, "DeleteDatastoreFile_Task", directory());
        removed
            .map(|_| false)
            .map_err(failed(format!("removing the directory {PROBE} in the datastore {datastore}")))
    }
}
