//! Which disks a replica has, and which of them its points hold, while it is changed under its source: a part of the histories' world.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use switchback_model::{DiskIndex, Extent, ObjectName, RecoveryPoint, ReplicaId, Seq, UnixMillis};
use switchback_replica::sim::Faults;
use switchback_replica::{BlobDisk, ReplicaError};

use crate::history::World;
use crate::source::SIZES;

/// Disks, with those that were removed: few, so that all of it happens.
const DISKS_MAX: usize = 5;

/// The disks as they should be, and what each point should lack.
pub(crate) struct Shape {
    disks: Vec<BlobDisk>,
    /// A disk that comes or goes: it may have done so already.
    doubtful: Option<DiskIndex>,
    seeding: BTreeSet<DiskIndex>,
    pub(crate) points: BTreeMap<Seq, BTreeSet<DiskIndex>>,
    named: usize,
}

impl Shape {
    pub(crate) fn new() -> Self {
        let of = |(disk, size)| BlobDisk { blob: Some(format!("disk-{disk}.vhd")), size };
        Self {
            disks: SIZES.into_iter().enumerate().map(of).collect(),
            doubtful: None,
            seeding: BTreeSet::new(),
            points: BTreeMap::new(),
            named: SIZES.len(),
        }
    }

    fn removed(&self) -> impl Iterator<Item = DiskIndex> + '_ {
        let numbered = (0..).map(DiskIndex).zip(&self.disks);
        numbered.filter(|(_, disk)| disk.blob.is_none()).map(|(disk, _)| disk)
    }

    pub(crate) fn present(&self) -> usize {
        self.disks.len() - self.removed().count()
    }

    /// A point came of a commit that said so of these.
    pub(crate) fn committed(&mut self, seq: Seq, whole: &[DiskIndex]) {
        self.seeding.retain(|disk| !whole.contains(disk));
        self.points.insert(seq, self.seeding.iter().copied().chain(self.removed()).collect());
    }

    /// A point holds what it should, and its clones are of that.
    pub(crate) fn expect(&self, point: &RecoveryPoint, blobs: &[String], when: &str) {
        let without = |disks: &BTreeSet<DiskIndex>| {
            disks.iter().copied().filter(|disk| Some(*disk) != self.doubtful).collect::<Vec<_>>()
        };
        let lacks: BTreeSet<_> = point.lacks.iter().copied().collect();
        assert_eq!(without(&lacks), without(&self.points[&point.seq]), "{when}: point {}", point.seq);
        for (disk, blob) in (0..).map(DiskIndex).zip(blobs) {
            assert_eq!(blob.is_empty(), lacks.contains(&disk), "{when}: disk {disk} of point {}", point.seq);
        }
    }
}

impl World {
    /// A disk comes, and its source hears of it then; or one goes, of which its source does not hear.
    pub(crate) fn reshape(&mut self, rng: &mut ChaCha8Rng) {
        let mut wanted = self.shape.disks.clone();
        let comes = rng.random_bool(0.6);
        let disk = if comes {
            if self.replica().points().is_empty() || wanted.len() == DISKS_MAX {
                return;
            }
            let blob = Some(format!("disk-{}.vhd", self.shape.named));
            self.shape.named += 1;
            wanted.push(BlobDisk { blob, size: SIZES[1] + 512 });
            wanted.len() - 1
        } else {
            let gone = rng.random_range(0..wanted.len());
            if wanted[gone].blob.take().is_none() || self.shape.present() == 1 {
                return;
            }
            gone
        };
        let index = DiskIndex(u16::try_from(disk).unwrap());
        self.shape.doubtful = Some(index);
        for attempt in 0.. {
            assert!(attempt < 200, "200 attempts failed");
            match self.replica().reshape(&wanted) {
                Ok(()) => break,
                Err(error) => self.survive(Err(error)),
            }
        }
        self.shape.doubtful = None;
        self.shape.points.values_mut().for_each(|lacks| lacks.extend([index]));
        self.shape.disks = wanted;
        self.shape.seeding.remove(&index);
        if comes {
            self.shape.seeding.insert(index);
            self.source.seeding.insert(index);
            let size = self.shape.disks[disk].size;
            self.source.disks.push((0..size).map(|_| rng.random_range(0..3)).collect());
            self.source.dirty.push([Extent::new(0, size)].into_iter().collect());
        }
    }

