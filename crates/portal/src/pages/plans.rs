//! The tab Recovery Plans: recovery plans.

use std::sync::Arc;

use axum::Router;
use switchback_control::Control;

use super::widgets::empty;
use crate::Portal;
use crate::failure::Failure;
use crate::layout::Tab;
use crate::visit::{Visit, page};

pub(super) fn routes() -> Router<Arc<Portal>> {
    Router::new().route("/plans", page(show))
}

fn show(_: &Control, visit: &Visit) -> Result<String, Failure> {
    empty(visit.frame(Tab::Plans, "Recovery Plans"), "plan list")
}
