//! The stories beside the demo's main one: what fails around protected machines, and a vCenter at home; with everything real: guests, agents, servers, the
//! command line. See `switchback_lab::demo`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test; its record is shown when it fails")]

#[path = "../../api/tests/arm/conformance.rs"]
#[expect(dead_code, reason = "the API's tests need more of it")]
mod conformance;
#[path = "../../api/tests/sdk/validation.rs"]
mod validation;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use switchback_lab::demo::{self, Options, PICTURES, RECORDED, Screen, Story};
use switchback_lab::prepared;
use tempfile::TempDir;

/// What the validation of exchanges runs.
fn lab(part: &str) -> PathBuf {
    prepared("lab-azure", part).unwrap()
}

#[test]
fn guest_faults_are_noticed_and_mended_and_nothing_is_lost() {
    drop(play(Story::Faults));
}

#[test]
fn guest_comes_home_to_its_original_machine_in_a_vcenter() {
    drop(play(Story::Vmware));
}

#[test]
fn guest_comes_home_to_a_vcenter_where_its_original_is_gone_and_to_an_alternate_location() {
    drop(play(Story::VmwareElsewhere));
}

#[test]
fn guest_comes_home_to_a_vcenter_whatever_happens_there_meanwhile() {
    drop(play(Story::VmwareFaults));
}

#[test]
fn guest_that_was_a_physical_server_comes_home_as_a_virtual_machine() {
    drop(play(Story::Physical));
}

#[test]
fn guest_machines_go_and_come_home_by_microsofts_sdks_and_every_exchange_is_valid() {
    let directory = play(Story::Sdk);
    validation::check(&directory.path().join(RECORDED), 20);
}

#[test]
fn guest_machines_go_and_come_home_by_clicking_in_the_portal() {
    let directory = play(Story::Portal);
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../portal-pages");
    std::fs::create_dir_all(&kept).unwrap();
    for picture in std::fs::read_dir(directory.path().join(PICTURES)).unwrap() {
        let picture = picture.unwrap();
        std::fs::copy(picture.path(), kept.join(picture.file_name())).unwrap();
    }
}

#[test]
fn guest_fails_over_to_azure_and_comes_home() {
    drop(play(Story::Azure));
}

#[test]
fn guest_that_was_a_physical_server_comes_home_from_azure_whatever_happens_there() {
    drop(play(Story::AzureFaults));
}

#[test]
fn guest_points_are_proved_in_a_sandbox_and_one_of_a_broken_machine_fails() {
    drop(play(Story::Proof));
}

/// Plays it; returns the directory that everything was written to.
fn play(story: Story) -> TempDir {
    let ledger = Path::new(env!("CARGO_BIN_EXE_switchback-ledger"));
    let directory = tempfile::Builder::new().prefix("switchback-story-").tempdir_in("/var/tmp").unwrap();
    let options = Options {
        // Built with the workspace's tests.
        switchback: ledger.with_file_name("switchback"),
        ledger: ledger.to_owned(),
        directory: directory.path().to_owned(),
        story,
        keep: false,
        stop: Arc::default(),
    };
    let (table, played) = demo::run(&options, Screen::new(Box::new(std::io::stdout()), false));
    println!("{table}");
    if played.is_err() || !table.holds() {
        println!("the logs are in {}", directory.keep().join("logs").display());
        played.unwrap();
        panic!("not all of it holds");
    }
    directory
}
