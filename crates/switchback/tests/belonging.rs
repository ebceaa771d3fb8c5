//! Who belongs to a site: a passphrase that is replaced, a component that is removed. Real processes; nothing is restarted but where that is said.

#![expect(clippy::unwrap_used, reason = "tests")]

mod rig;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rig::{Process, fail, succeed, switchback, wait_until};
use serde_json::Value;

/// A configuration server, and who talks to it.
struct World {
    address: String,
    _server: Process,
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (data, file) = (directory.path().join("cs"), directory.path().join("address"));
        let mut command = switchback();
        command.args(["configuration-server", "--listen", "127.0.0.1:0", "--advertise", "127.0.0.1"]);
        command.arg("--address-file").arg(&file).arg("--data").arg(&data).stdout(Stdio::null());
        let server = Process(command.spawn().unwrap());
        wait_until("it listens", || std::fs::read_to_string(&file).is_ok_and(|text| text.contains(':')));
        let address = std::fs::read_to_string(&file).unwrap();
        Self { address, _server: server, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A user's command.
    fn user(&self, words: &[&str]) -> Command {
        let mut command = switchback();
        command
            .args(words)
            .env("SWITCHBACK_SERVER", format!("https://{}", self.address))
            .env("SWITCHBACK_CA_FILE", self.path("cs/ca.pem"))
            .env("SWITCHBACK_TOKEN_FILE", self.path("cs/admin-token"));
        command
    }

    /// What an administrator does on the configuration server's host; prints the passphrase.
    fn passphrase(&self, more: &[&str]) -> String {
        let mut command = switchback();
        command.args(["identity", "passphrase"]).args(more).arg("--identity").arg(self.path("cs/identity"));
        succeed(&mut command).trim().to_owned()
    }

    fn enrol(&self, who: &str, passphrase: &str) -> Command {
        let file = self.path("passphrase");
        std::fs::write(&file, passphrase).unwrap();
        let mut command = switchback();
        command.env("SWITCHBACK_IDENTITY", self.path(who));
        command.args([
            "enrol",
            &self.address,
            "--name",
            who,
            "--role",
            "process-server",
            "--passphrase-file",
        ]);
        command.arg(file);
        command
    }

    /// Starts a process server that has enrolled.
    fn start(&self, who: &str) -> Process {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = switchback();
        command.env("SWITCHBACK_IDENTITY", self.path(who));
        command.args(["process-server", "--server", &self.address, "--site", "home", "--name", who]);
        command.args(["--listen", "127.0.0.1:0", "--data"]).arg(self.path(&format!("{who}.data")));
        Process(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The health of those that belong to the site, by name.
    fn servers(&self) -> Vec<(String, String)> {
        let listed = succeed(&mut self.user(&["server", "list", "--output", "json"]));
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let text = |server: &Value, at: &str| server.pointer(at).unwrap().as_str().unwrap().to_owned();
        let servers = listed.as_array().unwrap().iter();
        servers
            .map(|server| (text(server, "/properties/friendlyName"), text(server, "/properties/health")))
            .collect()
    }
}

#[test]
fn a_passphrase_that_was_replaced_counts_at_once_and_the_old_one_no_more() {
    let world = World::new();
    let old = world.passphrase(&[]);
    succeed(&mut world.enrol("ps1", &old));
    let new = world.passphrase(&["--rotate"]);
    assert_ne!(old, new);
    let refused = fail(&mut world.enrol("ps2", &old));
    assert!(refused.contains("the passphrase is not that of this site"), "{refused}");
    succeed(&mut world.enrol("ps2", &new));
    assert_eq!(succeed(&mut world.user(&["passphrase"])).trim(), new, "it is shown as well");
    assert_eq!(world.servers().len(), 2);
}

#[test]
fn a_component_that_was_removed_is_told_so_and_comes_back_by_enrolling() {
    let world = World::new();
    let passphrase = world.passphrase(&[]);
    succeed(&mut world.enrol("ps1", &passphrase));
    let running = world.start("ps1");
    let is_well = || world.servers() == [("ps1".to_owned(), "Normal".to_owned())];
    wait_until("it reports", is_well);
    succeed(&mut world.user(&["server", "remove", "ps1", "--yes"]));
    wait_until("it is refused", || world.log().contains("does not belong to this site any more"));
    assert!(world.log().contains("switchback enrol"), "{}", world.log());
    assert!(world.servers().is_empty(), "its reports do not bring it back");
    drop(running);
    succeed(&mut world.enrol("ps1", &passphrase));
    let _running = world.start("ps1");
    wait_until("it reports again", is_well);
}
