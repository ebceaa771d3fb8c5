//! Process servers that Switchback itself makes at a site, for failing back from there (R14).
//!
//! What it is: what a user says of one. What it never does: hold a secret.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::ObjectName;

/// The port on which a process server takes data, unless another one is said (ASR's).
pub const DATA_PORT: u16 = 9443;
/// GiB of its disk, which has the spools, unless another size is said.
pub const DISK_GIB: u32 = 64;

/// A process server to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerRequest {
    /// Its name, and its machine's.
    pub name: ObjectName,
    /// The site it is made at and serves.
    pub site: ObjectName,
    /// The network it is in, as the site names it: `VNET/SUBNET`.
    pub network: String,
    /// Its address there, for good.
    pub address: Ipv4Addr,
    /// Its size, as the site names it.
    pub size: String,
    /// The administrator's name; enters by SSH.
    pub administrator: String,
    /// The administrator's public key, one line as in `authorized_keys`.
    pub ssh_key: String,
    /// `HOST:PORT` of the configuration server, as the new one reaches it and as its certificate names it.
    pub configuration_server: String,
    /// Where it takes data.
    #[serde(default = "data_port")]
    pub port: u16,
    /// GiB of its disk.
    #[serde(default = "disk_gib")]
    pub disk_gib: u32,
}

const fn data_port() -> u16 {
    DATA_PORT
}

const fn disk_gib() -> u32 {
    DISK_GIB
}
