//! A process server that is made at a site of Azure, installs itself and enrols: a real configuration server, a real `curl`, what the new machine is told run
//! by this host's shell below a root of its own. Azure is the emulator; its virtual machine does not run here.

#![expect(clippy::unwrap_used, reason = "tests")]

mod rig;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rig::{Process, fail, succeed, switchback, wait_until};
use serde_json::Value;
use switchback_lab::arm::{self, Client, Emulator};

const CONTAINER: &str = "replicas";
const VMS: &str = "Microsoft.Compute/virtualMachines";
const NAME: &str = "ps-azure";

fn free_port() -> u16 {
    TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port()
}

struct World {
    emulator: Emulator,
    port: u16,
    /// The new process server's.
    data_port: u16,
    server: Option<Process>,
    /// Deploys while the test goes on.
    deploying: Option<Process>,
    directory: tempfile::TempDir,
}

impl Drop for World {
    /// What the script has started is nobody's child.
    fn drop(&mut self) {
        let listen = format!("0.0.0.0:{}", self.data_port);
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let words = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if words.contains("process-server") && words.contains(&listen) {
                let pid = entry.file_name().to_string_lossy().into_owned();
                let _ = Command::new("/bin/sh").args(["-c", "kill -KILL \"$1\"", "sh", &pid]).status();
            }
        }
    }
}

