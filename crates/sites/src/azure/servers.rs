//! Process servers: virtual machines made of a marketplace image, which install themselves by what is handed to them.
//!
//! A server is no machine of the site: it has no description, no replica and no lives. It is what Azure has under the names that follow from the server's,
//! with the tag [`SERVER`]. In this order, each with a look at what an earlier attempt has left: the card, with its address; the virtual machine, whose disk
//! Azure makes of the image, and which is started by being made. Removed in the order virtual machine, card, disk: each is held by the one before.
//! What has one of these names without our tags is somebody else's: it is neither used nor deleted.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::AzureSite;
use super::arm::version;
use super::description::server_base_name;
use super::error::{AzureError, failed};
use super::networks;
use super::power::must_have_succeeded;
use super::resources::{ManagedDisk, NetworkInterface, Vm};
use super::view::{CARDS, CONTAINER, DISKS, MARK, VMS};
use crate::SiteError;

/// The tag with the name of the process server that a resource was made for.
pub(super) const SERVER: &str = "switchback-server";
/// What Azure takes of a Linux computer's name (resource naming rules, `virtualMachines`: 64).
const NAME_LEN_MAX: usize = 64;
/// Linux's limit of a user's name.
const ADMINISTRATOR_LEN_MAX: usize = 32;
/// Bytes of custom data before their coding (Azure's API of virtual machines, `OSProfile.customData`).
const CUSTOM_DATA_LEN_MAX: usize = 65_535;
/// Names that Azure refuses for an administrator (its FAQ on virtual machines), as far as Linux would take them.
const REFUSED_ADMINISTRATORS: &[&str] = &[
    "a",
    "actuser",
    "adm",
    "admin",
    "admin1",
    "admin2",
    "administrator",
    "aspnet",
    "backup",
    "console",
    "david",
    "guest",
    "john",
    "owner",
    "root",
    "server",
    "sql",
    "support",
    "support_388945a0",
    "sys",
    "test",
    "test1",
    "test2",
    "test3",
    "user",
    "user1",
    "user2",
    "user3",
    "user4",
    "user5",
    "video",
];
/// Kinds of public keys that Azure takes for Linux machines.
const KEY_KINDS: [&str; 2] = ["ssh-rsa", "ssh-ed25519"];

/// A marketplace image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerImage {
    /// Who publishes it.
    pub publisher: String,
    /// What it is offered as.
    pub offer: String,
    /// Which kind of it.
    pub sku: String,
    /// Its version, or `latest`.
    pub version: String,
}

impl Default for ServerImage {
    /// Debian 12 of generation 2, as Debian publishes it at Azure (its wiki, `Cloud/MicrosoftAzure`).
    fn default() -> Self {
        let [publisher, offer, sku, version] =
            ["Debian", "debian-12", "12-gen2", "latest"].map(str::to_owned);
        Self { publisher, offer, sku, version }
    }
}

/// A process server to be made.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerPlan {
    /// Its name: 1 to 64 lower-case letters, digits and dashes, a letter or digit at both ends.
    pub name: String,
    /// What tells it from an earlier one of its name, which ran something else (the tag `switchback-mark`).
    pub mark: String,
    /// The network it is in, `VNET/SUBNET`.
    pub network: String,
    /// Its address there, for good.
    pub address: Ipv4Addr,
    /// Its size, as Azure names it.
    pub size: String,
    /// The name of its administrator, who enters by SSH.
    pub administrator: String,
    /// The administrator's public key, one line as in `authorized_keys`.
    pub ssh_key: String,
    /// What it is made of.
    pub image: ServerImage,
    /// GiB of its disk, which has the spools; at least as large as the image.
    pub disk_gib: u32,
    /// What it runs once at its first start. It may have a secret in it, and is never shown.
    pub custom_data: String,
}

impl fmt::Debug for ServerPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerPlan")
            .field("name", &self.name)
            .field("network", &self.network)
            .field("address", &self.address)
            .field("size", &self.size)
            .field("image", &self.image)
            .field("disk_gib", &self.disk_gib)
            .finish_non_exhaustive()
    }
}

/// The ids of what a server is made of.
struct Ids {
    vm: String,
    card: String,
    disk_name: String,
    disk: String,
}

