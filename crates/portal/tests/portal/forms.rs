//! The forms that set things up, in Settings, Servers and Sites, and some of a machine's: each makes, changes and removes what it is for; no secret comes out of one;
//! none is for a lower role, or taken from elsewhere.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use switchback_api::ApiLimits;
use switchback_control::PortalClient;
use switchback_identity::{PeerIdentity, Role};
use switchback_model::{AccessRole, ReplicationPolicy, SiteKind};
use switchback_portal::PortalLimits;

use crate::browser::{Browser, Server};
use crate::servers::enrol_all;

const HERE: &str = "/portal/settings";
const SECRET: &str = "open sesame, open";

/// All of them; where there is a page, the page says who may not.
const PAGES: [&str; 25] = [
    "/portal/settings/sign-ins/new",
    "/portal/settings/sign-ins/corp/edit",
    "/portal/settings/sign-ins/corp/test",
    "/portal/settings/sign-ins/corp/delete",
    "/portal/settings/accounts/new",
    "/portal/settings/accounts/vc/edit",
    "/portal/settings/accounts/vc/delete",
    "/portal/settings/alerts",
    "/portal/settings/alerts/new-mail",
    "/portal/settings/alerts/new-webhook",
    "/portal/settings/alerts/hook/edit",
    "/portal/settings/alerts/hook/delete",
    "/portal/settings/mappings/new",
    "/portal/settings/mappings/edit?site=home&network=lan&target=recovery",
    "/portal/settings/mappings/delete?site=home&network=lan&target=recovery",
    "/portal/servers/process-server.home-ps/bandwidth",
    "/portal/new-site/local",
    "/portal/new-site/physical",
    "/portal/new-site/vsphere",
    "/portal/sites/recovery/remove",
    "/portal/machines/web01/switch-process-server",
    "/portal/machines/web01/release",
    "/portal/machines/web01/add-disk",
    "/portal/machines/web01/remove-disk",
    "/portal/machines/web01/proving",
];
const BUTTONS: [&str; 2] = ["/portal/settings/accounts/vc/test", "/portal/settings/alerts/hook/test"];

const SIGN_IN: [(&str, &str); 8] = [
    ("name", "corp"),
    ("issuer", "https://localhost:1/realms/dr"),
    ("audiences", "api://one\r\nother"),
    ("claim", "roles"),
    ("roles", "Reader=<b>\r\nContributor=all"),
    ("client-id", "portal"),
    ("scopes", "api://one/use"),
    ("secret", SECRET),
];
const ACCOUNT: [(&str, &str); 4] =
    [("name", "vc"), ("kind", "vsphere"), ("user", "svc"), ("password", SECRET)];
const WHEN: [(&str, &str); 2] = [("severity", "Critical"), ("interval", "0")];
const MAPPING: [(&str, &str); 5] = [
    ("site", "home"),
    ("network", "lan"),
    ("target", "recovery"),
    ("target-network", "lan"),
    ("test-network", ""),
];

fn with<'a>(fields: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let is_said = |name: &str| more.iter().any(|(other, _)| *other == name);
    fields.iter().filter(|(name, _)| !is_said(name)).chain(more).copied().collect()
}

