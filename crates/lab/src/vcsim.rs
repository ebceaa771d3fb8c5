//! A vCenter or standalone ESXi host to test against: a process of the simulator in `crates/lab/vcsim`, and an independent client.
//!
//! What it is: [`Simulator`], built on first use by `scripts/lab-vsphere`, one process per test, with a certificate of its own, killed when it is
//! dropped. Its virtual disks are real files: a disk's bytes are at `DIRECTORY/VM/DISK-flat.vmdk` ([`Simulator::datastores`]).
//! What it never does: pretend what the real product would refuse or do differently without saying so; what it cannot do is listed in
//! `docs/decisions/0013-vim25-client.md`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::child_lines::lines_of;
use crate::prepared::{PreparedError, prepared};

/// How long it may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long the simulator may take for a wish of a test.
const CONTROL_LIMIT: Duration = Duration::from_secs(10);
/// The files of its certificate.
const IDENTITY: [&str; 3] = ["authority.pem", "certificate.pem", "key.pem"];
/// The account that may do everything.
pub const USER: &str = "administrator@vsphere.local";
/// Its password. With characters that have a meaning in XML.
pub const PASSWORD: &str = "P@ss<w0rd>&\"'!";

/// Why there is no simulator.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// Its parts could not be prepared.
    #[error("preparing the vSphere simulator")]
    Prepare(#[from] PreparedError),
    /// The process did not come to the point of answering.
    #[error("the vSphere simulator did not start within {} s: {message}", START_LIMIT.as_secs())]
    Start {
        /// What it printed.
        message: String,
    },
    /// Files, processes, certificates.
    #[error("running the vSphere simulator")]
    Io(#[from] std::io::Error),
    /// Its certificate could not be made.
    #[error("making the vSphere simulator's certificate")]
    Certificate(#[from] rcgen::Error),
}

/// What to simulate.
#[derive(Debug, Clone, Default)]
pub struct Options {
    arguments: Vec<String>,
    address: Option<String>,
    identity: Option<(PathBuf, String)>,
}

impl Options {
    /// A standalone ESXi host instead of a vCenter with a cluster of three hosts and one host of its own.
    #[must_use]
    pub fn esxi(self) -> Self {
        self.argument("-esx")
    }

    /// The free edition: whatever would change something fails with `RestrictedVersion`.
    #[must_use]
    pub fn free(self) -> Self {
        self.argument("-free")
    }

    /// A second account that can read alone, with [`PASSWORD`].
    #[must_use]
    pub fn read_only_account(self, user: &str) -> Self {
        self.argument("-ro-user").argument(user).argument("-ro-pass").argument(PASSWORD)
    }

    /// How many datastores there are, mounted on every host.
    #[must_use]
    pub fn datastores(self, count: u32) -> Self {
        self.argument("-ds").argument(&count.to_string())
    }

    /// How many machines there are in each resource pool.
    #[must_use]
    pub fn machines(self, count: u32) -> Self {
        self.argument("-vm").argument(&count.to_string())
    }

    /// How many resource pools the cluster has beside its root: `DC0_C0_RP1` and so on.
    #[must_use]
    pub fn resource_pools(self, count: u32) -> Self {
        self.argument("-pool").argument(&count.to_string())
    }

    /// A datastore that is mounted on one host alone.
    #[must_use]
    pub fn datastore_on(self, datastore: &str, host: &str) -> Self {
        self.argument("-only").argument(&format!("{datastore}={host}"))
    }

    /// Sessions end after this long without a call.
    #[must_use]
    pub fn idle_session(self, limit: Duration) -> Self {
        self.argument("-idle").argument(&format!("{}ms", limit.as_millis()))
    }

    /// Writes every request to this file, one JSON string a line.
    #[must_use]
    pub fn record(self, file: &Path) -> Self {
        self.argument("-record").argument(&file.to_string_lossy())
    }

    /// Listens at `127.0.0.1:PORT` instead of a port of its choice.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.address = Some(format!("127.0.0.1:{port}"));
        self
    }

    /// Has the certificate of another one: the same server, started anew.
    ///
    /// # Errors
    /// That one's files cannot be read.
    pub fn identity_of(mut self, other: &Simulator) -> Result<Self, SimulatorError> {
        let copy = tempfile::Builder::new().prefix("switchback-vcsim-identity-").tempdir()?;
        for name in IDENTITY {
            fs::copy(other.files.path().join(name), copy.path().join(name))?;
        }
        self.identity = Some((copy.keep(), other.fingerprint.clone()));
        Ok(self)
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// [`SimulatorError`]; without Go or the simulator's library it says what to install.
    pub fn start(self) -> Result<Simulator, SimulatorError> {
        Simulator::start(self)
    }

    fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }
}

/// A running simulator. Dropping it ends the process, and its datastores with it.
#[derive(Debug)]
pub struct Simulator {
    child: Child,
    files: tempfile::TempDir,
    facts: BTreeMap<String, String>,
    fingerprint: String,
}

impl Simulator {
    /// A vCenter with one datacenter, one datastore, and two machines per host or cluster.
    #[must_use]
    pub fn options() -> Options {
        Options::default()
    }

    fn start(options: Options) -> Result<Self, SimulatorError> {
        let program = prepared("lab-vsphere", "simulator")?;
        let files = tempfile::Builder::new().prefix("switchback-vcsim-").tempdir()?;
        let fingerprint = match &options.identity {
            None => write_certificate(files.path())?,
            Some((directory, fingerprint)) => {
                for name in IDENTITY {
                    fs::copy(directory.join(name), files.path().join(name))?;
                }
                fs::remove_dir_all(directory)?;
                fingerprint.clone()
            }
        };
        let log = files.path().join("log");
        let mut child = Command::new(&program)
            .args([
                "-l",
                options.address.as_deref().unwrap_or("127.0.0.1:0"),
                "-user",
                USER,
                "-pass",
                PASSWORD,
            ])
            .arg("-cert")
            .arg(files.path().join("certificate.pem"))
            .arg("-key")
            .arg(files.path().join("key.pem"))
            .args(&options.arguments)
            // Its datastores are temporary directories.
            .env("TMPDIR", files.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(&log)?)
            .spawn()?;
        let stdout = child.stdout.take();
        let mut simulator = Self { child, files, facts: BTreeMap::new(), fingerprint };
        let receiver = lines_of(stdout);
        let started = Instant::now();
        while !simulator.facts.contains_key("READY") {
            let Ok(line) = receiver.recv_timeout(START_LIMIT.saturating_sub(started.elapsed())) else {
                let message = fs::read_to_string(&log).unwrap_or_default();
                return Err(SimulatorError::Start { message });
            };
            if let Some((name, value)) = line.strip_prefix("VCSIM_").and_then(|fact| fact.split_once('=')) {
                simulator.facts.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(simulator)
    }

    /// `https://127.0.0.1:PORT/sdk`.
    #[must_use]
    pub fn url(&self) -> &str {
        self.facts.get("URL").map_or("", String::as_str)
    }

    /// The authority that issued its certificate, in PEM.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.files.path().join("authority.pem")
    }

    /// SHA-256 of its certificate: pairs of hexadecimal digits with colons.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Where the files of its datastores are, by the datastores' names.
    #[must_use]
    pub fn datastores(&self) -> BTreeMap<String, PathBuf> {
        let named = |(name, path): (&String, &String)| {
            Some((name.strip_prefix("DATASTORE_")?.to_owned(), PathBuf::from(path)))
        };
        self.facts.iter().filter_map(named).collect()
    }

    /// Lets the next `count` calls of a method fail with a fault, by its name in the API. A `…_Task` method starts a task that fails; with
    /// the fault `stuck`, one that never ends; with `ignored`, one that ends well and has done nothing; with
    /// `partly`, one that ends well and has left out the last device.
    ///
    /// # Panics
    /// When the simulator does not answer.
    pub fn fail(&self, method: &str, fault: &str, count: u32) {
        self.control(&format!("fail?method={method}&fault={fault}*{count}"));
    }

    /// Lets one call of a method fail so, once others have been let through.
    ///
    /// # Panics
    /// When the simulator does not answer.
    pub fn fail_after(&self, passes: usize, method: &str, fault: &str) {
        self.control(&format!("fail?method={method}&fault={fault}*1&passes={passes}"));
    }

    /// Lets no call of a method fail any more.
    ///
    /// # Panics
    /// When the simulator does not answer.
    pub fn fail_no_more(&self, method: &str) {
        self.control(&format!("fail?method={method}"));
    }

    /// Ends the session of whoever calls the method next, once that call has been answered.
    ///
    /// # Panics
    /// When the simulator does not answer.
    pub fn end_session_after(&self, method: &str) {
        self.control(&format!("end-session?after={method}"));
    }

    /// Lets a machine's guest report something: `guest.toolsRunningStatus`, or `guest.net`'s addresses with commas.
    ///
    /// # Panics
    /// When the simulator does not answer, or knows no such machine or property.
    pub fn set(&self, machine: &str, property: &str, value: &str) {
        self.control(&format!("set?vm={machine}&property={property}&value={value}"));
    }

    /// Lets an ESXi host go into maintenance mode, or end it.
    ///
    /// # Panics
    /// When the simulator does not answer, or knows no such host.
    pub fn set_maintenance(&self, host: &str, is_in_maintenance: bool) {
        self.control(&format!("maintenance?host={host}&value={is_in_maintenance}"));
    }

    /// Lets it answer nothing, or answer again: a server that hangs.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, signal).expect("it is our child, and not waited for yet");
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }

    fn control(&self, wish: &str) {
        let ask = || -> std::io::Result<String> {
            let address = self.facts.get("CONTROL").map_or("", String::as_str);
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(CONTROL_LIMIT))?;
            write!(stream, "POST /vcsim/{wish} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().expect("the simulator runs and answers");
        assert!(answer.contains(" 200 OK"), "the simulator refused {wish:?}: {answer}");
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // Both fail only when it is over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Python that can `import pyVmomi`.
///
/// # Errors
/// [`PreparedError`].
pub fn witness_python() -> Result<PathBuf, PreparedError> {
    prepared("lab-vsphere", "witness")
}

/// Makes an authority and a certificate for 127.0.0.1 issued by it; returns the latter's fingerprint.
fn write_certificate(directory: &Path) -> Result<String, SimulatorError> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "the simulator's authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key)?;
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    leaf.distinguished_name.push(DnType::CommonName, "vSphere simulator");
    let certificate = leaf.signed_by(&key, &Issuer::from_params(&authority, &authority_key))?;
    fs::write(directory.join("authority.pem"), authority_certificate.pem())?;
    fs::write(directory.join("certificate.pem"), certificate.pem())?;
    fs::write(directory.join("key.pem"), key.serialize_pem())?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.der());
    Ok(digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
}
