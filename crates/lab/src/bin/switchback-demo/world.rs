//! Two sites on one host, and what runs at them.
//!
//! ```text
//!   home       networks uplink 10.0.2.0/24, lan 10.1.0.0/24   machines web01, db01   process server, master target
//!   recovery   networks uplink 10.0.3.0/24, lan 10.2.0.0/24   nothing yet            process server, master target
//! ```
//!
//! The configuration server belongs to neither. The uplink is address translation by QEMU, through which machines reach the host; the LAN connects
//! the machines of one site with each other and leads nowhere else.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use switchback_lab::Foundation;
use switchback_lab::inspect::{InspectError, Inspection};
use switchback_lab::ledger::LedgerName;
use switchback_lab::machine::{AgentSettings, BootFiles, DataDisk, DemoMachine};
use switchback_sites::{LocalSite, Machine, NetworkSettings, Power, Site, SiteSettings};

use crate::client::Client;
use crate::stage::{Role, Stage};

/// Bytes of console text that are looked at.
const CONSOLE_BYTES_MAX: usize = 4 << 20;
/// A guest's boot takes seconds, on a busy machine many times that.
const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// The machines and the file systems of their second disks.
pub(crate) const MACHINES: [(&str, DataDisk); 2] = [("web01", DataDisk::Xfs), ("db01", DataDisk::Ext4)];

/// A site with the command lines of the roles that serve it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) name: &'static str,
    pub(crate) directory: PathBuf,
    pub(crate) site: LocalSite,
    pub(crate) process_server: Role,
    pub(crate) master_target: Role,
}

/// Everything that exists.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) home: Place,
    pub(crate) recovery: Place,
    /// As guests and roles reach it.
    pub(crate) server: SocketAddr,
}

/// A machine as one of its consoles shows it.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) name: &'static str,
    pub(crate) place: &'a Place,
    pub(crate) id: String,
}

impl World {
    /// Makes the sites and starts the configuration server.
    pub(crate) fn begin(stage: &mut Stage, switchback: &Path) -> anyhow::Result<Self> {
        let host = address_of_this_host()?;
        let server = free_port(host)?;
        let data = stage.directory().join("configuration-server");
        stage.start(&configuration_server(switchback, server, &data))?;
        let (authority, token) = (data.join("authority.pem"), data.join("admin-token"));
        let client = Client::new(switchback, &format!("https://{server}"), &authority, &token);
        let passphrase = client.ask(stage, "passphrase")?;
        let file = stage.directory().join("passphrase");
        fs::write(&file, crate::client::text(&passphrase, "/passphrase"))?;
        let foundation = Foundation::prepare()?;
        let mut place =
            |name, uplink| Place::make(stage, &foundation, switchback, name, uplink, server, &file);
        let (home, recovery) = (place("home", "10.0.2.0/24")?, place("recovery", "10.0.3.0/24")?);
        Ok(Self { client, home, recovery, server })
    }

    /// Makes the two machines at home, off.
    pub(crate) fn make_machines(
        &self,
        stage: &Stage,
        switchback: &Path,
        ledger: &Path,
    ) -> anyhow::Result<()> {
        let boot = BootFiles::make(&Foundation::prepare()?, stage.directory())?;
        let passphrase = fs::read_to_string(stage.directory().join("passphrase"))?;
        let agent =
            AgentSettings { program: switchback.to_owned(), server: self.server.to_string(), passphrase };
        for machine in
            [DemoMachine::web01(ledger, Some(agent.clone())), DemoMachine::db01(ledger, Some(agent))]
        {
            let disks = machine.make_disks(&self.home.directory.join("disks").join(&machine.name))?;
            machine.describe(&self.home.directory, &boot, &disks)?;
        }
        Ok(())
    }

    /// The commands to look around with.
    pub(crate) fn say_how_to_look_around(&self, stage: &Stage) {
        println!("\nEverything is left running. To look around:\n\n{}", self.client.exports());
        println!("  switchback machine list\n  switchback recovery-point list web01\n  switchback job list");
        println!("  switchback machine console web01\n  tail {}", stage.log("*").display());
        println!("\nTo end it: switch the machines off, then the processes, then remove the directory:\n");
        println!("  switchback machine list --site home; pkill -f {}", self.home.directory.display());
        println!("  kill {}\n  rm -r {}", stage.processes(), stage.directory().display());
    }
}

