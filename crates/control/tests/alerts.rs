//! Alerts to a real mail server (aiosmtpd) and a real receiver of webhooks (Python's), both behind TLS: `scripts/lab-alerts`, `crates/lab/alerts`.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;
use switchback_control::alerts::{
    AlertDestination, AlertPolicy, AlertWay, MailSecurity, MailWay, WebhookWay, signature,
};
use switchback_control::backup::ServerHome;
use switchback_control::{Control, ControlConfig, open_site};
use switchback_disk::{Clock, DirVolume};
use switchback_identity::{Authority, PeerIdentity, Role};
use switchback_model::component::{MasterTargetState, ReplicaActual, Report, State};
use switchback_model::{Epoch, Severity, UnixMillis};
use switchback_store::SqliteStore;
use zeroize::Zeroizing;

#[derive(Debug, Default)]
struct Seconds(AtomicU64);

impl Clock for Seconds {
    fn now(&self) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + self.0.load(Ordering::Relaxed) * 1000)
    }
}

/// The servers that alerts are sent to; they end with it.
struct Receivers {
    process: Child,
    lines: BufReader<ChildStdout>,
    ports: Value,
}

impl Receivers {
    fn start(directory: &Path, smtp_port: u16) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let lab = Command::new(root.join("scripts/lab-alerts")).stderr(Stdio::inherit()).output().unwrap();
        assert!(lab.status.success());
        let python = String::from_utf8(lab.stdout).unwrap();
        let mut process = Command::new(python.trim())
            .arg(root.join("crates/lab/alerts/receivers.py"))
            .args([directory.join("server.pem"), directory.join("server.key")])
            .arg(smtp_port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap());
        let mut made = Self { process, lines, ports: Value::Null };
        made.ports = made.next();
        made
    }

    /// What they got next. The runner of tests has a limit, should nothing come.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn port(&self, name: &str) -> u16 {
        u16::try_from(self.ports[name].as_u64().unwrap()).unwrap()
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Bench {
    directory: tempfile::TempDir,
    clock: Arc<Seconds>,
    control: Control,
    authority: String,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = certificates(directory.path());
        let clock = Arc::<Seconds>::default();
        std::fs::create_dir(directory.path().join("identity")).unwrap();
        Authority::create(
            Arc::new(DirVolume::open(directory.path().join("identity")).unwrap()),
            clock.clone(),
        )
        .unwrap();
        let control = Control::open(ControlConfig {
            store: Arc::new(SqliteStore::open(directory.path().join("store.db")).unwrap()),
            clock: clock.clone(),
            owner: "cs".into(),
            scripts: "/nonexistent".into(),
            opener: Arc::new(open_site),
        })
        .unwrap();
        control.keeps(ServerHome {
            directory: directory.path().into(),
            build: "1".into(),
            settings: Default::default(),
            addresses: vec!["cs.example:443".into()],
            authority: Vec::new(),
        });
        control.set_alert_policy(AlertPolicy { delay_s: 0, remind_after_s: 0 }).unwrap();
        Self { directory, clock, control, authority }
    }

    fn receivers(&self, smtp_port: u16) -> Receivers {
        Receivers::start(self.directory.path(), smtp_port)
    }

    fn set(&self, name: &str, way: AlertWay, secret: &str) {
        let destination = AlertDestination {
            name: name.parse().unwrap(),
            severity_min: Severity::Warning,
            interval_s: 0,
            way,
        };
        let secret = Zeroizing::new(secret.to_owned());
        self.control.set_alert_destination(destination, Some(&secret)).unwrap();
    }

    fn mail(&self, port: u16, security: MailSecurity) -> MailWay {
        MailWay {
            host: "localhost".into(),
            port,
            security,
            user: Some("alerts".into()),
            from: "Switchback <switchback@example.com>".into(),
            recipients: vec!["ops@example.com".into()],
            authority: Some(self.authority.clone()),
        }
    }

    fn hook(&self, port: u16, path: &str) -> AlertWay {
        let url = format!("https://localhost:{port}{path}");
        let authority = Some(self.authority.clone());
        AlertWay::Webhook(WebhookWay { url, allow_plain_loopback: false, authority })
    }

    fn refusal(&self, name: &str) -> (String, String) {
        let error = self.control.test_alert_destination(&name.parse().unwrap()).unwrap_err();
        (error.error.code.clone(), error.to_string())
    }

    /// A master target that has a replica of nobody: a condition that lasts as long as it is reported.
    fn orphan(&self, is_there: bool) {
        let replica = ReplicaActual {
            replica: "left-over".parse().unwrap(),
            epoch: Epoch(1),
            reached: None,
            applied: None,
            points: Vec::new(),
            retention_bytes: 0,
            views: Default::default(),
            standing: Vec::new(),
            targets: Vec::new(),
            problem: None,
        };
        let replicas = is_there.then_some(replica).into_iter().collect();
        let report = Report {
            build: "1".into(),
            address: "mt1:9443".into(),
            site: "home".into(),
            started: UnixMillis(0),
            state: State::MasterTarget(MasterTargetState { replicas, ..MasterTargetState::default() }),
            incarnation_proof: None,
        };
        let peer = PeerIdentity { role: Role::Target, name: "mt1".parse().unwrap() };
        self.control.report(&peer, report).unwrap();
        self.control.reconcile().unwrap();
    }
}

/// An authority's certificate (returned) and one of it for localhost.
fn certificates(directory: &Path) -> String {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned()];
    let server = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    std::fs::write(directory.join("server.pem"), server.pem()).unwrap();
    std::fs::write(directory.join("server.key"), key.serialize_pem()).unwrap();
    certificate.pem()
}

