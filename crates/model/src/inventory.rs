//! What the configuration server knows of: sites, protection groups, network mappings, and the machines that are protected.
//!
//! What it is: plain data, as it is stored and shown. What it never does: decide (that is [`Protection`]'s table and the control plane's), know
//! how a site is reached.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::azure::{AzureKind, MachinePlan};
use crate::component::DiskStanding;
use crate::{
    Consistency, DiskIndex, Epoch, JobId, MachineId, ObjectName, Protection, Proving, ReplicaName,
    RetentionPolicy, Seq, Side, UnixMillis,
};

/// A site: a place that machines run at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Its name.
    pub name: ObjectName,
    /// What it is, and how it is reached.
    pub kind: SiteKind,
}

/// What a site is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum SiteKind {
    /// QEMU machines described in a directory of the configuration server's host.
    Local {
        /// An absolute path.
        directory: PathBuf,
    },
    /// A vCenter or a standalone ESXi host.
    Vsphere(Box<VsphereKind>),
    /// Servers without a hypervisor, known by the mobility agents that report from them.
    #[serde(rename_all = "camelCase")]
    Physical {
        /// The site that they come home to, as virtual machines; `None`: none, they can only leave.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comes_home_to: Option<ObjectName>,
    },
    /// A resource group of Azure: nothing runs there until a failover.
    Azure(Box<AzureKind>),
}

/// Where a vCenter or ESXi host is, and what is to be known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VsphereKind {
    /// Its name or address, or `https://HOST[:PORT]/sdk`.
    pub url: String,
    /// The run-as account with which it is entered.
    pub account: ObjectName,
    /// SHA-256 of its certificate, in hexadecimal digits; or `authority`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Certificates of the authorities that may have issued its certificate, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The ESXi host that machines are made on, the master target's; `None`: the one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The resource pool they are made in; `None`: the root of the host or its cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_pool: Option<String>,
    /// The folder they are made in; `None`: the datacenter's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Where datastores are mounted on the master targets, by the datastores' names. Disks elsewhere are attached to the master target's machine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub datastore_directories: BTreeMap<String, PathBuf>,
}

/// A run-as account: a user of another system under which the configuration server works there. Without its password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Its name here.
    pub name: ObjectName,
    /// What it is for.
    pub kind: AccountKind,
    /// The user's name there.
    pub user: String,
    /// When its password was last set.
    pub changed: UnixMillis,
}

/// What an account is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AccountKind {
    /// vCenter or a standalone ESXi host.
    Vsphere,
    /// A service principal of Azure: the user is `CLIENT_ID@TENANT_ID`, the password its secret.
    Azure,
    /// What opens a container of Azure: the password is a SAS, the user a name for people.
    AzureSas,
}

impl fmt::Display for AccountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vsphere => "vsphere",
            Self::Azure => "azure",
            Self::AzureSas => "azure-sas",
        })
    }
}

/// How the machines of a protection group are replicated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationPolicy {
    /// Milliseconds between crash-consistent recovery points.
    pub interval_ms: u64,
    /// Milliseconds between app-consistent recovery points; 0: none.
    #[serde(default)]
    pub app_interval_ms: u64,
    /// Age in milliseconds of the newest recovery point from which on an alarm is raised.
    pub rpo_threshold_ms: u64,
    /// Which points are kept.
    pub retention: RetentionPolicy,
    /// Longest time in milliseconds that file systems may stand still for a point.
    pub freeze_budget_ms: u64,
    /// zstd level on the way, if data is to be compressed.
    #[serde(default)]
    pub compression: Option<i32>,
    /// Bytes per second at most, per machine.
    #[serde(default)]
    pub bytes_per_s_max: Option<u64>,
    /// Machines of the group take recovery points together (multi-VM consistency).
    pub multi_vm: bool,
}

impl Default for ReplicationPolicy {
    /// A point every 15 s, an app-consistent one every hour, an alarm after 15 minutes (ASR's threshold), a freeze budget of 250 ms.
    fn default() -> Self {
        Self {
            interval_ms: 15_000,
            app_interval_ms: 0,
            rpo_threshold_ms: 15 * 60_000,
            retention: RetentionPolicy::default(),
            freeze_budget_ms: 250,
            compression: None,
            bytes_per_s_max: None,
            multi_vm: false,
        }
    }
}

