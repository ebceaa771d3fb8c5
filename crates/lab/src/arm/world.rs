//! What there is: resources by id, operations under way, tokens, planned faults. Everything else is a look at it, or a change of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::blobs::Blob;
use super::faults::Planned;
use super::operations::Operation;
use super::{GROUP, NETWORK, Options, REGION, SUBSCRIPTION};

/// A resource: its JSON, with its id in the case in which it was made.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    pub(super) json: Value,
    /// Of a virtual machine: whether it runs, is stopped, or has given back its hardware.
    pub(super) power: Power,
    /// Of a virtual machine: counts what was asked of it, so that a later wish overtakes an earlier one.
    pub(super) wish: u64,
}

/// `PowerState/…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    Running,
    Stopped,
    Deallocated,
}

impl Power {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Running => "PowerState/running",
            Self::Stopped => "PowerState/stopped",
            Self::Deallocated => "PowerState/deallocated",
        }
    }
}

impl Resource {
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn name(&self) -> String {
        self.text("/name").to_owned()
    }

    pub(super) fn set_state(&mut self, state: &str) {
        self.json["properties"]["provisioningState"] = json!(state);
    }
}

/// What changes.
#[derive(Debug, Default)]
pub(super) struct State {
    /// By id in lower case.
    pub(super) resources: BTreeMap<String, Resource>,
    pub(super) operations: BTreeMap<String, Operation>,
    pub(super) tokens: BTreeSet<String>,
    pub(super) tokens_given: usize,
    /// Of the account: one entry of `Microsoft.Authorization/permissions`.
    pub(super) permissions: Value,
    pub(super) faults: Vec<Planned>,
    pub(super) calls: Vec<String>,
    pub(super) blobs: BTreeMap<String, Blob>,
    /// What virtual machines run at their first start, by their ids in lower case. Azure shows it to nobody but them.
    pub(super) custom_data: BTreeMap<String, Vec<u8>>,
    counter: u64,
}

impl State {
    pub(super) fn get(&self, id: &str) -> Option<&Resource> {
        self.resources.get(&id.to_lowercase())
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut Resource> {
        self.resources.get_mut(&id.to_lowercase())
    }

    /// All of a type, whatever its case, in the order of their ids.
    pub(super) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Resource> {
        self.resources.values().filter(move |one| one.text("/type").eq_ignore_ascii_case(kind))
    }

    pub(super) fn put(&mut self, json: Value, power: Power) {
        let id = json["id"].as_str().unwrap_or_default().to_lowercase();
        self.resources.insert(id, Resource { json, power, wish: 0 });
    }

    /// A number that there was not before.
    pub(super) fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }
}

/// The emulated world.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) url: String,
    disks: PathBuf,
    state: Mutex<State>,
    /// Different from that of all other emulators: part of names that must not be the same twice.
    pub(super) salt: u64,
}

impl fmt::Debug for World {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("World").field("url", &self.url).finish_non_exhaustive()
    }
}

impl World {
    pub(super) fn new(options: Options, disks: PathBuf, url: String) -> Self {
        let salt = blake3::hash(disks.to_string_lossy().as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&salt.as_bytes()[..8]);
        let permissions =
            json!({ "actions": ["*"], "notActions": [], "dataActions": [], "notDataActions": [] });
        let mut state = State { permissions, ..State::default() };
        state.put(group(GROUP), Power::Stopped);
        let mut network = json!({
            "id": format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Network/virtualNetworks/{NETWORK}"),
            "name": NETWORK, "type": "Microsoft.Network/virtualNetworks", "location": REGION, "etag": "W/\"1\"",
            "properties": { "provisioningState": "Succeeded", "addressSpace": { "addressPrefixes": ["10.20.0.0/16"] }, "subnets": [] },
        });
        let id = network["id"].as_str().unwrap_or_default().to_owned();
        network["properties"]["subnets"] =
            json!([subnet(&id, "production", "10.20.1.0/24"), subnet(&id, "isolated", "10.20.2.0/28")]);
        state.put(network, Power::Stopped);
        let salt = u64::from_le_bytes(bytes);
        Self { options, url, disks, state: Mutex::new(state), salt }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A test that has panicked in between fails anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of a managed disk.
    pub(super) fn disk_file(&self, name: &str) -> PathBuf {
        self.disks.join(format!("{}.raw", name.to_lowercase()))
    }

    pub(super) fn give_token(&self) -> String {
        let mut state = self.state();
        let number = state.number();
        let token = format!("token-{:016x}-{number}", self.salt);
        state.tokens.insert(token.clone());
        state.tokens_given += 1;
        token
    }

    /// A UUID that nothing else has.
    pub(super) fn uuid(&self, number: u64) -> String {
        let hash = blake3::hash(format!("{} {number}", self.salt).as_bytes()).to_hex();
        format!("{}-{}-4{}-8{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32])
    }
}

/// The JSON of a resource group.
pub(super) fn group(name: &str) -> Value {
    json!({
        "id": format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}"),
        "name": name, "type": "Microsoft.Resources/resourceGroups", "location": REGION,
        "properties": { "provisioningState": "Succeeded" },
    })
}

/// The JSON of a subnet.
pub(super) fn subnet(network: &str, name: &str, prefix: &str) -> Value {
    json!({
        "id": format!("{network}/subnets/{name}"), "name": name, "etag": "W/\"1\"",
        "type": "Microsoft.Network/virtualNetworks/subnets",
        "properties": { "provisioningState": "Succeeded", "addressPrefix": prefix },
    })
}
