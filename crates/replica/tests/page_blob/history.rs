//! Any sequence of cycles, rounds, crashes, take-overs, lost answers and throttling gives at every kept point exactly the model's bytes.
//!
//! After every crash, and at the end, every point that the replica lists is cloned and read, and compared; one is viewed meanwhile, and no acknowledged point may be missing. A
//! process that has lost the replica goes on trying to write. Disks come and go meanwhile (`shape`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use switchback_model::{DiskIndex, ObjectName, ReplicaId, RetentionPolicy, Seq, WriterId};
use switchback_replica::sim::{Faults, SimAccount, SimStore};
use switchback_replica::store::BlobStore;
use switchback_replica::{
    BlobPointView, BlobSession, PageBlobConfig, PageBlobReplica, ReadPoint, ReplicaError, ReplicaSession,
    SessionRequest,
};

use crate::shape::Shape;
use crate::source::Source;

type Contents = Vec<Vec<u8>>;

pub(crate) struct World {
    pub(crate) account: SimAccount,
    store: Arc<SimStore>,
    replica: Option<Arc<PageBlobReplica>>,
    /// A process that has lost the replica, and does not know.
    stale: Option<Arc<PageBlobReplica>>,
    pub(crate) source: Source,
    pub(crate) shape: Shape,
    pub(crate) points: BTreeMap<Seq, Contents>,
    /// Points that may or may not be there.
    doubtful: BTreeSet<Seq>,
    in_flight: Option<Contents>,
    hosts: u8,
    faults: Faults,
    /// Opened at the last look, of the replica as it was open then.
    views: Vec<BlobPointView>,
}

