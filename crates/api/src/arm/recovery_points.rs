//! `recoveryPoints`: what a machine can be failed over to now.

use serde::Serialize;
use serde_json::Value;
use switchback_control::Control;
use switchback_model::{Consistency, ProtectedItem, RecoveryPoint};

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::id::point_name;
use super::page::page;
use super::point_choice;
use super::protected_items;
use super::resource::resource;
use super::state;
use super::time;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    recovery_point_time: String,
    recovery_point_type: &'static str,
    provider_specific_details: Details,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    instance_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_multi_vm_sync_point: Option<&'static str>,
}

/// Newest first.
pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let item = protected_items::find(control, call)?.item;
    let points = control.recovery_points(&item.name)?.into_iter();
    let points = points.map(|point| (format!("{:020}", u64::MAX - point.seq.0), point)).collect();
    Answer::of(&page(call, points, |point| show(call, &item, &point))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let item = protected_items::find(control, call)?.item;
    let points = control.recovery_points(&item.name)?;
    Ok(Answer::Ok(show(call, &item, point_choice::find(&points, &item, call.text("point"))?)?))
}

fn show(call: &Call, item: &ProtectedItem, point: &RecoveryPoint) -> Result<Value, ArmError> {
    let name = point_name(item.machine, point.seq, point.time);
    let provider = state::provider(state::pair_target(&item.protection));
    let multi_vm = if point.group_tag.is_some() { "Yes" } else { "No" };
    let properties = Properties {
        recovery_point_time: time::show(point.time),
        recovery_point_type: match point.consistency {
            Consistency::AppConsistent => "ApplicationConsistent",
            Consistency::CrashConsistent => "CrashConsistent",
            Consistency::Fuzzy => "Fuzzy",
        },
        provider_specific_details: Details {
            instance_type: provider,
            is_multi_vm_sync_point: (provider == state::AWAY).then_some(multi_vm),
        },
    };
    let kinds = "replicationFabrics/replicationProtectionContainers/replicationProtectedItems/recoveryPoints";
    resource(call.vault.recovery_point(&item.home.site, &item.name, &name), &name, kinds, properties)
}
