//! A configuration server in a test: the real listener with real TLS, and a control plane that says what the test wants.

#![allow(clippy::unwrap_used, dead_code, reason = "tests; each uses some of it")]

pub(crate) mod replica;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use switchback_api::components::{ComponentService, MomentFuture};
use switchback_api::listener::{Limits, ListenerConfig, serve};
use switchback_control::{ControlError, ErrorKind, Program};
use switchback_disk::{Clock, SystemClock};
use switchback_identity::tls::control_server_config;
use switchback_identity::{
    Authority, EnrolmentPolicy, EnrolmentService, LiveCredentials, Newcomer, PeerIdentity, Role,
    WebCertificate,
};
use switchback_model::UnixMillis;
use switchback_model::component::{
    Answer, Desired, IncarnationProof, MasterTargetState, MomentAnswer, MomentCall, PROGRAM_PIECE_MAX,
    ProcessServerState, ProgramPiece, ReplicaActual, Report, SandboxHeard, SandboxSeen, State,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};

use crate::rig::{Process, switchback, wait_until};

/// The machine's clock, set ahead by so many milliseconds; back, by what is added without carry.
#[derive(Debug, Default)]
pub(crate) struct AheadClock(pub(crate) AtomicU64);

impl Clock for AheadClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(SystemClock.now().0.wrapping_add(self.0.load(Ordering::SeqCst)))
    }
}

/// Says what the test wants, and keeps what it hears.
#[derive(Debug)]
pub(crate) struct Scripted {
    desired: Mutex<BTreeMap<String, Answer>>,
    reports: Mutex<BTreeMap<String, Report>>,
    /// What master targets have told of sandboxes last.
    pub(crate) sandboxes: Mutex<BTreeMap<String, SandboxSeen>>,
    pub(crate) enrolled: Mutex<Vec<String>>,
    changes: watch::Sender<u64>,
    versions: AtomicU64,
    /// Of the server that answers, as it proves it.
    pub(crate) incarnation_proof: Mutex<Option<IncarnationProof>>,
    /// Which certificates it wants renewed.
    pub(crate) renew_ending_before: Mutex<Option<UnixMillis>>,
    /// Where else it says that it is reached.
    pub(crate) servers: Mutex<Vec<String>>,
    /// What agents are offered.
    pub(crate) program: Mutex<Option<Arc<Program>>>,
}

