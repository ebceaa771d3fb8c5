//! The tab Sites: what there is, and what each has.

use switchback_model::AccessRole;
use switchback_sites::Power;

use crate::browser::Server;
use crate::servers::enrol_all;

const MARKUP: &str = "<script>alert(1)</script>";

#[tokio::test]
async fn sites_are_listed_with_what_runs_there_and_who_serves_them() {
    let mut server = Server::new();
    enrol_all(&server);
    server.protect();
    let mut reader = server.signed_in("reader", AccessRole::Reader).await;
    let page = reader.page("/portal/sites").await;
    let row = |name: &str| {
        let start = format!("href=\"/portal/sites/{name}\"");
        page.split_once(&start).unwrap().1.split_once("</tr>").unwrap().0.to_owned()
    };
    let (home, recovery) = (row("home"), row("recovery"));
    assert!(
        home.contains("run there\">1<") && home.contains("replicas\">0<") && home.contains("home-mt"),
        "{home}"
    );
    assert!(recovery.contains("run there\">0<") && recovery.contains("replicas\">1<"), "{recovery}");
    assert!(
        recovery.contains("recovery-ps") && !recovery.contains("home-ps") && home.contains("/home<"),
        "{page}"
    );
}

#[tokio::test]
async fn a_sites_inventory_says_what_stands_in_the_way() {
    let mut server = Server::new();
    server.world.home.add("db01", "uuid-db01", 1);
    server.world.home.set_power("db01", Power::Off);
    server.world.home.machines.lock().unwrap().get_mut("db01").unwrap().name = MARKUP.into();
    server.world.home.add("app01", "uuid-app01", 3);
    server.protect();
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.page("/portal/sites/home").await;
    for shown in [
        ">answers<",
        "href=\"/portal/machines/web01\">web01</a>",
        "3 machines",
        "1 obstacles",
        "&#60;script&#62;alert(1)",
        "3 of 3.0 MiB",
        "can be protected",
        "href=\"/portal/protect?group=PG1\"",
        "Datastores",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(!page.contains("<script>alert") && !page.contains("sse-connect"), "{page}");
    let (names, all) = (
        ["web01", "app01", "uuid"],
        [
            ("state=protected", [true, false, false]),
            ("state=protectable", [false, true, false]),
            ("state=obstacles", [false, false, false]),
            ("q=APP", [false, true, false]),
            ("q=nothing", [false, false, false]),
        ],
    );
    for (query, expected) in all {
        let page = anna.page(&format!("/portal/sites/home?{query}")).await;
        let is_listed =
            |name: &str| page.contains(&format!("<th scope=\"row\" data-label=\"Machine\">{name}<"));
        assert_eq!(names.map(is_listed), expected, "{query}");
        assert_eq!(page.contains("1 obstacles"), query == "state=obstacles", "{query}");
    }
    let mut reader = server.signed_in("reader", AccessRole::Reader).await;
    let page = reader.page("/portal/sites/home").await;
    assert!(page.contains("1 obstacles") && !page.contains("/portal/protect"), "{page}");
    let lost = reader.get("/portal/sites/%3Cscript%3Ealert").await;
    assert!(lost.status == 404 && !lost.text.contains("<script>alert"), "{}", lost.text);
    assert_eq!(reader.get("/portal/sites/nowhere").await.status, 404);
}