fn config() -> PageBlobConfig {
    PageBlobConfig {
        retention: RetentionPolicy::keep_all(),
        io_threads: 1,
        cache_bytes_max: 100_000,
        ..PageBlobConfig::default()
    }
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let account = SimAccount::new(seed);
        let store = account.connect();
        PageBlobReplica::create(&*store, Source::specs(), ReplicaId([9; 16])).unwrap();
        let mut world = Self {
            account,
            store,
            replica: None,
            stale: None,
            source: Source::new(),
            shape: Shape::new(),
            points: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            in_flight: None,
            hosts: 0,
            faults,
            views: Vec::new(),
        };
        world.open(false);
        world
    }

    /// Opens the replica in a new process, without faults meanwhile.
    fn open(&mut self, take_over: bool) {
        self.account.set_faults(Faults::default());
        self.views.clear();
        self.hosts += 1;
        self.store = self.account.connect();
        let store = Arc::clone(&self.store) as Arc<dyn BlobStore>;
        let opened = PageBlobReplica::open(store, config(), [self.hosts; 16], take_over);
        let opened = opened.unwrap_or_else(|error| panic!("cannot be opened: {error}"));
        self.replica = Some(Arc::new(opened));
        self.account.set_faults(self.faults);
    }

    pub(crate) fn replica(&self) -> Arc<PageBlobReplica> {
        Arc::clone(self.replica.as_ref().unwrap())
    }

    fn step(&mut self, rng: &mut ChaCha8Rng) {
        match rng.random_range(0..18) {
            0..6 => self.cycle(rng),
            6 | 7 => {
                let done = self.replica().maintain();
                self.survive(done);
            }
            8 => self.leave_open(rng),
            9 => self.prune(),
            10 => self.source.restart(rng),
            11 => self.take_over(rng),
            12 => self.stand(rng),
            13 => {
                self.source.write(rng);
                let done = session(&self.replica(), &self.source)
                    .and_then(|mut s| self.source.begin_and_drop(&mut s));
                self.survive(done);
            }
            14 | 15 => self.reshape(rng),
            _ => self.check("in between"),
        }
    }

    pub(crate) fn cycle(&mut self, rng: &mut ChaCha8Rng) {
        self.source.write(rng);
        for _attempt in 0..200 {
            let done = self.try_cycle(rng);
            let Err(error) = done else { return };
            self.survive(Err(error));
            if rng.random_bool(0.3) {
                self.source.restart(rng);
            }
        }
        panic!("200 attempts failed");
    }

    fn try_cycle(&mut self, rng: &mut ChaCha8Rng) -> Result<(), ReplicaError> {
        let mut session = session(&self.replica(), &self.source)?;
        let done = self.source.replicate(&mut session, rng);
        let contents = self.source.disks.clone();
        match (&done, session.status().map(|status| status.last_point)) {
            (Ok(()), Ok(Some(last))) => {
                self.points.insert(last.seq, contents);
                self.shape.committed(last.seq, &self.source.said);
            }
            _ => self.in_flight = Some(contents),
        }
        done
    }

    fn leave_open(&mut self, rng: &mut ChaCha8Rng) {
        self.source.write(rng);
        let done =
            session(&self.replica(), &self.source).and_then(|mut s| self.source.begin_and_leave(&mut s));
        self.survive(done);
    }

    fn prune(&mut self) {
        let points: Vec<_> = self.replica().points().iter().map(|point| point.seq).collect();
        let unwanted: BTreeSet<_> =
            points.iter().copied().step_by(2).skip(points.len() % 2).take(2).collect();
        self.doubtful.extend(&unwanted);
        let done = self.replica().drop_points(&unwanted);
        self.survive(done);
    }

    /// Stands at a point, whose clones are compared, and goes on.
    fn stand(&mut self, rng: &mut ChaCha8Rng) {
        let points: Vec<_> = self.replica().points().iter().map(|point| point.seq).collect();
        let Some(at) = points.get(rng.random_range(0..points.len().max(1))).copied() else { return };
        let generation = self.replica().status().generation;
        match self.replica().stand_at(at) {
            Err(error) => self.survive(Err(error)),
            Ok(blobs) => {
                assert_eq!((self.replica().standing(), &self.replica().standing_blobs()), (Some(at), &blobs));
                self.compare(at, &blobs, "standing");
                let refused = session(&self.replica(), &self.source).map(drop);
                assert!(matches!(refused, Err(ReplicaError::Standing { .. })), "{refused:?}");
            }
        }
        for _ in 0..200 {
            match self.replica().resume() {
                Ok(()) => {
                    assert_eq!(self.replica().status().generation, generation);
                    return;
                }
                Err(error) => self.survive(Err(error)),
            }
        }
        panic!("200 attempts failed");
    }

    /// Another process takes the replica over while this one is in the middle of something; this one goes on trying.
    fn take_over(&mut self, rng: &mut ChaCha8Rng) {
        let old = self.replica();
        let mut old_session = session(&old, &self.source).ok();
        if let Some(session) = &mut old_session {
            self.source.write(rng);
            // Half a cycle of what the new one will be sent too.
            let left = self.source.begin_and_leave(session).and_then(|()| session.status());
            if left.is_ok_and(|status| status.open.is_some()) {
                self.source.write(rng);
            } else {
                old_session = None;
            }
        }
        self.open(true);
        if let Some(session) = &mut old_session {
            let more = self.source.begin_and_leave(session);
            assert!(more.is_err() || session.abort_cycle().is_err(), "a lost replica was written");
        }
        self.stale = Some(old);
        self.check("after a take-over");
    }

    /// What a stale process does goes nowhere.
    fn poke_stale(&self) {
        if let Some(stale) = &self.stale {
            stale.maintain().ok();
            stale.fence(switchback_model::Epoch(99)).expect_err("a lost replica was fenced");
        }
    }

    pub(crate) fn survive(&mut self, done: Result<(), ReplicaError>) {
        let Err(error) = done else { return };
        let text = error.to_string();
        assert!(text.contains("simulated"), "failed by itself: {text}");
        if text.contains("simulated crash") {
            self.stale = self.replica.take();
            self.open(true);
            self.note_in_flight();
            self.check("after a crash");
        } else {
            self.note_in_flight();
        }
    }

    /// A commit whose answer was lost may have happened.
    fn note_in_flight(&mut self) {
        let Some(contents) = self.in_flight.take() else { return };
        self.account.set_faults(Faults::default());
        let last = session(&self.replica(), &self.source).and_then(|mut session| session.status());
        if let Ok(Some(last)) = last.map(|status| status.last_point)
            && !self.points.contains_key(&last.seq)
        {
            self.points.insert(last.seq, contents);
            self.shape.committed(last.seq, &self.source.said);
        }
        self.account.set_faults(self.faults);
    }

    fn compare(&self, seq: Seq, blobs: &[String], when: &str) {
        let Some(contents) = self.points.get(&seq) else { panic!("{when}: unknown point {seq}") };
        let point = self.replica().points().into_iter().find(|point| point.seq == seq).unwrap();
        self.shape.expect(&point, blobs, when);
        for (blob, expected) in blobs.iter().zip(contents).filter(|(blob, _)| !blob.is_empty()) {
            let found = self.account.contents(blob).unwrap();
            assert_eq!(found.len() % (1 << 20), 512, "a VHD's length");
            assert_eq!(found[found.len() - 512..][..8], *b"conectix", "{when}: {blob}");
            let differs = found.iter().zip(expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{when}: point {seq}, {blob}");
            assert!(found[expected.len()..found.len() - 512].iter().all(|byte| *byte == 0), "{when}");
        }
    }

    fn compare_view(&self, view: &BlobPointView, when: &str) {
        let seq = view.point().seq;
        let points = self.replica().points();
        let now = points.iter().find(|point| point.seq == seq).unwrap();
        for ((disk, size), expected) in (0..).zip(view.disk_sizes()).zip(&self.points[&seq]) {
            let mut found = vec![0; size as usize];
            let read = view.read_at(DiskIndex(disk), 0, &mut found);
            if view.point().lacks.contains(&DiskIndex(disk)) {
                assert!(read.is_err(), "{when}: point {seq} lacks disk {disk}");
                continue;
            }
            if now.lacks.contains(&DiskIndex(disk)) {
                // It was removed meanwhile: what has been read may be there yet, and is right.
                assert!(read.is_err() || found == *expected, "{when}: the view of {seq}, disk {disk}");
                continue;
            }
            read.unwrap_or_else(|error| panic!("{when}: the view of {seq}: {error}"));
            assert!(found == *expected, "{when}: the view of point {seq}, disk {disk}");
            assert!(view.read_at(DiskIndex(disk), size, &mut [0]).is_err(), "beyond its end");
        }
    }

    fn check(&mut self, when: &str) {
        self.account.set_faults(Faults::default());
        self.store.crash_after(u64::MAX);
        for view in std::mem::take(&mut self.views) {
            self.compare_view(&view, &format!("{when}, viewed since the last look"));
        }
        self.poke_stale();
        let replica = self.replica();
        replica.resume().unwrap();
        let listed: BTreeSet<_> = replica.points().iter().map(|point| point.seq).collect();
        for seq in self.points.keys() {
            assert!(listed.contains(seq) || self.doubtful.contains(seq), "{when}: point {seq} is missing");
        }
        self.points.retain(|seq, _| listed.contains(seq));
        self.shape.points.retain(|seq, _| listed.contains(seq));
        self.doubtful.clear();
        let name: ObjectName = "check".parse().unwrap();
        for seq in &listed {
            let blobs = replica.view(&name, *seq).unwrap_or_else(|error| panic!("{when}: {seq}: {error}"));
            self.compare(*seq, &blobs, when);
            let view = replica.read_point(*seq).unwrap_or_else(|error| panic!("{when}: {seq}: {error}"));
            self.compare_view(&view, when);
        }
        // An old one, which the policy may want gone, and the newest, which gets a base of its own.
        let viewed = listed.first().into_iter().chain(listed.last());
        self.views = viewed.map(|seq| replica.read_point(*seq).unwrap()).collect();
        replica.drop_view(&name).unwrap();
        assert_eq!(replica.fsck(|_, _| {}).unwrap().findings, Vec::new(), "{when}");
        self.account.set_faults(self.faults);
    }

    /// With the newest point alone, applied, there is nothing but the disks, what is known of them, and a snapshot.
    fn settle(&mut self) {
        self.account.set_faults(Faults::default());
        self.faults = Faults::default();
        self.check("at the end");
        self.open(true);
        let replica = self.replica();
        replica.maintain().unwrap();
        let newest = replica.points().last().map(|point| point.seq);
        assert_eq!(replica.applied(), newest);
        let older =
            replica.points().iter().map(|point| point.seq).filter(|seq| Some(*seq) != newest).collect();
        replica.drop_points(&older).unwrap();
        // An open cycle has parts.
        if let Ok(mut session) = session(&replica, &self.source) {
            session.abort_cycle().unwrap();
        }
        assert_eq!(replica.bytes_kept(), 0);
        drop((replica, self.replica.take(), self.stale.take()));
        self.open(true);
        let blobs = self.account.blobs();
        assert_eq!(blobs.len(), 1 + 2 * self.shape.present(), "{blobs:?}");
        assert!(blobs.iter().all(|(_, snapshots)| *snapshots <= 1), "{blobs:?}");
        self.begin_anew();
        self.replica().remove().unwrap();
        assert_eq!(self.account.blobs(), Vec::new());
    }
}

fn session(replica: &Arc<PageBlobReplica>, source: &Source) -> Result<BlobSession, ReplicaError> {
    let request = SessionRequest {
        replica: "machine".parse().unwrap(),
        epoch: None,
        writer: WriterId([3; 16]),
        disks: source.own_specs(),
    };
    replica.session(&request)
}

struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with SWITCHBACK_SEED={}", self.0);
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let variable = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    match variable("SWITCHBACK_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("SWITCHBACK_CASES").unwrap_or(10_000) / 10,
    }
}

#[test]
fn every_kept_point_holds_exactly_what_the_source_had() {
    for seed in seeds() {
        let _shown = Seed(seed);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let faults = if rng.random_bool(0.5) {
            Faults { lost_answers: 20, throttled: 20, late: 50 }
        } else {
            Faults::default()
        };
        let mut world = World::new(seed, faults);
        for _ in 0..rng.random_range(4..16) {
            if rng.random_bool(0.35) {
                world.store.crash_after(rng.random_range(1..40));
            }
            world.step(&mut rng);
        }
        world.settle();
    }
}
