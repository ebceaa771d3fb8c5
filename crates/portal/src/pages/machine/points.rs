//! Recovery points to choose from, each with what would be lost, in the contract's words for them.

use switchback_api::point_name;
use switchback_control::{Control, ItemView};
use switchback_model::{Consistency, RecoveryPoint, UnixMillis};

use crate::failure::Failure;
use crate::shown::{Moment, span};

/// How many single points a form offers: the newest; the machine's page has them all.
const OFFERED_MAX: usize = 200;

/// A recovery point, or how one is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// What the form says: a `recoveryPointType`, or a point's name in the contract.
    pub(crate) value: String,
    /// What people read.
    pub(crate) text: String,
}

/// The choices of a machine. Empty when there is no point.
pub(super) fn choices(
    control: &Control,
    view: &ItemView,
    now: UnixMillis,
    with_latest: bool,
) -> Result<Vec<Choice>, Failure> {
    let mut points = control.recovery_points(&view.item.name)?;
    points.reverse();
    let newest = |is: &dyn Fn(&RecoveryPoint) -> bool| points.iter().find(|point| is(point));
    let named = [
        ("LatestProcessed", "the newest at the target", newest(&|_| true)),
        (
            "LatestApplicationConsistent",
            "the newest app-consistent one",
            newest(&|point| point.consistency == Consistency::AppConsistent),
        ),
        (
            "LatestMultiVmProcessed",
            "the newest that all machines of the group share",
            newest(&|point| point.group_tag.is_some()),
        ),
        (
            "LatestMultiVmAppConsistent",
            "the newest app-consistent one that all machines of the group share",
            newest(&|point| point.group_tag.is_some() && point.consistency == Consistency::AppConsistent),
        ),
    ];
    let mut choices = Vec::new();
    if let Some(newest) = points.first().filter(|_| with_latest) {
        let text = format!(
            "Latest: what is still on its way is delivered first; at most {} of data are lost",
            span(now.0.saturating_sub(newest.time.0))
        );
        choices.push(Choice { value: "Latest".into(), text });
    }
    for (value, what, point) in named {
        let Some(point) = point else { continue };
        choices.push(Choice { value: value.into(), text: format!("{what}: {}", told(point, now)) });
    }
    choices.extend(points.iter().take(OFFERED_MAX).map(|point| Choice {
        value: point_name(view.item.machine, point.seq, point.time),
        text: format!("point {}: {}", point.seq, told(point, now)),
    }));
    Ok(choices)
}

/// When a point is of, what it is, and how much came after it.
fn told(point: &RecoveryPoint, now: UnixMillis) -> String {
    let moment = Moment::of(point.time, now);
    let multi_vm = if point.group_tag.is_some() { ", multi-VM" } else { "" };
    let lost = span(now.0.saturating_sub(point.time.0));
    format!("{}, {}{multi_vm}; the last {lost} are lost", moment.text, point.consistency)
}

/// `providerSpecificDetails` for a choice that a form made.
pub(super) fn details(provider: &str, value: &str) -> serde_json::Value {
    if value.starts_with(|first: char| first.is_ascii_digit()) {
        return serde_json::json!({ "instanceType": provider, "recoveryPointType": "Custom", "recoveryPointId": value });
    }
    serde_json::json!({ "instanceType": provider, "recoveryPointType": value })
}
