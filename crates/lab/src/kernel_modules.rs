//! Which kernel modules a guest needs, and in which order they are inserted.
//!
//! `modules.dep` (written by depmod) names for each module file those it needs; the last one named is the first to insert. A module that is
//! built into the kernel is in `modules.builtin` instead and needs nothing. In names, `-` and `_` are the same.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The modules of one kernel.
#[derive(Debug)]
pub(crate) struct KernelModules {
    directory: PathBuf,
    dependencies: String,
    builtin: String,
}

impl KernelModules {
    /// Reads the lists in `directory`, a `/lib/modules/VERSION`.
    pub(crate) fn read(directory: &Path) -> io::Result<Self> {
        Ok(Self {
            directory: directory.to_owned(),
            dependencies: fs::read_to_string(directory.join("modules.dep"))?,
            builtin: fs::read_to_string(directory.join("modules.builtin"))?,
        })
    }

    /// The files to insert for `names`, in order, each once. `Err` has the name of a module that this kernel does not have.
    pub(crate) fn insertion_order(&self, names: &[String]) -> Result<Vec<PathBuf>, String> {
        let mut order: Vec<&str> = Vec::new();
        for name in names {
            let line = self.dependencies.lines().find_map(|line| {
                let (module, needs) = line.split_once(':')?;
                is_named(module, name).then_some((module, needs))
            });
            match line {
                Some((module, needs)) => {
                    for file in needs.split_whitespace().rev().chain([module]) {
                        if !order.contains(&file) {
                            order.push(file);
                        }
                    }
                }
                None if self.builtin.lines().any(|module| is_named(module, name)) => {}
                None => return Err(name.clone()),
            }
        }
        Ok(order.into_iter().map(|file| self.directory.join(file)).collect())
    }
}

fn is_named(file: &str, name: &str) -> bool {
    let stem = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
    stem.replace('-', "_") == name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> KernelModules {
        KernelModules {
            directory: PathBuf::from("/m"),
            dependencies: "k/virtio_pci.ko: k/virtio_pci_legacy_dev.ko k/virtio.ko k/virtio_ring.ko\n\
                           k/virtio_blk.ko: k/virtio.ko k/virtio_ring.ko\n\
                           k/virtio_ring.ko:\n\
                           k/dm-log-writes.ko: k/dm-mod.ko\n"
                .to_owned(),
            builtin: "k/ext4.ko\n".to_owned(),
        }
    }

    fn order(names: &[&str]) -> Result<Vec<String>, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let files = sample().insertion_order(&names)?;
        Ok(files.iter().map(|file| file.file_stem().unwrap().to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let both = order(&["virtio_pci", "virtio_blk"]).unwrap();
        assert_eq!(both, ["virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"]);
    }

    #[test]
    fn names_are_found_in_both_spellings_and_built_in_ones_need_nothing() {
        assert_eq!(order(&["dm_log_writes"]).unwrap(), ["dm-mod", "dm-log-writes"]);
        assert_eq!(order(&["dm-log-writes"]).unwrap(), ["dm-mod", "dm-log-writes"]);
        assert_eq!(order(&["ext4"]).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        assert_eq!(order(&["virtio_blk", "zfs"]), Err("zfs".to_owned()));
    }
}
