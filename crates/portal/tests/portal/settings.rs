//! The tab Settings: groups, backup, tokens, sign-ins, accounts, the audit log, and who sees which.

use switchback_control::backup::format::new_identity;
use switchback_control::{RoleMapping, SignIn};
use switchback_model::{AccessRole, Account, AccountKind, ReplicationPolicy, UnixMillis};
use zeroize::Zeroizing;

use crate::browser::Server;

const HERE: &str = "/portal/settings";

#[tokio::test]
async fn a_token_is_shown_once_signs_in_and_is_deleted() {
    let server = Server::new();
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    anna.page("/portal/settings/tokens/new").await;
    let made = anna.post("/portal/settings/tokens/new", &[("name", "ci"), ("role", "Operator")]).await;
    assert_eq!((made.status.as_u16(), made.header("cache-control")), (200, "no-store"));
    let secret = made.text.split_once("id=\"secret\">").unwrap().1.split_once('<').unwrap().0.to_owned();
    assert!(secret.starts_with("sbt_"), "{}", made.text);
    let page = anna.page(HERE).await;
    assert!(page.contains("tokens/ci/delete") && !page.contains(&secret), "{page}");
    let again = anna.post("/portal/settings/tokens/new", &[("name", "ci"), ("role", "Reader")]).await;
    assert!(again.status == 409 && !again.text.contains("sbt_"), "{}", again.text);
    let wrong = anna.post("/portal/settings/tokens/new", &[("name", "x"), ("role", "King")]).await;
    assert_eq!(wrong.status, 400);
    let wrong = anna.post("/portal/settings/tokens/new", &[("name", "<b>/x"), ("role", "Reader")]).await;
    assert!(wrong.status == 400 && !wrong.text.contains("<b>/x"), "{}", wrong.text);
    let mut ci = server.browser();
    assert_eq!(ci.sign_in(&secret).await.location(), "/portal/");
    let own = anna.page("/portal/settings/tokens/anna/delete").await;
    assert!(own.contains("the one that you are signed in with"), "{own}");
    assert_eq!(anna.get("/portal/settings/tokens/nobody/delete").await.status, 404);
    let page = anna.page("/portal/settings/tokens/ci/delete").await;
    assert!(page.contains("shut out at once") && !page.contains("signed in with"), "{page}");
    let deleted = anna.post("/portal/settings/tokens/ci/delete", &[]).await;
    assert_eq!(deleted.location(), "/portal/settings#tokens");
    assert_eq!(ci.get("/portal/").await.status, 303, "it is shut out");
}

