//! Azure Site Recovery's contract for VMware and physical machines (api-version 2024-04-01 and its neighbours), over our model.
//!
//! One file per resource; what they share: [`id`] names resources, [`state`] is the one table from our states to the contract's, [`answer`] has
//! the rules of long-running operations, [`mod@page`] and [`filter`] those of lists, [`mod@error`] those of refusals. Wire structures hold what we read and
//! write, no more; fields of the contract that we have nothing to say about are left out.
//!
//! What is mapped how is documented in `docs/api.md`.

mod answer;
mod call;
mod compute_sizes;
mod container_mappings;
mod containers;
mod error;
mod events;
mod fabrics;
mod filter;
mod health;
mod id;
mod item_update;
mod job_details;
mod job_export;
mod jobs;
mod network_mappings;
mod networks;
mod operations;
mod page;
mod path;
mod plan_groups;
mod plan_operations;
mod point_choice;
mod policies;
mod protectable_items;
mod protected_disks;
mod protected_item_operations;
mod protected_items;
mod providers;
mod recovery_plans;
mod recovery_points;
mod replication_details;
mod resolve_health;
mod resource;
mod servers;
mod settings;
mod state;
mod supported_systems;
mod time;
mod vault_health;
mod vaults;
mod vcenters;
mod version;
mod without_meaning;

use std::sync::Arc;

use axum::routing::MethodFilter;

pub(crate) use answer::{Answer, PNG, REQUEST_ID};
pub(crate) use call::{Call, base_of, parse_query};
pub(crate) use error::ArmError;
pub use error::Refusal;
pub use id::{Vault, point_name};
pub(crate) use id::{guid, job_name, parse_job};
pub use job_details::{allowed_actions as job_actions, scenario as job_scenario};
pub(crate) use job_export::{AS_CSV, AS_JSON, CSV, as_csv, as_json};
pub(crate) use operations::result as operation_result;
pub(crate) use page::{page, page_at_once};
pub use path::encode;
pub(crate) use path::{decode, normalise, normalise_request};
pub use plan_groups::show_groups as plan_groups;
pub(crate) use resource::resource;
pub use state::provider;
pub(crate) use time::show as show_time;
pub(crate) use version::{VERSIONS, check as check_version};

use crate::routes::Router;
use crate::service::{Api, methods};

/// The path of the vault, normalised.
pub(crate) const VAULT_PATH: &str = "/subscriptions/{subscription}/resourcegroups/{resource_group}/providers/microsoft.recoveryservices/vaults/{vault}";
const FABRIC: &str = "/replicationfabrics/{site}";
const CONTAINER: &str = "/replicationfabrics/{site}/replicationprotectioncontainers/{container}";
const GET: MethodFilter = MethodFilter::GET;
const PUT: MethodFilter = MethodFilter::PUT;
const POST: MethodFilter = MethodFilter::POST;
const PATCH: MethodFilter = MethodFilter::PATCH;
const DELETE: MethodFilter = MethodFilter::DELETE;

/// All routes of the contract.
pub(crate) fn routes() -> Router<Arc<Api>> {
    inventory_routes()
        .merge(fabric_routes())
        .merge(group_routes())
        .merge(item_routes())
        .merge(plan_routes())
        .merge(job_routes())
        .merge(vault_routes())
        .merge(without_meaning::routes())
}

fn at(rest: &str) -> String {
    format!("{VAULT_PATH}{rest}")
}

fn inventory_routes() -> Router<Arc<Api>> {
    let networks = format!("{FABRIC}/replicationnetworks");
    let mappings = format!("{networks}/{{network}}/replicationnetworkmappings");
    Router::new()
        .route(&at("/replicationprotectioncontainers"), methods([(GET, containers::list)]))
        .route(&at(&format!("{FABRIC}/replicationprotectioncontainers")), methods([(GET, containers::list)]))
        .route(&at(CONTAINER), methods([(GET, containers::get), (PUT, containers::put)]))
        .route(&at(&format!("{CONTAINER}/remove")), methods([(POST, containers::remove)]))
        .route(&at(&format!("{CONTAINER}/discoverprotectableitem")), methods([(POST, containers::discover)]))
        .route(
            &at(&format!("{CONTAINER}/replicationprotectableitems")),
            methods([(GET, protectable_items::list)]),
        )
        .route(
            &at(&format!("{CONTAINER}/replicationprotectableitems/{{machine}}")),
            methods([(GET, protectable_items::get)]),
        )
        .route(&at("/replicationnetworks"), methods([(GET, networks::list)]))
        .route(&at(&networks), methods([(GET, networks::list)]))
        .route(&at(&format!("{networks}/{{network}}")), methods([(GET, networks::get)]))
        .route(&at("/replicationnetworkmappings"), methods([(GET, network_mappings::list_all)]))
        .route(&at(&mappings), methods([(GET, network_mappings::list)]))
        .route(
            &at(&format!("{mappings}/{{mapping}}")),
            methods([
                (GET, network_mappings::get),
                (PUT, network_mappings::put),
                (PATCH, network_mappings::patch),
                (DELETE, network_mappings::delete),
            ]),
        )
}