fn unused_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn mail_gets_there_by_starttls_and_by_tls_with_a_login() {
    let bench = Bench::new();
    let mut receivers = bench.receivers(0);
    for (name, port, security) in
        [("starttls", "smtp", MailSecurity::Starttls), ("tls", "smtps", MailSecurity::Tls)]
    {
        bench.set(name, AlertWay::Mail(bench.mail(receivers.port(port), security)), "right");
        bench.control.test_alert_destination(&name.parse().unwrap()).unwrap();
        let got = receivers.next();
        assert!(got["mail"].as_str().unwrap().contains(&format!("this is a test of {name}")), "{got:#}");
        assert_eq!(
            (&got["to"][0], &got["sender"]),
            (&"ops@example.com".into(), &"switchback@example.com".into())
        );
        assert_eq!(got["user"], true);
        bench.control.remove_alert_destination(&name.parse().unwrap()).unwrap();
    }
}

#[test]
fn what_a_mail_server_has_against_it_is_said_in_words() {
    let bench = Bench::new();
    let mut receivers = bench.receivers(0);
    let good = bench.mail(receivers.port("smtp"), MailSecurity::Starttls);
    let refusal = |way: MailWay, secret: &str| {
        bench.set("mail", AlertWay::Mail(way), secret);
        let (code, words) = bench.refusal("mail");
        assert!(!words.contains("wrong-password"), "{words}");
        code
    };
    assert_eq!(refusal(good.clone(), "wrong-password"), "alerts.login-refused");
    assert_eq!(refusal(MailWay { port: unused_port(), ..good.clone() }, "right"), "alerts.unreachable");
    let unknown = MailWay { host: "mail.invalid".into(), ..good.clone() };
    assert_eq!(refusal(unknown, "right"), "alerts.unknown-host");
    let distrusted = MailWay { authority: None, ..good.clone() };
    assert_eq!(refusal(distrusted, "right"), "alerts.certificate");
    let misnamed = MailWay { host: "127.0.0.1".into(), ..good.clone() };
    assert_eq!(refusal(misnamed, "right"), "alerts.certificate");
    let nobody = MailWay { recipients: vec!["nobody@example.com".into()], ..good.clone() };
    assert_eq!(refusal(nobody, "right"), "alerts.refused");
    // One that is refused keeps nobody else from mail.
    let both = vec!["nobody@example.com".into(), "ops@example.com".into()];
    bench.set("mail", AlertWay::Mail(MailWay { recipients: both, ..good }), "right");
    bench.control.test_alert_destination(&"mail".parse().unwrap()).unwrap();
    assert_eq!(receivers.next()["to"], serde_json::json!(["ops@example.com"]));
}

#[test]
fn webhooks_are_signed_and_lead_nowhere_else() {
    let bench = Bench::new();
    let mut receivers = bench.receivers(0);
    let port = receivers.port("https");
    let key = "a key that both sides know";
    bench.set("hook", bench.hook(port, "/ok"), key);
    bench.control.test_alert_destination(&"hook".parse().unwrap()).unwrap();
    let got = receivers.next();
    let time = UnixMillis(got["timestamp"].as_str().unwrap().parse::<u64>().unwrap() * 1000);
    let body = got["body"].as_str().unwrap();
    assert_eq!(got["signature"], signature(key.as_bytes(), time, body.as_bytes()));
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&body["version"], &body["alerts"][0]["phase"]), (&1.into(), &"test".into()));
    for (path, code) in [("/redirect", "alerts.redirected"), ("/fail", "alerts.refused")] {
        bench.set("hook", bench.hook(port, path), key);
        assert_eq!(bench.refusal("hook").0, code);
        assert_eq!(receivers.next()["path"], path);
    }
    let AlertWay::Webhook(mut distrusted) = bench.hook(port, "/ok") else { unreachable!() };
    distrusted.authority = None;
    bench.set("hook", AlertWay::Webhook(distrusted), key);
    assert_eq!(bench.refusal("hook").0, "alerts.certificate");
    bench.set("hook", bench.hook(unused_port(), "/ok"), key);
    assert_eq!(bench.refusal("hook").0, "alerts.unreachable");
    // Nothing came after the redirect but what is counted here: it was not followed.
    bench.set("hook", bench.hook(port, "/ok"), key);
    bench.control.test_alert_destination(&"hook".parse().unwrap()).unwrap();
    assert_eq!(receivers.next()["path"], "/ok");
}

#[test]
fn what_happens_while_the_mail_server_is_down_is_delivered_when_it_is_back() {
    let bench = Bench::new();
    let port = unused_port();
    bench.set("mail", AlertWay::Mail(bench.mail(port, MailSecurity::Starttls)), "right");
    bench.orphan(true);
    assert_eq!(bench.control.send_alerts().unwrap(), 0);
    let state = bench.control.delivery_state(&"mail".parse().unwrap()).unwrap();
    assert_eq!(state.failure.unwrap().code, "alerts.unreachable");
    bench.orphan(false);
    let mut receivers = bench.receivers(port);
    bench.clock.0.fetch_add(10, Ordering::Relaxed);
    assert_eq!(bench.control.send_alerts().unwrap(), 1);
    let got = receivers.next();
    let text = got["mail"].as_str().unwrap();
    assert!(text.contains("replica.orphan") && text.contains("is over"), "{text}");
    assert!(text.contains("belongs to no protected machine"), "{text}");
    assert_eq!(bench.control.send_alerts().unwrap(), 0, "each once");
}
