//! Who Switchback is at Azure: three identities, and a SAS or a token for the container.

use std::fs;

use switchback_lab::arm::{Client, TENANT};
use switchback_sites::Site;
use switchback_sites::azure::{AzureCredentials, AzureSite, Identity};

use crate::bench::{Bench, client_secret, machine, settings};

fn site(bench: &Bench, identity: Identity) -> AzureSite {
    AzureSite::open(settings(&bench.emulator), AzureCredentials { identity, container_sas: None }).unwrap()
}

#[test]
fn each_identity_is_let_in_at_both_doors() {
    let bench = Bench::new();
    let files = tempfile::tempdir().unwrap();
    let token_file = files.path().join("token");
    let client = Client::default();
    let workload = Identity::WorkloadIdentity {
        tenant: TENANT.into(),
        client: client.id.clone(),
        token_file: token_file.clone(),
    };
    fs::write(&token_file, format!("{}\n", client.assertion)).unwrap();
    let managed = |client| Identity::ManagedIdentity { client };
    let all = [client_secret(), workload.clone(), managed(None), managed(Some(client.id))];
    for (number, identity) in all.into_iter().enumerate() {
        let site = site(&bench, identity);
        site.create_machine(&machine(&format!("web0{number}"), 1)).unwrap();
        assert_eq!(site.machines().unwrap().len(), number + 1);
    }
    fs::write(&token_file, "another").unwrap();
    let error = site(&bench, workload).networks().unwrap_err().to_string();
    assert!(error.contains("[azure-token]") && !error.contains("another"), "{error}");
}

#[test]
fn a_wrong_secret_is_not_shown_and_not_tried_for_ever() {
    let bench = Bench::new();
    let identity = Identity::ClientSecret {
        tenant: TENANT.into(),
        client: Client::default().id,
        secret: "wrong-secret".to_owned().into(),
    };
    let error = site(&bench, identity).networks().unwrap_err().to_string();
    assert!(error.contains("AADSTS7000215") && error.contains("[azure-token]"), "{error}");
    assert!(!error.contains("wrong-secret"), "{error}");
    assert_eq!(bench.emulator.calls(), [""; 0]);
}

#[test]
fn a_token_is_used_until_it_expires() {
    let bench = Bench::new();
    let site = site(&bench, client_secret());
    for _ in 0..3 {
        site.machines().unwrap();
    }
    assert_eq!(bench.emulator.tokens_given(), 2, "one for each audience");
    bench.emulator.expire_tokens();
    site.machines().unwrap();
    assert_eq!(bench.emulator.tokens_given(), 4);
}
