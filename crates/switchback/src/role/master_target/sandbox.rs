//! Sandboxes: a machine over a point of a replica, run beside it where the replica's site has no such machines (`docs/decisions/0025-proofs-in-a-sandbox.md`).
//!
//! ```text
//! sandboxes/           a local site of its own: QEMU machines, without networks
//! sandboxes/scratch/   what they write, which goes with them
//! views/<replica>/<id> the point as files, which QEMU reads
//! ```
//! What it is: a thread for each sandbox that is desired, which mounts the point, makes and starts the machine, looks at it each second and tells what it sees, and
//! takes all of that down again when it is dropped. What it never does: judge; touch the replica; fail it: what goes wrong is told of the sandbox alone.
//!
//! # Limits
//! One runs at a time, others wait. It gets half of the memory and of the room that the host has to spare at most. It ends when its time is over, when nobody has
//! answered for [`SANDBOX_ALONE_S`], or when it has written more than its room; and then says why until nobody wants it any more. What a process that was
//! killed has left is ended by the next ([`Sandboxes::new`]): a machine whose files are gone can only be a lie about its point.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use switchback_disk::{DirVolume, Volume};
use switchback_model::component::{
    PICTURE_LEN_MAX, Problem, SANDBOX_ALONE_S, SandboxDesired, SandboxSeen, SandboxState,
};
use switchback_model::{DiskIndex, Seq};
use switchback_replica::{ReadPoint, ReplicaError};
use switchback_sites::{
    AcceleratorChoice, Boot, DiskOrigin, LocalSite, NewDisk, NewMachine, Nic, Power, Site, SiteSettings,
    UefiSettings,
};

use crate::component::Channel;
use crate::export::Export;
use crate::role::now;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What has not changed is told again after so long.
const TELL_AGAIN: Duration = Duration::from_secs(5);
/// Bytes of its console that are told.
const CONSOLE_BYTES: usize = 64 << 10;
/// Less memory, in MiB, is none.
const MEMORY_MIB_MIN: u64 = 128;
/// Bytes that it may write, however much room there is.
const ROOM_MAX: u64 = 16 << 30;
const SCRATCH: &str = "scratch";
/// The program that makes its layers.
const QEMU_IMG: &str = "qemu-img";

/// What the sandboxes of a master target share.
pub(super) struct Sandboxes {
    root: PathBuf,
    qemu: PathBuf,
    /// Held by the one that runs.
    turn: Mutex<()>,
    /// By which they tell what they see.
    channel: OnceLock<Arc<Channel>>,
}

impl Sandboxes {
    /// Ends what a process that was killed has left in `root`.
    pub(super) fn new(root: PathBuf, qemu: PathBuf) -> Self {
        if let Err(error) = clear(&root) {
            tracing::error!(%error, directory = %root.display(), "sandboxes of an earlier run could not be removed");
        }
        Self { root, qemu, turn: Mutex::default(), channel: OnceLock::new() }
    }

    pub(super) fn tell_by(&self, channel: Arc<Channel>) {
        // Once, at the start.
        let _ = self.channel.set(channel);
    }

    /// The site of its own, made when it is used first.
    fn site(&self) -> Result<LocalSite, Problem> {
        for (program, package) in [(&*self.qemu, "qemu-system-x86"), (Path::new(QEMU_IMG), "qemu-utils")] {
            let mut command = Command::new(program);
            let ran =
                command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if let Err(error) = ran.status() {
                let shown = program.display();
                return Err(no_sandbox(match error.kind() {
                    ErrorKind::NotFound => format!(
                        "{shown} is not installed on the master target's host: install {package} there (Debian's name), or name it with --qemu"
                    ),
                    _ => format!("{shown} cannot be run: {error}"),
                }));
            }
        }
        let settings = SiteSettings {
            qemu: self.qemu.clone(),
            qemu_img: QEMU_IMG.into(),
            accelerator: AcceleratorChoice::Auto,
            datastores: [(SCRATCH.to_owned(), SCRATCH.into())].into(),
            networks: [].into(),
            uefi: UefiSettings::default(),
        };
        LocalSite::create(&self.root, &settings).map_err(|error| no_sandbox(error.to_string()))
    }
}

