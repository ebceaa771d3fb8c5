//! How much a process server may forward: set over the API, part of what the process server is answered.

use serde_json::json;
use switchback_identity::{PeerIdentity, Role};
use switchback_model::component::{Desired, ProcessServerState, Report, State};
use switchback_model::{Bandwidth, UnixMillis};

use crate::server::Server;

fn peer(role: Role, name: &str) -> PeerIdentity {
    PeerIdentity { role, name: name.parse().unwrap() }
}

/// What the process server is told when it reports.
fn told(server: &Server) -> Bandwidth {
    let report = Report {
        build: "test".into(),
        address: "ps9:9443".into(),
        site: "home".into(),
        started: UnixMillis(0),
        state: State::ProcessServer(ProcessServerState::default()),
        incarnation: 0,
    };
    match server.world.control.report(&peer(Role::ProcessServer, "ps9"), report).unwrap().desired {
        Desired::ProcessServer(desired) => desired.bandwidth,
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
    let target = "switchbackServers/target.mt9/bandwidth/default";
    assert_eq!(server.call("PUT", target, Some(json!({ "properties": {} }))).await.status, 400);
    assert_eq!(
        server.call("GET", "switchbackServers/process-server.no/bandwidth/default", None).await.status,
        404
    );
    // Another one of that name begins without limits.
    assert_eq!(server.call("DELETE", "switchbackServers/process-server.ps9", None).await.status, 204);
    server.world.enrol(Role::ProcessServer, "ps9");
    assert_eq!(told(&server), Bandwidth::default());
}
