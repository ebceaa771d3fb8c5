//! The control channel: the component's end and the listener, over real TLS.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cs;
mod rig;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cs::Cs;
use rig::wait_until;
use serde::Serialize;
use switchback::component::{Channel, ChannelConfig, ChannelError};
use switchback_control::backup::ServerHome;
use switchback_control::{Control, ControlConfig, open_site};
use switchback_disk::{Clock, DirVolume, SystemClock};
use switchback_identity::tls::{control_client_config, server_name};
use switchback_identity::{CERTIFICATE_LIFETIME_MS, Credentials, LiveCredentials, Newcomer, Role};
use switchback_model::component::{
    Answer, Desired, IncarnationProof, Meeting, MomentAnswer, MomentCall, ProcessServerDesired,
    ProcessServerState, ProgramPiece, Report, State, Wait,
};
use switchback_model::{Bandwidth, BandwidthLimit, UnixMillis};
use switchback_store::SqliteStore;

const WHO: &str = "process-server ps1";

fn desired(bytes_per_s_max: u64) -> Desired {
    Desired::ProcessServer(ProcessServerDesired {
        routes: Vec::new(),
        bandwidth: Bandwidth {
            total: BandwidthLimit { bytes_per_s_max: Some(bytes_per_s_max), ..BandwidthLimit::default() },
            ..Bandwidth::default()
        },
        probes: Vec::new(),
        hold: Vec::new(),
    })
}

fn compose() -> Report {
    let state = State::ProcessServer(ProcessServerState::default());
    Report {
        build: "test".into(),
        address: String::new(),
        site: "home".into(),
        started: SystemClock.now(),
        state,
        incarnation_proof: None,
    }
}

struct Component {
    channel: Channel,
    credentials: Arc<LiveCredentials>,
    directory: tempfile::TempDir,
}

fn component(cs: &Cs, servers: &[String], credentials: Arc<LiveCredentials>) -> Component {
    let directory = tempfile::tempdir().unwrap();
    let config = ChannelConfig {
        servers: servers.to_vec(),
        credentials: credentials.clone(),
        volume: Arc::new(DirVolume::open(directory.path()).unwrap()),
        clock: cs.clock.clone(),
        runtime: cs.runtime.handle().clone(),
    };
    Component { channel: Channel::start(config, Arc::new(compose)).unwrap(), credentials, directory }
}

/// The next answer that is so; how long it took.
fn until(channel: &Channel, is: impl Fn(&Answer) -> bool) -> Duration {
    let began = Instant::now();
    let mut seen = 0;
    while began.elapsed() < Duration::from_secs(60) {
        let (count, answer) = channel.next(seen, Duration::from_millis(200));
        seen = count;
        if answer.as_ref().is_some_and(&is) {
            return began.elapsed();
        }
    }
    panic!("no such answer within a minute; {:?}", channel.failure());
}

#[test]
fn a_change_is_heard_at_once_and_reports_go_on() {
    let cs = Cs::new();
    cs.service.want(WHO, desired(1));
    let ps = component(&cs, &[cs.address.to_string()], cs.live(Role::ProcessServer, "ps1"));
    until(&ps.channel, |answer| answer.desired == desired(1));
    // Long polls are open by now, or will be: either way no report's interval is waited for.
    std::thread::sleep(Duration::from_millis(500));
    cs.service.want(WHO, desired(2));
    let took = until(&ps.channel, |answer| answer.desired == desired(2));
    assert!(took < Duration::from_secs(4), "{took:?}: a report's interval is 5 s");
    cs.service.forget_reports();
    ps.channel.report_now();
    wait_until("it reports", || cs.service.report_of(WHO).is_some());
    let call = MomentCall { group: "g".into(), meeting: Meeting::Ready };
    let met = ps.channel.moment(&call, Duration::from_secs(20)).unwrap();
    assert_eq!(met, MomentAnswer::Go { tag: "g-1".into() });
}

