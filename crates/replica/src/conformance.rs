//! What every [`ReplicaSession`] must do, whoever stands behind it: a `DiskReplica`, a server on another host, a spool.
//!
//! Each case gets a fresh, empty replica of a machine with two disks. Calls that need not be answered may fail at a later one, so the cases
//! look at what the next barrier says. Panics at the first thing that is not as it must be.

use bytes::Bytes;
use switchback_delta::{Digest, Frame, PartHasher, digest_of};
use switchback_model::{
    Consistency, DiskIndex, Epoch, Extent, GenerationId, PartIndex, ResyncReason, Seq, UnixMillis, WriterId,
};

use crate::{
    CommitCycle, CycleKind, DiskSpec, OpenCycle, OpenCycleStatus, PartHeader, ReplicaError, ReplicaSession,
    ReplicaState, SessionRequest,
};

/// Bytes of each of the two disks.
const SIZE: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;

/// A fresh, empty replica, and the way to it that is to be tested.
pub trait Fixture {
    /// Opens a session. A former session of this writer may just have been dropped: waits for that, with a limit.
    ///
    /// # Errors
    /// Those of the session.
    fn session(&self, request: &SessionRequest) -> Result<Box<dyn ReplicaSession>, ReplicaError>;

    /// Waits until all that was committed is on the disks, and reads one.
    fn contents(&self, disk: usize) -> Vec<u8>;
}

/// Runs all cases; `fresh` makes what each begins with.
pub fn sessions<F: Fixture>(fresh: impl Fn() -> F) {
    cycles_arrive_whole_and_in_order(&fresh());
    durable_parts_are_found_again(&fresh());
    another_kind_of_cycle_drops_the_open_one(&fresh());
    calls_out_of_order_are_refused(&fresh);
    a_part_that_is_not_what_was_sent_does_not_count(&fresh());
    a_commit_can_be_repeated_and_must_fit(&fresh);
    changed_blocks_follow_their_own_generation_only(&fresh);
    changed_blocks_cannot_follow_an_aborted_cycle(&fresh());
    there_is_one_writer_and_a_newer_epoch_fences_it_off(&fresh());
    other_disks_are_refused(&fresh());
    digests_are_those_of_what_was_sent(&fresh());
}

fn specs() -> Vec<DiskSpec> {
    vec![DiskSpec { size: SIZE }; 2]
}

fn request(writer: u8, epoch: Option<u64>) -> SessionRequest {
    let replica = "conformance".parse().expect("a valid name");
    SessionRequest { replica, epoch: epoch.map(Epoch), writer: WriterId([writer; 16]), disks: specs() }
}

fn open(fixture: &dyn Fixture) -> Box<dyn ReplicaSession> {
    fixture.session(&request(1, Some(1))).expect("a session")
}

fn resync(generation: u8) -> OpenCycle {
    let kind = CycleKind::Resync { reason: ResyncReason::Requested };
    OpenCycle { generation: GenerationId([generation; 16]), kind }
}

fn changes(generation: u8) -> OpenCycle {
    OpenCycle { generation: GenerationId([generation; 16]), kind: CycleKind::Changes }
}

fn begin(session: &mut dyn ReplicaSession, request: &OpenCycle) -> OpenCycleStatus {
    session.open_cycle(request).expect("a cycle")
}

/// A part of one block of `byte`.
fn part(
    session: &mut dyn ReplicaSession,
    (seq, part): (Seq, u32),
    (disk, block): (u16, u64),
    byte: u8,
) -> Result<(), ReplicaError> {
    session.begin_part(PartHeader { seq, part: PartIndex(part), disk: DiskIndex(disk) })?;
    let data = Bytes::from(vec![byte; usize::try_from(BLOCK).expect("small")]);
    let frame = Frame::of(Extent::new(block * BLOCK, BLOCK), data);
    let mut hasher = PartHasher::default();
    hasher.push(&frame);
    session.put_frame(frame)?;
    session.end_part(hasher.finish())
}

fn commit_of(seq: Seq, parts: u32) -> CommitCycle {
    let consistency = Consistency::CrashConsistent;
    CommitCycle {
        seq,
        parts,
        time: UnixMillis(seq.0 * 1000),
        consistency,
        group_tag: None,
        whole: Vec::new(),
    }
}

