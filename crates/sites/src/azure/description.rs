//! A machine before it exists: a description in the container, `machines/ID.json`.
//!
//! ```text
//!   machines/ID.json              what the machine is, and the plan for the virtual machine to come
//!   replicas/ID/disk-N.vhd        its disks, which a replica makes, writes and removes: the site never does. No number comes twice
//!   replicas/ID/…-disk-N-at.vhd   the same at the recovery point at which the replica stands, as its master target tells: what a managed disk is imported from
//! ```
//! **Lives.** Everything that is made in Azure for a machine belongs to one of its lives, whose number is part of every name. A life begins with the
//! first start, noted before anything is made (`begun`), and is over when the machine is taken back to its point, or when its disks are lent again, since
//! from then on the replica is ahead of the managed disks. So nothing of an earlier life is ever started again, whatever a crash has left of it.

use std::path::PathBuf;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use switchback_model::azure::MachinePlan;

use super::AzureSite;
use super::error::{AzureError, failed};
use crate::{Boot, SiteError};

/// The format of descriptions.
const VERSION: u32 = 1;
pub(super) const DIRECTORY: &str = "machines/";
const ID_LEN_MAX: usize = 64;
/// A change is tried again so often when somebody else was faster.
const TRIES_MAX: usize = 5;

/// What a machine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Description {
    version: u32,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) mark: Option<String>,
    pub(super) cpus: u32,
    pub(super) memory_mib: u32,
    pub(super) boot: Boot,
    pub(super) disks: Vec<Disk>,
    /// Disks that its next life is made without. An earlier build, which would make it with them, refuses a description that has some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) aside: Vec<Aside>,
    /// How many numbers have been given to disks; `None`: as many as there are, none was added or removed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) numbered: Option<usize>,
    pub(super) cards: Vec<Card>,
    /// Oldest first: the virtual machine to come runs above these points.
    pub(super) snapshots: Vec<String>,
    pub(super) plan: MachinePlan,
    /// The number of the life that is, or is to come.
    pub(super) life: u32,
    /// Something of that life may be there.
    pub(super) begun: bool,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Disk {
    pub(super) size: u64,
    pub(super) serial: String,
    /// The blob's address, without a SAS.
    pub(super) blob: PathBuf,
    /// The blob that the managed disk is imported from, of the recovery point at which the replica stands; `None`: it stands at none.
    #[serde(default)]
    pub(super) source: Option<PathBuf>,
}

/// A disk that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Aside {
    /// Where among the disks it was.
    pub(super) place: usize,
    pub(super) disk: Disk,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Card {
    /// `VNET/SUBNET`.
    pub(super) network: Option<String>,
}

impl Description {
    pub(super) fn new(id: &str, name: &str) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            name: name.to_owned(),
            mark: None,
            cpus: 0,
            memory_mib: 0,
            boot: Boot::Bios,
            disks: Vec::new(),
            aside: Vec::new(),
            numbered: None,
            cards: Vec::new(),
            snapshots: Vec::new(),
            plan: MachinePlan::default(),
            life: 1,
            begun: false,
        }
    }

    /// All disks, those that were set aside among them.
    pub(super) fn all_disks(&mut self) -> impl Iterator<Item = &mut Disk> {
        self.disks.iter_mut().chain(self.aside.iter_mut().map(|aside| &mut aside.disk))
    }

    /// Nothing that was made so far is used any more.
    pub(super) fn end_life(&mut self) {
        if self.begun {
            self.life += 1;
            self.begun = false;
        }
    }
}

/// A description with what it is known by.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) is: Description,
    pub(super) etag: String,
}

/// The blob of a machine's description. An id becomes part of addresses and names.
pub(super) fn blob_of(id: &str) -> Result<String, AzureError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_id = (1..=ID_LEN_MAX).contains(&id.len())
        && id.chars().all(fits)
        && id.starts_with(|c: char| c.is_ascii_alphanumeric());
    if is_id {
        return Ok(format!("{DIRECTORY}{id}.json"));
    }
    Err(AzureError::Impossible(format!(
        "{id:?} is no id: that has 1 to {ID_LEN_MAX} letters, digits, - _ . and begins with a letter or digit [azure-id]"
    )))
}