#[tokio::test]
async fn a_group_is_made_its_policy_changed_and_what_was_not_asked_for_stays() {
    let mut server = Server::new();
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.page(HERE).await;
    for shown in [
        "PG1_Failback",
        "home → recovery",
        "a recovery point every 15 s",
        "multi-VM consistency",
        "keeps all for 24 h",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    anna.page("/portal/settings/groups/new").await;
    let fields = |name, interval| {
        vec![
            ("name", name),
            ("source", "home"),
            ("target", "recovery"),
            ("interval", interval),
            ("app-interval", "60"),
            ("rpo", "15"),
        ]
    };
    for wrong in ["", "-1", "soon"] {
        assert_eq!(
            anna.post("/portal/settings/groups/new", &fields("PG2", wrong)).await.status,
            400,
            "{wrong}"
        );
    }
    let taken = anna.post("/portal/settings/groups/new", &fields("pg1", "99")).await;
    assert!(taken.status == 409 && taken.text.contains("already"), "{}", taken.text);
    assert_eq!(anna.post("/portal/settings/groups/new", &fields("PG2", "1.5")).await.location(), HERE);
    let policy = |name: &str| server.world.control.group(&name.parse().unwrap()).unwrap().policy;
    let expected =
        ReplicationPolicy { interval_ms: 1_500, app_interval_ms: 3_600_000, ..ReplicationPolicy::default() };
    assert_eq!(policy("PG2"), expected);
    assert_eq!(policy("PG1").interval_ms, 15_000, "that of the other one is as it was");
    let page = anna.page("/portal/settings/groups/PG2/edit").await;
    assert!(page.contains("name=\"interval\" value=\"1.5\""), "{page}");
    let change = [("interval", "1.5"), ("app-interval", "60"), ("rpo", "30"), ("multi-vm", "yes")];
    assert_eq!(anna.post("/portal/settings/groups/PG2/edit", &change).await.location(), HERE);
    assert_eq!(policy("PG2"), ReplicationPolicy { rpo_threshold_ms: 1_800_000, multi_vm: true, ..expected });
    let page = anna.page("/portal/settings/groups/PG2/delete").await;
    assert!(page.contains("PG2_Failback goes with it"), "{page}");
    assert_eq!(anna.post("/portal/settings/groups/PG2/delete", &[]).await.location(), HERE);
    assert!(!anna.page(HERE).await.contains("PG2"));
    drop(anna);
    server.protect();
    let mut berta = server.signed_in("berta", AccessRole::Contributor).await;
    berta.page(HERE).await;
    let refused = berta.post("/portal/settings/groups/PG1/delete", &[]).await;
    assert!(refused.status == 409 && refused.text.contains("alert\""), "{}", refused.text);
}

#[tokio::test]
async fn backups_are_set_and_their_state_shown() {
    let server = Server::new();
    let (own, elsewhere) = (server.give_home(&[]), tempfile::tempdir().unwrap());
    let key = new_identity(None).unwrap().1;
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.page(HERE).await;
    assert!(
        page.contains("the configuration server is not backed up") && !page.contains("id=\"back-up\""),
        "{page}"
    );
    anna.page("/portal/settings/backup").await;
    let path = elsewhere.path().to_str().unwrap();
    let fields = |destination, recipients, every| {
        vec![
            ("destination", destination),
            ("recipients", recipients),
            ("continuous", "yes"),
            ("every", every),
        ]
    };
    let own = own.path().to_str().unwrap();
    let refused = anna.post("/portal/settings/backup", &fields(own, &key, "24")).await;
    assert!(refused.status == 400 && refused.text.contains("it would be lost with it"), "{}", refused.text);
    assert_eq!(anna.post("/portal/settings/backup", &fields(path, "nonsense", "24")).await.status, 400);
    assert_eq!(anna.post("/portal/settings/backup", &fields(path, &key, "often")).await.status, 400);
    assert_eq!(server.world.control.backup_policy().unwrap(), None);
    let set = anna.post("/portal/settings/backup", &fields(path, &key, "24")).await;
    assert_eq!(set.location(), "/portal/settings#backup");
    let mut policy = server.world.control.backup_policy().unwrap().unwrap();
    assert_eq!(
        (policy.every_ms, policy.continuous, &policy.recipients),
        (86_400_000, true, &vec![key.clone()])
    );
    // What the form does not ask for, and what it shows rounded, stays.
    (policy.keep.last, policy.every_ms) = (7, 90_000);
    server.world.control.set_backup_policy(&policy).unwrap();
    assert!(anna.page("/portal/settings/backup").await.contains("It is every 90 s now"));
    assert_eq!(anna.post("/portal/settings/backup", &fields(path, &key, "1")).await.status, 303);
    assert_eq!(server.world.control.backup_policy().unwrap(), Some(policy));
    let page = anna.page(HERE).await;
    for shown in [path, "after each change, and every 90 s", "the newest 7", &key, "id=\"back-up\""] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    let mut operator = server.signed_in("berta", AccessRole::Operator).await;
    let page = operator.page(HERE).await;
    assert!(
        page.contains(path) && !page.contains("id=\"back-up\"") && !page.contains("id=\"change-backup\"")
    );
    assert_eq!(operator.post("/portal/settings/backup/run", &[]).await.status, 403);
}

#[tokio::test]
async fn who_may_come_in_is_shown_to_a_contributor_alone() {
    let server = Server::new();
    let _home = server.give_home(&[]);
    let control = &server.world.control;
    let name = |text: &str| text.parse().unwrap();
    let mapping = RoleMapping { role: AccessRole::Reader, value: "<script>alert(1)</script>".into() };
    let sign_in = SignIn {
        name: name("entra"),
        issuer: "https://login.example/tenant/v2.0".into(),
        audiences: vec!["api://switchback".into()],
        claim: "roles".into(),
        roles: vec![mapping],
        authority: None,
        portal: None,
    };
    control.set_sign_in(sign_in, None).unwrap();
    let (kind, user) = (AccountKind::Vsphere, "svc-user-name".to_owned());
    let account = Account { name: name("vcenter"), kind, user, changed: UnixMillis(0) };
    control.add_account(account, &Zeroizing::new("secret-password".into())).unwrap();
    let mut anna = server.signed_in("anna", AccessRole::Contributor).await;
    let page = anna.page(HERE).await;
    for shown in
        ["https://login.example/tenant/v2.0", "&#60;script&#62;alert", ">vcenter<", ">anna<", "id=\"audit\""]
    {
        assert!(page.contains(shown), "{shown}: {page}");
    }
    for hidden in ["<script>alert", "svc-user-name", "secret-password"] {
        assert!(!page.contains(hidden), "{hidden}: {page}");
    }
    anna.post("/portal/settings/tokens/new", &[("name", "ci"), ("role", "Reader")]).await;
    let log = anna.page("/portal/settings/audit?q=ANNA+tokens").await;
    assert!(log.contains("switchbacktokens/ci") && log.contains(">200<"), "{log}");
    assert!(anna.page("/portal/settings/audit?q=nobody").await.contains("No request is like that"));
    for (who, role) in [("reader", AccessRole::Reader), ("operator", AccessRole::Operator)] {
        let mut browser = server.signed_in(who, role).await;
        let page = browser.page(HERE).await;
        assert!(page.contains("PG1_Failback") && page.contains("not backed up"), "{who}: {page}");
        for hidden in ["entra", "vcenter", "ci/delete", "/edit", "new-group", "new-token", "/audit"] {
            assert!(!page.contains(hidden), "{who} {hidden}: {page}");
        }
        let forms = [
            "/portal/settings/tokens/new",
            "/portal/settings/tokens/ci/delete",
            "/portal/settings/groups/new",
            "/portal/settings/groups/PG1/edit",
            "/portal/settings/groups/PG1/delete",
            "/portal/settings/backup",
        ];
        for path in forms {
            assert_eq!(browser.get(path).await.status, 403, "{who} {path}");
            let fields = [
                ("name", "PG9"),
                ("role", "Reader"),
                ("source", "home"),
                ("target", "recovery"),
                ("interval", "1"),
                ("app-interval", "1"),
                ("rpo", "1"),
                ("every", "1"),
                ("destination", "/nowhere"),
                ("recipients", "x"),
            ];
            assert_eq!(browser.post(path, &fields).await.status, 403, "{who} {path}");
        }
        assert_eq!(browser.get("/portal/settings/audit").await.status, 403, "{who}");
    }
    assert_eq!((control.groups().unwrap().len(), control.backup_policy().unwrap()), (2, None));
}
