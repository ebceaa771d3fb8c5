//! The commands of a machine's whole life, by the program itself, against the real API and control plane: protect, rehearse, fail over, reprotect,
//! fail back, reprotect. Sites and components are the control plane's own simulated world, which refuses what real ones would.

#![expect(clippy::unwrap_used, reason = "tests")]

#[expect(dead_code, reason = "shared with the command line's other tests")]
mod api_rig;
#[expect(dead_code, reason = "shared with the control plane's tests")]
#[path = "../../control/tests/jobs/world.rs"]
mod world;

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use switchback_api::{ApiConfig, ApiLimits, Vault};
use switchback_control::Turn;
use switchback_identity::Role;
use switchback_model::AccessRole;

use api_rig::Tls;
use world::World;

/// A phase is reached within this, or not at all.
const PATIENCE_S: u64 = 60;

/// A user at a terminal that is none, with a profile for a real configuration server.
struct User {
    home: tempfile::TempDir,
    _server: Tls,
    stop: Arc<AtomicBool>,
    turning: Option<std::thread::JoinHandle<()>>,
}

impl Drop for User {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(turning) = self.turning.take() {
            assert!(turning.join().is_ok() || std::thread::panicking(), "the world fell apart");
        }
    }
}

impl User {
    fn new() -> Self {
        let mut world = World::new();
        let control = world.control.clone();
        for (role, name) in [(Role::ProcessServer, "home-ps"), (Role::Target, "recovery-mt")] {
            world.enrol(role, name);
        }
        let config = ApiConfig {
            vault: Vault::default(),
            public_url: None,
            build: "test".into(),
            authority: None,
            clock: world.clock.clone(),
            limits: ApiLimits::default(),
        };
        let server = Tls::serve(switchback_api::router(control.clone(), config));
        let home = tempfile::tempdir().unwrap();
        let secret = control.create_token(&"tester".parse().unwrap(), AccessRole::Contributor).unwrap();
        std::fs::write(home.path().join("token"), secret).unwrap();
        std::fs::write(home.path().join("ca.pem"), &server.authority).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let turning = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if world.control.work_once(None).unwrap() == Turn::Idle {
                    world.round();
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        let user = Self { home, stop, turning: Some(turning), _server: server };
        let (ca, token) = (user.path("ca.pem"), user.path("token"));
        let url = user._server.url.clone();
        user.print(&format!("profile add lab --server {url} --ca-file {ca} --token-file {token}"));
        user
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn run(&self, line: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchback"));
        command.args(line.split(' ')).env_clear().env("HOME", self.home.path()).stdin(Stdio::null());
        command.output().unwrap()
    }

    /// What a command prints; it must succeed.
    fn print(&self, line: &str) -> String {
        let output = self.run(line);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {said}{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fail(&self, line: &str) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.print(&format!("{line} --output json"))).unwrap()
    }

    /// Leaves what commands print for `cargo xtask pictures`, which draws it: `cli-pages/NAME.txt` in the directory of builds.
    fn leave_for_picture(&self, name: &str, lines: &[&str]) {
        let printed = lines.iter().map(|line| format!("$ switchback {line}\n{}\n", self.print(line)));
        let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("../cli-pages");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("{name}.txt")), printed.collect::<String>()).unwrap();
    }

    fn until_protected(&self) {
        let shown = self.print(&format!("machine wait web01 --wait-limit {PATIENCE_S}"));
        assert!(shown.contains("protected"), "{shown}");
    }

    fn runs_at(&self) -> String {
        let machine = self.json("machine show web01");
        let side = machine["properties"]["active"].as_str().unwrap().to_owned();
        machine["properties"][side.as_str()]["site"].as_str().unwrap().to_owned()
    }
}

