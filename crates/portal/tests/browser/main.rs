//! The portal in a real browser: Debian's Chromium, headless, driven by Playwright (`scripts/lab-browser`), over TLS. Sites and components are simulated
//! and go on by themselves.
//!
//! What is clicked is in `walk.cjs`: the whole cycle, each page looked at in two widths and two looks, judged by axe, and photographed. The pictures are in
//! `portal-pages` in the directory of builds afterwards.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../../api/tests/sdk/server.rs"]
#[expect(dead_code, reason = "the API's tests need more of it")]
mod server;
#[path = "../../../control/tests/jobs/world.rs"]
#[expect(dead_code, reason = "the control plane's tests need more of it")]
mod world;

use std::path::{Path, PathBuf};
use std::process::Command;

use server::Server;
use switchback_api::Service;
use switchback_portal::{PortalLimits, router};

/// Where the packages are that drive a browser.
fn lab() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/lab-browser");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

#[test]
fn the_whole_cycle_is_clicked_and_every_page_can_be_used_by_everybody() {
    let server = Server::serving(|control, config| {
        router(control.clone(), Service::new(control, config), PortalLimits::default())
    });
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../portal-pages");
    std::fs::create_dir_all(&pictures).unwrap();
    let output = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/walk.cjs"))
        .arg(&server.url)
        .arg(&pictures)
        .env("NODE_PATH", lab())
        .env("SWITCHBACK_TOKEN_FILE", &server.token_file)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(printed.lines().last(), Some("done"), "{printed}");
}
