//! Managed disks: imported from the page blob of a VHD, copied, or empty. Their bytes are raw files.
//!
//! A VHD that is imported must be of the fixed kind: the data, a whole number of MiB, and one sector at its end that says so (Microsoft's "Virtual
//! Hard Disk Image Format Specification", 1.0: cookie `conectix` at 0, current size at 48, disk type at 60, checksum at 64, all big endian).

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::{Answer, ArmError, Request};
use super::faults::Fault;
use super::operations::{self, Begun};
use super::world::{Power, World};
use super::{REGION, groups, route};
use crate::plain_http;

pub(super) const KIND: &str = "Microsoft.Compute/disks";
const FOOTER_LEN: usize = 512;
const CHUNK_LEN: usize = 64 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const FIXED: u32 = 2;
const READ_LIMIT: Duration = Duration::from_secs(120);

pub(super) fn answer(
    world: &Arc<World>,
    request: &Request,
    fault: Option<Fault>,
) -> Result<Answer, ArmError> {
    let (_, id) = route::id_of(request);
    match request.method.as_str() {
        "GET" => route::read(&world.state(), &id),
        "PUT" => put(world, request, &id, fault),
        "DELETE" => delete(world, id, fault),
        method => Err(ArmError::not_emulated(&format!("{method} of a disk"))),
    }
}

fn delete(world: &Arc<World>, id: String, fault: Option<Fault>) -> Result<Answer, ArmError> {
    {
        let mut state = world.state();
        let Some(disk) = state.get_mut(&id) else { return Ok(Answer::empty(204)) };
        let owner = disk.text("/managedBy").to_owned();
        if !owner.is_empty() {
            let name = disk.name();
            return Err(ArmError::new(
                409,
                "OperationNotAllowed",
                format!("Disk {name} is attached to VM {owner}."),
            ));
        }
        disk.set_state("Deleting");
    }
    let begun = Begun { provider: "Microsoft.Compute", answer: Answer::empty(202), resource: None };
    operations::begin(world, begun, fault, move |world| {
        if let Some(disk) = world.state().resources.remove(&id.to_lowercase()) {
            // A failed import has no file.
            let _ = fs::remove_file(world.disk_file(&disk.name()));
        }
        Ok(())
    })
}

/// What a disk begins with.
enum Origin {
    Blob(String),
    Disk(String),
    Zeros(u64),
}

fn put(world: &Arc<World>, request: &Request, id: &str, fault: Option<Fault>) -> Result<Answer, ArmError> {
    let body = request.json()?;
    let name = request.segments[7].clone();
    if body["location"].as_str().is_none_or(|location| !location.eq_ignore_ascii_case(REGION)) {
        return Err(groups::no_region(body["location"].as_str().unwrap_or_default()));
    }
    let origin = origin(world, &body)?;
    {
        let mut state = world.state();
        if let Some(there) = state.get(id) {
            let same =
                there.json.pointer("/properties/creationData") == body.pointer("/properties/creationData");
            if !same {
                return Err(ArmError::new(
                    409,
                    "PropertyChangeNotAllowed",
                    format!("Changing property 'creationData' of disk '{name}' is not allowed."),
                ));
            }
            if there.text("/properties/provisioningState") == "Succeeded" {
                return Ok(Answer::json(200, &there.json));
            }
        }
        let mut json = body;
        json["id"] = json!(id);
        json["name"] = json!(name);
        json["type"] = json!(KIND);
        if json.get("sku").is_none() {
            json["sku"] = json!({ "name": "Standard_LRS", "tier": "Standard" });
        }
        json["properties"]["provisioningState"] = json!("Creating");
        json["properties"]["diskState"] = json!("Unattached");
        json["properties"]["uniqueId"] = json!(world.uuid(state.number()));
        state.put(json, Power::Stopped);
    }
    let shown = world.state().get(id).map(|disk| disk.json.clone()).unwrap_or_default();
    let begun = Begun {
        provider: "Microsoft.Compute",
        answer: Answer::json(202, &shown),
        resource: Some(id.to_owned()),
    };
    let id = id.to_owned();
    operations::begin(world, begun, fault, move |world| {
        let size = write(world, &name, origin)?;
        if let Some(disk) = world.state().get_mut(&id) {
            disk.json["properties"]["diskSizeBytes"] = json!(size);
            disk.json["properties"]["diskSizeGB"] = json!(size.div_ceil(GIB));
            disk.set_state("Succeeded");
        }
        Ok(())
    })
}

