//! `replicationPolicies`: our protection groups. A group and its failback twin are the policies `PG1` (`InMageAzureV2`) and
//! `PG1-failback` (`InMage`); the second makes itself.
//!
//! The contract's policy knows no sites, our group does. So making one takes the sites beside the contract's fields (`sourceFabricId`,
//! `targetFabricId`); a policy made by a client that knows only the contract is a draft until a container mapping names its sites, and shown
//! like any other meanwhile. Minutes are what the contract has; a value that is sent back as it was shown leaves the milliseconds behind it as they are.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchback_control::Control;
use switchback_control::drafts::PolicyDraft;
use switchback_model::{ObjectName, ProtectionGroup, ReplicationPolicy, RetentionPolicy, Side, Thinning};

use super::answer::Answer;
use super::call::{Call, name};
use super::error::ArmError;
use super::id::{group_of_policy, is_failback_name, name_in, policy_name};
use super::page::page;
use super::resource::resource;
use super::state;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    friendly_name: String,
    provider_specific_details: Details,
}

/// `InMageAzureV2PolicyDetails` or `InMagePolicyDetails` of the contract.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    instance_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    crash_consistent_frequency_in_minutes: Option<i32>,
    recovery_point_threshold_in_minutes: i32,
    recovery_point_history: i32,
    app_consistent_frequency_in_minutes: i32,
    multi_vm_sync_status: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Put {
    properties: PutProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutProperties {
    provider_specific_input: Input,
    /// Ours.
    #[serde(default)]
    source_fabric_id: Option<String>,
    /// Ours.
    #[serde(default)]
    target_fabric_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Patch {
    properties: PatchProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PatchProperties {
    replication_provider_settings: Input,
}

/// `InMageAzureV2PolicyInput` or `InMagePolicyInput` of the contract; what is not said stays as it is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Input {
    instance_type: String,
    crash_consistent_frequency_in_minutes: Option<i32>,
    recovery_point_threshold_in_minutes: Option<i32>,
    recovery_point_history: Option<i32>,
    app_consistent_frequency_in_minutes: Option<i32>,
    multi_vm_sync_status: Option<String>,
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let groups = control.groups()?;
    let drafts = control.policy_drafts()?.into_iter().map(Policy::Draft);
    let all = groups.into_iter().map(|group| Policy::Group(Box::new(group))).chain(drafts);
    let all = all.map(|policy| (policy.name().to_ascii_lowercase(), policy)).collect();
    Answer::of(&page(call, all, |policy| show(call, &policy))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(call, &find_any(control, call.text("policy"))?)?))
}

pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let wanted = call.text("policy");
    let properties = call.json::<Put>()?.properties;
    let input = properties.provider_specific_input;
    let site = |id: Option<&String>| {
        id.and_then(|id| name_in(id, "replicationFabrics")).map(|site| name(&site)).transpose()
    };
    let sites = (site(properties.source_fabric_id.as_ref())?, site(properties.target_fabric_id.as_ref())?);
    let known = find_any(control, wanted).ok();
    let policy = match (known, &sites) {
        (Some(policy @ Policy::Group(_)), _) | (Some(policy), (None, None)) => {
            return Ok(Answer::Ok(show(call, &update(control, policy, &input)?)?));
        }
        (Some(Policy::Draft(draft)), _) => draft.policy,
        (None, _) => ReplicationPolicy::default(),
    };
    if is_failback_name(wanted) || input.instance_type == state::HOME {
        return Err(ArmError::invalid(format!("{wanted:?} cannot be made by itself"))
            .cause("a failback policy makes itself together with its policy, under that one's name with `-failback`")
            .remedy("make the policy (InMageAzureV2), and map it; then change its failback policy as you like"));
    }
    check_provider(&input, Side::Away)?;
    let (name, policy) = (name(wanted)?, changed(policy, &input)?);
    let made = match sites {
        (Some(source), Some(target)) => {
            Policy::Group(Box::new(control.create_group(&name, &source, &target, &policy)?.0))
        }
        (None, None) => {
            let draft = PolicyDraft { name, policy };
            control.put_policy_draft(&draft)?;
            Policy::Draft(draft)
        }
        _ => {
            return Err(ArmError::invalid(format!("the policy {wanted:?} names one site only")).remedy(
                "say both `sourceFabricId` and `targetFabricId`, or neither and make a container mapping then",
            ));
        }
    };
    Ok(Answer::Ok(show(call, &made)?))
}

pub(crate) fn patch(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let policy = find_any(control, call.text("policy"))?;
    let input = call.json::<Patch>()?.properties.replication_provider_settings;
    Ok(Answer::Ok(show(call, &update(control, policy, &input)?)?))
}

/// Of the pair: the failback policy goes with its policy.
pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    match find_any(control, call.text("policy")) {
        Err(error) if error.status == StatusCode::NOT_FOUND => {}
        Err(error) => return Err(error),
        Ok(Policy::Draft(draft)) => control.delete_policy_draft(&draft.name)?,
        Ok(Policy::Group(group)) if group.towards == Side::Home => {
            let message = format!("the failback policy of {} cannot be deleted alone", group.twin);
            return Err(ArmError::invalid(message).remedy(format!("delete the policy {}", group.twin)));
        }
        Ok(Policy::Group(group)) => control.delete_group(&group.name)?,
    }
    Ok(Answer::NoContent)
}