fn clear(root: &Path) -> anyhow::Result<()> {
    if !root.exists() {
        return Ok(());
    }
    if root.join("site.toml").exists() {
        let site = LocalSite::open(root)?;
        for machine in site.machines()? {
            site.power_off(&machine.id)?;
            site.delete_machine(&machine.id)?;
        }
    }
    Ok(fs::remove_dir_all(root)?)
}

fn no_sandbox(message: impl Into<String>) -> Problem {
    let message: String = message.into();
    Problem {
        code: "proof.no-sandbox".into(),
        message: format!("the master target runs no sandbox: {message}"),
    }
}

fn ended(message: impl Into<String>) -> Problem {
    let message: String = message.into();
    Problem {
        code: "proof.sandbox-ended".into(),
        message: format!("the master target ended the sandbox: {message}"),
    }
}

/// Where a replica's sandbox is, if one is desired.
pub(super) struct Place {
    shared: Arc<Sandboxes>,
    /// Where its points are shown.
    views: PathBuf,
    sandbox: Mutex<Option<Sandbox>>,
}

impl Place {
    pub(super) fn new(shared: Arc<Sandboxes>, views: PathBuf) -> Self {
        Self { shared, views, sandbox: Mutex::default() }
    }

    /// Has this one run and no other, over a point that `open` opens.
    pub(super) fn keep(
        &self,
        wanted: Option<&SandboxDesired>,
        open: impl FnOnce(Seq) -> Result<Arc<dyn ReadPoint>, ReplicaError> + Send + 'static,
    ) {
        let mut sandbox = self.sandbox.lock().unwrap_or_else(PoisonError::into_inner);
        if sandbox.as_ref().map(|sandbox| &sandbox.desired) == wanted {
            return;
        }
        *sandbox = None;
        let Some(wanted) = wanted.cloned() else { return };
        let (mount, seq) = (self.views.join(&wanted.id), wanted.seq);
        *sandbox = Some(Sandbox::start(self.shared.clone(), wanted, mount, Box::new(move || open(seq))));
    }

    /// Ends it: on return nothing of it stands on the replica.
    pub(super) fn end(&self) {
        *self.sandbox.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Opens the point.
type OpenPoint = Box<dyn FnOnce() -> Result<Arc<dyn ReadPoint>, ReplicaError> + Send>;

/// A sandbox that is desired; gone with all that it has written once this is dropped.
struct Sandbox {
    desired: SandboxDesired,
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sandbox {
    /// Begins to make it; `mount`: where its point is to be shown.
    fn start(shared: Arc<Sandboxes>, desired: SandboxDesired, mount: PathBuf, open: OpenPoint) -> Self {
        let (stop, stopped) = sync_channel(1);
        let runner = Runner { shared, desired: desired.clone(), mount, stopped };
        let thread = std::thread::Builder::new().name("sandbox".into()).spawn(move || runner.run(open));
        let thread = thread.inspect_err(|error| tracing::error!(%error, "no thread for a sandbox")).ok();
        Self { desired, stop: Some(stop), thread }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(
                sandbox = self.desired.id,
                "a sandbox's thread has panicked; the next start removes what it has left"
            );
        }
    }
}

struct Runner {
    shared: Arc<Sandboxes>,
    desired: SandboxDesired,
    mount: PathBuf,
    stopped: Receiver<()>,
}

/// Nobody wants it any more.
struct Unwanted;

/// A machine that is there; goes when dropped, before what it stands on.
struct Running {
    site: LocalSite,
    id: String,
    memory_mib: u32,
    room: u64,
    _export: Export,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.site.power_off(&self.id).and_then(|()| self.site.delete_machine(&self.id)) {
            tracing::error!(sandbox = self.id, %error, "a sandbox could not be removed; the next start of the master target does it");
        }
    }
}

/// What was told last, and what came of telling.
struct Told {
    seen: SandboxSeen,
    at: Option<Instant>,
    heard: Instant,
}

impl Runner {
    fn run(self, open: OpenPoint) {
        let seen = SandboxSeen {
            id: self.desired.id.clone(),
            state: SandboxState::Starting,
            started: now(),
            memory_mib: 0,
            console: String::new(),
            screen: String::new(),
            picture: String::new(),
            failed_requests: 0,
        };
        let mut told = Told { seen, at: None, heard: Instant::now() };
        let ended = self.wait_for_turn(&mut told).and_then(|turn| {
            let ended = match self.make(open) {
                Ok(running) => self.watch(&running, &mut told),
                Err(problem) => Ok(problem),
            };
            drop(turn);
            ended
        });
        let Ok(problem) = ended else { return };
        tracing::warn!(
            sandbox = self.desired.id,
            code = problem.code,
            message = problem.message,
            "a sandbox does not run"
        );
        let refused = SandboxSeen { state: SandboxState::Refused { problem }, ..told.seen.clone() };
        loop {
            self.tell(&mut told, refused.clone());
            if self.pause().is_err() {
                return;
            }
        }
    }