    /// Another history, whose disks are counted anew: without the last one, if there is another, and with a new one.
    pub(crate) fn begin_anew(&mut self) {
        let replica = self.replica();
        let former: Vec<_> = (0..).zip(&self.shape.disks).filter(|(_, disk)| disk.blob.is_some()).collect();
        let kept = &former[..1.max(former.len() - 1)];
        let mut disks: Vec<_> = kept.iter().map(|(_, disk)| (*disk).clone()).collect();
        disks.push(BlobDisk { blob: Some("disk-99.vhd".into()), size: SIZES[0] });
        let newest = replica.points().pop();
        replica.begin_anew(ReplicaId([8; 16]), Some(&disks), UnixMillis(1)).unwrap();
        assert_eq!(self.account.blobs().len(), 1 + 2 * disks.len(), "{:?}", self.account.blobs());
        let Some(newest) = newest else { return };
        let name: ObjectName = "anew".parse().unwrap();
        let blobs = replica.view(&name, Seq(0)).unwrap();
        assert_eq!(blobs.len(), disks.len());
        assert!(blobs.last().unwrap().is_empty(), "there was no such disk");
        for ((number, _), blob) in kept.iter().zip(&blobs) {
            assert_eq!(blob.is_empty(), newest.lacks.contains(&DiskIndex(*number)));
            if !blob.is_empty() {
                let held = self.account.contents(blob).unwrap();
                assert!(held.starts_with(&self.points[&newest.seq][usize::from(*number)]), "disk {number}");
            }
        }
        replica.drop_view(&name).unwrap();
        assert_eq!(replica.fsck(|_, _| {}).unwrap().findings, []);
    }
}

/// A build that knows nothing of disks that come and go reads formats 1 and 2, and refuses others.
#[test]
fn what_an_older_build_would_misread_has_a_format_of_its_own() {
    let mut world = World::new(1, Faults::default());
    let format = |world: &World| {
        let manifest = world.account.contents("manifest").unwrap();
        String::from_utf8_lossy(&manifest).split(' ').nth(1).unwrap().to_owned()
    };
    world.cycle(&mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(format(&world), "2");
    let with = |name: &str, size| BlobDisk { blob: Some(name.into()), size };
    let two = [with("disk-0.vhd", SIZES[0]), with("disk-1.vhd", SIZES[1])];
    let three = [&two[..], &[with("disk-2.vhd", 512)]].concat();
    world.replica().reshape(&three).unwrap();
    assert_eq!(format(&world), "3");
    let account = world.account.clone();
    account.tamper("manifest", |data| {
        let at = data.iter().position(|byte| *byte == b'3').unwrap();
        data[at] = b'2';
        Some(())
    });
    let refused = switchback_replica::ReplicaSummary::read_blobs(&*account.connect()).unwrap_err();
    assert!(refused.to_string().contains("format"), "{refused}");
}

#[test]
fn what_is_no_change_of_disks_is_refused_and_changes_nothing() {
    let mut world = World::new(1, Faults::default());
    let with = |name: &str, size| BlobDisk { blob: Some(name.into()), size };
    let two = [with("disk-0.vhd", SIZES[0]), with("disk-1.vhd", SIZES[1])];
    let gone = |size| BlobDisk { blob: None, size };
    let early = world.replica().reshape(&[&two[..], &[with("disk-2.vhd", 512)]].concat());
    assert!(matches!(early, Err(ReplicaError::Protocol { .. })), "{early:?}");
    world.cycle(&mut ChaCha8Rng::seed_from_u64(1));
    world.replica().reshape(&[two[0].clone(), gone(SIZES[1])]).unwrap();
    let before = world.account.contents("manifest");
    world.replica().reshape(&[two[0].clone(), gone(SIZES[1])]).unwrap();
    for disks in [
        two.to_vec(),
        vec![gone(SIZES[0]), gone(SIZES[1])],
        vec![two[0].clone()],
        vec![with("disk-9.vhd", SIZES[0]), gone(SIZES[1])],
        vec![with("disk-0.vhd", SIZES[1]), gone(SIZES[1])],
    ] {
        let refused = world.replica().reshape(&disks);
        assert!(matches!(refused, Err(ReplicaError::DisksChanged { .. })), "{disks:?}: {refused:?}");
    }
    assert_eq!(world.account.contents("manifest"), before);
    assert!(world.account.contents("disk-1.vhd").is_none());
}
