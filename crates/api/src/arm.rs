//! Azure Site Recovery's contract for VMware and physical machines (api-version 2024-04-01 and its neighbours), over our model.
//!
//! One file per resource; what they share: [`id`] names resources, [`state`] is the one table from our states to the contract's, [`answer`] has
//! the rules of long-running operations, [`mod@page`] and [`filter`] those of lists, [`mod@error`] those of refusals. Wire structures hold what we read and
//! write, no more; fields of the contract that we have nothing to say about are left out.
//!
//! What is mapped how is documented in `docs/api.md`.

mod answer;
mod call;
mod container_mappings;
mod containers;
mod error;
mod events;
mod fabrics;
mod filter;
mod health;
mod id;
mod job_details;
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
mod protected_item_operations;
mod protected_items;
mod recovery_plans;
mod recovery_points;
mod replication_details;
mod resource;
mod servers;
mod state;
mod time;
mod version;

use std::sync::Arc;

use axum::routing::MethodFilter;

pub(crate) use answer::{Answer, REQUEST_ID};
pub(crate) use call::{Call, base_of, parse_query};
pub(crate) use error::ArmError;
pub use id::Vault;
pub(crate) use id::{guid, job_name, parse_job};
pub(crate) use operations::result as operation_result;
pub(crate) use page::page;
pub(crate) use path::{decode, encode, normalise, normalise_request};
pub(crate) use resource::resource;
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
    inventory_routes().merge(group_routes()).merge(item_routes()).merge(plan_routes()).merge(job_routes())
}

fn at(rest: &str) -> String {
    format!("{VAULT_PATH}{rest}")
}

fn inventory_routes() -> Router<Arc<Api>> {
    let networks = format!("{FABRIC}/replicationnetworks");
    let mappings = format!("{networks}/{{network}}/replicationnetworkmappings");
    Router::new()
        .route(&at("/replicationfabrics"), methods([(GET, fabrics::list)]))
        .route(&at(FABRIC), methods([(GET, fabrics::get)]))
        .route(&at("/replicationprotectioncontainers"), methods([(GET, containers::list_all)]))
        .route(&at(&format!("{FABRIC}/replicationprotectioncontainers")), methods([(GET, containers::list)]))
        .route(&at(CONTAINER), methods([(GET, containers::get)]))
        .route(&at(&format!("{CONTAINER}/discoverprotectableitem")), methods([(POST, containers::discover)]))
        .route(
            &at(&format!("{CONTAINER}/replicationprotectableitems")),
            methods([(GET, protectable_items::list)]),
        )
        .route(
            &at(&format!("{CONTAINER}/replicationprotectableitems/{{machine}}")),
            methods([(GET, protectable_items::get)]),
        )
        .route(&at("/replicationnetworks"), methods([(GET, networks::list_all)]))
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
    ];
    let router = Router::new()
        .route(&at("/replicationprotecteditems"), methods([(GET, protected_items::list_all)]))
        .route(&at(&items), methods([(GET, protected_items::list)]))
        .route(
            &at(&item),
            methods([
                (GET, protected_items::get),
                (PUT, protected_items::enable),
                (DELETE, operate::disable),
            ]),
        )
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
        .route(&at(job), methods([(GET, jobs::get)]))
        .route(&at(&format!("{job}/cancel")), methods([(POST, jobs::cancel)]))
        .route(&at(&format!("{job}/restart")), methods([(POST, jobs::restart)]))
        .route(&at(&format!("{job}/resume")), methods([(POST, jobs::resume)]))
        .route(&at("/replicationoperationstatus/{job}"), methods([(GET, operations::status)]))
        .route(&at("/replicationevents"), methods([(GET, events::list)]))
        .route(&at("/replicationevents/{event}"), methods([(GET, events::get)]))
}
