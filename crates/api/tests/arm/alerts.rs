//! Where alerts go, and what the contract knows of it.

use serde_json::json;

use crate::server::Server;

const MAIL: &str = "switchbackAlertDestinations/mail";
const SETTING: &str = "replicationAlertSettings/defaultAlertSetting";

#[tokio::test]
async fn destinations_are_set_shown_and_removed_and_no_secret_comes_out() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::new();
    server.keeps(directory.path());
    let mail = json!({ "host": "mail.example", "port": 587, "security": "starttls", "user": "alerts",
        "from": "switchback@example.com", "recipients": ["ops@example.com"] });
    let body = json!({ "properties": { "mail": mail, "secret": "very secret" } });
    let made = server.call("PUT", MAIL, Some(body)).await;
    assert_eq!(made.status, 200, "{:#}", made.body);
    assert!(!made.body.to_string().contains("very secret"));
    assert_eq!(made.body["properties"]["severityMin"], "Warning");
    assert_eq!(made.body["properties"]["intervalS"], 60);
    // As it was shown it may be sent back: it keeps its secret.
    let again = server.call("PUT", MAIL, Some(json!({ "properties": made.body["properties"] }))).await;
    assert_eq!(again.status, 200, "{:#}", again.body);
    let hook =
        json!({ "properties": { "webhook": { "url": "http://10.0.0.1/" }, "secret": "0123456789abcdef" } });
    let refused = server.call("PUT", "switchbackAlertDestinations/hook", Some(hook)).await;
    assert_eq!(refused.status, 400, "{:#}", refused.body);
    let both = json!({ "properties": { "secret": "0123456789abcdef" } });
    assert_eq!(server.call("PUT", "switchbackAlertDestinations/x", Some(both)).await.status, 400);
    let misspelt =
        json!({ "properties": { "webhook": { "url": "https://x.example/", "allowPlain": true } } });
    assert_eq!(server.call("PUT", "switchbackAlertDestinations/x", Some(misspelt)).await.status, 400);
    assert_eq!(server.get("switchbackAlertDestinations").await["value"][0]["name"], "mail");
    for _ in 0..2 {
        assert_eq!(server.call("DELETE", MAIL, None).await.status, 204);
    }
    assert_eq!(server.call("GET", MAIL, None).await.status, 404);
    assert_eq!(server.call("POST", &format!("{MAIL}/test"), None).await.status, 404);
}

#[tokio::test]
async fn the_contract_sets_who_gets_mail_once_there_is_a_mail_server() {
    let server = Server::new();
    let wanted = |addresses: &[&str], owners: &str| json!({ "properties": { "sendToOwners": owners, "customEmailAddresses": addresses, "locale": "en-US" } });
    let refused = server.call("PUT", SETTING, Some(wanted(&["a@example.com"], "DoNotSend"))).await;
    assert_eq!(refused.status, 400, "{:#}", refused.body);
    let mail = json!({ "host": "relay.example", "port": 25, "security": "none", "from": "switchback@example.com", "recipients": [] });
    let made = server.call("PUT", MAIL, Some(json!({ "properties": { "mail": mail } }))).await;
    assert_eq!(made.status, 200, "{:#}", made.body);
    let set =
        server.call("PUT", SETTING, Some(wanted(&["a@example.com", "b@example.com"], "DoNotSend"))).await;
    assert_eq!(set.status, 200, "{:#}", set.body);
    let shown = server.get(SETTING).await;
    assert_eq!(shown["properties"]["customEmailAddresses"], json!(["a@example.com", "b@example.com"]));
    assert_eq!(server.get(MAIL).await["properties"]["mail"]["recipients"][1], "b@example.com");
    assert_eq!(
        server.call("PUT", SETTING, Some(wanted(&[], "Send"))).await.status,
        400,
        "there are no owners"
    );
    assert_eq!(server.call("PUT", SETTING, Some(wanted(&["no address"], ""))).await.status, 400);
}

#[tokio::test]
async fn the_policy_says_when() {
    let server = Server::new();
    let policy = "switchbackAlertPolicy/default";
    assert_eq!(server.get(policy).await["properties"], json!({ "delayS": 60, "remindAfterS": 86_400 }));
    let set = server.call("PUT", policy, Some(json!({ "properties": { "delayS": 0 } }))).await;
    assert_eq!(set.body["properties"], json!({ "delayS": 0, "remindAfterS": 86_400 }));
    let never = json!({ "properties": { "delayS": u64::MAX } });
    assert_eq!(server.call("PUT", policy, Some(never)).await.status, 400);
}
