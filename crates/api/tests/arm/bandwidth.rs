//! How much a process server or master target may send: set over the API, part of what it is answered.

use serde_json::json;
use switchback_identity::{PeerIdentity, Role};
use switchback_model::component::{Desired, MasterTargetState, ProcessServerState, Report, State};
use switchback_model::{Bandwidth, UnixMillis};

use crate::server::Server;

fn peer(role: Role, name: &str) -> PeerIdentity {
    PeerIdentity { role, name: name.parse().unwrap() }
}

/// What a server is told when it reports.
fn answer(server: &Server, peer: &PeerIdentity, state: State) -> Desired {
    let report = Report {
        build: "test".into(),
        address: "host:9443".into(),
        site: "home".into(),
        started: UnixMillis(0),
        state,
        incarnation_proof: None,
    };
    server.world.control.report(peer, report).unwrap().desired
}

fn told(server: &Server) -> Bandwidth {
    let state = State::ProcessServer(ProcessServerState::default());
    match answer(server, &peer(Role::ProcessServer, "ps9"), state) {
        Desired::ProcessServer(desired) => desired.bandwidth,
        other => panic!("{other:?}"),
    }
}

fn told_target(server: &Server) -> Bandwidth {
    match answer(server, &peer(Role::Target, "mt9"), State::MasterTarget(MasterTargetState::default())) {
        Desired::MasterTarget(desired) => desired.bandwidth,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_process_server_is_told_its_limits_as_soon_as_they_are_set() {
    let server = Server::new();
    server.world.enrol(Role::ProcessServer, "ps9");
    server.world.enrol(Role::Target, "mt9");
    let path = "switchbackServers/process-server.ps9/bandwidth/default";
    assert_eq!(server.get(path).await["properties"], json!({ "utcOffsetMinutes": 0, "total": {} }));
    assert_eq!(told(&server), Bandwidth::default());
    let wakes = server.world.control.changes();
    let before = *wakes.borrow();
    let limits = json!({ "utcOffsetMinutes": 60, "targets": { "MT1": { "bytesPerSMax": 2_000_000 } }, "total": { "bytesPerSMax": 9_000_000,
        "windows": [{ "days": [0, 1, 2, 3, 4], "fromMinute": 480, "toMinute": 1080, "bytesPerSMax": 1_000_000 }] } });
    let set = server.call("PUT", path, Some(json!({ "properties": limits }))).await;
    assert_eq!(set.status, 200, "{:#}", set.body);
    assert!(*wakes.borrow() > before, "who waits for a change is woken");
    // Thursday 1970-01-01, 08:00 in local time.
    let (morning, night) = (UnixMillis(7 * 3_600_000), UnixMillis(6 * 3_600_000));
    let now = told(&server);
    assert_eq!((now.total_at(morning), now.total_at(night)), (Some(1_000_000), Some(9_000_000)));
    assert_eq!(now.target_at("mt1", morning), Some(2_000_000));
    let shown = server.get("switchbackServers/process-server.ps9").await;
    assert_eq!(shown["properties"]["bandwidth"]["total"]["bytesPerSMax"], 9_000_000);
    for bad in [json!({ "total": { "bytesPerSMax": 5 } }), json!({ "totle": {} })] {
        let refused = server.call("PUT", path, Some(json!({ "properties": bad }))).await;
        assert_eq!(refused.status, 400, "{:#}", refused.body);
    }
    // A master target has one limit, towards storage; an agent has its policy's.
    let target = "switchbackServers/target.mt9/bandwidth/default";
    let one = json!({ "properties": { "total": { "bytesPerSMax": 3_000_000 } } });
    assert_eq!(server.call("PUT", target, Some(one)).await.status, 200);
    assert_eq!(told_target(&server).total_at(morning), Some(3_000_000));
    assert_eq!(told(&server).total_at(morning), Some(1_000_000), "each has its own");
    let towards = json!({ "properties": { "targets": { "mt1": { "bytesPerSMax": 3_000_000 } } } });
    assert_eq!(server.call("PUT", target, Some(towards)).await.status, 400);
    server.world.enrol(Role::Source, "agent9");
    let agent = "switchbackServers/source.agent9/bandwidth/default";
    assert_eq!(server.call("PUT", agent, Some(json!({ "properties": {} }))).await.status, 400);
    assert_eq!(
        server.call("GET", "switchbackServers/process-server.no/bandwidth/default", None).await.status,
        404
    );
    // Another one of that name begins without limits.
    assert_eq!(server.call("DELETE", "switchbackServers/process-server.ps9", None).await.status, 204);
    server.world.enrol(Role::ProcessServer, "ps9");
    assert_eq!(told(&server), Bandwidth::default());
}
