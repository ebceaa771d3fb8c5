//! The stage: processes, sites, command line, screen and table together, and the waits and looks that the story is told in.
//!
//! Whatever way the demo ends, nothing of it goes on running, unless it is to be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::command_line::{CommandLine, CommandLineError};
use super::places::{Cast, Place, host_address};
use super::roles::{Role, Roles};
use super::table::{Check, Table};
use super::{Options, Screen};
use crate::Foundation;
use crate::inspect::{Inspection, first_difference};
use crate::ledger::{Flaw, Standing};
use crate::machine::AgentSettings;
use crate::wire::Wire;

/// Longest time for a command that only asks or notes something.
const ASK_LIMIT: Duration = Duration::from_secs(30);
/// Longest time for a command whose job moves data or machines.
pub(super) const JOB_LIMIT: Duration = Duration::from_secs(240);
/// Longest time to wait for something that follows by itself.
pub(super) const FOLLOW_LIMIT: Duration = Duration::from_secs(180);
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

const CONFIGURATION_SERVER: &str = "configuration-server";

/// One of the two sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Home,
    Recovery,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Stage {
    options: Options,
    pub(super) screen: Screen,
    table: Table,
    pub(super) roles: Roles,
    command_line: CommandLine,
    pub(super) foundation: Foundation,
    home: Place,
    recovery: Place,
    address: String,
    server: String,
    passphrase: String,
    /// How far each machine's ledger had been when it was last looked at.
    known: BTreeMap<&'static str, Standing>,
    /// The settings that its system had at the first look.
    settings: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// Between the sites, where it can be cut.
    pub(super) data_wire: Option<DataWire>,
    is_kept: bool,
}

/// Home's way to recovery's master target. The configuration server is reached by both sites all the time.
#[derive(Debug)]
pub(super) struct DataWire {
    master_target_port: u16,
    pub(super) wire: Wire,
}

impl Stage {
    /// Makes directories and empty sites.
    pub(super) fn set(options: &Options, mut screen: Screen) -> anyhow::Result<Self> {
        screen.step("Setting the stage");
        let logs = options.directory.join("logs");
        for directory in [&logs, &options.directory.join("scratch")] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let directory = options.directory.canonicalize().context("the demo's directory is gone")?;
        let options = Options { directory, ..options.clone() };
        let foundation = Foundation::prepare()?;
        let site = |at, name| Place::make(at, &options.directory.join(name), &foundation);
        let (home, recovery) = (site(At::Home, "home")?, site(At::Recovery, "recovery")?);
        screen.say(&format!("everything is in {}", options.directory.display()));
        Ok(Self {
            roles: Roles::new(&options.switchback, &logs),
            command_line: CommandLine::new(&options.switchback, Vec::new(), &logs),
            options,
            screen,
            table: Table::default(),
            foundation,
            home,
            recovery,
            address: host_address()?,
            server: String::new(),
            passphrase: String::new(),
            known: BTreeMap::new(),
            settings: BTreeMap::new(),
            data_wire: None,
            is_kept: false,
        })
    }

    /// The play is over.
    pub(super) fn end(&mut self, keep: bool) {
        if !keep {
            return;
        }
        self.is_kept = true;
        self.roles.leave_running();
        self.screen.step("Left running; to look around:");
        let variables = self.command_line.environment().to_vec();
        for (name, value) in variables {
            self.screen.line(&format!("  export {name}={value}"));
        }
        let portal = format!("https://{}/portal/", self.server);
        self.screen
            .line(&format!("  the portal, in a browser: {portal}, with the token that is in the file above"));
        let program = self.options.switchback.display().to_string();
        for command in
            ["machine list", "recovery-point list web01", "job list", "server list", "machine console web01"]
        {
            self.screen.line(&format!("  {program} {command}"));
        }
        let directory = self.options.directory.display().to_string();
        self.screen
            .line(&format!("  ls {directory}/logs {directory}/home/machines {directory}/recovery/machines"));
        self.screen.line("and to end it:");
        // Not by number: machines that are failed over run in other processes afterwards.
        self.screen.line(&format!("  pkill -f {directory}/; sleep 3; rm -r {directory}"));
    }

