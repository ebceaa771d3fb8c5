//! The eleventh story: the main one, by clicking in the portal, in a real browser: both machines are protected, a plan of them fails over, each is committed
//! and re-protected with the servers that its dialog offers, comes home, and is replicated again. Before that a recovery point is booted in a sandbox.
//!
//! What is clicked is in `crates/portal/tests/browser/with_guests.cjs`, chapter by chapter; what came of it is looked for here between the chapters, as in
//! the main story, on the disks and by what the guests say. The command line founds sites and the group, and looks.

use super::client::{Client, script};
use super::places::CAST;
use super::stage::{At, Stage};
use super::story::{self, GROUP};
use crate::prepared::prepared;

/// Where the pages are photographed, in the story's directory.
pub const PICTURES: &str = "logs/portal/pages";

/// Plays it.
pub(super) fn play(stage: &mut Stage) -> anyhow::Result<()> {
    story::found_sites(stage)?;
    story::make_machines(stage)?;
    let mut person = person(stage)?;
    stage.screen.step("3. In the portal: both machines protected; a recovery plan of two groups");
    story::make_group(stage)?;
    person.play(stage, &["protect", "make_plan"])?;
    story::wait_for_shared_point(stage)?;
    person.play(stage, &["verify"])?;
    let disaster = story::strike(stage, person.plays("plan_failover"))?;
    story::measure_loss(stage, disaster)?;
    stage.screen.step("5. In the portal: commit, each machine by itself; work goes on at recovery");
    person.play(stage, &["commit"])?;
    story::work_goes_on(stage, At::Recovery)?;
    story::reprotect(stage, At::Recovery, GROUP, person.plays("reprotect_home"))?;
    story::fail_back(stage, person.plays("come_home"))?;
    stage.screen.step("8. In the portal: commit; work goes on at home");
    person.play(stage, &["commit"])?;
    story::work_goes_on(stage, At::Home)?;
    story::reprotect(stage, At::Home, GROUP, person.plays("plan_reprotect"))?;
    stage.screen.step("   In the portal: a last look at all tabs");
    person.play(stage, &["tabs"])
}

fn person(stage: &Stage) -> anyhow::Result<Client> {
    let packages = prepared("lab-browser", "")?.to_string_lossy().into_owned();
    let (pictures, machines) = (stage.path(PICTURES), CAST.map(|cast| cast.name).join(" "));
    std::fs::create_dir_all(&pictures)?;
    let words = vec![
        script("../portal/tests/browser/with_guests.cjs"),
        stage.user_variable("SWITCHBACK_SERVER")?.to_owned(),
        pictures,
    ];
    let variables = [("NODE_PATH", packages.as_str()), ("SWITCHBACK_MACHINES", &machines)];
    Client::new(stage, "node".as_ref(), words, &variables, stage.path("logs/portal").as_ref())
}
