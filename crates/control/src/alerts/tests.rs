//! Conditions that come and go, destinations that fail, servers that are killed; time is a counter.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use switchback_disk::Clock;
use switchback_store::{SqliteStore, Store};

use super::outbox::WAITING_MAX;
use super::*;
use crate::backup::ServerHome;
use crate::conditions::{Finding, Findings};
use crate::{ControlConfig, open_site};

#[derive(Debug, Default)]
struct Seconds(AtomicU64);

impl Clock for Seconds {
    fn now(&self) -> UnixMillis {
        UnixMillis(1_000_000_000 + self.0.load(Ordering::Relaxed) * 1000)
    }
}

struct Bench {
    directory: tempfile::TempDir,
    store: Arc<SqliteStore>,
    clock: Arc<Seconds>,
    control: Control,
    got: RefCell<Vec<(String, AlertMessage)>>,
}

fn control(bench: (&Arc<SqliteStore>, &Arc<Seconds>), directory: &std::path::Path, owner: &str) -> Control {
    let control = Control::open(ControlConfig {
        store: bench.0.clone(),
        clock: bench.1.clone(),
        owner: owner.into(),
        scripts: "/nonexistent".into(),
        opener: Arc::new(open_site),
    })
    .unwrap();
    control.keeps(ServerHome {
        directory: directory.into(),
        build: "1".into(),
        settings: BTreeMap::new(),
        addresses: vec!["cs.example:443".into()],
        authority: Vec::new(),
    });
    control
}

fn hook(name: &str, severity_min: Severity, interval_s: u64) -> AlertDestination {
    let url = format!("https://{name}.example/alerts");
    let way = AlertWay::Webhook(WebhookWay { url, allow_plain_loopback: false, authority: None });
    AlertDestination { name: name.parse().unwrap(), severity_min, interval_s, way }
}

fn mail(host: &str, security: MailSecurity, user: Option<&str>) -> AlertDestination {
    let way = AlertWay::Mail(MailWay {
        host: host.into(),
        port: 587,
        security,
        user: user.map(str::to_owned),
        from: "switchback@example.com".into(),
        recipients: vec!["ops@example.com".into()],
        authority: None,
    });
    AlertDestination { name: "mail".parse().unwrap(), severity_min: Severity::Warning, interval_s: 0, way }
}

fn key() -> Zeroizing<String> {
    Zeroizing::new("a key of some length".into())
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(directory.path().join("store.db")).unwrap());
        let clock = Arc::<Seconds>::default();
        let control = control((&store, &clock), directory.path(), "cs");
        Self { directory, store, clock, control, got: RefCell::default() }
    }

    fn with(destinations: &[AlertDestination]) -> Self {
        let bench = Self::new();
        for destination in destinations {
            bench.control.set_alert_destination(destination.clone(), Some(&key())).unwrap();
        }
        bench
    }

    /// Another process with the same store.
    fn server(&self, owner: &str) -> Control {
        control((&self.store, &self.clock), self.directory.path(), owner)
    }

    fn restart(&mut self) {
        self.control = self.server("cs");
    }

    fn pass(&self, seconds: u64) {
        self.clock.0.fetch_add(seconds, Ordering::Relaxed);
    }

    /// What is not well: objects, each with one code.
    fn observe(&self, found: &[(&str, Severity)]) {
        let finding = |severity| Finding { severity, message: "it is broken. Repair it".into() };
        let findings: Findings = found
            .iter()
            .map(|(object, severity)| {
                ((*object).to_owned(), [("it.broken".to_owned(), finding(*severity))].into())
            })
            .collect();
        self.control.observe("test", findings).unwrap();
        self.control.raise_alerts().unwrap();
    }

    /// What gets there now: phase and object.
    fn sent(&self) -> Vec<(AlertPhase, String)> {
        self.got.borrow_mut().clear();
        self.control
            .send_alerts_by(&|destination, secret, message| {
                assert_eq!(secret, Some(&key()));
                self.got.borrow_mut().push((destination.name.to_string(), message.clone()));
                Ok(())
            })
            .unwrap();
        self.got.borrow().iter().flat_map(|(_, message)| told(message)).collect()
    }

    fn fails(&self) -> usize {
        let tries = RefCell::new(0);
        self.control
            .send_alerts_by(&|_, _, _| {
                *tries.borrow_mut() += 1;
                Err(DeliveryError::new("alerts.unreachable", "it is down", "", ""))
            })
            .unwrap();
        tries.into_inner()
    }

    fn events(&self, code: &str) -> usize {
        self.control.events(10_000).unwrap().iter().filter(|event| event.code == code).count()
    }
}