    pub(super) fn into_table(mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    pub(super) fn place(&self, at: At) -> &Place {
        match at {
            At::Home => &self.home,
            At::Recovery => &self.recovery,
        }
    }

    /// Variables that tell a program of the user's where the server is.
    pub(super) fn user_environment(&self) -> &[(String, String)] {
        self.command_line.environment()
    }

    /// The value of one of them.
    pub(super) fn user_variable(&self, name: &str) -> anyhow::Result<&str> {
        let found = self.user_environment().iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("{name} is not set"))
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.options.directory.join(name).to_string_lossy().into_owned()
    }

    /// Whether everything is to go on running when the play is over.
    pub(super) fn is_to_be_kept(&self) -> bool {
        self.options.keep
    }

    /// Whether things fail in this story.
    pub(super) fn is_with_faults(&self) -> bool {
        self.options.story == super::Story::Faults
    }

    pub(super) fn ledger_program(&self) -> &Path {
        &self.options.ledger
    }

    /// What an agent needs to join.
    pub(super) fn agent_settings(&self) -> AgentSettings {
        AgentSettings {
            program: self.options.switchback.clone(),
            server: self.server.clone(),
            passphrase: self.passphrase.clone(),
        }
    }

    // ---- Processes

    /// Starts the configuration server, and learns how to talk to it.
    pub(super) fn start_configuration_server(&mut self) -> anyhow::Result<()> {
        let data = self.path("configuration-server");
        self.server = format!("{}:{}", self.address, free_port()?);
        self.serve(&data)?;
        let (token, authority) = (format!("{data}/admin-token"), format!("{data}/ca.pem"));
        self.wait("the configuration server writes its administrator's token", FOLLOW_LIMIT, |_| {
            let is_written = |path: &str| fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0);
            Ok((is_written(&token) && is_written(&authority)).then_some(()))
        })?;
        self.use_server(authority, token)?;
        let identity = format!("{data}/identity");
        let passphrase =
            self.command_line.text(&["identity", "passphrase", "--identity", &identity], ASK_LIMIT)?;
        passphrase.trim().clone_into(&mut self.passphrase);
        let file = self.path("passphrase");
        fs::write(&file, &self.passphrase).with_context(|| format!("cannot write {file}"))
    }

    /// Starts the configuration server that is in a directory, at its address.
    fn serve(&mut self, data: &str) -> anyhow::Result<()> {
        let port = self.server.rsplit(':').next().unwrap_or_default();
        let listen = format!("0.0.0.0:{port}");
        let words =
            ["configuration-server", "--data", data, "--listen", &listen, "--advertise", &self.address];
        Ok(self.roles.start(Role {
            name: CONFIGURATION_SERVER.to_owned(),
            arguments: words.map(str::to_owned).to_vec(),
            metrics_port: free_port()?,
            environment: vec![("SWITCHBACK_LOG".to_owned(), "info".to_owned())],
        })?)
    }

    /// Has the configuration server backed up; where to, and the file that opens the backups.
    pub(super) fn keep_backups(&mut self) -> anyhow::Result<[String; 2]> {
        let [backups, key] = ["backups", "backup-key"].map(|name| self.path(name));
        fs::create_dir(&backups)?;
        let public = self.command_line.text(&["backup", "keygen", &key], ASK_LIMIT)?;
        self.note(&[
            "backup",
            "schedule",
            "--to",
            &backups,
            "--recipient",
            public.trim(),
            "--continuous",
            "true",
        ])?;
        Ok([backups, key])
    }

    /// Loses the configuration server with all that it keeps, and restores it from its newest backup to another directory.
    pub(super) fn restore_configuration_server(
        &mut self,
        [backups, key]: &[String; 2],
    ) -> anyhow::Result<()> {
        self.note(&["backup", "now"])?;
        self.roles.kill(CONFIGURATION_SERVER)?;
        let (lost, restored) = (self.path("configuration-server"), self.path("restored-server"));
        // What users have of it is with them.
        for kept in ["ca.pem", "admin-token"] {
            fs::copy(format!("{lost}/{kept}"), self.path(kept))?;
        }
        fs::remove_dir_all(&lost)?;
        let words =
            ["configuration-server", "restore", "--from", backups, "--identity", key, "--data", &restored];
        self.screen.command(&words);
        self.command_line.text(&words, ASK_LIMIT)?;
        self.serve(&restored)?;
        self.use_server(self.path("ca.pem"), self.path("admin-token"))
    }

    /// From now on users talk to the server at its address.
    fn use_server(&mut self, authority: String, token: String) -> anyhow::Result<()> {
        let environment = [
            ("SWITCHBACK_SERVER", format!("https://{}", self.server)),
            ("SWITCHBACK_CA_FILE", authority),
            ("SWITCHBACK_TOKEN_FILE", token),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        self.command_line =
            CommandLine::new(&self.options.switchback, environment, self.path("logs").as_ref());
        self.wait("the configuration server answers", FOLLOW_LIMIT, |stage| {
            Ok(stage.command_line.json(&["site", "list"], ASK_LIMIT).ok())
        })?;
        Ok(())
    }

    /// Lays the wire between the sites; before the recovery site's master target starts.
    pub(super) fn lay_wire(&mut self) -> anyhow::Result<()> {
        let master_target_port = free_port()?;
        let wire = Wire::to(&format!("{}:{master_target_port}", self.address))?;
        self.data_wire = Some(DataWire { master_target_port, wire });
        Ok(())
    }

    /// Starts a process server or master target at a site.
    pub(super) fn start_server(&mut self, kind: &str, at: At) -> anyhow::Result<()> {
        self.start_server_called(kind, at, &format!("{kind}-{}", self.place(at).name))
    }

    /// The same, under a name of its own.
    pub(super) fn start_server_called(&mut self, kind: &str, at: At, name: &str) -> anyhow::Result<()> {
        self.start_server_with(kind, at, name, &[])
    }

    /// The same, with more arguments.
    pub(super) fn start_server_with(
        &mut self,
        kind: &str,
        at: At,
        name: &str,
        more: &[&str],
    ) -> anyhow::Result<()> {
        let site = self.place(at).name;
        let data = self.path(name);
        let (port, entrance) = match &self.data_wire {
            Some(data) if at == At::Recovery && kind == "master-target" => {
                (data.master_target_port, data.wire.port())
            }
            _ => free_port().map(|port| (port, port))?,
        };
        let (listen, advertise) = (format!("0.0.0.0:{port}"), format!("{}:{entrance}", self.address));
        let passphrase = self.path("passphrase");
        let words = [
            kind,
            "--server",
            &self.server,
            "--site",
            site,
            "--data",
            &data,
            "--listen",
            &listen,
            "--advertise",
            &advertise,
            "--enrol-passphrase-file",
            &passphrase,
            "--name",
            name,
        ];
        let environment =
            [("SWITCHBACK_IDENTITY", format!("{data}-identity")), ("SWITCHBACK_LOG", "info".to_owned())];
        fs::create_dir_all(&data).with_context(|| format!("cannot make {data}"))?;
        self.roles.start(Role {
            name: name.to_owned(),
            arguments: words.iter().chain(more).map(|word| (*word).to_owned()).collect(),
            metrics_port: free_port()?,
            environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        })?;
        self.screen.say(&format!("{name} at {advertise}"));
        Ok(())
    }

    /// Waits until so many process servers and master targets report.
    pub(super) fn wait_for_servers(&mut self, count: usize) -> anyhow::Result<()> {
        self.wait(&format!("all {count} servers have joined and report"), FOLLOW_LIMIT, |stage| {
            let servers = stage.ask(&["server", "list"])?;
            let reports =
                |server: &&Value| !server.pointer("/properties/lastReport").is_none_or(Value::is_null);
            let alive = servers.as_array().into_iter().flatten().filter(reports).count();
            Ok((alive == count).then_some(()))
        })
    }

    /// Writes a secret to a file that is its owner's alone; its path.
    pub(super) fn write_secret(&self, name: &str, secret: &str) -> anyhow::Result<String> {
        let path = self.options.directory.join(name);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(secret.as_bytes())?;
        Ok(path.to_string_lossy().into_owned())
    }

    // ---- The command line

    /// Types a command that only notes something.
    pub(super) fn note(&mut self, words: &[&str]) -> anyhow::Result<Value> {
        self.screen.command(words);
        Ok(self.command_line.json(words, ASK_LIMIT)?)
    }

    /// Types a command that is followed to the end of its job, without asking.
    pub(super) fn job(&mut self, words: &[&str]) -> anyhow::Result<Value> {
        self.screen.command(words);
        Ok(self.command_line.json(words, JOB_LIMIT)?)
    }

    /// Types a command that must fail, and returns what it says.
    pub(super) fn refused(&mut self, words: &[&str]) -> anyhow::Result<String> {
        self.screen.command(words);
        match self.command_line.text(words, JOB_LIMIT) {
            Err(CommandLineError::Failed { said, .. }) => Ok(said),
            Err(error) => Err(error.into()),
            Ok(said) => bail!("{} was to be refused, and was not: {said}", words.join(" ")),
        }
    }

    /// Asks without showing it: for waits.
    pub(super) fn ask(&mut self, words: &[&str]) -> anyhow::Result<Value> {
        Ok(self.command_line.json(words, ASK_LIMIT)?)
    }

    /// A protected machine's properties.
    pub(super) fn machine(&mut self, name: &str) -> anyhow::Result<Value> {
        let mut shown = self.ask(&["machine", "show", name])?;
        Ok(shown.pointer_mut("/properties").map(Value::take).unwrap_or_default())
    }

    /// The id of a protected machine's instance at a site.
    pub(super) fn instance(&mut self, name: &str, at: At) -> anyhow::Result<String> {
        let pointer = match at {
            At::Home => "/home/id",
            At::Recovery => "/away/id",
        };
        let shown = self.machine(name)?;
        let id = shown.pointer(pointer).and_then(Value::as_str);
        id.map(str::to_owned).with_context(|| format!("{name} has no machine at {}", self.place(at).name))
    }

    /// Looks again and again until there is something, `limit` at most.
    pub(super) fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&mut Self) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let started = Instant::now();
        loop {
            if self.options.stop.load(Ordering::Relaxed) {
                bail!("interrupted while waiting until {what}");
            }
            self.roles.check()?;
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if started.elapsed() > limit {
                bail!(
                    "waited {} s in vain until {what}; the logs are in {}",
                    limit.as_secs(),
                    self.path("logs")
                );
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    // ---- What is verified

    /// Adds a row to the table.
    pub(super) fn check(
        &mut self,
        what: impl Into<String>,
        expected: impl ToString,
        found: impl ToString,
        ok: bool,
    ) {
        let check = Check { what: what.into(), expected: expected.to_string(), found: found.to_string(), ok };
        let mark = if ok { "verified" } else { "NOT AS IT SHOULD BE" };
        self.screen.say(&format!("{mark}: {}: {} (expected {})", check.what, check.found, check.expected));
        self.table.add(check);
    }

    /// Looks into a machine's disks; what is known from before must be there, whole.
    pub(super) fn inspect(&mut self, at: At, cast: Cast) -> anyhow::Result<Option<Inspection>> {
        let id = self.instance(cast.name, at)?;
        self.inspect_machine(at, cast, &id)
    }

    /// The same, by the machine's id at the site: also when it is not protected any more.
    pub(super) fn inspect_machine(
        &mut self,
        at: At,
        cast: Cast,
        id: &str,
    ) -> anyhow::Result<Option<Inspection>> {
        let place = self.place(at);
        let what =
            format!("{} at {}, both disks from outside: file systems, ledger, slots", cast.name, place.name);
        match place.inspect(id, cast, &self.options.directory.join("scratch")) {
            Ok(inspection) => {
                let records = inspection.book().standing().records;
                self.check(
                    what,
                    "clean, whole, no gap",
                    format!("clean, {records} records, no gap"),
                    records > 0,
                );
                Ok(Some(inspection))
            }
            Err(error) => {
                self.check(what, "clean, whole, no gap", format!("{error:#}"), false);
                Ok(None)
            }
        }
    }

    /// Whether a ledger still has all that it had when it was last looked at; and remembers how far it is now.
    pub(super) fn check_history(&mut self, cast: Cast, when: &str, inspection: &Inspection) {
        let book = inspection.book();
        if let Some(known) = self.known.insert(cast.name, book.standing()) {
            let found = book.contains(&known);
            let what = format!("{} {when}: nothing of its history lost or rewritten", cast.name);
            let expected = format!("its record {} as it was", known.records);
            self.check(what, expected, outcome(&found, "it is"), found.is_ok());
        }
        self.check_settings(cast, when, inspection.settings());
    }

    /// What a guest's administrators have set is as it was when it was looked at first.
    fn check_settings(&mut self, cast: Cast, when: &str, settings: &BTreeMap<String, String>) {
        let Some(first) = self.settings.get(cast.name) else {
            self.settings.insert(cast.name, settings.clone());
            return;
        };
        let differs = |path: &&String| first.get(*path) != settings.get(*path);
        let changed: BTreeSet<_> = first.keys().chain(settings.keys()).filter(differs).cloned().collect();
        let found = match changed.first() {
            None => "as they were".to_owned(),
            Some(path) => format!("{} differ, {path} first", changed.len()),
        };
        let what = format!("{} {when}: its own settings (fstab, NetworkManager, LVM …)", cast.name);
        self.check(what, "as they were", found, changed.is_empty());
    }

    /// Whether both network cards have the addresses that they are to have at a site, as the guest itself sees them and its agent tells.
    pub(super) fn check_addresses(&mut self, cast: Cast, at: At) -> anyhow::Result<()> {
        let expected = match at {
            At::Home => cast.addresses[0],
            At::Recovery => cast.addresses[1],
        };
        let mut found = Vec::new();
        let started = Instant::now();
        while found != expected && started.elapsed() < FOLLOW_LIMIT {
            let shown = self.machine(cast.name)?;
            let addresses = shown["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
            found = addresses.filter(|address| !address.contains(':')).map(str::to_owned).collect();
            std::thread::sleep(LOOK_INTERVAL);
        }
        let what =
            format!("{} at {}: addresses of both network cards, from inside", cast.name, self.place(at).name);
        self.check(what, expected.join(", "), found.join(", "), found == expected);
        Ok(())
    }

    /// Reads the disks of a replica whose machine has been failed over: each block must be the one that its source computed the digest of.
    pub(super) fn check_point(&mut self, cast: Cast, at: At) -> anyhow::Result<()> {
        let shown = self.machine(cast.name)?;
        let replica = shown.pointer("/replication/replica").and_then(Value::as_str).unwrap_or_default();
        let directory = self.path(&format!("master-target-{}/replicas/{replica}", self.place(at).name));
        let words = ["replica", "verify", &directory];
        self.screen.command(&words);
        let report = self.command_line.json(&words, JOB_LIMIT)?;
        let (read, findings) = (&report["disk_bytes"], report["findings"].as_array().map_or(1, Vec::len));
        let what = format!(
            "{} at {}: every block of the disks at the recovery point",
            cast.name,
            self.place(at).name
        );
        let found = format!("{read} bytes read, {findings} differ");
        self.check(what, "as its source sent it", found, findings == 0 && read.as_u64() > Some(0));
        Ok(())
    }

    /// Compares the disks of a machine's two instances, both off, byte for byte.
    pub(super) fn check_same_disks(&mut self, cast: Cast) -> anyhow::Result<()> {
        let images = |stage: &mut Self, at| {
            let id = stage.instance(cast.name, at)?;
            stage.place(at).images(&id)
        };
        let (home, recovery) = (images(self, At::Home)?, images(self, At::Recovery)?);
        for (disk, (one, other)) in home.iter().zip(&recovery).enumerate() {
            let difference = first_difference(one, other)?;
            let bytes = fs::metadata(one).map(|metadata| metadata.len()).unwrap_or(0);
            let found = difference
                .map_or_else(|| format!("{bytes} bytes equal"), |at| format!("differ at byte {at}"));
            let what = format!("{} disk {disk}: home's and recovery's image, byte for byte", cast.name);
            self.check(what, "equal", found, difference.is_none());
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let failures = [&self.home, &self.recovery].map(Place::switch_off).concat();
        for failure in failures {
            self.screen.line(&format!("still running: {failure}"));
        }
    }
}

/// What a check of a ledger found.
pub(super) fn outcome(found: &Result<(), Flaw>, good: &str) -> String {
    found.as_ref().map_or_else(ToString::to_string, |()| good.to_owned())
}

/// A TCP port that nobody listens at.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port())
}

/// A path that must be a file.
pub(super) fn must_be_file(path: PathBuf) -> anyhow::Result<PathBuf> {
    if path.is_file() {
        Ok(path)
    } else {
        bail!("{} is missing: build it with `cargo build`", path.display())
    }
}
