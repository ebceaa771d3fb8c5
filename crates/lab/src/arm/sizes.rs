//! Some of the sizes of virtual machines that a region has: name, cores, MiB of memory, data disks.

use serde_json::{Value, json};

/// `Standard_…`.
pub(super) const SIZES: [(&str, u32, u32, u32); 12] = [
    ("Standard_A1_v2", 1, 2048, 2),
    ("Standard_B1s", 1, 1024, 2),
    ("Standard_B2s", 2, 4096, 4),
    ("Standard_D2s_v5", 2, 8192, 4),
    ("Standard_D4s_v5", 4, 16_384, 8),
    ("Standard_D8s_v5", 8, 32_768, 16),
    ("Standard_D16s_v5", 16, 65_536, 32),
    ("Standard_D32s_v5", 32, 131_072, 32),
    ("Standard_E2s_v5", 2, 16_384, 4),
    ("Standard_E4s_v5", 4, 32_768, 8),
    ("Standard_F2s_v2", 2, 4096, 4),
    ("Standard_F4s_v2", 4, 8192, 8),
];

/// A size by its name, whatever its case.
pub(super) fn named(name: &str) -> Option<(&'static str, u32, u32, u32)> {
    SIZES.into_iter().find(|size| size.0.eq_ignore_ascii_case(name))
}

/// As `vmSizes` shows it.
pub(super) fn shown((name, cores, memory, disks): (&str, u32, u32, u32)) -> Value {
    json!({
        "name": name, "numberOfCores": cores, "memoryInMB": memory, "maxDataDiskCount": disks,
        "osDiskSizeInMB": 1_047_552, "resourceDiskSizeInMB": 0,
    })
}
