//! Which recovery point: from the contract's words to ours.
//!
//! ```text
//! recoveryPointId                          that very point, by its name (or id); its number alone, if nothing else is known of it
//! recoveryPointType of InMage              LatestTime · LatestTag (app-consistent) · Custom (with recoveryPointId)
//! … of plans and InMageAzureV2             Latest · LatestProcessed · LatestApplicationConsistent · LatestCrashConsistent
//!   with useMultiVmSyncPoint               the same, of the multi-VM points
//! … of machines that have multi-VM points  LatestMultiVmCrashConsistent · LatestMultiVmProcessed · LatestMultiVmAppConsistent
//! ```
//! Nothing said is the newest that can be had. Something said that is not known is refused, never taken for the newest.

use serde::Deserialize;
use switchback_control::Control;
use switchback_model::{ObjectName, PointChoice, ProtectedItem, RecoveryPoint, Seq};

use super::error::ArmError;
use super::id::{name_in, point_name};

/// What inputs of failovers say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct PointInput {
    pub(crate) recovery_point_type: Option<String>,
    pub(crate) recovery_point_id: Option<String>,
    pub(crate) use_multi_vm_sync_point: Option<String>,
}

/// The choice of an input that names no particular point.
pub(crate) fn by_type(input: &PointInput) -> Result<PointChoice, ArmError> {
    use PointChoice::{
        Latest, LatestAppConsistent, LatestMultiVm, LatestMultiVmAppConsistent, LatestProcessed,
    };
    let kind = input.recovery_point_type.as_deref().unwrap_or("Latest");
    let is = |wanted: &str| kind.eq_ignore_ascii_case(wanted);
    let choice = if is("Latest") || is("LatestTime") || kind.is_empty() {
        Latest
    } else if is("LatestProcessed") || is("LatestCrashConsistent") {
        LatestProcessed
    } else if is("LatestApplicationConsistent") || is("LatestTag") {
        LatestAppConsistent
    } else if is("LatestMultiVmCrashConsistent") || is("LatestMultiVmProcessed") {
        LatestMultiVm
    } else if is("LatestMultiVmAppConsistent") {
        LatestMultiVmAppConsistent
    } else {
        return Err(ArmError::invalid(format!("the recoveryPointType {kind:?} is not known")).remedy(
            "Latest, LatestProcessed, LatestApplicationConsistent, LatestCrashConsistent, LatestMultiVmProcessed, \
             LatestMultiVmAppConsistent; for InMage LatestTime, LatestTag, or Custom with a recoveryPointId",
        ));
    };
    Ok(match choice {
        Latest | LatestProcessed if is_multi_vm(input)? => LatestMultiVm,
        LatestAppConsistent if is_multi_vm(input)? => LatestMultiVmAppConsistent,
        other => other,
    })
}

fn is_multi_vm(input: &PointInput) -> Result<bool, ArmError> {
    match input.use_multi_vm_sync_point.as_deref().map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "false" | "disable" | "disabled" | "no") => Ok(false),
        Some("true" | "enable" | "enabled" | "yes") => Ok(true),
        Some(other) => Err(ArmError::invalid(format!("useMultiVmSyncPoint is true or false, not {other:?}"))),
    }
}

/// The choice of an input for one machine.
pub(crate) fn of_item(
    control: &Control,
    item: &ProtectedItem,
    input: &PointInput,
) -> Result<PointChoice, ArmError> {
    let id = input.recovery_point_id.as_deref().filter(|id| !id.is_empty());
    let is_custom =
        input.recovery_point_type.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("Custom"));
    match id {
        Some(id) if is_custom || input.recovery_point_type.is_none() => {
            Ok(PointChoice::Point { seq: find(&control.recovery_points(&item.name)?, item, id)?.seq })
        }
        Some(_) => Err(ArmError::invalid(
            "recoveryPointId and a recoveryPointType other than Custom contradict each other",
        )),
        None if is_custom => Err(ArmError::invalid("the recoveryPointType Custom takes a recoveryPointId")),
        None => by_type(input),
    }
}

/// The point of a name, an id or a number.
pub(crate) fn find<'a>(
    points: &'a [RecoveryPoint],
    item: &ProtectedItem,
    id: &str,
) -> Result<&'a RecoveryPoint, ArmError> {
    let owner = super::id::named_segment(id, "replicationProtectedItems");
    let of_another = owner.is_some_and(|owner| owner.parse::<ObjectName>().ok().as_ref() != Some(&item.name));
    let wanted = name_in(id, "recoveryPoints").filter(|_| !of_another).unwrap_or_default();
    let number = wanted.parse().ok().map(Seq);
    let is_wanted = |point: &&RecoveryPoint| {
        Some(point.seq) == number
            || point_name(item.machine, point.seq, point.time).eq_ignore_ascii_case(&wanted)
    };
    points.iter().find(is_wanted).ok_or_else(|| {
        ArmError::not_found("recovery point", id)
            .cause("it has been pruned meanwhile, it belongs to the other direction, or to another machine")
            .remedy("look at the machine's recovery points again")
    })
}

#[cfg(test)]
mod tests {
    use switchback_model::PointChoice;

    use super::{PointInput, by_type};

    fn choice(kind: Option<&str>, multi_vm: Option<&str>) -> Option<PointChoice> {
        let input = PointInput {
            recovery_point_type: kind.map(Into::into),
            use_multi_vm_sync_point: multi_vm.map(Into::into),
            recovery_point_id: None,
        };
        by_type(&input).ok()
    }

    #[test]
    fn each_word_of_the_contract_has_its_choice() {
        use PointChoice::{
            Latest, LatestAppConsistent, LatestMultiVm, LatestMultiVmAppConsistent, LatestProcessed,
        };
        let cases = [
            (None, None, Some(Latest)),
            (Some("Latest"), None, Some(Latest)),
            (Some("LatestTime"), None, Some(Latest)),
            (Some("latestprocessed"), None, Some(LatestProcessed)),
            (Some("LatestCrashConsistent"), None, Some(LatestProcessed)),
            (Some("LatestApplicationConsistent"), None, Some(LatestAppConsistent)),
            (Some("LatestTag"), Some("false"), Some(LatestAppConsistent)),
            (Some("Latest"), Some("true"), Some(LatestMultiVm)),
            (Some("LatestProcessed"), Some("Enabled"), Some(LatestMultiVm)),
            (Some("LatestApplicationConsistent"), Some("true"), Some(LatestMultiVmAppConsistent)),
            (Some("LatestMultiVmCrashConsistent"), None, Some(LatestMultiVm)),
            (Some("LatestMultiVmAppConsistent"), None, Some(LatestMultiVmAppConsistent)),
            (Some("Newest"), None, None),
            (Some("Custom"), None, None),
            (Some("Latest"), Some("maybe"), None),
        ];
        for (kind, multi_vm, expected) in cases {
            assert_eq!(choice(kind, multi_vm), expected, "{kind:?} {multi_vm:?}");
        }
    }
}
