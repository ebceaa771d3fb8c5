//! The size of a virtual machine: the smallest of those that may be chosen which has what the machine has.

use super::AzureSite;
use super::arm::version;
use super::description::Description;
use super::error::AzureError;
use super::resources::{Size, Usage};

impl AzureSite {
    /// The sizes that the region has.
    pub(super) fn sizes(&self) -> Result<Vec<Size>, AzureError> {
        let of = format!("Microsoft.Compute/locations/{}/vmSizes", self.settings.region);
        self.arm.list(&self.arm.subscription_id(&of), version::COMPUTE, "")
    }

    /// The region's quotas.
    pub(super) fn usages(&self) -> Result<Vec<Usage>, AzureError> {
        let of = format!("Microsoft.Compute/locations/{}/usages", self.settings.region);
        self.arm.list(&self.arm.subscription_id(&of), version::COMPUTE, "")
    }

    /// The size that a machine gets.
    pub(super) fn size_for(&self, machine: &Description, sizes: &[Size]) -> Result<Size, AzureError> {
        match &machine.plan.size {
            Some(name) => named(sizes, name, machine),
            None => smallest(&self.settings.machines.sizes, sizes, machine),
        }
    }
}

fn data_disks(machine: &Description) -> usize {
    machine.disks.len().saturating_sub(1)
}

fn has_room(size: &Size, machine: &Description) -> bool {
    usize::try_from(size.max_data_disk_count).is_ok_and(|room| room >= data_disks(machine))
}

fn named(sizes: &[Size], name: &str, machine: &Description) -> Result<Size, AzureError> {
    let impossible = |detail: String| Err(AzureError::Impossible(detail));
    match sizes.iter().find(|size| size.name.eq_ignore_ascii_case(name)) {
        None => impossible(format!(
            "the region has no size {name:?}: choose another one for the machine [azure-size]"
        )),
        Some(size) if !has_room(size, machine) => impossible(format!(
            "{name} takes {} data disks, the machine has {}: choose a larger size [azure-size]",
            size.max_data_disk_count,
            data_disks(machine)
        )),
        Some(size) => Ok(size.clone()),
    }
}

fn smallest(allowed: &[String], sizes: &[Size], machine: &Description) -> Result<Size, AzureError> {
    let fits = |size: &&Size| {
        allowed.iter().any(|name| name.eq_ignore_ascii_case(&size.name))
            && size.number_of_cores >= machine.cpus
            && size.memory_mib >= machine.memory_mib
            && has_room(size, machine)
    };
    let found = sizes.iter().filter(fits).min_by_key(|size| (size.number_of_cores, size.memory_mib));
    found.cloned().ok_or_else(|| {
        AzureError::Impossible(format!(
            "none of the sizes {} that the region has suffices for {} processors, {} MiB and {} data disks: add larger ones to `machines.sizes`, or choose one for the machine [azure-size]",
            allowed.join(", "),
            machine.cpus,
            machine.memory_mib,
            data_disks(machine)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::azure::description::Disk;

    fn size(name: &str, number_of_cores: u32, memory_mib: u32, max_data_disk_count: u32) -> Size {
        Size { name: name.into(), number_of_cores, memory_mib, max_data_disk_count }
    }

    fn machine(cpus: u32, memory_mib: u32, disks: usize) -> Description {
        let disk = Disk { size: 1, serial: String::new(), blob: "d".into(), source: None };
        let mut machine = Description::new("m", "m");
        (machine.cpus, machine.memory_mib, machine.disks) = (cpus, memory_mib, vec![disk; disks]);
        machine
    }

    #[test]
    fn the_smallest_that_suffices_is_chosen() {
        let sizes = [size("E2", 2, 16, 4), size("D4", 4, 16, 8), size("D2", 2, 8, 4), size("X1", 1, 64, 64)];
        let allowed = ["d2", "D4", "E2", "absent"].map(str::to_owned);
        let chosen = |cpus, memory, disks| {
            smallest(&allowed, &sizes, &machine(cpus, memory, disks))
                .map(|size| size.name)
                .map_err(|error| error.to_string())
        };
        assert_eq!(chosen(1, 1, 1).unwrap(), "D2");
        assert_eq!(chosen(2, 9, 5).unwrap(), "E2");
        assert_eq!(chosen(2, 8, 6).unwrap(), "D4", "five data disks do not fit into D2");
        assert_eq!(chosen(3, 16, 1).unwrap(), "D4");
        assert!(chosen(5, 1, 1).unwrap_err().contains("[azure-size]"));
        assert!(chosen(1, 17, 1).is_err(), "X1 may not be chosen");
    }

    #[test]
    fn a_size_that_was_asked_for_is_checked() {
        let sizes = [size("D2", 2, 8, 1)];
        assert_eq!(
            named(&sizes, "d2", &machine(8, 64, 2)).unwrap().name,
            "D2",
            "smaller than the original is a choice"
        );
        assert!(named(&sizes, "D3", &machine(1, 1, 1)).unwrap_err().to_string().contains("no size \"D3\""));
        assert!(
            named(&sizes, "D2", &machine(1, 1, 3)).unwrap_err().to_string().contains("takes 1 data disks")
        );
    }
}
