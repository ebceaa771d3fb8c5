//! Two ends of a replication as real processes, in a directory of their own.

#![allow(clippy::unwrap_used, dead_code, reason = "tests; each uses some of it")]

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;

/// A process that is killed when the test ends.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// SIGKILL, and gone.
    pub(crate) fn kill(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A configuration server of its own, `cs` in a directory of one test, and who talks to it.
pub(crate) struct ConfigurationServer {
    /// `HOST:PORT`.
    pub(crate) address: String,
    _process: Process,
    directory: TempDir,
}

impl ConfigurationServer {
    /// Starts it with these variables in its environment.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (data, file) = (directory.path().join("cs"), directory.path().join("address"));
        let mut command = switchback();
        command.args(["configuration-server", "--listen", "127.0.0.1:0", "--advertise", "127.0.0.1"]);
        command.arg("--address-file").arg(&file).arg("--data").arg(&data).stdout(Stdio::null());
        let process = Process(command.envs(variables.iter().copied()).spawn().unwrap());
        wait_until("it listens", || std::fs::read_to_string(&file).is_ok_and(|text| text.contains(':')));
        let address = std::fs::read_to_string(&file).unwrap();
        Self { address, _process: process, directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command of its administrator as a user.
    pub(crate) fn user(&self, words: &[&str]) -> Command {
        let mut command = switchback();
        command
            .args(words)
            .env("SWITCHBACK_SERVER", format!("https://{}", self.address))
            .env("SWITCHBACK_CA_FILE", self.path("cs/ca.pem"))
            .env("SWITCHBACK_TOKEN_FILE", self.path("cs/admin-token"));
        command
    }
}

/// A directory with the identities and replicas of one test.
pub(crate) struct Site {
    pub(crate) directory: TempDir,
    port: u16,
}

pub(crate) fn switchback() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchback"));
    command.env("SWITCHBACK_LOG", "warn").stdin(Stdio::null());
    command
}

/// Runs to its end and must succeed.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}\n{errors}", output.status);
    text
}

/// Runs to its end and must fail; what it said.
pub(crate) fn fail(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success(), "{command:?} succeeded: {}", String::from_utf8_lossy(&stdout));
    said
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Site {
    /// With a receiver's identity, not yet listening.
    pub(crate) fn new() -> Self {
        // In the build directory, on a disk: /tmp may be memory.
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let site = Self { directory, port: 0 };
        succeed(site.command("receiver").args(["identity", "init", "--name", "target"]));
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A command as the component `who`.
    pub(crate) fn command(&self, who: &str) -> Command {
        let mut command = switchback();
        command.env("SWITCHBACK_IDENTITY", self.path(who)).current_dir(self.directory.path());
        command
    }

    /// Starts a component that listens; at the same port as the one before it if that was the receiver.
    pub(crate) fn start(&mut self, who: &str, arguments: &[&str]) -> (Process, String) {
        let file = self.path(&format!("{who}.address"));
        std::fs::remove_file(&file).ok();
        let port = if who == "receiver" { self.port } else { 0 };
        let listen = format!("127.0.0.1:{port}");
        let mut command = self.command(who);
        command
            .args(arguments)
            .args(["--listen", &listen, "--address-file"])
            .arg(&file)
            .stdout(Stdio::null());
        let mut process = Process(command.spawn().unwrap());
        let mut address = String::new();
        wait_until("the component listens", || {
            assert!(process.0.try_wait().unwrap().is_none(), "{who} ended");
            address = std::fs::read_to_string(&file).unwrap_or_default();
            address.contains(':')
        });
        if who == "receiver" {
            self.port = address.rsplit_once(':').unwrap().1.parse().unwrap();
        }
        (process, address)
    }

    pub(crate) fn start_receiver(&mut self) -> (Process, String) {
        self.start("receiver", &["receive", "--root", "replicas"])
    }

    pub(crate) fn passphrase(&self) -> String {
        succeed(self.command("receiver").args(["identity", "passphrase"]))
    }

    /// Joins the site as `who`.
    pub(crate) fn enrol(&self, who: &str, role: &str, address: &str) {
        let passphrase = self.path("passphrase");
        std::fs::write(&passphrase, self.passphrase()).unwrap();
        let mut command = self.command(who);
        command.args(["enrol", address, "--name", who, "--role", role, "--passphrase-file"]).arg(passphrase);
        succeed(&mut command);
    }

    /// An image of `mib` MiB: data in its first half, from `seed`, the rest a hole.
    pub(crate) fn image(&self, name: &str, mib: u64, seed: u64) -> PathBuf {
        let path = self.path(name);
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(&noise(usize::try_from(mib / 2 * MIB).unwrap(), seed)).unwrap();
        file.set_len(mib * MIB).unwrap();
        path
    }

    /// Points of a replica, as JSON.
    pub(crate) fn points(&self, replica: &str) -> serde_json::Value {
        let directory = self.path("replicas").join(replica);
        let text = succeed(switchback().args(["replica", "points", "--output", "json"]).arg(directory));
        serde_json::from_str(&text).unwrap()
    }

    /// The target disk of a replica that was given none.
    pub(crate) fn target(&self, replica: &str) -> PathBuf {
        self.path("replicas").join(replica).join("disk-0.img")
    }
}

pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};
    let mut data = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

/// Overwrites `len` bytes of a file from `offset`.
pub(crate) fn scribble(path: &Path, offset: u64, len: usize, seed: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&noise(len, seed), offset).unwrap();
}

/// Whether two files have the same contents, by cmp, which has nothing of ours and minds no locks.
pub(crate) fn same(a: &Path, b: &Path) -> bool {
    Command::new("cmp").arg("-s").args([a, b]).status().unwrap().success()
}

/// The events that a `--json` sync printed.
pub(crate) fn events(text: &str) -> Vec<serde_json::Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
        .collect()
}
