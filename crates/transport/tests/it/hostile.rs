//! Clients that do not keep to the rules: each gets a typed error or is cut off, and the server goes on serving others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rand::{RngCore, SeedableRng};
use switchback_identity::tls::{ExpectedPeer, client_config, enrolment_client_config, server_config};
use switchback_identity::{Authority, CERTIFICATE_LIFETIME_MS, Role};
use switchback_replica::ReplicaError;
use switchback_transport::RemoteSession;

use crate::raw::{BARRIER, FRAME, HELLO, OPEN, Raw};
use crate::support::replica::frame;
use crate::support::{AheadClock, PATIENCE, Site, eventually, live, request};

fn protocol(error: &ReplicaError, word: &str) {
    assert!(
        matches!(error, ReplicaError::Protocol { detail } if detail.contains(word)),
        "{error}, not {word}"
    );
}

#[test]
fn garbage_instead_of_tls() {
    let site = Site::new();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    for len in [1, 5, 100, 70_000] {
        let mut garbage = vec![0; len];
        random.fill_bytes(&mut garbage);
        let mut stream = TcpStream::connect(site.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 100, "an alert at most");
    }
    site.still_serves();
}

#[test]
fn a_peer_that_says_nothing_is_cut_off_and_holds_no_other_up() {
    let site = Site::with(|config| {
        config.limits.handshake = Duration::from_millis(300);
        config.limits.handshakes_max = 4;
    });
    let silent: Vec<_> = (0..12).map(|_| TcpStream::connect(site.address).unwrap()).collect();
    site.still_serves();
    for mut stream in silent {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
    }
    // With a certificate, but without a word; and with hello, but without a request.
    let mut raw = Raw::agent(&site);
    raw.bytes(b"");
    assert_eq!(raw.receive(), None);
    let mut raw = Raw::agent(&site);
    raw.send(HELLO, 0, br#"{"min":1,"max":1,"build":""}"#);
    raw.receive().unwrap();
    assert_eq!(raw.receive(), None);
}

#[test]
fn no_certificate_another_sites_or_an_expired_one() {
    let site = Site::new();
    let mut tls = (*enrolment_client_config(site.clock.clone()).unwrap()).clone();
    tls.alpn_protocols = vec![switchback_identity::tls::ALPN_DATA.to_vec()];
    let mut raw = Raw::connect(site.address, Arc::new(tls));
    raw.send(HELLO, 0, br#"{"min":1,"max":1,"build":""}"#);
    assert_eq!(raw.receive(), None);

    // It says it comes to enrol, and then asks for a session.
    let mut raw = Raw::connect(site.address, enrolment_client_config(site.clock.clone()).unwrap());
    raw.send(OPEN, 5, &serde_json::to_vec(&request(1)).unwrap());
    raw.receive();
    assert_eq!(site.replicas.calls(), Vec::<String>::new());

    let other = Authority::ephemeral(site.clock.clone());
    let mut config = site.config(site.address);
    config.credentials = live(&other, Role::Source, "web01");
    let refused = RemoteSession::connect(config, request(1)).map(drop);
    assert!(
        matches!(&refused, Err(ReplicaError::Forbidden { detail }) if detail.contains("another site")),
        "{refused:?}"
    );

    let later = AheadClock::by(CERTIFICATE_LIFETIME_MS + 60_000);
    let ahead = Site::with(|config| {
        let authority = config.authority.clone().unwrap();
        config.tls = server_config(&live(&authority, Role::Target, "mt1"), later.clone()).unwrap();
    });
    let refused = ahead.connect().map(drop);
    assert!(
        matches!(&refused, Err(ReplicaError::Forbidden { detail }) if detail.contains("this machine's certificate has expired")),
        "{refused:?}"
    );
    // The client's own clock: it does not even try.
    site.clock.set(CERTIFICATE_LIFETIME_MS + 60_000);
    let mut config = site.config(site.address);
    site.clock.set(0);
    config.clock = later;
    config.credentials = site.live(Role::Source);
    let refused = RemoteSession::connect(config, request(1)).map(drop);
    assert!(
        matches!(&refused, Err(ReplicaError::Forbidden { detail }) if detail.contains("switchback enrol")),
        "{refused:?}"
    );
    site.still_serves();
}

#[test]
fn a_server_of_the_wrong_role() {
    let site = Site::new();
    let mut config = site.config(site.address);
    config.roles = vec![Role::ProcessServer];
    let refused = RemoteSession::connect(config, request(1)).map(drop);
    assert!(
        matches!(&refused, Err(ReplicaError::Forbidden { detail }) if detail.contains("target mt1")),
        "{refused:?}"
    );
    let expected = ExpectedPeer { roles: vec![Role::Target], name: Some("mt2".parse().unwrap()) };
    let tls = client_config(&site.live(Role::Source), expected, site.clock.clone()).unwrap();
    let mut raw = Raw::connect(site.address, tls);
    raw.send(HELLO, 0, b"{}");
    assert_eq!(raw.receive(), None);
    site.still_serves();
}

#[test]
fn versions_that_have_nothing_in_common_say_so() {
    let site = Site::new();
    for hello in [&br#"{"min":2,"max":9,"build":"new"}"#[..], br#"{"min":0,"max":0,"build":"old"}"#] {
        let mut raw = Raw::agent(&site);
        raw.send(HELLO, 0, hello);
        let error = raw.error();
        protocol(&error, "upgrade");
        assert_eq!(raw.receive(), None);
    }
    // A newer one that still speaks ours, and says more than we know.
    let mut raw = Raw::agent(&site);
    raw.send(HELLO, 0, br#"{"min":1,"max":9,"build":"new","more":[1]}"#);
    let welcome: serde_json::Value = serde_json::from_slice(&raw.receive().unwrap().1).unwrap();
    assert_eq!(welcome["version"], 1);
}

#[test]
fn messages_that_are_none() {
    let site = Site::new();
    let cases: [(&str, Vec<u8>); 6] = [
        ("not known", Raw::head(99, 0, 5)),
        ("too long", Raw::head(BARRIER, 1, 5)),
        ("too long", Raw::head(OPEN, u32::MAX, 5)),
        ("cannot be read", [&Raw::head(FRAME, 64, 5)[..], &[0xff; 64]].concat()),
        ("shorter", Raw::head(FRAME, 10, 5)),
        ("flags", {
            let mut head = Raw::head(BARRIER, 0, 5);
            head[1] = 0x80;
            head
        }),
    ];
    for (word, bytes) in cases {
        let mut raw = Raw::opened(&site);
        raw.bytes(&bytes);
        protocol(&raw.error(), word);
        assert_eq!(raw.receive(), None);
        eventually("its session is dropped", || site.replicas.sessions() == 0);
    }
    site.still_serves();
}

#[test]
fn messages_out_of_order() {
    let site = Site::new();
    let mut raw = Raw::agent(&site);
    raw.send(BARRIER, 5, b"");
    protocol(&raw.error(), "hello");
    let mut raw = Raw::agent(&site);
    raw.send(HELLO, 0, br#"{"min":1,"max":1,"build":""}"#);
    raw.receive().unwrap();
    raw.send(BARRIER, 5, b"");
    protocol(&raw.error(), "opened first");
    let mut raw = Raw::opened(&site);
    raw.send(OPEN, 5, &serde_json::to_vec(&request(8)).unwrap());
    protocol(&raw.error(), "one session");
    let mut raw = Raw::opened(&site);
    let frame = frame(2);
    raw.send(FRAME, 5, &[&frame.header()[..], &frame.stored].concat());
    protocol(&raw.error(), "no part");
    assert_eq!(site.replicas.frames(), Vec::new());
    site.still_serves();
}

#[test]
fn every_request_states_the_epoch() {
    let site = Site::new();
    let mut raw = Raw::opened(&site);
    raw.send(BARRIER, 4, b"");
    assert!(matches!(raw.error(), ReplicaError::StaleEpoch { .. }));
    for other in [6, u64::MAX] {
        let mut raw = Raw::opened(&site);
        raw.send(BARRIER, other, b"");
        protocol(&raw.error(), "epoch");
    }
    assert!(!site.replicas.calls().contains(&"barrier".to_owned()));
}

#[test]
fn a_message_that_ends_early_ends_its_session() {
    let site = Site::new();
    let mut raw = Raw::opened(&site);
    raw.bytes(&[&Raw::head(FRAME, 64 + 4096, 5)[..], &frame(1).header(), &[1; 100]].concat());
    assert_eq!(site.replicas.sessions(), 1);
    raw.close();
    eventually("its session is dropped", || site.replicas.sessions() == 0);
    assert_eq!(site.replicas.frames(), Vec::new());
    site.still_serves();
}
