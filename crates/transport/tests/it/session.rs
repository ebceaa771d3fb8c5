//! Sessions over real TCP and TLS against replicas in memory.

use std::time::Duration;

use switchback_disk::Clock as _;
use switchback_identity::Role;
use switchback_model::{Consistency, DiskIndex, GenerationId, Seq};
use switchback_replica::{
    CommitCycle, CycleKind, OpenCycle, PauseReason, ReplicaError, ReplicaSession, ReplicaState,
};
use switchback_transport::{RateLimit, RemoteSession, Timeouts};

use crate::support::proxy::{Proxy, Then};
use crate::support::replica::{digest, frame, header, send_part, stale};
use crate::support::{Site, eventually, request};

#[test]
fn all_of_a_cycle_arrives_in_order_and_intact() {
    let site = Site::new();
    let mut session = site.connect().unwrap();
    let status = session.status().unwrap();
    assert_eq!((status.state, status.disks), (ReplicaState::Empty, request(1).disks));
    let cycle = OpenCycle { generation: GenerationId([1; 16]), kind: CycleKind::Changes };
    assert_eq!(session.open_cycle(&cycle).unwrap().kind, CycleKind::Changes);
    send_part(&mut session, 0, 7).unwrap();
    send_part(&mut session, 1, 2).unwrap();
    assert_eq!(session.barrier().unwrap().received, Some(Seq(1)));
    let commit = CommitCycle {
        seq: Seq(1),
        parts: 2,
        time: site.clock.now(),
        consistency: Consistency::CrashConsistent,
        group_tag: None,
        whole: Vec::new(),
    };
    assert_eq!(session.commit(&commit).unwrap().recoverable, Some(Seq(1)));
    session.abort_cycle().unwrap();
    let expected = "open source web01,open-cycle,begin 0,frame 0,frame 1,frame 2,frame 3,frame 4,frame 5,frame 6,end 0,\
                    begin 1,frame 0,frame 1,end 1,barrier,commit 2,abort";
    assert_eq!(site.replicas.calls().join(","), expected);
    let sent: Vec<_> = (0..7).chain(0..2).map(frame).collect();
    assert_eq!(site.replicas.frames(), sent);
    drop(session);
    eventually("the session is dropped with its connection", || site.replicas.sessions() == 0);
}

#[test]
fn digests_of_a_large_disk_come_in_several_requests() {
    let site = Site::new();
    let mut session = site.connect().unwrap();
    let nodes = session.node_digests(DiskIndex(0), 3, 600).unwrap();
    assert_eq!(nodes.iter().map(|node| node.0).collect::<Vec<_>>(), (3..603).map(digest).collect::<Vec<_>>());
    let wanted: Vec<u32> = (0..150).map(|n| n * 3).collect();
    let leaves = session.leaf_digests(DiskIndex(0), &wanted).unwrap();
    assert_eq!(leaves.iter().map(|node| node.node).collect::<Vec<_>>(), wanted);
    assert!(leaves.iter().all(|node| node.leaves == vec![digest(node.node); 256]));
    assert_eq!(
        site.replicas.calls()[1..].join(","),
        "nodes 3+256,nodes 259+256,nodes 515+88,leaves 64,leaves 64,leaves 22"
    );
    assert_eq!(session.node_digests(DiskIndex(0), 0, 0).unwrap(), Vec::new());
    assert!(session.node_digests(DiskIndex(0), u32::MAX, 2).is_err());
}

#[test]
fn an_error_of_a_pipelined_request_comes_at_a_later_call_as_itself() {
    for call in ["begin", "frame", "end", "barrier"] {
        let site = Site::new();
        let mut session = site.connect().unwrap();
        site.replicas.fail_next(call, stale());
        let failed = send_part(&mut session, 0, 5).and_then(|()| session.barrier().map(drop));
        assert_eq!(failed, Err(stale()), "{call}");
        assert_eq!(session.barrier().map(drop), Err(stale()), "the session is dead and says why");
        eventually("a dead session holds nothing", || site.replicas.sessions() == 0);
        site.still_serves();
    }
}

