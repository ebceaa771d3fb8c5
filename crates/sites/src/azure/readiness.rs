//! What would keep a failover to Azure from working, found out while there is time. Nothing is changed for it.
//!
//! The account, the container, the region's quota and sizes are asked for once for all machines.

use switchback_model::{CheckState, ReadinessCheck};

use super::AzureSite;
use super::arm::version;
use super::error::AzureError;
use super::networks::Place;
use super::resources::{Permission, Size, Usage};
use crate::{SiteError, Target};

const WAY: (&str, &str) = ("site.network-path", "The way to the storage account is the chosen one");
/// What the site does in the resource group.
pub(super) const ACTIONS: [&str; 22] = [
    "Microsoft.Compute/disks/delete",
    "Microsoft.Compute/disks/read",
    "Microsoft.Compute/disks/write",
    "Microsoft.Compute/virtualMachines/deallocate/action",
    "Microsoft.Compute/virtualMachines/delete",
    "Microsoft.Compute/virtualMachines/instanceView/read",
    "Microsoft.Compute/virtualMachines/powerOff/action",
    "Microsoft.Compute/virtualMachines/read",
    "Microsoft.Compute/virtualMachines/retrieveBootDiagnosticsData/action",
    "Microsoft.Compute/virtualMachines/start/action",
    "Microsoft.Compute/virtualMachines/write",
    "Microsoft.Network/networkInterfaces/delete",
    "Microsoft.Network/networkInterfaces/join/action",
    "Microsoft.Network/networkInterfaces/read",
    "Microsoft.Network/networkInterfaces/write",
    "Microsoft.Network/networkSecurityGroups/join/action",
    "Microsoft.Network/virtualNetworks/checkIpAddressAvailability/read",
    "Microsoft.Network/virtualNetworks/read",
    "Microsoft.Network/virtualNetworks/subnets/join/action",
    "Microsoft.Network/virtualNetworks/subnets/read",
    "Microsoft.Resources/subscriptions/resourceGroups/read",
    "Microsoft.Storage/storageAccounts/read",
];

/// What was read for all machines.
struct Look {
    places: Result<Vec<Place>, AzureError>,
    sizes: Result<Vec<Size>, AzureError>,
    usages: Result<Vec<Usage>, AzureError>,
}

impl AzureSite {
    pub(super) fn checks(&self, targets: &[Target]) -> Result<Vec<Vec<ReadinessCheck>>, SiteError> {
        let way = super::path::check(WAY, self.settings.storage_path, &self.settings.container);
        let common = vec![self.account(), self.storage(), way];
        let look = Look { places: self.places(), sizes: self.sizes(), usages: self.usages() };
        let each = |target: &Target| {
            let mut checks = common.clone();
            checks.extend(self.of_machine(target, &look));
            checks
        };
        Ok(targets.iter().map(each).collect())
    }

    /// The resource group is there, and the account may do there what a failover does.
    fn account(&self) -> ReadinessCheck {
        let check = ("site.privileges", "The account may do what a failover needs");
        let group = self.arm.group_id();
        let read = || -> Result<Option<Vec<Permission>>, AzureError> {
            if self.arm.get::<serde_json::Value>(&group, version::RESOURCES, "")?.is_none() {
                return Ok(None);
            }
            let id = self.arm.id("Microsoft.Authorization/permissions");
            self.arm.list(&id, version::AUTHORIZATION, "").map(Some)
        };
        let permissions = match read() {
            Ok(Some(permissions)) => permissions,
            Ok(None) => return no_group(check, &group),
            Err(error) if error.is("ResourceGroupNotFound") => return no_group(check, &group),
            Err(error) => return unknown(check, &error),
        };
        let missing = missing(&permissions);
        if missing.is_empty() {
            return ReadinessCheck::passed(check.0, check.1, format!("on {group}, {}", self.arm.endpoint()));
        }
        ReadinessCheck::raised(
            CheckState::Failed,
            check,
            format!("missing on {group}: {}", missing.join(", ")),
            "the account has a role that only reads, or has it elsewhere",
            "give it the role of docs/azure-site.md on the resource group",
        )
    }

