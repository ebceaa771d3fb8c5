//! Health and its reasons, as the contract shows them.

use serde::Serialize;
use switchback_control::{Health, is_checkable};
use switchback_model::JobError;

use super::id::guid;

/// A reason: the fields of the contract's `HealthError` that we have.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HealthError {
    error_source: &'static str,
    error_type: &'static str,
    error_level: &'static str,
    error_code: String,
    summary_message: String,
    error_message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    possible_causes: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    recommended_action: String,
    error_id: String,
    /// Whether `resolveHealthErrors` takes it: none can be declared resolved, each goes when its cause has gone; those of machines are looked at again.
    customer_resolvability: &'static str,
}

/// Reasons for a health. Levels are not told apart by reason, so all have that of the whole.
pub(crate) fn health_errors(reasons: &[JobError], health: Health) -> Vec<HealthError> {
    reasons
        .iter()
        .map(|reason| HealthError {
            error_source: "Switchback",
            error_type: "HealthError",
            error_level: if health == Health::Critical { "Error" } else { "Warning" },
            error_code: reason.code.clone(),
            summary_message: reason.message.clone(),
            error_message: reason.message.clone(),
            possible_causes: reason.cause.clone(),
            recommended_action: reason.remedy.clone(),
            error_id: error_id(reason),
            customer_resolvability: "NotAllowed",
        })
        .collect()
}

/// Reasons for a machine's health: whose causes somebody has mended, those can be looked at again.
pub(crate) fn machine_errors(reasons: &[JobError], health: Health) -> Vec<HealthError> {
    let mut errors = health_errors(reasons, health);
    for (error, _) in errors.iter_mut().zip(reasons).filter(|(_, reason)| is_checkable(reason)) {
        error.customer_resolvability = "Allowed";
    }
    errors
}

/// The same however often it is looked at.
pub(crate) fn error_id(reason: &JobError) -> String {
    guid(&["health", &reason.problem()])
}

/// The contract's word.
pub(crate) const fn show(health: Health) -> &'static str {
    match health {
        Health::Normal => "Normal",
        Health::Warning => "Warning",
        Health::Critical => "Critical",
    }
}
