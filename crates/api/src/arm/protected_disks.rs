//! `addDisks` and `removeDisks`: a protected machine's disks come to its protection, and leave it, while the others go on.
//!
//! The contract has inputs for other providers only: `InMageRcmAddDisksInput` names disks by their id, `A2ARemoveDisksInput` by those of managed
//! disks. Their shapes are taken for our machines too, so that the SDKs' types can be used, and so is the pair's own provider with the first
//! shape. A disk's id is its serial number, the name that the mobility agent has for it, or the id that the machine's details show for it.

use serde::Deserialize;
use switchback_control::{Control, ItemView};
use switchback_model::ItemOperation;

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::protected_item_operations::start;
use super::replication_details::disk_id;
use super::{protected_items, state};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Input {
    properties: Properties,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Properties {
    provider_specific_details: Details,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Details {
    instance_type: String,
    disks: Vec<Disk>,
    vm_managed_disks_ids: Vec<String>,
    /// Ours: where the replicas of the disks go.
    datastore_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Disk {
    disk_id: String,
}

pub(crate) fn add(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (view, details) = read(control, call, "InMageRcm")?;
    let datastore = details.datastore_name.clone().filter(|name| !name.is_empty());
    let disks = named(&view, details)?;
    start(control, call, &view, ItemOperation::AddDisks { disks, datastore })
}

pub(crate) fn remove(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (view, details) = read(control, call, "A2A")?;
    let disks = named(&view, details)?;
    start(control, call, &view, ItemOperation::RemoveDisks { disks })
}

/// `other`: the provider of the contract whose input has the shape.
fn read(control: &Control, call: &Call, other: &str) -> Result<(ItemView, Details), ArmError> {
    let view = protected_items::find(control, call)?;
    let details = call.json_if_any::<Input>()?.properties.provider_specific_details;
    let own = state::provider(state::pair_target(&view.item.protection));
    if !["", own, other].contains(&details.instance_type.as_str()) {
        let said = &details.instance_type;
        return Err(ArmError::invalid(format!("instanceType is {said:?}, it must be {own:?} or {other:?}"))
            .cause("each provider has its own input"));
    }
    Ok((view, details))
}

fn named(view: &ItemView, details: Details) -> Result<Vec<String>, ArmError> {
    let ids = details.disks.into_iter().map(|disk| disk.disk_id).chain(details.vm_managed_disks_ids);
    let ids: Vec<_> = ids.filter(|id| !id.is_empty()).map(|id| serial_of(view, id)).collect();
    if ids.is_empty() {
        return Err(ArmError::invalid("no disk is named").remedy(
            "providerSpecificDetails.disks: [{\"diskId\": a serial number, or the agent's name for it}]",
        ));
    }
    Ok(ids)
}

/// The serial number of the disk that the machine's details show with this id; another id as it is.
fn serial_of(view: &ItemView, id: String) -> String {
    let item = &view.item;
    let shown = item.present_disks().find(|disk| disk_id(item, *disk) == id);
    let serial = shown.and_then(|disk| item.active().disk_serials.get(usize::from(disk.0)).cloned());
    serial.filter(|serial| !serial.is_empty()).unwrap_or(id)
}