    fn storage(&self) -> ReadinessCheck {
        let check = ("site.storage", "The container of the replicas can be reached");
        match self.container.reach() {
            Ok(()) => ReadinessCheck::passed(check.0, check.1, self.settings.container.clone()),
            Err(error) => {
                let state = if error.is_passing() { CheckState::Unknown } else { CheckState::Failed };
                let cause = "a firewall of the storage account, a container that was deleted, or a SAS that has expired";
                let remedy =
                    "let this host's network in, and renew the SAS or the account's role on the container";
                ReadinessCheck::raised(state, check, error.to_string(), cause, remedy)
            }
        }
    }

    /// Of a machine that is to be made it is not known yet what it needs.
    fn of_machine(&self, target: &Target, look: &Look) -> Vec<ReadinessCheck> {
        let Some(id) = &target.machine else { return Vec::new() };
        let machine = match self.look_up(id) {
            Ok(Some(kept)) => kept.is,
            Ok(None) => {
                let check = ("site.machine", "The machine is described at Azure");
                let remedy = "disable its protection, and protect it again";
                return vec![ReadinessCheck::raised(
                    CheckState::Failed,
                    check,
                    format!("there is no description of {id} in {}", self.settings.container),
                    "somebody has deleted it",
                    remedy,
                )];
            }
            Err(error) => {
                return vec![unknown(("site.machine", "The machine is described at Azure"), &error)];
            }
        };
        let names: Vec<&str> = machine.cards.iter().filter_map(|card| card.network.as_deref()).collect();
        let mut checks = vec![networks(&names, &look.places)];
        let check = ("site.size", "The region has a size for the machine");
        match look.sizes.as_ref().map(|sizes| self.size_for(&machine, sizes)) {
            Err(error) => checks.push(unknown(check, error)),
            Ok(Err(error)) => {
                let remedy = "choose a size, or allow larger ones";
                checks.push(ReadinessCheck::raised(CheckState::Failed, check, error.to_string(), "", remedy));
            }
            Ok(Ok(size)) => {
                let facts = format!("{}, {} cores, {} MiB", size.name, size.number_of_cores, size.memory_mib);
                checks.push(ReadinessCheck::passed(check.0, check.1, facts));
                checks.push(quota(&size, &look.usages));
            }
        }
        checks
    }
}

fn unknown(check: (&str, &str), error: &AzureError) -> ReadinessCheck {
    ReadinessCheck::raised(CheckState::Unknown, check, error.to_string(), "", "see what Azure says")
}

fn no_group(check: (&str, &str), group: &str) -> ReadinessCheck {
    let cause = "it was deleted, or the site's settings name another one";
    ReadinessCheck::raised(
        CheckState::Failed,
        check,
        format!("there is no {group}"),
        cause,
        "create it, or correct the settings",
    )
}

fn networks(names: &[&str], places: &Result<Vec<Place>, AzureError>) -> ReadinessCheck {
    let check = ("site.networks", "The machine's networks are there, with free addresses");
    let places = match places {
        Ok(places) => places,
        Err(error) => return unknown(check, error),
    };
    let raised =
        |facts: String, remedy: &str| ReadinessCheck::raised(CheckState::Failed, check, facts, "", remedy);
    if names.is_empty() {
        return raised("none of its cards is connected".into(), "map its networks to subnets of the site");
    }
    let mut facts = Vec::new();
    for name in names {
        let Some(place) = places.iter().find(|place| place.name == *name) else {
            return raised(
                format!("there is no subnet {name}"),
                "create it, or map the network to another one",
            );
        };
        match place.free() {
            Some(0) => return raised(format!("{name} has no free address"), "use a larger subnet"),
            Some(free) => facts.push(format!("{name}: {free} addresses free")),
            None => facts.push((*name).to_owned()),
        }
    }
    ReadinessCheck::passed(check.0, check.1, facts.join(", "))
}

