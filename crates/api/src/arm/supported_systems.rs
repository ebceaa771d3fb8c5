//! `replicationSupportedOperatingSystems`: what a guest must have.
//!
//! Not a list of distributions: the mobility agent needs a Linux kernel that has what its tracking is made of (eBPF programs on raw block
//! tracepoints, from 5.17), whoever built it. Windows guests have no agent.

use serde_json::json;
use switchback_control::Control;

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::resource::resource;
use super::state;

/// The one of a vault.
const NAME: &str = "default";
/// The oldest kernel that the agent runs on.
const KERNEL_MIN: &str = "5.17";

pub(crate) fn get(_: &Control, call: &Call) -> Result<Answer, ArmError> {
    let wanted = call.query("instanceType");
    let is_wanted = |provider: &str| wanted.is_none_or(|wanted| wanted.eq_ignore_ascii_case(provider));
    let one = |provider: &str| {
        json!({ "instanceType": provider, "supportedOs": [
            { "osName": format!("Linux, kernel {KERNEL_MIN} or newer"), "osType": "Linux", "osVersions": [{ "version": KERNEL_MIN }] },
        ] })
    };
    let list: Vec<_> =
        [state::AWAY, state::HOME].into_iter().filter(|provider| is_wanted(provider)).map(one).collect();
    let id = format!("{}/replicationSupportedOperatingSystems/{NAME}", call.vault.id());
    let properties = json!({ "supportedOsList": list });
    Ok(Answer::Ok(resource(id, NAME, "replicationSupportedOperatingSystems", properties)?))
}
