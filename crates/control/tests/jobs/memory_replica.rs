//! A replica at a master target, as far as a configuration server sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use switchback_model::component::{DiskStanding, ReplicaActual, ReplicaDesired, ReplicaMode, Replication};
use switchback_model::{Consistency, DiskIndex, Epoch, RecoveryPoint, ReplicaName, Seq, UnixMillis};

/// A replica at a master target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replica {
    pub(crate) epoch: Epoch,
    pub(crate) points: Vec<RecoveryPoint>,
    pub(crate) reached: Option<ReplicaMode>,
    pub(crate) views: BTreeMap<String, Vec<PathBuf>>,
    /// It is in page blobs, and stands in clones of them.
    pub(crate) in_blobs: bool,
    pub(crate) targets: Vec<PathBuf>,
    seeding: BTreeSet<DiskIndex>,
}

impl Replica {
    pub(crate) fn actual(&self, name: &ReplicaName) -> ReplicaActual {
        ReplicaActual {
            replica: name.clone(),
            epoch: self.epoch,
            reached: self.reached,
            applied: self.points.last().map(|point| point.seq),
            points: self.points.clone(),
            retention_bytes: 0,
            views: self.views.clone(),
            standing: self.clones(),
            targets: self.targets.clone(),
            problem: None,
        }
    }

    /// Those that it stands in: one for each disk, of what the point lacks none.
    fn clones(&self) -> Vec<PathBuf> {
        let Some(ReplicaMode::StandAt { seq }) = self.reached.filter(|_| self.in_blobs) else {
            return Vec::new();
        };
        let point = self.points.iter().find(|point| point.seq == seq).expect("a point that there is");
        let clone = |disk: DiskIndex| match point.lacks.contains(&disk) {
            true => PathBuf::new(),
            false => format!("/clone/{disk}").into(),
        };
        (0..).map(DiskIndex).take(self.targets.len()).map(clone).collect()
    }

    fn removed(&self) -> impl Iterator<Item = DiskIndex> + '_ {
        let targets = (0..).map(DiskIndex).zip(&self.targets);
        targets.filter(|(_, target)| target.as_os_str().is_empty()).map(|(disk, _)| disk)
    }

    /// It is as it should be. What comes to it or leaves it is in no point, and nothing else changes.
    pub(crate) fn follow(&mut self, wanted: &ReplicaDesired) {
        (self.epoch, self.reached) = (wanted.epoch, Some(wanted.mode));
        let image = |view: &String, disk: usize| PathBuf::from(format!("/view/{view}/{disk}"));
        let images = |view: &String| (0..wanted.targets.len()).map(|disk| image(view, disk)).collect();
        self.views = wanted.views.keys().map(|view| (view.clone(), images(view))).collect();
        if wanted.mode != ReplicaMode::Receive {
            assert!(
                self.targets.is_empty() || wanted.targets == self.targets,
                "its disks change while it stands"
            );
            return;
        }
        let came =
            wanted.targets.len().checked_sub(self.targets.len()).expect("a disk's number stays its own");
        let is_new = !self.targets.is_empty();
        for (disk, target) in (0..).map(DiskIndex).zip(&wanted.targets) {
            let before = self.targets.get(usize::from(disk.0));
            assert!(before.is_none_or(|before| before == target || target.as_os_str().is_empty()));
            let comes = is_new && usize::from(disk.0) >= wanted.targets.len() - came;
            if comes {
                self.seeding.insert(disk);
            }
            if (comes || target.as_os_str().is_empty()) && before.is_none_or(|before| before != target) {
                for point in self.points.iter_mut().filter(|point| !point.lacks.contains(&disk)) {
                    point.lacks.push(disk);
                }
            }
        }
        self.targets.clone_from(&wanted.targets);
    }

    /// One more point of what an agent sends. `completes`: the initial replication of what was added is.
    pub(crate) fn cycle(&mut self, replication: &Replication, now: UnixMillis, completes: bool) -> Seq {
        assert!(
            replication.disks.len() <= self.targets.len(),
            "the agent has heard of a disk before the target"
        );
        for (disk, sent) in (0..).map(DiskIndex).zip(&replication.disks) {
            assert_ne!(sent.standing, DiskStanding::Preparing, "that is not for agents");
            if completes && sent.standing == DiskStanding::Adding {
                self.seeding.remove(&disk);
            }
        }
        let removed: BTreeSet<_> = self.removed().collect();
        let seq = self.points.last().map_or(Seq(1), |point| point.seq.next());
        self.points.push(RecoveryPoint {
            seq,
            time: now,
            consistency: Consistency::CrashConsistent,
            group_tag: Some(format!("pg1/{seq}")),
            lacks: self.seeding.union(&removed).copied().collect(),
        });
        seq
    }
}
