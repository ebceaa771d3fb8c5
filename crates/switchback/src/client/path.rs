//! Where things are in a vault, and how their ids are read.
//!
//! The contract's own resources are called `replication…`; `switchback…` are this project's additions beside them (`docs/api.md`).

use serde_json::Value;
pub use switchback_api::encode;

/// Recovery plans.
pub const PLANS: &str = "replicationRecoveryPlans";
/// Jobs as the contract shows them.
pub const JOBS: &str = "replicationJobs";
/// Events.
pub const EVENTS: &str = "replicationEvents";
/// Sites as the contract shows them.
pub const FABRICS: &str = "replicationFabrics";

/// Sites, and below them their machines, networks and datastores.
pub const SITES: &str = "switchbackSites";
/// Components that enrolled.
pub const SERVERS: &str = "switchbackServers";
/// Process servers that were made at a site.
pub const DEPLOYED_SERVERS: &str = "switchbackDeployedServers";
/// Protection groups and their failback twins.
pub const GROUPS: &str = "switchbackProtectionGroups";
/// Protected machines in our own words; `contractId` leads to what the contract knows of one.
pub const MACHINES: &str = "switchbackProtectedMachines";
/// What machines cost.
pub const COSTS: &str = "switchbackCosts";
/// Networks that correspond.
pub const NETWORK_MAPPINGS: &str = "switchbackNetworkMappings";
/// Jobs with the progress of their tasks.
pub const JOB_PROGRESS: &str = "switchbackJobs";
/// Where the configuration server is backed up to, and below it its backups.
pub const BACKUP: &str = "switchbackBackup/default";
/// Run-as accounts.
pub const ACCOUNTS: &str = "switchbackAccounts";
/// Where alerts go.
pub const ALERT_DESTINATIONS: &str = "switchbackAlertDestinations";
/// When they are sent.
pub const ALERT_POLICY: &str = "switchbackAlertPolicy/default";
/// Whose tokens are taken beside our own.
pub const SIGN_INS: &str = "switchbackSignIn";
/// Tokens.
pub const TOKENS: &str = "switchbackTokens";
/// The audit log.
pub const AUDIT: &str = "switchbackAudit";
/// How components join.
pub const PASSPHRASE: &str = "switchbackEnrolment/default/showPassphrase";

/// What was encoded.
#[must_use]
pub fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last name of an id; a text that is no id is a name already.
#[must_use]
pub fn last_name(id: &str) -> String {
    decode(id.trim_end_matches('/').rsplit('/').next().unwrap_or(id))
}

/// The id of a resource.
#[must_use]
pub fn id_of(resource: &Value) -> &str {
    resource.get("id").and_then(Value::as_str).unwrap_or_default()
}

/// The text at a pointer, or nothing.
#[must_use]
pub fn text_at<'a>(resource: &'a Value, pointer: &str) -> &'a str {
    resource.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{decode, encode, last_name};

    #[test]
    fn names_survive_being_part_of_a_path() {
        for name in ["web01", "VM Network/1", "100%", "%41", "Zürich", "a+b&c=d?e#f"] {
            assert_eq!(decode(&encode(name)), name);
            assert!(!encode(name).contains(['/', ' ', '?', '&', '#']), "{name}");
        }
        assert_eq!((decode("100%"), decode("%zz%4")), ("100%".into(), "%zz%4".into()));
    }

    #[test]
    fn the_last_name_of_an_id_is_what_people_call_it() {
        let names = ["/vaults/v/replicationFabrics/VM%20site", "/a/b/", "plain"].map(last_name);
        assert_eq!(names, ["VM site", "b", "plain"]);
    }
}
