//! What fails around protected machines, with everything real: guests, agents, servers, the command line. See `switchback_lab::demo`.

use std::path::Path;
use std::sync::Arc;

use switchback_lab::demo::{self, Options, Screen, Story};

#[test]
fn guest_faults_are_noticed_and_mended_and_nothing_is_lost() {
    let ledger = Path::new(env!("CARGO_BIN_EXE_switchback-ledger"));
    let directory = tempfile::Builder::new().prefix("switchback-faults-").tempdir_in("/var/tmp").unwrap();
    let options = Options {
        // Built with the workspace's tests.
        switchback: ledger.with_file_name("switchback"),
        ledger: ledger.to_owned(),
        directory: directory.path().to_owned(),
        story: Story::Faults,
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
