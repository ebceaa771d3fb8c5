//! Long lists page by page: each element once, in order, whatever comes meanwhile; and what a page is computed from is the page's.

use serde_json::{Value, json};
use switchback_api::ApiLimits;
use switchback_identity::Role;

use crate::server::Server;

fn with_pages_of(page_len_max: usize) -> Server {
    Server::with_limits(ApiLimits { page_len_max, ..ApiLimits::default() })
}

/// The elements of a page, and where the next is.
async fn page(server: &Server, link: &str) -> (Vec<Value>, Option<String>) {
    let answered = if link.starts_with("https://") {
        server.follow(link).await
    } else {
        server.call("GET", link, None).await
    };
    assert_eq!(answered.status, 200, "{:#}", answered.body);
    let elements = answered.body["value"].as_array().unwrap().clone();
    (elements, answered.body["nextLink"].as_str().map(str::to_owned))
}

/// All elements, by following links.
async fn all(server: &Server, path: &str) -> Vec<Value> {
    let (mut found, mut next) = page(server, path).await;
    while let Some(link) = next {
        let (more, after) = page(server, &link).await;
        assert!(!more.is_empty(), "a link leads somewhere");
        found.extend(more);
        next = after;
    }
    found
}

fn names(elements: &[Value]) -> Vec<&str> {
    elements.iter().map(|element| element["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn jobs_are_shown_once_each_newest_first_while_others_come() {
    let mut server = with_pages_of(2);
    let item = server.protect().await;
    let test = json!({ "properties": { "failoverDirection": "PrimaryToRecovery" } });
    for _ in 0..2 {
        // Jobs of the same moment have no order.
        server.world.clock.advance(1);
        server.done("POST", &format!("{item}/testFailover"), test.clone()).await;
        server.world.clock.advance(1);
        server.done("POST", &format!("{item}/testFailoverCleanup"), json!({})).await;
    }
    let jobs = all(&server, "replicationJobs").await;
    let jobs = names(&jobs);
    let mut newest_first = jobs.clone();
    newest_first.sort_unstable_by(|one, other| other.cmp(one));
    assert_eq!((jobs.len(), &jobs), (5, &newest_first), "names sort by time");
    // One that comes between two pages shifts nothing.
    server.world.clock.advance(1);
    let (first, next) = page(&server, "replicationJobs").await;
    server.done("POST", &format!("{item}/testFailover"), test).await;
    let (second, _) = page(&server, &next.unwrap()).await;
    assert_eq!(names(&[first, second].concat()), jobs[..4]);
    // Pages are of what the filter leaves.
    let tests = all(&server, "replicationJobs?$filter=jobName%20eq%20'TestFailover'").await;
    assert!(tests.iter().all(|job| job["properties"]["scenarioName"] == "TestFailover"), "{tests:#?}");
    assert_eq!(names(&tests)[1..], [jobs[1], jobs[3]]);
    let lost = server.call("GET", "replicationJobs?$skipToken=yesterday", None).await;
    assert_eq!(lost.status, 400, "{:#}", lost.body);
}

#[tokio::test]
async fn servers_are_shown_page_by_page_with_their_own_reports() {
    let mut server = with_pages_of(2);
    server.world.enrol(Role::ProcessServer, "home-ps");
    server.world.enrol(Role::Target, "home-mt");
    server.world.enrol(Role::Source, "web01");
    server.world.enrol(Role::Source, "never-seen");
    server.world.round();
    let servers = all(&server, "switchbackServers").await;
    let expected = ["process-server.home-ps", "source.never-seen", "source.web01", "target.home-mt"];
    assert_eq!(names(&servers), expected);
    for listed in &servers {
        let name = listed["name"].as_str().unwrap();
        let shown = server.get(&format!("switchbackServers/{name}")).await;
        assert_eq!(*listed, shown, "a list shows what a single look shows");
        assert_eq!(shown["properties"]["lastReport"].is_null(), name.ends_with("never-seen"), "{shown:#}");
    }
}
