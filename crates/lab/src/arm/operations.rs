//! Long-running operations as ARM has them: begun by a call that is answered at once, done by a thread, asked for at two addresses.
//!
//! `Azure-AsyncOperation` answers 200 with a status, `Location` 202 until it is over and then what the call itself would have answered.

use std::sync::Arc;
use std::thread::Builder;

use serde_json::{Value, json};

use super::answer::{Answer, ArmError};
use super::faults::Fault;
use super::world::{State, World};
use super::{REGION, SUBSCRIPTION};

/// At most so many are remembered and under way in one test.
const OPERATIONS_MAX: usize = 10_000;
const BEGUN: &str = "2026-01-01T00:00:00.0000000+00:00";

/// One operation.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    outcome: Option<Result<(), ArmError>>,
    /// How many looks it takes yet until it says that it is over.
    looks: u32,
    /// What its `Location` shows at the end: the resource, as it is then. `None`: nothing.
    resource: Option<String>,
}

/// What a call begins.
pub(super) struct Begun {
    pub(super) provider: &'static str,
    /// The answer to the call itself, without the headers of its operation.
    pub(super) answer: Answer,
    /// The id of the resource it ends with.
    pub(super) resource: Option<String>,
}

/// Has `work` done by a thread, and tells where to ask for it.
pub(super) fn begin(
    world: &Arc<World>,
    begun: Begun,
    fault: Option<Fault>,
    work: impl FnOnce(&World) -> Result<(), ArmError> + Send + 'static,
) -> Result<Answer, ArmError> {
    let name = {
        let mut state = world.state();
        if state.operations.len() >= OPERATIONS_MAX {
            return Err(ArmError::new(503, "ServiceUnavailable", "too many operations for an emulator"));
        }
        let number = state.number();
        let name = world.uuid(number);
        let looks = world.options.looks_min;
        let operation = Operation { outcome: None, looks, resource: begun.resource.clone() };
        state.operations.insert(name.clone(), operation);
        name
    };
    let (of, key) = (Arc::clone(world), name.clone());
    let run = move || {
        let done = match fault {
            Some(Fault::FailsLater { code, message }) => Err(ArmError::new(409, code, message)),
            _ => work(&of),
        };
        of.end(&key, done);
    };
    if let Err(error) = Builder::new().name("arm-operation".into()).spawn(run) {
        world.end(&name, Err(ArmError::new(500, "InternalServerError", error.to_string())));
    }
    let address = |kind: &str, more: &str| {
        format!(
            "{}/subscriptions/{SUBSCRIPTION}/providers/{}/locations/{REGION}/{kind}/{name}?api-version=2024-07-01{more}",
            world.url, begun.provider
        )
    };
    let answer = begun
        .answer
        .header("azure-asyncoperation", address("operations", ""))
        .header("location", address("operationResults", "&monitor=true"))
        .header("retry-after", "0");
    Ok(answer)
}

impl World {
    fn end(&self, name: &str, outcome: Result<(), ArmError>) {
        let mut state = self.state();
        let Some(operation) = state.operations.get_mut(name) else { return };
        operation.outcome = Some(outcome.clone());
        let resource = operation.resource.clone();
        if let (Err(_), Some(id)) = (outcome, resource)
            && let Some(resource) = state.get_mut(&id)
        {
            resource.set_state("Failed");
        }
    }
}

/// Answers `GET …/operations/NAME` and `…/operationResults/NAME`.
pub(super) fn look(state: &mut State, is_result: bool, name: &str) -> Result<Answer, ArmError> {
    let Some(operation) = state.operations.get_mut(&name.to_lowercase()) else {
        return Err(ArmError::new(404, "OperationNotFound", format!("The operation {name} is not found.")));
    };
    let is_shown = operation.looks == 0;
    operation.looks = operation.looks.saturating_sub(1);
    let outcome = operation.outcome.clone().filter(|_| is_shown);
    let resource = operation.resource.clone();
    let body = |status: &str| json!({ "startTime": BEGUN, "status": status, "name": name });
    match (outcome, is_result) {
        (None, true) => Ok(Answer::empty(202).header("retry-after", "0")),
        (None, false) => Ok(Answer::json(200, &body("InProgress")).header("retry-after", "0")),
        (Some(Ok(())), true) => {
            let shown = resource.and_then(|id| Some(state.get(&id)?.json.clone()));
            Ok(shown.map_or_else(|| Answer::empty(200), |json: Value| Answer::json(200, &json)))
        }
        (Some(Err(error)), true) => Err(error),
        (Some(Ok(())), false) => Ok(Answer::json(200, &body("Succeeded"))),
        (Some(Err(error)), false) => {
            let mut body = body("Failed");
            body["error"] = error.body();
            Ok(Answer::json(200, &body))
        }
    }
}
