//! What others may try: to be somebody, to act in somebody's name, to get markup onto a page, to see more than their role.

use std::sync::Arc;

use axum::body::Body;
use switchback_api::{ApiLimits, ClientLimits};
use switchback_identity::Allowance;
use switchback_model::AccessRole;
use switchback_portal::PortalLimits;

use crate::browser::Server;
use crate::world::World;

const SESSION: &str = "__Host-switchback";
const TABS: [&str; 8] = [
    "/portal/",
    "/portal/machines",
    "/portal/plans",
    "/portal/jobs",
    "/portal/servers",
    "/portal/sites",
    "/portal/events",
    "/portal/settings",
];

#[tokio::test]
async fn without_a_session_there_is_the_sign_in_and_nothing_else() {
    let server = Server::new();
    let mut browser = server.browser();
    for path in
        TABS.into_iter().chain(["/portal/machines/web01", "/portal/nowhere", "/portal/machines?q=a%26b"])
    {
        let there = browser.get(path).await.location().to_owned();
        let next = url::form_urlencoded::byte_serialize(path.as_bytes()).collect::<String>();
        assert_eq!(there, format!("/portal/sign-in?next={next}"));
    }
    let form = browser.post("/portal/machines/web01/test-failover", &[]).await;
    assert_eq!(form.location(), "/portal/sign-in");
    let live = browser.request("GET", "/portal/live").header("accept", "text/event-stream");
    assert!(!browser.send(live.body(Body::empty()).unwrap()).await.status.is_success());
    let part =
        browser.request("GET", "/portal/machines").header("hx-request", "true").body(Body::empty()).unwrap();
    let part = browser.send(part).await;
    assert_eq!((part.status.as_u16(), part.header("hx-redirect")), (401, "/portal/sign-in"));
    let page = browser.page("/portal/sign-in?next=/portal/machines").await;
    assert!(page.contains("value=\"/portal/machines\"") && !page.contains("Recovery Plans"), "{page}");
    for elsewhere in ["https://evil.example/", "//evil.example/portal/", "/%5Cevil.example"] {
        let page = browser.page(&format!("/portal/sign-in?next={elsewhere}")).await;
        assert!(!page.contains("evil"), "{page}");
    }
}

#[tokio::test]
async fn a_token_signs_in_out_and_a_deleted_one_ends_its_sessions() {
    let server = Server::new();
    let token = server.token("anna", AccessRole::Operator);
    let mut browser = server.browser();
    let wrong = browser.sign_in("sbt_wrong").await;
    assert_eq!((wrong.status.as_u16(), browser.cookies.len()), (401, 0));
    assert!(
        wrong.text.contains("not known here") && wrong.text.contains("ask a Contributor"),
        "{}",
        wrong.text
    );
    assert_eq!(browser.sign_in(&token).await.location(), "/portal/");
    let page = browser.page("/portal/machines").await;
    assert!(page.contains("<b>anna</b> <span>Operator</span>") && !page.contains(&token), "{page}");
    let before = browser.cookies.clone();
    let out = browser.post("/portal/sign-out", &[]).await;
    assert_eq!((out.location(), browser.cookie(SESSION)), ("/portal/sign-in", None));
    browser.cookies = before;
    assert_eq!(
        browser.get("/portal/machines").await.status,
        303,
        "its session is over, not its cookie alone"
    );
    browser.sign_in(&token).await;
    server.world.control.delete_token(&"anna".parse().unwrap()).unwrap();
    assert_eq!(browser.get("/portal/machines").await.status, 303);
    // Nor does it live on when a token of that name is made again.
    server.token("anna", AccessRole::Contributor);
    assert_eq!(browser.get("/portal/machines").await.status, 303);
}

#[tokio::test]
async fn a_session_that_somebody_planted_is_never_signed_in() {
    let server = Server::new();
    let token = server.token("anna", AccessRole::Reader);
    let mut browser = server.browser();
    let planted = "0123456789abcdef".repeat(4);
    browser.cookies.push((SESSION.into(), planted.clone()));
    browser.sign_in(&token).await;
    let first = browser.cookie(SESSION).unwrap().to_owned();
    assert_ne!(first, planted);
    let mut other = server.browser();
    other.cookies.push((SESSION.into(), planted));
    assert_eq!(other.get("/portal/machines").await.status, 303);
    // Signing in again makes another one, and the first ends.
    browser.sign_in(&token).await;
    assert_ne!(browser.cookie(SESSION), Some(first.as_str()));
    other.cookies = vec![(SESSION.into(), first)];
    assert_eq!(other.get("/portal/machines").await.status, 303);
}

