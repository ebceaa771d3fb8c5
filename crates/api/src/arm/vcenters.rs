//! `replicationvCenters`: where the sites of kind `vsphere` are. A vCenter (or ESXi host) is a site of its own, so its fabric has one, under the
//! fabric's name; it is made as a site. What changes it, or removes it, does so with the site.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchback_control::{Control, Health};
use switchback_model::{Site, SiteKind, VsphereKind};

use super::answer::Answer;
use super::call::{self, Call};
use super::error::ArmError;
use super::fabrics;
use super::health::{HealthError, health_errors};
use super::id::guid;
use super::page::page;
use super::resource::resource;

/// Of an address that names none.
const PORT: &str = "443";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Properties {
    friendly_name: String,
    internal_id: String,
    discovery_status: &'static str,
    ip_address: String,
    port: String,
    run_as_account_id: String,
    fabric_arm_resource_name: String,
    health_errors: Vec<HealthError>,
}

/// `AddVCenterRequest` and `UpdateVCenterRequest` of the contract.
#[derive(Deserialize)]
struct Input {
    properties: Change,
}

/// What is not said stays as it is. The configuration server looks at a vCenter itself: a process server for that is taken, and changes nothing.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Change {
    friendly_name: String,
    ip_address: String,
    port: String,
    run_as_account_id: String,
    #[serde(rename = "processServerId")]
    _process_server_id: String,
}

/// The site and its vCenter of the path.
fn find(control: &Control, call: &Call) -> Result<(Site, VsphereKind), ArmError> {
    let site = fabrics::find(control, call)?;
    let wanted = call.text("vcenter");
    match site.kind.clone() {
        SiteKind::Vsphere(kind) if wanted.eq_ignore_ascii_case(site.name.as_str()) => Ok((site, *kind)),
        _ => Err(ArmError::not_found("vCenter", wanted).remedy(
            "list those of the fabric; a site of kind vsphere has one, under its own name; another one is made as a site (switchbackSites)",
        )),
    }
}

/// `PUT`: of one that is there; all that makes it has to be said.
pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let change = call.json::<Input>()?.properties;
    find(control, call)?;
    for (name, value) in [("ipAddress", &change.ip_address), ("runAsAccountId", &change.run_as_account_id)] {
        if value.is_empty() {
            return Err(ArmError::invalid(format!("{name} is missing")));
        }
    }
    set(control, call, change)
}

/// `PATCH`.
pub(crate) fn patch(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    set(control, call, call.json::<Input>()?.properties)
}

fn set(control: &Control, call: &Call, change: Change) -> Result<Answer, ArmError> {
    let (site, mut kind) = find(control, call)?;
    if !change.friendly_name.is_empty() && !change.friendly_name.eq_ignore_ascii_case(site.name.as_str()) {
        let message = format!("a vCenter is called as its site is, {}", site.name);
        return Err(ArmError::invalid(message).remedy("leave friendlyName out"));
    }
    if !(change.ip_address.is_empty() && change.port.is_empty()) {
        let (host, port) = address_of(&kind.url);
        let host = if change.ip_address.is_empty() { host } else { &change.ip_address };
        let port = if change.port.is_empty() { port } else { &change.port };
        kind.url = url_of(host, port)?;
    }
    if !change.run_as_account_id.is_empty() {
        kind.account = call::name(&change.run_as_account_id)?;
    }
    let site = control.change_vcenter(&site.name, kind.clone())?;
    Ok(Answer::Ok(show(control, call, &site, &kind)?))
}

/// As `address_of` reads it.
fn url_of(host: &str, port: &str) -> Result<String, ArmError> {
    let number: u16 = port.parse().map_err(|_| ArmError::invalid(format!("there is no port {port:?}")))?;
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "-._:".contains(letter);
    if !host.chars().all(is_name) {
        return Err(ArmError::invalid(format!("{host:?} is neither a name nor an address")));
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Ok(format!("https://{host}:{number}/sdk"))
}

/// `DELETE`: with its site, which no group may be at.
pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("site")?;
    if control.sites()?.iter().any(|site| site.name == name) {
        find(control, call)?;
    }
    fabrics::remove(control, call)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let (site, kind) = find(control, call)?;
    Ok(Answer::Ok(show(control, call, &site, &kind)?))
}

/// Of a fabric, or of all.
pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let sites = fabrics::asked_for(control, call)?;
    let vcenters = sites.into_iter().filter_map(|site| match site.kind.clone() {
        SiteKind::Vsphere(kind) => Some((site.name.key(), (site, kind))),
        _ => None,
    });
    Answer::of(&page(call, vcenters.collect(), |(site, kind)| show(control, call, &site, &kind))?)
}

fn show(control: &Control, call: &Call, site: &Site, kind: &VsphereKind) -> Result<Value, ArmError> {
    let reasons: Vec<_> = fabrics::look_at(control, &site.name).1.into_iter().collect();
    let (address, port) = address_of(&kind.url);
    let properties = Properties {
        friendly_name: site.name.to_string(),
        internal_id: guid(&["vcenter", &site.name.key()]),
        discovery_status: if reasons.is_empty() { "Completed" } else { "Failed" },
        ip_address: address.to_owned(),
        port: port.to_owned(),
        run_as_account_id: kind.account.to_string(),
        fabric_arm_resource_name: site.name.to_string(),
        health_errors: health_errors(&reasons, Health::Critical),
    };
    let kinds = "replicationFabrics/replicationvCenters";
    resource(call.vault.vcenter(&site.name), site.name.as_str(), kinds, properties)
}

/// Host and port of `HOST` or `https://HOST[:PORT]/sdk`.
fn address_of(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    let port = authority.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let (host, port) = port.unwrap_or((authority, PORT));
    (host.trim_matches(['[', ']']), port)
}

#[cfg(test)]
mod tests {
    use super::{address_of, url_of};

    #[test]
    fn an_address_is_made_of_host_and_port_and_of_nothing_else() {
        for (host, port) in [("vc.example", "443"), ("10.0.0.5", "8443"), ("fd00::1", "443")] {
            assert_eq!(address_of(&url_of(host, port).unwrap()), (host, port));
        }
        for (host, port) in
            [("vc.example", "70000"), ("vc.example", ""), ("a/b", "443"), ("a@b", "443"), ("a b", "1")]
        {
            assert!(url_of(host, port).is_err(), "{host} {port}");
        }
    }

    #[test]
    fn an_address_is_host_and_port_in_every_form_that_a_site_takes() {
        for (url, expected) in [
            ("vc.example", ("vc.example", "443")),
            ("https://vc.example/sdk", ("vc.example", "443")),
            ("https://vc.example:8443/sdk", ("vc.example", "8443")),
            ("https://[fd00::1]:8443/sdk", ("fd00::1", "8443")),
            ("https://[fd00::1]/sdk", ("fd00::1", "443")),
        ] {
            assert_eq!(address_of(url), expected, "{url}");
        }
    }
}
