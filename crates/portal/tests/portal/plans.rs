//! The tab Recovery Plans: made, edited, run, reported, deleted.

use switchback_model::{AccessRole, ActionKind, JobId, JobState, Phase, RecoveryPlan, Side};

use crate::browser::{Answered, Browser, Server};
use crate::jobs::settle_job;

const EDIT: &str = "/portal/plans/RP1/edit";

fn plan(server: &Server) -> RecoveryPlan {
    server.world.control.plan(&"RP1".parse().unwrap()).unwrap()
}

/// Presses a button of the editor.
async fn press(browser: &mut Browser<'_>, fields: &[(&str, &str)]) -> Answered {
    let seen = browser.get(EDIT).await.field("seen");
    let fields: Vec<_> = fields.iter().copied().chain([("seen", seen.as_str())]).collect();
    browser.post(EDIT, &fields).await
}

async fn add_action(browser: &mut Browser<'_>, query: &str, fields: &[(&str, &str)]) -> Answered {
    let path = format!("{EDIT}/action?{query}");
    let page = browser.get(&path).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let (seen, kind) = (page.field("seen"), page.field("kind"));
    let own = [("seen", seen.as_str()), ("kind", kind.as_str())];
    let fields: Vec<_> = own.iter().chain(fields).copied().collect();
    browser.post(&path, &fields).await
}

/// `RP1`: a manual step, then `web01`.
async fn make_plan(server: &Server) {
    let mut browser = server.signed_in("maker", AccessRole::Contributor).await;
    browser.page("/portal/new-plan").await;
    let made = browser.post("/portal/new-plan", &[("name", "RP1"), ("sites", "home/recovery")]).await;
    assert_eq!(made.location(), EDIT);
    press(&mut browser, &[("do", "add-machine"), ("group", "1"), ("machine", "web01")]).await.location();
    let step =
        [("name", "<i>DNS</i>"), ("instructions", "Turn <b>it</b>"), ("towards", "both"), ("at-test", "yes")];
    let added = add_action(&mut browser, "group=1&place=before&kind=manual", &step).await;
    assert_eq!(added.location(), "/portal/plans/RP1/edit#group-1");
}

/// Sends a confirmation of the plan; the job that comes of it.
async fn run(browser: &mut Browser<'_>, operation: &str, fields: &[(&str, &str)]) -> JobId {
    let path = format!("/portal/plans/RP1/{operation}");
    let page = browser.get(&path).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let seen = page.field("seen");
    let fields: Vec<_> = fields.iter().copied().chain([("seen", seen.as_str())]).collect();
    let sent = browser.post(&path, &fields).await;
    sent.location().strip_prefix("/portal/jobs/").unwrap().parse().unwrap()
}

/// As a script sends it.
#[tokio::test]
async fn what_is_dragged_is_where_it_was_dropped() {
    let mut server = Server::new();
    server.protect();
    make_plan(&server).await;
    let mut browser = server.signed_in("anna", AccessRole::Contributor).await;
    press(&mut browser, &[("do", "add-group")]).await.location();
    let drag = |group, to| [("do", "place-machine"), ("group", group), ("machine", "web01"), ("to", to)];
    let placed = press(&mut browser, &drag("1", "2")).await;
    assert_eq!(placed.location(), "/portal/plans/RP1/edit#group-2");
    let machines = || plan(&server).groups.iter().map(|group| group.machines.len()).collect::<Vec<_>>();
    assert_eq!(machines(), [0, 1]);
    for wrong in [drag("1", "2"), drag("2", "3"), drag("2", "")] {
        assert!(press(&mut browser, &wrong).await.status.is_client_error(), "{wrong:?}");
    }
    press(&mut browser, &[("do", "add-group")]).await.location();
    for (group, to, expected) in [("2", "3", [0, 0, 1]), ("3", "1", [1, 0, 0]), ("1", "1", [1, 0, 0])] {
        let place = [("do", "place-group"), ("group", group), ("to", to)];
        let there = format!("/portal/plans/RP1/edit#group-{to}");
        assert_eq!(press(&mut browser, &place).await.location(), there);
        assert_eq!(machines(), expected);
    }
    // One that shows what is not so any more changes nothing.
    let stale = [&drag("1", "2")[..], &[("seen", "another")]].concat();
    browser.page(EDIT).await;
    let refused = browser.post(EDIT, &stale).await;
    assert!(refused.status == 409 && refused.text.contains("role=\"alert\""), "{}", refused.text);
    assert_eq!(machines(), [1, 0, 0]);
}

