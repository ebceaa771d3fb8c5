//! The tab Servers: who is there and how, enrolling, process servers made and removed.

use switchback_api::ApiLimits;
use switchback_identity::Role;
use switchback_model::component::Problem;
use switchback_model::{AccessRole, JobState};
use switchback_portal::PortalLimits;

use crate::browser::Server;
use crate::jobs::settle_job;
use crate::world::World;

const MARKUP: &str = "<script>alert(1)</script>";

/// As if all components had enrolled with the passphrase.
pub(crate) fn enrol_all(server: &Server) {
    let roles = [(Role::ProcessServer, "ps"), (Role::Target, "mt")];
    for (role, kind) in roles {
        for site in ["home", "recovery"] {
            server.world.enrol(role, &format!("{site}-{kind}"));
        }
    }
    server.world.enrol(Role::Source, "web01");
}

#[tokio::test]
async fn servers_are_shown_with_heartbeat_load_and_what_is_wrong() {
    let mut server = Server::new();
    server.world.system = MARKUP.into();
    server.world.replicas_problem = Some(Problem { code: "replica.<b>".into(), message: MARKUP.into() });
    enrol_all(&server);
    server.protect();
    server.world.down.push("home-ps");
    server.world.clock.advance(300);
    server.world.round();
    let mut reader = server.signed_in("reader", AccessRole::Reader).await;
    let page = reader.page("/portal/servers").await;
    for shown in [
        "<dt>Version</dt><dd>test</dd>",
        "href=\"/portal/servers/process-server.home-ps\"",
        "href=\"/portal/servers/target.recovery-mt\"",
        "href=\"/portal/servers/source.web01\"",
        "1 replicas, 0 B of retention, 1.0 TiB are free",
        "0 spools, 0 B wait in the cache",
        "has not reported since",
        "the configuration server is not backed up",
        "1 mobility agent, page 1 of 1",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    for hidden in ["id=\"enrol\"", "id=\"deploy\"", "id=\"remove\""] {
        assert!(!page.contains(hidden), "{hidden}: {page}");
    }
    let page = reader.page("/portal/servers/process-server.home-ps").await;
    for shown in
        ["Process server home-ps", ">critical<", "What to do: look at its host", "server.no-heartbeat"]
    {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    for (id, shown) in [("target.recovery-mt", "Replicas"), ("source.web01", "Disks")] {
        let page = reader.page(&format!("/portal/servers/{id}")).await;
        assert!(page.contains(shown) && page.contains("&#60;script&#62;alert(1)"), "{id}: {page}");
        assert!(!page.contains("<script>alert") && !page.contains("id=\"remove\""), "{id}: {page}");
    }
    for (query, is_there) in
        [("q=WEB01", true), ("q=db", false), ("health=critical", false), ("health=normal", true)]
    {
        let page = reader.page(&format!("/portal/servers?{query}")).await;
        assert_eq!(page.contains("servers/source.web01"), is_there, "{query}");
        assert!(page.contains("process-server.home-ps"), "servers are not filtered: {query}");
    }
    assert_eq!(reader.get("/portal/servers/target.nobody").await.status, 404);
    assert_eq!(reader.get("/portal/servers/source.web01/remove").await.status, 403);
    assert_eq!(reader.post("/portal/servers/source.web01/remove", &[]).await.status, 403);
}

#[tokio::test]
async fn a_contributor_alone_sees_the_passphrase_and_the_audit_log_tells() {
    let server = Server::new();
    let asked = |server: &Server| {
        let lines = server.world.control.audit(50).unwrap();
        lines.into_iter().filter(|line| line.request.ends_with("/showpassphrase")).collect::<Vec<_>>()
    };
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.page("/portal/servers/enrol").await;
    for command in [
        "switchback enrol cs.example:443 --identity /var/lib/switchback/agent/identity",
        "switchback enrol cs.example:443 --role process-server",
        "switchback enrol cs.example:443 --role target",
    ] {
        assert!(page.contains(command), "{command}: {page}");
    }
    assert!(!page.contains("id=\"passphrase\"") && asked(&server).is_empty(), "{page}");
    let shown = anna.post("/portal/servers/enrol", &[]).await;
    let passphrase = shown.text.split_once("id=\"passphrase\">").unwrap().1.split_once('<').unwrap().0;
    assert!(shown.status == 200 && passphrase.len() > 15, "{}", shown.text);
    assert_eq!(shown.header("cache-control"), "no-store");
    assert_eq!(asked(&server).len(), 1);
    assert_eq!((asked(&server)[0].by.as_str(), asked(&server)[0].status), ("anna", 200));
    let mut operator = server.signed_in("berta", AccessRole::Operator).await;
    operator.page("/portal/servers").await;
    assert_eq!(operator.get("/portal/servers/enrol").await.status, 403);
    let refused = operator.post("/portal/servers/enrol", &[]).await;
    assert!(refused.status == 403 && !refused.text.contains(passphrase), "{}", refused.text);
}

#[tokio::test]
async fn a_server_that_is_needed_stays_and_another_is_forgotten() {
    let mut server = Server::new();
    enrol_all(&server);
    server.protect();
    server.world.enrol(Role::Target, "spare");
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    assert!(anna.page("/portal/servers").await.contains("target.spare"));
    assert!(anna.page("/portal/servers/target.spare").await.contains("has not reported yet"));
    let page = anna.page("/portal/servers/target.recovery-mt/remove").await;
    assert!(page.contains("its certificate is not renewed any more"), "{page}");
    let refused = anna.post("/portal/servers/target.recovery-mt/remove", &[]).await;
    assert!(refused.status == 409 && refused.text.contains("is replicated with it"), "{}", refused.text);
    assert_eq!(anna.post("/portal/servers/target.spare/remove", &[]).await.location(), "/portal/servers");
    let page = anna.page("/portal/servers").await;
    assert!(!page.contains("target.spare") && page.contains("target.recovery-mt"), "{page}");
}

fn wanted<'a>(name: &'a str, disk: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("name", name),
        ("site", "recovery"),
        ("network", "lan"),
        ("address", "10.20.1.20"),
        ("size", "Standard_D2s_v5"),
        ("administrator", "anna"),
        ("ssh-key", "ssh-ed25519 AAAA anna"),
        ("configuration-server", "cs.example:443"),
        ("port", "9443"),
        ("disk", disk),
    ]
}

