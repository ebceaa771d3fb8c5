//! What pages show, and that what is asked for on them is done.

use axum::body::Body;
use axum::http::Request;
use switchback_identity::Role;
use switchback_model::{AccessRole, JobState, Phase};

use crate::browser::Server;

#[tokio::test]
async fn people_come_to_the_portal_and_programs_to_the_api() {
    let server = Server::new();
    let ask = async |accept: &str| {
        let request = Request::builder().uri("/").header("accept", accept).body(Body::empty()).unwrap();
        server.send(request).await
    };
    assert_eq!(ask("text/html,application/xhtml+xml").await.location(), "/portal/");
    let program = ask("*/*").await;
    assert!(program.status == 200 && program.text.contains("\"service\":\"switchback\""), "{}", program.text);
    let request = Request::builder().uri("/subscriptions/x").body(Body::empty()).unwrap();
    assert_eq!(server.send(request).await.status, 401, "the API's");
    let request = Request::builder().uri("/portal").body(Body::empty()).unwrap();
    assert_eq!(server.send(request).await.location(), "/portal/sign-in?next=%2Fportal%2F");
}

#[tokio::test]
async fn machines_are_listed_found_and_shown() {
    let mut server = Server::new();
    let empty = server.signed_in("first", AccessRole::Contributor).await.page("/portal/machines").await;
    assert!(empty.contains("No machine is protected"), "{empty}");
    server.protect();
    let mut browser = server.signed_in("anna", AccessRole::Operator).await;
    let list = browser.page("/portal/machines").await;
    for shown in
        ["href=\"/portal/machines/web01\"", ">protected<", "home → recovery", "1 machine<", "of 15 min"]
    {
        assert!(list.contains(shown), "{shown}: {list}");
    }
    for (query, is_there) in
        [("q=WEB", true), ("q=db", false), ("state=committed", false), ("sort=rpo&page=9", true)]
    {
        let list = browser.page(&format!("/portal/machines?{query}")).await;
        assert_eq!(list.contains("href=\"/portal/machines/web01\""), is_there, "{query}");
    }
    let page = browser.page("/portal/machines/web01").await;
    assert!(page.contains("<h1>web01</h1>") && page.contains("id=\"do-failover\""), "{page}");
}

#[tokio::test]
async fn a_test_failover_is_asked_for_done_and_in_the_audit_log() {
    let mut server = Server::new();
    server.protect();
    let mut browser = server.signed_in("anna", AccessRole::Operator).await;
    let page = browser.get("/portal/machines/web01/test-failover").await;
    for told in ["to the recovery site recovery", "goes on at home", "<dt>Lost</dt><dd>nothing</dd>"] {
        assert!(page.text.contains(told), "{told}: {}", page.text);
    }
    let epoch = page.field("epoch");
    let stale =
        browser.post("/portal/machines/web01/test-failover", &[("epoch", "99"), ("point", "Latest")]).await;
    assert!(stale.status == 409 && stale.text.contains("nothing was done"), "{}", stale.text);
    let fields = [("epoch", epoch.as_str()), ("point", "NoSuchType")];
    let refused = browser.post("/portal/machines/web01/test-failover", &fields).await;
    assert_eq!(refused.status, 400);
    assert!(
        refused.text.contains("NoSuchType") && refused.text.contains("What to do: Latest"),
        "{}",
        refused.text
    );
    let fields = [("epoch", epoch.as_str()), ("point", "LatestProcessed")];
    let sent = browser.post("/portal/machines/web01/test-failover", &fields).await;
    assert_eq!(sent.location(), "/portal/machines/web01");
    let page = browser.page("/portal/machines/web01").await;
    assert!(page.contains("A job works on it") && !page.contains("id=\"do-"), "{page}");
    drop(browser);
    server.settle();
    let job = &server.world.control.jobs(None, None, 1, |_| true).unwrap()[0];
    assert_eq!((job.by.as_str(), job.state), ("anna", JobState::Succeeded));
    let audit = server.world.control.audit(10).unwrap();
    assert!(
        audit
            .iter()
            .any(|line| line.by == "anna" && line.status == 202 && line.request.ends_with("/testfailover"))
    );
    assert!(server.world.control.item(&"web01".parse().unwrap()).unwrap().item.protection.testing);
    let mut browser = server.signed_in("berta", AccessRole::Operator).await;
    let refused = browser.get("/portal/machines/web01/failover").await;
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains("possible now: test failover cleanup"), "{}", refused.text);
}

#[tokio::test]
async fn looks_are_kept_by_the_browser() {
    let server = Server::new();
    let mut browser = server.signed_in("anna", AccessRole::Reader).await;
    assert!(browser.page("/portal/").await.contains("data-theme=\"system\""));
    let chosen = browser.post("/portal/theme", &[("theme", "dark"), ("back", "/portal/machines")]).await;
    assert_eq!(chosen.location(), "/portal/machines");
    assert!(browser.page("/portal/").await.contains("data-theme=\"dark\""));
    let elsewhere = browser.post("/portal/theme", &[("theme", "\"><b>"), ("back", "//evil.example")]).await;
    assert_eq!(elsewhere.location(), "/portal/");
    assert!(browser.page("/portal/").await.contains("data-theme=\"system\""));
    assert_eq!(server.world.control.items().unwrap().len(), 0, "{:?}", Phase::Protected);
}

