//! Microsoft's own SDKs drive the API, unmodified: over TLS, with their own pollers, through the whole cycle; and `oav`, the validator of Azure's
//! API reviews, judges every exchange by the contract's whole document.
//!
//! Sites and components are simulated (`control/tests/jobs/world.rs`) and go on by themselves while the client waits. What the client does
//! is in `client.py` and the files beside it, one function for each chapter, and in `client.cjs`. `crates/lab` has the same script drive real guests.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../arm/conformance.rs"]
#[expect(dead_code, reason = "the tests without a network need more of it")]
mod conformance;
mod server;
mod validation;
#[path = "../../../control/tests/jobs/world.rs"]
#[expect(dead_code, reason = "the control plane's tests need more of it")]
mod world;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use server::Server;

/// What `scripts/lab-azure` prints for one of its parts: the program that it has prepared.
fn lab(what: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/lab-azure");
    let output = Command::new(script).arg(what).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Runs the client's chapters in one version of the contract; its exchanges are in the directory afterwards.
fn client(server: &Server, api_version: &str, recorded: &Path, chapters: &[&str]) -> Output {
    Command::new(lab("witness"))
        // Nothing compiled is left beside the scripts.
        .arg("-B")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/client.py"))
        .args([&server.url, api_version])
        .args([&server.authority, recorded])
        .args(chapters)
        .env("SWITCHBACK_TOKEN_FILE", &server.token_file)
        .env("SWITCHBACK_SCRIPTS", &server.scripts)
        .output()
        .unwrap()
}

fn run(api_version: &str, recorded: &Path, chapters: &[&str]) {
    finish(&client(&Server::start(), api_version, recorded, chapters));
}

fn finish(output: &Output) {
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(printed.lines().last(), Some("done"), "{printed}");
}

#[test]
fn the_sdk_for_python_goes_all_the_way_round_and_every_exchange_is_valid() {
    let recorded = tempfile::tempdir().unwrap();
    run("2024-04-01", recorded.path(), &["inventory", "servers", "round", "rehearsal", "end"]);
    validation::check(recorded.path(), 40);
}

#[test]
fn the_sdk_for_python_takes_a_recovery_plan_there_and_back() {
    let recorded = tempfile::tempdir().unwrap();
    run("2024-04-01", recorded.path(), &["inventory", "operations", "plan", "end"]);
    validation::check(recorded.path(), 40);
}

/// The version that the SDK speaks if it is not told another one. There is no document of it to validate by.
#[test]
fn the_sdk_for_python_in_its_own_version_sees_the_same() {
    let recorded = tempfile::tempdir().unwrap();
    run("2025-08-01", recorded.path(), &["inventory", "bad_input", "end"]);
}

#[test]
fn the_script_of_the_documentation_takes_a_plan_there_and_back() {
    let documented = include_str!("../../../../docs/reference/api.md");
    let (_, script) = documented.split_once("```python\n").unwrap();
    let (script, _) = script.split_once("```").unwrap();
    let (server, recorded) = (Server::start(), tempfile::tempdir().unwrap());
    finish(&client(&server, "2025-08-01", recorded.path(), &["inventory", "make_plan"]));
    let output = Command::new(lab("witness"))
        .args(["-c", script])
        .env("SWITCHBACK_SERVER", &server.url)
        .env("SWITCHBACK_CA_FILE", &server.authority)
        .env("SWITCHBACK_TOKEN_FILE", &server.token_file)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    finish(&client(&server, "2025-08-01", recorded.path(), &["after_plan"]));
}

fn javascript(api_version: &str, recorded: &Path) {
    let server = Server::start();
    let output = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/client.cjs"))
        .args([&server.url, api_version])
        .arg(recorded)
        .args(["inventory", "protect", "round", "end"])
        .env("NODE_PATH", lab("node"))
        .env("NODE_EXTRA_CA_CERTS", &server.authority)
        .env("SWITCHBACK_TOKEN_FILE", &server.token_file)
        .output()
        .unwrap();
    finish(&output);
}

#[test]
fn the_sdk_for_javascript_goes_all_the_way_round_and_every_exchange_is_valid() {
    let recorded = tempfile::tempdir().unwrap();
    javascript("2024-04-01", recorded.path());
    validation::check(recorded.path(), 10);
}

#[test]
fn the_sdk_for_javascript_goes_all_the_way_round_in_its_own_version() {
    javascript("2023-06-01", tempfile::tempdir().unwrap().path());
}
