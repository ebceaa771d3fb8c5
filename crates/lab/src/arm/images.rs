//! Virtual machines made of marketplace images: their system disk, and what they are told (`osProfile`).
//!
//! Custom data is written only: no answer shows it again, as with Azure.

use std::fs::{self, File};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::answer::ArmError;
use super::world::{Power, State, World};
use super::{GROUP, REGION, SUBSCRIPTION, disks};

/// Publisher, offer, sku and generation of the images that there are.
const IMAGES: [(&str, &str, &str, &str); 2] =
    [("Debian", "debian-12", "12", "V1"), ("Debian", "debian-12", "12-gen2", "V2")];
/// The size of these images.
const IMAGE_GIB: u64 = 30;
const GIB: u64 = 1 << 30;
const CUSTOM_DATA_LEN_MAX: usize = 65_535;

/// A system disk to be made.
pub(super) struct NewDisk {
    name: String,
    gib: u64,
    pub(super) generation: &'static str,
}

/// Whether the machine's system disk is to be made of an image.
pub(super) fn is_wanted(json: &Value) -> bool {
    json.pointer("/properties/storageProfile/osDisk/createOption") == Some(&json!("FromImage"))
}

fn id_of(name: &str) -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/{}/{name}", disks::KIND)
}

/// Looks at image, disk and profile; `None`: no image is wanted.
pub(super) fn check(state: &State, id: &str, json: &Value) -> Result<Option<NewDisk>, ArmError> {
    if !is_wanted(json) {
        return Ok(None);
    }
    let wrong = |text: String| ArmError::new(400, "InvalidParameter", text);
    let properties = &json["properties"];
    check_profile(&properties["osProfile"])?;
    let image = &properties["storageProfile"]["imageReference"];
    let [publisher, offer, sku, version] =
        ["publisher", "offer", "sku", "version"].map(|name| image[name].as_str().unwrap_or_default());
    let known = IMAGES.iter().find(|one| (one.0, one.1, one.2) == (publisher, offer, sku));
    let generation = known.filter(|_| version == "latest").map(|one| one.3).ok_or_else(|| {
        let text = format!("The platform image '{publisher}:{offer}:{sku}:{version}' is not available.");
        ArmError::new(404, "PlatformImageNotFound", text)
    })?;
    let disk = &properties["storageProfile"]["osDisk"];
    let gib = disk["diskSizeGB"].as_u64().unwrap_or(IMAGE_GIB);
    if gib < IMAGE_GIB {
        return Err(wrong(format!(
            "The specified disk size {gib} GB is smaller than the size of the corresponding disk in the VM image: {IMAGE_GIB} GB."
        )));
    }
    let own = || format!("{}_OsDisk_1", id.rsplit('/').next().unwrap_or_default());
    let name = disk["name"].as_str().map_or_else(own, str::to_owned);
    if let Some(there) = state.get(&id_of(&name))
        && !there.text("/managedBy").eq_ignore_ascii_case(id)
    {
        let text = format!("Disk {name} already exists in resource group {GROUP}.");
        return Err(ArmError::new(409, "ConflictingUserInput", text));
    }
    Ok(Some(NewDisk { name, gib, generation }))
}

fn check_profile(profile: &Value) -> Result<(), ArmError> {
    let missing = |name: &str| {
        let text = format!("Required parameter 'osProfile.{name}' is missing (null).");
        ArmError::new(400, "InvalidParameter", text)
    };
    for name in ["computerName", "adminUsername"] {
        profile[name].as_str().filter(|text| !text.is_empty()).ok_or_else(|| missing(name))?;
    }
    let linux = &profile["linuxConfiguration"];
    let user = profile["adminUsername"].as_str().unwrap_or_default();
    let keys = linux["ssh"]["publicKeys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let path = format!("/home/{user}/.ssh/authorized_keys");
    if keys.iter().any(|key| key["path"] != json!(path)) {
        let text =
            format!("Destination path for SSH public keys is currently limited to its default value {path}.");
        return Err(ArmError::new(400, "InvalidParameter", text));
    }
    let no_password = linux["disablePasswordAuthentication"] == json!(true);
    let has_key = no_password && !keys.is_empty();
    if !has_key && profile["adminPassword"].as_str().is_none() {
        return Err(missing("adminPassword"));
    }
    let data = profile["customData"].as_str().unwrap_or_default();
    let decoded = STANDARD.decode(data).ok().filter(|data| data.len() <= CUSTOM_DATA_LEN_MAX);
    decoded.map(drop).ok_or_else(|| {
        let text = "Custom data in OSProfile must be in Base64 encoding and with a maximum length of 87380 characters.";
        ArmError::new(400, "InvalidParameter", text)
    })
}

/// Makes the system disk, and names it in the machine's JSON.
pub(super) fn make_disk(
    world: &World,
    state: &mut State,
    image: &NewDisk,
    owner: &str,
    machine: &mut Value,
) -> Result<(), ArmError> {
    let failed = |error: std::io::Error| ArmError::new(500, "InternalServerError", error.to_string());
    let id = id_of(&image.name);
    let bytes = image.gib * GIB;
    File::create(world.disk_file(&image.name)).and_then(|file| file.set_len(bytes)).map_err(failed)?;
    let disk = &mut machine["properties"]["storageProfile"]["osDisk"];
    let kind = disk["managedDisk"]["storageAccountType"].as_str().unwrap_or("Standard_LRS").to_owned();
    disk["managedDisk"]["id"] = json!(id);
    disk["name"] = json!(image.name);
    let number = state.number();
    let mut json = json!({
        "id": id, "name": image.name, "type": disks::KIND, "location": REGION, "managedBy": owner,
        "sku": { "name": kind },
        "properties": {
            "creationData": { "createOption": "FromImage" }, "osType": "Linux", "hyperVGeneration": image.generation,
            "diskSizeGB": image.gib, "diskSizeBytes": bytes, "diskState": "Attached",
            "provisioningState": "Succeeded", "uniqueId": world.uuid(number),
        },
    });
    for shared in ["tags", "zones"] {
        if let Some(value) = machine.get(shared) {
            json[shared] = value.clone();
        }
    }
    state.put(json, Power::Stopped);
    Ok(())
}

/// Takes the custom data out of the machine's JSON.
pub(super) fn keep_custom_data(state: &mut State, id: &str, machine: &mut Value) {
    let profile = machine.pointer_mut("/properties/osProfile").and_then(Value::as_object_mut);
    let data = profile.and_then(|profile| profile.remove("customData"));
    if let Some(data) = data.as_ref().and_then(Value::as_str).and_then(|data| STANDARD.decode(data).ok()) {
        state.custom_data.insert(id.to_lowercase(), data);
    }
}

/// Deletes a system disk that is to go with its machine, which is going.
pub(super) fn delete_with(world: &World, state: &mut State, id: &str) {
    state.custom_data.remove(&id.to_lowercase());
    let Some(machine) = state.get(id) else { return };
    if machine.text("/properties/storageProfile/osDisk/deleteOption") != "Delete" {
        return;
    }
    let disk = machine.text("/properties/storageProfile/osDisk/managedDisk/id").to_lowercase();
    if let Some(disk) = state.resources.remove(&disk) {
        // What is not there need not be removed.
        let _ = fs::remove_file(world.disk_file(&disk.name()));
    }
}
