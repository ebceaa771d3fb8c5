//! What would keep a failover from working is said before it is needed.

use switchback_lab::arm::{Fault, Options};
use switchback_model::CheckState;
use switchback_sites::azure::MachinePlan;
use switchback_sites::{Site, Target};

use crate::bench::{Bench, ISOLATED, gone};

fn states(bench: &Bench) -> Vec<(String, CheckState)> {
    let target = Target { machine: Some("web01".into()), ..Target::default() };
    let checks = bench.site.check_targets(&[target, Target::default()]).unwrap();
    assert_eq!(checks.len(), 2);
    assert_eq!(checks[0][..3], checks[1][..], "what is common is the same");
    for check in &checks[0] {
        let is_explained = check.state == CheckState::Passed || !check.remedy.is_empty();
        assert!(is_explained && !check.facts.is_empty(), "{check:?}");
    }
    checks[0].iter().map(|check| (check.code.clone(), check.state)).collect()
}

/// The checks that did not pass.
fn raised(bench: &Bench) -> Vec<(String, CheckState)> {
    states(bench).into_iter().filter(|(_, state)| *state != CheckState::Passed).collect()
}

fn failed(code: &str) -> Vec<(String, CheckState)> {
    vec![(code.to_owned(), CheckState::Failed)]
}

#[test]
fn a_machine_that_could_fail_over_passes() {
    let bench = Bench::new();
    bench.machine("web01", 1);
    let codes: Vec<String> = states(&bench).into_iter().map(|(code, _)| code).collect();
    let all =
        ["site.privileges", "site.storage", "site.network-path", "site.networks", "site.size", "site.quota"];
    assert_eq!(codes, all);
    assert_eq!(raised(&bench), []);
    assert_eq!(bench.calls(&["PUT "]) + bench.calls(&["POST "]) + bench.calls(&["DELETE "]), 0);
}

#[test]
fn each_obstacle_is_found() {
    let mut bench = Bench::with(Options { cores_max: 1, ..Options::default() });
    bench.machine("web01", 1);
    assert_eq!(raised(&bench), failed("site.quota"));
    bench
        .site
        .plan_machine("web01", &MachinePlan { size: Some("Standard_B1s".into()), ..Default::default() })
        .unwrap();
    assert_eq!(raised(&bench), []);
    bench
        .site
        .plan_machine("web01", &MachinePlan { size: Some("Standard_Z9".into()), ..Default::default() })
        .unwrap();
    assert_eq!(raised(&bench), failed("site.size"));
    bench
        .site
        .plan_machine("web01", &MachinePlan { size: Some("Standard_B1s".into()), ..Default::default() })
        .unwrap();
    bench.site.connect_nics("web01", &[None]).unwrap();
    assert_eq!(raised(&bench), failed("site.networks"));
    bench.site.connect_nics("web01", &[Some(ISOLATED.into())]).unwrap();
    bench.reopen(|settings| settings.networks = vec![gone(settings)]);
    assert_eq!(raised(&bench), failed("site.networks"));
    bench.reopen(|_| {});
    bench.emulator.set_permissions(&["*/read"], &[]);
    assert_eq!(raised(&bench), failed("site.privileges"));
    bench.emulator.set_permissions(&["*"], &["Microsoft.Compute/disks/write"]);
    assert_eq!(raised(&bench), failed("site.privileges"));
    bench.emulator.set_permissions(&["*"], &[]);
    bench.site.delete_machine("web01").unwrap();
    assert_eq!(raised(&bench), failed("site.machine"));
    bench.reopen(|settings| settings.resource_group = "Gone".into());
    assert!(raised(&bench).contains(&failed("site.privileges")[0]));
    bench.reopen(|settings| settings.container = settings.container.replace("switchbackreplicas", "gone"));
    assert!(raised(&bench).contains(&failed("site.storage")[0]));
}

#[test]
fn what_cannot_be_asked_is_unknown() {
    let bench = Bench::new();
    bench.machine("web01", 1);
    let away = Fault::Refused { status: 500, code: "InternalServerError", message: "planned" };
    bench.emulator.fail("GET", "/usages", away, 3);
    assert_eq!(raised(&bench), [("site.quota".to_owned(), CheckState::Unknown)]);
}
