//! What is held stays as it was desired before, whatever a restored server says of it.

use super::*;
use crate::RetentionPolicy;

fn replica(name: &str, epoch: u64) -> ReplicaDesired {
    ReplicaDesired {
        replica: name.parse().unwrap(),
        targets: Vec::new(),
        sizes: Vec::new(),
        owners: Vec::new(),
        epoch: Epoch(epoch),
        retention: RetentionPolicy::keep_all(),
        mode: ReplicaMode::Receive,
        purge: false,
        blobs: None,
        views: BTreeMap::new(),
        sandbox: None,
    }
}

fn route(name: &str, epoch: u64) -> Route {
    let (source, next, peer) = ("a".into(), "mt:9443".into(), "mt".into());
    Route { replica: name.parse().unwrap(), source, next, peer, epoch: Epoch(epoch) }
}

#[test]
fn a_held_replica_stays_others_follow() {
    let before = MasterTargetDesired {
        replicas: vec![replica("held", 4), replica("led", 1), replica("gone", 1)],
        ..MasterTargetDesired::default()
    };
    let hold = vec!["held".parse().unwrap(), "never-known".parse().unwrap()];
    let told = MasterTargetDesired {
        replicas: vec![replica("held", 3), replica("led", 2)],
        hold,
        ..MasterTargetDesired::default()
    };
    let follows = told.holding(&before);
    assert_eq!(follows.replicas, [replica("led", 2), replica("held", 4)]);
    let released =
        MasterTargetDesired { replicas: vec![replica("led", 2)], ..MasterTargetDesired::default() };
    assert_eq!(released.clone().holding(&follows), released);
}

#[test]
fn a_held_route_stays_others_follow() {
    let with = |routes: &[Route], hold: &[&str]| ProcessServerDesired {
        routes: routes.to_vec(),
        hold: hold.iter().map(|name| name.parse().unwrap()).collect(),
        bandwidth: Bandwidth::default(),
        probes: Vec::new(),
    };
    let before = with(&[route("held", 4), route("led", 1)], &[]);
    let follows = with(&[route("led", 2)], &["held"]).holding(&before);
    assert_eq!(follows.routes, [route("led", 2), route("held", 4)]);
}

#[test]
fn messages_of_components_from_before_backups_are_read() {
    let answer = r#"{"version":1,"desired":{"role":"process-server","routes":[]}}"#;
    let answer: Answer = serde_json::from_str(answer).unwrap();
    assert_eq!((answer.incarnation_proof, answer.servers.len()), (None, 0));
}

#[test]
fn what_opens_a_container_is_shown_to_nobody_and_kept_on_no_disk() {
    let sas = "sv=2024&sig=TOPSECRET";
    let access = Some(BlobAccess::Sas { sas: Secret::new(sas.into()) });
    let blobs = BlobPlace {
        container: "https://a.blob.core.windows.net/c".into(),
        folder: "replicas/web01".into(),
        access,
    };
    let told = MasterTargetDesired {
        replicas: vec![ReplicaDesired { blobs: Some(blobs), ..replica("web01", 1) }],
        ..MasterTargetDesired::default()
    };
    assert!(serde_json::to_string(&told).unwrap().contains(sas), "the master target needs it");
    assert!(!format!("{told:?}").contains("TOPSECRET"));
    let kept = told.without_secrets();
    assert!(!serde_json::to_string(&kept).unwrap().contains("TOPSECRET"));
    let place = kept.replicas[0].blobs.as_ref().unwrap();
    assert_eq!((place.folder.as_str(), &place.access), ("replicas/web01", &None));
}
