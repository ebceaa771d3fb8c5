//! Disks in a virtual machine at Azure, which are known by their places: a guest sees no serial numbers there that could be relied on.
//!
//! What it never does: take the temporary disk for one of the machine's. Azure gives it away empty at each deployment, and what is on it belongs nowhere.
//!
//! The path of one disk: the VMBus device that it hangs on, found above it in sysfs, tells what it is, and its LUN which of several. The ids are those of Microsoft's
//! udev rules (`Azure/WALinuxAgent`, `config/66-azure-storage.rules`; `Azure/azure-vm-utils`, `udev/80-azure-disk.rules`):
//!
//! | VMBus device id | machines of | the disk |
//! |---|---|---|
//! | `00000000-0000-…` | generation 1 | system disk |
//! | `00000000-0001-…` | generation 1 | temporary disk |
//! | `f8b3781a-1e82-4818-a1c3-63d806ec15bb` | generation 2 | LUN 0: system disk; LUN 1: temporary disk |
//! | `f8b3781b-…`, `f8b3781c-…`, `f8b3781d-…`, the rest the same | both | data disks, by LUN |

use std::fs;
use std::path::Path;

use switchback_model::component::DiskFacts;

/// What tells a virtual machine at Azure from all others (`cloud-init`, `sources/azure/identity.py`): "MSFT AZURE VM", spelled in an odd way.
const ASSET_TAG: &str = "7783-7084-3265-9085-8269-3286-77";
/// What the ids of SCSI controllers end with; before it is which one.
const CONTROLLER: &str = "-1e82-4818-a1c3-63d806ec15bb";
const DATA_CONTROLLERS: [&str; 3] = ["f8b3781b", "f8b3781c", "f8b3781d"];
/// An NVMe disk that lies in the storage, as sizes of newer families have all of theirs.
const REMOTE_NVME: &str = "MSFT NVMe Accelerator";
/// Disks are attached in a way that the agent does not know.
pub(super) const UNSUPPORTED: &str = "agent.azure-nvme";

/// Where a disk is in its machine; in the order in which disks are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    System,
    Data { controller: usize, lun: u32 },
}

/// Whether this is a virtual machine at Azure.
pub(super) fn is_azure(sys: &Path) -> bool {
    let tag = fs::read_to_string(sys.join("class/dmi/id/chassis_asset_tag"));
    tag.is_ok_and(|tag| tag.trim() == ASSET_TAG)
}

/// Of all disks those that belong to the machine, in their places' order: the system disk, then data disks by LUN. They have no serial numbers.
pub(super) fn in_order(sys: &Path, disks: Vec<DiskFacts>) -> Vec<DiskFacts> {
    let placed = disks.into_iter().filter_map(|disk| Some((place(sys, &disk.name)?, disk)));
    let mut placed: Vec<_> = placed.collect();
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, disk)| DiskFacts { serial: String::new(), ..disk }).collect()
}

/// What is to be said when the machine's disks are attached by NVMe.
pub(super) fn unsupported(sys: &Path) -> Option<String> {
    if !is_azure(sys) {
        return None;
    }
    let entries = fs::read_dir(sys.join("block")).into_iter().flatten().flatten();
    let is_remote = |name: &String| {
        let model = fs::read_to_string(sys.join("block").join(name).join("device/model"));
        model.is_ok_and(|model| model.trim().starts_with(REMOTE_NVME))
    };
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut nvme: Vec<_> = names.filter(|name| name.starts_with("nvme")).filter(is_remote).collect();
    nvme.sort_unstable();
    (!nvme.is_empty()).then(|| {
        format!(
            "the disks {} are attached by NVMe, as this size of virtual machine does it at Azure; that is not supported, and they are not replicated; choose a size whose \
             disks are attached by SCSI (of version 5 or older; `sizes` in the site's settings), or set its disk controller type to SCSI",
            nvme.join(", ")
        )
    })
}

