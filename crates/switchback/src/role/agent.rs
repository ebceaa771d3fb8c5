//! The mobility agent: runs in the machine that is protected.
//!
//! Needs root, a kernel with eBPF for tracking (else disks are compared), and nothing of the guest but `ip`. What it keeps lies in its
//! directory, on a protected disk: so it goes along when the machine is failed over, and the agent at the other place is the same one.
//!
//! ```text
//! networks       profiles of the places where the machine may wake up    acknowledged  see `replication`
//! scripts        which scripts have been run                             writer        who it is towards process servers
//! program*       a version that the configuration server has put in the place of what was installed: see `update`
//! guest          what was prepared of the guest last
//! ```
//! Nothing is done from memory of earlier orders: after a start it waits for the configuration server before it sends anything, as
//! this may be the copy that was left behind. The network is the exception, without which it would not hear of it.

mod azure_disks;
mod disks;
mod facts;
mod guest;
mod moments;
mod network;
mod power;
mod replication;
mod scripts;
pub mod update;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use switchback_disk::{DirVolume, Volume};
use switchback_model::WriterId;
use switchback_model::component::{
    AgentDesired, AgentState, Desired, DiskFacts, Problem, Replication, Standing, State,
};
use tokio::runtime::Runtime;

use super::process_server::writer_id;
use super::{RoleConfig, now, report, runtime};
use crate::component::Channel;
use crate::engine::Stop;
use crate::machine::{CaptureMethod, Machine, MomentOptions};
use facts::Identity;
use guest::{GuestCare, Wanted};
use replication::{Replicator, ReplicatorConfig};
use scripts::ScriptRunner;
use update::Updates;

/// How often it looks around by itself.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often addresses and disks are read again.
const FACTS_EVERY: Duration = Duration::from_secs(10);
/// The tracker's name in the kernel.
const TRACKER: &str = "agent";
/// How long a replication is waited for at the end.
const STOP_MAX: Duration = Duration::from_secs(10);

