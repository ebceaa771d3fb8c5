//! Enrolment and renewal over the network.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use switchback_disk::{Volume, VolumeEntry, VolumeFile, VolumeLock};
use switchback_identity::tls::{enrolment_client_config, server_config, server_name};
use switchback_identity::{
    Authority, CERTIFICATE_LIFETIME_MS, Credentials, EnrolError, LiveCredentials, Passphrase, PeerIdentity,
    Role,
};
use switchback_replica::{ReplicaError, ReplicaSession};
use switchback_transport::{EnrolConfig, RemoteSession, RenewalTask, enrol, renew};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{PATIENCE, Site, eventually, live, request};

fn config(site: &Site, address: SocketAddr, passphrase: Passphrase) -> EnrolConfig {
    EnrolConfig {
        address: address.to_string(),
        secret: passphrase.into(),
        identity: PeerIdentity { role: Role::Source, name: "web02".parse().unwrap() },
        timeout: PATIENCE,
        clock: site.clock.clone(),
        runtime: site.runtime.handle().clone(),
    }
}

#[test]
fn an_enrolled_component_replicates() {
    let site = Site::new();
    let credentials = enrol(&config(&site, site.address, site.authority.passphrase().unwrap())).unwrap();
    let mut connect = site.config(site.address);
    connect.credentials = LiveCredentials::new(credentials).unwrap();
    let mut session = RemoteSession::connect(connect, request(1)).unwrap();
    session.barrier().unwrap();
    assert_eq!(site.replicas.calls()[0], "open source web02");
}

#[test]
fn a_wrong_passphrase_is_refused_and_soon_nothing_is_looked_at_any_more() {
    let site = Site::new();
    let wrong = config(&site, site.address, Passphrase::generate());
    for _ in 0..5 {
        assert!(matches!(enrol(&wrong), Err(EnrolError::WrongPassphrase)));
    }
    let right = config(&site, site.address, site.authority.passphrase().unwrap());
    for config in [&wrong, &right] {
        assert!(matches!(enrol(config), Err(EnrolError::TooManyAttempts { .. })));
    }
    // Who has enrolled is not held up.
    site.still_serves();
    site.clock.set(10 * 60_000);
    enrol(&right).unwrap();
}

#[test]
fn where_there_is_no_authority_nobody_enrols() {
    let site = Site::with(|config| {
        config.enrolment = None;
        config.authority = None;
    });
    let refused = enrol(&config(&site, site.address, site.authority.passphrase().unwrap()));
    assert!(
        matches!(&refused, Err(EnrolError::Protocol { detail }) if detail.contains("no certificate authority")),
        "{refused:?}"
    );
    let refused = site.runtime.block_on(renew(&site.config(site.address)));
    assert!(matches!(refused, Err(ReplicaError::Forbidden { .. })), "{refused:?}");
}

/// A man in the middle with certificates of his own, who passes on all he decrypts, and what he has seen.
fn man_in_the_middle(site: &Site) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let his = Authority::ephemeral(site.clock.clone());
    let tls = server_config(&live(&his, Role::Target, "mt1"), site.clock.clone()).unwrap().enrol;
    let onward = enrolment_client_config(site.clock.clone()).unwrap();
    let server = site.address;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let listener = site.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    site.runtime.spawn(async move {
        loop {
            let (victim, _) = listener.accept().await.unwrap();
            let victim = tokio_rustls::TlsAcceptor::from(tls.clone()).accept(victim).await.unwrap();
            let server = tokio::net::TcpStream::connect(server).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(onward.clone());
            let server = connector.connect(server_name(), server).await.unwrap();
            let (mut from_victim, mut to_victim) = tokio::io::split(victim);
            let (mut from_server, mut to_server) = tokio::io::split(server);
            let up = record.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(len @ 1..) = from_victim.read(&mut buffer).await {
                    up.lock().unwrap().extend_from_slice(&buffer[..len]);
                    to_server.write_all(&buffer[..len]).await.unwrap();
                    to_server.flush().await.unwrap();
                }
            });
            let down = record.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(len @ 1..) = from_server.read(&mut buffer).await {
                    down.lock().unwrap().extend_from_slice(&buffer[..len]);
                    let _ = to_victim.write_all(&buffer[..len]).await;
                    let _ = to_victim.flush().await;
                }
            });
        }
    });
    (address, seen)
}