#[tokio::test]
async fn forms_of_other_sites_and_other_sessions_do_nothing() {
    let mut server = Server::new();
    server.protect();
    let mut other = server.signed_in("other", AccessRole::Operator).await;
    other.page("/portal/machines").await;
    let foreign = other.form_token.clone();
    let mut browser = server.signed_in("anna", AccessRole::Operator).await;
    let path = "/portal/machines/web01/test-failover";
    let page = browser.get(path).await;
    let (own, epoch) = (page.field("form-token"), page.field("epoch"));
    let fields = |token| vec![("form-token", token), ("epoch", epoch.as_str()), ("point", "LatestProcessed")];
    let good = Some("https://cs.example");
    let tries = [
        (fields("wrong"), good),
        (fields(&foreign), good),
        (fields("")[1..].to_vec(), good),
        (fields(&own), Some("https://evil.example")),
        (fields(&own), Some("null")),
        (fields(&own), None),
    ];
    for (fields, origin) in tries {
        let refused = browser.post_raw(path, &fields, origin).await;
        assert_eq!(refused.status, 403, "{fields:?} {origin:?}");
        assert!(refused.text.contains("nothing was done"), "{}", refused.text);
    }
    let evil = Some("https://evil.example");
    assert_eq!(browser.post_raw("/portal/sign-in", &[("token", "x")], evil).await.status, 403);
    assert_eq!(browser.post_raw("/portal/sign-out", &[], evil).await.status, 403);
    assert!(server.world.control.jobs(None, None, 10, |_| true).unwrap().len() == 1, "the protection alone");
    assert_eq!(browser.post_raw(path, &fields(&own), good).await.location(), "/portal/machines/web01");
}

#[tokio::test]
async fn markup_in_names_is_text() {
    let markup = "<script>alert(1)</script>\"'&";
    let mut server = Server::new();
    server.world.home.machines.lock().unwrap().get_mut("web01").unwrap().name = markup.into();
    server.world.system = markup.to_owned();
    server.protect();
    let mut browser = server.signed_in("anna", AccessRole::Contributor).await;
    let q: String = url::form_urlencoded::byte_serialize(markup.as_bytes()).collect();
    let found = browser.page(&format!("/portal/machines?q={q}&sort={q}&state={q}&health={q}")).await;
    let pages = ["/portal/machines", "/portal/machines/web01", "/portal/machines/web01/failover"];
    let mut seen = found.contains("&#60;script");
    for path in pages {
        let page = browser.page(path).await;
        assert!(!page.contains("<script>alert") && !page.contains("\"'&\""), "{page}");
        seen &= path.ends_with("failover") || page.contains("&#60;script&#62;alert(1)");
    }
    assert!(!found.contains("<script>alert") && seen, "it is shown, and as text");
    let lost = browser.get(&format!("/portal/machines/{q}")).await;
    assert!(lost.status == 404 && !lost.text.contains("<script>alert"), "{}", lost.text);
    let nowhere = browser.get("/portal/%3Cscript%3Ealert(1)%3C/script%3E").await;
    assert!(nowhere.status == 404 && !nowhere.text.contains("<script>alert"), "{}", nowhere.text);
}

#[tokio::test]
async fn a_reader_sees_no_action_and_can_do_none() {
    let mut server = Server::new();
    server.protect();
    let mut reader = server.signed_in("reader", AccessRole::Reader).await;
    for path in TABS.into_iter().chain(["/portal/machines/web01"]) {
        let page = reader.page(path).await;
        let forms: Vec<_> = page.split("method=\"post\" action=\"").skip(1).collect();
        let own = |form: &&str| form.starts_with("/portal/theme") || form.starts_with("/portal/sign-out");
        assert!(forms.len() == 2 && forms.iter().all(own), "{path}: {page}");
        assert!(!page.contains("id=\"do-") && !page.contains("/portal/protect"), "{path}: {page}");
    }
    for operation in ["test-failover", "failover", "planned-failover", "resynchronize"] {
        let path = format!("/portal/machines/web01/{operation}");
        let page = reader.get(&path).await;
        assert_eq!(page.status, 403, "{operation}");
        let epoch = server.world.control.item(&"web01".parse().unwrap()).unwrap().item.protection.epoch;
        let sent = reader.post(&path, &[("epoch", &epoch.to_string()), ("point", "LatestProcessed")]).await;
        assert_eq!(sent.status, 403, "{operation}: {}", sent.text);
    }
    let mut operator = server.signed_in("operator", AccessRole::Operator).await;
    assert!(operator.page("/portal/machines/web01").await.contains("id=\"do-test-failover\""));
}