/// How an agent is to run.
#[derive(Debug)]
pub struct AgentConfig {
    /// What all roles need; its directory is on a protected disk.
    pub role: RoleConfig,
    /// How changed blocks are found.
    pub capture: CaptureMethod,
    /// The guest is only looked at, and not prepared for the other site.
    pub leave_guest_alone: bool,
    /// The configuration server may not put another version in this one's place.
    pub no_updates: bool,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ended {
    /// It was stopped.
    Stopped,
    /// This process is to go on as another program.
    As(update::Successor),
}

/// Applies the network settings of the place where the machine has woken up, as kept in `data`; nothing if none are. Before anything that
/// needs the network.
pub fn wake_up(data: &Path) {
    let Ok(volume) = DirVolume::open(data) else { return };
    let identity = Identity::read();
    let hardware = facts::hardware(Path::new("/sys"));
    network::wake_up(&volume, (&identity.system_uuid, &identity.boot_id), &hardware, &network::IpCommands);
}

/// Runs until `stop`.
///
/// # Errors
/// When it cannot begin. What happens later is reported, and tried again.
pub fn run(config: AgentConfig, stop: &Stop) -> anyhow::Result<Ended> {
    let AgentConfig { role, capture, leave_guest_alone, no_updates } = config;
    let volume: Arc<dyn Volume> = Arc::new(role.volume()?);
    let runtime = runtime()?;
    let identity = Identity::read();
    let state = Arc::new(Mutex::new(first_state(&identity)));
    let (shown, started) = (state.clone(), now());
    let running: Arc<Mutex<Option<Replicator>>> = Arc::default();
    let replicator = running.clone();
    let compose = move || {
        let mut state = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Fresh: it says for how long the machine stands still yet.
        state.replication = moments::lock(&replicator).as_ref().map(Replicator::state);
        report("", "", started, State::Agent(Box::new(state)))
    };
    let channel = Arc::new(role.start_channel(runtime.handle(), Arc::new(compose))?);
    let scripts = ScriptRunner::open(volume.clone(), Path::new(scripts::DIRECTORY))?;
    let writer = writer_id(&role.data)?;
    let disks = facts::disks(Path::new("/sys"));
    let updates = Updates::open(volume.clone(), &role.data, !no_updates);
    let guest = GuestCare::new(volume.clone(), &identity.boot_id, leave_guest_alone);
    let mut agent = Agent {
        role,
        capture,
        volume,
        guest,
        updates,
        runtime,
        writer,
        channel,
        scripts,
        disks,
        state,
        running,
        machine: None,
        protected: Vec::new(),
        desired: AgentDesired::default(),
        heard: false,
        said: None,
        looked: None,
        power: power::Power::default(),
        boot_id: identity.boot_id.clone(),
        problems: Vec::new(),
    };
    let mut seen = 0;
    let mut ended = Ended::Stopped;
    while !stop.is_stopped() {
        let (count, answer) = agent.channel.next(seen, LOOK_EVERY);
        if count > seen {
            seen = count;
            match answer.map(|answer| answer.desired) {
                Some(Desired::Agent(desired)) => agent.take(*desired),
                other => tracing::error!(
                    ?other,
                    "told to be something else than a mobility agent; is it enrolled as what it is?"
                ),
            }
        }
        agent.look_around();
        if let Some(successor) = agent.successor() {
            ended = Ended::As(successor);
            break;
        }
    }
    agent.end();
    Ok(ended)
}

fn first_state(identity: &Identity) -> AgentState {
    AgentState {
        system_uuid: identity.system_uuid.clone(),
        platform: identity.platform.clone(),
        hostname: identity.hostname.clone(),
        system: identity.system.clone(),
        boot_id: identity.boot_id.clone(),
        hardware: facts::machine(Path::new("/")),
        powering_off: None,
        disks: facts::disks(Path::new("/sys")),
        interfaces: facts::interfaces(),
        replication: None,
        scripts: Vec::new(),
        guest: Vec::new(),
        program: None,
        problems: Vec::new(),
    }
}

struct Agent {
    role: RoleConfig,
    capture: CaptureMethod,
    volume: Arc<dyn Volume>,
    runtime: Runtime,
    writer: WriterId,
    channel: Arc<Channel>,
    scripts: ScriptRunner,
    guest: GuestCare,
    updates: Updates,
    /// All disks of this machine.
    disks: Vec<DiskFacts>,
    state: Arc<Mutex<AgentState>>,
    running: Arc<Mutex<Option<Replicator>>>,
    machine: Option<Arc<Machine>>,
    /// Those of its disks that `machine` was made with, by slot.
    protected: Vec<Option<DiskFacts>>,
    desired: AgentDesired,
    /// The configuration server has said something.
    heard: bool,
    /// The standing that was told to people last.
    said: Option<Standing>,
    looked: Option<Instant>,
    power: power::Power,
    boot_id: String,
    problems: Vec<Problem>,
}

impl Agent {
    /// Takes over a desired state.
    fn take(&mut self, desired: AgentDesired) {
        if desired.hold {
            return;
        }
        self.heard = true;
        self.updates.heard();
        let system_uuid = Identity::read().system_uuid;
        match network::keep(&*self.volume, &system_uuid, &desired.networks) {
            Ok(false) => {}
            Ok(true) => {
                let here = (system_uuid.as_str(), self.boot_id.as_str());
                let hardware = facts::hardware(Path::new("/sys"));
                network::wake_up(&*self.volume, here, &hardware, &network::IpCommands);
            }
            Err(error) => self.problem(
                "agent.networks",
                format!("the network settings of other places cannot be kept: {error}"),
            ),
        }
        if self.said.as_ref() != Some(&desired.standing) {
            say(&desired.standing);
            self.said = Some(desired.standing.clone());
        }
        self.desired = desired;
    }

    fn problem(&mut self, code: &str, message: String) {
        if !self.problems.iter().any(|problem| problem.code == code && problem.message == message) {
            tracing::error!(code, message, "a problem");
        }
        self.problems.retain(|problem| problem.code != code);
        self.problems.push(Problem { code: code.into(), message });
    }

    fn solved(&mut self, code: &str) {
        self.problems.retain(|problem| problem.code != code);
    }