/// A protection group or its failback twin. Creating one creates both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionGroup {
    /// `PG1`, or `PG1_Failback`.
    pub name: ObjectName,
    /// The other one of the pair.
    pub twin: ObjectName,
    /// Where its machines are replicated to: [`Side::Away`] for `PG1`, [`Side::Home`] for `PG1_Failback`.
    pub towards: Side,
    /// The site its machines run at.
    pub source_site: ObjectName,
    /// The site they are replicated to.
    pub target_site: ObjectName,
    /// How.
    pub policy: ReplicationPolicy,
    /// What its container mapping is called in Azure Site Recovery's contract, if a client has named it; else that has its policy's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<ObjectName>,
}

impl ProtectionGroup {
    /// The home site of its machines.
    #[must_use]
    pub const fn home(&self) -> &ObjectName {
        match self.towards {
            Side::Away => &self.source_site,
            Side::Home => &self.target_site,
        }
    }

    /// A pair: the group and its failback twin, `NAME_Failback`.
    ///
    /// # Errors
    /// When the twin's name would be too long.
    pub fn pair(
        name: ObjectName,
        source_site: ObjectName,
        target_site: ObjectName,
        policy: ReplicationPolicy,
    ) -> Result<(Self, Self), crate::InvalidName> {
        let twin: ObjectName = format!("{name}_Failback").parse()?;
        let back = Self {
            name: twin.clone(),
            twin: name.clone(),
            towards: Side::Home,
            source_site: target_site.clone(),
            target_site: source_site.clone(),
            policy: policy.clone(),
            mapping: None,
        };
        Ok((Self { name, twin, towards: Side::Away, source_site, target_site, policy, mapping: None }, back))
    }
}

/// Networks that correspond: a network card at the one site is connected to this network at the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkMapping {
    /// The site of the first network.
    pub site: ObjectName,
    /// The first network's name at its site.
    pub network: String,
    /// The site of the second.
    pub target_site: ObjectName,
    /// The second network's name.
    pub target_network: String,
    /// The network of test failovers there; none: they are not connected.
    #[serde(default)]
    pub test_network: Option<String>,
}

/// A machine under protection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectedItem {
    /// Its name, which never changes.
    pub name: ObjectName,
    /// The name its agent enrolled under; its identity is on the machine's disks, so all instances of the machine have it.
    pub agent: String,
    /// Its identity, which stays the same wherever it lives.
    pub machine: MachineId,
    /// The forward protection group; when it replicates home, its twin is the one in force.
    pub group: ObjectName,
    /// How it stands.
    pub protection: Protection,
    /// Its instance at home.
    pub home: Instance,
    /// Its instance at the recovery site.
    pub away: Instance,
    /// What its instance at the recovery site shall be, where that is made at a failover.
    #[serde(default)]
    pub plan: MachinePlan,
    /// Bytes of each protected disk, in order. A disk's place is its number at the replica, and in the lists of the instances.
    pub disk_sizes: Vec<u64>,
    /// How those disks stand that are not simply protected, by their place. Those that were removed lose it with the next commit of a failover.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub disk_standings: BTreeMap<u16, DiskStanding>,
    /// Where the current replication goes; `None`: nothing replicates (after a commit).
    #[serde(default)]
    pub replication: Option<ReplicationPath>,
    /// Replicas of earlier directions, to be removed by their master targets.
    #[serde(default)]
    pub retired: Vec<RetiredReplica>,
    /// The recovery point of the failover in hand or the last one.
    #[serde(default)]
    pub failover: Option<FailoverRecord>,
    /// A test failover's copy.
    #[serde(default)]
    pub test: Option<TestCopy>,
    /// Instances that were left for good (an alternate location was chosen): kept until they are cleaned up.
    #[serde(default)]
    pub left_behind: Vec<Instance>,
    /// The token of a last cycle that is asked for.
    #[serde(default)]
    pub final_cycle: Option<String>,
    /// The machine is to switch itself off: it has no hypervisor that could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_off: Option<crate::component::PowerOff>,
    /// The token of an update of the active instance's agent that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_update: Option<String>,
    /// How often a user asked to compare everything again.
    #[serde(default)]
    pub resync_requested: u64,
    /// The instance that was left has been seen alive: when, and what it said it is.
    #[serde(default)]
    pub stale_seen: Option<UnixMillis>,
    /// When it was last failed over.
    #[serde(default)]
    pub last_failover: Option<UnixMillis>,
    /// When a test failover last succeeded.
    #[serde(default)]
    pub last_test_failover: Option<UnixMillis>,
    /// How its recovery points are proved, and how that stands.
    #[serde(default)]
    pub proving: Proving,
    /// The job that works on it: another is refused.
    #[serde(default)]
    pub job: Option<JobId>,
    /// Nothing is ordered for it: the configuration server was restored from a backup that may be older than what has happened to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// Why nothing is ordered for a machine after a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Held {
    /// Its components have not reported yet: it is not known whether the backup tells how things are.
    Unconfirmed {
        /// When the server was restored.
        since: UnixMillis,
    },
    /// They have shown that the backup is older than the machine's last change of direction: a person decides.
    Behind {
        /// What they have shown.
        evidence: String,
    },
}

