//! What a client has recorded, judged twice: by `oav`, whose report in JSON counts (it prints little, and ends with success whatever it found), and by
//! our own check, which is stricter: it knows no property that the contract does not.
//!
//! `oav` passes over a request that it finds no operation for, so it is also looked whether it has judged every operation that was asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{conformance, lab};

/// `oav` takes the provider and its version from where a document is in the repository of specifications.
const PLACE: &str = "specification/recoveryservicessiterecovery/resource-manager/Microsoft.RecoveryServices/stable/2024-04-01";

/// Fails unless all exchanges of the directory are valid, and of so many operations at least.
pub(crate) fn check(recorded: &Path, operations_min: usize) {
    let traffic = recorded.join("contract");
    let asked = check_each(&traffic);
    assert!(asked.len() >= operations_min, "only {} operations were asked for", asked.len());
    let report = oav(recorded, &traffic);
    let errors = report["errors"].as_array().unwrap();
    assert!(errors.is_empty(), "{:#}", report["errors"]);
    let passed = report["passedOperationsList"].as_array().unwrap().iter();
    let passed: BTreeSet<&str> = passed
        .flat_map(|document| document["operationIds"].as_array().unwrap())
        .map(|operation| operation.as_str().unwrap())
        .collect();
    assert_eq!(passed, asked, "left: what oav has judged");
}

/// Our own check of each exchange; returns the operations that were asked for.
fn check_each(traffic: &Path) -> BTreeSet<&'static str> {
    let mut asked = BTreeSet::new();
    for file in std::fs::read_dir(traffic).unwrap() {
        let file = file.unwrap().path();
        let exchange: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let (request, response) = (&exchange["liveRequest"], &exchange["liveResponse"]);
        let url = request["url"].as_str().unwrap();
        let path = &url["https://".len()..];
        let path = &path[path.find('/').unwrap()..path.find('?').unwrap()];
        let path = in_vault(path);
        let method = request["method"].as_str().unwrap().to_ascii_lowercase();
        let what = format!("{method} {path} ({})", file.display());
        let operation = conformance::operation(&method, path).unwrap_or_else(|| panic!("{what}"));
        asked.insert(operation["operationId"].as_str().unwrap());
        let status = response["statusCode"].as_str().unwrap().parse().unwrap();
        let errors = conformance::check(&method, path, status, response.get("body"));
        assert!(errors.is_empty(), "{what}: {errors:#?}");
    }
    asked
}

/// A path below its vault; what is in none has its whole path.
fn in_vault(path: &str) -> &str {
    // Types have no case, and links to further pages write them small.
    const TYPE: &str = "/vaults/";
    let Some(begin) = path.to_ascii_lowercase().find(TYPE) else { return path };
    let name = &path[begin + TYPE.len()..];
    name.split_once('/').map_or(path, |(_, rest)| rest)
}

/// The contract with each discriminator said once: a definition that says again the one of what it is built upon is, to `oav`, no kind of that any more, and
/// it finds no `JobTaskDetails` among the kinds of `TaskTypeDetails`. All kinds of both are then looked for where the contract has them used.
fn contract_for_oav() -> Value {
    let mut contract: Value = serde_json::from_str(include_str!("../contract/2024-04-01.json")).unwrap();
    for definition in contract["definitions"].as_object_mut().unwrap().values_mut() {
        let definition = definition.as_object_mut().unwrap();
        if definition.contains_key("allOf") {
            definition.remove("discriminator");
        }
    }
    contract
}

/// The report of `oav`.
fn oav(recorded: &Path, traffic: &Path) -> Value {
    let document = recorded.join(PLACE).join("service.json");
    std::fs::create_dir_all(recorded.join(PLACE)).unwrap();
    std::fs::write(&document, contract_for_oav().to_string()).unwrap();
    let report: PathBuf = recorded.join("report.json");
    let output = Command::new("node")
        .args([lab("oav"), "validate-traffic".into()])
        .args([traffic, &document])
        .arg("--jsonReport")
        .arg(&report)
        .arg("--report")
        .arg(recorded.join("report.html"))
        // It writes a log there.
        .env("HOME", recorded)
        .current_dir(recorded)
        .output()
        .unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let report = std::fs::read(&report).unwrap_or_else(|error| panic!("no report ({error}): {said}"));
    serde_json::from_slice(&report).unwrap()
}