#[test]
fn a_pause_skips_what_was_on_its_way_and_the_session_goes_on() {
    let site = Site::new();
    let mut session = site.connect().unwrap();
    let paused = ReplicaError::Paused(PauseReason::RetentionFull { detail: "0 B free".into() });
    for round in 0..3 {
        site.replicas.fail_next("frame", paused.clone());
        let failed = send_part(&mut session, round, 40).and_then(|()| session.barrier().map(drop));
        assert_eq!(failed, Err(paused.clone()));
        // Nothing of the part behind the frame that failed has been taken, whatever was on its way.
        assert_eq!(site.replicas.calls().last().unwrap(), &format!("begin {round}"));
        send_part(&mut session, round, 2).unwrap();
        session.barrier().unwrap();
    }
    site.replicas.fail_next("barrier", paused.clone());
    assert_eq!(session.barrier().map(drop), Err(paused));
    session.barrier().unwrap();
    let calls = site.replicas.calls().join(",");
    let round = |n| format!("begin {n},begin {n},frame 0,frame 1,end {n},barrier");
    assert_eq!(calls, format!("open source web01,{},{},{},barrier", round(0), round(1), round(2)));
}

#[test]
fn a_server_that_takes_nothing_blocks_the_client_with_bounded_queues() {
    let site = Site::with(|config| config.limits.queue_bytes_max = 1 << 20);
    let proxy = Proxy::transparent(site.address);
    let mut config = site.config(proxy.address);
    config.queue_bytes_max = 1 << 20;
    site.replicas.hold(true);
    let mut session = RemoteSession::connect(config, request(1)).unwrap();
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = sent.clone();
    let sender = std::thread::spawn(move || {
        session.begin_part(header(0)).unwrap();
        for n in 0..2000 {
            // 100 kB each, 200 MB in all: more than any buffer between here and there.
            session.put_frame(frame(n * 12)).unwrap();
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
        session.end_part([0; 32]).unwrap();
        session.barrier().unwrap();
    });
    let count = || sent.load(std::sync::atomic::Ordering::SeqCst);
    let last = std::cell::Cell::new(0);
    eventually("it stops", || {
        std::thread::sleep(Duration::from_millis(300));
        count() > 0 && last.replace(count()) == count()
    });
    let before = count();
    assert!(before < 1000, "{before} frames were swallowed though the server took none");
    site.replicas.hold(false);
    sender.join().unwrap();
    assert_eq!(site.replicas.frames().len(), 2000);
}

#[test]
fn a_silent_connection_is_dead_within_its_time_at_both_ends() {
    let dead_after = Duration::from_millis(500);
    let site = Site::with(|config| config.limits.dead_after = dead_after);
    // Enough for the handshake and the opening, then nothing passes.
    let measured = Proxy::transparent(site.address);
    let mut session = RemoteSession::connect(site.config(measured.address), request(1)).unwrap();
    session.status().unwrap();
    let open = [0, 1].map(|n| measured.passed[n].load(std::sync::atomic::Ordering::SeqCst));
    drop(session);
    let frozen = Proxy::start(site.address, open.map(|bytes| bytes + 20), Then::Freeze);
    let mut config = site.config(frozen.address);
    config.timeouts.dead_after = dead_after;
    let mut session = RemoteSession::connect(config, request(2)).unwrap();
    let error = loop {
        if let Err(error) = session.barrier() {
            break error;
        }
    };
    assert!(
        matches!(&error, ReplicaError::Disconnected { detail, .. } if detail.contains("nothing was heard")),
        "{error}"
    );
    eventually("the server drops the session of a silent client", || site.replicas.sessions() == 0);
}

#[test]
fn an_idle_session_is_kept_alive_from_both_ends() {
    let dead_after = Duration::from_millis(300);
    let site = Site::with(|config| config.limits.dead_after = dead_after);
    let mut config = site.config(site.address);
    config.timeouts.dead_after = dead_after;
    let mut session = RemoteSession::connect(config, request(1)).unwrap();
    std::thread::sleep(dead_after * 5);
    session.barrier().unwrap();
    // Also while the session is busy, and the server reads nothing.
    site.replicas.hold(true);
    send_part(&mut session, 0, 1).unwrap();
    let replicas = site.replicas.clone();
    let release = std::thread::spawn(move || {
        std::thread::sleep(dead_after * 5);
        replicas.hold(false);
    });
    session.barrier().unwrap();
    release.join().unwrap();
}

#[test]
fn a_server_that_lives_but_does_not_get_on_is_given_up() {
    let site = Site::new();
    let mut config = site.config(site.address);
    config.timeouts.stalled_after = Duration::from_millis(300);
    let mut session = RemoteSession::connect(config, request(1)).unwrap();
    site.replicas.hold(true);
    send_part(&mut session, 0, 1).unwrap();
    let error = session.barrier().unwrap_err();
    assert!(
        matches!(&error, ReplicaError::Disconnected { detail, .. } if detail.contains("does not answer")),
        "{error}"
    );
    site.replicas.hold(false);
    eventually("its session is dropped", || site.replicas.sessions() == 0);
}

#[test]
fn a_writer_that_comes_back_takes_its_own_session_over() {
    let site = Site::new();
    let mut former = site.connect().unwrap();
    former.barrier().unwrap();
    let mut session = site.connect().unwrap();
    assert_eq!(site.replicas.sessions(), 1, "the former session was dropped before the new one was opened");
    session.barrier().unwrap();
    assert!(matches!(former.barrier(), Err(ReplicaError::Disconnected { .. })));
    // Another writer is another matter: the replica decides.
    let mut other = RemoteSession::connect(site.config(site.address), request(2)).unwrap();
    other.barrier().unwrap();
    session.barrier().unwrap();
    assert_eq!(site.replicas.sessions(), 2);
}

#[test]
fn what_the_handler_refuses_reaches_the_client_and_the_connection_limit_holds() {
    let site = Site::with(|config| config.limits.per_peer_max = 2);
    site.replicas.fail_next("open", ReplicaError::Locked { holder: "web01 elsewhere".into() });
    assert!(matches!(site.connect(), Err(ReplicaError::Locked { .. })));
    eventually("the refused connection is gone", || {
        let open = |writer| RemoteSession::connect(site.config(site.address), request(writer));
        let (first, second) = (open(1), open(2));
        first.is_ok() && second.is_ok() && matches!(open(3), Err(ReplicaError::Disconnected { .. }))
    });
}

/// It forwards for more machines than any one component has.
#[test]
fn a_process_server_has_a_connection_for_each_machine() {
    let site = Site::with(|config| config.limits.per_peer_max = 2);
    let mut config = site.config(site.address);
    config.credentials = site.live(Role::ProcessServer);
    let sessions: Vec<_> =
        (1..=20).map(|writer| RemoteSession::connect(config.clone(), request(writer)).unwrap()).collect();
    assert_eq!((sessions.len(), site.replicas.sessions()), (20, 20));
}

#[test]
fn only_some_roles_get_sessions() {
    let site = Site::new();
    let mut config = site.config(site.address);
    config.credentials = site.live(Role::Operator);
    let refused = RemoteSession::connect(config, request(1)).map(drop);
    assert!(
        matches!(&refused, Err(ReplicaError::Forbidden { detail }) if detail.contains("operator")),
        "{refused:?}"
    );
}

#[test]
fn a_stopped_server_ends_its_sessions() {
    let mut site = Site::new();
    let mut session = site.connect().unwrap();
    session.barrier().unwrap();
    site.stop();
    eventually("its sessions are dropped", || site.replicas.sessions() == 0);
    assert!(matches!(session.barrier(), Err(ReplicaError::Disconnected { .. })));
}

#[test]
fn a_limited_session_still_gets_through_and_stays_alive() {
    let dead_after = Duration::from_millis(600);
    let site = Site::with(|config| config.limits.dead_after = dead_after);
    let mut config = site.config(site.address);
    config.limits = vec![RateLimit::new(Some(400_000))];
    config.timeouts = Timeouts { dead_after, ..config.timeouts };
    let mut session = RemoteSession::connect(config, request(1)).unwrap();
    send_part(&mut session, 0, 12).unwrap();
    session.barrier().unwrap();
    assert_eq!(site.replicas.frames().len(), 12);
}