#[tokio::test]
async fn a_plan_is_made_and_edited_with_buttons_alone() {
    let mut server = Server::new();
    server.protect();
    let mut browser = server.signed_in("anna", AccessRole::Contributor).await;
    let empty = browser.page("/portal/plans").await;
    assert!(empty.contains("There is no recovery plan") && empty.contains("id=\"new-plan\""), "{empty}");
    make_plan(&server).await;
    let again = browser.post("/portal/new-plan", &[("name", "rp1"), ("sites", "home/recovery")]).await;
    assert!(again.status == 409 && again.text.contains("already"), "{}", again.text);
    assert_eq!(plan(&server).groups[0].machines.len(), 1, "the plan of that name is as it was");
    press(&mut browser, &[("do", "add-group")]).await.location();
    let moved = press(&mut browser, &[("do", "machine-down"), ("group", "1"), ("machine", "web01")]).await;
    assert_eq!(moved.location(), "/portal/plans/RP1/edit#group-2");
    press(&mut browser, &[("do", "group-up"), ("group", "2")]).await.location();
    let wait = [("name", "settle"), ("seconds", "90"), ("towards", "home")];
    add_action(&mut browser, "group=1&place=after&kind=delay", &wait).await.location();
    let script = [
        ("name", "check"),
        ("script", "check.sh"),
        ("limit", "3700"),
        ("machine", "web01"),
        ("towards", "both"),
    ];
    add_action(&mut browser, "group=1&place=after&kind=guest-script", &script).await.location();
    press(&mut browser, &[("do", "action-up"), ("group", "1"), ("place", "after"), ("index", "2")])
        .await
        .location();
    let groups = plan(&server).groups;
    assert_eq!(
        (groups.len(), groups[0].machines[0].as_str(), groups[0].start_actions.len()),
        (2, "web01", 0)
    );
    assert_eq!((groups[1].machines.len(), groups[1].start_actions[0].name.as_str()), (0, "<i>DNS</i>"));
    let [check, settle] = groups[0].end_actions.as_slice() else { panic!("{groups:?}") };
    assert_eq!(
        (settle.name.as_str(), settle.towards.as_slice(), settle.at_test),
        ("settle", &[Side::Home][..], false)
    );
    let limit_s = 3700;
    let expected =
        ActionKind::GuestScript { machine: "web01".parse().unwrap(), script: "check.sh".into(), limit_s };
    assert_eq!((check.name.as_str(), &check.action), ("check", &expected));
    // One that is there is shown as it is, and changed in its place.
    let page = browser.page(&format!("{EDIT}/action?group=1&place=after&index=2")).await;
    assert!(page.contains("value=\"90\"") && page.contains("value=\"home\" selected"), "{page}");
    let wait = [("name", "settle"), ("seconds", "30"), ("towards", "both")];
    add_action(&mut browser, "group=1&place=after&index=2", &wait).await.location();
    assert_eq!(plan(&server).groups[0].end_actions[1].action, ActionKind::Delay { seconds: 30 });
    // What is not empty is not removed, what is not there is not moved, what was not seen is not changed.
    assert_eq!(press(&mut browser, &[("do", "remove-group"), ("group", "1")]).await.status, 400);
    assert_eq!(
        press(&mut browser, &[("do", "machine-up"), ("group", "1"), ("machine", "web01")]).await.status,
        400
    );
    assert_eq!(press(&mut browser, &[("do", "group-up"), ("group", "9")]).await.status, 400);
    let before = plan(&server);
    let stale = browser.post(EDIT, &[("do", "add-group"), ("seen", "0123456789abcdef")]).await;
    assert!(stale.status == 409 && stale.text.contains("nothing was done"), "{}", stale.text);
    let wrong = [("name", ""), ("seconds", "30")];
    assert_eq!(add_action(&mut browser, "group=1&place=before&kind=delay", &wrong).await.status, 400);
    assert_eq!(plan(&server), before);
    browser.page("/portal/plans/RP1/delete").await;
    assert_eq!(browser.post("/portal/plans/RP1/delete", &[]).await.location(), "/portal/plans");
    assert!(server.world.control.plans().unwrap().is_empty());
}

