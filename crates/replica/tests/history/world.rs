//! The world of one history: a machine that fails, a replica on it, its source, and the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use switchback_disk::sim::{Restart, SimMachine};
use switchback_disk::{Disk, Volume};
use switchback_model::{DiskIndex, GenerationId, ReplicaId, RetentionPolicy, Seq, UnixMillis, WriterId};
use switchback_replica::{
    DiskReplica, DiskSession, ReadPoint, ReplicaConfig, ReplicaError, ReplicaSession, SessionRequest,
};

use crate::source::{SIZES, Source};

type Contents = Vec<Vec<u8>>;

pub(crate) struct World {
    machine: SimMachine,
    replica: Option<Arc<DiskReplica>>,
    source: Source,
    /// What each point must hold, if it is there.
    points: BTreeMap<Seq, Contents>,
    /// Points that may or may not be there: their commit, pruning or rollback was interrupted.
    doubtful: BTreeSet<Seq>,
    /// Where the replica stands, as far as it has said so.
    standing: Option<Seq>,
    /// What the commit under way will hold.
    in_flight: Option<Contents>,
    power_loss_only: Option<bool>,
    crashes: u64,
}

impl World {
    pub(crate) fn new(seed: u64, used_disks: bool) -> Self {
        let machine = SimMachine::new(seed);
        let mut points = BTreeMap::new();
        if used_disks {
            let before = SIZES.map(|size| vec![0xAB; size as usize]).to_vec();
            for (disk, contents) in before.iter().enumerate() {
                let target = machine.disk(&format!("disk-{disk}"), SIZES[disk] + 512);
                target.write_at(0, contents).unwrap();
                target.flush().unwrap();
            }
            points.insert(Seq(0), before);
        }
        let mut world = Self {
            machine,
            replica: None,
            source: Source::new(),
            points,
            doubtful: BTreeSet::new(),
            standing: None,
            in_flight: None,
            power_loss_only: None,
            crashes: 0,
        };
        world.create();
        world
    }

    pub(crate) fn power_loss_only(&mut self, power: bool) {
        self.power_loss_only = Some(power);
    }

    fn parts(&self) -> (Arc<dyn Volume>, Vec<Arc<dyn Disk>>) {
        // The target's disks are longer than the source's.
        let disk = |n: usize| -> Arc<dyn Disk> { self.machine.disk(&format!("disk-{n}"), SIZES[n] + 512) };
        (self.machine.volume("retention"), vec![disk(0), disk(1)])
    }

    fn config() -> ReplicaConfig {
        ReplicaConfig { retention: RetentionPolicy::keep_all(), io_threads: 1, ..ReplicaConfig::default() }
    }

    fn create(&mut self) {
        let (volume, disks) = self.parts();
        let id = ReplicaId([9; 16]);
        let created = DiskReplica::create(volume, disks, Source::specs(), id, UnixMillis(0), Self::config());
        self.replica = Some(Arc::new(created.expect("no crash is planned yet")));
    }

    pub(crate) fn ops(&self) -> u64 {
        self.machine.ops()
    }

    pub(crate) fn plan_crash(&self, after: u64) {
        self.machine.crash_at(self.machine.ops() + after);
    }

    pub(crate) fn step(&mut self, rng: &mut ChaCha8Rng) {
        match rng.random_range(0..20) {
            0..6 => self.cycle(rng),
            13 => self.leave_open(rng),
            14..17 => self.stand_at(rng.random_range(0..6)),
            17 => self.resume(),
            18 => self.settle_there(),
            6 | 7 => self.maintain(),
            8 => self.prune_middle(),
            9 => self.roll_back(rng.random_range(0..4)),
            10 => self.source.restart(rng),
            11 => self.abandon(rng),
            _ => self.check("in between"),
        }
    }

    /// Changes the source and replicates it.
    pub(crate) fn cycle(&mut self, rng: &mut ChaCha8Rng) {
        self.source.write(rng);
        // Bounded: a planned crash happens once.
        for attempt in 0..4 {
            let done = self.try_cycle(rng);
            match done {
                Ok(()) => return,
                Err(ReplicaError::Standing { .. }) => {
                    self.in_flight = None;
                    assert!(self.replica().standing().is_some());
                    self.resume();
                }
                Err(error) => {
                    assert!(attempt < 3, "{error}");
                    self.crashed(&error);
                    // Half of the time the source is a new process that finds its bitmap again, else it lost it.
                    if rng.random_bool(0.5) {
                        self.source.restart(rng);
                    }
                }
            }
        }
    }