/// What all names of a machine's resources begin with, in one of its lives.
pub(super) fn base_name(container: &str, id: &str, life: u32) -> String {
    format!("{}-{life}", name_beginning(container, id))
}

/// What all names of a process server's resources begin with. No machine has it: its name ends with a number.
pub(super) fn server_base_name(container: &str, name: &str) -> String {
    format!("{}-server", name_beginning(container, name))
}

fn name_beginning(container: &str, id: &str) -> String {
    let hash = digest(&SHA256, format!("{container} {id}").as_bytes());
    let hash: String = hash.as_ref()[..5].iter().map(|byte| format!("{byte:02x}")).collect();
    let letters = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let short: String = id.chars().take(30).map(letters).collect();
    format!("sb-{short}-{hash}")
}

impl AzureSite {
    /// The description of a machine; `None`: there is none.
    pub(super) fn look_up(&self, id: &str) -> Result<Option<Kept>, AzureError> {
        // What cannot be an id of ours is no machine of ours.
        let Ok(blob) = blob_of(id) else { return Ok(None) };
        let Some(found) = self.container.get(&blob)? else { return Ok(None) };
        let wrong = |detail: String| {
            AzureError::Impossible(format!(
                "the description {} is damaged: {detail}. Disable the machine's protection and protect it again [azure-description]",
                self.container.place(&blob).display()
            ))
        };
        let is: Description =
            serde_json::from_slice(&found.bytes).map_err(|error| wrong(error.to_string()))?;
        if is.version != VERSION || is.id != id {
            return Err(wrong(format!("version {} of the machine {:?}", is.version, is.id)));
        }
        Ok(Some(Kept { is, etag: found.etag }))
    }

    /// The description of a machine that Switchback made here.
    pub(super) fn described(&self, id: &str, action: &str) -> Result<Kept, SiteError> {
        let found = self.look_up(id).map_err(failed(action))?;
        found.ok_or_else(|| SiteError::NoSuchMachine { id: id.to_owned() })
    }

    /// Writes a description: over the one that was read, or a new one. `false`: somebody was faster.
    pub(super) fn save(&self, is: &Description, over: Option<&str>) -> Result<Option<String>, AzureError> {
        let bytes = serde_json::to_vec_pretty(is).map_err(|error| AzureError::Protocol(error.to_string()))?;
        self.container.put(&blob_of(&is.id)?, &bytes, over)
    }

    /// Changes a description, starting anew when somebody else was faster. What `change` says is the result; nothing is written when nothing changes.
    pub(super) fn change<T>(
        &self,
        id: &str,
        action: &str,
        change: impl Fn(&mut Description) -> Result<T, SiteError>,
    ) -> Result<(Description, T), SiteError> {
        for _ in 0..TRIES_MAX {
            let Kept { mut is, etag } = self.described(id, action)?;
            let before = is.clone();
            let result = change(&mut is)?;
            if is == before || self.save(&is, Some(&etag)).map_err(failed(action))?.is_some() {
                return Ok((is, result));
            }
        }
        Err(SiteError::passing(
            action,
            "somebody else goes on changing its description: try again later [azure-busy]",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_azures_and_differ() {
        let name = base_name("https://a/c", "Web_01.example", 1);
        assert!(name.len() <= 60 && name.starts_with("sb-web-01-example-"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{name}");
        assert_ne!(name, base_name("https://a/c", "web-01.example", 1));
        assert_ne!(name, base_name("https://a/d", "Web_01.example", 1));
        assert_ne!(name, base_name("https://a/c", "Web_01.example", 2));
        assert!(base_name("c", &"x".repeat(64), u32::MAX).len() <= 60);
    }

    #[test]
    fn ids_are_checked() {
        assert_eq!(blob_of("web01-1").unwrap(), "machines/web01-1.json");
        for id in ["", "-a", "a/b", "a b", "../x", &"x".repeat(65)] {
            assert!(blob_of(id).is_err(), "{id}");
        }
    }
}