/// The group of a policy's name or id.
pub(crate) fn find(control: &Control, policy: &str) -> Result<ProtectionGroup, ArmError> {
    match find_any(control, policy)? {
        Policy::Group(group) => Ok(*group),
        Policy::Draft(draft) => {
            Err(ArmError::invalid(format!("the policy {} is not mapped to a container yet", draft.name))
                .cause("it does not say between which sites machines are replicated")
                .remedy("make a container mapping for it, from the home container to the recovery site's"))
        }
    }
}

/// The draft of a policy's name or id, if it is one.
pub(crate) fn find_draft(control: &Control, policy: &str) -> Result<Option<PolicyDraft>, ArmError> {
    match find_any(control, policy)? {
        Policy::Group(_) => Ok(None),
        Policy::Draft(draft) => Ok(Some(draft)),
    }
}

/// A policy of the contract.
enum Policy {
    /// Of a group or its failback twin.
    Group(Box<ProtectionGroup>),
    /// Not mapped yet.
    Draft(PolicyDraft),
}

impl Policy {
    fn name(&self) -> String {
        match self {
            Self::Group(group) => policy_name(group),
            Self::Draft(draft) => draft.name.to_string(),
        }
    }
}

fn find_any(control: &Control, policy: &str) -> Result<Policy, ArmError> {
    let not_found = || ArmError::not_found("replication policy", policy);
    let wanted = name_in(policy, "replicationPolicies").ok_or_else(not_found)?;
    if let Some(group) = group_of_policy(&control.groups()?, &wanted) {
        return Ok(Policy::Group(Box::new(group.clone())));
    }
    let draft = control.policy_drafts()?.into_iter().find(|draft| is_name(&draft.name, &wanted));
    draft.map(Policy::Draft).ok_or_else(not_found)
}

fn is_name(name: &ObjectName, wanted: &str) -> bool {
    name.as_str().eq_ignore_ascii_case(wanted)
}

fn update(control: &Control, policy: Policy, input: &Input) -> Result<Policy, ArmError> {
    match policy {
        Policy::Group(group) => {
            check_provider(input, group.towards)?;
            let policy = changed(group.policy, input)?;
            Ok(Policy::Group(Box::new(control.update_policy(&group.name, &policy)?)))
        }
        Policy::Draft(draft) => {
            check_provider(input, Side::Away)?;
            let draft = PolicyDraft { policy: changed(draft.policy, input)?, name: draft.name };
            control.put_policy_draft(&draft)?;
            Ok(Policy::Draft(draft))
        }
    }
}

fn check_provider(input: &Input, towards: Side) -> Result<(), ArmError> {
    let expected = state::provider(towards);
    if input.instance_type == expected {
        return Ok(());
    }
    Err(ArmError::invalid(format!(
        "instanceType is {:?}; for a policy towards {towards} it is {expected:?}",
        input.instance_type
    )))
}

fn show(call: &Call, policy: &Policy) -> Result<Value, ArmError> {
    let name = policy.name();
    let details = match policy {
        Policy::Group(group) => details(group.towards, &group.policy),
        Policy::Draft(draft) => details(Side::Away, &draft.policy),
    };
    let properties = Properties { friendly_name: name.clone(), provider_specific_details: details };
    resource(call.vault.policy(&name), &name, "replicationPolicies", properties)
}

fn details(towards: Side, policy: &ReplicationPolicy) -> Details {
    let history_ms = policy.retention.steps.last().map_or(0, |step| step.until_age_ms);
    Details {
        instance_type: state::provider(towards),
        crash_consistent_frequency_in_minutes: (towards == Side::Away).then(|| minutes(policy.interval_ms)),
        recovery_point_threshold_in_minutes: minutes(policy.rpo_threshold_ms),
        recovery_point_history: minutes(history_ms),
        app_consistent_frequency_in_minutes: minutes(policy.app_interval_ms),
        multi_vm_sync_status: if policy.multi_vm { "Enabled" } else { "Disabled" },
    }
}

/// Whole minutes, rounded up: what is below a minute is not "none".
fn minutes(ms: u64) -> i32 {
    i32::try_from(ms.div_ceil(MINUTE_MS)).unwrap_or(i32::MAX)
}