#[tokio::test]
async fn guessing_at_the_sign_in_counts_as_guessing_at_the_api() {
    let failures = Allowance { burst: 3, refill_ms: 3_600_000 };
    let client = ClientLimits { failures, ..ClientLimits::default() };
    let limits = ApiLimits { client, ..ApiLimits::default() };
    let server = Server::over(World::new(), limits, PortalLimits::default());
    let token = server.token("anna", AccessRole::Reader);
    let mut browser = server.browser();
    for n in 0..3 {
        assert_eq!(browser.sign_in(&format!("sbt_{n}")).await.status, 401);
    }
    let refused = browser.sign_in(&token).await;
    assert_eq!(refused.status, 429);
    assert!(refused.header("retry-after").parse::<u64>().unwrap() > 3000);
    let api = browser.request("GET", "/subscriptions/x").header("authorization", "Bearer sbt_x");
    assert_eq!(browser.send(api.body(Body::empty()).unwrap()).await.status, 429);
}

#[tokio::test]
async fn every_answer_says_what_a_browser_may_do_with_it() {
    let server = Server::new();
    let mut browser = server.signed_in("anna", AccessRole::Reader).await;
    let asset = browser.page("/portal/").await;
    let asset =
        asset.split_once("rel=\"stylesheet\" href=\"").unwrap().1.split_once('"').unwrap().0.to_owned();
    for path in TABS.into_iter().chain(["/portal/sign-in", "/portal/nowhere", &asset, "/portal/live?x"]) {
        if path.starts_with("/portal/live") {
            continue;
        }
        let answered = browser.get(path).await;
        let policy = answered.header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"),
            "{path}"
        );
        assert_eq!(answered.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answered.header("referrer-policy"), "same-origin", "{path}");
        assert!(answered.header("strict-transport-security").starts_with("max-age="), "{path}");
        let is_asset = path == asset;
        assert_eq!(answered.header("cache-control").contains("immutable"), is_asset, "{path}");
        assert!(is_asset || answered.header("cache-control") == "no-store", "{path}");
        for inline in [" style=", "<style", "<script>", "onclick", "javascript:", "http://", "https://"] {
            assert!(is_asset || !answered.text.contains(inline), "{path} has {inline}: {}", answered.text);
        }
    }
    let etag = browser.get(&asset).await.header("etag").to_owned();
    let again = browser.request("GET", &asset).header("if-none-match", etag).body(Body::empty()).unwrap();
    assert_eq!(browser.send(again).await.status, 304);
    assert_eq!(browser.get("/portal/assets/portal.0000000000000000.css").await.status, 404);
}

#[tokio::test]
async fn live_pages_are_limited_and_told_of_changes() {
    let limits = PortalLimits { streams_per_session_max: 1, ..PortalLimits::default() };
    let server = Arc::new(Server::over(World::new(), ApiLimits::default(), limits));
    let mut browser = server.signed_in("anna", AccessRole::Reader).await;
    let live = |browser: &crate::browser::Browser<'_>| {
        browser.request("GET", "/portal/live").body(Body::empty()).unwrap()
    };
    let first = server.open(live(&browser)).await;
    assert_eq!(first.status(), 200);
    assert_eq!(browser.send(live(&browser)).await.status, 204, "one of a session");
    let mut events = first.into_body().into_data_stream();
    server.token("another", AccessRole::Reader);
    let told = futures::StreamExt::next(&mut events).await.unwrap().unwrap();
    assert_eq!(&told[..], b"event: changed\ndata: -\n\n");
    browser.page("/portal/").await;
    browser.post("/portal/sign-out", &[]).await;
    let ended = futures::StreamExt::next(&mut events).await;
    assert!(ended.is_none(), "a session that is over is told nothing");
}
