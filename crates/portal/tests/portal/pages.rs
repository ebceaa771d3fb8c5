//! What pages show, and that what is asked for on them is done.

use axum::body::Body;
use axum::http::Request;
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
        ["href=\"/portal/machines/web01\"", ">protected<", "home → recovery", "1 machines", "of 15 min"]
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