#[tokio::test]
async fn a_process_server_is_made_in_azure_and_removed() {
    let mut world = World::azure();
    world.offer_program();
    let mut server = Server::over(world, ApiLimits::default(), PortalLimits::default());
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.page("/portal/servers/deploy").await;
    for shown in [
        "<option value=\"recovery\"",
        "value=\"cs.example:443\"",
        "value=\"9443\"",
        "value=\"Standard_D4s_v5\"",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    assert!(!page.contains("<option value=\"home\""), "no Azure site");
    let path = "/portal/servers/deploy";
    assert_eq!(anna.post(path, &wanted("ps-azure", "much")).await.status, 400);
    assert_eq!(anna.post(path, &wanted("../x", "64")).await.status, 400);
    assert!(server.world.control.deployments().unwrap().is_empty());
    let sent = anna.post(path, &wanted("ps-azure", "64")).await;
    let id = sent.location().strip_prefix("/portal/jobs/").unwrap().parse().unwrap();
    assert!(anna.page("/portal/servers").await.contains(&format!("href=\"/portal/jobs/{id}\">in hand")));
    drop(anna);
    assert_eq!(settle_job(&mut server, id).state, JobState::Succeeded);
    let mut reader = server.signed_in("reader", AccessRole::Reader).await;
    let page = reader.page("/portal/servers").await;
    assert!(page.contains("10.20.1.20:9443 in lan") && page.contains("process-server.ps-azure"), "{page}");
    assert!(!page.contains("id=\"retire-"), "{page}");
    for path in [path, "/portal/servers/made/ps-azure/retire"] {
        assert_eq!(reader.get(path).await.status, 403, "{path}");
        assert_eq!(reader.post(path, &wanted("other", "64")).await.status, 403, "{path}");
    }
    let mut anna = server.signed_in("berta", AccessRole::Contributor).await;
    assert!(anna.page("/portal/servers").await.contains("id=\"retire-ps-azure\""));
    let page = anna.page("/portal/servers/made/ps-azure/retire").await;
    assert!(page.contains("the machine ps-azure at recovery with its disk"), "{page}");
    let sent = anna.post("/portal/servers/made/ps-azure/retire", &[]).await;
    let id = sent.location().strip_prefix("/portal/jobs/").unwrap().parse().unwrap();
    drop((anna, reader));
    assert_eq!(settle_job(&mut server, id).state, JobState::Succeeded);
    assert!(server.world.control.deployments().unwrap().is_empty());
}

#[tokio::test]
async fn without_a_site_of_azure_no_process_server_is_made() {
    let server = Server::new();
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.get("/portal/servers/deploy").await;
    assert!(page.status == 409 && page.text.contains("What to do: elsewhere install one"), "{}", page.text);
}