#[test]
fn a_server_that_was_restored_elsewhere_is_found() {
    let mut cs = Cs::new();
    cs.service.want(WHO, desired(1));
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let servers = [cs.address.to_string(), other.to_string()];
    let ps = component(&cs, &servers, cs.live(Role::ProcessServer, "ps1"));
    until(&ps.channel, |answer| answer.desired == desired(1));
    cs.stop();
    wait_until("it is missed", || matches!(ps.channel.failure(), Some(ChannelError::Unreachable { .. })));
    cs.listen(other);
    cs.service.want(WHO, desired(2));
    until(&ps.channel, |answer| answer.desired == desired(2));
    assert_eq!(ps.channel.failure(), None);
}

#[test]
fn a_server_that_was_replaced_is_not_listened_to_also_after_a_restart() {
    let cs = Cs::new();
    cs.is_restored_as(5);
    cs.service.want(WHO, desired(1));
    let servers = [cs.address.to_string()];
    let ps = component(&cs, &servers, cs.live(Role::ProcessServer, "ps1"));
    until(&ps.channel, |answer| answer.desired == desired(1));
    wait_until("it says whom it has met", || {
        let report = cs.service.report_of(WHO);
        report.and_then(|report| report.incarnation_proof).is_some_and(|met| met.number == 5)
    });
    // The old one, at the same address.
    cs.is_restored_as(4);
    cs.service.want(WHO, desired(2));
    let outdated = |channel: &Channel| {
        matches!(channel.failure(), Some(ChannelError::Outdated { found: 4, known: 5, .. }))
    };
    wait_until("it notices", || outdated(&ps.channel));
    let Component { channel, credentials, directory } = ps;
    let heard = channel.next(0, Duration::ZERO).1.unwrap();
    assert_eq!(heard.desired, desired(1), "nothing was taken from it");
    drop(channel);
    let config = ChannelConfig {
        servers: servers.to_vec(),
        credentials,
        volume: Arc::new(DirVolume::open(directory.path()).unwrap()),
        clock: cs.clock.clone(),
        runtime: cs.runtime.handle().clone(),
    };
    let again = Channel::start(config, Arc::new(compose)).unwrap();
    wait_until("it remembers", || outdated(&again));
    cs.is_restored_as(6);
    until(&again, |answer| answer.desired == desired(2));
}

#[test]
fn a_server_that_cannot_prove_its_incarnation_is_not_followed() {
    let (cs, other) = (Cs::new(), Cs::new());
    cs.service.want(WHO, desired(1));
    let ps = component(&cs, &[cs.address.to_string()], cs.live(Role::ProcessServer, "ps1"));
    until(&ps.channel, |answer| answer.desired == desired(1));
    // It has a certificate of a configuration server, and not the authority's key.
    let forged = IncarnationProof { number: u64::MAX, ..other.authority.prove_incarnation(5) };
    *cs.service.incarnation_proof.lock().unwrap() = Some(forged);
    cs.service.want(WHO, desired(2));
    wait_until("it notices", || {
        matches!(ps.channel.failure(), Some(ChannelError::Unproved { found: u64::MAX, .. }))
    });
    let heard = ps.channel.next(0, Duration::ZERO).1.unwrap();
    assert_eq!(heard.desired, desired(1), "nothing was taken from it");
    // Nor is anything remembered that would lock out the true one.
    cs.is_restored_as(3);
    until(&ps.channel, |answer| answer.desired == desired(2));
    wait_until("it says whom it has met", || {
        let report = cs.service.report_of(WHO);
        report.and_then(|report| report.incarnation_proof).is_some_and(|met| met.number == 3)
    });
}

/// A control plane over a store of its own, which components of `cs` reach from now on.
fn control(directory: &Path, cs: &mut Cs) -> Control {
    let control = Control::open(ControlConfig {
        store: Arc::new(SqliteStore::open(directory.join("store.db")).unwrap()),
        clock: cs.clock.clone(),
        owner: "test".into(),
        scripts: directory.into(),
        opener: Arc::new(open_site),
    })
    .unwrap();
    control.keeps(ServerHome {
        directory: directory.into(),
        build: "test".into(),
        settings: BTreeMap::new(),
        addresses: Vec::new(),
        authority: cs.authority.certificate().to_vec(),
    });
    cs.listen_with(SocketAddr::new(cs.address.ip(), 0), Arc::new(control.clone()));
    control
}

