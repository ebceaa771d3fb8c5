//! What is done with a protected item: failovers, commit, reprotect, and the rest. Each becomes a job and is answered as a long-running operation.
//!
//! Two rules of the contract, as they were recorded: a reprotect's `instanceType` names the provider of the *new* pair; and a failback is a
//! failover with the direction `PrimaryToRecovery`, because the reprotect has turned the pair round. Both are checked: what a user asks for must
//! be what the state makes of it, or the wrong side would be shut down.

use serde::Deserialize;
use switchback_control::{Control, ItemView};
use switchback_model::{ItemOperation, PointChoice, ReprotectOptions, Side};

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::id::policy_name;
use super::point_choice::{self, PointInput};
use super::policies;
use super::protected_items;
use super::state;

/// Along the pair as it is now.
const FORWARD: &str = "PrimaryToRecovery";
/// Against it: what a reprotect does.
const REVERSE: &str = "RecoveryToPrimary";

/// The inputs of all operations: what they have in common, and what single ones add.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Input {
    properties: InputProperties,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct InputProperties {
    failover_direction: Option<String>,
    source_site_operations: Option<String>,
    network_type: Option<String>,
    network_id: Option<String>,
    comments: Option<String>,
    recovery_point_id: Option<String>,
    provider_specific_details: Option<Details>,
    /// Of a disable.
    replication_provider_input: Option<Details>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    instance_type: String,
    #[serde(flatten)]
    point: PointInput,
    process_server_id: Option<String>,
    master_target_id: Option<String>,
    /// Where a new machine goes if one is needed. Disks that are there are used, whatever it says: clients name one always, because the service
    /// wants it ("This option is ignored if the disks already exist. You still need to specify a value", its guide to reprotecting).
    datastore_name: Option<String>,
    /// Ours: a new machine although the disks that were left are there.
    switchback_alternate_location: bool,
    /// The failback policy, of a reprotect towards home.
    profile_id: Option<String>,
    /// The policy, of a reprotect towards the recovery site.
    policy_id: Option<String>,
    replica_vm_deletion_status: Option<String>,
}

pub(crate) fn unplanned_failover(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (view, input) = read(control, call)?;
    check_direction(&input, FORWARD, &view)?;
    let point = point_of(control, &view, &input)?;
    let shut_down = match input.source_site_operations.as_deref() {
        Some("Required") => true,
        None | Some("NotRequired" | "") => false,
        Some(other) => {
            return Err(ArmError::invalid(format!(
                "sourceSiteOperations is Required or NotRequired, not {other:?}"
            )));
        }
    };
    start(control, call, &view, ItemOperation::UnplannedFailover { point, shut_down })
}

pub(crate) fn planned_failover(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (view, input) = read(control, call)?;
    check_direction(&input, FORWARD, &view)?;
    check_provider(&view, input.provider_specific_details.as_ref())?;
    start(control, call, &view, ItemOperation::PlannedFailover)
}

pub(crate) fn test_failover(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (view, input) = read(control, call)?;
    check_direction(&input, FORWARD, &view)?;
    check_test_network(input.network_type.as_deref(), input.network_id.as_deref())?;
    let point = point_of(control, &view, &input)?;
    start(control, call, &view, ItemOperation::TestFailover { point })
}

pub(crate) fn test_failover_cleanup(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (view, input) = read(control, call)?;
    start(
        control,
        call,
        &view,
        ItemOperation::TestFailoverCleanup { comments: input.comments.unwrap_or_default() },
    )
}

pub(crate) fn apply_recovery_point(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (view, input) = read(control, call)?;
    let from_details =
        input.provider_specific_details.as_ref().map(|details| details.point.clone()).unwrap_or_default();
    let wanted = PointInput {
        recovery_point_id: input.recovery_point_id.or(from_details.recovery_point_id.clone()),
        ..from_details
    };
    if wanted == PointInput::default() {
        return Err(ArmError::invalid("recoveryPointId is missing"));
    }
    let point = point_choice::of_item(control, &view.item, &wanted)?;
    start(control, call, &view, ItemOperation::ChangeRecoveryPoint { point })
}

pub(crate) fn failover_cancel(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let view = protected_items::find(control, call)?;
    start(control, call, &view, ItemOperation::CancelFailover)
}