impl ProtectedItem {
    /// A machine whose protection begins: nothing replicates yet.
    #[must_use]
    pub fn begin(
        (name, agent): (ObjectName, String),
        machine: MachineId,
        group: ObjectName,
        (home, away): (Instance, Instance),
        disk_sizes: Vec<u64>,
    ) -> Self {
        Self {
            name,
            agent,
            machine,
            group,
            protection: Protection::begin(),
            home,
            away,
            plan: MachinePlan::default(),
            disk_sizes,
            disk_standings: BTreeMap::new(),
            replication: None,
            retired: Vec::new(),
            failover: None,
            test: None,
            left_behind: Vec::new(),
            final_cycle: None,
            power_off: None,
            agent_update: None,
            resync_requested: 0,
            stale_seen: None,
            last_failover: None,
            last_test_failover: None,
            proving: Proving::default(),
            job: None,
            held: None,
        }
    }

    /// How its disks stand, by their place.
    pub fn disks(&self) -> impl Iterator<Item = (DiskIndex, DiskStanding)> + '_ {
        let standing = |place: u16| self.disk_standings.get(&place).copied().unwrap_or_default();
        (0..).take(self.disk_sizes.len()).map(move |place| (DiskIndex(place), standing(place)))
    }

    /// Those that are there: not those that were removed.
    pub fn present_disks(&self) -> impl Iterator<Item = DiskIndex> + '_ {
        self.disks().filter(|(_, standing)| *standing != DiskStanding::Removed).map(|(disk, _)| disk)
    }

    /// The serial numbers of those at a side; empty where they are not known.
    #[must_use]
    pub fn present_serials(&self, side: Side) -> Vec<String> {
        let serials = &self.instance(side).disk_serials;
        self.present_disks().filter_map(|disk| serials.get(usize::from(disk.0)).cloned()).collect()
    }

    /// Forgets disks: what replicated them has ended.
    pub fn drop_disks(&mut self, gone: &[DiskIndex]) {
        fn keep<T>(list: &mut Vec<T>, gone: &[DiskIndex]) {
            let mut place = 0;
            list.retain(|_| {
                place += 1;
                !gone.contains(&DiskIndex(place - 1))
            });
        }
        keep(&mut self.disk_sizes, gone);
        keep(&mut self.home.disk_serials, gone);
        keep(&mut self.away.disk_serials, gone);
        self.disk_standings.clear();
    }

    /// The instance on a side.
    #[must_use]
    pub const fn instance(&self, side: Side) -> &Instance {
        match side {
            Side::Home => &self.home,
            Side::Away => &self.away,
        }
    }

    /// The same, to be changed.
    pub const fn instance_mut(&mut self, side: Side) -> &mut Instance {
        match side {
            Side::Home => &mut self.home,
            Side::Away => &mut self.away,
        }
    }

    /// The instance that is the machine.
    #[must_use]
    pub const fn active(&self) -> &Instance {
        self.instance(self.protection.active)
    }

    /// The instance that is replicated to, or was left.
    #[must_use]
    pub const fn passive(&self) -> &Instance {
        self.instance(self.protection.passive())
    }
}

