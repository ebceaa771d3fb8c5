//! The connection is cut after every so many bytes, in either direction: the client always learns of it, what the replica has taken
//! is always a beginning of what was sent, and the same writer can always go on at once.

use std::sync::atomic::Ordering;

use switchback_disk::Clock as _;
use switchback_model::{Consistency, DiskIndex, GenerationId, Seq};
use switchback_replica::{CommitCycle, CycleKind, OpenCycle, ReplicaError, ReplicaSession};
use switchback_transport::RemoteSession;

use crate::support::proxy::{Proxy, Then};
use crate::support::replica::{frame, header};
use crate::support::{Site, request};

fn scenario(site: &Site, session: &mut dyn ReplicaSession) -> Result<(), ReplicaError> {
    let cycle = OpenCycle { generation: GenerationId([1; 16]), kind: CycleKind::Changes };
    session.open_cycle(&cycle)?;
    for part in 0..2 {
        session.begin_part(header(part))?;
        for n in [1, 2, 3, 5] {
            session.put_frame(frame(n))?;
        }
        session.end_part([0; 32])?;
    }
    session.barrier()?;
    session.node_digests(DiskIndex(0), 0, 5)?;
    session.leaf_digests(DiskIndex(0), &[1])?;
    let commit = CommitCycle {
        seq: Seq(1),
        parts: 2,
        time: site.clock.now(),
        consistency: Consistency::CrashConsistent,
        group_tag: None,
        whole: Vec::new(),
    };
    session.commit(&commit)?;
    session.status().map(drop)
}

fn run(site: &Site, proxy: &Proxy) -> Result<(), ReplicaError> {
    let mut session = RemoteSession::connect(site.config(proxy.address), request(1))?;
    scenario(site, &mut session)
}

#[test]
fn cut_anywhere_the_client_knows_and_can_go_on() {
    let site = Site::new();
    let whole = Proxy::transparent(site.address);
    run(&site, &whole).unwrap();
    let expected = site.replicas.calls();
    let total = [0, 1].map(|direction| whole.passed[direction].load(Ordering::SeqCst));
    let mut failures = 0;
    for (direction, total) in total.into_iter().enumerate() {
        for cut in 0..CUTS {
            let mut budget = [u64::MAX; 2];
            budget[direction] = total * cut / CUTS;
            let before = site.replicas.calls().len();
            let outcome = run(&site, &Proxy::start(site.address, budget, Then::Cut));
            let calls = site.replicas.calls().split_off(before);
            // One session at most came of it, and took a beginning of what was sent.
            assert!(expected.starts_with(&calls), "direction {direction}, cut after {budget:?}: {calls:?}");
            match outcome {
                // The lengths of handshakes differ by some bytes, and the close at the end is not missed.
                Ok(()) => assert!(budget[direction] + 200 > total, "cut after {budget:?} of {total}"),
                Err(ReplicaError::Disconnected { .. }) => failures += 1,
                Err(error) => panic!("direction {direction}, cut after {budget:?}: {error}"),
            }
            let mut again = site.connect().unwrap();
            assert_eq!(site.replicas.sessions(), 1, "the former session is gone");
            again.barrier().unwrap();
        }
    }
    assert!(failures > CUTS * 3 / 2, "{failures}");
}

/// Per direction. The client sends some 30 messages, so each is hit several times.
const CUTS: u64 = 120;