#[test]
fn a_machine_goes_away_and_comes_home() {
    let user = User::new();
    assert!(user.print("site list").contains("recovery"));
    assert!(user.print("machine list --site home").contains("web01"));
    let refused = user.fail("machine protect web01 --group PG1_Failback");
    assert!(refused.contains("machines are protected with PG1"), "{refused}");
    user.print("machine protect web01 --group PG1 --nic 10.2.0.11/24,gateway=10.2.0.1");
    user.until_protected();
    assert_eq!(user.print("recovery-point list web01 --limit 1").lines().count(), 2);
    user.print("plan create shop --home home --recovery recovery --group web01");
    user.print("plan add-action shop --name settle --after --delay 1s --towards recovery --at-test");
    let plan = user.print("plan show shop");
    assert!(
        plan.contains("web01") && plan.contains("after: settle: wait 1 s, only towards the recovery site"),
        "{plan}"
    );

    user.print("plan test-failover shop");
    let refused = user.fail("machine commit web01 --yes");
    assert!(refused.contains("possible now: test-failover-cleanup"), "{refused}");
    user.print("plan test-failover-cleanup shop --comments fine");
    user.print("plan failover shop --unplanned --point latest-multi-vm --yes");
    assert_eq!(user.runs_at(), "recovery");
    let points = user.json("recovery-point list web01");
    let number = points[0]["name"].as_str().unwrap();
    user.print(&format!("machine change-recovery-point web01 --point {number} --yes"));
    user.print("machine commit web01 --yes");
    assert!(user.fail("machine wait web01").contains("nothing to wait for"));

    user.print("machine reprotect web01 --yes");
    user.until_protected();
    assert_eq!(user.json("machine show web01")["properties"]["group"], "PG1_Failback");
    user.leave_for_picture(
        "machine-comes-home",
        &[
            "machine list",
            "machine readiness web01",
            "recovery-point list web01 --limit 3",
            "job list --limit 4",
        ],
    );
    let output = user.run("plan failover shop --planned --yes");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("This is a failback"), "{said}");
    assert_eq!(user.runs_at(), "home");
    user.print("plan commit shop --yes");
    user.print("machine reprotect web01 --yes");
    user.until_protected();
    user.print("machine resync web01");
    assert_eq!(user.print("machine clean-up web01 --yes"), "web01: nothing is left behind\n");
    user.print("machine disable web01 --clean-up --yes");
    assert_eq!(user.json("machine list"), serde_json::json!([]));
    let jobs = user.json("job list");
    assert!(jobs.as_array().unwrap().len() >= 12, "{jobs:#}");
    let newest = jobs[0]["name"].as_str().unwrap();
    let shown = user.print(&format!("job show {}", &newest[..13]));
    assert!(shown.contains("Disable replication") && shown.contains("Succeeded"), "{shown}");
}

#[test]
fn what_surrounds_machines_is_made_shown_and_removed() {
    let user = User::new();
    user.print(
        "group create PG2 --from home --to recovery --interval 5s --retention 1d:0s,3d:1h --multi-vm true",
    );
    user.print("policy update PG2_Failback --interval 30s");
    let policy = user.print("policy show PG2");
    assert!(
        policy.contains("5 s") && policy.contains("all until 1d old, one every 1h until 3d old"),
        "{policy}"
    );
    assert!(user.print("policy show PG2_Failback").contains("30 s"));
    user.print("group delete PG2 --yes");
    assert!(!user.print("group list").contains("PG2"));
    user.print("network-mapping set home lan recovery lan");
    assert!(user.print("network-mapping list").contains("recovery"));
    user.print("network-mapping remove home lan recovery --yes");
    assert_eq!(user.json("network-mapping list"), serde_json::json!([]));
    assert!(user.print("site networks home").contains("lan"));
    assert!(user.print("site datastores recovery").contains("store"));
    let servers = user.print("server list");
    assert!(servers.contains("home-ps") && servers.contains("recovery-mt"), "{servers}");
    assert!(user.print("server show home-ps").contains("home-ps:9443"));
    let file = user.path("reader");
    user.print(&format!("token create reader --role reader --file {file}"));
    let forbidden = user.fail(&format!("group delete PG1 --yes --token-file {file}"));
    assert!(forbidden.contains("not permitted"), "{forbidden}");
    user.print("token delete reader --yes");
    let unknown = user.fail(&format!("group list --token-file {file}"));
    assert!(unknown.contains("does not accept the token"), "{unknown}");
    let audit = user.print("audit list");
    assert!(audit.contains("403") && audit.contains("tester"), "{audit}");
    assert!(user.fail("machine show web99").contains("web99"));
    assert!(user.fail("site add x --local relative/path").contains("absolute"));
    user.print("event list");
    user.print("plan create shop --home home --recovery recovery");
    user.print("plan delete shop --yes");
}
