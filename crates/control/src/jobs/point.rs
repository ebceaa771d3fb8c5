//! Choosing a recovery point.

use switchback_model::{Consistency, FailoverRecord, ObjectName, PointChoice, ProtectedItem, RecoveryPoint};

use crate::desired::Facts;
use crate::items::points;
use crate::{ControlError, ErrorKind};

/// The point of a machine that a choice means.
pub(crate) fn choose(
    item: &ProtectedItem,
    points: &[RecoveryPoint],
    choice: &PointChoice,
) -> Result<RecoveryPoint, ControlError> {
    let newest =
        |wanted: &dyn Fn(&RecoveryPoint) -> bool| points.iter().rev().find(|point| wanted(point)).cloned();
    let found = match choice {
        PointChoice::Latest | PointChoice::LatestProcessed => newest(&|_| true),
        PointChoice::LatestAppConsistent => newest(&|point| point.consistency == Consistency::AppConsistent),
        PointChoice::LatestMultiVm => newest(&|point| point.group_tag.is_some()),
        PointChoice::LatestMultiVmAppConsistent => {
            newest(&|point| point.group_tag.is_some() && point.consistency == Consistency::AppConsistent)
        }
        PointChoice::Point { seq } => newest(&|point| point.seq == *seq),
        PointChoice::Tag { tag } => newest(&|point| point.group_tag.as_deref() == Some(tag)),
    };
    found.ok_or_else(|| {
        let name = &item.name;
        if points.is_empty() {
            return ControlError::new(
                ErrorKind::IllegalState,
                "failover.no-recovery-point",
                format!("{name} has no recovery point"),
            )
            .cause("its initial replication or resync has not ended")
            .remedy("wait for the first recovery point");
        }
        let (first, last) = (points[0].seq, points[points.len() - 1].seq);
        ControlError::new(
            ErrorKind::Invalid,
            "failover.no-such-point",
            format!("{name} has no recovery point that is {choice}"),
        )
        .cause(format!("it has {} points, {first} to {last}, and none of them is", points.len()))
        .remedy("choose one that `recovery-point list` shows")
    })
}

/// The newest multi-VM moment that all these machines have a point of.
pub(crate) fn newest_common_tag(
    facts: &Facts,
    machines: &[ObjectName],
    app_consistent: bool,
) -> Result<String, ControlError> {
    let mut common: Option<Vec<(u64, String)>> = None;
    for machine in machines {
        let item = facts
            .items
            .iter()
            .find(|item| item.name == *machine)
            .ok_or_else(|| ControlError::not_found("protected machine", machine))?;
        let tags = points(facts, item)
            .into_iter()
            .filter(|point| !app_consistent || point.consistency == Consistency::AppConsistent);
        let tags: Vec<_> = tags.filter_map(|point| Some((point.time.0, point.group_tag?))).collect();
        common = Some(match common {
            None => tags,
            Some(common) => {
                common.into_iter().filter(|(_, tag)| tags.iter().any(|(_, other)| other == tag)).collect()
            }
        });
    }
    let newest = common.unwrap_or_default().into_iter().max();
    newest.map(|(_, tag)| tag).ok_or_else(|| {
        let names = machines.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        ControlError::new(
            ErrorKind::IllegalState,
            "failover.no-common-point",
            format!("{names} have no multi-VM recovery point in common"),
        )
        .cause("multi-VM consistency is off in their group, or not all of them were replicating together yet")
        .remedy("choose another kind of point, or wait for the next multi-VM moment")
    })
}

pub(crate) fn record_of(point: &RecoveryPoint, planned: bool) -> FailoverRecord {
    FailoverRecord {
        seq: point.seq,
        time: point.time,
        consistency: point.consistency,
        group_tag: point.group_tag.clone(),
        planned,
        lacks: point.lacks.clone(),
    }
}

#[cfg(test)]
mod tests {
    use switchback_model::{Consistency, PointChoice, RecoveryPoint, Seq, UnixMillis};

    use super::choose;
    use crate::testing::item;

    fn point(seq: u64, app: bool, tag: Option<&str>) -> RecoveryPoint {
        let consistency = if app { Consistency::AppConsistent } else { Consistency::CrashConsistent };
        RecoveryPoint {
            seq: Seq(seq),
            time: UnixMillis(seq * 1000),
            consistency,
            group_tag: tag.map(Into::into),
            lacks: Vec::new(),
        }
    }

    #[test]
    fn each_choice_finds_the_newest_of_its_kind_or_says_what_there_is() {
        let points = [point(1, true, Some("g/1")), point(2, false, Some("g/2")), point(3, false, None)];
        let chosen = |choice| choose(&item("web01"), &points, &choice).map(|point| point.seq.0);
        assert_eq!(chosen(PointChoice::Latest), Ok(3));
        assert_eq!(chosen(PointChoice::LatestMultiVm), Ok(2));
        assert_eq!(chosen(PointChoice::LatestAppConsistent), Ok(1));
        assert_eq!(chosen(PointChoice::LatestMultiVmAppConsistent), Ok(1));
        assert_eq!(chosen(PointChoice::Point { seq: Seq(2) }), Ok(2));
        assert_eq!(chosen(PointChoice::Tag { tag: "g/1".into() }), Ok(1));
        let error = chosen(PointChoice::Point { seq: Seq(9) }).unwrap_err();
        assert!(error.to_string().contains("1 to 3"), "{error}");
        let none = choose(&item("web01"), &[], &PointChoice::Latest).unwrap_err();
        assert_eq!(none.error.code, "failover.no-recovery-point");
    }
}
