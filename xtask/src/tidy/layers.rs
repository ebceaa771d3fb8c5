//! The order of the crates: a dependency points down the list of ARCHITECTURE.md only, and every crate takes the workspace's lints.
//!
//! Dependencies of tests may point upwards (a test of a lower layer may use a higher one to drive it), as far as cargo allows.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::{File, Violation};

/// From the bottom to the top, as ARCHITECTURE.md has it. Each crate may use only those before it.
const ORDER: [&str; 16] = [
    "switchback-model",
    "switchback-delta",
    "switchback-disk",
    "switchback-capture",
    "switchback-replica",
    "switchback-blobs",
    "switchback-spool",
    "switchback-identity",
    "switchback-transport",
    "switchback-store",
    "switchback-sites",
    "switchback-control",
    "switchback-api",
    "switchback-portal",
    "switchback",
    "switchback-lab",
];
/// Developer commands: nothing may depend on them, and they may use everything.
const DEVELOPER: &str = "xtask";

/// What cargo knows about the packages of the workspace at `root`. Needs no network.
pub(super) fn metadata(root: &Path) -> anyhow::Result<Value> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("`cargo metadata` could not be started")?;
    ensure!(output.status.success(), "`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("`cargo metadata` printed something else than JSON")
}

/// Checks the packages of `metadata`; their manifests are looked up in `files` for line numbers.
pub(super) fn check(metadata: &Value, files: &[File]) -> anyhow::Result<Vec<Violation>> {
    let root = metadata["workspace_root"].as_str().context("cargo metadata has no workspace_root")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut violations = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let full_path = package["manifest_path"].as_str().context("a package without a manifest")?;
        let path = full_path.strip_prefix(root).unwrap_or(full_path).trim_start_matches('/');
        let text = files
            .iter()
            .find(|file| file.path == path)
            .and_then(|file| file.text.as_deref())
            .unwrap_or_default();
        let line_of =
            |word: &str| text.lines().position(|line| line.starts_with(word)).map_or(1, |index| index + 1);

        let lints = text
            .split("[lints]")
            .nth(1)
            .is_some_and(|rest| rest.trim_start().starts_with("workspace = true"));
        if !lints {
            let why = "every crate takes the workspace's lints";
            violations.push(Violation::new(path, 1, "no `[lints] workspace = true`", why));
        }
        let Some(own) = position(name) else {
            let why = "its place says what it may use: add it to ARCHITECTURE.md and to this check";
            violations.push(Violation::new(
                path,
                1,
                format!("`{name}` has no place in the order of crates"),
                why,
            ));
            continue;
        };
        let dependencies = package["dependencies"].as_array().context("a package without dependencies")?;
        for dependency in dependencies.iter().filter(|dependency| dependency["kind"] != "dev") {
            let used = dependency["name"].as_str().context("a dependency without a name")?;
            if position(used).is_some_and(|other| other >= own) {
                let why = "dependencies point down the list of ARCHITECTURE.md only";
                violations.push(Violation::new(path, line_of(used), format!("`{name}` uses `{used}`"), why));
            }
        }
    }
    Ok(violations)
}

/// The layer of one of our crates, counted from the bottom; `None` for foreign ones.
fn position(name: &str) -> Option<usize> {
    if name == DEVELOPER { Some(ORDER.len()) } else { ORDER.iter().position(|known| *known == name) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LINTS: &str = "[dependencies]\nserde.workspace = true\nswitchback-replica.workspace = true\n\n[lints]\nworkspace = true\n";

    fn found(name: &str, dependencies: &Value, manifest: &str) -> Vec<(usize, String)> {
        let metadata = json!({
            "workspace_root": "/home/me/switchback",
            "packages": [{
                "name": name,
                "manifest_path": "/home/me/switchback/crates/x/Cargo.toml",
                "dependencies": dependencies,
            }],
        });
        let file = File { path: "crates/x/Cargo.toml".to_owned(), text: Some(manifest.to_owned()) };
        let violations = check(&metadata, &[file]).expect("the metadata is complete");
        violations.into_iter().map(|violation| (violation.line, violation.what)).collect()
    }

    #[test]
    fn a_dependency_upwards_is_refused_where_it_is_written() {
        let upwards =
            json!([{ "name": "serde", "kind": null }, { "name": "switchback-replica", "kind": null }]);
        assert_eq!(
            found("switchback-disk", &upwards, LINTS),
            [(3, "`switchback-disk` uses `switchback-replica`".to_owned())]
        );
        assert_eq!(found("switchback-spool", &upwards, LINTS), []);
    }

    #[test]
    fn tests_may_look_upwards_and_build_scripts_may_not() {
        assert_eq!(
            found("switchback-disk", &json!([{ "name": "switchback-replica", "kind": "dev" }]), LINTS),
            []
        );
        assert_eq!(
            found("switchback-disk", &json!([{ "name": "switchback-replica", "kind": "build" }]), LINTS)
                .len(),
            1
        );
    }

    #[test]
    fn nothing_depends_on_developer_commands() {
        let on_xtask = json!([{ "name": "xtask", "kind": null }]);
        assert_eq!(found("switchback-lab", &on_xtask, LINTS).len(), 1);
        assert_eq!(found("xtask", &json!([{ "name": "switchback-lab", "kind": null }]), LINTS), []);
    }

    #[test]
    fn a_crate_without_a_place_or_without_lints_is_refused() {
        assert_eq!(found("switchback-new", &json!([]), LINTS).len(), 1);
        assert_eq!(found("switchback-disk", &json!([]), "[dependencies]\n").len(), 1);
        assert_eq!(found("switchback-disk", &json!([]), "[lints]\nworkspace = false\n").len(), 1);
    }
}