/// One of the two instances of a protected machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its site.
    pub site: ObjectName,
    /// Its id at that site; `None`: it does not exist (yet, or any more).
    #[serde(default)]
    pub id: Option<String>,
    /// Its SMBIOS system UUID (lower case with dashes), by which its agent is recognised.
    #[serde(default)]
    pub system_uuid: String,
    /// Switchback made it, so Switchback may delete it.
    #[serde(default)]
    pub created_by_us: bool,
    /// Serial numbers of its protected disks, in order, as its guest sees them; empty where they are not known.
    #[serde(default)]
    pub disk_serials: Vec<String>,
    /// Its network cards' settings, by position.
    #[serde(default)]
    pub nics: Vec<InstanceNic>,
}

/// A network card of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceNic {
    /// MAC address, lower case with colons.
    pub mac: String,
    /// The network at its site.
    pub network: String,
    /// What the agent sets there. At home, once seen: what the guest had.
    pub settings: crate::component::InterfaceSettings,
}

/// Where a replication goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationPath {
    /// The replica; a new one for each change of direction.
    pub replica: ReplicaName,
    /// The process server's name.
    pub process_server: String,
    /// The master target's name.
    pub master_target: String,
    /// The epoch it is written under.
    pub epoch: Epoch,
    /// Target disks: paths at the master target.
    pub targets: Vec<PathBuf>,
}

/// A replica whose history is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredReplica {
    /// The replica.
    pub replica: ReplicaName,
    /// Whose it is.
    pub master_target: String,
    /// The process server that may still hold a spool for it.
    pub process_server: String,
    /// Its disks, as [`ReplicationPath::targets`].
    #[serde(default)]
    pub targets: Vec<PathBuf>,
    /// Page blobs go, too: nothing replicates to them any more.
    #[serde(default)]
    pub purge: bool,
}

/// A failover's recovery point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverRecord {
    /// The point in the replica's history.
    pub seq: Seq,
    /// When the source was in that state.
    pub time: UnixMillis,
    /// What is known of it.
    pub consistency: Consistency,
    /// The multi-VM moment it belongs to.
    #[serde(default)]
    pub group_tag: Option<String>,
    /// Nothing was lost: the source was shut down after its last cycle.
    pub planned: bool,
    /// Disks that the machine is without, as the point lacks them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacks: Vec<DiskIndex>,
}

/// A test failover's copy of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestCopy {
    /// Its id at the passive side's site.
    pub id: String,
    /// Its recovery point.
    pub seq: Seq,
    /// The view at the master target that its disks stand on.
    pub view: String,
}

/// Which recovery point a failover takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PointChoice {
    /// The newest that can be had: what the process server still holds is delivered first (lowest loss).
    #[default]
    Latest,
    /// The newest that is at the target already (lowest time).
    LatestProcessed,
    /// The newest app-consistent one.
    LatestAppConsistent,
    /// The newest that all machines of the replication group share.
    LatestMultiVm,
    /// The newest app-consistent one that all machines of the replication group share.
    LatestMultiVmAppConsistent,
    /// This one.
    Point {
        /// Its number.
        seq: Seq,
    },
    /// That of this multi-VM moment.
    Tag {
        /// The moment's tag.
        tag: String,
    },
}

impl fmt::Display for PointChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::LatestProcessed => f.write_str("latest-processed"),
            Self::LatestAppConsistent => f.write_str("latest-app-consistent"),
            Self::LatestMultiVm => f.write_str("latest-multi-vm"),
            Self::LatestMultiVmAppConsistent => f.write_str("latest-multi-vm-app-consistent"),
            Self::Point { seq } => write!(f, "point {seq}"),
            Self::Tag { tag } => write!(f, "multi-VM moment {tag}"),
        }
    }
}