/// A whole cycle: block 0 of disk 0 and block 1 of disk 1.
fn cycle(session: &mut dyn ReplicaSession, request: &OpenCycle, byte: u8) -> Seq {
    let seq = begin(session, request).seq;
    part(session, (seq, 0), (0, 0), byte).expect("a part");
    part(session, (seq, 1), (1, 1), byte).expect("a part");
    session.barrier().expect("a barrier");
    let watermarks = session.commit(&commit_of(seq, 2)).expect("a commit");
    assert_eq!(watermarks.received, Some(seq), "what was committed is received");
    seq
}

fn expect_block(fixture: &dyn Fixture, (disk, block): (usize, u64), byte: u8) {
    let contents = fixture.contents(disk);
    let from = usize::try_from(block * BLOCK).expect("small");
    let block = &contents[from..from + usize::try_from(BLOCK).expect("small")];
    assert!(block.iter().all(|b| *b == byte), "expected blocks of {byte}, found {}", block[0]);
}

/// The error of a pipelined call, or of the barrier behind it.
fn error_of(session: &mut dyn ReplicaSession, done: Result<(), ReplicaError>) -> ReplicaError {
    let done = done.and_then(|()| session.barrier().map(drop));
    done.expect_err("it must be refused")
}

fn assert_protocol(error: &ReplicaError, what: &str) {
    assert!(matches!(error, ReplicaError::Protocol { .. }), "{what}: {error:?}");
}

fn cycles_arrive_whole_and_in_order(fixture: &dyn Fixture) {
    let mut session = open(fixture);
    let status = session.status().expect("a status");
    assert_eq!((status.state, status.last_point, status.open), (ReplicaState::Empty, None, None));
    assert_eq!(cycle(&mut *session, &resync(1), 7), Seq(1));
    assert_eq!(cycle(&mut *session, &changes(1), 8), Seq(2));
    let status = session.status().expect("a status");
    assert_eq!(status.last_point.map(|point| (point.seq, point.time)), Some((Seq(2), UnixMillis(2000))));
    assert_eq!((status.state, status.open), (ReplicaState::Ready, None));
    assert_eq!(status.generation, Some(GenerationId([1; 16])));
    expect_block(fixture, (0, 0), 8);
    expect_block(fixture, (1, 1), 8);
    expect_block(fixture, (1, 0), 0);
}

fn durable_parts_are_found_again(fixture: &dyn Fixture) {
    let mut session = open(fixture);
    cycle(&mut *session, &resync(1), 1);
    let seq = begin(&mut *session, &changes(1)).seq;
    part(&mut *session, (seq, 0), (0, 0), 2).expect("a part");
    session.barrier().expect("a barrier");
    // Begun and not ended: void.
    let header = PartHeader { seq, part: PartIndex(1), disk: DiskIndex(1) };
    session.begin_part(header).expect("a part begins");
    drop(session);
    let mut session = open(fixture);
    let open = session.status().expect("a status").open.expect("the cycle is still open");
    assert_eq!((open.seq, open.next_part), (seq, PartIndex(1)));
    let joined = begin(&mut *session, &changes(1));
    assert_eq!((joined.seq, joined.next_part), (seq, PartIndex(1)));
    part(&mut *session, (seq, 1), (1, 1), 2).expect("the part again");
    session.commit(&commit_of(seq, 2)).expect("a commit");
    expect_block(fixture, (0, 0), 2);
    expect_block(fixture, (1, 1), 2);
}

fn another_kind_of_cycle_drops_the_open_one(fixture: &dyn Fixture) {
    let mut session = open(fixture);
    cycle(&mut *session, &resync(1), 1);
    let seq = begin(&mut *session, &changes(1)).seq;
    part(&mut *session, (seq, 0), (0, 0), 9).expect("a part");
    session.barrier().expect("a barrier");
    let other = begin(&mut *session, &resync(2));
    assert_eq!((other.seq, other.next_part), (seq, PartIndex(0)), "the number comes again");
    // For another reason it is the same cycle still.
    part(&mut *session, (seq, 0), (1, 1), 3).expect("a part");
    session.barrier().expect("a barrier");
    let kind = CycleKind::Resync { reason: ResyncReason::Rebooted };
    let joined = begin(&mut *session, &OpenCycle { kind, ..resync(2) });
    assert_eq!((joined.seq, joined.next_part), (seq, PartIndex(1)));
    session.commit(&commit_of(seq, 1)).expect("a commit");
    expect_block(fixture, (0, 0), 1);
    expect_block(fixture, (1, 1), 3);
}

