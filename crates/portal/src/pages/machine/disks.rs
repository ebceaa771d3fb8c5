//! A machine's disks: how each of them stands; and the forms by which they come to its protection and leave it.

use serde_json::json;
use switchback_control::{Control, ItemView};
use switchback_model::component::DiskStanding;
use switchback_model::{AccessRole, ByteSize, Operation, Side};

use super::operations::{Offered, machine_page, provider};
use super::path::form;
use crate::action::Act;
use crate::failure::Failure;
use crate::pages::ask::Field;
use crate::pages::widgets::{Badge, Tone, badge};
use crate::visit::Visit;

pub(super) const ADD: &str = "add-disk";
pub(super) const REMOVE: &str = "remove-disk";

/// A protected disk, on the machine's page.
pub(super) struct Disk {
    pub(super) number: usize,
    pub(super) size: ByteSize,
    pub(super) serials: [String; 2],
    pub(super) target: String,
    /// While disks are compared, or this one is being added.
    pub(super) percent: Option<u64>,
    /// No recovery point holds it yet.
    pub(super) is_new: bool,
    pub(super) standing: Badge,
}

/// Those that are there.
pub(super) fn rows(view: &ItemView) -> Vec<Disk> {
    let item = &view.item;
    let serial =
        |side: Side, index: usize| item.instance(side).disk_serials.get(index).cloned().unwrap_or_default();
    let target = |index: usize| Some(item.replication.as_ref()?.targets.get(index)?.display().to_string());
    let there: Vec<_> = item.disks().filter(|(_, standing)| *standing != DiskStanding::Removed).collect();
    let sizes: Vec<_> = there.iter().map(|(disk, _)| item.disk_sizes[usize::from(disk.0)]).collect();
    there
        .into_iter()
        .zip(percents(view.compared_bytes, &sizes))
        .map(|((disk, standing), percent)| {
            let index = usize::from(disk.0);
            Disk {
                number: index + 1,
                size: ByteSize(item.disk_sizes[index]),
                serials: [serial(Side::Home, index), serial(Side::Away, index)],
                target: target(index).unwrap_or_else(|| "–".into()),
                percent: view.disk_percents.get(&disk.0).map(|percent| (*percent).into()).or(percent),
                is_new: standing == DiskStanding::Adding,
                standing: standing_of(view, standing),
            }
        })
        .collect()
}

/// How far each of these disks is compared: one after the other.
fn percents(compared: Option<u64>, sizes: &[u64]) -> Vec<Option<u64>> {
    let mut left = compared;
    let percent = |size: &u64| {
        let left = left.as_mut()?;
        let done = (*size).min(*left);
        *left -= done;
        u64::try_from(u128::from(done) * 100 / u128::from((*size).max(1))).ok()
    };
    sizes.iter().map(percent).collect()
}

fn standing_of(view: &ItemView, standing: DiskStanding) -> Badge {
    match standing {
        DiskStanding::Preparing => badge(Tone::Busy, "is being added"),
        DiskStanding::Adding => badge(Tone::Busy, "initial replication: no recovery point holds it yet"),
        DiskStanding::Protected if view.item.protection.replicates() => {
            badge(Tone::Good, "follows its changes")
        }
        DiskStanding::Protected | DiskStanding::Removed => badge(Tone::Plain, "is not replicated"),
    }
}

/// What of it the machine's state and the caller's role allow.
pub(super) fn offered(visit: &Visit, view: &ItemView) -> Vec<Offered> {
    let all = [
        (Operation::AddDisks, ADD, "Add a disk", false),
        // One of them has to stay, and that it boots from.
        (Operation::RemoveDisks, REMOVE, "Remove a disk", true),
    ];
    let offered = all.into_iter().filter(|(operation, ..)| view.allowed.contains(operation));
    let offered = offered.filter(|(_, slug, ..)| *slug == ADD || view.item.present_disks().count() > 1);
    let offered = offered.filter(|_| visit.is_contributor());
    offered.map(|(_, slug, name, is_grave)| Offered { slug, name: name.into(), is_grave }).collect()
}