    /// A cycle whose beginning is acknowledged, and which is then dropped: what it brought must come again.
    pub(crate) fn abandon(&mut self, rng: &mut ChaCha8Rng) {
        self.source.write(rng);
        let done = self.session().and_then(|mut session| self.source.begin_and_drop(&mut session));
        if let Err(error) = done {
            self.crashed_or_standing(&error);
        }
    }

    /// A cycle whose beginning is acknowledged, when the source falls silent.
    pub(crate) fn leave_open(&mut self, rng: &mut ChaCha8Rng) {
        self.source.write(rng);
        let done = self.session().and_then(|mut session| self.source.begin_and_leave(&mut session));
        if let Err(error) = done {
            self.crashed_or_standing(&error);
        }
    }

    /// Stands at the point that is `steps` before the newest.
    pub(crate) fn stand_at(&mut self, steps: usize) {
        let points: Vec<_> = self.replica().points().iter().map(|point| point.seq).collect();
        let Some(to) = points.iter().rev().nth(steps).copied() else { return };
        let session = self.session();
        let done = self.replica().stand_at(to);
        if done.is_ok() {
            self.standing = Some(to);
            assert_eq!(self.replica().standing(), Some(to));
            let refused = session.and_then(|mut session| session.status());
            assert!(
                matches!(refused, Err(ReplicaError::Standing { .. })),
                "a writer was let in: {refused:?}"
            );
        } else {
            self.standing = None;
        }
        self.survive(done);
        self.check("standing");
    }

    /// Back to the newest point: what the source may do then is what it might before.
    pub(crate) fn resume(&mut self) {
        let generation = self.generation();
        self.standing = None;
        let mut done = self.replica().resume();
        if let Err(error) = done {
            self.crashed(&error);
            done = self.replica().resume();
        }
        done.expect("a planned crash happens once");
        self.standing = None;
        assert_eq!(self.replica().standing(), None);
        assert_eq!(self.generation(), generation, "changed blocks can follow as before");
    }

    fn generation(&self) -> Option<GenerationId> {
        self.replica().status().generation
    }

    /// What the replica stands at becomes its newest point.
    pub(crate) fn settle_there(&mut self) {
        let points: Vec<_> = self.replica().points().iter().map(|point| point.seq).collect();
        let to = self.replica().standing();
        self.doubtful.extend(points.iter().filter(|seq| to.is_some_and(|to| **seq > to)));
        self.standing = None;
        let done = self.replica().settle();
        if let (Ok(()), Some(to)) = (&done, to) {
            assert_eq!(self.replica().applied(), Some(to));
            assert_eq!(self.replica().points().last().map(|point| point.seq), Some(to));
        }
        self.survive(done);
        self.forget_doubtful();
    }

    fn forget_doubtful(&mut self) {
        let kept: BTreeSet<_> = self.replica().points().iter().map(|point| point.seq).collect();
        let doubtful = std::mem::take(&mut self.doubtful);
        self.points.retain(|seq, _| kept.contains(seq) || !doubtful.contains(seq));
    }

    /// A writer that comes while the replica stands is refused, and changes nothing.
    fn crashed_or_standing(&mut self, error: &ReplicaError) {
        match error {
            ReplicaError::Standing { .. } => assert!(self.replica().standing().is_some(), "{error}"),
            other => self.crashed(other),
        }
    }

    fn session(&self) -> Result<DiskSession, ReplicaError> {
        let request = SessionRequest {
            replica: "machine".parse().unwrap(),
            epoch: None,
            writer: WriterId([3; 16]),
            disks: self.source.own_specs(),
        };
        self.replica().session(&request)
    }

    fn try_cycle(&mut self, rng: &mut ChaCha8Rng) -> Result<(), ReplicaError> {
        let mut session = self.session()?;
        let done = self.source.replicate(&mut session, rng);
        // A commit that failed may have happened; its contents are the source's of now.
        let contents = self.source.disks.clone();
        match &done {
            Ok(()) => {
                let seq = session.status().map(|status| status.last_point.expect("just made").seq);
                if let Ok(seq) = seq {
                    self.points.insert(seq, contents);
                } else {
                    self.in_flight = Some(contents);
                }
            }
            Err(_) => self.in_flight = Some(contents),
        }
        done
    }

    pub(crate) fn maintain(&mut self) {
        let done = self.replica().maintain();
        self.survive(done);
    }