#[test]
fn a_man_in_the_middle_gets_nothing_and_nowhere() {
    let site = Site::new();
    let (address, seen) = man_in_the_middle(&site);
    let passphrase = site.authority.passphrase().unwrap();
    let outcome = enrol(&config(&site, address, passphrase.clone()));
    assert!(matches!(outcome, Err(EnrolError::WrongPassphrase)), "{outcome:?}");
    let seen = String::from_utf8_lossy(&seen.lock().unwrap()).to_uppercase();
    assert!(
        seen.contains("START")
            && seen.contains("CHALLENGE")
            && seen.contains("PROOF")
            && !seen.contains("GRANT")
    );
    let shown = passphrase.reveal();
    assert!(!seen.contains(&*shown) && !seen.contains(&shown.replace('-', "")));
    let numbers: Vec<_> = shown.replace('-', "").bytes().map(|byte| byte.to_string()).collect();
    assert!(!seen.contains(&numbers.join(",")));
    // Past him it works.
    enrol(&config(&site, site.address, passphrase)).unwrap();
}

/// Takes one file.
#[derive(Debug, Default)]
struct OneFile(Mutex<Vec<u8>>);

impl Volume for OneFile {
    fn name(&self) -> &str {
        "one file"
    }
    fn write_atomic(&self, _: &str, data: &[u8]) -> io::Result<()> {
        *self.0.lock().unwrap() = data.to_vec();
        Ok(())
    }
    fn create(&self, _: &str) -> io::Result<Box<dyn VolumeFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn open(&self, _: &str) -> io::Result<Box<dyn VolumeFile>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn replace(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn remove(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn list(&self) -> io::Result<Vec<VolumeEntry>> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn lock(&self) -> io::Result<VolumeLock> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[test]
fn a_certificate_is_renewed_beside_a_running_session() {
    let site = Site::new();
    let connect = site.config(site.address);
    let live = connect.credentials.clone();
    let former = live.current();
    let mut session = RemoteSession::connect(connect.clone(), request(1)).unwrap();
    // Not due yet: nothing happens at the first look. Then it is.
    let file = Arc::new(OneFile::default());
    drop(RenewalTask::start(connect.clone(), file.clone()));
    assert_eq!(live.current().facts(), former.facts());
    site.clock.set(CERTIFICATE_LIFETIME_MS / 6 * 5);
    let _task = RenewalTask::start(connect.clone(), file.clone());
    eventually("it is renewed", || live.current().facts() != former.facts());
    let renewed = live.current();
    assert_eq!(renewed.identity(), former.identity());
    assert!(renewed.facts().not_after.0 >= former.facts().not_after.0 + CERTIFICATE_LIFETIME_MS / 2);
    assert_eq!(Credentials::from_pem(&file.0.lock().unwrap()).unwrap().facts(), renewed.facts());
    session.barrier().unwrap();
    // When the former one would have expired, the new one is good.
    site.clock.set(CERTIFICATE_LIFETIME_MS + 60_000);
    live.current().check(switchback_disk::Clock::now(&*site.clock)).unwrap();
    let error = RemoteSession::connect(connect, request(2)).map(drop).unwrap_err();
    // The server's own certificate was not renewed so far, and that is what is said. Then it renews itself.
    assert!(
        matches!(&error, ReplicaError::Forbidden { detail } if detail.contains("other end's certificate has expired")),
        "{error}"
    );
    let _server = RenewalTask::start_local(
        site.authority.clone(),
        site.server.clone(),
        Arc::new(OneFile::default()),
        site.runtime.handle(),
    );
    // Another writer, as the same would take the standing session over.
    let others = || RemoteSession::connect(site.config(site.address), request(3));
    eventually("the server shows a new certificate", || others().is_ok());
    assert_eq!(session.barrier().map(drop), Ok(()), "the session of before goes on");
}
