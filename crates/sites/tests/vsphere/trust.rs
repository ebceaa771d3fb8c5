//! By what a server is known; and servers that are something else.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use switchback_lab::vcsim::Simulator;
use switchback_sites::vsphere::{Limits, Placement, Trust, VsphereSettings, VsphereSite};
use switchback_sites::{Site, SiteError};

use crate::bench::{credentials, settings};

fn open(simulator: &Simulator, trust: Trust) -> VsphereSite {
    VsphereSite::open(VsphereSettings { trust, ..settings(simulator) }, credentials()).unwrap()
}

#[test]
fn a_server_is_known_by_its_authority_or_its_fingerprint() {
    let files = tempfile::tempdir().unwrap();
    let record = files.path().join("requests");
    let simulator = Simulator::options().record(&record).start().unwrap();
    let other = Simulator::options().start().unwrap();
    let wrong = [
        Trust::Authority(other.authority()),
        Trust::Fingerprint(other.fingerprint().parse().unwrap()),
        Trust::Fingerprint("00".repeat(32).parse().unwrap()),
    ];
    for trust in wrong {
        let site = open(&simulator, trust.clone());
        let Err(SiteError::Failed { detail, passing: false, .. }) = site.machines() else {
            panic!("{trust:?} was enough")
        };
        assert!(detail.contains("vsphere-certificate"), "{detail}");
        if let Trust::Fingerprint(expected) = trust {
            assert!(detail.contains(&expected.to_string()), "{detail}");
            assert!(
                detail.contains(simulator.fingerprint()),
                "what it is, to be compared with the console: {detail}"
            );
        }
    }
    assert!(!record.exists(), "nothing was sent to it, no password above all");
    for trust in [
        Trust::Authority(simulator.authority()),
        Trust::Fingerprint(simulator.fingerprint().parse().unwrap()),
        Trust::Fingerprint(simulator.fingerprint().replace(':', "").to_lowercase().parse().unwrap()),
    ] {
        assert_eq!(open(&simulator, trust).machines().unwrap().len(), 4);
    }
}

#[test]
fn authorities_that_cannot_be_read_are_said() {
    let simulator = Simulator::options().start().unwrap();
    let files = tempfile::tempdir().unwrap();
    let (absent, empty) = (files.path().join("absent.pem"), files.path().join("empty.pem"));
    std::fs::write(&empty, "nothing").unwrap();
    for file in [absent, empty] {
        let settings = VsphereSettings { trust: Trust::Authority(file.clone()), ..settings(&simulator) };
        let error = VsphereSite::open(settings, credentials()).unwrap_err().to_string();
        assert!(error.contains(&*file.to_string_lossy()), "{error}");
    }
}

/// A server that answers everything with these bytes, and then goes on with `more` until nobody listens.
fn server(
    answer: &'static [u8],
    more: &'static [u8],
    pause: Duration,
) -> (VsphereSettings, thread::JoinHandle<()>) {
    let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certified.cert.der());
    let fingerprint: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/sdk", listener.local_addr().unwrap());
    let config = Arc::new(config);
    let thread = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(answer);
        while !more.is_empty() && stream.write_all(more).is_ok() && stream.flush().is_ok() {
            thread::sleep(pause);
        }
    });
    let settings = VsphereSettings {
        url,
        trust: Trust::Fingerprint(fingerprint.parse().unwrap()),
        placement: Placement::default(),
        datastore_directories: Default::default(),
        limits: Limits { request_seconds: 2, patience_seconds: 0, ..Limits::default() },
    };
    (settings, thread)
}

#[test]
fn what_does_not_answer_as_a_vcenter_does_is_left() {
    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n\r\n";
    static MANY: [u8; 1 << 20] = [b'x'; 1 << 20];
    let never = Duration::ZERO;
    let cases: [(&[u8], &[u8], Duration, &str); 6] = [
        (HEAD, &MANY, never, "the answer is longer than"),
        (HEAD, b"x", Duration::from_millis(200), "vsphere-slow"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>", b"", never, "vsphere-protocol"),
        (
            b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere/\r\nContent-Length: 0\r\n\r\n",
            b"",
            never,
            "vsphere-protocol",
        ),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno", b"", never, "503"),
        (b"not even HTTP", b"", never, "vsphere-unreachable"),
    ];
    for (answer, more, pause, told) in cases {
        let (settings, thread) = server(answer, more, pause);
        let site = VsphereSite::open(settings, credentials()).unwrap();
        let error = site.machines().unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        drop(site);
        thread.join().unwrap();
    }
}

/// An answer by hand, of a server that is too old.
#[test]
fn an_old_server_is_refused() {
    const BODY: &str = "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
        <RetrieveServiceContentResponse xmlns=\"urn:vim25\"><returnval><about><fullName>VMware ESXi 5.5.0</fullName>\
        <apiVersion>5.5</apiVersion></about></returnval></RetrieveServiceContentResponse></s:Body></s:Envelope>";
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{BODY}", BODY.len());
    let (settings, thread) = server(answer.leak().as_bytes(), b"", Duration::ZERO);
    let error = VsphereSite::open(settings, credentials()).unwrap().about().unwrap_err().to_string();
    assert!(error.contains("vsphere-version") && error.contains("ESXi 5.5.0"), "{error}");
    thread.join().unwrap();
}