fn enrolled(cs: &Cs, control: &Control, name: &str) -> Arc<LiveCredentials> {
    let credentials = cs.live(Role::ProcessServer, name);
    let identity = credentials.current().identity().clone();
    control.enrolled(&Newcomer { identity, ticket: None }).unwrap();
    credentials
}

/// What a component is answered that says what it likes: it has a certificate, and no program of ours. Status, headers and body.
fn post(cs: &Cs, credentials: &Arc<LiveCredentials>, path: &str, message: &impl Serialize) -> String {
    let config = control_client_config(credentials, cs.clock.clone()).unwrap();
    let connection = rustls::ClientConnection::new(config, server_name()).unwrap();
    let socket = std::net::TcpStream::connect(cs.address).unwrap();
    let mut line = rustls::StreamOwned::new(connection, socket);
    let body = serde_json::to_string(message).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: cs\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    line.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = String::new();
    // A server may end the connection without TLS's good-bye.
    let _ = line.read_to_string(&mut answer);
    answer
}

#[test]
fn a_component_that_lies_is_ignored_and_one_with_a_proof_is_believed() {
    let directory = tempfile::tempdir().unwrap();
    let mut cs = Cs::new();
    let control = control(directory.path(), &mut cs);
    let [liar, honest] = ["ps1", "ps2"].map(|name| enrolled(&cs, &control, name));
    let report = |who: &Arc<LiveCredentials>, met: IncarnationProof| {
        post(&cs, who, "/components/v1/report", &Report { incarnation_proof: Some(met), ..compose() })
    };
    let lie = Cs::new().authority.prove_incarnation(7);
    let answer = report(&liar, lie);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(control.superseded().unwrap(), None);
    let events = control.events(20).unwrap();
    let told = events.iter().find(|event| event.code == "server.incarnation-unproved").unwrap();
    assert_eq!(told.object, "process-server ps1");
    let answer = report(&honest, cs.authority.prove_incarnation(7));
    assert!(answer.starts_with("HTTP/1.1 409") && answer.contains("server.superseded"), "{answer}");
    assert_eq!(control.superseded().unwrap().unwrap().told_by, "process-server ps2");
}

#[test]
fn a_component_that_was_removed_is_refused_at_once_whatever_it_asks() {
    let directory = tempfile::tempdir().unwrap();
    let mut cs = Cs::new();
    let control = control(directory.path(), &mut cs);
    let [removed, other] = ["ps1", "ps2"].map(|name| enrolled(&cs, &control, name));
    let piece = ProgramPiece { sha256: String::new(), offset: 0 };
    let ask = |who: &Arc<LiveCredentials>| {
        [
            post(&cs, who, "/components/v1/report", &compose()),
            post(&cs, who, "/components/v1/wait", &Wait { version: 1, system_uuid: None }),
            post(&cs, who, "/components/v1/program", &piece),
            post(&cs, who, "/components/v1/renew", &()),
        ]
    };
    let refused = |answer: &String| {
        answer.starts_with("HTTP/1.1 403") && answer.contains("component.removed") && answer.contains("enrol")
    };
    let before = ask(&removed);
    assert!(before[0].starts_with("HTTP/1.1 200") && !before.iter().any(refused), "{before:?}");
    control.remove_server(removed.current().identity()).unwrap();
    let after = ask(&removed);
    assert!(after.iter().all(refused), "{after:?}");
    assert!(!ask(&other).iter().any(refused), "nobody else is");
    assert_eq!(control.servers().unwrap().len(), 1, "it has not come back by reporting");
    let newcomer = Newcomer { identity: removed.current().identity().clone(), ticket: None };
    control.enrolled(&newcomer).unwrap();
    assert!(!ask(&removed).iter().any(refused), "it has enrolled anew");
}

#[test]
fn an_address_that_the_server_told_is_kept_and_tried() {
    let mut cs = Cs::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    *cs.service.servers.lock().unwrap() = vec![other.to_string()];
    cs.service.want(WHO, desired(1));
    let first = cs.address.to_string();
    let ps = component(&cs, &[first], cs.live(Role::ProcessServer, "ps1"));
    until(&ps.channel, |answer| answer.desired == desired(1));
    cs.stop();
    cs.listen(other);
    cs.service.want(WHO, desired(2));
    until(&ps.channel, |answer| answer.desired == desired(2));
}

