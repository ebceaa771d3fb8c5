//! What each component is to be like, computed from the protected machines: pure, from what is stored to what is answered.
//!
//! Nothing is ever ordered; a component compares what it is with this. So the same facts always give the same answer, and losing an answer
//! loses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use switchback_identity::{PeerIdentity, Role};
use switchback_model::component::{
    AgentDesired, Answer, Desired, DiskStanding, GuestPlatform, IncarnationProof, MasterTargetDesired,
    NetworkProfile, ProcessServerDesired, ProgramOffer, ProtectedDisk, ReplicaDesired, ReplicaMode,
    Replication, Route, SandboxDesired, ScriptCall, Standing, State, StoragePath,
};
use switchback_model::{
    Bandwidth, DiskIndex, Phase, ProtectedItem, ProtectionGroup, ReplicaName, ReplicationPath, Sandbox, Seq,
    Side, UnixMillis,
};

use crate::Program;
use crate::backup::succession::Superseded;
use crate::opening::{Containers, blob_place};
use crate::reports::StoredReport;

/// All that answers are computed from.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) items: Vec<ProtectedItem>,
    /// By name in lower case.
    pub(crate) groups: BTreeMap<String, ProtectionGroup>,
    /// The last reports of process servers and master targets, by `ROLE/NAME`.
    pub(crate) servers: BTreeMap<String, StoredReport>,
    /// The sites, by name in lower case, whose platform asks something of guests.
    pub(crate) guest_platforms: BTreeMap<String, GuestPlatform>,
    /// Scripts to be run in guests, by the agent's name.
    pub(crate) scripts: BTreeMap<String, Vec<ScriptCall>>,
    /// Containers of Azure sites, and how they are entered.
    pub(crate) containers: Containers,
    /// The ways to them, by the site's name in lower case.
    pub(crate) storage_paths: BTreeMap<String, StoragePath>,
    /// How much process servers and master targets may send, by `ROLE/NAME`.
    pub(crate) bandwidth: BTreeMap<String, Bandwidth>,
    /// What agents are to go on as, when they are updated.
    pub(crate) program: Option<Arc<Program>>,
    /// Which life of the configuration server this is, if it was ever restored.
    pub(crate) incarnation_proof: Option<IncarnationProof>,
    /// Which certificates are to be renewed at once, by site: those that end before.
    pub(crate) renewals: BTreeMap<String, UnixMillis>,
    /// Another server has taken this one's place.
    pub(crate) superseded: Option<Superseded>,
    /// Where else it is reached.
    pub(crate) addresses: Vec<String>,
}

impl Facts {
    /// The group in force for a machine: the forward one, or its twin.
    pub(crate) fn group(&self, item: &ProtectedItem) -> Option<&ProtectionGroup> {
        let forward = self.groups.get(&item.group.key())?;
        match item.protection.active {
            Side::Home => Some(forward),
            Side::Away => self.groups.get(&forward.twin.key()),
        }
    }

    fn address(&self, role: Role, name: &str) -> Option<String> {
        let report = self.servers.get(&format!("{role}/{name}"))?;
        Some(report.report.address.clone()).filter(|address| !address.is_empty())
    }

    /// The answer to a component that is as it says, at a site.
    pub(crate) fn answer(&self, peer: &PeerIdentity, site: &str, state: &State) -> Answer {
        let desired = match state {
            State::Agent(agent) => Desired::Agent(Box::new(self.agent(peer, &agent.system_uuid))),
            State::ProcessServer(state) => {
                let present = state.spools.iter().map(|spool| &spool.replica);
                let hold = self.hold(present);
                Desired::ProcessServer(ProcessServerDesired {
                    hold,
                    ..self.process_server(peer.name.as_str())
                })
            }
            State::MasterTarget(state) => {
                let present = state.replicas.iter().map(|replica| &replica.replica);
                let hold = self.hold(present);
                Desired::MasterTarget(MasterTargetDesired { hold, ..self.master_target(peer.name.as_str()) })
            }
        };
        let (incarnation_proof, servers) = (self.incarnation_proof.clone(), self.addresses.clone());
        let renew_ending_before = self.renewals.get(&site.to_ascii_lowercase()).copied();
        Answer { version: version_of(&desired), desired, incarnation_proof, renew_ending_before, servers }
    }

    /// The machines for which something is ordered.
    fn led(&self) -> impl Iterator<Item = &ProtectedItem> {
        self.items.iter().filter(|item| item.held.is_none())
    }

