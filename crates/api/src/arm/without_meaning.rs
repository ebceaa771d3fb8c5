//! Operations of the contract that have no meaning for VMware and physical machines, or for a vault that is a server of one's own.
//!
//! Each is answered with a refusal that says why and what to do instead (`OperationNotSupported`), never with a bare 404; lists of what cannot be here
//! are empty, so that clients which look at everything are content. Which operation is answered how is held against the contract's whole document in
//! `tests/arm/operations.rs`, and shown in `docs/reference/api.md`.

use std::sync::Arc;

use crate::routes::Router;
use axum::http::StatusCode;
use axum::routing::MethodFilter;
use switchback_control::Control;

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::page::page;
use super::{CONTAINER, DELETE, FABRIC, GET, PATCH, POST, PUT, at};
use crate::service::{Api, Handler, methods, methods_of};

/// The code of all these refusals.
pub(crate) const CODE: &str = "OperationNotSupported";

/// Machines of Azure replicated to another region of it.
pub(crate) fn azure_to_azure(_: &Control, _: &Call) -> Result<Answer, ArmError> {
    refuse(
        "this operation is for virtual machines of Azure that are replicated within Azure",
        "Switchback replicates VMware and physical machines; use Azure Site Recovery itself for those",
    )
}

fn clusters(_: &Control, _: &Call) -> Result<Answer, ArmError> {
    refuse(
        "this operation is for clusters of Azure's virtual machines with shared disks",
        "protect machines one by one, in a multi-VM protection group if they belong together",
    )
}

fn migration(_: &Control, _: &Call) -> Result<Answer, ArmError> {
    refuse(
        "this operation is for migrations without an agent (Azure Migrate)",
        "protect the machine, fail it over, commit, and stay there: disable the protection",
    )
}

fn appliance(_: &Control, _: &Call) -> Result<Answer, ArmError> {
    refuse(
        "this operation is for the appliance of Azure Site Recovery's other architecture (InMageRcm)",
        "machines are replicated by process servers and master targets here; nothing has to be switched",
    )
}

fn storage_mappings(_: &Control, _: &Call) -> Result<Answer, ArmError> {
    refuse(
        "storage classifications are a matter of System Center VMM",
        "name the datastore in the machine's protection or reprotect",
    )
}

/// A fabric has one provider.
pub(crate) fn providers(_: &Control, _: &Call) -> Result<Answer, ArmError> {
    refuse(
        "a fabric's provider is the configuration server itself: it is neither registered nor removed",
        "make or remove the site (switchbackSites)",
    )
}

/// Containers come and go with their sites.
pub(crate) fn containers(_: &Control, _: &Call) -> Result<Answer, ArmError> {
    refuse(
        "a fabric's one container is there with it",
        "use the container that is listed; make or remove the site (switchbackSites)",
    )
}

fn agents(_: &Control, _: &Call) -> Result<Answer, ArmError> {
    refuse("the mobility agent is not installed from here", "install its package in the guest")
}

fn refuse(message: &str, remedy: &str) -> Result<Answer, ArmError> {
    Err(ArmError::new(StatusCode::BAD_REQUEST, CODE, message).remedy(remedy))
}

/// A list of what there cannot be.
fn none(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    if !call.text("site").is_empty() {
        call.name("site")?;
    }
    Answer::of(&page(call, Vec::<(String, ())>::new(), |()| Ok(serde_json::Value::Null))?)
}

/// One of what there cannot be.
fn no_such(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.path.rsplit('/').next().unwrap_or_default();
    Err(ArmError::not_found("resource", name).cause("a vault here has none of this type"))
}

/// Routes of what nothing else is said about.
pub(crate) fn routes() -> Router<Arc<Api>> {
    let router = other_architectures().merge(clusters_routes()).merge(fabric_routes());
    let item = format!("{CONTAINER}/replicationprotecteditems/{{item}}");
    post(
        router,
        &item,
        &[
            ("reinstallmobilityservice", agents),
            ("switchprovider", appliance),
            ("updateappliance", appliance),
        ],
    )
}