pub(crate) fn failover_commit(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let view = protected_items::find(control, call)?;
    start(control, call, &view, ItemOperation::Commit)
}

pub(crate) fn repair_replication(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let view = protected_items::find(control, call)?;
    start(control, call, &view, ItemOperation::Resynchronize)
}

/// The account that the contract has is for installing: an agent that reports is updated by itself.
pub(crate) fn update_mobility_service(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let view = protected_items::find(control, call)?;
    start(control, call, &view, ItemOperation::UpdateAgent)
}

pub(crate) fn reprotect(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (view, input) = read(control, call)?;
    check_direction(&input, REVERSE, &view)?;
    let details = input.provider_specific_details.unwrap_or_default();
    let target = view.item.protection.active.other();
    check_reprotect_provider(&details.instance_type, target)?;
    check_reprotect_policy(control, &view, &details, target)?;
    let said = |text: Option<String>| text.filter(|text| !text.is_empty());
    let options = ReprotectOptions {
        process_server: said(details.process_server_id),
        master_target: said(details.master_target_id),
        datastore: said(details.datastore_name),
        alternate_location: details.switchback_alternate_location,
    };
    start(control, call, &view, ItemOperation::Reprotect(options))
}

/// `remove` and DELETE: the end of the protection.
pub(crate) fn disable(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let input = call.json_if_any::<Input>()?.properties;
    let view = match protected_items::find(control, call) {
        Ok(view) => view,
        // Asked for again after it was done.
        Err(error)
            if error.status.as_u16() == 404
                && call.text("item").parse::<switchback_model::ObjectName>().is_ok() =>
        {
            return Ok(Answer::NoContent);
        }
        Err(error) => return Err(error),
    };
    let deletion = input.replication_provider_input.and_then(|details| details.replica_vm_deletion_status);
    let clean_up = match deletion.as_deref() {
        None | Some("" | "None" | "Retain") => false,
        Some("Delete") => true,
        Some(other) => {
            return Err(ArmError::invalid(format!(
                "replicaVmDeletionStatus is Delete or Retain, not {other:?}"
            )));
        }
    };
    start(control, call, &view, ItemOperation::Disable { clean_up })
}

/// Begins an operation.
pub(crate) fn start(
    control: &Control,
    call: &Call,
    view: &ItemView,
    operation: ItemOperation,
) -> Result<Answer, ArmError> {
    let job = control.operate(&call.by, &view.item.name, operation)?;
    Ok(Answer::Accepted {
        resource: call.vault.protected_item(&view.item.home.site, &view.item.name),
        job: job.id,
    })
}

fn read(control: &Control, call: &Call) -> Result<(ItemView, InputProperties), ArmError> {
    let view = protected_items::find(control, call)?;
    Ok((view, call.json_if_any::<Input>()?.properties))
}

fn point_of(control: &Control, view: &ItemView, input: &InputProperties) -> Result<PointChoice, ArmError> {
    check_provider(view, input.provider_specific_details.as_ref())?;
    match &input.provider_specific_details {
        Some(details) => point_choice::of_item(control, &view.item, &details.point),
        None => Ok(PointChoice::Latest),
    }
}

/// A failover goes along the pair, a reprotect against it; what is not said is that.
fn check_direction(input: &InputProperties, expected: &str, view: &ItemView) -> Result<(), ArmError> {
    match input.failover_direction.as_deref() {
        None | Some("") => Ok(()),
        Some(said) if said == expected => Ok(()),
        Some(said) => {
            let (from, to) = (&view.item.active().site, &view.item.passive().site);
            Err(ArmError::invalid(format!("failoverDirection is {said:?}, it must be {expected:?}"))
                .cause(format!("{} runs at {from}, so it can only go to {to}; the pair's primary is where it replicates from", view.item.name)))
        }
    }
}

/// The provider that a failover names is that of the pair.
fn check_provider(view: &ItemView, details: Option<&Details>) -> Result<(), ArmError> {
    let expected = state::provider(state::pair_target(&view.item.protection));
    match details.map(|details| details.instance_type.as_str()) {
        None => Ok(()),
        Some(said) if said == expected => Ok(()),
        Some(said) => Err(ArmError::invalid(format!("instanceType is {said:?}, it must be {expected:?}"))
            .cause(format!(
                "{} runs at {}: a failover from there goes to {}",
                view.item.name,
                view.item.active().site,
                view.item.passive().site
            ))),
    }
}

