//! The command line as a user has it: the program itself, against a server that plays what the API answers.

#![expect(clippy::unwrap_used, reason = "tests")]

mod api_rig;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use api_rig::{Answer, Server, TOKEN, VAULT, accepted, certificates, list, ok, refusal, text};
use serde_json::{Value, json};

/// A user with a home directory, a token file, and the authority's certificate.
struct User {
    home: tempfile::TempDir,
    server: Server,
}

impl User {
    /// With a profile for the server.
    fn new() -> Self {
        let user = Self::without_profile();
        user.server.play("GET", "switchbackSites", &[list(&[])]);
        let (ca, token) = (user.path("ca.pem"), user.path("token"));
        let added = user.run(&[
            "profile",
            "add",
            "lab",
            "--server",
            &user.server.url,
            "--ca-file",
            &ca,
            "--token-file",
            &token,
        ]);
        assert!(added.status.success(), "{}", stderr(&added));
        user
    }

    fn without_profile() -> Self {
        let home = tempfile::tempdir().unwrap();
        let server = Server::start();
        std::fs::write(home.path().join("ca.pem"), &server.authority).unwrap();
        std::fs::write(home.path().join("token"), format!("{TOKEN}\n")).unwrap();
        Self { home, server }
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_switchback"));
        command.args(args).env_clear().env("HOME", self.home.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// What a command prints; it must succeed.
    fn print(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command says when it fails.
    fn fail(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        stderr(&output)
    }

    fn has_machine(&self, name: &str, active: &str) {
        self.server.play("GET", &format!("switchbackProtectedMachines/{name}"), &[ok(machine(name, active))]);
    }

    /// A job that ends like this.
    fn has_job(&self, job: &str, ending: &Value) {
        let running = json!({"id": format!("{VAULT}/switchbackJobs/{job}"), "properties": {"state": "InProgress", "tasks": []}});
        let ended = json!({"id": format!("{VAULT}/switchbackJobs/{job}"), "properties": ending});
        self.server.play("GET", &format!("switchbackJobs/{job}"), &[ok(running), ok(ended)]);
        let contract = json!({"name": job, "properties": {"state": ending["state"]}});
        self.server.play("GET", &format!("replicationJobs/{job}"), &[ok(contract)]);
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn item(name: &str) -> String {
    format!(
        "{VAULT}/replicationFabrics/home/replicationProtectionContainers/cloud_1/replicationProtectedItems/{name}"
    )
}

fn machine(name: &str, active: &str) -> Value {
    json!({"id": format!("{VAULT}/switchbackProtectedMachines/{name}"), "name": name, "properties": {
        "contractId": item(name), "state": "protected", "active": active, "group": "PG1",
        "home": {"site": "munich", "id": "vm-1"}, "away": {"site": "azure", "id": "vm-9"},
        "rpoMs": 4200, "recoveryPoints": 12, "health": "Warning",
        "reasons": [{"message": "never tested", "remedy": "run a test failover"}],
    }})
}

fn done() -> Value {
    let request = json!({"kind": "operate", "operation": {"operation": "planned-failover"}});
    json!({"state": "Succeeded", "object": "web01", "request": request, "tasks": [{"friendlyName": "Start", "state": "Succeeded"}]})
}

#[test]
fn tables_are_for_people_and_json_is_what_the_api_said() {
    let user = User::new();
    let all = [machine("db01", "home"), machine("web01", "away")];
    user.server.play("GET", "switchbackProtectedMachines", &[list(&all)]);
    assert_eq!(
        user.print(&["machine", "list"]),
        "NAME   STATE      RUNS AT  OTHER SITE  GROUP  RPO      POINTS  RESYNC  HEALTH   HOME?\n\
         db01   protected  munich   azure       PG1    4200 ms  12      -       Warning  -\n\
         web01  protected  azure    munich      PG1    4200 ms  12      -       Warning  -\n"
    );
    let printed: Value = serde_json::from_str(&user.print(&["machine", "list", "--output", "json"])).unwrap();
    assert_eq!(printed, json!(all));
    user.has_machine("web01", "home");
    let shown = user.print(&["machine", "show", "web01"]);
    assert!(shown.contains("never tested (run a test failover)"), "{shown}");
    let printed: Value =
        serde_json::from_str(&user.print(&["machine", "show", "web01", "-o", "json"])).unwrap();
    assert_eq!(printed, machine("web01", "home"));
}

#[test]
fn a_failover_is_asked_for_followed_and_its_end_is_the_exit_code() {
    let user = User::new();
    user.has_machine("web01", "home");
    let action = format!("{}/plannedFailover", item("web01"));
    user.server.play("POST", &action, &[accepted("j1")]);
    user.has_job("j1", &done());
    let output = user.run(&["machine", "failover", "web01", "--planned", "--yes"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(
        said.contains("web01 will be shut down at munich") && said.contains("started at azure"),
        "{said}"
    );
    assert!(said.contains("Start: Succeeded"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "job j1 (planned failover web01) succeeded\n");
    let [change] = &user.server.changes()[..] else { panic!("one change was expected") };
    let body = json!({"properties": {
        "failoverDirection": "PrimaryToRecovery", "providerSpecificDetails": {"instanceType": "InMageAzureV2"},
    }});
    assert_eq!((change.body.clone(), change.target.ends_with("web01/plannedFailover")), (body, true));
}

#[test]
fn a_failed_job_is_a_failure_with_cause_and_remedy() {
    let user = User::new();
    user.has_machine("web01", "away");
    user.server.play("POST", &format!("{}/unplannedFailover", item("web01")), &[accepted("j1")]);
    let error = json!({"code": "site.full", "message": "no room", "cause": "the datastore is full", "remedy": "make room"});
    let mut failed = done();
    failed["state"] = "Failed".into();
    failed["tasks"] = json!([{"friendlyName": "Start", "state": "Failed", "error": error}]);
    user.has_job("j1", &failed);
    let output = user.run(&["machine", "failover", "web01", "--unplanned", "--yes"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "job j1 (planned failover web01) failed\n  Start: no room\n    likely cause: the datastore is full\n    what to do: make room\n    \
         code: site.full\n  When the cause is removed: `switchback job restart j1`\n"
    );
    let output = user.run(&["job", "wait", "0123456789abcdef0123456789abcdef"]);
    assert_eq!(output.status.code(), Some(1), "no such job");
    user.has_job("j1", &failed);
    let json = user.run(&["machine", "failover", "web01", "--unplanned", "--yes", "--output", "json"]);
    assert_eq!(json.status.code(), Some(1));
    let printed: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(printed, json!({"name": "j1", "properties": {"state": "Failed"}}));
}

#[test]
fn without_a_terminal_and_without_yes_nothing_is_done() {
    let user = User::new();
    user.has_machine("web01", "home");
    user.server.play("GET", "switchbackSites/munich", &[ok(json!({"name": "munich"}))]);
    user.server.play(
        "GET",
        "switchbackProtectionGroups/PG1",
        &[ok(json!({"name": "PG1", "properties": {"twin": "PG1_Failback"}}))],
    );
    user.server.play(
        "GET",
        "replicationRecoveryPlans/p",
        &[ok(json!({"name": "p", "properties": {"groups": []}}))],
    );
    user.server.play("GET", "replicationJobs/0123456789abcdef0123456789abcdef", &[ok(json!({"name": "j"}))]);
    let refused: [&[&str]; 12] = [
        &["machine", "failover", "web01", "--planned"],
        &["machine", "failover", "web01", "--unplanned"],
        &["machine", "change-recovery-point", "web01", "--point", "7"],
        &["machine", "cancel-failover", "web01"],
        &["machine", "commit", "web01"],
        &["machine", "reprotect", "web01"],
        &["machine", "disable", "web01"],
        &["machine", "clean-up", "web01"],
        &["site", "remove", "munich"],
        &["group", "delete", "PG1"],
        &["plan", "delete", "p"],
        &["job", "cancel", "0123456789abcdef0123456789abcdef"],
    ];
    for args in refused {
        let said = user.fail(args);
        assert!(said.contains("--yes"), "{args:?}: {said}");
    }
    assert_eq!(user.server.changes(), []);
}

#[test]
fn what_is_not_waited_for_is_told_by_its_job() {
    let user = User::new();
    user.has_machine("web01", "home");
    user.server.play("POST", &format!("{}/testFailover", item("web01")), &[accepted("j7")]);
    let printed = user.print(&["machine", "test-failover", "web01", "--no-wait"]);
    assert_eq!(printed, "job j7 has begun; `switchback job wait j7` follows it\n");
    let requests = user.server.requests();
    assert!(requests.iter().all(|seen| !seen.target.starts_with("switchbackJobs")), "{requests:?}");
}

#[test]
fn a_machine_is_protected_by_name_with_what_its_group_says() {
    let user = User::new();
    let group = json!({"name": "PG1", "properties": {"towards": "away", "sourceSite": "munich", "twin": "PG1_Failback"}});
    user.server.play("GET", "switchbackProtectionGroups/pg1", &[ok(group)]);
    let found = json!({"name": "vm-1", "properties": {"friendlyName": "web01"}});
    user.server.play("GET", "switchbackSites/munich/machines", &[list(&[found])]);
    let container = format!("{VAULT}/replicationFabrics/munich/replicationProtectionContainers/cloud_1");
    user.server.play(
        "GET",
        "replicationFabrics/munich/replicationProtectionContainers",
        &[list(&[json!({"id": container})])],
    );
    user.server.play("PUT", &format!("{container}/replicationProtectedItems/web01"), &[accepted("j1")]);
    user.has_job("j1", &done());
    user.print(&[
        "machine",
        "protect",
        "WEB01",
        "--group",
        "pg1",
        "--nic",
        "10.2.0.11/24",
        "--master-target",
        "mt2",
    ]);
    let [change] = &user.server.changes()[..] else { panic!("one change was expected") };
    assert_eq!(
        change.body["properties"],
        json!({
            "policyId": format!("{VAULT}/replicationPolicies/PG1"),
            "protectableItemId": format!("{container}/replicationProtectableItems/vm-1"),
            "providerSpecificDetails": {
                "instanceType": "InMageAzureV2", "masterTargetId": "mt2",
                "nics": [{"kind": "static", "address": "10.2.0.11/24", "gateway": null, "name_servers": []}],
            },
        })
    );
}

fn plan(machines: &[&str]) -> Value {
    let items: Vec<_> = machines.iter().map(|name| json!({"id": item(name)})).collect();
    json!({"name": "shop", "properties": {
        "primaryFabricFriendlyName": "munich", "recoveryFabricFriendlyName": "azure",
        "groups": [{"groupType": "Shutdown"}, {"groupType": "Boot", "replicationProtectedItems": items}],
    }})
}

#[test]
fn a_plan_fails_over_the_way_its_machines_can_go() {
    let user = User::new();
    user.server.play("GET", "replicationRecoveryPlans/shop", &[ok(plan(&["db01", "web01"]))]);
    user.server.play("POST", "replicationRecoveryPlans/shop/unplannedFailover", &[accepted("j1")]);
    user.has_machine("db01", "away");
    user.has_machine("web01", "away");
    user.has_job("j1", &done());
    let output =
        user.run(&["plan", "failover", "shop", "--unplanned", "--point", "latest-multi-vm", "--yes"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains(
        "db01, web01 will be shut down, where that can be reached, at azure and started at munich"
    ));
    assert_eq!(
        user.server.changes()[0].body["properties"],
        json!({
            "failoverDirection": "RecoveryToPrimary", "sourceSiteOperations": "Required",
            "providerSpecificDetails": [
                {"instanceType": "InMage", "recoveryPointType": "LatestProcessed", "useMultiVmSyncPoint": "true"},
            ],
        })
    );
    user.has_machine("web01", "home");
    assert!(user.fail(&["plan", "failover", "shop", "--planned", "--yes"]).contains("different sites"));
    assert_eq!(user.server.changes().len(), 1);
}

#[test]
fn a_plan_goes_out_to_a_file_and_comes_back_changed() {
    let user = User::new();
    user.server.play("GET", "replicationRecoveryPlans/shop", &[ok(plan(&["db01"]))]);
    user.server.play("PATCH", "replicationRecoveryPlans/shop", &[ok(plan(&["db01"]))]);
    let file = user.print(&["plan", "show", "shop", "--as-file"]);
    let file = file.replace("\"db01\"", "\"db01\", \"web01\"");
    std::fs::write(user.path("plan.toml"), file).unwrap();
    user.print(&["plan", "edit", "shop", &user.path("plan.toml")]);
    let groups = &user.server.changes()[0].body["properties"]["groups"];
    assert_eq!(groups[0]["replicationProtectedItems"], json!([{"id": "db01"}, {"id": "web01"}]));
    std::fs::write(user.path("plan.toml"), "[[groups]]\nmachine = [\"db01\"]\n").unwrap();
    assert!(user.fail(&["plan", "edit", "shop", &user.path("plan.toml")]).contains("plan.toml"));
}

#[test]
fn jobs_are_found_by_the_beginning_of_their_name() {
    let user = User::new();
    let named = |name: &str| json!({"name": name, "properties": {"state": "Failed"}});
    let jobs = [named("0a1b2c3d-0000-8000-8000-000000000001"), named("0a1b9999-0000-8000-8000-000000000002")];
    user.server.play("GET", "replicationJobs", &[list(&jobs)]);
    let id = "0a1b2c3d-0000-8000-8000-000000000001";
    user.server.play("GET", &format!("replicationJobs/{id}"), &[ok(jobs[0].clone())]);
    user.server.play("POST", &format!("replicationJobs/{id}/restart"), &[ok(jobs[0].clone())]);
    user.has_job(id, &done());
    user.print(&["job", "restart", "0a1b2c"]);
    assert!(user.fail(&["job", "show", "0a1b"]).contains("2 jobs"));
    assert!(user.fail(&["job", "show", "ffff"]).contains("no job"));
    user.print(&["job", "list", "--state", "failed,in-progress", "--of", "web01"]);
    let asked = user.server.requests().pop().unwrap().target;
    assert_eq!(
        asked,
        "replicationJobs?$filter=jobStatus%20eq%20%27Failed%2CInProgress%27%20and%20targetObjectName%20eq%20%27web01%27"
    );
}

#[test]
fn a_refusal_is_shown_with_what_the_server_said_about_it() {
    let user = User::new();
    user.has_machine("web01", "home");
    let refused =
        refusal(409, "protection.illegal", "commit is not possible", "it is protected", "fail it over first");
    user.server.play("POST", &format!("{}/failoverCommit", item("web01")), &[refused]);
    let said = user.fail(&["machine", "commit", "web01", "--yes"]);
    assert!(
        said.ends_with(
            "error: commit is not possible\n  likely cause: it is protected\n  what to do: fail it over first\n  code: protection.illegal\n"
        ),
        "{said}"
    );
}

#[test]
fn a_new_tokens_secret_goes_where_only_its_owner_can_read_it() {
    let user = User::new();
    let made = ok(json!({"name": "ci", "properties": {"role": "Operator", "secret": "sb-new"}}));
    user.server.play("PUT", "switchbackTokens/ci", &[made]);
    assert_eq!(user.print(&["token", "create", "ci", "--role", "operator"]), "sb-new\n");
    assert_eq!(user.server.changes()[0].body, json!({"properties": {"role": "Operator"}}));
    let file = user.path("ci-token");
    let printed = user.print(&["token", "create", "ci", "--role", "operator", "--file", &file]);
    assert!(!printed.contains("sb-new"), "{printed}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "sb-new\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let before = user.server.changes().len();
    assert!(
        user.fail(&["token", "create", "ci", "--role", "operator", "--file", &file])
            .contains("cannot be made")
    );
    assert_eq!(user.server.changes().len(), before, "a secret that could not be kept must not be made");
}

#[test]
fn profiles_are_tried_before_they_are_stored() {
    let user = User::without_profile();
    user.server.play("GET", "switchbackSites", &[list(&[])]);
    let (ca, token) = (user.path("ca.pem"), user.path("token"));
    std::fs::write(user.path("bad-token"), "wrong").unwrap();
    let (other, _) = certificates("localhost");
    std::fs::write(user.path("other.pem"), other).unwrap();
    let url = user.server.url.clone();
    let bad = user.fail(&[
        "profile",
        "add",
        "x",
        "--server",
        &url,
        "--ca-file",
        &ca,
        "--token-file",
        &user.path("bad-token"),
    ]);
    assert!(bad.contains("does not accept the token") && !bad.contains("wrong"), "{bad}");
    let foreign = user.fail(&[
        "profile",
        "add",
        "x",
        "--server",
        &url,
        "--ca-file",
        &user.path("other.pem"),
        "--token-file",
        &token,
    ]);
    assert!(foreign.contains("not trusted") && foreign.contains("identity certificate"), "{foreign}");
    assert!(!Path::new(&user.path(".config/switchback/profiles.toml")).exists());
    assert!(user.fail(&["machine", "list"]).contains("profile add"));
    user.print(&["profile", "add", "x", "--server", &url, "--ca-file", &ca, "--token-file", &token]);
    let stored = user.path(".config/switchback/profiles.toml");
    assert_eq!(std::fs::metadata(&stored).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(
        user.print(&["profile", "list"]),
        format!("PROFILE  SERVER{}  DEFAULT\nx        {url}  yes\n", " ".repeat(url.len() - 6))
    );
    std::fs::set_permissions(&stored, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(user.fail(&["machine", "list"]).contains("chmod 600"));
}

#[test]
fn the_environment_can_say_which_server() {
    let user = User::without_profile();
    user.server.play("GET", "switchbackSites", &[list(&[json!({"name": "munich"})])]);
    user.server.play("GET", "replicationFabrics/munich", &[ok(json!({"properties": {"health": "Normal"}}))]);
    let mut command = user.command(&["site", "list"]);
    command.env("SWITCHBACK_SERVER", &user.server.url).env("SWITCHBACK_CA_FILE", user.path("ca.pem"));
    let output = command.env("SWITCHBACK_TOKEN_FILE", user.path("token")).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("munich"), "{}", stderr(&output));
}

#[test]
fn a_console_does_not_steer_the_terminal() {
    let user = User::new();
    user.has_machine("web01", "away");
    user.server.play(
        "GET",
        "switchbackSites/azure/machines/vm-9/console",
        &[text("login:\u{1b}[2J\r\nok\n")],
    );
    assert_eq!(user.print(&["machine", "console", "web01"]), "login:[2J\nok\n");
    assert_eq!(
        user.server.requests().pop().unwrap().target,
        "switchbackSites/azure/machines/vm-9/console?bytes=65536"
    );
}

#[test]
fn what_machines_cost_is_shown_with_whose_prices_these_are() {
    let user = User::new();
    let line = json!({"what": "page blobs", "quantity": 120.0, "unit": "GiB", "price": 0.05, "amount": 6.0, "basis": "whole sizes"});
    let cost = json!({"name": "web01", "properties": {
        "currency": "EUR", "prices": "/p/prices.toml", "pricesDate": "2026-01-31", "pricesSource": "our contract",
        "monthly": [line], "monthlyTotal": 6.0, "failedOverHourly": [], "failedOverHourlyTotal": null, "notes": ["transactions: not measured yet"],
    }});
    user.server.play("GET", "switchbackProtectedMachines/web01/cost", &[ok(cost.clone())]);
    user.server.play("GET", "switchbackCosts", &[list(std::slice::from_ref(&cost))]);
    let shown = user.print(&["machine", "cost", "web01"]);
    for expected in [
        "Protected, per month: 6.00",
        "page blobs  120.00 GiB  0.0500        6.0000  whole sizes",
        "per hour and beside that: -",
        "not in it: transactions: not measured yet",
        "prices of 2026-01-31 in EUR: /p/prices.toml (our contract)",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let shown = user.print(&["machine", "cost"]);
    assert!(shown.contains("web01  6.00       -                      EUR       1 (see"), "{shown}");
    assert!(shown.contains("our contract"), "{shown}");
    let printed: Value = serde_json::from_str(&user.print(&["machine", "cost", "--output", "json"])).unwrap();
    assert_eq!(printed, json!([cost]));
}

#[test]
fn a_table_of_prices_is_made_once_checked_and_its_errors_name_the_line() {
    let user = User::without_profile();
    let directory = user.home.path().display().to_string();
    let prices = |more: &[&str]| user.run(&[&["site", "prices", "--data", &directory], more].concat());
    let shown = String::from_utf8(prices(&[]).stdout).unwrap();
    assert!(shown.contains("built-in examples"), "{shown}");
    assert!(prices(&["--init"]).status.success());
    let shown = String::from_utf8(prices(&[]).stdout).unwrap();
    assert!(shown.contains("prices.toml (examples"), "{shown}");
    let file = user.home.path().join("prices.toml");
    let edited = std::fs::read_to_string(&file).unwrap().replace("kept = 0.045", "kept = -1.0");
    std::fs::write(&file, &edited).unwrap();
    let again = prices(&["--init"]);
    assert!(!again.status.success() && stderr(&again).contains("not written over"), "{}", stderr(&again));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), edited);
    let refused = prices(&[]);
    assert!(!refused.status.success());
    let said = stderr(&refused);
    assert!(said.contains("line ") && said.contains("kept") && said.contains("0 or more"), "{said}");
}

#[test]
fn lists_and_changes_go_where_the_api_has_them() {
    let user = User::new();
    let nothing = || -> Answer { list(&[]) };
    for path in [
        "switchbackServers",
        "switchbackProtectionGroups",
        "replicationRecoveryPlans",
        "switchbackTokens",
        "switchbackAudit",
        "switchbackNetworkMappings",
        "switchbackProtectedMachines/web01/recoveryPoints",
        "replicationEvents",
        "switchbackSites/munich/networks",
        "switchbackSites/munich/datastores",
    ] {
        user.server.play("GET", path, &[nothing()]);
    }
    user.server.play(
        "POST",
        "switchbackEnrolment/default/showPassphrase",
        &[ok(json!({"passphrase": "eight words"}))],
    );
    user.server.play("PUT", "switchbackSites/azure", &[ok(json!({"name": "azure"}))]);
    user.server.play("PUT", "switchbackProtectionGroups/PG1", &[ok(json!({"name": "PG1"}))]);
    let mapping = "switchbackSites/munich/networks/VM%20Network/mappings/azure";
    user.server.play("PUT", mapping, &[ok(json!({}))]);
    let commands: [&[&str]; 10] = [
        &["server", "list"],
        &["group", "list"],
        &["plan", "list"],
        &["token", "list"],
        &["audit", "list"],
        &["network-mapping", "list"],
        &["recovery-point", "list", "web01"],
        &["event", "list", "--severity", "critical"],
        &["site", "networks", "munich"],
        &["site", "datastores", "munich"],
    ];
    for args in commands {
        let table = user.print(args);
        assert_eq!(table.lines().count(), 1, "{args:?}: {table}");
    }
    assert_eq!(user.print(&["passphrase"]), "eight words\n");
    user.print(&["site", "add", "azure", "--local", "/srv/azure"]);
    user.print(&[
        "group",
        "create",
        "PG1",
        "--from",
        "munich",
        "--to",
        "azure",
        "--interval",
        "5s",
        "--multi-vm",
        "true",
    ]);
    user.print(&["network-mapping", "set", "munich", "VM Network", "azure", "lan"]);
    let bodies: Vec<_> =
        user.server.changes().into_iter().skip(1).map(|seen| seen.body["properties"].clone()).collect();
    assert_eq!(
        bodies,
        [
            json!({"kind": "local", "directory": "/srv/azure"}),
            json!({"sourceSite": "munich", "targetSite": "azure", "policy": {"intervalMs": 5000, "multiVm": true}}),
            json!({"targetNetwork": "lan", "testNetwork": null}),
        ]
    );
}

#[test]
fn shells_and_manual_readers_get_all_commands() {
    let user = User::without_profile();
    for shell in ["bash", "zsh", "fish"] {
        assert!(user.print(&["completions", shell]).contains("recovery-point"), "{shell}");
    }
    let pages = user.path("man");
    user.print(&["man", &pages]);
    let page = std::fs::read_to_string(Path::new(&pages).join("switchback-plan-failover.1")).unwrap();
    assert!(page.contains("failback"), "{page}");
    assert!(!Path::new(&pages).join("switchback-freeze-helper.1").exists());
}