fn post(router: Router<Arc<Api>>, resource: &str, actions: &[(&str, Handler)]) -> Router<Arc<Api>> {
    actions.iter().fold(router, |router, (action, handler)| {
        router.route(&at(&format!("{resource}/{action}")), methods([(POST, *handler)]))
    })
}

/// A list that is empty, and resources below it that are not there.
fn nothing<const N: usize>(
    router: Router<Arc<Api>>,
    list: &str,
    one: &str,
    others: [(MethodFilter, Handler); N],
) -> Router<Arc<Api>> {
    let resource = others.into_iter().chain([(GET, no_such as Handler)]);
    router
        .route(&at(list), methods([(GET, none)]))
        .route(&at(&format!("{list}/{{{one}}}")), methods_of(resource))
}

/// Migrations, appliances, protection intents, Azure's own machines.
fn other_architectures() -> Router<Arc<Api>> {
    let items = format!("{CONTAINER}/replicationmigrationitems");
    let item = format!("{items}/{{migration}}");
    let eligibility = "/subscriptions/{subscription}/resourcegroups/{resource_group}/providers/microsoft.compute/virtualmachines/{machine}/providers/{namespace}/replicationeligibilityresults";
    let changes: [(MethodFilter, Handler); 3] = [(PUT, migration), (PATCH, migration), (DELETE, migration)];
    let router = Router::new()
        .route(eligibility, methods([(GET, azure_to_azure)]))
        .route(&format!("{eligibility}/{{name}}"), methods([(GET, azure_to_azure)]))
        .route(&at("/replicationappliances"), methods([(GET, none)]))
        .route(&at("/replicationmigrationitems"), methods([(GET, none)]));
    let router = nothing(router, "/replicationprotectionintents", "intent", [(PUT, azure_to_azure)]);
    let router = nothing(router, &items, "migration", changes);
    let router = nothing(router, &format!("{item}/migrationrecoverypoints"), "point", []);
    let actions =
        ["migrate", "pausereplication", "resumereplication", "resync", "testmigrate", "testmigratecleanup"];
    post(router, &item, &actions.map(|action| (action, migration as Handler)))
}

fn clusters_routes() -> Router<Arc<Api>> {
    let list = format!("{CONTAINER}/replicationprotectionclusters");
    let cluster = format!("{list}/{{cluster}}");
    let router = Router::new().route(&at("/replicationprotectionclusters"), methods([(GET, none)]));
    let router = nothing(router, &list, "cluster", [(PUT, clusters), (DELETE, clusters)]);
    let router = nothing(router, &format!("{cluster}/recoverypoints"), "point", []);
    let router = router
        .route(&at(&format!("{cluster}/operationresults/{{job}}")), methods([(GET, no_such as Handler)]));
    let actions = [
        "applyrecoverypoint",
        "failovercommit",
        "repairreplication",
        "testfailover",
        "testfailovercleanup",
        "unplannedfailover",
    ];
    let router = post(router, &cluster, &actions.map(|action| (action, clusters as Handler)));
    post(router, CONTAINER, &[("switchclusterprotection", clusters)])
}

/// What belongs to fabrics of other kinds, and what is not done through this contract.
fn fabric_routes() -> Router<Arc<Api>> {
    let storage = format!("{FABRIC}/replicationstorageclassifications");
    let router = Router::new()
        .route(&at("/replicationstorageclassifications"), methods([(GET, none)]))
        .route(&at("/replicationstorageclassificationmappings"), methods([(GET, none)]));
    let router = nothing(router, &storage, "storage", []);
    let router = nothing(
        router,
        &format!("{storage}/{{storage}}/replicationstorageclassificationmappings"),
        "mapping",
        [(PUT, storage_mappings), (DELETE, storage_mappings)],
    );
    let router = nothing(router, &format!("{FABRIC}/replicationlogicalnetworks"), "network", []);
    let router = post(router, FABRIC, &[("migratetoaad", appliance), ("removeinfra", azure_to_azure)]);
    let router = post(
        router,
        &format!("{FABRIC}/replicationrecoveryservicesproviders/{{provider}}"),
        &[("remove", providers)],
    );
    post(router, CONTAINER, &[("switchprotection", azure_to_azure)])
}
