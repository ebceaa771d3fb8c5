//! Beginning to protect a machine: prerequisites, its instance at the recovery site, its replication.

use switchback_identity::Role;
use switchback_model::component::InterfaceSettings;
use switchback_model::{
    DiskIndex, Instance, InstanceNic, JobRequest, MachineId, ObjectName, Phase, ProtectRequest,
    ProtectedItem, ProtectionGroup, ReplicationPath, Side, SiteKind,
};
use switchback_sites::{DiskOrigin, Machine, MachineDisk, NewDisk, NewMachine, Nic};
use switchback_store::Kind;

use super::step::{Outcome, Step, Work, failure};
use crate::inventory::{no_agent, values};
use crate::{Control, ControlError, ErrorKind};

pub(crate) fn steps() -> Vec<Step> {
    vec![
        Step::new("EnableProtectionPrerequisitesCheck", "Prerequisites check for enabling protection", check)
            .undo_on_failure(),
        Step::new("CreateReplicaVirtualMachine", "Creating the replica virtual machine", create)
            .undo(remove)
            .undo_on_failure(),
        Step::new("EnableReplication", "Enable replication", enable)
            .undo(forget)
            .undo_on_failure()
            .no_return(),
    ]
}

/// The machine as it is stored from the moment that its protection is asked for.
pub(crate) fn new_item(control: &Control, request: &ProtectRequest) -> Result<ProtectedItem, ControlError> {
    let group = control.group(&request.group)?;
    if group.towards != Side::Away {
        let message =
            format!("{} is a failback group: machines come into it by being reprotected", group.name);
        return Err(failure(
            ErrorKind::Invalid,
            "group.failback",
            message,
            "",
            &format!("protect it in {}", group.twin),
        ));
    }
    let machine = control.site(&group.source_site)?.machine(&request.machine)?;
    for item in values::<ProtectedItem>(control.records().all(Kind::Item)?) {
        let mut instances = [&item.home, &item.away].into_iter().chain(&item.left_behind);
        let is_it = |instance: &Instance| {
            let same_id = instance.site == group.source_site && instance.id.as_ref() == Some(&machine.id);
            same_id || (!machine.system_uuid.is_empty() && instance.system_uuid == machine.system_uuid)
        };
        if instances.any(is_it) {
            let message =
                format!("{} at {} is protected already, as {}", machine.name, group.source_site, item.name);
            return Err(ControlError::new(ErrorKind::Conflict, "item.protected-already", message));
        }
    }
    if matches!(control.site_kind(&group.source_site)?, SiteKind::Physical { .. }) {
        control.check_is_hardware(&machine)?;
    }
    let agent = agent_of(control, &machine)?;
    let nics = machine.nics.iter().map(|nic| InstanceNic {
        mac: nic.mac.clone(),
        network: nic.network.clone().unwrap_or_default(),
        settings: InterfaceSettings::Untouched,
    });
    let home = Instance {
        site: group.source_site.clone(),
        id: Some(machine.id.clone()),
        system_uuid: machine.system_uuid.clone(),
        created_by_us: false,
        disk_serials: machine.disks.iter().map(|disk| disk.serial.clone()).collect(),
        nics: nics.collect(),
    };
    let away = Instance {
        site: group.target_site.clone(),
        id: None,
        system_uuid: String::new(),
        created_by_us: false,
        disk_serials: Vec::new(),
        nics: Vec::new(),
    };
    let sizes = machine.disks.iter().map(|disk| disk.size).collect();
    let names = (request.name.clone(), agent);
    let item = ProtectedItem::begin(names, machine_id()?, group.name, (home, away), sizes);
    Ok(ProtectedItem { plan: request.plan.clone(), ..item })
}

fn machine_id() -> Result<MachineId, ControlError> {
    Ok(crate::access::random_hex(16)?.parse()?)
}

/// The name under which the agent in a machine has enrolled.
fn agent_of(control: &Control, machine: &Machine) -> Result<String, ControlError> {
    let now = control.now();
    let reports = control.reports_of(Role::Source)?;
    let report = reports.into_iter().find(|report| {
        report.is_alive(now) && report.agent().is_some_and(|agent| agent.system_uuid == machine.system_uuid)
    });
    let missing = || {
        let error = no_agent(&machine.name);
        failure(ErrorKind::IllegalState, &error.code, error.message, &error.cause, &error.remedy)
    };
    Ok(report.ok_or_else(missing)?.peer.name.to_string())
}