fn told(message: &AlertMessage) -> Vec<(AlertPhase, String)> {
    let json: serde_json::Value = serde_json::from_str(&message.json).unwrap();
    let alerts = json["alerts"].as_array().unwrap();
    alerts
        .iter()
        .map(|alert| {
            let phase = serde_json::from_value(alert["phase"].clone()).unwrap();
            (phase, alert["object"].as_str().unwrap().to_owned())
        })
        .collect()
}

const WEB: (&str, Severity) = ("web01", Severity::Critical);
const DB: (&str, Severity) = ("db01", Severity::Warning);

fn of(phase: AlertPhase, object: (&str, Severity)) -> (AlertPhase, String) {
    (phase, object.0.to_owned())
}

#[test]
fn a_condition_is_told_once_when_it_begins_and_once_when_it_is_over_whoever_restarts() {
    let mut bench = Bench::with(&[hook("a", Severity::Warning, 0)]);
    bench.observe(&[WEB]);
    assert_eq!(bench.sent(), [], "it must last for a while");
    bench.pass(60);
    bench.observe(&[WEB]);
    bench.restart();
    bench.observe(&[WEB]);
    assert_eq!(bench.sent(), [of(AlertPhase::Begun, WEB)]);
    for _ in 0..3 {
        bench.restart();
        bench.pass(100);
        bench.observe(&[WEB]);
        assert_eq!(bench.sent(), []);
    }
    assert_eq!((bench.events("it.broken"), bench.events("it.broken.resolved")), (1, 0));
    bench.pass(24 * 3600);
    bench.observe(&[WEB]);
    assert_eq!(bench.sent(), [of(AlertPhase::Reminder, WEB)]);
    bench.observe(&[]);
    bench.observe(&[]);
    assert_eq!(bench.sent(), [of(AlertPhase::Ended, WEB)]);
    assert_eq!((bench.events("it.broken"), bench.events("it.broken.resolved")), (1, 1));
    assert!(bench.control.conditions().unwrap().is_empty(), "nothing is kept of what is over");
}

#[test]
fn what_is_over_before_anybody_was_told_is_told_to_nobody() {
    let bench = Bench::with(&[hook("a", Severity::Warning, 0)]);
    bench.observe(&[WEB]);
    bench.pass(59);
    bench.observe(&[]);
    bench.pass(60);
    bench.observe(&[]);
    assert_eq!(bench.sent(), []);
    assert_eq!(bench.events("it.broken.resolved"), 1, "the log has it");
}

#[test]
fn each_destination_gets_what_is_serious_enough_for_it_and_who_comes_late_hears_of_what_lasts() {
    let bench = Bench::with(&[hook("a", Severity::Critical, 0)]);
    bench.observe(&[WEB, DB]);
    bench.pass(60);
    bench.observe(&[WEB, DB]);
    assert_eq!(bench.sent(), [of(AlertPhase::Begun, WEB)]);
    bench.control.set_alert_destination(hook("b", Severity::Warning, 0), Some(&key())).unwrap();
    bench.observe(&[WEB, DB]);
    assert_eq!(bench.sent(), [of(AlertPhase::Begun, DB)], "nobody had been told of it");
    assert_eq!(bench.got.borrow()[0].0, "b");
}

#[test]
fn what_has_no_duration_is_told_at_once_and_forgotten() {
    let bench = Bench::with(&[hook("a", Severity::Warning, 0)]);
    let event = switchback_model::Event {
        time: bench.clock.now(),
        code: "job.failed".into(),
        severity: Severity::Critical,
        object: "web01".into(),
        message: "failover of web01: failed".into(),
    };
    let mut batch = Batch::default();
    bench.control.add_happening(&mut batch, &event);
    bench.control.records().commit(batch).unwrap();
    bench.observe(&[]);
    assert_eq!(bench.sent(), [of(AlertPhase::Happened, WEB)]);
    bench.observe(&[]);
    assert_eq!(bench.sent(), []);
    assert!(bench.control.conditions().unwrap().is_empty());
}

#[test]
fn a_server_that_is_killed_while_it_sends_sends_again_and_says_it_is_the_same() {
    let mut bench = Bench::with(&[hook("a", Severity::Warning, 0)]);
    bench.observe(&[WEB]);
    bench.pass(60);
    bench.observe(&[WEB]);
    let first = RefCell::new(String::new());
    let killed = catch_unwind(AssertUnwindSafe(|| {
        bench.control.send_alerts_by(&|_, _, message| {
            first.borrow_mut().clone_from(&message.id);
            panic!("killed when the other side has it");
        })
    }));
    assert!(killed.is_err());
    let other = bench.server("other");
    assert_eq!(other.send_alerts_by(&|_, _, _| Ok(())).unwrap(), 0, "it may be at it yet");
    bench.restart();
    assert_eq!(bench.sent(), [of(AlertPhase::Begun, WEB)]);
    assert_eq!(bench.got.borrow()[0].1.id, *first.borrow(), "the receiver can tell");
    assert_eq!(bench.sent(), []);
}

