//! A replica as a test wants it of its master target and its process server.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use switchback_model::component::{
    Desired, MasterTargetDesired, ProcessServerDesired, ReplicaDesired, ReplicaMode, Route,
};
use switchback_model::{Epoch, RetentionPolicy};

use super::Site;
use crate::rig::MIB;

pub(crate) const SIZE: u64 = 16 * MIB;

/// The one replica of a test.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) replica: ReplicaDesired,
}

impl Wanted {
    pub(crate) fn new(target: &Path) -> Self {
        let replica = ReplicaDesired {
            replica: "web01".parse().unwrap(),
            targets: vec![target.into()],
            sizes: vec![SIZE],
            owners: vec!["process-server ps1".into()],
            epoch: Epoch(1),
            retention: RetentionPolicy::keep_all(),
            mode: ReplicaMode::Receive,
            purge: false,
            blobs: None,
            views: BTreeMap::new(),
            sandbox: None,
        };
        Self { replica }
    }

    /// Tells the master target `who`, which is to have no other.
    pub(crate) fn tell(&self, site: &Site, who: &str) {
        let replicas = vec![self.replica.clone()];
        let desired = MasterTargetDesired { replicas, ..MasterTargetDesired::default() };
        site.cs.service.want(&format!("target {who}"), Desired::MasterTarget(desired));
    }
}

/// The process server takes what the source web01 sends of this replica, and of no other; `next`: name and address of the master target.
pub(crate) fn route(site: &Site, ps: &str, replica: &str, next: (&str, &str), epoch: u64) {
    let (peer, address) = next;
    let route = Route {
        replica: replica.parse().unwrap(),
        source: "web01".into(),
        next: address.into(),
        peer: peer.into(),
        epoch: Epoch(epoch),
    };
    let desired = ProcessServerDesired { routes: vec![route], ..ProcessServerDesired::default() };
    site.cs.service.want(&format!("process-server {ps}"), Desired::ProcessServer(desired));
}

/// `to`: `HOST:PORT/REPLICA`.
pub(crate) fn sync(site: &Site, who: &str, to: &str, epoch: &str) -> Command {
    let mut command = site.command(who);
    command.args(["sync", "a.img", to, "--epoch", epoch, "--quiet"]);
    command
}