impl Place {
    fn make(
        stage: &mut Stage,
        foundation: &Foundation,
        switchback: &Path,
        name: &'static str,
        uplink: &str,
        server: SocketAddr,
        passphrase: &Path,
    ) -> anyhow::Result<Self> {
        let directory = stage.directory().join(name);
        let mut settings = SiteSettings::new([("main".to_owned(), PathBuf::from("disks"))]);
        settings.qemu = foundation.qemu();
        let uplink = NetworkSettings::User { cidr: uplink.to_owned(), forward: Vec::new(), isolated: false };
        // Of this demo: another one on this host does not hear it.
        let lan = NetworkSettings::Segment { segment: format!("{name}-{}", std::process::id()) };
        settings.networks.extend([("uplink".to_owned(), uplink), ("lan".to_owned(), lan)]);
        let site = LocalSite::create(&directory, &settings)?;
        stage.add_site(&directory);
        let role = |command: &str| -> anyhow::Result<Role> {
            let listens = free_port(server.ip())?;
            let (role, data) = (format!("{name}-{command}"), directory.join(command));
            let (server, address) = (server.to_string(), listens.to_string());
            let (data_text, passphrase) =
                (data.join("data").display().to_string(), passphrase.display().to_string());
            let options = [
                ("--server", &server),
                ("--data", &data_text),
                ("--listen", &address),
                ("--advertise", &address),
                ("--name", &role),
                ("--enrol-passphrase-file", &passphrase),
            ];
            let mut arguments = vec![command.to_owned(), "--site".to_owned(), name.to_owned()];
            arguments
                .extend(options.iter().flat_map(|(option, value)| [(*option).to_owned(), (*value).clone()]));
            fs::create_dir_all(data.join("data"))?;
            let environment = vec![
                ("SWITCHBACK_IDENTITY".to_owned(), data.join("identity").display().to_string()),
                ("SWITCHBACK_LOG".to_owned(), "info".to_owned()),
            ];
            Ok(Role { name: role, program: switchback.to_owned(), arguments, environment, listens })
        };
        let (process_server, master_target) = (role("process-server")?, role("master-target")?);
        Ok(Self { name, directory, site, process_server, master_target })
    }

    /// What the site says of a machine.
    pub(crate) fn machine(&self, id: &str) -> anyhow::Result<Machine> {
        Ok(self.site.machine(id)?)
    }

    /// Cuts a machine's life short, as a crash of the host would: nobody is asked.
    pub(crate) fn kill_machine(&self, stage: &mut Stage, id: &str) -> anyhow::Result<()> {
        let lock = self.directory.join("machines").join(id).join("run.lock").canonicalize()?;
        let holds_lock = |pid: &u32| {
            let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let is_qemu = fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.windows(5).any(|w| w == b"-uuid"));
            is_qemu
                && open.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == lock))
        };
        let processes = fs::read_dir("/proc")?.flatten();
        let Some(pid) =
            processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(holds_lock)
        else {
            bail!("{id} does not run at {}", self.name);
        };
        let status = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status()?;
        println!("    {id} at {} (process {pid}) is killed: {status}", self.name);
        stage.wait("the machine is off", Duration::from_secs(10), |_| {
            Ok((self.machine(id)?.power == Power::Off).then_some(()))
        })
    }
}

