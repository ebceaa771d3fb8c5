//! Resource ids: how our objects are named in the contract, and how such names are read.
//!
//! Invariant: what an id was made from is found again by reading it, whatever case it comes back in. Ids that the contract wants as GUIDs
//! are derived from names, so that they are the same after every restart and on every configuration server of one store.

use switchback_model::{JobId, MachineId, ObjectName, ProtectionGroup, Seq, Side, UnixMillis};

use super::path::{decode, encode};

/// The namespace of all types.
pub(crate) const PROVIDER: &str = "Microsoft.RecoveryServices";
/// How the contract names the cloud as a target, which is no fabric there.
pub(crate) const MICROSOFT_AZURE: &str = "Microsoft Azure";
/// What the contract appends to a policy's name for its failback policy.
const FAILBACK_SUFFIX: &str = "-failback";

/// The one vault of a configuration server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vault {
    /// A subscription's id. Ours have none: any text that a client can be told.
    pub subscription: String,
    /// A resource group's name; as above.
    pub resource_group: String,
    /// The vault's name.
    pub name: String,
}

impl Default for Vault {
    fn default() -> Self {
        Self {
            subscription: "00000000-0000-0000-0000-000000000000".into(),
            resource_group: "switchback".into(),
            name: "switchback".into(),
        }
    }
}

impl Vault {
    /// Its resource id, the path that everything in it begins with.
    #[must_use]
    pub fn id(&self) -> String {
        format!(
            "/subscriptions/{}/resourceGroups/{}/providers/{PROVIDER}/vaults/{}",
            self.subscription, self.resource_group, self.name
        )
    }

    fn child(&self, kind: &str, name: &str) -> String {
        format!("{}/{kind}/{}", self.id(), encode(name))
    }

    /// A site.
    #[must_use]
    pub fn fabric(&self, site: &ObjectName) -> String {
        self.child("replicationFabrics", site.as_str())
    }

    pub(crate) fn container(&self, site: &ObjectName) -> String {
        format!("{}/replicationProtectionContainers/{}", self.fabric(site), container_name(site))
    }

    /// A machine that can be protected, by its id at its site.
    #[must_use]
    pub fn protectable_item(&self, site: &ObjectName, machine: &str) -> String {
        format!("{}/replicationProtectableItems/{}", self.container(site), encode(machine))
    }

    /// A protected machine. `home` is its home site: an item stays in the container it was first protected in.
    #[must_use]
    pub fn protected_item(&self, home: &ObjectName, item: &ObjectName) -> String {
        format!("{}/replicationProtectedItems/{item}", self.container(home))
    }

    pub(crate) fn recovery_point(&self, home: &ObjectName, item: &ObjectName, point: &str) -> String {
        format!("{}/recoveryPoints/{point}", self.protected_item(home, item))
    }

    pub(crate) fn container_mapping(&self, home: &ObjectName, mapping: &str) -> String {
        format!("{}/replicationProtectionContainerMappings/{mapping}", self.container(home))
    }

    /// A policy: a protection group, in the contract's words.
    #[must_use]
    pub fn policy(&self, name: &str) -> String {
        self.child("replicationPolicies", name)
    }

    /// A recovery plan.
    #[must_use]
    pub fn plan(&self, name: &ObjectName) -> String {
        self.child("replicationRecoveryPlans", name.as_str())
    }

    /// A job.
    #[must_use]
    pub fn job(&self, id: JobId) -> String {
        self.child("replicationJobs", &job_name(id))
    }

    pub(crate) fn event(&self, name: &str) -> String {
        self.child("replicationEvents", name)
    }

    pub(crate) fn network(&self, site: &ObjectName, network: &str) -> String {
        format!("{}/replicationNetworks/{}", self.fabric(site), encode(network))
    }

    pub(crate) fn network_mapping(&self, site: &ObjectName, network: &str, target: &ObjectName) -> String {
        format!("{}/replicationNetworkMappings/{target}", self.network(site, network))
    }

    /// A fabric's one provider has its name.
    pub(crate) fn provider(&self, site: &ObjectName) -> String {
        format!("{}/replicationRecoveryServicesProviders/{site}", self.fabric(site))
    }

    /// A fabric's one vCenter has its name.
    pub(crate) fn vcenter(&self, site: &ObjectName) -> String {
        format!("{}/replicationvCenters/{site}", self.fabric(site))
    }

    /// One of our additions.
    #[must_use]
    pub fn addition(&self, kind: &str, name: &str) -> String {
        self.child(kind, name)
    }
}

/// The full type of a resource: `Microsoft.RecoveryServices/vaults/replicationFabrics`.
pub(crate) fn type_of(kinds: &str) -> String {
    format!("{PROVIDER}/vaults/{kinds}")
}

/// The one container of a site, `cloud_<guid>`.
pub(crate) fn container_name(site: &ObjectName) -> String {
    format!("cloud_{}", guid(&["site", &site.key()]))
}

