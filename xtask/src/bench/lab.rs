//! The ends that are measured: `switchback` processes with identities of their own, and syncs between them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::image::text;
use super::process::{Janitor, Measured, Process, measure, run, wait_for};

/// How long a process may take to start, a session to end, a cycle to be applied.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// The work directory with a source and a running target.
pub(super) struct Lab {
    pub(super) janitor: Janitor,
    /// Everything is below it.
    pub(super) work: PathBuf,
    binary: PathBuf,
    /// The process that keeps the replicas.
    pub(super) receiver: Process,
    /// Where it listens.
    pub(super) address: String,
}

/// A finished sync.
pub(super) struct Sync {
    pub(super) process: Measured,
    /// Its last recovery point, as it told it.
    pub(super) point: Value,
    /// When it told it.
    pub(super) committed: Instant,
}

impl Lab {
    /// Founds a site in `work` and starts its receiver.
    pub(super) fn new(janitor: &Janitor, work: &Path, binary: &Path) -> anyhow::Result<Self> {
        let switchback = |identity: &str| {
            let mut command = Command::new(binary);
            command.env("SWITCHBACK_IDENTITY", work.join(identity));
            command
        };
        succeed(switchback("target-identity").args(["identity", "init", "--name", "target"]))?;
        let passphrase = succeed(switchback("target-identity").args(["identity", "passphrase"]))?;
        fs::write(work.join("passphrase"), passphrase)?;
        let mut receive = switchback("target-identity");
        receive.arg("receive").arg("--root").arg(work.join("replicas"));
        let (receiver, address) = listen(janitor, work, "receive", &mut receive)?;
        let (janitor, work) = (janitor.clone(), work.to_owned());
        let lab = Self { janitor, work, binary: binary.to_owned(), receiver, address };
        lab.enrol("source")?;
        Ok(lab)
    }

    /// `switchback`, as `who`.
    pub(super) fn switchback(&self, who: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("SWITCHBACK_IDENTITY", self.work.join(format!("{who}-identity")));
        command
    }

    fn enrol(&self, role: &str) -> anyhow::Result<()> {
        let mut enrol = self.switchback(role);
        enrol.args(["enrol", &self.address, "--role", role, "--name", role, "--passphrase-file"]);
        succeed(enrol.arg(self.work.join("passphrase"))).map(drop)
    }

    /// A process server before the receiver, and its address.
    pub(super) fn process_server(&self) -> anyhow::Result<(Process, String)> {
        self.enrol("process-server")?;
        let mut server = self.switchback("process-server");
        server.args(["process-server", "--next", &self.address, "--spool"]).arg(self.work.join("spool"));
        listen(&self.janitor, &self.work, "process-server", &mut server)
    }

    /// A sync to the replica `name` by `address`, finished; `options` in addition.
    pub(super) fn sync(
        &self,
        source: &Path,
        address: &str,
        name: &str,
        options: &[&str],
        meanwhile: impl FnMut(&Process, &str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Sync> {
        let mut command = self.switchback("source");
        command.arg("sync").arg(source).arg(format!("{address}/{name}")).arg("--json").args(options);
        let process = measure(&self.janitor, &mut command, meanwhile)?;
        let mut events = process.lines.iter().filter_map(|(came, line)| Some((*came, point_of(line)?)));
        let (committed, point) = events.next_back().context("the sync made no recovery point")?;
        Ok(Sync { process, point, committed })
    }

    /// The directory of a replica.
    pub(super) fn replica(&self, name: &str) -> PathBuf {
        self.work.join("replicas").join(name)
    }

    /// The disk of a replica.
    pub(super) fn disk(&self, name: &str) -> PathBuf {
        self.replica(name).join("disk-0.img")
    }

    /// Waits until the replica has the point `seq` on its disk.
    pub(super) fn wait_applied(&self, name: &str, seq: u64) -> anyhow::Result<Instant> {
        let applied = || (manifest(&self.replica(name))?["applied"].as_u64()? >= seq).then(Instant::now);
        wait_for("a cycle to be applied", PATIENCE, applied)
    }

    /// Waits until no process has the replica open, so that commands can work on it.
    pub(super) fn wait_released(&self, name: &str) -> anyhow::Result<()> {
        let directory = text(&self.replica(name));
        let binary = text(&self.binary);
        let released = || run(&binary, &["replica", "points", &directory]).ok().map(drop);
        wait_for("the receiver to let the replica go", PATIENCE, released)
    }
}

/// The recovery point that a line of a sync's output tells of.
pub(super) fn point_of(line: &str) -> Option<Value> {
    serde_json::from_str::<Value>(line).ok().filter(|event| event["event"] == "point")
}

/// What a replica's manifest says just now: JSON below one line. Read directly, because a command would have to open the
/// replica, which the receiver has open.
pub(super) fn manifest(replica: &Path) -> Option<Value> {
    let text = fs::read_to_string(replica.join("manifest")).ok()?;
    serde_json::from_str(text.split_once('\n')?.1).ok()
}

fn listen(
    janitor: &Janitor,
    work: &Path,
    name: &str,
    command: &mut Command,
) -> anyhow::Result<(Process, String)> {
    let file = work.join(format!("{name}-address"));
    let log = File::create(work.join(format!("{name}.log")))?;
    command.args(["--listen", "127.0.0.1:0", "--address-file"]).arg(&file).stdout(log);
    let process = Process::start(janitor, command)?;
    let address = || fs::read_to_string(&file).ok().filter(|address| !address.is_empty());
    Ok((process, wait_for(&format!("{name} to listen"), PATIENCE, address)?))
}

fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{command:?} failed: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
