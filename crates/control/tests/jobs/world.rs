//! A world for the control plane: sites whose machines are switches in memory, and components that are as they are desired to be, one round later.
//!
//! Time is a counter: each round is a second. Everything a real component would report is reported through [`Control::report`]; what a real site would
//! refuse is refused here. What it judges on the way: a machine never runs at both sides unless a failover could not reach the first, and no
//! disk of a replica is written while a machine runs above it without a snapshot.

// Others include this file, by its path, too.
#[path = "elsewhere.rs"]
mod elsewhere;
#[path = "memory_replica.rs"]
mod memory_replica;
#[path = "memory_sandbox.rs"]
mod memory_sandbox;
#[path = "memory_site.rs"]
mod memory_site;
#[path = "newcomers.rs"]
mod newcomers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use switchback_control::backup::contents::{Contents, SavedFile};
use switchback_control::backup::format::{Header, Reason};
use switchback_control::backup::restore::{prepare, restore};
use switchback_control::{Control, ControlConfig, ControlError, InstallSource};
use switchback_disk::Clock;
use switchback_identity::{PeerIdentity, Role};
use switchback_model::azure::{AzureIdentity, AzureKind};
use switchback_model::component::{
    Activity, AgentState, Answer, Desired, DiskFacts, FinalPoint, GuestPlatform, HardwareFacts,
    InterfaceFacts, MasterTargetState, Problem, ProcessServerState, ProgramOffer, ProgramState,
    ReplicaActual, ReplicaDesired, ReplicaMode, Replication, ReplicationState, Report, SeededDisk, State,
    StoragePathFound,
};
use switchback_model::{
    ProtectRequest, ReadinessCheck, ReplicaName, Seq, Site as SiteRecord, SiteKind, UnixMillis,
};
use switchback_sites::{Machine, Nic, Power, Site};
use switchback_store::{Snapshot, SqliteStore, Store, StoreError};

pub(crate) use elsewhere::Elsewhere;
use memory_replica::Replica;
use memory_sandbox::Sandboxes;
pub(crate) use memory_site::{MemorySite, is_sandbox};

#[derive(Debug, Default)]
pub(crate) struct Seconds(AtomicU64);

impl Seconds {
    pub(crate) fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for Seconds {
    fn now(&self) -> UnixMillis {
        UnixMillis(1_000_000 + self.0.load(Ordering::Relaxed) * 1000)
    }
}

/// More than one piece of a download.
pub(crate) const PROGRAM_LEN: usize = 600_000;
/// SMBIOS UUID of the physical server.
pub(crate) const HARDWARE: &str = "uuid-hw";

/// Of the physical server alone: it is what its site tells of.
fn interfaces_of(machine: &Machine) -> Vec<InterfaceFacts> {
    let card = |nic: &Nic| InterfaceFacts {
        name: "eth0".into(),
        mac: nic.mac.clone(),
        addresses: vec!["10.1.0.5/24".into()],
        gateway: None,
    };
    machine.nics.iter().filter(|_| machine.system_uuid == HARDWARE).map(card).collect()
}

pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) clock: Arc<Seconds>,
    store: Arc<SqliteStore>,
    /// Where recovery plans' scripts are looked for; nobody has made it.
    pub(crate) scripts: PathBuf,
    pub(crate) home: Arc<MemorySite>,
    pub(crate) recovery: Arc<MemorySite>,
    /// What is the recovery site instead.
    pub(crate) elsewhere: Option<Elsewhere>,
    /// What no site has: physical servers.
    pub(crate) hardware: Arc<MemorySite>,
    replicas: BTreeMap<(String, ReplicaName), Replica>,
    /// Those that the recovery site's master target runs.
    pub(crate) sandboxes: Sandboxes,
    /// Final cycles that agents have made: token and point.
    finals: BTreeMap<String, Seq>,
    /// Disks that agents cannot read.
    pub(crate) hidden_disks: usize,
    /// A machine has come back from the dead.
    pub(crate) may_run_twice: bool,
    /// Components that are down.
    pub(crate) down: Vec<&'static str>,
    /// The network between the sites is cut, as process servers see it.
    pub(crate) cut: bool,
    /// What process servers have been asked to try.
    probes: Mutex<std::collections::BTreeSet<String>>,
    /// Process servers at home beside the first.
    pub(crate) more_process_servers: Vec<&'static str>,
    /// What master targets say is wrong with each of their replicas.
    pub(crate) replicas_problem: Option<Problem>,
    /// What agents find in their guest, when they are told to look.
    pub(crate) guest: Vec<ReadinessCheck>,
    /// The initial replication of a disk that was added does not end.
    pub(crate) seeds_slowly: bool,
    /// How far it is, as the agent tells.
    pub(crate) seeded: Vec<SeededDisk>,
    /// What the recovery site's master target finds of the way to storage, and has told.
    pub(crate) storage_path: ReadinessCheck,
    storage_paths: Vec<StoragePathFound>,
    /// What the agent was told last to be ready for.
    pub(crate) guest_for: Option<GuestPlatform>,
    pub(crate) new_firmware: bool,
    /// UEFI has started it.
    pub(crate) uefi: bool,
    /// What process servers that are made here are given.
    pub(crate) install_source: Option<InstallSource>,
    /// What agents call their operating system.
    pub(crate) system: String,
    /// They come up, and do not enrol.
    pub(crate) newcomers_fail: bool,
    /// What the agent of `web01` has gone on as.
    pub(crate) program_of_agent: Option<String>,
    program: Option<ProgramState>,
    /// Why it does not go on as what it is offered.
    pub(crate) agent_refuses: Option<&'static str>,
    _directory: tempfile::TempDir,
}

