//! `switchbackProtectionGroups`: protection groups and their failback twins with everything that their policies can say, to the millisecond.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use switchback_control::{Control, ErrorKind};
use switchback_model::{ObjectName, ProtectionGroup, ReplicationPolicy, RetentionPolicy, Thinning};

use crate::arm::{Answer, ArmError, Call, page, resource};
use crate::openapi::operation::{Operation, delete as remove, get as show_one, get_page, put as make};
use crate::openapi::schema::{
    choice, count, flag, list as many, object, open, or_null, resource as schema, text, titled,
};

/// A policy. What is not said stays as it is, or as the default has it.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Policy {
    interval_ms: Option<u64>,
    app_interval_ms: Option<u64>,
    rpo_threshold_ms: Option<u64>,
    retention: Option<Retention>,
    freeze_budget_ms: Option<u64>,
    /// zstd level; 0: none.
    compression: Option<i32>,
    /// 0: no limit.
    bytes_per_s_max: Option<u64>,
    multi_vm: Option<bool>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Retention {
    steps: Vec<Step>,
    #[serde(default)]
    bytes_max: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Step {
    until_age_ms: u64,
    every_ms: u64,
}

#[derive(Deserialize)]
struct Put {
    properties: PutProperties,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PutProperties {
    #[serde(default)]
    source_site: Option<ObjectName>,
    #[serde(default)]
    target_site: Option<ObjectName>,
    #[serde(default)]
    policy: Policy,
}

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let shown = || {
        let properties = object([
            ("twin", text()),
            ("towards", choice(&["home", "away"])),
            ("sourceSite", text()),
            ("targetSite", text()),
            ("policy", policy_schema()),
        ]);
        schema("SwitchbackProtectionGroup", properties)
    };
    let wanted = object([
        ("sourceSite?", or_null(text())),
        ("targetSite?", or_null(text())),
        ("policy?", policy_schema()),
    ]);
    let one = "switchbackProtectionGroups/{group}";
    vec![
        get_page("switchbackProtectionGroups", list, "Protection groups and their failback twins.", shown()),
        show_one(one, get, "A protection group.", shown()),
        make(one, put, "Makes a group and its twin, or changes what is said of a group's policy.", shown())
            .takes(open(wanted)),
        remove(one, delete, "Removes a group and its twin."),
    ]
}

fn policy_schema() -> Value {
    let step = object([("untilAgeMs", count()), ("everyMs", count())]);
    let retention = object([("steps", many(step)), ("bytesMax?", or_null(count()))]);
    let level = json!({ "type": "integer", "format": "int32" });
    let policy = object([
        ("intervalMs?", or_null(count())),
        ("appIntervalMs?", or_null(count())),
        ("rpoThresholdMs?", or_null(count())),
        ("retention?", or_null(retention)),
        ("freezeBudgetMs?", or_null(count())),
        ("compression?", or_null(level)),
        ("bytesPerSMax?", or_null(count())),
        ("multiVm?", or_null(flag())),
    ]);
    titled("SwitchbackReplicationPolicy", policy)
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let groups = control.groups()?.into_iter().map(|group| (group.name.key(), group)).collect();
    Answer::of(&page(call, groups, |group| show(call, &group))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(call, &control.group(&call.name("group")?)?)?))
}