impl AzureSite {
    /// See [`Site::deploy_server`](crate::Site::deploy_server). A server that is there already with its mark stays as it is, with the custom data that it was
    /// made with.
    ///
    /// # Errors
    /// [`SiteError::NoSuchNetwork`]; [`SiteError::Taken`]: somebody else has one of its names; [`SiteError::Failed`]: the plan has a mistake, its address is
    /// taken (`azure-address`), a server of the name has another address (`azure-server`), or Azure refuses.
    pub(super) fn make_process_server(&self, plan: &ServerPlan) -> Result<String, SiteError> {
        let action = format!("making the process server {}", plan.name);
        check(plan).map_err(failed(&action))?;
        let ids = self.server_ids(&plan.name);
        let vm_name = ids.vm.rsplit('/').next().unwrap_or_default().to_owned();
        let there = self.server_vm(&ids, plan, &action)?;
        let card = self.server_card(&ids, plan, &action)?;
        match there {
            // Whose custom data nobody can change any more: Azure forbids it.
            Some(vm)
                if vm.properties.provisioning_state == "Failed" || vm.tags.get(MARK) != Some(&plan.mark) =>
            {
                self.arm.delete(&vm.id, version::COMPUTE).map_err(failed(&action))?;
                self.delete_server_disk(&ids, &plan.name, &action)?;
            }
            Some(_) => return Ok(vm_name),
            // Azure makes no disk where there is one of its name.
            None => self.delete_server_disk(&ids, &plan.name, &action)?,
        }
        self.make_server(&ids, plan, &card).map_err(failed(action))?;
        Ok(vm_name)
    }

    /// Deletes virtual machine, card, disk. [`SiteError::Taken`]: what would come after what is somebody else's stays as well.
    pub(super) fn delete_process_server(&self, name: &str) -> Result<(), SiteError> {
        let action = format!("removing the process server {name}");
        check_name(name).map_err(failed(&action))?;
        let ids = self.server_ids(name);
        if let Some(vm) = self.vm(&ids.vm).map_err(failed(&action))? {
            self.must_be_server(name, &ids.vm, &vm.tags)?;
            self.arm.delete(&ids.vm, version::COMPUTE).map_err(failed(&action))?;
        }
        let card: Option<NetworkInterface> =
            self.arm.get(&ids.card, version::NETWORK, "").map_err(failed(&action))?;
        if let Some(card) = card {
            self.must_be_server(name, &ids.card, &card.tags)?;
            self.arm.delete(&ids.card, version::NETWORK).map_err(failed(&action))?;
        }
        self.delete_server_disk(&ids, name, &action)
    }

    /// The serial log of its boot diagnostics; nothing where there is no such server.
    pub(super) fn process_server_log(&self, name: &str, bytes_max: usize) -> Result<String, SiteError> {
        let action = format!("reading the console of the process server {name}");
        let ids = self.server_ids(name);
        let Some(vm) = self.vm(&ids.vm).map_err(failed(&action))? else { return Ok(String::new()) };
        self.must_be_server(name, &ids.vm, &vm.tags)?;
        self.serial_log_of(&vm, bytes_max, &action)
    }

    fn server_ids(&self, name: &str) -> Ids {
        let base = server_base_name(&self.settings.container, name);
        let disk_name = format!("{base}-disk");
        Ids {
            vm: self.arm.id(&format!("{VMS}/{base}")),
            card: self.arm.id(&format!("{CARDS}/{base}-nic")),
            disk: self.arm.id(&format!("{DISKS}/{disk_name}")),
            disk_name,
        }
    }

    fn must_be_server(&self, name: &str, id: &str, tags: &BTreeMap<String, String>) -> Result<(), SiteError> {
        if self.is_ours(tags) && tags.get(SERVER).is_some_and(|own| own == name) {
            return Ok(());
        }
        let found = id.rsplit('/').next().unwrap_or_default();
        Err(SiteError::Taken { id: name.to_owned(), name: found.to_owned() })
    }