fn calls_out_of_order_are_refused<F: Fixture>(fresh: &impl Fn() -> F) {
    type Call = fn(&mut dyn ReplicaSession, Seq) -> Result<(), ReplicaError>;
    let cases: [(&str, Call); 8] = [
        ("a part that is not the next", |session, seq| part(session, (seq, 1), (0, 0), 1)),
        ("a part of another cycle", |session, seq| part(session, (seq.next(), 0), (0, 0), 1)),
        ("a part of no disk", |session, seq| part(session, (seq, 0), (2, 0), 1)),
        ("a frame outside a part", |session, _| session.put_frame(Frame::zero(Extent::new(0, BLOCK)))),
        ("an end outside a part", |session, _| session.end_part([0; 32])),
        ("a part within a part", |session, seq| {
            let header = PartHeader { seq, part: PartIndex(0), disk: DiskIndex(0) };
            session.begin_part(header)?;
            session.begin_part(header)
        }),
        ("a question within a part", |session, seq| {
            session.begin_part(PartHeader { seq, part: PartIndex(0), disk: DiskIndex(0) })?;
            session.node_digests(DiskIndex(0), 0, 1).map(drop)
        }),
        ("a cycle within a part", |session, seq| {
            session.begin_part(PartHeader { seq, part: PartIndex(0), disk: DiskIndex(0) })?;
            session.open_cycle(&resync(1)).map(drop)
        }),
    ];
    for (what, call) in cases {
        let fixture = fresh();
        let mut session = open(&fixture);
        let seq = begin(&mut *session, &resync(1)).seq;
        let done = call(&mut *session, seq);
        assert_protocol(&error_of(&mut *session, done), what);
        drop(session);
        // Nothing of it counts, and a new session goes on.
        assert_eq!(cycle(&mut *open(&fixture), &resync(1), 5), seq, "{what}");
        expect_block(&fixture, (0, 0), 5);
    }
}

fn a_part_that_is_not_what_was_sent_does_not_count(fixture: &dyn Fixture) {
    let mut session = open(fixture);
    let seq = begin(&mut *session, &resync(1)).seq;
    session.begin_part(PartHeader { seq, part: PartIndex(0), disk: DiskIndex(0) }).expect("a part begins");
    let done = session.put_frame(Frame::zero(Extent::new(0, BLOCK))).and_then(|()| session.end_part([3; 32]));
    let error = error_of(&mut *session, done);
    assert!(matches!(error, ReplicaError::Corrupt { .. }), "{error:?}");
    drop(session);
    let mut session = open(fixture);
    assert_eq!(begin(&mut *session, &resync(1)).next_part, PartIndex(0));
}

fn a_commit_can_be_repeated_and_must_fit<F: Fixture>(fresh: &impl Fn() -> F) {
    let fixture = fresh();
    let mut session = open(&fixture);
    let seq = cycle(&mut *session, &resync(1), 1);
    drop(session);
    let mut session = open(&fixture);
    assert_eq!(session.commit(&commit_of(seq, 2)).expect("the answer again").received, Some(seq));
    for wrong in [commit_of(Seq(2), 1), commit_of(Seq(3), 0)] {
        let fixture = fresh();
        let mut session = open(&fixture);
        cycle(&mut *session, &resync(1), 1);
        begin(&mut *session, &changes(1));
        assert_protocol(&session.commit(&wrong).expect_err("it does not fit"), "a commit");
        drop(session);
        assert_eq!(
            open(&fixture).status().expect("a status").last_point.map(|point| point.seq),
            Some(Seq(1))
        );
    }
}