/// Sends a form; where it leads.
async fn sent(browser: &mut Browser<'_>, path: &str, fields: &[(&str, &str)]) -> String {
    browser.page(HERE).await;
    browser.post(path, fields).await.location().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_is_made_changed_tried_and_removed() {
    let server = Server::new();
    let _home = server.give_home(&[]);
    let control = &server.world.control;
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let there = format!("{HERE}#sign-ins");
    let page = anna.page("/portal/settings/sign-ins/new").await;
    assert!(
        page.contains("https://cs.example/portal/sign-in/NAME/answer") && page.contains("type=\"password\"")
    );
    assert_eq!(sent(&mut anna, "/portal/settings/sign-ins/new", &SIGN_IN).await, there);
    let taken = anna.post("/portal/settings/sign-ins/new", &SIGN_IN).await;
    assert!(taken.status == 409 && taken.text.contains("portal.name-taken"), "{}", taken.text);
    let wrong = with(&SIGN_IN, &[("name", "other"), ("roles", "Owner=x")]);
    assert_eq!(anna.post("/portal/settings/sign-ins/new", &wrong).await.status, 400);
    let one = || control.sign_ins().unwrap().remove(0);
    let secret = || control.sign_in_secret(&one()).unwrap().map(|secret| secret.to_string());
    assert_eq!((one().audiences, one().roles.len()), (vec!["api://one".to_owned(), "other".into()], 2));
    assert_eq!(
        (one().portal.unwrap().scopes, secret().as_deref()),
        (vec!["api://one/use".to_owned()], Some(SECRET))
    );
    let page = anna.page("/portal/settings/sign-ins/corp/edit").await;
    assert!(page.contains("Reader=&#60;b&#62;") && page.contains("There is one. Empty: it stays."), "{page}");
    let page = page + &anna.page(HERE).await;
    assert!(!page.contains(SECRET) && page.contains("people sign in there by clicking"), "{page}");
    let path = "/portal/settings/sign-ins/corp/edit";
    assert_eq!(sent(&mut anna, path, &with(&SIGN_IN, &[("secret", ""), ("claim", "groups")])).await, there);
    assert_eq!((one().claim.as_str(), secret().as_deref()), ("groups", Some(SECRET)));
    sent(&mut anna, path, &with(&SIGN_IN, &[("no-secret", "yes")])).await;
    assert_eq!(
        (one().portal, secret()),
        (Some(PortalClient::new("portal", vec!["api://one/use".into()])), None)
    );
    sent(&mut anna, path, &with(&SIGN_IN, &[("client-id", "")])).await;
    assert_eq!(one().portal, None);
    // Nothing listens there.
    let tried = anna.post("/portal/settings/sign-ins/corp/test", &[("token", "")]).await;
    assert!(tried.status == 200 && tried.text.contains("cannot be had"), "{}", tried.text);
    assert_eq!(sent(&mut anna, "/portal/settings/sign-ins/corp/delete", &[]).await, there);
    assert_eq!(control.sign_ins().unwrap(), []);
    assert_eq!(anna.get("/portal/settings/sign-ins/corp/edit").await.status, 404);
}

#[tokio::test]
async fn an_account_is_made_its_password_changed_and_it_is_removed() {
    let server = Server::new();
    let _home = server.give_home(&[]);
    let control = &server.world.control;
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let there = format!("{HERE}#accounts");
    anna.page("/portal/settings/accounts/new").await;
    assert_eq!(sent(&mut anna, "/portal/settings/accounts/new", &ACCOUNT).await, there);
    assert_eq!(anna.post("/portal/settings/accounts/new", &ACCOUNT).await.status, 409);
    let kept = || {
        let (account, password) = control.account_secret(&"vc".parse().unwrap()).unwrap();
        (account.user, password.to_string())
    };
    assert_eq!(kept(), ("svc".into(), SECRET.into()));
    let path = "/portal/settings/accounts/vc/edit";
    let page = anna.page(path).await + &anna.page(HERE).await;
    assert!(!page.contains(SECRET) && page.contains("id=\"new-account\""), "{page}");
    assert_eq!(sent(&mut anna, path, &[("user", ""), ("password", "another")]).await, there);
    assert_eq!(kept(), ("svc".into(), "another".into()));
    sent(&mut anna, path, &[("user", "svc2"), ("password", "third")]).await;
    assert_eq!(kept(), ("svc2".into(), "third".into()));
    let tried = anna.post("/portal/settings/accounts/vc/test", &[]).await;
    assert!(tried.status == 409 && tried.text.contains("account.unused"), "{}", tried.text);
    let page = anna.page("/portal/new-site/vsphere").await;
    assert!(page.contains("<option value=\"vc\">vc</option>"), "{page}");
    assert_eq!(sent(&mut anna, "/portal/settings/accounts/vc/delete", &[]).await, there);
    assert_eq!(control.accounts().unwrap(), []);
    assert_eq!(anna.get("/portal/new-site/vsphere").await.status, 409);
}

/// A receiver of webhooks: takes one request, and says what it was.
fn receiver() -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/alerts", listener.local_addr().unwrap());
    let taken = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 204 X\r\nconnection: close\r\n\r\n").unwrap();
        head + &String::from_utf8(body).unwrap()
    });
    (url, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn destinations_of_alerts_are_made_tested_changed_and_removed() {
    let server = Server::new();
    let _home = server.give_home(&[]);
    let control = &server.world.control;
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let there = format!("{HERE}#alerts");
    let (url, taken) = receiver();
    let hook = with(&WHEN, &[("name", "hook"), ("url", &url), ("secret", SECRET), ("plain", "yes")]);
    anna.page("/portal/settings/alerts/new-webhook").await;
    assert_eq!(sent(&mut anna, "/portal/settings/alerts/new-webhook", &hook).await, there);
    let again = anna.post("/portal/settings/alerts/new-mail", &with(&hook, &[("port", "25")])).await;
    assert_eq!(again.status, 409, "{}", again.text);
    let tested = anna.post("/portal/settings/alerts/hook/test", &[]).await;
    assert!(tested.status == 200 && tested.text.contains("The test got there"), "{}", tested.text);
    assert!(taken.join().unwrap().contains("alerts.test"));
    let failed = anna.post("/portal/settings/alerts/hook/test", &[]).await;
    assert!(failed.status == 503 && failed.text.contains("role=\"alert\""), "{}", failed.text);
    let page = anna.page("/portal/settings/alerts/hook/edit").await + &anna.page(HERE).await;
    assert!(page.contains(&url) && page.contains(" checked") && !page.contains(SECRET), "{page}");
    // Without a key the one that is there stays, for this address and for no other.
    let path = "/portal/settings/alerts/hook/edit";
    assert_eq!(sent(&mut anna, path, &with(&hook, &[("secret", ""), ("severity", "Info")])).await, there);
    let elsewhere = with(&hook, &[("secret", ""), ("url", "https://other.example/")]);
    assert_eq!(anna.post(path, &elsewhere).await.status, 400);
    let mail = with(
        &WHEN,
        &[
            ("name", "mail"),
            ("host", "mail.example"),
            ("port", "587"),
            ("security", "starttls"),
            ("user", "dr"),
            ("secret", SECRET),
            ("from", "dr@example.com"),
            ("recipients", "a@example.com\r\nb@example.com"),
        ],
    );
    anna.page("/portal/settings/alerts/new-mail").await;
    assert_eq!(sent(&mut anna, "/portal/settings/alerts/new-mail", &mail).await, there);
    let page = anna.page("/portal/settings/alerts/mail/edit").await + &anna.page(HERE).await;
    assert!(
        page.contains("b@example.com") && page.contains("mail.example:587") && !page.contains(SECRET),
        "{page}"
    );
    assert_eq!(
        anna.post("/portal/settings/alerts/mail/edit", &with(&mail, &[("port", "x")])).await.status,
        400
    );
    assert_eq!(sent(&mut anna, "/portal/settings/alerts", &[("delay", "5"), ("remind", "2")]).await, there);
    let policy = control.alert_policy().unwrap();
    assert_eq!((policy.delay_s, policy.remind_after_s), (5, 7200));
    for name in ["hook", "mail"] {
        assert_eq!(sent(&mut anna, &format!("/portal/settings/alerts/{name}/delete"), &[]).await, there);
    }
    assert_eq!(control.alert_destinations().unwrap(), []);
}

#[tokio::test]
async fn a_network_is_mapped_and_is_not() {
    let server = Server::new();
    let control = &server.world.control;
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    anna.page("/portal/settings/mappings/new").await;
    assert_eq!(sent(&mut anna, "/portal/settings/mappings/new", &MAPPING).await, HERE);
    let one = || control.network_mappings().unwrap().remove(0);
    assert_eq!(
        (one().network.as_str(), one().target_network.as_str(), one().test_network),
        ("lan", "lan", None)
    );
    let page = anna.page(HERE).await;
    let link = |what: &str| {
        let start = format!("href=\"/portal/settings/mappings/{what}?");
        let query = page.split_once(&start).unwrap_or_else(|| panic!("{page}")).1.split_once('"').unwrap().0;
        format!("/portal/settings/mappings/{what}?{}", query.replace("&#38;", "&"))
    };
    assert!(anna.page(&link("edit")).await.contains("name=\"target-network\" value=\"lan\""));
    let wrong = anna.post(&link("edit"), &[("target-network", "wan"), ("test-network", "")]).await;
    assert!(wrong.status == 400 && wrong.text.contains("it has: lan"), "{}", wrong.text);
    let test = [("target-network", "lan"), ("test-network", "lan")];
    assert_eq!(anna.post(&link("edit"), &test).await.location(), HERE);
    assert_eq!(one().test_network.as_deref(), Some("lan"));
    assert!(anna.page(&link("delete")).await.contains("<dd>lan at home</dd>"));
    assert_eq!(anna.post(&link("delete"), &[]).await.location(), HERE);
    assert_eq!(control.network_mappings().unwrap(), []);
    assert_eq!(anna.get(&link("edit")).await.status, 404);
}

#[tokio::test]
async fn a_policy_keeps_points_and_limits_machines_as_it_is_told() {
    let server = Server::new();
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.page("/portal/settings/groups/PG1/edit").await;
    for shown in ["name=\"retention\" value=\"1d:0s,3d:1h,15d:1d\"", "name=\"limit\" value=\"none\""] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    let fields = [
        ("interval", "15"),
        ("app-interval", "0"),
        ("rpo", "15"),
        ("retention", "2d:0s,4d:6h"),
        ("limit", "5M"),
    ];
    assert_eq!(anna.post("/portal/settings/groups/PG1/edit", &fields).await.location(), HERE);
    let policy = || server.world.control.group(&"PG1".parse().unwrap()).unwrap().policy;
    assert_eq!(
        (policy().retention.write_steps().as_str(), policy().bytes_per_s_max),
        ("2d:0s,4d:6h", Some(5_000_000))
    );
    for wrong in [("retention", "1h"), ("limit", "fast")] {
        assert_eq!(anna.post("/portal/settings/groups/PG1/edit", &with(&fields, &[wrong])).await.status, 400);
    }
    anna.post("/portal/settings/groups/PG1/edit", &with(&fields, &[("limit", "none")])).await;
    assert_eq!(policy(), ReplicationPolicy { bytes_per_s_max: None, ..policy() });
}

#[tokio::test]
async fn a_servers_bandwidth_is_shown_and_set() {
    let server = Server::new();
    enrol_all(&server);
    let control = &server.world.control;
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let here = "/portal/servers/process-server.home-ps";
    let path = format!("{here}/bandwidth");
    let page = anna.page(here).await;
    assert!(
        page.contains("id=\"bandwidth\"") && page.contains("<dt>Bandwidth</dt><dd>no limit</dd>"),
        "{page}"
    );
    anna.page(&path).await;
    let fields = [
        ("limit", "10M"),
        ("windows", "mon-fri/08:00-18:00=2M\r\nsat/00:00-24:00=none"),
        ("offset", "+01:00"),
        ("targets", "Recovery-MT 500k sun/01:00-02:00=1M"),
    ];
    assert_eq!(anna.post(&path, &fields).await.location(), here);
    let identity = PeerIdentity { role: Role::ProcessServer, name: "home-ps".parse().unwrap() };
    let set = control.bandwidth(&identity).unwrap();
    assert_eq!(
        (set.utc_offset_minutes, set.total.bytes_per_s_max, set.total.windows.len()),
        (60, Some(10_000_000), 2)
    );
    assert_eq!(set.targets["recovery-mt"].windows[0].bytes_per_s_max, Some(1_000_000));
    let shown = anna.page(here).await + &anna.page(&path).await;
    for text in [
        "10M bytes/s mon,tue,wed,thu,fri/08:00-18:00=2M",
        "to recovery-mt 500k",
        "UTC+01:00",
        "sat/00:00-24:00=none</textarea>",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    // Sent as it is shown, it stays.
    let again = [
        ("targets", "recovery-mt 500k sun/01:00-02:00=1M"),
        ("windows", "mon,tue,wed,thu,fri/08:00-18:00=2M sat/00:00-24:00=none"),
    ];
    anna.post(&path, &with(&fields, &again)).await;
    assert_eq!(control.bandwidth(&identity).unwrap(), set);
    for wrong in [("limit", "x"), ("windows", "mon"), ("offset", "1"), ("targets", "mt"), ("limit", "1k")] {
        assert_eq!(anna.post(&path, &with(&fields, &[wrong])).await.status, 400, "{wrong:?}");
    }
    let page = anna.page("/portal/servers/target.home-mt/bandwidth").await;
    assert!(!page.contains("name=\"targets\""), "{page}");
    assert!(!anna.page("/portal/servers/source.web01").await.contains("id=\"bandwidth\""));
}

#[tokio::test]
async fn sites_are_made_known_and_forgotten() {
    let server = Server::new();
    let control = &server.world.control;
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.page("/portal/sites").await;
    assert!(page.contains("id=\"new-vsphere\"") && page.contains("id=\"new-local\""), "{page}");
    anna.page("/portal/new-site/physical").await;
    let made = anna.post("/portal/new-site/physical", &[("name", "racks"), ("home", "home")]).await;
    assert_eq!(made.location(), "/portal/sites/racks");
    let racks = control.sites().unwrap().into_iter().find(|site| site.name.as_str() == "racks").unwrap();
    assert!(
        matches!(racks.kind, SiteKind::Physical { comes_home_to: Some(home) } if home.as_str() == "home")
    );
    for wrong in [[("name", "third"), ("directory", "relative")], [("name", "<b>"), ("directory", "/x")]] {
        assert_eq!(anna.post("/portal/new-site/local", &wrong).await.status, 400, "{wrong:?}");
    }
    assert_eq!(anna.get("/portal/new-site/azure").await.status, 404);
    anna.page("/portal/sites/racks/remove").await;
    assert_eq!(anna.post("/portal/sites/racks/remove", &[]).await.location(), "/portal/sites");
    assert!(control.sites().unwrap().iter().all(|site| site.name.as_str() != "racks"));
    let refused = anna.post("/portal/sites/home/remove", &[]).await;
    assert!(refused.status == 409 && refused.text.contains("role=\"alert\""), "{}", refused.text);
}

#[tokio::test]
async fn a_machine_is_sent_through_another_process_server() {
    let mut server = Server::new();
    server.world.more_process_servers.push("other-ps");
    enrol_all(&server);
    server.world.enrol(Role::ProcessServer, "other-ps");
    server.protect();
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.page("/portal/machines/web01").await;
    assert!(
        page.contains("id=\"do-switch-process-server\"") && !page.contains("id=\"do-release\""),
        "{page}"
    );
    let page = anna.page("/portal/machines/web01/switch-process-server").await;
    assert!(page.contains("<dd>home-ps</dd>") && page.contains("value=\"other-ps\""), "{page}");
    assert!(!page.contains("value=\"home-ps\"") && !page.contains("recovery-ps"), "{page}");
    let path = "/portal/machines/web01/switch-process-server";
    assert_eq!(anna.post(path, &[("process-server", "other-ps")]).await.location(), "/portal/machines/web01");
    drop(anna);
    server.settle();
    let item = server.world.control.item(&"web01".parse().unwrap()).unwrap().item;
    assert_eq!(item.replication.unwrap().process_server, "other-ps");
}

#[tokio::test]
async fn a_held_machine_is_let_go() {
    let mut server = Server::new();
    server.protect();
    let (snapshot, mut world) = (server.world.snapshot(), server.world);
    world.restore(snapshot);
    let server = Server::over(world, ApiLimits::default(), PortalLimits::default());
    let held = || server.world.control.item(&"web01".parse().unwrap()).unwrap().item.held;
    assert!(held().is_some());
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    assert!(anna.page("/portal/machines/web01").await.contains("id=\"do-release\""));
    let page = anna.page("/portal/machines/web01/release").await;
    assert!(
        page.contains("its components have not reported yet") && page.contains("may run twice"),
        "{page}"
    );
    assert_eq!(anna.post("/portal/machines/web01/release", &[]).await.location(), "/portal/machines/web01");
    assert_eq!(held(), None);
    assert_eq!(anna.post("/portal/machines/web01/release", &[]).await.status, 409, "it is not held any more");
}

/// With a sign-in, an account, a destination and a mapping, so that each form has something to do.
async fn furnished() -> (Server, tempfile::TempDir) {
    let mut server = Server::new();
    let home = server.give_home(&[]);
    enrol_all(&server);
    server.protect();
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    sent(&mut anna, "/portal/settings/sign-ins/new", &SIGN_IN).await;
    sent(&mut anna, "/portal/settings/accounts/new", &ACCOUNT).await;
    let hook = with(&WHEN, &[("name", "hook"), ("url", "https://localhost:1/"), ("secret", SECRET)]);
    sent(&mut anna, "/portal/settings/alerts/new-webhook", &hook).await;
    sent(&mut anna, "/portal/settings/mappings/new", &MAPPING).await;
    drop(anna);
    (server, home)
}

/// Everything that the forms change.
fn all(server: &Server) -> String {
    let control = &server.world.control;
    format!(
        "{:?}{:?}{:?}{:?}{:?}{:?}{:?}{:?}",
        control.sign_ins(),
        control.accounts(),
        control.alert_destinations(),
        control.alert_policy(),
        control.network_mappings(),
        control.sites(),
        control.item(&"web01".parse().unwrap()).unwrap().item,
        control.bandwidth(&PeerIdentity { role: Role::ProcessServer, name: "home-ps".parse().unwrap() }),
    )
}

#[tokio::test]
async fn no_form_is_for_a_lower_role_or_taken_from_elsewhere() {
    let (server, _home) = furnished().await;
    let before = all(&server);
    let fields: Vec<_> = [&SIGN_IN[..], &ACCOUNT, &WHEN, &MAPPING].concat();
    let fields = with(
        &fields,
        &[
            ("name", "new"),
            ("limit", "1M"),
            ("within", "5m"),
            ("every", "1d"),
            ("offset", "+00:00"),
            ("directory", "/x"),
            ("url", "https://x.example"),
            ("host", "x"),
            ("port", "1"),
            ("security", "tls"),
            ("from", "a@b.example"),
            ("recipients", "a@b.example"),
            ("delay", "1"),
            ("remind", "1"),
            ("process-server", "recovery-ps"),
            ("account", "vc"),
            ("fingerprint", "00"),
        ],
    );
    for role in [AccessRole::Reader, AccessRole::Operator] {
        let mut browser = server.signed_in(&format!("{role:?}"), role).await;
        for path in PAGES {
            assert_eq!(browser.get(path).await.status, 403, "{role:?} {path}");
        }
        for path in PAGES.into_iter().chain(BUTTONS) {
            assert_eq!(browser.post(path, &fields).await.status, 403, "{role:?} {path}");
        }
        for (page, hidden) in [
            (HERE, &["corp", ">vc<", "hook", "new-mapping", "mappings/edit", "id=\"alerts\""][..]),
            ("/portal/sites", &["new-site"]),
            ("/portal/sites/home", &["/remove"]),
            ("/portal/servers/process-server.home-ps", &["/bandwidth"]),
            ("/portal/machines/web01", &["do-switch-process-server", "do-release"]),
        ] {
            let shown = browser.page(page).await;
            for text in hidden {
                assert!(!shown.contains(text), "{role:?} {page} {text}: {shown}");
            }
        }
    }
    let mut anna = server.signed_in("carla", AccessRole::Contributor).await;
    for path in PAGES.into_iter().chain(BUTTONS) {
        anna.page(HERE).await;
        let token = anna.form_token.clone();
        let own = [&[("form-token", token.as_str())], &fields[..]].concat();
        let refused = [
            anna.post_raw(path, &fields, Some("https://cs.example")).await,
            anna.post_raw(path, &own, Some("https://evil.example")).await,
            anna.post_raw(path, &own, None).await,
        ];
        for refused in refused {
            assert!(
                refused.status == 403 && refused.text.contains("nothing was done"),
                "{path}: {}",
                refused.text
            );
        }
        if !BUTTONS.contains(&path) {
            let page = anna.page(path).await;
            assert!(page.contains("name=\"form-token\"") && !page.contains(SECRET), "{path}");
        }
    }
    assert_eq!(all(&server), before);
}
