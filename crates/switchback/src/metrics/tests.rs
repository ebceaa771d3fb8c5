//! What is served is what the guide, the dashboard and the alert rules speak of.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use switchback_model::component::{
    AgentState, DiskFacts, HardwareFacts, MasterTargetState, ProcessServerState, ReplicaActual, Report,
    SpoolState, State,
};
use switchback_model::{Consistency, Epoch, RecoveryPoint, Seq, UnixMillis};

use super::*;

fn all() -> Vec<&'static Definition> {
    component::ALL.into_iter().chain(configuration_server::ALL).collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All names of ours in a text.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("switchback_"))
        .map(str::to_owned)
        .collect()
}

fn report(state: State) -> Report {
    Report {
        build: "switchback 1".into(),
        address: String::new(),
        site: String::new(),
        started: UnixMillis(5_000),
        state,
        incarnation_proof: None,
    }
}

fn process_server() -> Report {
    let spool = SpoolState { replica: "web01".parse().unwrap(), bytes: 7, waiting: Some("away".into()) };
    report(State::ProcessServer(ProcessServerState {
        spools: vec![spool],
        free_bytes: 9,
        received_bytes: 100,
        ..ProcessServerState::default()
    }))
}

#[test]
fn names_follow_the_conventions() {
    let mut seen = BTreeSet::new();
    for definition in all() {
        assert!(definition.name.starts_with("switchback_"), "{}", definition.name);
        assert!(!definition.name.ends_with("_total"), "{}: the format adds it", definition.name);
        assert!(!definition.help.ends_with('.'), "{}: the format ends the sentence", definition.name);
        assert!(seen.insert(definition.name), "{} is there twice", definition.name);
    }
}

#[test]
fn the_guide_has_a_line_for_each_metric_and_no_other() {
    let guide = read("docs/guides/monitoring.md");
    let expected: BTreeSet<_> = all().iter().map(|definition| definition.full_name()).collect();
    for definition in all() {
        let labels = definition.labels.join(", ");
        let line = format!("| `{}` | {labels} | {} |", definition.full_name(), definition.help);
        assert!(guide.contains(&line), "docs/guides/monitoring.md lacks the line\n{line}");
    }
    assert_eq!(names(&guide), expected);
}

#[test]
fn dashboard_and_rules_ask_for_what_is_served() {
    let known: BTreeSet<_> = all().iter().map(|definition| definition.full_name()).collect();
    for file in ["deploy/grafana/switchback.json", "deploy/prometheus/switchback.rules.yml"] {
        let asked = names(&read(file));
        assert!(asked.len() > 5, "{file}: {asked:?}");
        let unknown: Vec<_> = asked.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("deploy/grafana/switchback.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 5);
}

#[test]
fn a_process_server_is_shown_in_open_metrics() {
    let text = encode(component::measure(&process_server())).unwrap();
    for line in [
        "# TYPE switchback_process_server_received_bytes counter",
        "switchback_process_server_received_bytes_total 100.0",
        "switchback_process_server_spool_bytes{replica=\"web01\"} 7.0",
        "switchback_process_server_spool_waiting{replica=\"web01\"} 1.0",
        "switchback_start_timestamp_seconds{role=\"process-server\"} 5.0",
        "switchback_build_info{role=\"process-server\",build=\"switchback 1\"} 1.0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_values_of_a_metric_stand_together_and_labels_are_escaped() {
    let disk =
        |name: &str| DiskFacts { name: name.into(), serial: String::new(), size: 1, capture: "ebpf".into() };
    let state = AgentState {
        system_uuid: String::new(),
        platform: String::new(),
        hostname: String::new(),
        system: String::new(),
        boot_id: String::new(),
        hardware: HardwareFacts::default(),
        powering_off: None,
        disks: vec![disk("vda"), disk("v\"d\nb")],
        interfaces: Vec::new(),
        replication: None,
        scripts: Vec::new(),
        guest: Vec::new(),
        program: None,
        problems: Vec::new(),
    };
    let text = encode(component::measure(&report(State::Agent(Box::new(state))))).unwrap();
    let families: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    let distinct: BTreeSet<_> = families.iter().collect();
    assert_eq!(families.len(), distinct.len(), "{text}");
    assert!(text.contains("switchback_agent_disk_bytes{disk=\"v\\\"d\\nb\"} 1.0"), "{text}");
}

#[test]
fn a_master_target_shows_how_far_its_disks_are_behind() {
    let point = |seq: u64| RecoveryPoint {
        seq: Seq(seq),
        time: UnixMillis(seq * 1000),
        consistency: Consistency::CrashConsistent,
        group_tag: None,
        lacks: Vec::new(),
    };
    let replica = ReplicaActual {
        replica: "web01".parse().unwrap(),
        epoch: Epoch(1),
        reached: None,
        applied: Some(Seq(2)),
        points: (0..=5).map(point).collect(),
        retention_bytes: 11,
        views: Default::default(),
        standing: Vec::new(),
        targets: Vec::new(),
        problem: None,
    };
    let state = MasterTargetState { replicas: vec![replica], ..MasterTargetState::default() };
    let text = encode(component::measure(&report(State::MasterTarget(state)))).unwrap();
    for line in [
        "switchback_master_target_apply_lag_points{replica=\"web01\"} 3.0",
        "switchback_master_target_recovery_points{replica=\"web01\"} 5.0",
        "switchback_master_target_newest_point_timestamp_seconds{replica=\"web01\"} 5.0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_are_served_and_nothing_else() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let measure = Arc::new(|| Ok(component::measure(&process_server())));
    let address = serve("127.0.0.1:0".parse().unwrap(), runtime.handle(), measure).unwrap();
    let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(CONTENT_TYPE), "{answer}");
    assert!(answer.contains("switchback_process_server_free_bytes 9.0"), "{answer}");
    for other in [
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert!(ask(address, other).starts_with("HTTP/1.1 404"), "{other}");
    }
    // More than are answered at a time say nothing at first: they take their turn.
    let idle: Vec<_> = (0..CONNECTIONS_MAX - 1).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 200"));
    drop(idle);
    let failing =
        serve("127.0.0.1:0".parse().unwrap(), runtime.handle(), Arc::new(|| anyhow::bail!("secret detail")));
    let answer = ask(failing.unwrap(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503") && !answer.contains("secret detail"), "{answer}");
}

/// By Prometheus' own judge, prepared by `scripts/lab-prometheus`.
#[test]
fn prometheus_takes_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let lab = Command::new(root.join("scripts/lab-prometheus")).stderr(Stdio::inherit()).output().unwrap();
    assert!(lab.status.success());
    let rules = root.join("deploy/prometheus/switchback.rules.yml");
    let promtool = String::from_utf8(lab.stdout).unwrap();
    let judged = Command::new(promtool.trim()).args(["check", "rules"]).arg(rules).output().unwrap();
    let said = String::from_utf8_lossy(&judged.stdout);
    assert!(judged.status.success() && said.contains("9 rules found"), "{said}");
}