    fn wait_for_turn(&self, told: &mut Told) -> Result<MutexGuard<'_, ()>, Unwanted> {
        loop {
            match self.shared.turn.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
                Err(TryLockError::WouldBlock) => {}
            }
            let seen = told.seen.clone();
            self.tell(told, seen);
            self.pause()?;
        }
    }

    /// Until the next look.
    fn pause(&self) -> Result<(), Unwanted> {
        match self.stopped.recv_timeout(LOOK_EVERY) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Unwanted),
        }
    }

    /// Tells what has changed, and now and then what has not.
    fn tell(&self, told: &mut Told, seen: SandboxSeen) {
        if told.seen == seen && told.at.is_some_and(|at| at.elapsed() < TELL_AGAIN) {
            return;
        }
        told.seen = seen;
        let Some(channel) = self.shared.channel.get() else { return };
        match channel.tell_sandbox(&told.seen) {
            Ok(heard) => {
                if heard.is_wanted {
                    told.heard = Instant::now();
                }
                told.at = Some(Instant::now());
            }
            Err(error) => {
                tracing::debug!(sandbox = told.seen.id, %error, "what is seen of a sandbox was not told")
            }
        }
    }

    fn make(&self, open: OpenPoint) -> Result<Running, Problem> {
        let SandboxDesired { id, seq, plan } = &self.desired;
        let site = self.shared.site()?;
        let (memory_mib, room) = self.share(plan.memory_mib)?;
        let failed = |what: String| no_sandbox(format!("showing recovery point {seq}: {what}"));
        let view = open().map_err(|error| failed(error.to_string()))?;
        let sizes = view.disk_sizes();
        fs::create_dir_all(&self.mount).map_err(|error| failed(error.to_string()))?;
        let export = Export::mount(view, &self.mount)
            .map_err(|error| failed(format!("{error} (is FUSE there, /dev/fuse?)")))?;
        let disk = |disk: DiskIndex, serial: &String| {
            let image = self.mount.join(format!("disk-{}.raw", disk.0));
            let origin = DiskOrigin::Over { image, datastore: SCRATCH.into() };
            let size = sizes.get(usize::from(disk.0)).copied().unwrap_or(0);
            NewDisk { size, serial: serial.clone(), origin }
        };
        let cpus =
            std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1));
        let machine = NewMachine {
            id: id.clone(),
            name: id.clone(),
            system_uuid: None,
            cpus: plan.cpus.clamp(1, cpus),
            memory_mib,
            boot: if plan.uefi { Boot::Uefi } else { Boot::Bios },
            disks: plan.disks.iter().map(|of| disk(of.disk, &of.serial)).collect(),
            nics: plan.macs.iter().map(|mac| Nic { mac: mac.clone(), network: None }).collect(),
            mark: None,
            beside: None,
        };
        // From here on its drop takes down what is there.
        let running = Running { site, id: id.clone(), memory_mib, room, _export: export };
        let started = running.site.create_machine(&machine).and_then(|_| running.site.power_on(id));
        started.map_err(|error| no_sandbox(error.to_string()))?;
        tracing::info!(sandbox = id, %seq, memory_mib, "a sandbox runs");
        Ok(running)
    }

    /// Memory in MiB and bytes of room that it gets.
    fn share(&self, wanted_mib: u32) -> Result<(u32, u64), Problem> {
        let available_mib = available_mib().unwrap_or(u64::from(wanted_mib) * 2);
        let memory_mib = u64::from(wanted_mib).min(available_mib / 2);
        if memory_mib < MEMORY_MIB_MIN.min(wanted_mib.into()) {
            return Err(no_sandbox(format!(
                "its host has {available_mib} MiB of memory to spare, and half of that is too little: give it more"
            )));
        }
        let free = DirVolume::open(&self.shared.root).ok().and_then(|volume| volume.free_bytes().ok());
        Ok((u32::try_from(memory_mib).unwrap_or(wanted_mib), (free.unwrap_or(0) / 2).min(ROOM_MAX)))
    }

    /// Until nobody wants it, or it must not go on.
    fn watch(&self, running: &Running, told: &mut Told) -> Result<Problem, Unwanted> {
        let (started, limit) = (Instant::now(), Duration::from_millis(self.desired.plan.limit_ms));
        told.heard = started;
        let first = SandboxSeen { started: now(), memory_mib: running.memory_mib, ..told.seen.clone() };
        let mut seen = first;
        loop {
            seen = running.look(seen);
            self.tell(told, seen.clone());
            self.pause()?;
            let written = running.written();
            if started.elapsed() > limit {
                return Ok(ended(format!("its time, {} s, was over", limit.as_secs())));
            }
            if told.heard.elapsed() > Duration::from_secs(SANDBOX_ALONE_S) {
                return Ok(ended(format!(
                    "no configuration server has asked for it for {SANDBOX_ALONE_S} s; verify the recovery point again"
                )));
            }
            if written > running.room {
                let free = running.room;
                return Ok(ended(format!(
                    "it has written {written} bytes, and the retention drive has {free} to spare for it: make room there"
                )));
            }
        }
    }
}

