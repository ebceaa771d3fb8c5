//! `targetComputeSizes`: the sizes of virtual machines that a machine may get at its recovery site: at Azure, those that the site allows. Other sites
//! give a machine what it has at home, so there is nothing to choose.

use serde_json::{Value, json};
use switchback_control::Control;
use switchback_model::SiteKind;

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::fabrics;
use super::page::page;
use super::protected_items;
use super::resource::resource;

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let item = protected_items::find(control, call)?.item;
    let sizes = match fabrics::by_name(control, &item.away.site)?.kind {
        SiteKind::Azure(kind) => kind.settings.machines.sizes,
        _ => Vec::new(),
    };
    let place = format!("{}/targetComputeSizes", call.vault.protected_item(&item.home.site, &item.name));
    let sizes = sizes.into_iter().map(|size| (size.to_ascii_lowercase(), size)).collect();
    Answer::of(&page(call, sizes, |size| show(&place, &size))?)
}

fn show(place: &str, size: &str) -> Result<Value, ArmError> {
    let kinds =
        "replicationFabrics/replicationProtectionContainers/replicationProtectedItems/targetComputeSizes";
    resource(format!("{place}/{size}"), size, kinds, json!({ "name": size, "friendlyName": size }))
}