    /// The virtual machine, when there is one that is ours, neither being made nor changed.
    fn server_vm(&self, ids: &Ids, plan: &ServerPlan, action: &str) -> Result<Option<Vm>, SiteError> {
        let Some(vm) = self.vm(&ids.vm).map_err(failed(action))? else { return Ok(None) };
        self.must_be_server(&plan.name, &ids.vm, &vm.tags)?;
        self.arm.settled(&ids.vm, version::COMPUTE).map(Some).map_err(failed(action))
    }

    /// The card with its address: the one that is there, or a new one.
    fn server_card(&self, ids: &Ids, plan: &ServerPlan, action: &str) -> Result<String, SiteError> {
        let places = self.places().map_err(failed(action))?;
        let place = networks::named(&places, &plan.network)?;
        let there: Option<NetworkInterface> =
            self.arm.get(&ids.card, version::NETWORK, "").map_err(failed(action))?;
        match there {
            Some(card) => {
                self.must_be_server(&plan.name, &ids.card, &card.tags)?;
                must_be_at(&card, &place.subnet.id, plan).map_err(failed(action))?;
                if card.properties.provisioning_state == "Succeeded" {
                    return Ok(ids.card.clone());
                }
            }
            None => {
                let found = self.check_address(&plan.network, plan.address)?;
                if !found.is_free {
                    return Err(failed(action)(address_taken(plan, &found.others)));
                }
            }
        }
        let configuration = json!({
            "subnet": { "id": place.subnet.id },
            "privateIPAllocationMethod": "Static", "privateIPAddress": plan.address.to_string(),
        });
        let mut body = json!({
            "location": self.settings.region, "tags": self.server_tags(plan),
            "properties": { "ipConfigurations": [{ "name": "primary", "properties": configuration }] },
        });
        if let Some(group) = &self.settings.machines.security_group {
            body["properties"]["networkSecurityGroup"] = json!({ "id": group });
        }
        let made: NetworkInterface =
            self.arm.put(&ids.card, version::NETWORK, &body).map_err(failed(action))?;
        must_have_succeeded(&ids.card, &made.properties.provisioning_state).map_err(failed(action))?;
        Ok(ids.card.clone())
    }

    fn server_tags(&self, plan: &ServerPlan) -> Value {
        let mut tags = self.settings.machines.tags.clone();
        tags.insert(SERVER.into(), plan.name.clone());
        tags.insert(CONTAINER.into(), self.settings.container.clone());
        tags.insert(MARK.into(), plan.mark.clone());
        json!(tags)
    }

    fn make_server(&self, ids: &Ids, plan: &ServerPlan, card: &str) -> Result<(), AzureError> {
        let ServerImage { publisher, offer, sku, version } = &plan.image;
        let key_path = format!("/home/{}/.ssh/authorized_keys", plan.administrator);
        let mut body = json!({
            "location": self.settings.region, "tags": self.server_tags(plan),
            "properties": {
                "hardwareProfile": { "vmSize": plan.size },
                "storageProfile": {
                    "imageReference": { "publisher": publisher, "offer": offer, "sku": sku, "version": version },
                    "osDisk": {
                        "name": ids.disk_name, "osType": "Linux", "createOption": "FromImage",
                        "deleteOption": "Delete", "diskSizeGB": plan.disk_gib,
                        "managedDisk": { "storageAccountType": self.settings.machines.disk_kind },
                    },
                },
                "osProfile": {
                    "computerName": plan.name, "adminUsername": plan.administrator,
                    "customData": STANDARD.encode(&plan.custom_data),
                    "linuxConfiguration": {
                        "disablePasswordAuthentication": true,
                        "ssh": { "publicKeys": [{ "path": key_path, "keyData": plan.ssh_key.trim() }] },
                    },
                },
                "networkProfile": { "networkInterfaces": [{ "id": card, "properties": { "primary": true } }] },
                "diagnosticsProfile": { "bootDiagnostics": { "enabled": true } },
            },
        });
        // One machine gains nothing from an availability set.
        if let Some(zone) = &self.settings.machines.zone {
            body["zones"] = json!([zone]);
        }
        let made: Vm = self.arm.put(&ids.vm, version::COMPUTE, &body)?;
        must_have_succeeded(&ids.vm, &made.properties.provisioning_state)
    }