    /// Compares what should be with what is.
    fn look_around(&mut self) {
        if self.heard {
            self.replicate();
            let channel = self.channel.clone();
            self.scripts.look_at(&self.desired.scripts, move || channel.report_now());
            self.look_at_guest();
            self.power_off_if_asked();
        }
        if self.looked.is_none_or(|at| at.elapsed() >= FACTS_EVERY) {
            self.looked = Some(Instant::now());
            self.disks = facts::disks(Path::new("/sys"));
            self.compare_disks();
            match azure_disks::unsupported(Path::new("/sys")) {
                Some(message) => self.problem(azure_disks::UNSUPPORTED, message),
                None => self.solved(azure_disks::UNSUPPORTED),
            }
            let (interfaces, disks) = (facts::interfaces(), self.disks.clone());
            self.show(|state| (state.interfaces, state.disks) = (interfaces, disks));
        }
        let capture = match &self.machine {
            Some(machine) if machine.is_tracked() => "ebpf",
            None if self.capture != CaptureMethod::Scan => "ebpf",
            _ => "scan",
        };
        let (scripts, problems) = (self.scripts.results(), self.problems.clone());
        let (powering_off, guest) = (self.power.announced(), self.guest.checks());
        let program = self.updates.state();
        self.show(|state| {
            (state.guest, state.program) = (guest, program);
            state.disks.iter_mut().for_each(|disk| disk.capture = capture.into());
            (state.scripts, state.problems, state.powering_off) = (scripts, problems, powering_off);
        });
    }

    /// The machine stands still for its last point, or is about to: what is written then is in none.
    fn is_ending(&self) -> bool {
        self.desired.replication.as_ref().is_some_and(|wanted| wanted.final_cycle.is_some())
    }

    /// As what this process is to go on, if as something else.
    fn successor(&mut self) -> Option<update::Successor> {
        if self.is_ending() {
            return None;
        }
        let offer = self.desired.program.clone();
        self.updates.look(offer.as_ref(), &self.channel)
    }

    fn look_at_guest(&mut self) {
        if !self.is_ending() {
            let channel = self.channel.clone();
            let wanted = Wanted { platform: self.desired.guest_for, new_firmware: self.desired.new_firmware };
            self.guest.look_at(wanted, move || channel.report_now());
        }
    }

    /// What is tracked must be what is sent: another set of disks needs another machine, and none is sent that is not as it was protected.
    fn compare_disks(&mut self) {
        let Some(wanted) = &self.desired.replication else {
            self.solved(disks::CHANGED);
            self.solved(disks::NOT_PROTECTED);
            return;
        };
        let chosen = disks::choose(&wanted.disks, &self.disks);
        match disks::not_protected(&wanted.disks, chosen.as_deref().unwrap_or_default(), &self.disks) {
            Some(message) if chosen.is_ok() => self.problem(disks::NOT_PROTECTED, message),
            _ => self.solved(disks::NOT_PROTECTED),
        }
        match &chosen {
            Ok(_) => self.solved(disks::CHANGED),
            Err(message) => self.problem(disks::CHANGED, message.clone()),
        }
        if self.machine.is_some() && chosen.as_ref().ok() != Some(&self.protected) {
            self.machine = None;
            if let Some(replicator) = &*moments::lock(&self.running) {
                replicator.stop();
            }
        }
    }

    fn power_off_if_asked(&mut self) {
        let wanted = self.desired.power_off.clone();
        let stands_still = moments::lock(&self.running)
            .as_ref()
            .is_some_and(|replicator| replicator.state().final_point.is_some());
        match self.power.look(wanted.as_ref(), &self.boot_id, stands_still, Instant::now()) {
            power::Next::Nothing => {}
            power::Next::Announce => {
                let announced = self.power.announced();
                self.show(|state| state.powering_off = announced);
                self.channel.report_now();
            }
            power::Next::Follow => {
                tracing::warn!(
                    "this machine is switched off, as the configuration server asks: it is being failed over"
                );
                match power::off(wanted.is_some_and(|wanted| wanted.standing_still)) {
                    Ok(()) => self.solved("agent.power-off"),
                    Err(error) => {
                        self.power.failed();
                        self.problem(
                            "agent.power-off",
                            format!("this machine cannot be switched off: {error}"),
                        );
                    }
                }
            }
        }
    }

