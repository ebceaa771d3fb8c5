//! A replica of one disk on a simulated machine, and the shortest writer.

use std::sync::Arc;

use bytes::Bytes;
use switchback_delta::{Frame, PartHasher};
use switchback_disk::sim::SimMachine;
use switchback_disk::{Disk, Volume};
use switchback_model::{
    Consistency, DiskIndex, Epoch, Extent, GenerationId, ReplicaId, ResyncReason, RetentionPolicy, Seq,
    UnixMillis, WriterId,
};
use switchback_replica::{
    CommitCycle, CycleKind, DiskReplica, DiskSpec, OpenCycle, PartHeader, ReadPoint, ReplicaConfig,
    ReplicaError, ReplicaSession, SessionRequest,
};

pub(crate) const SIZE: u64 = 512 * 1024;
pub(crate) const GENERATION: GenerationId = GenerationId([7; 16]);

pub(crate) struct Rig {
    pub(crate) machine: SimMachine,
    pub(crate) replica: Option<Arc<DiskReplica>>,
    pub(crate) bytes_max: Option<u64>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let machine = SimMachine::new(1);
        let mut rig = Self { machine, replica: None, bytes_max: None };
        let (volume, disks) = rig.parts();
        let sizes = vec![DiskSpec { size: SIZE }];
        let id = ReplicaId([1; 16]);
        let created = DiskReplica::create(volume, disks, sizes, id, UnixMillis(0), rig.config()).unwrap();
        rig.replica = Some(Arc::new(created));
        rig
    }

    pub(crate) fn parts(&self) -> (Arc<dyn Volume>, Vec<Arc<dyn Disk>>) {
        (self.machine.volume("retention"), vec![self.machine.disk("target", SIZE)])
    }

    pub(crate) fn config(&self) -> ReplicaConfig {
        let retention = RetentionPolicy { bytes_max: self.bytes_max, ..RetentionPolicy::keep_all() };
        ReplicaConfig { retention, io_threads: 1, ..ReplicaConfig::default() }
    }

    pub(crate) fn replica(&self) -> &Arc<DiskReplica> {
        self.replica.as_ref().unwrap()
    }

    pub(crate) fn reopen(&mut self) -> Result<(), ReplicaError> {
        self.replica = None;
        let (volume, disks) = self.parts();
        self.replica = Some(Arc::new(DiskReplica::open(volume, disks, self.config())?));
        Ok(())
    }

    pub(crate) fn request(writer: u8, epoch: Option<u64>) -> SessionRequest {
        SessionRequest {
            replica: "machine".parse().unwrap(),
            epoch: epoch.map(Epoch),
            writer: WriterId([writer; 16]),
            disks: vec![DiskSpec { size: SIZE }],
        }
    }

    /// One cycle that fills the disk with `byte`.
    pub(crate) fn cycle(&self, byte: u8) -> Result<Seq, ReplicaError> {
        let mut session = self.replica().session(&Self::request(1, None))?;
        let seq = begin(&mut session)?;
        send(&mut session, seq, byte)?;
        commit(&mut session, seq)?;
        Ok(seq)
    }

    pub(crate) fn contents(&self, seq: Seq) -> Vec<u8> {
        let mut data = vec![0; SIZE as usize];
        self.replica().view(seq).unwrap().read_at(DiskIndex(0), 0, &mut data).unwrap();
        data
    }

    pub(crate) fn file_like(&self, part_of_name: &str) -> String {
        let files = self.machine.volume("retention").list().unwrap();
        let file = files.iter().find(|file| file.name.contains(part_of_name));
        file.unwrap_or_else(|| panic!("no {part_of_name} in {files:?}")).name.clone()
    }
}

pub(crate) fn begin(session: &mut dyn ReplicaSession) -> Result<Seq, ReplicaError> {
    let kind = if session.status()?.generation == Some(GENERATION) {
        CycleKind::Changes
    } else {
        CycleKind::Resync { reason: ResyncReason::Requested }
    };
    Ok(session.open_cycle(&OpenCycle { generation: GENERATION, kind })?.seq)
}

pub(crate) fn send(session: &mut dyn ReplicaSession, seq: Seq, byte: u8) -> Result<(), ReplicaError> {
    let part = session.status()?.open.unwrap().next_part;
    session.begin_part(PartHeader { seq, part, disk: DiskIndex(0) })?;
    let frame = Frame::of(Extent::new(0, SIZE), Bytes::from(vec![byte; SIZE as usize]));
    let mut hasher = PartHasher::default();
    hasher.push(&frame);
    session.put_frame(frame)?;
    session.end_part(hasher.finish())?;
    session.barrier().map(drop)
}

pub(crate) fn commit(session: &mut dyn ReplicaSession, seq: Seq) -> Result<(), ReplicaError> {
    let parts = session.status()?.open.unwrap().next_part.0;
    let consistency = Consistency::CrashConsistent;
    // Clocks jump: the replica must not mind that this one goes backwards.
    let time = UnixMillis(1_000_000 - seq.0);
    session
        .commit(&CommitCycle { seq, parts, time, consistency, group_tag: None, whole: Vec::new() })
        .map(drop)
}