/// Makes a group and its twin, or changes the policy of one that is there.
pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("group")?;
    let PutProperties { source_site, target_site, policy } = call.json::<Put>()?.properties;
    match control.group(&name) {
        Ok(group) => {
            let differs = |said: Option<&ObjectName>, is: &ObjectName| said.is_some_and(|said| said != is);
            if differs(source_site.as_ref(), &group.source_site)
                || differs(target_site.as_ref(), &group.target_site)
            {
                return Err(ArmError::invalid(format!(
                    "the group {name} leads from {} to {}",
                    group.source_site, group.target_site
                ))
                .remedy("the sites of a group do not change: make another group"));
            }
            let group = control.update_policy(&name, &changed(group.policy, policy))?;
            Ok(Answer::Ok(show(call, &group)?))
        }
        Err(error) if error.kind == ErrorKind::NotFound => {
            let (Some(source), Some(target)) = (source_site, target_site) else {
                return Err(ArmError::invalid(format!(
                    "the new group {name} takes a sourceSite and a targetSite"
                )));
            };
            let (group, _) = control.create_group(
                &name,
                &source,
                &target,
                &changed(ReplicationPolicy::default(), policy),
            )?;
            Ok(Answer::Ok(show(call, &group)?))
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    match control.delete_group(&call.name("group")?) {
        Ok(()) => Ok(Answer::NoContent),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(Answer::NoContent),
        Err(error) => Err(error.into()),
    }
}

fn changed(mut policy: ReplicationPolicy, said: Policy) -> ReplicationPolicy {
    policy.interval_ms = said.interval_ms.unwrap_or(policy.interval_ms);
    policy.app_interval_ms = said.app_interval_ms.unwrap_or(policy.app_interval_ms);
    policy.rpo_threshold_ms = said.rpo_threshold_ms.unwrap_or(policy.rpo_threshold_ms);
    policy.freeze_budget_ms = said.freeze_budget_ms.unwrap_or(policy.freeze_budget_ms);
    policy.multi_vm = said.multi_vm.unwrap_or(policy.multi_vm);
    if let Some(level) = said.compression {
        policy.compression = (level != 0).then_some(level);
    }
    if let Some(limit) = said.bytes_per_s_max {
        policy.bytes_per_s_max = (limit != 0).then_some(limit);
    }
    if let Some(Retention { steps, bytes_max }) = said.retention {
        let steps =
            steps.into_iter().map(|Step { until_age_ms, every_ms }| Thinning { until_age_ms, every_ms });
        policy.retention = RetentionPolicy { steps: steps.collect(), bytes_max };
    }
    policy
}

fn show_policy(policy: &ReplicationPolicy) -> Policy {
    let steps = policy
        .retention
        .steps
        .iter()
        .map(|step| Step { until_age_ms: step.until_age_ms, every_ms: step.every_ms });
    Policy {
        interval_ms: Some(policy.interval_ms),
        app_interval_ms: Some(policy.app_interval_ms),
        rpo_threshold_ms: Some(policy.rpo_threshold_ms),
        retention: Some(Retention { steps: steps.collect(), bytes_max: policy.retention.bytes_max }),
        freeze_budget_ms: Some(policy.freeze_budget_ms),
        compression: Some(policy.compression.unwrap_or(0)),
        bytes_per_s_max: Some(policy.bytes_per_s_max.unwrap_or(0)),
        multi_vm: Some(policy.multi_vm),
    }
}

fn show(call: &Call, group: &ProtectionGroup) -> Result<Value, ArmError> {
    let properties = json!({
        "twin": group.twin,
        "towards": group.towards,
        "sourceSite": group.source_site,
        "targetSite": group.target_site,
        "policy": show_policy(&group.policy),
    });
    let id = call.vault.addition("switchbackProtectionGroups", group.name.as_str());
    resource(id, group.name.as_str(), "switchbackProtectionGroups", properties)
}

#[cfg(test)]
mod tests {
    use switchback_model::ReplicationPolicy;

    use super::{Policy, changed, show_policy};

    #[test]
    fn a_policy_survives_being_shown() {
        let before = ReplicationPolicy {
            compression: Some(3),
            bytes_per_s_max: Some(7),
            multi_vm: true,
            ..ReplicationPolicy::default()
        };
        let shown = serde_json::to_value(show_policy(&before)).unwrap();
        let read: Policy = serde_json::from_value(shown).unwrap();
        assert_eq!(changed(ReplicationPolicy::default(), read), before);
    }

    #[test]
    fn what_is_not_said_stays_and_what_is_misspelt_is_refused() {
        let before = ReplicationPolicy { compression: Some(3), ..ReplicationPolicy::default() };
        let said: Policy = serde_json::from_str(r#"{ "intervalMs": 2000 }"#).unwrap();
        assert_eq!(changed(before.clone(), said), ReplicationPolicy { interval_ms: 2000, ..before.clone() });
        let said: Policy = serde_json::from_str(r#"{ "compression": 0 }"#).unwrap();
        assert_eq!(changed(before, said).compression, None);
        assert!(serde_json::from_str::<Policy>(r#"{ "intervalS": 2 }"#).is_err());
    }
}