fn control(
    store: &Arc<SqliteStore>,
    clock: &Arc<Seconds>,
    scripts: &Path,
    home: Arc<MemorySite>,
    recovery: Arc<dyn Site>,
) -> Control {
    let opener = move |kind: &SiteKind,
                       _: switchback_control::SiteCredentials|
          -> Result<Arc<dyn Site>, ControlError> {
        Ok(match kind {
            SiteKind::Local { directory } if directory.ends_with("home") => home.clone(),
            SiteKind::Vsphere(_) => home.clone(),
            SiteKind::Local { .. } | SiteKind::Azure(_) => recovery.clone(),
            _ => panic!("no such sites here"),
        })
    };
    let config = ControlConfig {
        store: store.clone(),
        clock: clock.clone(),
        owner: "cs".into(),
        scripts: scripts.to_owned(),
        opener: Arc::new(opener),
    };
    Control::open(config).unwrap()
}

fn peer(role: Role, name: &str) -> PeerIdentity {
    PeerIdentity { role, name: name.parse().unwrap() }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_recovery(SiteKind::Local { directory: "/recovery".into() })
    }

    /// A world whose recovery site is said to be Azure's.
    pub(crate) fn azure() -> Self {
        let settings = serde_json::json!({
            "subscription": "s", "resourceGroup": "g", "region": "westeurope",
            "container": "https://a.blob.core.windows.net/c", "storageAccount": "/a",
        });
        let kind = AzureKind {
            settings: serde_json::from_value(settings).unwrap(),
            identity: AzureIdentity::ManagedIdentity { client: None },
            container_account: None,
        };
        Self::with_recovery(SiteKind::Azure(Box::new(kind)))
    }

    fn with_recovery(kind: SiteKind) -> Self {
        let mut world = Self::bare(kind);
        world.home.add("web01", "uuid-web01", 2);
        world.round();
        world
    }

    /// Without a machine.
    fn bare(recovery_kind: SiteKind) -> Self {
        // In memory where there is a place for it: thousands of kills, each with its own store.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let store = Arc::new(SqliteStore::open(directory.path().join("store.db")).unwrap());
        let (clock, home, recovery) =
            (Arc::<Seconds>::default(), Arc::<MemorySite>::default(), Arc::<MemorySite>::default());
        let scripts = directory.path().join("scripts");
        let control = control(&store, &clock, &scripts, home.clone(), recovery.clone());
        let home_kind = SiteKind::Local { directory: "/home".into() };
        for (name, kind) in [("home", home_kind), ("recovery", recovery_kind)] {
            control.add_site(&SiteRecord { name: name.parse().unwrap(), kind }).unwrap();
        }
        let policy = switchback_model::ReplicationPolicy { multi_vm: true, ..Default::default() };
        let name = |text: &str| text.parse().unwrap();
        control.create_group(&name("PG1"), &name("home"), &name("recovery"), &policy).unwrap();
        let (replicas, finals) = (BTreeMap::new(), BTreeMap::new());
        Self {
            control,
            clock,
            store,
            scripts,
            home,
            recovery,
            elsewhere: None,
            hardware: Arc::default(),
            replicas,
            sandboxes: Sandboxes::default(),
            finals,
            hidden_disks: 0,
            may_run_twice: false,
            down: Vec::new(),
            cut: false,
            probes: Mutex::default(),
            more_process_servers: Vec::new(),
            replicas_problem: None,
            guest: Vec::new(),
            guest_for: None,
            new_firmware: false,
            uefi: false,
            install_source: None,
            system: "Linux".into(),
            newcomers_fail: false,
            program_of_agent: None,
            program: None,
            agent_refuses: None,
            seeds_slowly: false,
            seeded: Vec::new(),
            storage_path: ReadinessCheck::passed("master-target.network-path", "W", "as chosen"),
            storage_paths: Vec::new(),
            _directory: directory,
        }
    }

    /// A world whose machine is a physical server. It comes home to `home`, if `comes_home`.
    pub(crate) fn physical(comes_home: bool) -> Self {
        let mut world = Self::bare(SiteKind::Local { directory: "/recovery".into() });
        let name = |text: &str| text.parse().unwrap();
        world.hardware.add("web01", HARDWARE, 2);
        world.set_home_of_hardware(comes_home.then_some("home"));
        let policy = switchback_model::ReplicationPolicy::default();
        world.control.create_group(&name("HW"), &name("hardware"), &name("recovery"), &policy).unwrap();
        world.round();
        world
    }

    pub(crate) fn set_home_of_hardware(&self, home: Option<&str>) {
        let kind = SiteKind::Physical { comes_home_to: home.map(|home| home.parse().unwrap()) };
        self.control.add_site(&SiteRecord { name: "hardware".parse().unwrap(), kind }).unwrap();
    }

    /// The configuration server was killed and starts again.
    pub(crate) fn restart(&mut self) {
        let elsewhere = self.elsewhere.as_ref().map(|elsewhere| elsewhere.site.clone());
        let recovery = elsewhere.unwrap_or_else(|| self.recovery.clone());
        self.control = control(&self.store, &self.clock, &self.scripts, self.home.clone(), recovery);
        if let Some(source) = &self.install_source {
            self.control.offers(source.clone());
        }
    }

    /// What a backup would hold of the store.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.store.snapshot().unwrap()
    }

    /// The configuration server is lost; another one is restored from what a backup held, and the components find it.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        let identity = self._directory.path().join("identity");
        self.authority();
        let file = |name: &str| SavedFile {
            path: format!("identity/{name}"),
            executable: false,
            contents: std::fs::read(identity.join(name)).unwrap().into(),
        };
        let contents = Contents { files: vec![file("authority.pem"), file("passphrase")], snapshot };
        let header = Header {
            made: self.clock.now(),
            build: "test".into(),
            reason: Reason::Continuous,
            incarnation: self.control.incarnation().unwrap(),
            incarnation_proof: None,
            authority: contents.authority_fingerprint().unwrap(),
            settings: BTreeMap::new(),
            records: contents.counts(),
            files: 2,
        };
        let prepared = prepare(header, contents, self.clock.now()).unwrap();
        let directory = self._directory.path().join(prepared.incarnation.number.to_string());
        let open = |directory: &Path| -> Result<Arc<dyn Store>, StoreError> {
            Ok(Arc::new(SqliteStore::open(directory.join("store.db"))?))
        };
        restore(prepared, &directory, &open, &mut |_| {}).unwrap();
        self.store = Arc::new(SqliteStore::open(directory.join("store.db")).unwrap());
        self.restart();
    }

    pub(crate) fn at_recovery(&self) -> Vec<Machine> {
        self.elsewhere.as_ref().map_or_else(|| self.recovery.all(), Elsewhere::replicas)
    }

    fn report(&self, role: Role, name: &str, site: &str, state: State) -> Answer {
        let report = Report {
            build: "test".into(),
            address: if role == Role::Source { String::new() } else { format!("{name}:9443") },
            site: site.into(),
            started: UnixMillis(0),
            state,
            incarnation_proof: None,
        };
        self.control.report(&peer(role, name), report).unwrap()
    }

    /// Everybody is a second older, reports, and does what is desired.
    pub(crate) fn round(&mut self) {
        self.clock.advance(1);
        for (site, number) in [("home", 0), ("recovery", 1)] {
            self.target(site, ["home-mt", "recovery-mt"][number]);
            self.process_server(site, ["home-ps", "recovery-ps"][number]);
        }
        for name in &self.more_process_servers {
            self.process_server("home", name);
        }
        if !self.hardware.all().is_empty() {
            self.process_server("hardware", "hw-ps");
        }
        self.newcomers();
        let machines = [self.home.all(), self.at_recovery(), self.hardware.all()];
        for machine in machines.into_iter().flatten().filter(|machine| {
            machine.power == Power::On && !machine.id.contains("test") && !is_sandbox(machine)
        }) {
            self.agent(&machine);
        }
    }

    fn process_server(&self, site: &str, name: &'static str) {
        if !self.down.contains(&name) {
            let reaches = |address: String| (address, self.cut.then(|| "no route to host".to_owned()));
            let probes = self.probes.lock().unwrap().clone().into_iter().map(reaches).collect();
            let state = State::ProcessServer(ProcessServerState { probes, ..ProcessServerState::default() });
            let Desired::ProcessServer(desired) = self.report(Role::ProcessServer, name, site, state).desired
            else {
                panic!()
            };
            self.probes.lock().unwrap().extend(desired.probes);
        }
    }

    fn target(&mut self, site: &str, name: &'static str) {
        if self.down.contains(&name) {
            return;
        }
        let elsewhere = self.elsewhere.clone().filter(|_| site == "recovery");
        let uuid = format!("uuid-{name}");
        let mine = self.replicas.iter().filter(|((target, _), _)| target == name);
        let replicas = mine.map(|((_, replica), actual)| ReplicaActual {
            problem: self.replicas_problem.clone(),
            ..actual.actual(replica)
        });
        let state = MasterTargetState {
            system_uuid: elsewhere.as_ref().map_or(uuid.clone(), |elsewhere| elsewhere.master_target.clone()),
            replicas: replicas.collect(),
            free_bytes: 1 << 40,
            storage_paths: self.storage_paths.iter().filter(|_| site == "recovery").cloned().collect(),
        };
        let Desired::MasterTarget(desired) =
            self.report(Role::Target, name, site, State::MasterTarget(state)).desired
        else {
            panic!()
        };
        if site == "recovery" {
            let look = |storage| StoragePathFound { storage, check: self.storage_path.clone() };
            self.storage_paths = desired.storage_paths.into_iter().map(look).collect();
        } else {
            assert!(desired.storage_paths.is_empty(), "{name} has nothing to do with storage");
        }
        // As a real one does: what is removed is told until it is not asked for any more.
        let wanted: Vec<_> =
            desired.replicas.iter().map(|wanted| &wanted.replica).chain(&desired.hold).cloned().collect();
        self.replicas.retain(|(target, replica), actual| {
            target != name || wanted.contains(replica) || actual.reached != Some(ReplicaMode::Remove)
        });
        if site == "recovery" {
            self.run_sandbox(name, &desired.replicas);
        }
        for wanted in desired.replicas {
            let key = (name.to_owned(), wanted.replica.clone());
            let actual = self.replicas.entry(key).or_default();
            assert!(wanted.epoch >= actual.epoch, "epochs never go back");
            let here = if site == "home" { &self.home } else { &self.recovery };
            let moves = actual.reached != Some(wanted.mode) && wanted.mode != ReplicaMode::Remove;
            let has_all = |targets: &[PathBuf]| {
                let mut there = targets.iter().filter(|path| !path.as_os_str().is_empty());
                there.all(|path| {
                    elsewhere.as_ref().map_or_else(|| here.has(&uuid, path), |elsewhere| elsewhere.has(path))
                })
            };
            let receives = actual.reached == Some(ReplicaMode::Receive);
            assert!(!receives || has_all(&actual.targets), "{name} has lost a disk that it writes");
            let changes = moves || wanted.mode == ReplicaMode::Receive;
            assert!(
                !changes || has_all(&wanted.targets),
                "{name} has not got the disks of {}",
                wanted.replica
            );
            let dropped = actual.views.keys().any(|view| !wanted.views.contains_key(view));
            assert!(!dropped || !here.all().iter().any(is_sandbox), "a sandbox stands on what is unmounted");
            let stands = matches!(wanted.mode, ReplicaMode::StandAt { .. });
            let is_shown = !wanted.views.is_empty() || wanted.sandbox.is_some();
            assert!(!stands || !is_shown, "a replica goes nowhere while a point is shown");
            actual.in_blobs = *here.makes_at_start.lock().unwrap();
            actual.follow(&wanted);
        }
    }

    fn run_sandbox(&mut self, name: &str, replicas: &[ReplicaDesired]) {
        let wanted = replicas.iter().find_map(|replica| replica.sandbox.clone());
        let shows = (
            self.recovery.sandboxes_say.lock().unwrap().clone(),
            self.recovery.sight.lock().unwrap().clone(),
        );
        if let Some(seen) = self.sandboxes.follow(wanted, self.clock.now(), shows) {
            self.control.sandbox_seen(&peer(Role::Target, name), seen).unwrap();
        }
    }

    fn agent(&mut self, machine: &Machine) {
        if self.down.contains(&"web01") {
            return;
        }
        let (known, hidden_disks, uefi) = (self.replicas.clone(), self.hidden_disks, self.uefi);
        let (system, program) = (self.system.clone(), self.program.clone());
        let is_asked = self.guest_for.is_some() || self.new_firmware;
        let guest = if is_asked { self.guest.clone() } else { Vec::new() };
        let state = |replication| AgentState {
            system_uuid: machine.system_uuid.clone(),
            platform: String::new(),
            hostname: "web01".into(),
            system: system.clone(),
            boot_id: "boot".into(),
            hardware: HardwareFacts { uefi, ..HardwareFacts::default() },
            powering_off: None,
            disks: machine
                .disks
                .iter()
                .skip(hidden_disks)
                .map(|disk| DiskFacts {
                    name: disk.serial.clone(),
                    serial: disk.serial.clone(),
                    size: disk.size,
                    capture: "ebpf".into(),
                })
                .collect(),
            interfaces: interfaces_of(machine),
            replication,
            scripts: Vec::new(),
            guest: guest.clone(),
            program: program.clone(),
            problems: Vec::new(),
        };
        let answer = self.report(Role::Source, "web01", "", State::Agent(Box::new(state(None))));
        let Desired::Agent(desired) = answer.desired else { panic!() };
        self.guest_for = desired.guest_for;
        self.new_firmware = desired.new_firmware;
        self.program = desired.program.as_ref().map(|offer| self.take_program(offer));
        if let Some(wanted) = &desired.power_off {
            let stands_still =
                desired.replication.as_ref().is_some_and(|wanted| wanted.final_cycle.is_some());
            assert!(stands_still || !wanted.standing_still, "it is asked when it stands still, or in order");
            let state = AgentState { powering_off: Some(wanted.token.clone()), ..state(None) };
            self.report(Role::Source, "web01", "", State::Agent(Box::new(state)));
            return self.hardware.set_power(&machine.id, Power::Off);
        }
        let Some(replication) = desired.replication else { return };
        let Some((key, actual)) = known.iter().find(|((_, name), _)| *name == replication.replica) else {
            return;
        };
        if actual.reached != Some(ReplicaMode::Receive)
            || actual.epoch > replication.epoch
            || !self.is_routed(&replication, &key.0)
        {
            return;
        }
        let state = state(Some(self.cycle(key, &replication)));
        self.report(Role::Source, "web01", "", State::Agent(Box::new(state)));
    }

    /// The agent has half of it at first, and runs it then; or it says why not.
    fn take_program(&mut self, offer: &ProgramOffer) -> ProgramState {
        let runs = self.program_of_agent.clone().unwrap_or_default();
        if self.agent_refuses.is_none() {
            self.program_of_agent = Some(offer.sha256.clone());
        }
        ProgramState {
            token: offer.token.clone(),
            sha256: runs,
            fetched: offer.len / 2,
            failure: self.agent_refuses.map(str::to_owned),
        }
    }

    /// Somebody starts the replica's machine by hand, past everything.
    pub(crate) fn start_replica(&mut self) {
        self.may_run_twice = true;
        let id = self.recovery.all()[0].id.clone();
        self.recovery.set_power(&id, Power::On);
    }

    /// What the agent of `web01` is to replicate, as the side it lives at is told.
    pub(crate) fn agents_wish(&self) -> Option<Replication> {
        let uuid = self.control.item(&"web01".parse().unwrap()).unwrap().item.active().system_uuid.clone();
        let answer = self.control.desired(&peer(Role::Source, "web01"), Some(&uuid)).unwrap();
        match answer.desired {
            Desired::Agent(desired) => desired.replication,
            other => panic!("{other:?}"),
        }
    }

    /// The process server of a replication is up, and its master target.
    fn is_routed(&self, replication: &Replication, master_target: &str) -> bool {
        ![replication.peer.as_str(), master_target].iter().any(|server| self.down.contains(server))
    }

    /// One more point, unless the machine stands still after its last.
    fn cycle(&mut self, key: &(String, ReplicaName), replication: &Replication) -> ReplicationState {
        let now = self.clock.now();
        let made = replication.final_cycle.as_ref().and_then(|token| self.finals.get(token)).copied();
        let completes = !self.seeds_slowly;
        let replica = self.replicas.get_mut(key).unwrap();
        let seq = made.unwrap_or_else(|| replica.cycle(replication, now, completes));
        let final_point = replication.final_cycle.clone().map(|token| {
            self.finals.insert(token.clone(), seq);
            FinalPoint { token, seq, held_for_ms: 100_000 }
        });
        ReplicationState {
            replica: replication.replica.clone(),
            epoch: replication.epoch,
            generation: None,
            activity: Activity::Idle,
            compared_bytes: 0,
            seeded: self.seeded.clone(),
            disk_bytes: 2 << 20,
            sent_bytes: 0,
            resync_sent_bytes: 0,
            changed_bytes: 0,
            transferred_bytes: 0,
            received: Some((seq, now)),
            recoverable: Some(seq),
            frozen_ms: 1,
            final_point,
            failure: None,
        }
    }
}

/// The protection of `web01` in the world's group.
pub(crate) fn protect() -> ProtectRequest {
    ProtectRequest {
        name: "web01".parse().unwrap(),
        machine: "web01".into(),
        group: "PG1".parse().unwrap(),
        process_server: None,
        master_target: None,
        datastore: None,
        nics: Vec::new(),
        plan: Default::default(),
    }
}
