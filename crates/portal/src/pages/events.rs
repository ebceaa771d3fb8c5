//! The tab Events: what happened.

use std::sync::Arc;

use axum::Router;
use switchback_control::Control;

use super::widgets::empty;
use crate::Portal;
use crate::failure::Failure;
use crate::layout::Tab;
use crate::visit::{Visit, page};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/events", page(show))
}

fn show(_: &Control, visit: &Visit) -> Result<String, Failure> {
    empty(visit.frame(Tab::Events, "Events"), "event list")
}
