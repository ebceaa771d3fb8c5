//! What every replica asks of its callers, wherever it keeps its data: the order of calls, and what fits what.

use switchback_delta::nodes_of_disk;
use switchback_model::{DiskIndex, GenerationId};

use crate::{CommitCycle, CycleKind, DiskSpec, OpenCycle, OpenCycleStatus, PartHeader, ReplicaError};

fn refuse<T>(detail: String) -> Result<T, ReplicaError> {
    Err(ReplicaError::Protocol { detail })
}

/// The source's disks are those the replica was made for.
pub(crate) fn same_disks(replica: &[DiskSpec], source: &[DiskSpec]) -> Result<(), ReplicaError> {
    if replica == source {
        return Ok(());
    }
    let sizes = |disks: &[DiskSpec]| disks.iter().map(|disk| disk.size).collect::<Vec<_>>();
    let detail = format!(
        "the replica has disks of {:?} bytes, the source now has {:?}",
        sizes(replica),
        sizes(source)
    );
    Err(ReplicaError::DisksChanged { detail })
}

/// The same, but for disks that were added, of which the source need not have heard yet: no point holds them before it has.
pub(crate) fn known_disks(
    replica: &[DiskSpec],
    lacking: &[DiskIndex],
    source: &[DiskSpec],
) -> Result<(), ReplicaError> {
    let unheard_of = (0..).map(DiskIndex).take(replica.len()).skip(source.len());
    if source.len() < replica.len() && unheard_of.into_iter().all(|disk| lacking.contains(&disk)) {
        return same_disks(&replica[..source.len()], source);
    }
    same_disks(replica, source)
}

/// Whether a request joins the cycle that is open.
pub(crate) fn joins(open: Option<&OpenCycleStatus>, request: &OpenCycle) -> bool {
    open.is_some_and(|open| {
        open.generation == request.generation
            && std::mem::discriminant(&open.kind) == std::mem::discriminant(&request.kind)
    })
}

/// Changed blocks follow points of their own generation only.
pub(crate) fn may_follow(last: Option<GenerationId>, request: &OpenCycle) -> Result<(), ReplicaError> {
    if !matches!(request.kind, CycleKind::Changes) || last == Some(request.generation) {
        return Ok(());
    }
    let detail = match last {
        Some(other) => {
            format!("the last point was tracked by generation {other}, not {}", request.generation)
        }
        None => "no changed blocks can follow the replica's last point".into(),
    };
    Err(ReplicaError::ResyncNeeded { detail })
}

/// `header` is the next part of the open cycle.
pub(crate) fn expect_part(
    open: Option<&OpenCycleStatus>,
    disks: usize,
    header: PartHeader,
) -> Result<(), ReplicaError> {
    let Some(open) = open else { return refuse("no cycle is open".into()) };
    if header.seq != open.seq || header.part != open.next_part {
        return refuse(format!(
            "part {} of cycle {} was begun, the next is part {} of cycle {}",
            header.part, header.seq, open.next_part, open.seq
        ));
    }
    if usize::from(header.disk.0) >= disks {
        return refuse(format!("there is no disk {}", header.disk));
    }
    Ok(())
}

/// A commit is of the open cycle as it is.
pub(crate) fn expect_commit(
    open: Option<&OpenCycleStatus>,
    commit: &CommitCycle,
) -> Result<(), ReplicaError> {
    if open.is_some_and(|open| open.seq == commit.seq && open.next_part.0 == commit.parts) {
        return Ok(());
    }
    refuse(format!("commit of cycle {} with {} parts; open is {open:?}", commit.seq, commit.parts))
}

/// The size of a disk that has all of these nodes.
pub(crate) fn expect_nodes(disks: &[DiskSpec], disk: DiskIndex, nodes: &[u32]) -> Result<u64, ReplicaError> {
    let Some(spec) = disks.get(usize::from(disk.0)) else {
        return refuse(format!("there is no disk {disk}"));
    };
    match nodes.iter().find(|node| **node >= nodes_of_disk(spec.size)) {
        Some(node) => refuse(format!("disk {disk} has no node {node}")),
        None => Ok(spec.size),
    }
}

/// Nothing but frames, its end and a few questions may come within a part.
pub(crate) fn expect_no_part(part: Option<PartHeader>) -> Result<(), ReplicaError> {
    match part {
        Some(header) => refuse(format!("part {} is not ended", header.part)),
        None => Ok(()),
    }
}

pub(crate) fn no_part() -> ReplicaError {
    ReplicaError::Protocol { detail: "no part has been begun, or it failed".into() }
}