fn check_reprotect_provider(said: &str, target: Side) -> Result<(), ArmError> {
    let expected = state::provider(target);
    if said.is_empty() || said == expected {
        return Ok(());
    }
    Err(ArmError::invalid(format!("instanceType is {said:?}; a reprotect towards {target} is {expected:?}"))
        .cause("a reprotect names the provider of the new direction"))
}

/// The policy that a reprotect names must be the one it leads into: the machine's group has a twin for that.
fn check_reprotect_policy(
    control: &Control,
    view: &ItemView,
    details: &Details,
    target: Side,
) -> Result<(), ArmError> {
    let said = match target {
        Side::Home => details.profile_id.as_ref(),
        Side::Away => details.policy_id.as_ref(),
    };
    let Some(said) = said.filter(|said| !said.is_empty()) else { return Ok(()) };
    let named = policies::find(control, said)?;
    let forward = control.group(&view.item.group)?;
    let expected = if target == Side::Away { forward.name.clone() } else { forward.twin };
    if named.name == expected {
        return Ok(());
    }
    let expected = policy_name(&control.group(&expected)?);
    Err(ArmError::invalid(format!(
        "{} is not the policy of {} towards {target}",
        policy_name(&named),
        view.item.name
    ))
    .remedy(format!("name {expected}, or none")))
}

/// Test failovers use the test network of the mapping, which keeps them isolated; another one cannot be chosen in passing.
pub(crate) fn check_test_network(kind: Option<&str>, network: Option<&str>) -> Result<(), ArmError> {
    let Some(network) = network.filter(|network| !network.is_empty()) else { return Ok(()) };
    Err(ArmError::invalid(format!(
        "a test failover cannot be given the network {network:?} ({})",
        kind.unwrap_or("no networkType")
    ))
    .cause("which network a test uses is a part of the network mapping")
    .remedy("set testNetworkId in the network mapping, and leave networkId out"))
}

#[cfg(test)]
mod tests {
    use switchback_model::Side;

    use super::{Input, check_reprotect_provider, check_test_network};

    const RECORDED: &str = include_str!("../../tests/contract/recorded.json");

    /// Every input that the real service took is one that we read.
    #[test]
    fn the_recorded_requests_are_read() {
        let recorded: serde_json::Value = serde_json::from_str(RECORDED).unwrap();
        let read = |which: &str| {
            serde_json::from_value::<Input>(recorded["requests"][which].clone()).unwrap().properties
        };
        let failback = read("failback: POST rpi/unplannedFailover");
        let details = failback.provider_specific_details.unwrap();
        assert_eq!(
            (details.instance_type.as_str(), details.point.recovery_point_type.as_deref()),
            ("InMage", Some("LatestTime"))
        );
        assert_eq!(failback.failover_direction.as_deref(), Some(super::FORWARD));
        assert_eq!(failback.source_site_operations.as_deref(), Some("NotRequired"));
        let home = read("reprotect Azure->on-prem: POST rpi/reProtect");
        let details = home.provider_specific_details.unwrap();
        assert_eq!(home.failover_direction.as_deref(), Some(super::REVERSE));
        assert!(check_reprotect_provider(&details.instance_type, Side::Home).is_ok());
        assert_eq!(details.datastore_name.as_deref(), Some("datastore1"));
        assert!(
            details.profile_id.is_some()
                && details.master_target_id.is_some()
                && details.process_server_id.is_some()
        );
        let away = read("reprotect on-prem->Azure: POST rpi/reProtect").provider_specific_details.unwrap();
        assert!(check_reprotect_provider(&away.instance_type, Side::Away).is_ok());
        assert!(check_reprotect_provider(&away.instance_type, Side::Home).is_err());
        assert!(away.policy_id.is_some());
    }

    #[test]
    fn a_test_failover_cannot_leave_its_isolation() {
        assert!(check_test_network(Some("NoNetworkAttachAsInput"), None).is_ok());
        assert!(check_test_network(Some("VmNetworkAsInput"), Some("/…/virtualNetworks/production")).is_err());
    }
}
