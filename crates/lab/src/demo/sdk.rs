//! The ninth story: the main one, asked for by Microsoft's SDK for Azure Site Recovery, unmodified, over TLS: first machine by machine, both at one time,
//! then by a recovery plan; failover, commit, reprotect, failback, commit, reprotect, and test failovers.
//!
//! The client is that of the API's own tests (`crates/api/tests/sdk/client.py`), which drives a simulated world there. It asks chapter by chapter; what
//! came of it is looked for here between the chapters, as in the main story, on the disks and by what the guests say. The command line sets what the
//! contract has no word for (a freeze budget, seconds between points), and looks.

use std::path::Path;

use anyhow::Context as _;
use switchback_sites::Site as _;

use super::command_line::CommandLine;
use super::places::CAST;
use super::stage::{At, JOB_LIMIT, Stage};
use super::story;
use crate::arm::witness_python;

/// The policy that the client makes, and what its group is called therefore.
const GROUP: &str = "PG2";
const CLIENT: &str = "../api/tests/sdk/client.py";
/// The version that `oav` knows.
const API_VERSION: &str = "2024-04-01";

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    story::found_sites(stage)?;
    story::make_machines(stage)?;
    let mut client = Client::of(stage)?;
    protect(stage, &mut client)?;
    each_by_itself(stage, &mut client)?;
    by_a_plan(stage, &mut client)
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

/// Microsoft's SDK.
struct Client {
    python: CommandLine,
    url: String,
    authority: String,
    recorded: String,
}

impl Client {
    fn of(stage: &Stage) -> anyhow::Result<Self> {
        let mut environment = stage.user_environment().to_vec();
        let value = |name: &str| {
            let found = environment.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).with_context(|| format!("{name} is not set"))
        };
        let (url, authority) = (value("SWITCHBACK_SERVER")?, value("SWITCHBACK_CA_FILE")?);
        environment.push(("SWITCHBACK_MACHINES".to_owned(), CAST.map(|cast| cast.name).join(" ")));
        let logs = stage.logs().join("sdk");
        std::fs::create_dir(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let recorded = logs.join("recorded").to_string_lossy().into_owned();
        Ok(Self {
            python: CommandLine::new(&witness_python()?, environment, &logs),
            url,
            authority,
            recorded,
        })
    }

    /// Has it play chapters, one after the other.
    fn play(&mut self, stage: &mut Stage, chapters: &[&str]) -> anyhow::Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(CLIENT);
        let script = script.to_string_lossy();
        // Nothing compiled is left beside the scripts.
        let recorded = format!("{}/{}", self.recorded, chapters.join("-"));
        let words = ["-B", &script, &self.url, API_VERSION, &self.authority, &recorded];
        for line in self.python.text(&[&words, chapters].concat(), JOB_LIMIT)?.lines() {
            stage.screen.say(line);
        }
        Ok(())
    }

    /// The same, for later.
    fn plays<'a>(&'a mut self, chapter: &'a str) -> impl FnOnce(&mut Stage) -> anyhow::Result<()> + 'a {
        |stage| self.play(stage, &[chapter])
    }
}
