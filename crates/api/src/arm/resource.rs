//! The frame of every resource: id, name, type, properties.

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::Value;

use super::error::ArmError;
use super::id::type_of;

#[derive(Serialize)]
struct Resource<'a, P> {
    id: String,
    name: &'a str,
    #[serde(rename = "type")]
    kind: String,
    properties: P,
}

/// A resource as JSON; `kinds` is its type below the vault, `replicationFabrics/replicationNetworks`.
pub(crate) fn resource(
    id: String,
    name: &str,
    kinds: &str,
    properties: impl Serialize,
) -> Result<Value, ArmError> {
    let resource = Resource { id, name, kind: type_of(kinds), properties };
    serde_json::to_value(resource).map_err(|error| {
        ArmError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalServerError",
            format!("{name} cannot be written: {error}"),
        )
    })
}