    /// Drops a point that is neither the first nor the last, if there is one, and the oldest now and then.
    pub(crate) fn prune_middle(&mut self) {
        let points: Vec<_> = self.replica().points().iter().map(|point| point.seq).collect();
        let unwanted: BTreeSet<_> =
            points.iter().copied().step_by(2).skip(points.len() % 2).take(2).collect();
        self.doubtful.extend(&unwanted);
        let done = self.replica().drop_points(&unwanted);
        self.survive(done);
        let kept: BTreeSet<_> = self.replica().points().iter().map(|point| point.seq).collect();
        self.points.retain(|seq, _| kept.contains(seq) || !unwanted.contains(seq));
        self.doubtful.clear();
    }

    /// Goes back by `steps` points.
    pub(crate) fn roll_back(&mut self, steps: usize) {
        let points: Vec<_> = self.replica().points().iter().map(|point| point.seq).collect();
        let Some(to) = points.iter().rev().nth(steps).copied() else { return };
        self.doubtful.extend(points.iter().filter(|seq| **seq > to));
        self.standing = None;
        let done = self.replica().roll_back(to);
        let clean = done.is_ok();
        self.survive(done);
        if clean {
            self.points.retain(|seq, _| *seq <= to);
        }
        self.forget_doubtful();
    }

    /// Applies what is staged.
    pub(crate) fn settle(&mut self) {
        self.machine.crash_at(u64::MAX);
        self.resume();
        self.maintain();
        assert_eq!(self.replica().applied(), self.replica().points().last().map(|point| point.seq));
    }

    fn survive(&mut self, done: Result<(), ReplicaError>) {
        if let Err(error) = done {
            self.crashed(&error);
        }
    }

    /// After a crash: everything acknowledged is there, and every point holds what it must.
    fn crashed(&mut self, error: &ReplicaError) {
        assert!(error.to_string().contains("simulated power loss"), "failed by itself: {error}");
        self.replica = None;
        self.crashes += 1;
        let power = self.power_loss_only.unwrap_or(self.crashes % 2 == 1);
        self.machine.restart(if power { Restart::PowerLoss } else { Restart::ProcessKill });
        let (volume, disks) = self.parts();
        let opened = DiskReplica::open(volume, disks, Self::config());
        let replica =
            Arc::new(opened.unwrap_or_else(|error| panic!("cannot be opened after a crash: {error}")));
        if let Some(contents) = self.in_flight.take()
            && let Some(last) = replica.points().last()
            && !self.points.contains_key(&last.seq)
        {
            self.points.insert(last.seq, contents);
        }
        self.replica = Some(replica);
        let standing = self.replica().standing();
        if let Some(at) = self.standing {
            // Nothing moved, resumed or settled it when the crash came.
            assert_eq!(standing, Some(at), "it stood at {at} before the crash");
        }
        self.standing = standing;
        self.check("after a crash");
    }

    fn replica(&self) -> Arc<DiskReplica> {
        Arc::clone(self.replica.as_ref().expect("open"))
    }

    /// The disks themselves hold the point they should, with nothing in between: a machine is started from them.
    fn check_disks(&self, replica: &DiskReplica, when: &str) {
        let Some(on_disk) = replica.standing().or(replica.applied()) else { return };
        let Some(contents) = self.points.get(&on_disk) else { return };
        for (disk, expected) in self.parts().1.iter().zip(contents) {
            let mut read = vec![0; expected.len()];
            disk.read_at(0, &mut read).unwrap();
            let differs = read.iter().zip(expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{when}: {} does not hold point {on_disk}", disk.name());
        }
    }

    pub(crate) fn check(&mut self, when: &str) {
        let replica = self.replica();
        let listed: BTreeSet<_> = replica.points().iter().map(|point| point.seq).collect();
        for (seq, contents) in &self.points {
            if !listed.contains(seq) {
                assert!(self.doubtful.contains(seq), "{when}: point {seq} is missing; there are {listed:?}");
                continue;
            }
            let view = replica.view(*seq).unwrap_or_else(|error| panic!("{when}: point {seq}: {error}"));
            for (disk, expected) in (0..).zip(contents) {
                let mut read = vec![0; expected.len()];
                view.read_at(DiskIndex(disk), 0, &mut read).unwrap();
                let differs = read.iter().zip(expected).position(|(a, b)| a != b);
                assert_eq!(
                    differs,
                    None,
                    "{when}: point {seq}, disk {disk}, applied {:?}",
                    replica.applied()
                );
            }
        }
        self.check_disks(&replica, when);
        assert!(
            listed.iter().all(|seq| self.points.contains_key(seq)),
            "{when}: unknown points in {listed:?}"
        );
        let report = replica.fsck(|_, _| {}).expect("readable");
        assert_eq!(report.findings, Vec::new(), "{when}");
    }
}