#[tokio::test]
async fn a_run_is_confirmed_with_its_direction_machines_and_points() {
    let mut server = Server::new();
    server.protect();
    make_plan(&server).await;
    let mut operator = server.signed_in("anna", AccessRole::Operator).await;
    let page = operator.page("/portal/plans/RP1").await;
    for shown in [
        "id=\"do-test-failover\"",
        "id=\"do-failover\"",
        "Group 1",
        "&#60;i&#62;DNS",
        "also at test failovers",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(
        !page.contains("id=\"edit\"") && !page.contains("id=\"do-commit\"") && !page.contains("<i>DNS"),
        "{page}"
    );
    let page = operator.page("/portal/plans/RP1/test-failover").await;
    for told in [
        "from home to the recovery site recovery, copies alone",
        "<dt>Group 1</dt><dd>web01 (protected, newest point",
        "<dt>Lost</dt><dd>nothing</dd>",
        "The newest moment that all machines share; at most the last",
    ] {
        assert!(page.contains(told), "{told}: {page}");
    }
    let refused = operator.get("/portal/plans/RP1/commit").await;
    assert!(refused.status == 409 && refused.text.contains("none of its machines"), "{}", refused.text);
    let stale = operator.post("/portal/plans/RP1/test-failover", &[("seen", "x"), ("point", "Latest")]).await;
    assert_eq!(stale.status, 409);
    assert!(server.world.control.plan(&"RP1".parse().unwrap()).unwrap().job.is_none());
}

#[tokio::test]
async fn a_drill_is_run_confirmed_cleaned_up_and_reported() {
    let mut server = Server::new();
    server.protect();
    make_plan(&server).await;
    let mut operator = server.signed_in("anna", AccessRole::Operator).await;
    let id = run(&mut operator, "test-failover", &[("point", "LatestMultiVmProcessed")]).await;
    drop(operator);
    assert_eq!(settle_job(&mut server, id).state, JobState::Suspended);
    let job = format!("/portal/jobs/{id}");
    let mut operator = server.signed_in("berta", AccessRole::Operator).await;
    let page = operator.page(&job).await;
    for shown in ["It waits for somebody: &#60;i&#62;DNS", "Turn &#60;b&#62;it", "id=\"do-resume\""] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(operator.page("/portal/plans/RP1").await.contains("A job works on it"));
    assert!(operator.page(&format!("{job}/resume")).await.contains("Turn &#60;b&#62;it"));
    let resumed = operator.post(&format!("{job}/resume"), &[("comments", "it is <u>turned</u>")]).await;
    assert_eq!(resumed.location(), job);
    drop(operator);
    assert_eq!(settle_job(&mut server, id).state, JobState::Succeeded);
    let mut operator = server.signed_in("carla", AccessRole::Operator).await;
    let page = operator.page(&job).await;
    for shown in [
        ">Test failover</a>",
        "href=\"/portal/machines/web01\"",
        "confirmed by berta: it is &#60;u&#62;turned",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    let report = operator.page(&format!("{job}/report")).await;
    for shown in
        ["1 of 1 came up", "Oldest recovery point", "to the recovery site", "have not been cleaned up yet"]
    {
        assert!(report.contains(shown), "{shown}: {report}");
    }
    let copies = operator.page("/portal/plans/RP1").await;
    assert!(
        copies.contains("id=\"do-test-failover-cleanup\"") && !copies.contains("id=\"do-test-failover\"")
    );
    let cleaned = run(&mut operator, "test-failover-cleanup", &[("comments", "all <s>well</s>")]).await;
    drop(operator);
    assert_eq!(settle_job(&mut server, cleaned).state, JobState::Succeeded);
    let mut reader = server.signed_in("auditor", AccessRole::Reader).await;
    let report = reader.page(&format!("{job}/report")).await;
    assert!(report.contains("all &#60;s&#62;well") && report.contains("by carla"), "{report}");
    assert!(
        !report.contains("have not been cleaned up yet")
            && !report.contains("<td data-label=\"Recovery point\">–")
    );
}

#[tokio::test]
async fn a_plan_goes_there_and_comes_home() {
    let mut server = Server::new();
    server.protect();
    make_plan(&server).await;
    let phases = [
        ("failover", "from home to the recovery site recovery", "Failover: RP1", Phase::FailedOver),
        ("commit", "none: the machines stay where they run", "Commit: RP1", Phase::Committed),
        ("reprotect", "replication from recovery home to home", "Reprotect: RP1", Phase::Protected),
        ("planned-failover", "from recovery home to home", "Planned failback: RP1", Phase::FailedOver),
    ];
    for (number, (operation, direction, title, phase)) in phases.into_iter().enumerate() {
        let mut operator = server.signed_in(&format!("operator-{number}"), AccessRole::Operator).await;
        let page = operator.page(&format!("/portal/plans/RP1/{operation}")).await;
        assert!(page.contains(direction) && page.contains(title), "{operation}: {page}");
        let id = run(&mut operator, operation, &[("point", "Latest"), ("shut-down", "yes")]).await;
        drop(operator);
        let mut job = settle_job(&mut server, id);
        if job.state == JobState::Suspended {
            server.world.control.resume_job("tester", id, "").unwrap();
            job = settle_job(&mut server, id);
        }
        assert_eq!(job.state, JobState::Succeeded, "{operation}: {job:#?}");
        let parts = job.tasks.iter().flat_map(|task| &task.jobs);
        let takes = |id: &JobId| server.world.control.job(*id).unwrap().point().is_some();
        assert_eq!(parts.map(takes).collect::<Vec<_>>(), [operation.ends_with("failover")], "{operation}");
        server.settle();
        let item = server.world.control.item(&"web01".parse().unwrap()).unwrap().item;
        assert_eq!(item.protection.phase, phase, "{operation}");
    }
    let mut reader = server.signed_in("reader", AccessRole::Reader).await;
    let page = reader.page("/portal/plans/RP1").await;
    assert!(page.contains("PG1, PG1_Failback"), "{page}");
    let list = reader.page("/portal/plans").await;
    assert!(list.contains("at home") && list.contains(">Planned failover</a>"), "{list}");
}

#[tokio::test]
async fn who_may_only_look_or_run_changes_no_plan() {
    let mut server = Server::new();
    server.protect();
    make_plan(&server).await;
    let before = plan(&server);
    for (name, role) in [("reader", AccessRole::Reader), ("operator", AccessRole::Operator)] {
        let mut browser = server.signed_in(name, role).await;
        let list = browser.page("/portal/plans").await;
        assert!(!list.contains("new-plan"), "{name}: {list}");
        let page = browser.page("/portal/plans/RP1").await;
        assert!(!page.contains("id=\"edit\"") && !page.contains("id=\"delete\""), "{name}: {page}");
        assert_eq!(page.contains("id=\"do-"), role == AccessRole::Operator, "{name}");
        let action = format!("{EDIT}/action?group=1&place=before&kind=delay");
        for path in [EDIT, &action, "/portal/plans/RP1/delete", "/portal/new-plan"] {
            assert_eq!(browser.get(path).await.status, 403, "{name} {path}");
        }
        let seen =
            blake3::hash(serde_json::to_string(&before.groups).unwrap().as_bytes()).to_hex()[..16].to_owned();
        assert_eq!(browser.post(EDIT, &[("do", "add-group"), ("seen", &seen)]).await.status, 403, "{name}");
        assert_eq!(browser.post("/portal/plans/RP1/delete", &[]).await.status, 403, "{name}");
        let new = [("name", "RP2"), ("sites", "home/recovery")];
        assert_eq!(browser.post("/portal/new-plan", &new).await.status, 403, "{name}");
    }
    assert_eq!(server.world.control.plans().unwrap(), [before]);
    let mut reader = server.signed_in("another", AccessRole::Reader).await;
    assert_eq!(reader.get("/portal/plans/RP1/failover").await.status, 403);
    assert_eq!(reader.get("/portal/plans/none").await.status, 404);
}