#[test]
fn another_server_sends_when_the_one_that_was_at_it_is_gone() {
    let bench = Bench::with(&[hook("a", Severity::Warning, 0)]);
    bench.observe(&[WEB]);
    bench.pass(60);
    bench.observe(&[WEB]);
    let other = bench.server("other");
    let killed = catch_unwind(AssertUnwindSafe(|| other.send_alerts_by(&|_, _, _| panic!("killed"))));
    assert!(killed.is_err());
    assert_eq!(bench.sent(), []);
    bench.pass(601);
    assert_eq!(bench.sent(), [of(AlertPhase::Begun, WEB)]);
}

#[test]
fn what_cannot_be_sent_is_kept_tried_ever_more_rarely_and_sent_together() {
    let mut bench = Bench::with(&[hook("a", Severity::Warning, 0)]);
    bench.observe(&[WEB]);
    bench.pass(60);
    bench.observe(&[WEB, DB]);
    let mut tried_at = Vec::new();
    for second in 0..2_000 {
        if bench.fails() > 0 {
            tried_at.push(second);
        }
        bench.pass(1);
    }
    assert_eq!(tried_at, [0, 10, 30, 70, 150, 310, 630, 1230, 1830]);
    bench.restart();
    bench.observe(&[WEB, DB]);
    let state = bench.control.delivery_state(&"a".parse().unwrap()).unwrap();
    assert_eq!((state.failures, state.failure.unwrap().code.as_str()), (9, "alerts.unreachable"));
    assert_eq!(bench.control.undelivered().unwrap().len(), 1, "that is a condition itself");
    bench.pass(600);
    assert_eq!(bench.sent(), [of(AlertPhase::Begun, WEB), of(AlertPhase::Begun, DB)]);
    assert_eq!(bench.got.borrow().len(), 1, "in one message");
    assert!(bench.control.undelivered().unwrap().is_empty());
}

#[test]
fn between_two_messages_is_the_interval_and_what_gathers_goes_together() {
    let bench = Bench::with(&[hook("a", Severity::Warning, 300)]);
    bench.observe(&[WEB]);
    bench.pass(60);
    bench.observe(&[WEB]);
    assert_eq!(bench.sent().len(), 1);
    bench.observe(&[WEB, DB]);
    bench.pass(60);
    bench.observe(&[DB]);
    assert_eq!(bench.sent(), []);
    bench.pass(239);
    assert_eq!(bench.sent(), []);
    bench.pass(1);
    // Whether the one or the other came first in that round is all the same.
    let mut sent = bench.sent();
    sent.sort_by_key(|(_, object)| object.clone());
    assert_eq!(sent, [of(AlertPhase::Begun, DB), of(AlertPhase::Ended, WEB)]);
    assert!(bench.got.borrow()[0].1.subject.contains("2 alerts: 0 critical, 1 over"));
}

#[test]
fn of_too_many_the_oldest_give_way_and_that_is_told() {
    let bench = Bench::with(&[hook("a", Severity::Warning, 0)]);
    bench.control.set_alert_policy(AlertPolicy { delay_s: 0, remind_after_s: 0 }).unwrap();
    let names: Vec<_> = (0..WAITING_MAX + 7).map(|number| format!("m{number:04}")).collect();
    let half = names[..600].iter().map(|name| (name.as_str(), Severity::Warning)).collect::<Vec<_>>();
    bench.observe(&half);
    bench.pass(1);
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), Severity::Warning)).collect();
    bench.observe(&all);
    assert_eq!(bench.events("alerts.dropped"), 7);
    let (mut sent, mut dropped) = (Vec::new(), 0);
    while let some = bench.sent()
        && !some.is_empty()
    {
        for (_, message) in &*bench.got.borrow() {
            let json: serde_json::Value = serde_json::from_str(&message.json).unwrap();
            dropped += json["dropped"].as_u64().unwrap();
        }
        sent.extend(some);
    }
    assert_eq!((sent.len(), dropped), (WAITING_MAX, 7));
    assert!(sent.iter().any(|(_, object)| *object == names[WAITING_MAX + 6]), "the newest is there");
}