impl Scripted {
    /// Component `who` (`ROLE NAME`) is to be like this.
    pub(crate) fn want(&self, who: &str, desired: Desired) {
        let version = self.versions.fetch_add(1, Ordering::SeqCst) + 1;
        self.desired.lock().unwrap().insert(
            who.into(),
            Answer {
                version,
                desired,
                incarnation_proof: None,
                renew_ending_before: None,
                servers: Vec::new(),
            },
        );
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn report_of(&self, who: &str) -> Option<Report> {
        self.reports.lock().unwrap().get(who).cloned()
    }

    pub(crate) fn forget_reports(&self) {
        self.reports.lock().unwrap().clear();
    }

    pub(crate) fn master_target(&self, who: &str) -> Option<MasterTargetState> {
        match self.report_of(who)?.state {
            State::MasterTarget(state) => Some(state),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn process_server(&self, who: &str) -> Option<ProcessServerState> {
        match self.report_of(who)?.state {
            State::ProcessServer(state) => Some(state),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until a master target's replica is so.
    pub(crate) fn until_replica(&self, who: &str, what: &str, is: impl Fn(&ReplicaActual) -> bool) {
        wait_until(what, || {
            let state = self.master_target(who);
            state.is_some_and(|state| state.replicas.iter().any(&is))
        });
    }
}

impl ComponentService for Scripted {
    fn enrolled(&self, newcomer: &Newcomer) -> Result<(), ControlError> {
        let identity = &newcomer.identity;
        if identity.name.as_str() == "unwelcome" {
            return Err(ControlError::new(ErrorKind::Forbidden, "test", "not this one"));
        }
        self.enrolled.lock().unwrap().push(identity.to_string());
        Ok(())
    }

    fn report(&self, peer: &PeerIdentity, report: Report) -> Result<Answer, ControlError> {
        self.reports.lock().unwrap().insert(peer.to_string(), report);
        self.desired(peer, None)
    }

    fn is_enrolled(&self, _: &PeerIdentity) -> Result<bool, ControlError> {
        Ok(true)
    }

    fn desired(&self, peer: &PeerIdentity, _: Option<&str>) -> Result<Answer, ControlError> {
        let desired = self.desired.lock().unwrap().get(&peer.to_string()).cloned();
        let desired = desired.map(|answer| Answer {
            incarnation_proof: self.incarnation_proof.lock().unwrap().clone(),
            renew_ending_before: *self.renew_ending_before.lock().unwrap(),
            servers: self.servers.lock().unwrap().clone(),
            ..answer
        });
        desired.ok_or_else(|| ControlError::not_found("component", peer).remedy("enrol it"))
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn program_piece(&self, wanted: &ProgramPiece) -> Result<Vec<u8>, ControlError> {
        let program = self.program.lock().unwrap().clone().expect("a test that offers one");
        assert_eq!(program.sha256(), wanted.sha256);
        Ok(program.read(wanted.offset, PROGRAM_PIECE_MAX).unwrap())
    }

    fn sandbox_seen(&self, peer: &PeerIdentity, seen: SandboxSeen) -> Result<SandboxHeard, ControlError> {
        self.sandboxes.lock().unwrap().insert(peer.to_string(), seen);
        Ok(SandboxHeard { is_wanted: true })
    }

    fn moment<'a>(&'a self, _: &'a PeerIdentity, call: MomentCall) -> MomentFuture<'a> {
        Box::pin(async move { Ok(MomentAnswer::Go { tag: format!("{}-1", call.group) }) })
    }
}

/// A configuration server.
pub(crate) struct Cs {
    pub(crate) runtime: Runtime,
    pub(crate) authority: Arc<Authority>,
    pub(crate) clock: Arc<AheadClock>,
    pub(crate) service: Arc<Scripted>,
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
}

impl Cs {
    pub(crate) fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into())
    }

    /// Listens at this address, in the network namespace of the calling thread.
    pub(crate) fn at(address: IpAddr) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let clock = Arc::new(AheadClock::default());
        let authority = Arc::new(Authority::ephemeral(clock.clone()));
        let service = Arc::new(Scripted {
            desired: Mutex::default(),
            reports: Mutex::default(),
            sandboxes: Mutex::default(),
            enrolled: Mutex::default(),
            changes: watch::Sender::new(0),
            versions: AtomicU64::new(0),
            incarnation_proof: Mutex::default(),
            renew_ending_before: Mutex::default(),
            servers: Mutex::default(),
            program: Mutex::default(),
        });
        let address = SocketAddr::new(address, 0);
        let mut cs = Self { runtime, authority, clock, service, address, stop: None };
        cs.listen(address);
        cs
    }

    /// Ends the listener, and starts one at another address: a server that was restored elsewhere.
    pub(crate) fn listen(&mut self, at: SocketAddr) {
        self.listen_with(at, self.service.clone());
    }

    /// The same, with a control plane of the test's own.
    pub(crate) fn listen_with(&mut self, at: SocketAddr, service: Arc<dyn ComponentService>) {
        drop(self.stop.take());
        let own = self.live(Role::ConfigurationServer, "cs");
        let web = WebCertificate::issue(self.authority.clone(), vec!["127.0.0.1".into(), "cs.test".into()])
            .unwrap();
        let policy = EnrolmentPolicy::default();
        let config = ListenerConfig {
            tls: control_server_config(&own, &web, self.clock.clone()).unwrap(),
            web_certificate: web,
            authority: self.authority.clone(),
            enrolment: Arc::new(EnrolmentService::new(self.authority.clone(), policy)),
            service,
            web: axum::Router::new().route("/hello", axum::routing::get(|| async { "hello" })),
            limits: Limits::default(),
        };
        let listener = self.runtime.block_on(TcpListener::bind(at)).unwrap();
        self.address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        self.stop = Some(stop);
        self.runtime.spawn(serve(listener, config, async {
            let _ = stopped.await;
        }));
    }

    /// It has been restored: this is its incarnation from now on.
    pub(crate) fn is_restored_as(&self, incarnation: u64) {
        *self.service.incarnation_proof.lock().unwrap() = Some(self.authority.prove_incarnation(incarnation));
    }

    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) fn live(&self, role: Role, name: &str) -> Arc<LiveCredentials> {
        let identity = PeerIdentity { role, name: name.parse().unwrap() };
        LiveCredentials::new(self.authority.issue(&identity).unwrap()).unwrap()
    }
}

/// Components of a site as processes, in a directory of their own.
pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) cs: Cs,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::of(Cs::new())
    }

    pub(crate) fn of(cs: Cs) -> Self {
        // In the build directory, on a disk: /tmp may be memory.
        let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        std::fs::write(directory.path().join("passphrase"), &*cs.authority.passphrase().unwrap().reveal())
            .unwrap();
        Self { directory, cs }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command as the component `who`.
    pub(crate) fn command(&self, who: &str) -> std::process::Command {
        let mut command = switchback();
        command
            .env("SWITCHBACK_IDENTITY", self.path(&format!("{who}.identity")))
            .current_dir(self.directory.path());
        command
    }

    /// A role's command, which joins the site by itself.
    pub(crate) fn role(&self, role: &str, who: &str) -> std::process::Command {
        self.role_at(self.cs.address.ip(), role, who)
    }

    /// The same for one that listens elsewhere than the configuration server.
    pub(crate) fn role_at(&self, address: IpAddr, role: &str, who: &str) -> std::process::Command {
        let listen = SocketAddr::new(address, 0).to_string();
        let mut command = self.command(who);
        command
            .args([role, "--server", &self.cs.address.to_string(), "--site", "recovery", "--name", who])
            .args(["--enrol-passphrase-file", "passphrase", "--listen", &listen, "--data"])
            .arg(self.path(who));
        command
    }

    /// Starts a role; its address once it has reported.
    pub(crate) fn start(&self, role: &str, who: &str) -> (Process, String) {
        self.cs.service.reports.lock().unwrap().retain(|name, _| !name.ends_with(who));
        let mut command = self.role(role, who);
        let process = Process(command.stdout(std::process::Stdio::null()).spawn().unwrap());
        let identity = match role {
            "master-target" => format!("target {who}"),
            other => format!("{other} {who}"),
        };
        wait_until("it reports", || self.cs.service.report_of(&identity).is_some());
        (process, self.cs.service.report_of(&identity).unwrap().address)
    }

    /// Enrols a source, as an installer does.
    pub(crate) fn enrol(&self, who: &str) {
        let mut command = self.command(who);
        command.args([
            "enrol",
            &self.cs.address.to_string(),
            "--name",
            who,
            "--passphrase-file",
            "passphrase",
        ]);
        crate::rig::succeed(&mut command);
    }

    /// An image: data in its first half, from `seed`, the rest a hole.
    pub(crate) fn image(&self, name: &str, mib: u64, seed: u64) -> PathBuf {
        let path = self.path(name);
        let data = crate::rig::noise(usize::try_from(mib / 2 * crate::rig::MIB).unwrap(), seed);
        std::fs::write(&path, data).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(mib * crate::rig::MIB).unwrap();
        path
    }
}
