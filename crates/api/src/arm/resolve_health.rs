//! `resolveHealthErrors`: somebody has mended what was not well with a machine, and has it looked at again at once.
//!
//! An error cannot be declared resolved: the job that this becomes succeeds when the errors that are named have gone, and fails with cause and remedy
//! of one that still holds. None named: all that there are, and what readiness says would fail.

use serde::Deserialize;
use switchback_control::{Control, is_checkable};
use switchback_model::{ItemOperation, JobError};

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::health::error_id;
use super::protected_item_operations::start;
use super::protected_items;

/// `ResolveHealthInput` of the contract.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Input {
    properties: Properties,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Properties {
    health_errors: Vec<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    health_error_id: String,
}

pub(crate) fn resolve(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let view = protected_items::find(control, call)?;
    let named = call.json_if_any::<Input>()?.properties.health_errors;
    let known = control.raised(&view);
    let mut raised: Vec<JobError> = Vec::new();
    for Named { health_error_id: id } in &named {
        let is_it = |error: &&JobError| error_id(error).eq_ignore_ascii_case(id);
        match known.iter().chain(&view.reasons).find(is_it) {
            None => return Err(not_there(id, &known)),
            Some(error) if !is_checkable(error) => return Err(not_ended_so(error)),
            Some(error) if raised.contains(error) => {}
            Some(error) => raised.push(error.clone()),
        }
    }
    let raised = if named.is_empty() { known } else { raised };
    start(control, call, &view, ItemOperation::CheckAgain { raised })
}

fn not_there(id: &str, known: &[JobError]) -> ArmError {
    let ids: Vec<_> = known.iter().map(|error| format!("{} ({})", error_id(error), error.code)).collect();
    let ids = if ids.is_empty() { "none".into() } else { ids.join(", ") };
    ArmError::invalid(format!("the machine has no health error {id:?}; it has now: {ids}"))
        .cause("it has gone meanwhile, or the id is that of another machine")
        .remedy("name errorId of the protected item's healthErrors, or none: then all are looked at again")
}

fn not_ended_so(error: &JobError) -> ArmError {
    ArmError::invalid(format!("looking again does not end {}: {}", error.code, error.message))
        .cause("its customerResolvability is NotAllowed: an operation ends it")
        .remedy(&error.remedy)
}