impl Guest<'_> {
    fn console(&self) -> anyhow::Result<String> {
        Ok(self.place.site.console(&self.id, CONSOLE_BYTES_MAX)?.replace('\r', ""))
    }

    /// How often its workload has begun to write.
    pub(crate) fn lives(&self) -> anyhow::Result<usize> {
        Ok(self.console()?.lines().filter(|line| line.contains(" writing from=")).count())
    }

    /// Waits until its workload writes in another life than the first `lives`; returns the first record of that life.
    pub(crate) fn wait_for_life(&self, stage: &mut Stage, lives: usize) -> anyhow::Result<u64> {
        let what = format!("{} writes its ledger at {}", self.name, self.place.name);
        stage.wait(&what, BOOT_LIMIT, |_| {
            if self.lives()? <= lives {
                return Ok(None);
            }
            let console = self.console()?;
            let line = console.lines().rev().find(|line| line.contains(" writing from="));
            Ok(line.and_then(|line| value(line, "from=")))
        })
    }

    /// The newest record that the guest has told of.
    pub(crate) fn records(&self) -> anyhow::Result<u64> {
        let console = self.console()?;
        let told = console.lines().rev().find(|line| line.starts_with("LEDGER: ") && line.contains(" seen="));
        Ok(told.and_then(|line| value(line, "records=")).unwrap_or(0))
    }

    /// Waits until it has told of so many.
    pub(crate) fn wait_for_records(&self, stage: &mut Stage, at_least: u64) -> anyhow::Result<u64> {
        let what = format!("{} has {at_least} records at {}", self.name, self.place.name);
        stage.wait(&what, BOOT_LIMIT, |_| {
            let records = self.records()?;
            Ok((records >= at_least).then_some(records))
        })
    }

    /// What the guest said when it last began: `records=N last=HASH ok` for each disk.
    pub(crate) fn said_at_boot(&self) -> anyhow::Result<Vec<String>> {
        let console = self.console()?;
        let lines: Vec<&str> = console.lines().collect();
        let end = lines.iter().rposition(|line| line.contains(" writing from=")).unwrap_or(lines.len());
        let of_disks = lines[..end].iter().rev().take_while(|line| !line.contains(" writing from="));
        let mut said: Vec<String> =
            of_disks.filter_map(|line| Some(line.split_once(" disk=")?.1.to_owned())).take(2).collect();
        said.reverse();
        Ok(said)
    }

    /// Looks into its disks from outside: the images below any snapshot.
    pub(crate) fn inspect(&self, stage: &Stage) -> anyhow::Result<Result<Inspection, InspectError>> {
        let machine = self.place.machine(&self.id)?;
        let [root, data] = machine.disks.as_slice() else {
            bail!("{} has {} disks", self.id, machine.disks.len())
        };
        let kind =
            MACHINES.iter().find(|(name, _)| *name == self.name).map_or(DataDisk::Ext4, |(_, kind)| *kind);
        let name: LedgerName = self.name.parse().map_err(anyhow::Error::msg)?;
        Ok(Inspection::of(name, kind, [&root.path, &data.path], stage.directory()))
    }
}

fn value(line: &str, key: &str) -> Option<u64> {
    line.split_whitespace().find_map(|word| word.strip_prefix(key)?.parse().ok())
}

fn configuration_server(switchback: &Path, listens: SocketAddr, data: &Path) -> Role {
    let arguments =
        ["configuration-server", "--data", &data.display().to_string(), "--listen", &listens.to_string()];
    let environment = vec![
        ("SWITCHBACK_IDENTITY".to_owned(), data.join("identity").display().to_string()),
        ("SWITCHBACK_LOG".to_owned(), "info".to_owned()),
    ];
    Role {
        name: "configuration-server".to_owned(),
        program: switchback.to_owned(),
        arguments: arguments.map(str::to_owned).to_vec(),
        environment,
        listens,
    }
}

/// The address at which guests, through their uplink, and other processes of this host reach a role. Nothing is sent to find it out.
fn address_of_this_host() -> anyhow::Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let routed = socket.connect("192.0.2.255:9").and_then(|()| socket.local_addr());
    match routed.map(|address| address.ip()) {
        Ok(address) if !address.is_loopback() => Ok(address),
        _ => bail!(
            "this host has no address but the loopback one; give an interface one, for example \
                    `ip addr add 10.255.255.1/32 dev lo`"
        ),
    }
}

/// A port that nobody has just now.
fn free_port(address: IpAddr) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((address, 0)).with_context(|| format!("listening at {address}"))?;
    Ok(listener.local_addr()?)
}
