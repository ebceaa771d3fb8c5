//! `replicationvCenters`: where the sites of kind `vsphere` are. A vCenter (or ESXi host) is a site of its own, so its fabric has one, under the
//! fabric's name; it is made and changed as a site.

use serde::Serialize;
use serde_json::Value;
use switchback_control::{Control, Health};
use switchback_model::{Site, SiteKind, VsphereKind};

use super::answer::Answer;
use super::call::Call;
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

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let site = fabrics::find(control, call)?;
    let name = call.text("vcenter");
    match &site.kind {
        SiteKind::Vsphere(kind) if name.eq_ignore_ascii_case(site.name.as_str()) => {
            Ok(Answer::Ok(show(control, call, &site, kind)?))
        }
        _ => Err(ArmError::not_found("vCenter", name)
            .remedy("list those of the fabric; a site of kind vsphere has one, under its own name")),
    }
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
    use super::address_of;

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
