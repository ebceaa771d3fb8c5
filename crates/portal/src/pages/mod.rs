//! The pages, one file for each tab. A page reads the control plane and renders; a form of it becomes a request of the API (`action`).
//!
//! A new page is a line in its tab's `routes`: [`crate::visit::page`] for one that only shows, [`crate::visit::form`] for one with a form of its own.

mod ask;
mod events;
mod job;
mod jobs;
mod list;
mod machine;
mod machines;
mod overview;
mod plan;
mod plans;
mod protect;
mod server;
mod servers;
mod settings;
mod sites;
pub(crate) mod widgets;

use std::sync::Arc;

use axum::Router;
use axum::extract::Extension;
use axum::response::Response;

use crate::Portal;
use crate::failure::Failure;
use crate::layout;
use crate::visit::Visit;

/// All pages behind the gate.
pub(crate) fn routes() -> Router<Arc<Portal>> {
    let tabs = [
        overview::routes(),
        machines::routes(),
        machine::routes(),
        protect::routes(),
        plans::routes(),
        plan::routes(),
        jobs::routes(),
        job::routes(),
        servers::routes(),
        server::routes(),
        sites::routes(),
        events::routes(),
        settings::routes(),
    ];
    tabs.into_iter().fold(Router::new(), Router::merge)
}

/// For an address that no page has.
pub(crate) async fn not_found(Extension(visit): Extension<Visit>) -> Response {
    let failure = Failure::not_found("page", &visit.here).remedy("begin at the overview");
    layout::failed(Some(&Visit { here: crate::HOME.into(), ..visit }), &failure)
}
