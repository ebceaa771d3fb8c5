//! Every operation of the contract: served, or refused with the reason why it has no meaning here; and that the documentation says the same.

use std::collections::BTreeMap;

use serde_json::json;
use switchback_api::Vault;

use crate::conformance::{Operation, operations};
use crate::server::Server;

/// What a refusal says of an operation that has no meaning here.
const WITHOUT_MEANING: &str = "OperationNotSupported";
/// Operations that have no meaning here, by the part of the document they are in.
const EXPECTED_WITHOUT_MEANING: [(&str, &[&str]); 10] = [
    ("ReplicationEligibilityResults", &["Get", "List"]),
    ("ReplicationFabrics", &["MigrateToAad", "RemoveInfra"]),
    (
        "ReplicationMigrationItems",
        &[
            "Create",
            "Delete",
            "Migrate",
            "PauseReplication",
            "ResumeReplication",
            "Resync",
            "TestMigrate",
            "TestMigrateCleanup",
            "Update",
        ],
    ),
    ("ReplicationProtectedItems", &["SwitchProvider", "UpdateAppliance"]),
    (
        "ReplicationProtectionClusters",
        &[
            "ApplyRecoveryPoint",
            "Create",
            "FailoverCommit",
            "Purge",
            "RepairReplication",
            "TestFailover",
            "TestFailoverCleanup",
            "UnplannedFailover",
        ],
    ),
    ("ReplicationProtectionContainerMappings", &["Update"]),
    ("ReplicationProtectionContainers", &["SwitchClusterProtection", "SwitchProtection"]),
    ("ReplicationProtectionIntents", &["Create"]),
    ("ReplicationRecoveryServicesProviders", &["Create", "Delete", "Purge"]),
    ("ReplicationStorageClassificationMappings", &["Create", "Delete"]),
];
/// They find what is there, and say how it is made when it is not.
const FINDERS: [&str; 2] = ["ReplicationFabrics_Create", "ReplicationProtectionContainers_Create"];
/// What is always empty here, because what it lists has no meaning.
const EMPTY: [&str; 9] = [
    "ClusterRecoveryPoint",
    "ClusterRecoveryPoints",
    "MigrationRecoveryPoints",
    "ReplicationAppliances",
    "ReplicationLogicalNetworks",
    "ReplicationMigrationItems",
    "ReplicationProtectionClusters",
    "ReplicationProtectionIntents",
    "ReplicationStorageClassification",
];

/// How an operation is answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Answered {
    Served,
    /// A list of nothing, or one of its elements.
    Empty,
    WithoutMeaning,
}

/// `…/{fabricName}/…` with names of things that may be there, or not.
fn fill(template: &str) -> String {
    let vault = Vault::default();
    template
        .split('/')
        .map(|segment| match segment {
            "{subscriptionId}" => vault.subscription.as_str(),
            "{resourceGroupName}" => vault.resource_group.as_str(),
            "{fabricName}" => "nowhere",
            _ if segment.starts_with('{') => "nobody",
            _ => segment,
        })
        .collect::<Vec<_>>()
        .join("/")
}

async fn ask(server: &Server, operation: &Operation) -> Answered {
    let path = fill(operation.path);
    let uri = if path.starts_with('/') {
        format!("{path}?api-version=2024-04-01")
    } else {
        format!("{}/{path}?api-version=2024-04-01", Vault::default().id())
    };
    let body = if operation.method == "GET" { Vec::new() } else { json!({}).to_string().into_bytes() };
    let answered = server.raw(&operation.method, &uri, Some(&server.token), body).await;
    let what = format!("{} {} {path}: {}", operation.id, operation.method, answered.status);
    let is_empty = EMPTY.iter().any(|kind| operation.id.starts_with(kind)) && operation.method == "GET";
    if answered.status.is_success() {
        let is_list = answered.body["value"].as_array();
        assert!(!is_empty || is_list.is_some_and(Vec::is_empty), "{what}: {:#}", answered.body);
        return if is_empty { Answered::Empty } else { Answered::Served };
    }
    assert!(!answered.code().is_empty(), "{what}: not the contract's shape: {:#}", answered.body);
    let message = answered.body["error"]["message"].as_str().unwrap_or_default();
    assert!(!message.contains("not served here"), "{what}: no route: {message}");
    assert_ne!(answered.status, 405, "{what}: no method");
    assert!(answered.status.is_client_error(), "{what}: {message}");
    match answered.code() {
        WITHOUT_MEANING if !FINDERS.contains(&operation.id) => {
            assert!(message.contains("Recommended action"), "{what}: it must say what to do: {message}");
            Answered::WithoutMeaning
        }
        _ if is_empty => Answered::Empty,
        _ => Answered::Served,
    }
}

#[tokio::test]
async fn every_operation_of_the_contract_is_served_or_says_why_it_has_no_meaning() {
    let server = Server::new();
    let mut table: BTreeMap<&str, BTreeMap<Answered, Vec<&str>>> = BTreeMap::new();
    for operation in operations() {
        let answered = ask(&server, &operation).await;
        let (group, name) = operation.id.split_once('_').unwrap();
        table.entry(group).or_default().entry(answered).or_default().push(name);
    }
    let mut without = Vec::new();
    for (group, answers) in &mut table {
        answers.values_mut().for_each(|names| names.sort_unstable());
        if let Some(names) = answers.get(&Answered::WithoutMeaning) {
            without.push((*group, names.as_slice()));
        }
    }
    assert_eq!(without, EXPECTED_WITHOUT_MEANING);
    let shown = show(&table);
    let documented = include_str!("../../../../docs/reference/api.md");
    assert!(documented.contains(&shown), "docs/reference/api.md must have this table:\n{shown}");
}

/// The table of the documentation.
fn show(table: &BTreeMap<&str, BTreeMap<Answered, Vec<&str>>>) -> String {
    let mut lines =
        vec!["| part | served | nothing to show | no meaning here |".to_owned(), "|---|---|---|---|".into()];
    for (group, answers) in table {
        let cell = |answered| answers.get(&answered).map(|names| names.join(", ")).unwrap_or_default();
        let cells = [Answered::Served, Answered::Empty, Answered::WithoutMeaning].map(cell);
        lines.push(format!("| {group} | {} |", cells.join(" | ")).replace("  ", " "));
    }
    lines.join("\n")
}