/// `GET /portal/machines/{machine}/add-disk`.
pub(super) fn ask_add(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "adding a disk")?;
    let view = control.item(&visit.name("machine")?)?;
    let instance = view.item.active();
    let known = view.item.present_serials(view.item.protection.active);
    let machines = control.machines(&instance.site)?;
    let machine = machines.iter().find(|found| instance.id.as_ref() == Some(&found.machine.id));
    let disks = machine.into_iter().flat_map(|found| &found.machine.disks);
    let others = disks.filter(|disk| !disk.serial.is_empty() && !known.contains(&disk.serial));
    let others: Vec<_> = others
        .map(|disk| (disk.serial.clone(), format!("{}, {}", disk.serial, ByteSize(disk.size))))
        .collect();
    let form = form(visit, &view, "Add a disk", "Add it");
    if others.is_empty() {
        let site = &instance.site;
        return form
            .note(format!("{site} knows no further disk of it that has a serial number."))
            .note("A disk without one is known by its place alone: give it one at its site.")
            .show();
    }
    form.told("Direction", format!("to {}", view.item.passive().site))
        .told("Recovery point", "those there are stay, and lack it; new ones hold it when its initial replication is complete")
        .told("Shut down", "nothing")
        .told("Lost", "nothing")
        .note("The other disks go on without a comparison. A failover meanwhile gives the machine without the new disk.")
        .field(Field::choice("disk", "Disk", others))
        .field(Field::line("datastore", "Datastore of its replica").optional().hint("Empty: the one with most room."))
        .show()
}

/// `POST /portal/machines/{machine}/add-disk`.
pub(super) fn add(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    ask_api(control, visit, "addDisks")
}

/// `GET /portal/machines/{machine}/remove-disk`.
pub(super) fn ask_remove(control: &Control, visit: &Visit) -> Result<String, Failure> {
    visit.needs(AccessRole::Contributor, "removing a disk")?;
    let view = control.item(&visit.name("machine")?)?;
    // It boots from the first one.
    let disks = rows(&view).into_iter().skip(1);
    let disks: Vec<_> = disks
        .map(|disk| (disk.serials[0].clone(), format!("{}: {}, {}", disk.number, disk.serials[0], disk.size)))
        .collect();
    form(visit, &view, "Remove a disk", "Remove it")
        .grave()
        .told("Direction", format!("to {}", view.item.passive().site))
        .told("Recovery point", "no one holds it any more, the older ones neither")
        .told("Shut down", "nothing")
        .told("Lost", "its replica, and with it all that recovery points had of it")
        .note("The disk itself, and the machine's others, go on as they are.")
        .field(Field::choice("disk", "Disk", disks))
        .show()
}

/// `POST /portal/machines/{machine}/remove-disk`.
pub(super) fn remove(control: &Control, visit: &Visit) -> Result<Act, Failure> {
    ask_api(control, visit, "removeDisks")
}

fn ask_api(control: &Control, visit: &Visit, action: &str) -> Result<Act, Failure> {
    let view = control.item(&visit.name("machine")?)?;
    let item = &view.item;
    let disks = json!([{ "diskId": visit.field("disk") }]);
    let mut details = json!({ "instanceType": provider(item.protection.passive()), "disks": disks });
    if !visit.field("datastore").is_empty() {
        details["datastoreName"] = visit.field("datastore").into();
    }
    let id = visit.vault.protected_item(&item.home.site, &item.name);
    let properties = json!({ "providerSpecificDetails": details });
    Ok(Act::post(format!("{id}/{action}"), properties, machine_page(&view)))
}

#[cfg(test)]
mod tests {
    use super::percents;

    #[test]
    fn disks_are_compared_one_after_the_other() {
        assert_eq!(percents(None, &[1, 2]), [None, None]);
        assert_eq!(percents(Some(150), &[100, 200, 0]), [Some(100), Some(25), Some(0)]);
        assert_eq!(percents(Some(u64::MAX), &[u64::MAX, 7]), [Some(100), Some(0)]);
    }
}