fn quota(size: &Size, usages: &Result<Vec<Usage>, AzureError>) -> ReadinessCheck {
    let check = ("site.quota", "The region's quota of cores suffices");
    let usages = match usages {
        Ok(usages) => usages,
        Err(error) => return unknown(check, error),
    };
    let Some(cores) = usages.iter().find(|usage| usage.name.value == "cores") else {
        return unknown(check, &AzureError::Protocol("there is no quota of cores".into()));
    };
    let facts = format!(
        "{} of {} cores are used, {} has {}",
        cores.current_value, cores.limit, size.name, size.number_of_cores
    );
    if cores.current_value + u64::from(size.number_of_cores) <= cores.limit {
        return ReadinessCheck::passed(check.0, check.1, facts);
    }
    let remedy = "ask for more (Subscriptions, Usage + quotas), free some, or choose a smaller size";
    ReadinessCheck::raised(CheckState::Failed, check, facts, "other machines use the quota", remedy)
}

/// The actions that no permission allows. Each permission stands for itself: what one takes away another may give.
fn missing(permissions: &[Permission]) -> Vec<&'static str> {
    let allows = |permission: &Permission, action: &str| {
        let has = |patterns: &[String]| patterns.iter().any(|pattern| fits(pattern, action));
        has(&permission.actions) && !has(&permission.not_actions)
    };
    let is_missing = |action: &&str| !permissions.iter().any(|permission| allows(permission, action));
    ACTIONS.into_iter().filter(is_missing).collect()
}

/// Whether an action is one of a pattern's, in which `*` stands for anything.
fn fits(pattern: &str, action: &str) -> bool {
    let (pattern, action) = (pattern.to_lowercase(), action.to_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| action.strip_prefix(first)) else { return false };
    let mut last = None;
    for part in parts {
        last = Some(part);
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    // Behind the last star anything may stand, but what ends the pattern ends the action.
    last.map_or(rest.is_empty(), |last| last.is_empty() || action.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_actions_fit() {
        for (pattern, action, is) in [
            ("*", "A/b/read", true),
            ("*/read", "A/b/read", true),
            ("*/read", "A/b/write", false),
            ("microsoft.compute/*", "Microsoft.Compute/disks/read", true),
            ("Microsoft.Compute/disks/*", "Microsoft.Compute/virtualMachines/read", false),
            ("A/*/read", "A/b/read/more", false),
            ("A/b/read", "A/b/read", true),
            ("A/b", "A/b/read", false),
        ] {
            assert_eq!(fits(pattern, action), is, "{pattern} {action}");
        }
    }

    #[test]
    fn the_documented_role_allows_what_is_needed() {
        let guide = include_str!("../../../../docs/azure-site.md");
        let block = guide.split("```json").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let role: serde_json::Value = serde_json::from_str(block).unwrap();
        let actions: Vec<String> = serde_json::from_value(role["Actions"].clone()).unwrap();
        assert!(!actions.iter().any(|action| action.contains('*')), "the least that is needed");
        assert_eq!(missing(&[Permission { actions, not_actions: Vec::new() }]), [""; 0]);
    }

    #[test]
    fn what_a_role_takes_away_is_missing() {
        let role = |actions: &[&str], not_actions: &[&str]| Permission {
            actions: actions.iter().map(|one| (*one).to_owned()).collect(),
            not_actions: not_actions.iter().map(|one| (*one).to_owned()).collect(),
        };
        assert_eq!(missing(&[role(&["*"], &[])]), [""; 0]);
        assert_eq!(
            missing(&[role(&["*"], &["Microsoft.Compute/disks/write"])]),
            ["Microsoft.Compute/disks/write"]
        );
        let both = [role(&["*"], &["*/write"]), role(&["*/write"], &[])];
        assert_eq!(missing(&both), [""; 0], "another role gives it");
        assert!(
            missing(&[role(&["*/read"], &[])]).contains(&"Microsoft.Compute/virtualMachines/start/action")
        );
    }
}