#[test]
fn the_certificate_is_renewed_in_time_and_kept() {
    let cs = Cs::new();
    cs.service.want(WHO, desired(1));
    let credentials = cs.live(Role::ProcessServer, "ps1");
    let old = credentials.current().facts().not_after;
    cs.clock.0.store(CERTIFICATE_LIFETIME_MS / 10 * 8, Ordering::SeqCst);
    let ps = component(&cs, &[cs.address.to_string()], credentials);
    wait_until("it is renewed", || ps.credentials.current().facts().not_after > old);
    let volume = DirVolume::open(ps.directory.path()).unwrap();
    let stored = Credentials::load(&volume).unwrap();
    assert_eq!(stored.facts(), ps.credentials.current().facts());
    until(&ps.channel, |answer| answer.desired == desired(1));
}

#[test]
fn the_certificate_is_renewed_when_the_server_asks_for_it_and_only_once() {
    let cs = Cs::new();
    cs.service.want(WHO, desired(1));
    let credentials = cs.live(Role::ProcessServer, "ps1");
    let old = credentials.current().facts().not_after;
    *cs.service.renew_ending_before.lock().unwrap() = Some(old);
    let ps = component(&cs, &[cs.address.to_string()], credentials);
    let reported = || {
        cs.service.forget_reports();
        ps.channel.report_now();
        wait_until("it reports", || cs.service.report_of(WHO).is_some());
    };
    reported();
    reported();
    assert_eq!(ps.credentials.current().facts().not_after, old, "it is not older than what was asked for");
    cs.clock.0.store(5_000, Ordering::SeqCst);
    *cs.service.renew_ending_before.lock().unwrap() = Some(UnixMillis(old.0 + 1));
    reported();
    reported();
    wait_until("it is renewed", || ps.credentials.current().facts().not_after > old);
    let new = ps.credentials.current().facts().clone();
    cs.clock.0.store(9_000, Ordering::SeqCst);
    reported();
    reported();
    assert_eq!(*ps.credentials.current().facts(), new);
}

#[test]
fn strangers_and_the_expired_are_refused_and_told_why() {
    let (cs, other) = (Cs::new(), Cs::new());
    cs.service.want(WHO, desired(1));
    let servers = [cs.address.to_string()];
    let foreign = component(&cs, &servers, other.live(Role::ProcessServer, "ps1"));
    wait_until("a foreign one fails", || {
        matches!(foreign.channel.failure(), Some(ChannelError::Identity { .. }))
    });
    let unknown = component(&cs, &servers, cs.live(Role::ProcessServer, "ps9"));
    wait_until("an unknown one fails", || {
        matches!(unknown.channel.failure(), Some(ChannelError::Refused { status: 404, .. }))
    });
    // A component is no configuration server, whatever it answers.
    let expired = cs.live(Role::ProcessServer, "ps1");
    cs.clock.0.store(CERTIFICATE_LIFETIME_MS + 1000, Ordering::SeqCst);
    let expired = component(&cs, &servers, expired);
    wait_until("an expired one says so", || {
        expired.channel.failure().is_some_and(|failure| failure.to_string().contains("enrol"))
    });
}

/// What `curl` says.
fn curl(cs: &Cs, path: &str, more: &[&str]) -> (bool, String) {
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), cs.authority.certificate_pem()).unwrap();
    let mut command = std::process::Command::new("curl");
    command
        .args(["-s", "-S", "--max-time", "20", "-w", "%{http_code}", "--cacert"])
        .arg(ca.path())
        .args(more);
    let output = command.arg(format!("https://{}{path}", cs.address)).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn users_reach_their_routes_and_not_those_of_components() {
    let cs = Cs::new();
    assert_eq!(
        curl(&cs, "/hello", &[]),
        (true, "hello200".into()),
        "with nothing but the authority's certificate"
    );
    assert_eq!(curl(&cs, "/hello", &["--no-alpn"]), (true, "hello200".into()));
    let (_, said) = curl(&cs, "/components/v1/report", &["-d", "{}"]);
    assert!(said.ends_with("404"), "{said}");
}
