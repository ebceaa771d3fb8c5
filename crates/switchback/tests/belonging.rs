//! Who belongs to a site: a passphrase that is replaced, a component that is removed. Real processes; nothing is restarted but where that is said.

#![expect(clippy::unwrap_used, reason = "tests")]

mod rig;

use std::process::{Command, Stdio};

use rig::{ConfigurationServer, Process, fail, succeed, switchback, wait_until};
use serde_json::Value;

impl ConfigurationServer {
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
    fn start_process_server(&self, who: &str) -> Process {
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
    let world = ConfigurationServer::start(&[]);
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
    let world = ConfigurationServer::start(&[]);
    let passphrase = world.passphrase(&[]);
    succeed(&mut world.enrol("ps1", &passphrase));
    let running = world.start_process_server("ps1");
    let is_well = || world.servers() == [("ps1".to_owned(), "Normal".to_owned())];
    wait_until("it reports", is_well);
    succeed(&mut world.user(&["server", "remove", "ps1", "--yes"]));
    wait_until("it is refused", || world.log().contains("does not belong to this site any more"));
    assert!(world.log().contains("switchback enrol"), "{}", world.log());
    assert!(world.servers().is_empty(), "its reports do not bring it back");
    drop(running);
    succeed(&mut world.enrol("ps1", &passphrase));
    let _running = world.start_process_server("ps1");
    wait_until("it reports again", is_well);
}