/// A batch of the store has a limit: however many conditions begin at once, for however many destinations, they get through.
#[test]
fn a_whole_site_may_be_lost_with_as_many_destinations_as_there_may_be() {
    let names: Vec<_> = (0..DESTINATIONS_MAX).map(|number| format!("d{number}")).collect();
    let hooks: Vec<_> = names.iter().map(|name| hook(name, Severity::Warning, 0)).collect();
    let bench = Bench::with(&hooks);
    bench.control.set_alert_policy(AlertPolicy { delay_s: 0, remind_after_s: 0 }).unwrap();
    let machines: Vec<_> = (0..120).map(|number| format!("m{number:04}")).collect();
    let all: Vec<_> = machines.iter().map(|name| (name.as_str(), Severity::Critical)).collect();
    bench.observe(&all);
    assert_eq!(bench.sent().len(), DESTINATIONS_MAX * machines.len());
    assert_eq!(bench.got.borrow().len(), DESTINATIONS_MAX, "one message each");
}

#[test]
fn what_waits_for_a_destination_that_is_removed_goes_with_it() {
    let bench = Bench::with(&[hook("a", Severity::Warning, 0)]);
    bench.observe(&[WEB]);
    bench.pass(60);
    bench.observe(&[WEB]);
    bench.control.remove_alert_destination(&"A".parse().unwrap()).unwrap();
    for _ in 0..2 {
        assert_eq!(bench.sent(), []);
    }
    let left = |kind| bench.store.list(&switchback_store::Query::all(kind)).unwrap().len();
    assert_eq!((left(Kind::Alert), left(Kind::Delivery)), (0, 0));
}

#[test]
fn secrets_are_stored_sealed_and_stay_where_they_belong() {
    let bench = Bench::with(&[hook("a", Severity::Warning, 0)]);
    let stored = bench.store.list(&switchback_store::Query::all(Kind::Setting)).unwrap();
    assert!(!stored.is_empty() && stored.iter().all(|record| !record.body.contains(key().as_str())));
    // Changed without its secret it keeps it, at the same address only.
    bench.control.set_alert_destination(hook("a", Severity::Critical, 9), None).unwrap();
    let mut elsewhere = hook("a", Severity::Critical, 9);
    if let AlertWay::Webhook(hook) = &mut elsewhere.way {
        hook.url = "https://evil.example/".into();
    }
    let refused = bench.control.set_alert_destination(elsewhere, None).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid);
    // The key is not made anew under what is sealed with it.
    std::fs::remove_file(bench.directory.path().join("accounts.key")).unwrap();
    let refused =
        bench.control.set_alert_destination(hook("b", Severity::Info, 0), Some(&key())).unwrap_err();
    assert_eq!(refused.error.code, "account.unreadable");
}

#[test]
fn destinations_that_would_give_secrets_away_or_make_no_sense_are_refused() {
    let bench = Bench::new();
    let url = |url: &str, allow_plain_loopback| {
        let mut destination = hook("a", Severity::Info, 0);
        destination.way =
            AlertWay::Webhook(WebhookWay { url: url.into(), allow_plain_loopback, authority: None });
        destination
    };
    let take = |destination| bench.control.set_alert_destination(destination, Some(&key()));
    for good in ["http://127.0.0.1:9/x", "http://[::1]:9/", "http://localhost/"] {
        take(url(good, true)).unwrap();
        assert!(take(url(good, false)).is_err(), "{good}");
    }
    for bad in [
        "http://10.0.0.1/",
        "http://localhost.example/",
        "ftp://127.0.0.1/",
        "https://u:p@a.example/",
        "https://",
        "file:///etc/passwd",
        "",
        "https://a.example/#x",
    ] {
        assert!(take(url(bad, true)).is_err(), "{bad}");
    }
    take(mail("127.0.0.1", MailSecurity::None, Some("u"))).unwrap();
    take(mail("relay.example", MailSecurity::None, None)).unwrap();
    take(mail("mail.example", MailSecurity::Starttls, Some("u"))).unwrap();
    assert!(take(mail("mail.example", MailSecurity::None, Some("u"))).is_err(), "in clear");
    assert!(take(mail("", MailSecurity::Tls, None)).is_err());
    let mut two = mail("mail.example", MailSecurity::Tls, None);
    two.name = "mail2".parse().unwrap();
    assert_eq!(take(two).unwrap_err().error.code, "alerts.mail-taken");
    let mut injected = mail("mail.example", MailSecurity::Tls, None);
    if let AlertWay::Mail(mail) = &mut injected.way {
        mail.recipients = vec!["a@example.com\r\nBcc: b@example.com".into()];
    }
    assert!(take(injected).is_err());
    let short = Zeroizing::new("short".to_owned());
    assert!(bench.control.set_alert_destination(hook("c", Severity::Info, 0), Some(&short)).is_err());
}

/// Computed with Python's hmac and hashlib.
#[test]
fn the_signature_is_what_others_compute() {
    let signed = signature(b"a key of some length", UnixMillis(1_700_000_000_999), br#"{"version":1}"#);
    assert_eq!(signed, "sha256=c3359cde77f379955c8b9ba25225d794b565085946a573bad94911ac3aa181ef");
}