fn request<'a>(work: &'a Work<'_>) -> Result<&'a ProtectRequest, ControlError> {
    match &work.job.request {
        JobRequest::Protect(request) => Ok(request),
        _ => Err(ControlError::new(
            ErrorKind::Internal,
            "job.wrong-kind",
            "the job does not protect a machine",
        )),
    }
}

/// Disks as the agent sees them must be those the site tells of; servers and room must be there.
fn check(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let item = work.item()?.value;
    let group = work.control.group(&item.group)?;
    let machine = work.site(&item.home.site)?.machine(item.home.id.as_deref().unwrap_or_default())?;
    check_disks(work, &item, &machine)?;
    let request = request(work)?.clone();
    let process_server =
        choose_server(work, Role::ProcessServer, &group.source_site, request.process_server.as_deref())?;
    let master_target =
        choose_server(work, Role::Target, &group.target_site, request.master_target.as_deref())?;
    let needed = item.disk_sizes.iter().sum();
    let datastore = choose_datastore(work, &group, &master_target, request.datastore.as_deref(), needed)?;
    work.set_note("process-server", process_server);
    work.set_note("master-target", master_target);
    work.set_note("datastore", datastore);
    Ok(Outcome::done())
}

fn check_disks(work: &Work<'_>, item: &ProtectedItem, machine: &Machine) -> Result<(), ControlError> {
    let report = work.control.agent_report(&item.agent, &item.home.system_uuid)?;
    let seen = report
        .as_ref()
        .and_then(|report| report.agent())
        .map(|agent| agent.disks.clone())
        .unwrap_or_default();
    let unsupported = |message: String| {
        failure(
            ErrorKind::IllegalState,
            "machine.unsupported-disk",
            message,
            "",
            "protect the machine with all its disks as whole disks the agent can read",
        )
    };
    if seen.len() != machine.disks.len() {
        return Err(unsupported(format!(
            "{} has {} disks at its site, but its agent can protect {}",
            item.name,
            machine.disks.len(),
            seen.len()
        )));
    }
    for (facts, disk) in seen.iter().zip(&machine.disks) {
        if facts.size != disk.size {
            return Err(unsupported(format!(
                "the agent of {} sees {} with {} bytes, the site says {}",
                item.name, facts.name, facts.size, disk.size
            )));
        }
    }
    Ok(())
}

/// The server a user named, or the only one there is.
pub(crate) fn choose_server(
    work: &Work<'_>,
    role: Role,
    site: &ObjectName,
    wanted: Option<&str>,
) -> Result<String, ControlError> {
    let there = work.control.alive(role, site)?;
    if let Some(wanted) = wanted {
        return there.iter().find(|name| *name == wanted).cloned().ok_or_else(|| {
            let message = format!(
                "there is no {role} {wanted} at {site} that reports; there are: {}",
                there.join(", ")
            );
            failure(
                ErrorKind::Unavailable,
                "server.not-there",
                message,
                "it is down, or belongs to another site",
                "start it, or name another one",
            )
        });
    }
    there.first().cloned().ok_or_else(|| {
        let message = format!("there is no {role} at {site}");
        failure(
            ErrorKind::Unavailable,
            "server.not-there",
            message,
            "none has enrolled, or it does not report",
            "install one there and enrol it with the passphrase",
        )
    })
}

/// The datastore that a user named, or the roomiest, of those beside a master target.
pub(crate) fn choose_datastore(
    work: &Work<'_>,
    group: &ProtectionGroup,
    master_target: &str,
    wanted: Option<&str>,
    needed: u64,
) -> Result<String, ControlError> {
    let beside = super::loan::machine_of(work, master_target)?;
    let datastores = work.site(&group.target_site)?.datastores_beside(&beside)?;
    let chosen = match wanted {
        Some(wanted) => datastores.iter().find(|datastore| datastore.name == wanted),
        None => datastores.iter().max_by_key(|datastore| datastore.free),
    };
    let chosen = chosen.ok_or_else(|| {
        let message =
            format!("there is no datastore {} at {}", wanted.unwrap_or_default(), group.target_site);
        failure(
            ErrorKind::Invalid,
            "site.no-such-datastore",
            message,
            "",
            "choose one that `site datastores` shows",
        )
    })?;
    if chosen.free < needed {
        let message =
            format!("the datastore {} has {} bytes free, {needed} are needed", chosen.name, chosen.free);
        return Err(failure(
            ErrorKind::IllegalState,
            "site.datastore-full",
            message,
            "",
            "free some, or choose another datastore",
        ));
    }
    Ok(chosen.name.clone())
}