    /// Which of the replicas that a component has are to stay as they are: those of machines that are held; and as long as there are such, those
    /// of no machine that is known, as they may be what has become of one since the backup.
    fn hold<'a>(&'a self, present: impl Iterator<Item = &'a ReplicaName>) -> Vec<ReplicaName> {
        if self.items.iter().all(|item| item.held.is_none()) {
            return Vec::new();
        }
        let led: BTreeSet<_> = self.led().flat_map(replicas_of).collect();
        let present = present.filter(|replica| !led.contains(*replica));
        let held = self.items.iter().filter(|item| item.held.is_some()).flat_map(replicas_of);
        present.chain(held).cloned().collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn agent(&self, peer: &PeerIdentity, system_uuid: &str) -> AgentDesired {
        let scripts = self.scripts.get(peer.name.as_str()).cloned().unwrap_or_default();
        let Some(item) = self.items.iter().find(|item| item.agent == peer.name.as_str()) else {
            return AgentDesired::default();
        };
        let networks =
            [Side::Home, Side::Away].into_iter().filter_map(|side| network_profile(item, side)).collect();
        if item.held.is_some() {
            return AgentDesired { hold: true, ..AgentDesired::default() };
        }
        if item.active().system_uuid.is_empty() && item.passive().system_uuid != system_uuid {
            // Its site has not told yet which machine it is: this may be it.
            return AgentDesired { networks, ..AgentDesired::default() };
        }
        if item.active().system_uuid != system_uuid {
            let active = item.active();
            let by = format!("{} at {}", item.name, active.site);
            return AgentDesired {
                standing: Standing::Superseded { by },
                networks,
                ..AgentDesired::default()
            };
        }
        let replication = item
            .replication
            .as_ref()
            .filter(|_| item.protection.replicates())
            .and_then(|path| self.replication(item, path));
        let power_off = item.power_off.clone();
        let guest_for = self.guest_for(item);
        let update = item.agent_update.as_ref().zip(self.program.as_ref());
        let program = update.map(|(token, program)| ProgramOffer {
            token: token.clone(),
            sha256: program.sha256().into(),
            len: program.len(),
        });
        AgentDesired {
            standing: Standing::Active,
            replication,
            networks,
            scripts,
            power_off,
            guest_for,
            new_firmware: item.passive().created_by_us,
            program,
            hold: false,
        }
    }

    /// What a machine's guest is to be ready for: where it would go next.
    pub(crate) fn guest_for(&self, item: &ProtectedItem) -> Option<GuestPlatform> {
        self.guest_platforms.get(&item.passive().site.key()).copied()
    }

    fn replication(&self, item: &ProtectedItem, path: &ReplicationPath) -> Option<Replication> {
        let group = self.group(item)?;
        let policy = &group.policy;
        Some(Replication {
            replica: path.replica.clone(),
            address: self.address(Role::ProcessServer, &path.process_server)?,
            peer: path.process_server.clone(),
            epoch: path.epoch,
            interval_ms: policy.interval_ms,
            app_interval_ms: policy.app_interval_ms,
            freeze_budget_ms: policy.freeze_budget_ms,
            compression: policy.compression,
            bytes_per_s_max: policy.bytes_per_s_max,
            group: policy.multi_vm.then(|| group.name.key()),
            disks: protected_disks(item),
            resync_requested: item.resync_requested,
            final_cycle: item.final_cycle.clone(),
        })
    }

    fn bandwidth_of(&self, role: Role, name: &str) -> Bandwidth {
        self.bandwidth.get(&format!("{role}/{name}")).cloned().unwrap_or_default()
    }

    fn process_server(&self, name: &str) -> ProcessServerDesired {
        let routes = self.led().filter(|item| item.protection.replicates()).filter_map(|item| {
            let path = item.replication.as_ref().filter(|path| path.process_server == name)?;
            Some(Route {
                replica: path.replica.clone(),
                source: item.agent.clone(),
                next: self.address(Role::Target, &path.master_target)?,
                peer: path.master_target.clone(),
                epoch: path.epoch,
            })
        });
        ProcessServerDesired {
            routes: routes.collect(),
            probes: self.probes(name),
            bandwidth: self.bandwidth_of(Role::ProcessServer, name),
            ..ProcessServerDesired::default()
        }
    }

    /// The master targets of other sites: machines may have to go there, or come home from here.
    fn probes(&self, process_server: &str) -> Vec<String> {
        let site_of = |key: &str| self.servers.get(key).map(|report| report.report.site.clone());
        let Some(here) = site_of(&format!("{}/{process_server}", Role::ProcessServer)) else {
            return Vec::new();
        };
        let elsewhere = self.servers.values().filter(|server| {
            server.peer.role == Role::Target
                && server.report.site != here
                && !server.report.address.is_empty()
        });
        elsewhere.map(|server| server.report.address.clone()).collect()
    }

