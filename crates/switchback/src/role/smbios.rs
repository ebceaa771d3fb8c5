//! Which machine this is: the system UUID that its firmware tells (SMBIOS, DMTF DSP0134, 7.2.1).

use std::fs;
use std::path::Path;

const DMI: &str = "/sys/class/dmi/id";

/// The SMBIOS system UUID, lower case with dashes; empty when there is none.
pub(super) fn system_uuid() -> String {
    system_uuid_in(Path::new(DMI))
}

/// The same from another directory.
pub(crate) fn system_uuid_in(dmi: &Path) -> String {
    let text = |name| fs::read_to_string(dmi.join(name)).unwrap_or_default();
    of_vmware(text("product_serial").trim())
        .unwrap_or_else(|| text("product_uuid").trim().to_ascii_lowercase())
}

/// Of a VMware machine, from its serial number (`VMware-56 4d 1f …-…`), whose bytes stand in the order in which vSphere shows its UUID. In
/// `product_uuid` the first eight are swapped or not, depending on the virtual hardware's version.
fn of_vmware(serial: &str) -> Option<String> {
    let hex: String = serial.strip_prefix("VMware-")?.chars().filter(char::is_ascii_hexdigit).collect();
    let hex = (hex.len() == 32).then(|| hex.to_ascii_lowercase())?;
    Some([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

#[cfg(test)]
mod tests {
    use super::of_vmware;

    #[test]
    fn vmwares_serial_number_is_the_uuid_as_vsphere_shows_it() {
        let serial = "VMware-42 3d 1f ad 86 a8 4b 9e-0c 5f 1e 2d 3c 4b 5a 69";
        assert_eq!(of_vmware(serial).as_deref(), Some("423d1fad-86a8-4b9e-0c5f-1e2d3c4b5a69"));
        assert_eq!(of_vmware("VMware-42 3d"), None);
        assert_eq!(of_vmware("0815"), None);
    }
}