/// Makes the instance at the recovery site, off, with empty disks.
fn create(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    let datastore = work.note("datastore").unwrap_or_default().to_owned();
    let source =
        work.site(&item.value.home.site)?.machine(item.value.home.id.as_deref().unwrap_or_default())?;
    let wanted = request(work)?.nics.clone();
    let (site, id) = (&item.value.away.site, replica_id(&item.value));
    let made = create_instance(work, &item.value, &source, (Side::Away, site, &id), &datastore)?;
    item.value.away = instance_of(&item.value.away.site, &made, &wanted);
    work.change(&item);
    // Said now, so that readiness judges by it, and a wish that cannot be met is told at once.
    work.site(&item.value.away.site)?.plan_machine(&made.id, &super::failover::plan_of(&item.value))?;
    Ok(Outcome::Done(format!("{} at {}", made.id, item.value.away.site)))
}

/// The id of the instance that is made for a machine at the recovery site.
fn replica_id(item: &ProtectedItem) -> String {
    format!("{}-{}", item.name.key(), &item.machine.to_string()[..8])
}

/// Makes an instance of a side like `source` at a site, under an id, with its networks as they are mapped.
pub(crate) fn create_instance(
    work: &Work<'_>,
    item: &ProtectedItem,
    source: &Machine,
    (side, to, id): (Side, &ObjectName, &str),
    datastore: &str,
) -> Result<Machine, ControlError> {
    let from = &item.instance(side.other()).site;
    let networks = mapped_networks(work, source, from, to, false)?;
    let disk = |(index, size): (usize, &u64)| NewDisk {
        size: *size,
        serial: item.instance(side.other()).disk_serials.get(index).cloned().unwrap_or_default(),
        origin: DiskOrigin::Empty { datastore: datastore.into() },
    };
    let machine = NewMachine {
        id: id.into(),
        name: source.name.clone(),
        system_uuid: None,
        cpus: source.cpus,
        memory_mib: source.memory_mib,
        boot: source.boot.clone(),
        disks: item.disk_sizes.iter().enumerate().map(disk).collect(),
        nics: networks.into_iter().map(|network| Nic { mac: String::new(), network }).collect(),
        beside: Some(super::loan::machine_of(work, work.note("master-target").unwrap_or_default())?),
        mark: Some(format!("{} replica", item.machine)),
    };
    Ok(work.site(to)?.create_machine(&machine)?)
}

/// The networks at the other site that a machine's cards are to be connected to; a card without a mapping is not connected.
pub(crate) fn mapped_networks(
    work: &Work<'_>,
    machine: &Machine,
    from: &ObjectName,
    to: &ObjectName,
    test: bool,
) -> Result<Vec<Option<String>>, ControlError> {
    let mappings = work.control.network_mappings()?;
    let mapped = |nic: &Nic| {
        let network = nic.network.as_ref()?;
        mappings.iter().find_map(|mapping| {
            if mapping.site == *from && mapping.target_site == *to && mapping.network == *network {
                return if test {
                    mapping.test_network.clone()
                } else {
                    Some(mapping.target_network.clone())
                };
            }
            // A mapping holds both ways.
            let backwards =
                mapping.site == *to && mapping.target_site == *from && mapping.target_network == *network;
            (backwards && !test).then(|| mapping.network.clone())
        })
    };
    Ok(machine.nics.iter().map(mapped).collect())
}

/// An instance as it is stored; cards without a wish get DHCP.
pub(crate) fn instance_of(site: &ObjectName, machine: &Machine, wanted: &[InterfaceSettings]) -> Instance {
    let nics = machine.nics.iter().enumerate().map(|(index, nic)| InstanceNic {
        mac: nic.mac.clone(),
        network: nic.network.clone().unwrap_or_default(),
        settings: wanted.get(index).cloned().unwrap_or(InterfaceSettings::Dhcp),
    });
    Instance {
        site: site.clone(),
        id: Some(machine.id.clone()),
        system_uuid: machine.system_uuid.clone(),
        created_by_us: true,
        disk_serials: machine.disks.iter().map(|disk| disk.serial.clone()).collect(),
        nics: nics.collect(),
    }
}