/// A step of the round: the operation, what its form says, what the machine's page says then.
type Step = (&'static str, &'static [(&'static str, &'static str)], &'static str);

const AT_HOME: &str = "It runs at home and is replicated to recovery, through home-ps and recovery-mt.";
const FAILED_OVER: &str = "failed over, commit required";
const COMMITTED: &str = "web01 is not protected";

const ROUND: [Step; 10] = [
    ("protect", &[("group", "PG1"), ("machine", "web01")], AT_HOME),
    ("failover", &[("point", "LatestProcessed"), ("shut-down", "yes")], FAILED_OVER),
    ("cancel-failover", &[], AT_HOME),
    ("failover", &[("point", "Latest"), ("shut-down", "yes")], FAILED_OVER),
    ("commit", &[], COMMITTED),
    (
        "reprotect",
        &[
            ("master-target", "home-mt"),
            ("process-server", "recovery-ps"),
            ("location", "alternate"),
            ("datastore", "store"),
        ],
        "It runs at recovery and is replicated to home, through ",
    ),
    ("planned-failover", &[], FAILED_OVER),
    ("commit", &[], COMMITTED),
    // What was left behind for the alternate location can be deleted from now on.
    ("reprotect", &[], "id=\"do-clean-up\""),
    ("resynchronize", &[], AT_HOME),
];

/// Each step is told of before, asked for by a form alone, and done.
#[tokio::test]
async fn the_whole_round_is_made_by_forms_alone() {
    let mut server = Server::new();
    let servers =
        [(Role::ProcessServer, "home-ps"), (Role::ProcessServer, "recovery-ps"), (Role::Target, "home-mt")];
    for (role, name) in servers {
        server.world.enrol(role, name);
    }
    let mut cookies = server.signed_in("anna", AccessRole::Contributor).await.cookies;
    for (slug, fields, expected) in ROUND {
        cookies = step(&server, cookies, slug, fields).await;
        server.settle();
        let mut browser = server.browser();
        browser.cookies.clone_from(&cookies);
        let page = browser.page("/portal/machines/web01").await;
        assert!(page.contains(expected), "after {slug}: {page}");
    }
    step(&server, cookies, "disable", &[("clean-up", "yes")]).await;
    server.settle();
    assert!(server.world.control.items().unwrap().is_empty());
}

/// Sees what an operation means, and asks for it; returns the browser's cookies.
async fn step(
    server: &Server,
    cookies: Vec<(String, String)>,
    slug: &str,
    fields: &[(&str, &str)],
) -> Vec<(String, String)> {
    let mut browser = server.browser();
    browser.cookies = cookies;
    let is_new = slug == "protect";
    let path = if is_new { "/portal/protect".into() } else { format!("/portal/machines/web01/{slug}") };
    let page = browser.get(&path).await;
    assert_eq!(page.status, 200, "{slug}: {}", page.text);
    for told in ["<dt>Direction</dt>", "<dt>Recovery point</dt>", "<dt>Shut down</dt>", "<dt>Lost</dt>"] {
        assert!(page.text.contains(told), "{slug} tells {told}: {}", page.text);
    }
    let epoch = if is_new { String::new() } else { page.field("epoch") };
    let fields: Vec<_> = [("epoch", epoch.as_str())].iter().chain(fields).copied().collect();
    assert_eq!(browser.post(&path, &fields).await.location(), "/portal/machines/web01", "{slug}");
    browser.cookies
}

#[tokio::test]
async fn the_overview_counts_and_says_what_needs_a_human() {
    let mut server = Server::new();
    server.protect();
    server.world.control.readiness(&"web01".parse().unwrap()).unwrap();
    let count = |page: &str, what: &str| {
        let before = page.split_once(&format!("<span>{what}</span>")).unwrap().0;
        before.rsplit_once("<b>").unwrap().1.split_once("</b>").unwrap().0.to_owned()
    };
    let page = server.signed_in("anna", AccessRole::Reader).await.page("/portal/").await;
    for what in ["protected", "healthy", "ready to fail over", "ready to come home"] {
        assert_eq!(count(&page, what), "1", "{what}: {page}");
    }
    assert!(
        page.contains("RPO of web01") && page.contains("the configuration server is not backed up"),
        "{page}"
    );
    server.world.down.push("home-mt");
    for _ in 0..30 {
        server.world.round();
    }
    server.world.control.readiness(&"web01".parse().unwrap()).unwrap();
    let page = server.signed_in("berta", AccessRole::Reader).await.page("/portal/").await;
    assert_eq!(
        (count(&page, "ready to fail over"), count(&page, "ready to come home")),
        ("1".into(), "0".into())
    );
    let machine = server.signed_in("carl", AccessRole::Reader).await.page("/portal/machines/web01").await;
    assert!(
        machine.contains("the target home-mt") || machine.contains("home-mt at home does not report"),
        "{machine}"
    );
}

#[tokio::test]
async fn a_machines_page_shows_points_disks_cards_and_curves() {
    let mut server = Server::new();
    server.protect();
    for _ in 0..5 {
        for _ in 0..60 {
            server.world.round();
        }
        server.world.control.take_samples().unwrap();
    }
    let page = server.signed_in("anna", AccessRole::Reader).await.page("/portal/machines/web01").await;
    for shown in [
        "<polyline class=\"curve\"",
        "<circle class=\"multi-vm\"",
        ">d0</td>",
        ">1.0 MiB</td>",
        "52:54:00:00:00:01",
        "Enable replication: web01</a>",
        "through home-ps and recovery-mt.",
        ">home-ps</text>",
        "follows its changes",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
}