    /// Deletes what is left of its disk. Azure deletes it with its virtual machine: one that is left had a failure. Without our tags it is not touched.
    fn delete_server_disk(&self, ids: &Ids, name: &str, action: &str) -> Result<(), SiteError> {
        let left: Option<ManagedDisk> =
            self.arm.get(&ids.disk, version::DISKS, "").map_err(failed(action))?;
        let Some(disk) = left else { return Ok(()) };
        self.must_be_server(name, &ids.disk, &disk.tags)?;
        self.arm.delete(&ids.disk, version::DISKS).map_err(failed(action))
    }
}

/// A card that is there has to have what was asked for: an address is what others know a server by.
fn must_be_at(card: &NetworkInterface, subnet: &str, plan: &ServerPlan) -> Result<(), AzureError> {
    let own = card.properties.ip_configurations.first().and_then(|one| one.properties.address.as_deref());
    if card.subnet().eq_ignore_ascii_case(subnet) && own == Some(plan.address.to_string().as_str()) {
        return Ok(());
    }
    Err(AzureError::Impossible(format!(
        "there is a process server {} with the address {} already: remove it first, or name another one [azure-server]",
        plan.name,
        own.unwrap_or("unknown")
    )))
}

fn address_taken(plan: &ServerPlan, others: &[Ipv4Addr]) -> AzureError {
    let others: Vec<String> = others.iter().map(ToString::to_string).collect();
    let instead = match others.is_empty() {
        true => "no other one of the subnet is free: free one, or name another subnet".to_owned(),
        false => format!("free are {}", others.join(", ")),
    };
    AzureError::Impossible(format!(
        "{} is not free in {}: {instead} [azure-address]",
        plan.address, plan.network
    ))
}

fn check_name(name: &str) -> Result<(), AzureError> {
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() <= NAME_LEN_MAX
        && name.chars().all(fits)
        && is_end(name.chars().next())
        && is_end(name.chars().last())
    {
        return Ok(());
    }
    Err(AzureError::Impossible(format!(
        "{name:?} cannot be a process server's name: it has 1 to {NAME_LEN_MAX} lower-case letters, digits and dashes, without a dash at its ends [azure-server-name]"
    )))
}

/// What Azure would refuse, or take and do something else with, is refused before anything is made.
fn check(plan: &ServerPlan) -> Result<(), AzureError> {
    check_name(&plan.name)?;
    let wrong = |text: String| Err(AzureError::Impossible(text));
    let administrator = plan.administrator.as_str();
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let begins = administrator.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    if !begins || !administrator.chars().all(fits) || administrator.len() > ADMINISTRATOR_LEN_MAX {
        return wrong(format!(
            "{administrator:?} cannot be an administrator's name: it has up to {ADMINISTRATOR_LEN_MAX} lower-case letters, digits, - and _, and begins with a letter [azure-administrator]"
        ));
    }
    if REFUSED_ADMINISTRATORS.contains(&administrator) {
        return wrong(format!(
            "Azure refuses {administrator:?} as an administrator's name: choose one that is not so common [azure-administrator]"
        ));
    }
    let key = plan.ssh_key.trim();
    let mut words = key.split(' ');
    let kind = words.next().unwrap_or_default();
    let is_coded = words.next().is_some_and(|data| STANDARD.decode(data).is_ok_and(|data| data.len() > 32));
    if !KEY_KINDS.contains(&kind) || !is_coded || key.contains(['\n', '\r']) {
        return wrong(format!(
            "the administrator's key is no public key that Azure takes: give one line that begins with {}, as `ssh-keygen` writes it into a file that ends with .pub [azure-ssh-key]",
            KEY_KINDS.join(" or ")
        ));
    }
    if plan.size.is_empty() || plan.disk_gib == 0 {
        return wrong("a process server needs a size, and a disk of 1 GiB at least [azure-size]".into());
    }
    if plan.custom_data.len() > CUSTOM_DATA_LEN_MAX {
        return wrong(format!(
            "what the server is to run has {} bytes, Azure takes {CUSTOM_DATA_LEN_MAX}: is there more than one certificate in it? [azure-custom-data]",
            plan.custom_data.len()
        ));
    }
    Ok(())
}
