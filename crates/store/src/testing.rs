//! [`PostgresServer`]: a PostgreSQL for tests, started by the test itself.
//!
//! It needs the programs of Debian's package `postgresql` and touches nothing of a server that runs on the host: its data and its socket
//! are in a directory of their own below the temporary directory, and it has no TCP port. PostgreSQL refuses root: started by root, it runs
//! as the user `postgres`. It stops when dropped, and, by the kernel, when the thread that started it dies: start it in the test's own thread.
//!
//! Its databases sort text as English does ("a" before "B"), which must make no difference to a store. `fsync` is off: what is tested
//! is the store, not the server's durability. Panics when there is no server to be had: it is for tests.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The database user of all databases, their owner.
const USER: &str = "switchback";
/// Its password.
const PASSWORD: &str = "a test's secret";
/// [`PASSWORD`] in a connection string.
const PASSWORD_ENCODED: &str = "a%20test's%20secret";
/// How long the server may take to start or stop on a loaded machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A server, and the directory it lives in.
#[derive(Debug)]
pub struct PostgresServer {
    programs: PathBuf,
    directory: PathBuf,
    running: Option<Child>,
}

impl PostgresServer {
    /// Makes an empty server and starts it.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn start() -> Self {
        let programs = programs();
        let mut server = Self { programs, directory: new_directory(), running: None };
        let password = server.directory.join("password");
        fs::write(&password, PASSWORD).unwrap_or_else(|error| panic!("{}: {error}", password.display()));
        if rustix::process::geteuid().is_root() {
            run(Command::new("chown").arg("-R").arg("postgres:").arg(&server.directory));
        }
        run(server
            .command("initdb")
            .arg("--pgdata")
            .arg(server.data())
            .arg("--pwfile")
            .arg(&password)
            .args(["--username", USER, "--auth", "scram-sha-256", "--no-sync", "--encoding", "UTF8"])
            .args(["--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US"]));
        server.start_again();
        server
    }

    /// Makes an empty database; returns its connection string.
    ///
    /// # Panics
    /// When that does not work.
    #[must_use]
    pub fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
        self.location(name)
    }

    /// The connection string of a database of this server.
    #[must_use]
    pub fn location(&self, database: &str) -> String {
        let host = self.directory.display().to_string().replace('/', "%2F");
        format!("postgres://{USER}:{PASSWORD_ENCODED}@{host}/{database}")
    }

    /// Runs statements with `psql`, from outside; returns what it prints, bare.
    ///
    /// # Panics
    /// When one fails.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        run(self
            .command("psql")
            .env("PGPASSWORD", PASSWORD)
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"])
            .arg("--host")
            .arg(&self.directory)
            .args(["--username", USER, "--dbname", database, "--command", statements]))
    }

    /// Stops the server at once, as a crash would.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            signal(child.id(), Signal::QUIT);
            let deadline = Instant::now() + START_LIMIT;
            while child.try_wait().is_ok_and(|ended| ended.is_none()) {
                assert!(Instant::now() < deadline, "PostgreSQL does not stop");
                sleep(Duration::from_millis(20));
            }
        }
    }

    /// Starts the server again with what it had.
    ///
    /// # Panics
    /// When that does not work.
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "stop it first");
        let log_path = self.directory.join("log");
        let log = fs::File::options().create(true).append(true).open(&log_path);
        let log = log.unwrap_or_else(|error| panic!("{}: {error}", log_path.display()));
        let child = self
            .command("postgres")
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(&self.directory)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=60"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let mut child = child.unwrap_or_else(|error| panic!("PostgreSQL does not start: {error}"));
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let status =
                self.command("pg_isready").arg("--host").arg(&self.directory).stdout(Stdio::null()).status();
            if status.is_ok_and(|status| status.success()) {
                break;
            }
            let ended = child.try_wait().is_ok_and(|ended| ended.is_some());
            if ended || Instant::now() > deadline {
                let said = fs::read_to_string(&log_path).unwrap_or_default();
                let _ = child.kill();
                panic!("PostgreSQL does not start; its log:\n{said}");
            }
            sleep(Duration::from_millis(50));
        }
        self.running = Some(child);
    }

    /// Stops or continues all processes that serve connections: the server is there, and says nothing.
    pub fn freeze(&self, is_frozen: bool) {
        let Some(child) = &self.running else { return };
        let signal_sent = if is_frozen { Signal::STOP } else { Signal::CONT };
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()));
        // The first one, so that it starts no new ones.
        signal(child.id(), signal_sent);
        for pid in children.unwrap_or_default().split_ascii_whitespace() {
            signal(pid.parse().unwrap_or(0), signal_sent);
        }
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// A program of PostgreSQL as a user that it accepts, ended when this thread is.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "QUIT"]);
        if rustix::process::geteuid().is_root() {
            command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
        }
        command.arg(self.programs.join(program)).current_dir("/").env("LC_ALL", "C.UTF-8");
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.freeze(false);
        if let Some(mut child) = self.running.take() {
            signal(child.id(), Signal::QUIT);
            let deadline = Instant::now() + START_LIMIT;
            while child.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < deadline {
                sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Where the newest PostgreSQL has its programs.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions
        .map(|version| version.path().join("bin"))
        .filter(|programs| programs.join("postgres").exists())
        .max_by_key(|programs| version_of(programs))
        .unwrap_or_else(|| panic!("no PostgreSQL in /usr/lib/postgresql: run scripts/setup"))
}

fn version_of(programs: &Path) -> u32 {
    let name = programs.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    name.and_then(|name| name.parse().ok()).unwrap_or(0)
}

/// A directory with a short path: that of a socket has at most 107 bytes.
fn new_directory() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("switchback-pg-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    let made = fs::DirBuilder::new().mode(0o700).create(&path);
    made.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// Runs a program to its end; returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success(), "{command:?}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}