    fn show(&self, change: impl FnOnce(&mut AgentState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Starts, changes or ends the replication.
    fn replicate(&mut self) {
        // Whoever is superseded sends nothing, whatever else it is told.
        let wanted = match self.desired.standing {
            Standing::Superseded { .. } => None,
            _ => self.desired.replication.clone(),
        };
        let is_running = {
            let mut running = moments::lock(&self.running);
            if running.as_ref().is_some_and(Replicator::is_finished) {
                *running = None;
            }
            match (&*running, &wanted) {
                (None, _) => false,
                (Some(replicator), Some(wanted)) => {
                    // Another one is started at the next look.
                    if !replicator.update(wanted) {
                        replicator.stop();
                    }
                    true
                }
                (Some(replicator), None) => {
                    replicator.stop();
                    true
                }
            }
        };
        match wanted {
            _ if is_running => {}
            None => self.end_tracking(),
            // Said already, and looked at again with the next facts.
            Some(wanted) if disks::choose(&wanted.disks, &self.disks).is_err() => {}
            // Not under the lock, for which reports wait.
            Some(wanted) => match self.start(wanted) {
                Ok(replicator) => {
                    *moments::lock(&self.running) = Some(replicator);
                    self.solved("agent.start");
                }
                Err(error) => {
                    self.problem("agent.start", format!("replication cannot be started: {error:#}"));
                }
            },
        }
    }

    fn start(&mut self, wanted: Replication) -> anyhow::Result<Replicator> {
        let machine = self.machine(&wanted)?;
        let channel = self.channel.clone();
        let config = ReplicatorConfig {
            machine,
            volume: self.volume.clone(),
            credentials: self.role.credentials.clone(),
            runtime: self.runtime.handle().clone(),
            writer: self.writer,
            meet: self.channel.clone(),
            changed: Arc::new(move || channel.report_now()),
        };
        tracing::info!(replica = %wanted.replica, epoch = %wanted.epoch, to = wanted.address, "replication begins");
        Replicator::start(config, wanted)
    }

    /// The machine's protected disks, tracked if that works.
    fn machine(&mut self, wanted: &Replication) -> anyhow::Result<Arc<Machine>> {
        let chosen = disks::choose(&wanted.disks, &self.disks).map_err(anyhow::Error::msg)?;
        if let Some(machine) = &self.machine
            && self.protected == chosen
        {
            return Ok(machine.clone());
        }
        let slots = disks::slots(&wanted.disks, &chosen);
        anyhow::ensure!(
            chosen.iter().any(Option::is_some),
            "this machine has no disk that can be protected (virtio, SCSI, NVMe, Xen)"
        );
        let options =
            || MomentOptions { freeze_budget: Duration::from_millis(250), scripts: Default::default() };
        let mut machine = Machine::open(slots.clone(), self.capture, TRACKER, options())?;
        if self.capture == CaptureMethod::Auto
            && machine.is_tracked()
            && let Err(error) = machine.tracker()
        {
            self.problem(
                "agent.tracking",
                format!("{error:#}; disks are compared instead, which costs time and reads"),
            );
            machine = Machine::open(slots, CaptureMethod::Scan, TRACKER, options())?;
        }
        let machine = Arc::new(machine);
        self.machine = Some(machine.clone());
        self.protected = chosen;
        Ok(machine)
    }

    /// Nothing is protected any more: the kernel need not remember what changes.
    fn end_tracking(&mut self) {
        if self.desired.standing == Standing::Unprotected
            && let Some(machine) = self.machine.take()
            && let Err(error) = machine.detach()
        {
            tracing::warn!(%error, "the tracker could not be removed from the kernel");
        }
    }

    fn end(self) {
        if let Some(replicator) = &*moments::lock(&self.running) {
            replicator.stop();
            let began = Instant::now();
            while !replicator.is_finished() && began.elapsed() < STOP_MAX {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Tells people at the console and in the log how this machine stands.
fn say(standing: &Standing) {
    match standing {
        Standing::Superseded { by } => {
            let text = format!(
                "switchback: this machine has been superseded: it lives at {by} by now. Nothing that is written here is replicated; \
                 it will be lost. Shut this one down."
            );
            tracing::error!("{text}");
            // There may be none.
            let _ = std::fs::write("/dev/console", format!("{text}\n"));
        }
        Standing::Active => tracing::info!("this machine is protected"),
        Standing::Unprotected => tracing::info!("this machine is not protected"),
    }
}