/// `None`: the temporary disk, or one that is none of Azure's.
fn place(sys: &Path, name: &str) -> Option<Place> {
    let device = fs::canonicalize(sys.join("block").join(name).join("device")).ok()?;
    // HOST:CHANNEL:TARGET:LUN
    let lun = device.file_name()?.to_str()?.rsplit(':').next()?.parse::<u32>().ok()?;
    let id = device.ancestors().find_map(|above| fs::read_to_string(above.join("device_id")).ok())?;
    let id = id.trim().trim_start_matches('{').trim_end_matches('}').to_ascii_lowercase();
    if id.starts_with("00000000-0000-") {
        return Some(Place::System);
    }
    match (id.strip_suffix(CONTROLLER)?, lun) {
        ("f8b3781a", 0) => Some(Place::System),
        (controller, lun) => {
            let controller = DATA_CONTROLLERS.iter().position(|data| *data == controller)?;
            Some(Place::Data { controller, lun })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use switchback_model::component::{DiskStanding, ProtectedDisk};

    use super::super::disks::choose;
    use super::super::facts;
    use super::{ASSET_TAG, unsupported};

    const SYSTEM: &str = "f8b3781a-1e82-4818-a1c3-63d806ec15bb";
    const DATA: &str = "f8b3781b-1e82-4818-a1c3-63d806ec15bb";
    const IDE: &str = "00000000-0000-8899-0000-000000000000";
    const IDE_TEMPORARY: &str = "00000000-0001-8899-0000-000000000000";

    struct Sys(tempfile::TempDir);

    impl Sys {
        /// Disks by name, VMBus device, and LUN, as the kernel lays them out; the n-th has n MiB.
        fn of(tag: &str, disks: &[(&str, &str, u32)]) -> Self {
            let sys = Self(tempfile::tempdir().unwrap());
            let dmi = sys.0.path().join("class/dmi/id");
            fs::create_dir_all(&dmi).unwrap();
            fs::create_dir_all(sys.0.path().join("block")).unwrap();
            fs::write(dmi.join("chassis_asset_tag"), format!("{tag}\n")).unwrap();
            for ((name, id, lun), mib) in disks.iter().zip(1..) {
                let bus = sys.0.path().join("devices/LNXSYSTM:00/VMBUS:00").join(id);
                let device = bus.join(format!("host0/target0:0:0/0:0:0:{lun}"));
                sys.disk(name, mib, &device);
                fs::write(bus.join("device_id"), format!("{{{id}}}\n")).unwrap();
                fs::write(device.join("wwid"), "naa.60022480000000000000000000000001\n").unwrap();
            }
            sys
        }

        fn disk(&self, name: &str, mib: u64, device: &std::path::Path) {
            let block = device.join("block").join(name);
            fs::create_dir_all(&block).unwrap();
            fs::write(block.join("size"), format!("{}\n", mib << 11)).unwrap();
            fs::write(block.join("ro"), "0\n").unwrap();
            symlink(device, block.join("device")).unwrap();
            symlink(&block, self.0.path().join("block").join(name)).unwrap();
        }

        fn found(&self) -> Vec<(String, u64)> {
            let found = facts::disks(self.0.path());
            assert!(found.iter().all(|disk| disk.serial.is_empty()), "{found:?}");
            found.into_iter().map(|disk| (disk.name, disk.size >> 20)).collect()
        }
    }

    fn named(names: &[(&str, u64)]) -> Vec<(String, u64)> {
        names.iter().map(|(name, mib)| ((*name).to_owned(), *mib)).collect()
    }

    #[test]
    fn generation_2_has_its_system_disk_first_whatever_the_kernel_calls_it() {
        let disks = [("sda", DATA, 0), ("sdb", SYSTEM, 1), ("sdc", SYSTEM, 0), ("sdd", DATA, 1)];
        assert_eq!(Sys::of(ASSET_TAG, &disks).found(), named(&[("sdc", 3), ("sda", 1), ("sdd", 4)]));
        // Without a temporary disk.
        let disks = [("sda", SYSTEM, 0), ("sdb", DATA, 0)];
        assert_eq!(Sys::of(ASSET_TAG, &disks).found(), named(&[("sda", 1), ("sdb", 2)]));
    }

    #[test]
    fn generation_1_has_its_disks_at_ide_controllers() {
        let disks = [("sda", IDE_TEMPORARY, 0), ("sdb", IDE, 0), ("sdc", DATA, 10), ("sdd", DATA, 2)];
        assert_eq!(Sys::of(ASSET_TAG, &disks).found(), named(&[("sdb", 2), ("sdd", 4), ("sdc", 3)]));
        let disks = [("sda", IDE, 0)];
        assert_eq!(Sys::of(ASSET_TAG, &disks).found(), named(&[("sda", 1)]));
    }

    #[test]
    fn data_disks_are_counted_by_lun_over_gaps_and_controllers() {
        let second = "F8B3781C-1E82-4818-A1C3-63D806EC15BB";
        let disks =
            [("sda", SYSTEM, 0), ("sdb", DATA, 63), ("sdc", DATA, 5), ("sdd", second, 0), ("sde", DATA, 7)];
        let expected = named(&[("sda", 1), ("sdc", 3), ("sde", 5), ("sdb", 2), ("sdd", 4)]);
        assert_eq!(Sys::of(ASSET_TAG, &disks).found(), expected);
    }

    #[test]
    fn protected_disks_are_matched_by_place_whatever_serial_they_had_at_home() {
        let disks = [("sda", DATA, 4), ("sdb", SYSTEM, 0), ("sdc", SYSTEM, 1)];
        let sys = Sys::of(ASSET_TAG, &disks);
        let wanted = [("one", 2 << 20), ("two", 1 << 20)];
        let wanted = wanted.map(|(serial, size)| ProtectedDisk {
            serial: serial.into(),
            size,
            standing: DiskStanding::Protected,
        });
        let chosen = choose(&wanted, &facts::disks(sys.0.path())).unwrap();
        let names: Vec<_> = chosen.iter().flatten().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["sdb", "sda"]);
    }

    #[test]
    fn elsewhere_nothing_is_left_out_and_serial_numbers_count() {
        let sys = Sys::of("No Asset Tag", &[("sda", SYSTEM, 1), ("sdb", SYSTEM, 0)]);
        let found = facts::disks(sys.0.path());
        assert_eq!(found.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["sda", "sdb"]);
        assert!(!found[0].serial.is_empty());
    }

    #[test]
    fn disks_attached_by_nvme_are_said_not_to_be_supported_and_local_ones_are_left_out() {
        let sys = Sys::of(ASSET_TAG, &[("sda", SYSTEM, 0)]);
        let nvme = |name: &str, model: &str| {
            let device = sys.0.path().join("devices/pci0/nvme").join(name);
            sys.disk(name, 9, &device);
            fs::write(device.join("model"), format!("{model}\n")).unwrap();
        };
        nvme("nvme1n1", "Microsoft NVMe Direct Disk v2");
        assert_eq!(sys.found(), named(&[("sda", 1)]));
        assert_eq!(unsupported(sys.0.path()), None);
        nvme("nvme0n1", "MSFT NVMe Accelerator v1.0");
        let said = unsupported(sys.0.path()).unwrap();
        assert!(said.contains("nvme0n1") && !said.contains("nvme1n1") && said.contains("SCSI"), "{said}");
        assert_eq!(sys.found(), named(&[("sda", 1)]));
    }
}
