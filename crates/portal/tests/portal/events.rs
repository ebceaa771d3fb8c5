//! The tab Events.

use switchback_model::{
    AccessRole, ActionKind, ItemOperation, JobState, PlanAction, PlanGroup, PointChoice, RecoveryPlan,
};

use crate::browser::Server;
use crate::jobs::settle_job;

/// A drill that fails in a script with markup in its name.
fn fail(server: &mut Server) {
    let name = |text: &str| text.parse().unwrap();
    let script = ActionKind::ServerScript { script: "<i>x</i>".into(), limit_s: 1 };
    let action = PlanAction { name: "a".into(), towards: Vec::new(), at_test: true, action: script };
    let group =
        PlanGroup { machines: vec![name("web01")], start_actions: vec![action], end_actions: Vec::new() };
    let plan = RecoveryPlan {
        name: name("RP1"),
        home_site: name("home"),
        away_site: name("recovery"),
        groups: vec![group],
        protection_groups: Vec::new(),
        job: None,
    };
    server.world.control.put_plan(&plan).unwrap();
    let operation = ItemOperation::TestFailover { point: PointChoice::Latest };
    let job = server.world.control.operate_plan("anna", &name("RP1"), operation).unwrap();
    assert_eq!(settle_job(server, job.id).state, JobState::Failed);
}

#[tokio::test]
async fn events_are_listed_filtered_and_paged() {
    let mut server = Server::new();
    let empty = server.signed_in("first", AccessRole::Reader).await.page("/portal/events").await;
    assert!(empty.contains("Nothing has happened yet"), "{empty}");
    server.protect();
    fail(&mut server);
    let mut reader = server.signed_in("reader", AccessRole::Reader).await;
    let page = reader.page("/portal/events").await;
    for shown in ["job.succeeded", "job.failed", "&#60;i&#62;x&#60;/i&#62;", ">critical<", ">information<"] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(!page.contains("<i>x"), "{page}");
    let newest = page.find("job.failed").unwrap();
    assert!(newest < page.find("job.succeeded").unwrap(), "newest first");
    for (query, succeeded, failed) in [
        ("severity=critical", false, true),
        ("severity=warning", false, true),
        ("severity=info", true, true),
        ("severity=%3Cb%3E", true, true),
        ("object=WEB", true, false),
        ("object=rp1", false, true),
        ("q=enable+protection", true, false),
        ("q=SCRIPT&object=rp", false, true),
        ("q=nothing-like-it", false, false),
    ] {
        let page = reader.page(&format!("/portal/events?{query}")).await;
        let seen = (page.contains("job.succeeded"), page.contains("job.failed"));
        assert_eq!(seen, (succeeded, failed), "{query}: {page}");
    }
    // Events of one moment have no order.
    server.world.round();
    for _ in 0..50 {
        let name = "web01".parse().unwrap();
        let job = server.world.control.operate("anna", &name, ItemOperation::Resynchronize).unwrap();
        settle_job(&mut server, job.id);
    }
    let mut reader = server.signed_in("another", AccessRole::Reader).await;
    let page = reader.page("/portal/events?severity=info&q=job").await;
    let next =
        page.split_once("id=\"next\" href=\"").unwrap().1.split_once('"').unwrap().0.replace("&#38;", "&");
    assert!(
        next.contains("severity=info") && next.contains("q=job") && !page.contains("job.failed"),
        "{next}"
    );
    let last = reader.page(&next).await;
    assert!(
        last.contains("job.failed") && last.contains("id=\"previous\"") && !last.contains("id=\"next\""),
        "{last}"
    );
}
