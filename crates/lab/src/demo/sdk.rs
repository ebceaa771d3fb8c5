//! The ninth story: the main one, asked for by Microsoft's SDKs for Azure Site Recovery, unmodified, over TLS: first machine by machine, both at one time,
//! then by a recovery plan; failover, commit, reprotect, failback, commit, reprotect, and test failovers; that for Python. At last one machine by that for
//! JavaScript.
//!
//! The clients are those of the API's own tests (`crates/api/tests/sdk/client.py`, `client.cjs`), which drive a simulated world there. They ask chapter by
//! chapter; what came of it is looked for here between the chapters, as in the main story, on the disks and by what the guests say. The command line sets
//! what the contract has no word for (a freeze budget, seconds between points), and looks. Every exchange is left in the logs ([`RECORDED`]), to be judged.

use std::path::Path;

use switchback_sites::Site as _;

use super::client::{Client, script};
use super::places::CAST;
use super::stage::{At, Stage};
use super::story;
use crate::prepared::prepared;

/// The policy that the client makes, and what its group is called therefore.
const GROUP: &str = "PG2";
/// Where the exchanges with the clients are left, in the story's directory.
pub const RECORDED: &str = "logs/sdk/recorded";
/// The version that `oav` knows.
const API_VERSION: &str = "2024-04-01";

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    story::found_sites(stage)?;
    story::make_machines(stage)?;
    let mut client = python(stage)?;
    protect(stage, &mut client)?;
    each_by_itself(stage, &mut client)?;
    by_a_plan(stage, &mut client)?;
    by_another(stage)
}

fn python(stage: &Stage) -> anyhow::Result<Client> {
    let machines = CAST.map(|cast| cast.name).join(" ");
    let variable = |name| stage.user_variable(name).map(str::to_owned);
    // Nothing compiled is left beside the scripts.
    let words = vec![
        "-B".to_owned(),
        script("../api/tests/sdk/client.py"),
        variable("SWITCHBACK_SERVER")?,
        API_VERSION.to_owned(),
        variable("SWITCHBACK_CA_FILE")?,
        stage.path(RECORDED),
    ];
    let logs = Path::new(&stage.path(RECORDED)).with_file_name("python");
    Client::new(
        stage,
        &prepared("lab-azure", "witness")?,
        words,
        &[("SWITCHBACK_MACHINES", &machines)],
        &logs,
    )
}

fn javascript(stage: &Stage, machine: &str) -> anyhow::Result<Client> {
    let packages = prepared("lab-azure", "node")?.to_string_lossy().into_owned();
    let authority = stage.user_variable("SWITCHBACK_CA_FILE")?.to_owned();
    let words = vec![
        script("../api/tests/sdk/client.cjs"),
        stage.user_variable("SWITCHBACK_SERVER")?.to_owned(),
        API_VERSION.to_owned(),
        stage.path(RECORDED),
    ];
    let variables = [
        ("NODE_PATH", packages.as_str()),
        ("NODE_EXTRA_CA_CERTS", &authority),
        ("SWITCHBACK_MACHINES", machine),
        ("SWITCHBACK_POLICY", GROUP),
    ];
    let logs = Path::new(&stage.path(RECORDED)).with_file_name("javascript");
    Client::new(stage, Path::new("node"), words, &variables, &logs)
}

fn protect(stage: &mut Stage, client: &mut Client) -> anyhow::Result<()> {
    stage.screen.step("3. By the SDK: a policy and its mapping; both machines protected");
    client.play(stage, &["make_policy"])?;
    stage.note(&["group", "update", GROUP, "--interval", "5s", "--freeze-budget", "3s"])?;
    stage.note(&["group", "update", &story::twin_of(GROUP), "--interval", "5s", "--freeze-budget", "3s"])?;
    client.play(stage, &["enable"])?;
    story::wait_for_shared_point(stage).map(drop)
}

fn each_by_itself(stage: &mut Stage, client: &mut Client) -> anyhow::Result<()> {
    let disaster = story::strike(stage, client.plays("leave"))?;
    story::measure_loss(stage, disaster)?;
    stage.screen.step("5. By the SDK: commit; work goes on at recovery");
    client.play(stage, &["commit"])?;
    story::work_goes_on(stage, At::Recovery)?;
    story::reprotect(stage, At::Recovery, GROUP, client.plays("reprotect_home"))?;
    story::fail_back(stage, client.plays("planned_failover"))?;
    stage.screen.step("8. By the SDK: commit; work goes on at home");
    client.play(stage, &["commit"])?;
    story::work_goes_on(stage, At::Home)?;
    story::reprotect(stage, At::Home, GROUP, client.plays("reprotect_away"))
}

fn by_a_plan(stage: &mut Stage, client: &mut Client) -> anyhow::Result<()> {
    stage
        .screen
        .step("9. By the SDK: a test failover of web01; then one of a recovery plan, and their clean-up");
    client.play(stage, &["test_failover", "make_plan", "plan_test_failover"])?;
    let only = stage.place(At::Recovery).site.machines()?.len();
    stage.check("machines at recovery after the tests", CAST.len(), only, only == CAST.len());
    stage.screen.step("10. By the SDK: the plan fails over, is committed, and replicates home");
    story::starts_again(stage, At::Recovery, client.plays("plan_leave"))?;
    client.play(stage, &["plan_settle_away"])?;
    story::fail_back(stage, client.plays("plan_come_home"))?;
    stage.screen.step("11. By the SDK: the plan is committed, and replicates to recovery again");
    client.play(stage, &["plan_settle_home"])?;
    story::work_goes_on(stage, At::Home)
}

/// The other SDK, with the machine that nobody refers to: what it loses is missed by no other.
fn by_another(stage: &mut Stage) -> anyhow::Result<()> {
    let cast = CAST[1];
    let title = format!("12. By the SDK for JavaScript: {} by itself, there and home again", cast.name);
    stage.screen.step(&title);
    let resumed_at = story::starts_again_of(stage, At::Home, &[cast], |stage| {
        javascript(stage, cast.name)?.play(stage, &["inventory", "round"])
    })?;
    let what = format!("{} goes on at home after its round", cast.name);
    stage.check(what, "a record", format!("record {}", resumed_at[0]), resumed_at[0] > 1);
    story::check_delta(stage, cast, At::Home)?;
    story::work_goes_on(stage, At::Home)
}
