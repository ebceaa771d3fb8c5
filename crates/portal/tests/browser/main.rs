//! The portal in a real browser: Debian's Chromium, headless, driven by Playwright (`scripts/lab-browser`), over TLS. Sites and components are simulated
//! and go on by themselves.
//!
//! What is clicked is in `walk.cjs`: the whole cycle, each page looked at in two widths and two looks, judged by axe, and photographed; and in `set_up.cjs`: signing in at
//! an issuer, the forms that set things up, the order of a plan by drag. The pictures are in `portal-pages` in the directory of builds afterwards.

#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../../api/tests/arm/issuer.rs"]
#[expect(dead_code, reason = "the API's tests need more of it")]
mod issuer;
#[path = "../../../api/tests/sdk/server.rs"]
#[expect(dead_code, reason = "the API's tests need more of it")]
mod server;
#[path = "../../../control/tests/jobs/world.rs"]
#[expect(dead_code, reason = "the control plane's tests need more of it")]
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use issuer::{Issuer, Key, Registered};
use serde_json::json;
use server::Server;
use switchback_api::Service;
use switchback_control::backup::ServerHome;
use switchback_portal::{PortalLimits, router};

/// Where the packages are that drive a browser.
fn lab() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/lab-browser");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// A server whose portal can be walked through, with a directory to keep secrets by.
fn server() -> Server {
    Server::serving(|control, config| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("portal-home");
        std::fs::create_dir_all(&directory).unwrap();
        control.keeps(ServerHome {
            directory,
            build: "test".into(),
            settings: BTreeMap::new(),
            addresses: Vec::new(),
            authority: Vec::new(),
        });
        router(control.clone(), Service::new(control, config), PortalLimits::default())
    })
}

/// Walks as a script says; `more` is its environment.
fn walk(server: &Server, script: &str, more: &[(&str, &str)]) {
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../portal-pages");
    std::fs::create_dir_all(&pictures).unwrap();
    let output = Command::new("node")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser").join(script))
        .arg(&server.url)
        .arg(&pictures)
        .env("NODE_PATH", lab())
        .env("SWITCHBACK_TOKEN_FILE", &server.token_file)
        .envs(more.iter().copied())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(printed.lines().last(), Some("done"), "{printed}");
}

#[test]
fn the_whole_cycle_is_clicked_and_every_page_can_be_used_by_everybody() {
    walk(&server(), "walk.cjs", &[]);
}

#[test]
fn people_sign_in_at_an_issuer_set_things_up_and_order_a_plan_by_drag() {
    let server = server();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let key = Key::rsa();
    let issuer = runtime.block_on(Issuer::start(&[("k1", &key)]));
    // By the world's clock, which began in 1970.
    let claims = json!({
        "iss": issuer.address, "aud": "api://switchback", "iat": 1_000, "exp": 90_000, "sub": "a1",
        "preferred_username": "alice@example.com", "roles": ["Dr.All"],
    });
    let client = Registered {
        id: "portal".into(),
        secret: Some("a secret of the portal".into()),
        redirect_uri: format!("{}/portal/sign-in/corp/answer", server.url),
        key: (key, "k1".into()),
        claims,
        id_claims: json!({}),
    };
    issuer.served.lock().unwrap().client = Some(client);
    let issuer = [("ISSUER", issuer.address.as_str()), ("ISSUER_AUTHORITY", &issuer.authority)];
    walk(&server, "set_up.cjs", &issuer);
}