fn origin(world: &World, body: &Value) -> Result<Origin, ArmError> {
    let data = &body["properties"]["creationData"];
    let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
    let wrong = |text: &str| ArmError::new(400, "InvalidParameter", text);
    match data["createOption"].as_str().unwrap_or_default() {
        "Import" => match (text("sourceUri"), text("storageAccountId")) {
            (uri, _) if uri.is_empty() => Err(wrong("Required parameter 'sourceUri' is missing (null).")),
            (_, account) if account.is_empty() => {
                Err(wrong("Required parameter 'storageAccountId' is missing (null)."))
            }
            (uri, _) => Ok(Origin::Blob(uri)),
        },
        "Copy" => {
            let source = text("sourceResourceId");
            let state = world.state();
            let disk = state.get(&source).ok_or_else(|| route::not_found(&source))?;
            Ok(Origin::Disk(disk.name()))
        }
        "Empty" => match body["properties"]["diskSizeGB"].as_u64() {
            Some(size) if size > 0 => Ok(Origin::Zeros(size * GIB)),
            _ => Err(wrong("Required parameter 'diskSizeGB' is missing (null).")),
        },
        other => Err(ArmError::not_emulated(&format!("createOption '{other}' of a disk"))),
    }
}

/// Makes the raw file. Its length.
fn write(world: &World, name: &str, origin: Origin) -> Result<u64, ArmError> {
    let failed = |error: std::io::Error| ArmError::new(500, "InternalServerError", error.to_string());
    let path = world.disk_file(name);
    match origin {
        Origin::Zeros(size) => {
            File::create(&path).and_then(|file| file.set_len(size)).map_err(failed)?;
            Ok(size)
        }
        Origin::Disk(source) => fs::copy(world.disk_file(&source), &path).map_err(failed),
        Origin::Blob(uri) => {
            let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
            let file = file.map_err(failed)?;
            let len = copy(&mut *open_blob(world, &uri)?, &file).map_err(failed)?;
            let size = check_vhd(name, &uri, &file, len)?;
            file.set_len(size).map_err(failed)?;
            Ok(size)
        }
    }
}

/// Copies everything, without the zeros. Its length.
fn copy(from: &mut dyn Read, to: &File) -> std::io::Result<u64> {
    let mut chunk = vec![0; CHUNK_LEN];
    let mut len = 0;
    loop {
        let mut filled = 0;
        while filled < chunk.len() {
            match from.read(&mut chunk[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        if chunk[..filled].iter().any(|byte| *byte != 0) {
            to.write_all_at(&chunk[..filled], len)?;
        }
        len += u64::try_from(filled).unwrap_or(u64::MAX);
        if filled < chunk.len() {
            to.set_len(len)?;
            return Ok(len);
        }
    }
}

fn open_blob(world: &World, uri: &str) -> Result<Box<dyn Read>, ArmError> {
    let lost = |detail: String| {
        ArmError::new(
            409,
            "ImportSourceBlobNotFound",
            format!("The source blob {uri} cannot be read: {detail}."),
        )
    };
    if let Some(bytes) = world.shelved(uri) {
        let bytes = bytes.map_err(|()| lost("it is not there".into()))?;
        return Ok(Box::new(std::io::Cursor::new(bytes)));
    }
    let opened = world.options.storage.iter().find(|(prefix, _)| uri.starts_with(prefix.as_str()));
    let address = match opened {
        Some((_, query)) => format!("{uri}?{query}"),
        None => uri.to_owned(),
    };
    let client = plain_http::client(READ_LIMIT).map_err(|error| lost(error.without_url().to_string()))?;
    let response = client
        .get(&address)
        .header("x-ms-version", "2021-12-02")
        .send()
        .and_then(reqwest::blocking::Response::error_for_status)
        .map_err(|error| lost(error.without_url().to_string()))?;
    Ok(Box::new(response))
}

/// The size of the data, if it is a fixed VHD that Azure takes.
fn check_vhd(disk: &str, uri: &str, file: &File, len: u64) -> Result<u64, ArmError> {
    let refused = |detail: &str| {
        ArmError::new(
            409,
            "InvalidVhd",
            format!("The disk '{disk}' with blob {uri} is not a supported VHD: {detail}"),
        )
    };
    let mut footer = [0; FOOTER_LEN];
    let size = len.checked_sub(FOOTER_LEN as u64).ok_or_else(|| refused("it is shorter than a footer."))?;
    file.read_exact_at(&mut footer, size).map_err(|error| refused(&error.to_string()))?;
    if &footer[..8] != b"conectix" {
        return Err(refused("the footer is expected to have the cookie value 'conectix'."));
    }
    let number = |at: usize| u32::from_be_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]]);
    let summed = footer.iter().enumerate().filter(|(at, _)| !(64..68).contains(at));
    let sum: u32 = summed.map(|(_, byte)| u32::from(*byte)).sum();
    if number(64) != !sum {
        return Err(refused("the footer's checksum is wrong."));
    }
    if number(60) != FIXED {
        return Err(refused("only fixed VHDs can be imported."));
    }
    if (u64::from(number(48)) << 32 | u64::from(number(52))) != size {
        return Err(refused("the footer's size is not that of the blob."));
    }
    if !size.is_multiple_of(MIB) || size == 0 {
        return Err(refused("its virtual size must be a whole number of MiB."));
    }
    Ok(size)
}