impl World {
    fn new() -> Self {
        let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (emulator, port, data_port) = (Emulator::start().unwrap(), free_port(), free_port());
        let mut world = Self { emulator, port, data_port, server: None, deploying: None, directory };
        world.serve();
        for (from, to) in [("ca.pem", "ca.pem"), ("admin-token", "token")] {
            std::fs::copy(world.path("cs").join(from), world.path(to)).unwrap();
        }
        world.add_site();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn serve(&mut self) {
        let mut command = switchback();
        let file = self.path("address");
        let _ = std::fs::remove_file(&file);
        command.args([
            "configuration-server",
            "--listen",
            &format!("127.0.0.1:{}", self.port),
            "--advertise",
        ]);
        command.args(["127.0.0.1", "--data"]).arg(self.path("cs")).arg("--address-file").arg(&file);
        self.server = Some(Process(command.stdout(Stdio::null()).spawn().unwrap()));
        wait_until("the configuration server listens", || file.exists());
    }

    fn add_site(&self) {
        let container = self.emulator.container_url(CONTAINER);
        let (url, sas) = container.split_once('?').unwrap();
        let client = Client::default();
        let who = format!("{}@{}", client.id, arm::TENANT);
        for (name, kind, user, secret) in [
            ("recovery", "azure", who.as_str(), client.secret.as_str()),
            ("container", "azure-sas", CONTAINER, sas),
        ] {
            std::fs::write(self.path(name), secret).unwrap();
            let mut command = self.command(&["account", "add", name, "--kind", kind, "--user", user]);
            succeed(command.arg("--password-file").arg(self.path(name)));
        }
        let settings = self.emulator.site_settings(url);
        std::fs::write(self.path("azure.toml"), toml::to_string(&settings).unwrap()).unwrap();
        let mut command = self.command(&["site", "add", "recovery", "--account", "recovery"]);
        succeed(command.args(["--container-account", "container", "--azure"]).arg(self.path("azure.toml")));
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = switchback();
        command
            .args(words)
            .env("SWITCHBACK_SERVER", format!("https://127.0.0.1:{}", self.port))
            .env("SWITCHBACK_CA_FILE", self.path("ca.pem"))
            .env("SWITCHBACK_TOKEN_FILE", self.path("token"));
        command
    }

    fn ask(&self, words: &[&str]) -> Value {
        serde_json::from_str(&succeed(self.command(words).args(["--output", "json"]))).unwrap()
    }

    fn deploy_command(&self, address: &str) -> Command {
        let key = self.path("anna.pub");
        std::fs::write(
            &key,
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBVGvP8b2u1c9lVQm8bM2vJ0S5b1X3d5m0qJ1n3w7Z9k anna",
        )
        .unwrap();
        let port = self.data_port.to_string();
        let mut command =
            self.command(&["server", "deploy", NAME, "--site", "recovery", "--size", "Standard_D2s_v5"]);
        command.args(["--network", "recovery-net/production", "--address", address, "--port", &port]);
        command.args(["--administrator", "anna", "--ssh-key-file"]).arg(key);
        command
    }

    /// Begins to deploy; gives what the new machine is told, in a file.
    fn deploy(&mut self) -> PathBuf {
        let child = self.deploy_command("10.20.1.20").stdout(Stdio::null()).spawn().unwrap();
        self.deploying = Some(Process(child));
        wait_until("its virtual machine is made", || self.custom_data().is_some());
        let file = self.path("script");
        std::fs::write(&file, self.custom_data().unwrap()).unwrap();
        file
    }

    fn custom_data(&self) -> Option<Vec<u8>> {
        self.emulator.custom_data(self.emulator.names(VMS).first()?)
    }

    /// What cloud-init does at the first start.
    fn install(&self, script: &Path, root: &str) -> Output {
        let root = self.path(root);
        std::fs::create_dir_all(&root).unwrap();
        Command::new("/bin/sh").arg(script).env("SWITCHBACK_INSTALL_ROOT", root).output().unwrap()
    }

    fn deployment_ends(&mut self) -> bool {
        let mut process = self.deploying.take().unwrap();
        let mut ended = None;
        wait_until("the deployment ends", || {
            ended = process.0.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap().success()
    }
}

#[test]
fn it_installs_itself_enrols_once_and_is_removed() {
    let mut world = World::new();
    let script = world.deploy();
    // The configuration server dies while it waits; the new one comes meanwhile, and tries until it is there.
    world.server.take();
    world.serve();
    let installed = world.install(&script, "root");
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    assert!(world.deployment_ends(), "the job ends when it has reported");
    let shown = world.ask(&["server", "show", NAME]);
    let at = |pointer: &str| shown.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(
        (at("/properties/site"), at("/properties/health")),
        ("recovery".into(), "Normal".into()),
        "{shown:#}"
    );
    assert_eq!(at("/properties/address"), format!("10.20.1.20:{}", world.data_port));
    assert_eq!(at("/properties/build"), concat!("switchback ", env!("CARGO_PKG_VERSION")));

    // Whoever finds the script later cannot become anybody with it.
    let again = world.install(&script, "another");
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("it has been used"), "{said}");
    let text = std::fs::read_to_string(&script).unwrap();
    let secret = text.lines().find_map(|line| line.strip_prefix("secret=")).unwrap().trim_matches('\'');
    assert_eq!(secret.len(), 44);
    let log = succeed(&mut world.command(&["job", "list", "--output", "json"]));
    assert!(!log.contains(secret));

    let refused = fail(world.command(&["server", "remove", NAME, "--yes"]).args(["--output", "json"]));
    assert!(refused.contains("server retire"), "{refused}");
    succeed(&mut world.command(&["server", "retire", NAME, "--yes"]));
    assert!(world.emulator.names(VMS).is_empty());
    let left = world.ask(&["server", "list"]);
    assert!(!left.to_string().contains(NAME), "{left:#}");
}

#[test]
fn an_address_that_is_taken_is_refused_with_free_ones_and_nothing_is_left() {
    let mut world = World::new();
    world.deploy();
    let other = |name: &str| {
        let mut command = world.deploy_command("10.20.1.20");
        command.arg("--output=json");
        let words: Vec<_> =
            command.get_args().map(|word| word.to_string_lossy().replace(NAME, name)).collect();
        let mut again = world.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
        fail(&mut again)
    };
    let said = other("ps-other");
    assert!(said.contains("10.20.1.21") && said.contains("azure-address"), "{said}");
    assert_eq!(world.emulator.names(VMS).len(), 1);
    let said = other(NAME);
    assert!(said.contains("already"), "{said}");
}