/// A GUID made from text (RFC 9562 version 8: of our own making).
pub(crate) fn guid(text: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in text {
        hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    with_dashes(&hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with_dashes(digits: &str) -> String {
    let mut text = String::with_capacity(36);
    for (index, digit) in digits.chars().enumerate() {
        if matches!(index, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

/// A job's name: its id as a GUID.
pub(crate) fn job_name(id: JobId) -> String {
    with_dashes(&id.to_string())
}

/// Reads a job's name, with or without dashes.
pub(crate) fn parse_job(name: &str) -> Option<JobId> {
    name.replace('-', "").parse().ok()
}

/// A machine's identity as a GUID.
pub(crate) fn machine_guid(id: MachineId) -> String {
    with_dashes(&id.to_string())
}

/// A policy's name in the contract: that of its group; for a failback twin, the group's with `-failback`.
pub(crate) fn policy_name(group: &ProtectionGroup) -> String {
    match group.towards {
        Side::Away => group.name.to_string(),
        Side::Home => format!("{}{FAILBACK_SUFFIX}", group.twin),
    }
}

/// Whether a name is kept for failback policies.
pub(crate) fn is_failback_name(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(FAILBACK_SUFFIX)
}

/// The group of a policy's name: as [`policy_name`] says, or by the group's own name (`PG1_Failback`).
pub(crate) fn group_of_policy<'a>(groups: &'a [ProtectionGroup], name: &str) -> Option<&'a ProtectionGroup> {
    let contract = groups.iter().find(|group| policy_name(group).eq_ignore_ascii_case(name));
    contract.or_else(|| groups.iter().find(|group| group.name.as_str().eq_ignore_ascii_case(name)))
}

/// A recovery point's name: its number, and a digest of what it is. The number alone may come again (a point that was rolled back, the other
/// direction's history), and a failover to a point that somebody looked up earlier must never mean another one.
#[must_use]
pub fn point_name(machine: MachineId, seq: Seq, time: UnixMillis) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&machine.0).update(&seq.0.to_le_bytes()).update(&time.0.to_le_bytes());
    format!("{seq}-{}", hex(&hasher.finalize().as_bytes()[..8]))
}

/// The name that follows a type in an id, decoded: `segment("/a/x/b/y", "B")` is `y`. A text without slashes is the name itself.
pub(crate) fn name_in(id: &str, kind: &str) -> Option<String> {
    if !id.contains('/') {
        return (!id.is_empty()).then(|| id.to_owned());
    }
    named_segment(id, kind)
}

/// As [`name_in`], but a text without slashes is no answer.
pub(crate) fn named_segment(id: &str, kind: &str) -> Option<String> {
    let mut segments = id.split('/').filter(|segment| !segment.is_empty());
    segments.find(|segment| segment.eq_ignore_ascii_case(kind))?;
    segments.next().map(decode)
}

#[cfg(test)]
mod tests {
    use switchback_model::{JobId, MachineId, ObjectName, ProtectionGroup, Seq, UnixMillis};

    use super::{
        Vault, container_name, group_of_policy, guid, is_failback_name, job_name, name_in, parse_job,
        point_name, policy_name,
    };

    fn name(text: &str) -> ObjectName {
        text.parse().unwrap()
    }

    #[test]
    fn guids_are_guids_stable_and_told_apart() {
        let one = guid(&["site", "home"]);
        assert_eq!(one.len(), 36);
        assert_eq!(one, guid(&["site", "home"]));
        assert_ne!(one, guid(&["site", "home2"]));
        assert_ne!(guid(&["ab", "c"]), guid(&["a", "bc"]));
        assert_eq!((&one[14..15], &one[19..20].contains(['8', '9', 'a', 'b'])), ("8", &true));
        assert_eq!(container_name(&name("HOME")), container_name(&name("home")));
    }

    #[test]
    fn jobs_are_guids_in_the_contract() {
        let id = JobId(*b"0123456789abcdef");
        assert_eq!(job_name(id), "30313233-3435-3637-3839-616263646566");
        assert_eq!(parse_job(&job_name(id)), Some(id));
        assert_eq!(parse_job(&id.to_string().to_uppercase()), Some(id));
        assert_eq!(parse_job("none"), None);
    }

    #[test]
    fn a_pair_of_groups_is_a_policy_and_its_failback_policy() {
        let (group, twin) =
            ProtectionGroup::pair(name("PG1"), name("home"), name("away"), <_>::default()).unwrap();
        assert_eq!((policy_name(&group), policy_name(&twin)), ("PG1".into(), "PG1-failback".into()));
        let groups = [group.clone(), twin.clone()];
        for (asked, found) in [("pg1", &group), ("PG1-Failback", &twin), ("pg1_failback", &twin)] {
            assert_eq!(group_of_policy(&groups, asked), Some(found), "{asked}");
        }
        assert_eq!(group_of_policy(&groups, "PG2"), None);
        assert!(is_failback_name("x-FAILBACK") && !is_failback_name("PG1_Failback"));
    }

    #[test]
    fn ids_are_read_in_any_case_and_names_alone_too() {
        let vault = Vault::default();
        let id = vault.network(&name("home"), "VM Network/1");
        assert!(id.starts_with(&vault.id()));
        assert_eq!(name_in(&id.to_lowercase(), "replicationNetworks"), Some("vm network/1".into()));
        assert_eq!(name_in(&id, "replicationFabrics"), Some("home".into()));
        assert_eq!(name_in("PG1", "replicationPolicies"), Some("PG1".into()));
        assert_eq!(name_in(&id, "replicationPolicies"), None);
        assert_eq!(name_in("", "replicationPolicies"), None);
    }

    #[test]
    fn a_recovery_points_name_tells_apart_what_its_number_does_not() {
        let named = |machine: u8, seq, time| point_name(MachineId([machine; 16]), Seq(seq), UnixMillis(time));
        assert_eq!(named(1, 7, 1000), named(1, 7, 1000));
        assert!(named(1, 7, 1000).starts_with("7-"));
        assert_ne!(named(1, 7, 1000), named(1, 7, 2000));
        assert_ne!(named(1, 7, 1000), named(2, 7, 1000));
    }
}
