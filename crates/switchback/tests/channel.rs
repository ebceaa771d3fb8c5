//! The control channel: the component's end and the listener, over real TLS.

#![expect(clippy::unwrap_used, reason = "tests")]

mod cs;
mod rig;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cs::Cs;
use rig::wait_until;
use switchback::component::{Channel, ChannelConfig, ChannelError};
use switchback_disk::{Clock, DirVolume, SystemClock};
use switchback_identity::{CERTIFICATE_LIFETIME_MS, Credentials, LiveCredentials, Role};
use switchback_model::component::{
    Answer, Desired, Meeting, MomentAnswer, MomentCall, ProcessServerDesired, ProcessServerState, Report,
    State,
};
use switchback_model::{Bandwidth, BandwidthLimit};

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
        incarnation: 0,
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
    cs.service.incarnation.store(5, Ordering::SeqCst);
    cs.service.want(WHO, desired(1));
    let servers = [cs.address.to_string()];
    let ps = component(&cs, &servers, cs.live(Role::ProcessServer, "ps1"));
    until(&ps.channel, |answer| answer.desired == desired(1));
    wait_until("it says whom it has met", || {
        cs.service.report_of(WHO).is_some_and(|report| report.incarnation == 5)
    });
    // The old one, at the same address.
    cs.service.incarnation.store(4, Ordering::SeqCst);
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
    cs.service.incarnation.store(6, Ordering::SeqCst);
    until(&again, |answer| answer.desired == desired(2));
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
