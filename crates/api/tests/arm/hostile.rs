//! Paths that try to lead elsewhere, and two clients that want the same machine at the same moment.

use serde_json::json;
use switchback_api::Vault;

use crate::server::Server;

#[tokio::test]
async fn a_trick_in_a_path_names_nothing() {
    let server = Server::new();
    let before = server.get("replicationFabrics").await;
    let long = "a".repeat(4000);
    for trick in [
        "..",
        "%2e%2e",
        ".%2e/..",
        "..%2f..%2fetc%2fpasswd",
        "home%2f..%2frecovery",
        "..%5chome",
        "home%00",
        "home%0d%0aX-Injected:%201",
        "home;x=1",
        "home'%20or%20'1'='1",
        "%ff%fe",
        "%25%32%65%25%32%65",
        "%",
        &long,
    ] {
        for (method, below) in [("GET", ""), ("GET", "/replicationProtectionContainers"), ("POST", "/remove")]
        {
            let uri =
                format!("{}/replicationFabrics/{trick}{below}?api-version=2024-04-01", Vault::default().id());
            let refused = server.raw(method, &uri, Some(&server.token), Vec::new()).await;
            assert!(
                matches!(refused.status.as_u16(), 400 | 404 | 405 | 414),
                "{method} {trick}: {refused:?}"
            );
            assert!(!refused.code().is_empty(), "{method} {trick}: {refused:?}");
            assert!(refused.header("x-injected").is_empty(), "{trick}");
        }
    }
    assert_eq!(server.get("replicationFabrics").await, before);
}

/// One of them has it; the other is told so, and nothing is begun twice.
#[tokio::test]
async fn of_clients_that_want_one_machine_at_once_one_gets_it() {
    let mut server = Server::new();
    let item = server.protect().await;
    let jobs = async || server.call("GET", "replicationJobs", None).await.names().len();
    let before = jobs().await;
    let body = json!({ "properties": { "failoverDirection": "PrimaryToRecovery",
        "providerSpecificDetails": { "instanceType": "InMageAzureV2" } } });
    let path = format!("{item}/unplannedFailover");
    let ask = || server.call("POST", &path, Some(body.clone()));
    let answered = tokio::join!(ask(), ask(), ask(), ask());
    let mut statuses: Vec<_> =
        [answered.0, answered.1, answered.2, answered.3].iter().map(|one| one.status.as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 409, 409, 409]);
    assert_eq!(jobs().await, before + 1);
}
