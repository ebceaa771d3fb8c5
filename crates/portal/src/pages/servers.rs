//! The tab Servers: components and how they are.

use std::sync::Arc;

use axum::Router;
use switchback_control::Control;

use super::widgets::empty;
use crate::Portal;
use crate::failure::Failure;
use crate::layout::Tab;
use crate::visit::{Visit, page};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/servers", page(show))
}

fn show(_: &Control, visit: &Visit) -> Result<String, Failure> {
    empty(visit.frame(Tab::Servers, "Servers"), "server list")
}