fn fabric_routes() -> Router<Arc<Api>> {
    use without_meaning as refuse;
    let providers = format!("{FABRIC}/replicationrecoveryservicesproviders");
    let vcenters = format!("{FABRIC}/replicationvcenters");
    Router::new()
        .route(&at("/replicationfabrics"), methods([(GET, fabrics::list)]))
        .route(&at(FABRIC), methods([(GET, fabrics::get), (PUT, fabrics::put), (DELETE, fabrics::remove)]))
        .route(&at(&format!("{FABRIC}/remove")), methods([(POST, fabrics::remove)]))
        // A site is asked whenever it is shown, so looking at it is the check.
        .route(&at(&format!("{FABRIC}/checkconsistency")), methods([(POST, fabrics::get)]))
        .route(&at(&format!("{FABRIC}/reassociategateway")), methods([(POST, fabrics::reassociate_gateway)]))
        .route(&at(&format!("{FABRIC}/renewcertificate")), methods([(POST, fabrics::renew_certificates)]))
        .route(&at("/replicationrecoveryservicesproviders"), methods([(GET, providers::list)]))
        .route(&at(&providers), methods([(GET, providers::list)]))
        .route(
            &at(&format!("{providers}/{{provider}}")),
            methods([(GET, providers::get), (PUT, refuse::providers), (DELETE, refuse::providers)]),
        )
        .route(&at(&format!("{providers}/{{provider}}/refreshprovider")), methods([(POST, providers::get)]))
        .route(&at("/replicationvcenters"), methods([(GET, vcenters::list)]))
        .route(&at(&vcenters), methods([(GET, vcenters::list)]))
        .route(
            &at(&format!("{vcenters}/{{vcenter}}")),
            methods([
                (GET, vcenters::get),
                (PUT, vcenters::put),
                (PATCH, vcenters::patch),
                (DELETE, vcenters::delete),
            ]),
        )
}

/// The vault itself, and what is about all of it.
fn vault_routes() -> Router<Arc<Api>> {
    let group =
        "/subscriptions/{subscription}/resourcegroups/{resource_group}/providers/microsoft.recoveryservices";
    let alert = "/replicationalertsettings";
    let setting = "/replicationvaultsettings";
    let health = "/replicationvaulthealth";
    Router::new()
        // The namespace is not the sixth segment here, so it comes as it was sent.
        .route("/subscriptions/{subscription}/providers/{namespace}/vaults", methods([(GET, vaults::list)]))
        .route(&format!("{group}/vaults"), methods([(GET, vaults::list)]))
        .route(&format!("{group}/operations"), methods([(GET, vaults::operations)]))
        .route(
            VAULT_PATH,
            methods([(GET, vaults::get), (PUT, vaults::get), (PATCH, vaults::get), (DELETE, vaults::delete)]),
        )
        .route(&at(alert), methods([(GET, settings::list_alerts)]))
        .route(
            &at(&format!("{alert}/{{setting}}")),
            methods([(GET, settings::alert), (PUT, settings::put_alert)]),
        )
        .route(&at(setting), methods([(GET, settings::list)]))
        .route(&at(&format!("{setting}/{{setting}}")), methods([(GET, settings::get), (PUT, settings::put)]))
        .route(&at("/replicationsupportedoperatingsystems"), methods([(GET, supported_systems::get)]))
        .route(&at(health), methods([(GET, vault_health::get)]))
        .route(&at(&format!("{health}/{{health}}/refresh")), methods([(POST, vault_health::get)]))
}