/// The policy with what the input says.
fn changed(mut policy: ReplicationPolicy, input: &Input) -> Result<ReplicationPolicy, ArmError> {
    let fields = [
        (
            input.crash_consistent_frequency_in_minutes,
            &mut policy.interval_ms,
            "crashConsistentFrequencyInMinutes",
            1,
        ),
        (
            input.recovery_point_threshold_in_minutes,
            &mut policy.rpo_threshold_ms,
            "recoveryPointThresholdInMinutes",
            1,
        ),
        (
            input.app_consistent_frequency_in_minutes,
            &mut policy.app_interval_ms,
            "appConsistentFrequencyInMinutes",
            0,
        ),
    ];
    for (given, field, title, least) in fields {
        let Some(given) = given else { continue };
        let value = at_least(given, least, title)?;
        if given != minutes(*field) {
            *field = value * MINUTE_MS;
        }
    }
    if let Some(given) = input.recovery_point_history {
        let value = at_least(given, 1, "recoveryPointHistory")?;
        let now_ms = policy.retention.steps.last().map_or(0, |step| step.until_age_ms);
        if given != minutes(now_ms) {
            policy.retention = RetentionPolicy { steps: history(value * MINUTE_MS), ..policy.retention };
        }
    }
    match input.multi_vm_sync_status.as_deref() {
        None => {}
        Some("Enable" | "Enabled") => policy.multi_vm = true,
        Some("Disable" | "Disabled") => policy.multi_vm = false,
        Some(other) => {
            return Err(ArmError::invalid(format!("multiVmSyncStatus is Enable or Disable, not {other:?}")));
        }
    }
    Ok(policy)
}

fn at_least(given: i32, least: u64, title: &str) -> Result<u64, ArmError> {
    let value = u64::try_from(given).ok().filter(|value| *value >= least);
    value.ok_or_else(|| ArmError::invalid(format!("{title} must be {least} or more, not {given}")))
}

/// A schedule that reaches so far back: the default one, cut or stretched. It keeps all points of a day, then one an hour for three days, then one a day.
fn history(reach_ms: u64) -> Vec<Thinning> {
    let mut steps = Vec::new();
    for (until_age_ms, every_ms) in [(24 * HOUR_MS, 0), (72 * HOUR_MS, HOUR_MS), (u64::MAX, 24 * HOUR_MS)] {
        steps.push(Thinning { until_age_ms: until_age_ms.min(reach_ms), every_ms });
        if until_age_ms >= reach_ms {
            break;
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use switchback_model::{ProtectionGroup, ReplicationPolicy};

    use super::{HOUR_MS, Input, MINUTE_MS, changed, check_provider, details, history};

    fn pair() -> (ProtectionGroup, ProtectionGroup) {
        let name = |text: &str| text.parse().unwrap();
        ProtectionGroup::pair(name("PG1"), name("home"), name("recovery"), ReplicationPolicy::default())
            .unwrap()
    }

    #[test]
    fn a_failback_policy_shows_what_the_recorded_one_shows() {
        let recorded: Value =
            serde_json::from_str(include_str!("../../tests/contract/recorded.json")).unwrap();
        let (_, twin) = pair();
        let shown = serde_json::to_value(details(twin.towards, &twin.policy)).unwrap();
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(fields(&shown), fields(&recorded["failbackPolicyDetails"]));
        assert_eq!(shown["instanceType"], recorded["failbackPolicyDetails"]["instanceType"]);
    }

    #[test]
    fn what_is_sent_back_as_it_was_shown_changes_nothing() {
        let (group, _) = pair();
        let shown = serde_json::to_value(details(group.towards, &group.policy)).unwrap();
        let input: Input = serde_json::from_value(shown.clone()).unwrap();
        assert_eq!(changed(group.policy.clone(), &input).unwrap(), group.policy, "{shown}");
    }

    #[test]
    fn what_is_said_changes_and_nothing_else() {
        let before = ReplicationPolicy::default();
        let input: Input = serde_json::from_value(json!({
            "instanceType": "InMageAzureV2", "crashConsistentFrequencyInMinutes": 5, "recoveryPointHistory": 2880, "multiVmSyncStatus": "Enable",
        }))
        .unwrap();
        let after = changed(before.clone(), &input).unwrap();
        assert_eq!((after.interval_ms, after.multi_vm), (5 * MINUTE_MS, true));
        assert_eq!(
            (after.rpo_threshold_ms, after.freeze_budget_ms),
            (before.rpo_threshold_ms, before.freeze_budget_ms)
        );
        assert_eq!(after.retention.steps, history(48 * HOUR_MS));
    }

    #[test]
    fn a_history_reaches_as_far_as_asked() {
        for hours in [1, 24, 30, 72, 100, 360, 2000] {
            let steps = history(hours * HOUR_MS);
            assert_eq!(steps.last().unwrap().until_age_ms, hours * HOUR_MS);
            assert!(steps.windows(2).all(|pair| pair[0].until_age_ms < pair[1].until_age_ms));
        }
        assert_eq!(history(360 * HOUR_MS), ReplicationPolicy::default().retention.steps);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            json!({ "recoveryPointHistory": 0 }),
            json!({ "crashConsistentFrequencyInMinutes": -1 }),
            json!({ "multiVmSyncStatus": "perhaps" }),
        ] {
            let input: Input = serde_json::from_value(bad.clone()).unwrap();
            assert!(changed(ReplicationPolicy::default(), &input).is_err(), "{bad}");
        }
        let (group, twin) = pair();
        let input = Input { instance_type: "InMage".into(), ..Input::default() };
        assert!(check_provider(&input, twin.towards).is_ok());
        assert!(check_provider(&input, group.towards).is_err());
    }
}