fn changed_blocks_follow_their_own_generation_only<F: Fixture>(fresh: &impl Fn() -> F) {
    let refused = |session: &mut dyn ReplicaSession, request: &OpenCycle| {
        let error = session.open_cycle(request).expect_err("changed blocks cannot follow");
        assert!(matches!(error, ReplicaError::ResyncNeeded { .. }), "{error:?}");
    };
    refused(&mut *open(&fresh()), &changes(1));
    let fixture = fresh();
    let mut session = open(&fixture);
    cycle(&mut *session, &resync(1), 1);
    refused(&mut *session, &changes(2));
    drop(session);
    // A comparison that was begun has forgotten what was tracked.
    let mut session = open(&fixture);
    begin(&mut *session, &resync(1));
    session.abort_cycle().expect("an abort");
    refused(&mut *session, &changes(1));
}

fn changed_blocks_cannot_follow_an_aborted_cycle(fixture: &dyn Fixture) {
    let mut session = open(fixture);
    cycle(&mut *session, &resync(1), 1);
    begin(&mut *session, &changes(1));
    session.abort_cycle().expect("an abort");
    let seq = begin(&mut *session, &changes(1)).seq;
    part(&mut *session, (seq, 0), (0, 0), 2).expect("a part");
    session.barrier().expect("a barrier: the source forgets these blocks");
    session.abort_cycle().expect("an abort");
    let status = session.status().expect("a status");
    assert_eq!((status.open, status.generation), (None, None));
    let error = session.open_cycle(&changes(1)).expect_err("blocks would be missing");
    assert!(matches!(error, ReplicaError::ResyncNeeded { .. }), "{error:?}");
    drop(session);
    expect_block(fixture, (0, 0), 1);
}

fn there_is_one_writer_and_a_newer_epoch_fences_it_off(fixture: &dyn Fixture) {
    let mut first = open(fixture);
    let seq = begin(&mut *first, &resync(1)).seq;
    let locked = fixture.session(&request(2, Some(1))).map(drop).expect_err("there is a writer");
    assert!(matches!(locked, ReplicaError::Locked { .. }), "{locked:?}");
    let mut second = fixture.session(&request(2, Some(2))).expect("a newer epoch");
    assert_eq!(second.status().expect("a status").epoch, Epoch(2));
    let done = part(&mut *first, (seq, 0), (0, 0), 1);
    let fenced = error_of(&mut *first, done);
    let stale = |error: &ReplicaError| {
        matches!(error, ReplicaError::StaleEpoch { given: Epoch(1), current: Epoch(2) })
    };
    assert!(stale(&fenced), "{fenced:?}");
    drop(first);
    let late = fixture.session(&request(1, Some(1))).map(drop).expect_err("an older epoch");
    assert!(stale(&late), "{late:?}");
    cycle(&mut *second, &resync(2), 4);
    expect_block(fixture, (0, 0), 4);
}

fn other_disks_are_refused(fixture: &dyn Fixture) {
    cycle(&mut *open(fixture), &resync(1), 1);
    let more = vec![DiskSpec { size: SIZE }; 3];
    let grown = vec![DiskSpec { size: SIZE }, DiskSpec { size: 2 * SIZE }];
    for disks in [more, grown] {
        let other = fixture.session(&SessionRequest { disks, ..request(1, Some(1)) });
        let error = other.map(drop).expect_err("not the machine's disks");
        assert!(matches!(error, ReplicaError::DisksChanged { .. }), "{error:?}");
    }
}

fn digests_are_those_of_what_was_sent(fixture: &dyn Fixture) {
    let mut session = open(fixture);
    cycle(&mut *session, &resync(1), 1);
    begin(&mut *session, &resync(2));
    let nodes = session.node_digests(DiskIndex(0), 0, 1).expect("digests");
    assert_eq!(nodes.len(), 1);
    assert_ne!(nodes[0].0, Digest::ZERO);
    let leaves = session.leaf_digests(DiskIndex(0), &[0]).expect("digests");
    assert_eq!((leaves.len(), leaves[0].node), (1, 0));
    let block = vec![1; usize::try_from(BLOCK).expect("small")];
    assert_eq!(leaves[0].leaves[0], digest_of(&block));
    assert!(leaves[0].leaves[1..].iter().all(|leaf| *leaf == Digest::ZERO));
    assert_protocol(&session.node_digests(DiskIndex(2), 0, 1).expect_err("no such disk"), "digests");
}