    fn master_target(&self, name: &str) -> MasterTargetDesired {
        let mut replicas = Vec::new();
        for item in self.led() {
            if let Some(path) = item.replication.as_ref().filter(|path| path.master_target == name) {
                replicas.push(self.replica(item, path));
            }
            let retired = item.retired.iter().filter(|retired| retired.master_target == name);
            replicas.extend(retired.map(|retired| ReplicaDesired {
                replica: retired.replica.clone(),
                targets: retired.targets.clone(),
                blobs: blob_place(&self.containers, &retired.targets),
                sizes: Vec::new(),
                owners: Vec::new(),
                epoch: item.protection.epoch,
                retention: switchback_model::RetentionPolicy::default(),
                mode: ReplicaMode::Remove,
                purge: retired.purge,
                views: BTreeMap::new(),
                sandbox: None,
            }));
        }
        MasterTargetDesired {
            replicas,
            hold: Vec::new(),
            storage_paths: self.storage_paths_of(name),
            bandwidth: self.bandwidth_of(Role::Target, name),
        }
    }

    fn replica(&self, item: &ProtectedItem, path: &ReplicationPath) -> ReplicaDesired {
        let mode = match (item.protection.phase, &item.failover) {
            (Phase::FailedOver, Some(record)) => ReplicaMode::StandAt { seq: record.seq },
            _ => ReplicaMode::Receive,
        };
        ReplicaDesired {
            replica: path.replica.clone(),
            targets: path.targets.clone(),
            blobs: blob_place(&self.containers, &path.targets),
            sizes: item.disk_sizes.clone(),
            owners: vec![format!("{} {}", Role::ProcessServer, path.process_server)],
            // After a failover newer than the path's: whoever still writes under that is refused.
            epoch: item.protection.epoch,
            retention: self.group(item).map(|group| group.policy.retention.clone()).unwrap_or_default(),
            mode,
            purge: false,
            views: views(item, path),
            sandbox: sandbox(item, path),
        }
    }
}

/// The sandbox of a proof. What a former proof has left may stand on the replica of another direction.
fn sandbox_over<'a>(item: &'a ProtectedItem, path: &ReplicationPath) -> Option<&'a Sandbox> {
    let sandbox = item.proving.in_hand.as_ref()?.sandbox.as_ref()?;
    (sandbox.replica == path.replica).then_some(sandbox)
}

/// The points that are to be shown: of a test failover, and of a proof whose sandbox is a machine of the site.
fn views(item: &ProtectedItem, path: &ReplicationPath) -> BTreeMap<String, Seq> {
    let test = item.test.iter().map(|test| (test.view.clone(), test.seq));
    let sandbox = sandbox_over(item, path).filter(|sandbox| sandbox.beside.is_none());
    test.chain(sandbox.map(|sandbox| (sandbox.view.clone(), sandbox.seq))).collect()
}

/// The sandbox that the master target runs itself.
fn sandbox(item: &ProtectedItem, path: &ReplicationPath) -> Option<SandboxDesired> {
    let sandbox = sandbox_over(item, path)?;
    Some(SandboxDesired { id: sandbox.view.clone(), seq: sandbox.seq, plan: sandbox.beside.clone()? })
}

/// The disks of a machine that its agent is to send.
fn protected_disks(item: &ProtectedItem) -> Vec<ProtectedDisk> {
    let serials = &item.active().disk_serials;
    // Those that are being prepared come behind the others.
    let told = item.disks().filter(|(_, standing)| *standing != DiskStanding::Preparing);
    let disk = |(disk, standing): (DiskIndex, DiskStanding)| ProtectedDisk {
        serial: serials.get(usize::from(disk.0)).cloned().unwrap_or_default(),
        size: item.disk_sizes[usize::from(disk.0)],
        standing,
    };
    told.map(disk).collect()
}

/// All replicas that a machine has or had.
fn replicas_of(item: &ProtectedItem) -> impl Iterator<Item = &ReplicaName> {
    let current = item.replication.iter().map(|path| &path.replica);
    current.chain(item.retired.iter().map(|retired| &retired.replica))
}

/// The settings of an instance's network cards, for the agent that wakes up there.
fn network_profile(item: &ProtectedItem, side: Side) -> Option<NetworkProfile> {
    let instance = item.instance(side);
    if instance.system_uuid.is_empty() || instance.nics.is_empty() {
        return None;
    }
    let interfaces = instance.nics.iter().map(|nic| (nic.mac.clone(), nic.settings.clone())).collect();
    Some(NetworkProfile { system_uuid: instance.system_uuid.clone(), interfaces })
}

fn version_of(desired: &Desired) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(desired).expect("plain data becomes JSON").hash(&mut hasher);
    hasher.finish()
}