/// The disks of an instance that are protected, in order, each with its place at the replica: those that it had when it became one and that were added since.
/// Others are left alone, and so are those that a failover has set aside; `None`: one of them is gone, or has another size.
pub(crate) fn protected_disks<'a>(
    item: &ProtectedItem,
    side: Side,
    machine: &'a Machine,
) -> Option<Vec<(DiskIndex, &'a MachineDisk)>> {
    let serials = &item.instance(side).disk_serials;
    if serials.is_empty() && machine.disks.len() != item.disk_sizes.len() {
        return None;
    }
    let of = |disk: DiskIndex| {
        let place = usize::from(disk.0);
        let found = match serials.get(place) {
            Some(serial) => machine.disks.iter().find(|disk| disk.serial == *serial),
            None => machine.disks.get(place).filter(|_| serials.is_empty()),
        };
        found.filter(|disk| disk.size == item.disk_sizes[place]).map(|found| (disk, found))
    };
    let stands = item.protection.phase == Phase::FailedOver && item.protection.active == side;
    let failover = item.failover.as_ref().filter(|_| stands);
    let is_there = |disk: &DiskIndex| failover.is_none_or(|failover| !failover.lacks.contains(disk));
    item.present_disks().filter(is_there).map(of).collect()
}

/// A side's disks are not those that are protected.
pub(crate) fn disks_differ(item: &ProtectedItem, side: Side, remedy: &str) -> ControlError {
    let instance = item.instance(side);
    let message = format!(
        "the disks of {} at {} do not fit those that are protected",
        instance.id.as_deref().unwrap_or_default(),
        instance.site
    );
    failure(
        ErrorKind::IllegalState,
        "machine.disks-differ",
        message,
        "a protected disk was removed or resized",
        remedy,
    )
}

fn remove(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    // Also what was made and not noted: its id follows from the machine's.
    let id = replica_id(&item.value);
    let site = work.site(&item.value.away.site)?;
    let mark = format!("{} replica", item.value.machine);
    if site.machine(&id).is_ok_and(|machine| machine.mark.as_ref() == Some(&mark)) {
        site.power_off(&id)?;
        site.delete_machine(&id)?;
    }
    item.value.away.id = None;
    work.change(&item);
    Ok(Outcome::done())
}

/// From here on components have it in their desired state.
fn enable(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    let path = new_path(
        work,
        &item.value,
        work.note("process-server").unwrap_or_default(),
        work.note("master-target").unwrap_or_default(),
    )?;
    item.value.replication = Some(path);
    work.change(&item);
    Ok(Outcome::Done("initial replication follows".into()))
}

fn forget(work: &mut Work<'_>) -> Result<Outcome, ControlError> {
    let mut item = work.item()?;
    if let Some(path) = item.value.replication.take() {
        super::loan::take_back(work, item.value.passive(), &path.master_target)?;
    }
    work.change(&item);
    Ok(Outcome::done())
}

/// A new replication towards the passive side, under the protection's epoch.
pub(crate) fn new_path(
    work: &Work<'_>,
    item: &ProtectedItem,
    process_server: &str,
    master_target: &str,
) -> Result<ReplicationPath, ControlError> {
    let passive = item.passive();
    let machine = work.site(&passive.site)?.machine(passive.id.as_deref().unwrap_or_default())?;
    let side = item.protection.passive();
    protected_disks(item, side, &machine)
        .ok_or_else(|| disks_differ(item, side, "bring them back to what they were"))?;
    Ok(ReplicationPath {
        replica: format!(
            "{}-{}-e{}",
            item.name.key().chars().take(40).collect::<String>(),
            &item.machine.to_string()[..8],
            item.protection.epoch
        )
        .parse()?,
        process_server: process_server.into(),
        master_target: master_target.into(),
        epoch: item.protection.epoch,
        targets: super::loan::lend(work, item, side, master_target)?,
    })
}
