//! `switchbackDeployedServers`: process servers that are made at a site by a job, and removed by one.
//!
//! `PUT` with what is wanted begins the one job, `DELETE` the other; both answer as the contract's operations do. Where there is a server of that name it is
//! not changed: what it was told to run cannot be.

use serde::Deserialize;
use serde_json::{Value, json};
use switchback_control::{Control, Deployment};
use switchback_model::{DATA_PORT, DISK_GIB, ObjectName, ServerRequest};

use crate::arm::{Answer, ArmError, Call, operation_result, page, resource};
use crate::openapi::operation::{Operation, begin, get as show_one, get_page, get_result};
use crate::openapi::schema::{count_within, flag, object, or_null, resource as schema, text};

pub(crate) const KIND: &str = "switchbackDeployedServers";

#[derive(Debug, Deserialize)]
struct Input {
    properties: Properties,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Properties {
    site: ObjectName,
    network: String,
    address: std::net::Ipv4Addr,
    size: String,
    administrator: String,
    ssh_key: String,
    /// Where the client has reached this server, unless it is said.
    #[serde(default)]
    configuration_server: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    disk_gib: Option<u32>,
}

/// What there is.
pub(crate) fn operations() -> Vec<Operation> {
    let shown = || {
        let properties = object([
            ("friendlyName", text()),
            ("site", text()),
            ("network", text()),
            ("address", text()),
            ("size", text()),
            ("administrator", text()),
            ("configurationServer", text()),
            ("diskGib", count_within(0, u32::MAX)),
            ("job", or_null(text())),
            ("isRetiring", flag()),
        ]);
        schema("SwitchbackDeployedServer", properties)
    };
    let wanted = object([
        ("site", text()),
        ("network", text()),
        ("address", json!({ "type": "string", "format": "ipv4" })),
        ("size", text()),
        ("administrator", text()),
        ("sshKey", text()),
        ("configurationServer?", or_null(text())),
        ("port?", or_null(count_within(0, u32::from(u16::MAX)))),
        ("diskGib?", or_null(count_within(0, u32::MAX))),
    ]);
    let one = "switchbackDeployedServers/{made}";
    vec![
        get_page("switchbackDeployedServers", list, "Process servers that are made at a site.", shown()),
        show_one(one, get, "A process server that is made at a site.", shown()),
        begin("put", one, put, "Makes a process server at a site.").takes(wanted),
        begin("delete", one, delete, "Removes a process server that was made."),
        get_result(
            "switchbackDeployedServers/{made}/operationresults/{job}",
            operation_result,
            "The result of making or removing one.",
            shown(),
        ),
    ]
}

pub(crate) fn list(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let made = control.deployments()?.into_iter().map(|made| (made.request.name.key(), made)).collect();
    Answer::of(&page(call, made, |made| show(call, &made))?)
}

pub(crate) fn get(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    Ok(Answer::Ok(show(call, &control.deployment(&call.name("made")?)?)?))
}

pub(crate) fn put(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("made")?;
    let wanted = call.json::<Input>()?.properties;
    let request = ServerRequest {
        name: name.clone(),
        site: wanted.site,
        network: wanted.network,
        address: wanted.address,
        size: wanted.size,
        administrator: wanted.administrator,
        ssh_key: wanted.ssh_key,
        configuration_server: wanted.configuration_server.unwrap_or_else(|| host_of(&call.base)),
        port: wanted.port.unwrap_or(DATA_PORT),
        disk_gib: wanted.disk_gib.unwrap_or(DISK_GIB),
    };
    let job = control.deploy_server(&call.by, request)?;
    Ok(Answer::Accepted { resource: call.vault.addition(KIND, name.as_str()), job: job.id })
}

pub(crate) fn delete(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let name = call.name("made")?;
    let job = control.retire_server(&call.by, &name)?;
    Ok(Answer::Accepted { resource: call.vault.addition(KIND, name.as_str()), job: job.id })
}

pub(crate) fn show(call: &Call, made: &Deployment) -> Result<Value, ArmError> {
    let request = &made.request;
    let name = request.name.as_str();
    let properties = json!({
        "friendlyName": name,
        "site": request.site,
        "network": request.network,
        "address": format!("{}:{}", request.address, request.port),
        "size": request.size,
        "administrator": request.administrator,
        "configurationServer": request.configuration_server,
        "diskGib": request.disk_gib,
        "job": made.job.map(|job| call.vault.job(job)),
        "isRetiring": made.is_retiring,
    });
    resource(call.vault.addition(KIND, name), name, KIND, properties)
}

/// `HOST:PORT` of an address that begins with `https://`.
fn host_of(base: &str) -> String {
    let host = base.split_once("://").map_or(base, |(_, host)| host);
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { host.to_owned() } else { format!("{host}:443") }
}

#[cfg(test)]
mod tests {
    use super::host_of;

    #[test]
    fn where_a_client_reached_us_is_told_with_a_port() {
        assert_eq!(host_of("https://cs.example"), "cs.example:443");
        assert_eq!(host_of("https://cs.example:8443"), "cs.example:8443");
        assert_eq!(host_of("https://[2001:db8::1]"), "[2001:db8::1]:443");
        assert_eq!(host_of("https://[2001:db8::1]:8443"), "[2001:db8::1]:8443");
    }
}