fn group_routes() -> Router<Arc<Api>> {
    let mappings = format!("{CONTAINER}/replicationprotectioncontainermappings");
    Router::new()
        .route(&at("/replicationpolicies"), methods([(GET, policies::list)]))
        .route(
            &at("/replicationpolicies/{policy}"),
            methods([
                (GET, policies::get),
                (PUT, policies::put),
                (PATCH, policies::patch),
                (DELETE, policies::delete),
            ]),
        )
        .route(&at("/replicationprotectioncontainermappings"), methods([(GET, container_mappings::list_all)]))
        .route(&at(&mappings), methods([(GET, container_mappings::list)]))
        .route(
            &at(&format!("{mappings}/{{mapping}}")),
            methods([
                (GET, container_mappings::get),
                (PUT, container_mappings::put),
                (PATCH, without_meaning::azure_to_azure),
                (DELETE, container_mappings::remove),
            ]),
        )
        .route(&at(&format!("{mappings}/{{mapping}}/remove")), methods([(POST, container_mappings::remove)]))
}

fn item_routes() -> Router<Arc<Api>> {
    use protected_item_operations as operate;
    let items = format!("{CONTAINER}/replicationprotecteditems");
    let item = format!("{items}/{{item}}");
    let post = |action: &str, handler| (at(&format!("{item}/{action}")), methods([(POST, handler)]));
    let actions = [
        post("remove", operate::disable),
        post("testfailover", operate::test_failover),
        post("testfailovercleanup", operate::test_failover_cleanup),
        post("plannedfailover", operate::planned_failover),
        post("unplannedfailover", operate::unplanned_failover),
        post("applyrecoverypoint", operate::apply_recovery_point),
        post("failovercancel", operate::failover_cancel),
        post("failovercommit", operate::failover_commit),
        post("reprotect", operate::reprotect),
        post("repairreplication", operate::repair_replication),
        post("updatemobilityservice", operate::update_mobility_service),
        post("resolvehealtherrors", resolve_health::resolve),
        post("adddisks", protected_disks::add),
        post("removedisks", protected_disks::remove),
    ];
    let router = Router::new()
        .route(&at("/replicationprotecteditems"), methods([(GET, protected_items::list_all)]))
        .route(&at(&items), methods([(GET, protected_items::list)]))
        .route(
            &at(&item),
            methods([
                (GET, protected_items::get),
                (PUT, protected_items::enable),
                (PATCH, item_update::update),
                (DELETE, operate::disable),
            ]),
        )
        .route(&at(&format!("{item}/targetcomputesizes")), methods([(GET, compute_sizes::list)]))
        .route(&at(&format!("{item}/recoverypoints")), methods([(GET, recovery_points::list)]))
        .route(&at(&format!("{item}/recoverypoints/{{point}}")), methods([(GET, recovery_points::get)]))
        .route(&at(&format!("{item}/operationresults/{{job}}")), methods([(GET, operations::result)]));
    actions.into_iter().fold(router, |router, (path, methods)| router.route(&path, methods))
}

fn plan_routes() -> Router<Arc<Api>> {
    use plan_operations as operate;
    let plan = "/replicationrecoveryplans/{plan}";
    let post = |action: &str, handler| (at(&format!("{plan}/{action}")), methods([(POST, handler)]));
    let actions = [
        post("testfailover", operate::test_failover),
        post("testfailovercleanup", operate::test_failover_cleanup),
        post("plannedfailover", operate::planned_failover),
        post("unplannedfailover", operate::unplanned_failover),
        post("failovercancel", operate::failover_cancel),
        post("failovercommit", operate::failover_commit),
        post("reprotect", operate::reprotect),
    ];
    let router = Router::new()
        .route(&at("/replicationrecoveryplans"), methods([(GET, recovery_plans::list)]))
        .route(
            &at(plan),
            methods([
                (GET, recovery_plans::get),
                (PUT, recovery_plans::put),
                (PATCH, recovery_plans::patch),
                (DELETE, recovery_plans::delete),
            ]),
        )
        .route(&at(&format!("{plan}/operationresults/{{job}}")), methods([(GET, operations::result)]));
    actions.into_iter().fold(router, |router, (path, methods)| router.route(&path, methods))
}

fn job_routes() -> Router<Arc<Api>> {
    let job = "/replicationjobs/{job}";
    Router::new()
        .route(&at("/replicationjobs"), methods([(GET, jobs::list)]))
        .route(&at("/replicationjobs/export"), methods([(POST, job_export::export)]))
        .route(&at(job), methods([(GET, jobs::get)]))
        .route(&at(&format!("{job}/cancel")), methods([(POST, jobs::cancel)]))
        .route(&at(&format!("{job}/restart")), methods([(POST, jobs::restart)]))
        .route(&at(&format!("{job}/resume")), methods([(POST, jobs::resume)]))
        .route(&at("/replicationoperationstatus/{job}"), methods([(GET, operations::status)]))
        .route(&at("/replicationevents"), methods([(GET, events::list)]))
        .route(&at("/replicationevents/{event}"), methods([(GET, events::get)]))
}