impl Running {
    /// What is to be seen now. What cannot be looked at is as it was.
    fn look(&self, before: SandboxSeen) -> SandboxSeen {
        let mut seen = before;
        match self.site.machine(&self.id).map(|machine| machine.power) {
            Ok(Power::Off) => seen.state = SandboxState::Off,
            Ok(Power::On) => seen.state = SandboxState::Runs,
            Err(error) => tracing::warn!(sandbox = self.id, %error, "a sandbox cannot be seen"),
        }
        if seen.state == SandboxState::Runs {
            match self.site.look(&self.id) {
                Ok(sight) => {
                    let fits = sight.picture.len() <= PICTURE_LEN_MAX;
                    seen.picture = if fits { STANDARD.encode(&sight.picture) } else { String::new() };
                    seen.screen = sight.text;
                    seen.failed_requests = seen.failed_requests.max(sight.failed_requests);
                }
                // It may just have gone off.
                Err(error) => {
                    tracing::debug!(sandbox = self.id, %error, "the screen of a sandbox cannot be seen")
                }
            }
        }
        // Last: what was written before it went off is there.
        if let Ok(console) = self.site.console(&self.id, CONSOLE_BYTES) {
            seen.console = console;
        }
        seen
    }

    /// Bytes that its layers take.
    fn written(&self) -> u64 {
        let layers = fs::read_dir(self.site.directory().join(SCRATCH).join(&self.id)).into_iter().flatten();
        layers.flatten().filter_map(|layer| layer.metadata().ok()).map(|of| of.blocks() * 512).sum()
    }
}

/// Memory that can be had without swapping, in MiB (proc(5), `MemAvailable`).
fn available_mib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}
