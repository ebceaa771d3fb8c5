//! The stories beside the demo's main one: what fails around protected machines, and a vCenter at home; with everything real: guests, agents, servers, the
//! command line. See `switchback_lab::demo`.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test; its record is shown when it fails")]

use std::path::Path;
use std::sync::Arc;

use switchback_lab::demo::{self, Options, Screen, Story};

#[test]
fn guest_faults_are_noticed_and_mended_and_nothing_is_lost() {
    play(Story::Faults);
}

#[test]
fn guest_comes_home_to_its_original_machine_in_a_vcenter() {
    play(Story::Vmware);
}

#[test]
fn guest_comes_home_to_a_vcenter_where_its_original_is_gone_and_to_an_alternate_location() {
    play(Story::VmwareElsewhere);
}

#[test]
fn guest_comes_home_to_a_vcenter_whatever_happens_there_meanwhile() {
    play(Story::VmwareFaults);
}

#[test]
fn guest_that_was_a_physical_server_comes_home_as_a_virtual_machine() {
    play(Story::Physical);
}

#[test]
fn guest_machines_go_and_come_home_by_microsofts_sdk() {
    play(Story::Sdk);
}

#[test]
fn guest_fails_over_to_azure_and_comes_home() {
    play(Story::Azure);
}

#[test]
fn guest_that_was_a_physical_server_comes_home_from_azure_whatever_happens_there() {
    play(Story::AzureFaults);
}

fn play(story: Story) {
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
    }
    played.unwrap();
    assert!(table.holds());
}
