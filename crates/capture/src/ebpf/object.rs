//! The compiled program and its way into the kernel.
//!
//! Shares these numbers with `src/bpf/track.bpf.c`: the names and shapes of its maps, the order of the
//! fields of `struct counts`, and [`DISKS_MAX`].

use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder};

use super::AttachError;

/// Disks that one tracker can have (`DISKS_MAX` in the program).
pub const DISKS_MAX: usize = 64;
/// What one bit stands for (`BLOCK_SHIFT` in the program).
pub const BLOCK_BYTES: u64 = 4096;

/// An aligned copy: libbpf reads the ELF structures in place.
#[repr(C, align(8))]
struct Aligned<B: ?Sized>(B);
static PROGRAM: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/track.bpf.o")));

/// The program, in the kernel, not running yet.
#[derive(Debug)]
pub(super) struct Loaded {
    object: Object,
}

/// The programs by the tracepoint each is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Issue,
    Complete,
}

impl Hook {
    pub(super) const ALL: [Self; 2] = [Self::Issue, Self::Complete];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Issue => "issue",
            Self::Complete => "complete",
        }
    }
}

/// Loads the programs; nothing is attached.
///
/// # Errors
/// With what libbpf and the kernel's verifier said, when the kernel does not take it.
pub(super) fn load() -> Result<Loaded, AttachError> {
    let said = said::during(|| {
        let mut builder = ObjectBuilder::default();
        builder.open_memory(&PROGRAM.0)?.load()
    });
    said.map(|object| Loaded { object })
        .map_err(|(source, detail)| AttachError::Load { detail, source: Box::new(source) })
}

impl Loaded {
    /// A map of the program.
    pub(super) fn map(&self, name: &'static str) -> Result<MapHandle, AttachError> {
        let map = self.object.maps().find(|map| map.name() == name);
        let map = map.ok_or_else(|| AttachError::bug(format!("the program has no map {name}")))?;
        MapHandle::try_from(&map).map_err(|source| AttachError::kernel("open a map", source))
    }

    /// From here on the program sees requests, as long as the link lives or is pinned.
    pub(super) fn attach(&self, hook: Hook) -> Result<Link, AttachError> {
        let program = self.object.progs_mut().find(|program| program.name() == hook.name());
        let program =
            program.ok_or_else(|| AttachError::bug(format!("there is no program {}", hook.name())))?;
        program.attach_trace().map_err(|source| AttachError::kernel("attach the change tracker", source))
    }
}

/// A new bitmap of `words` words, all zero.
pub(super) fn create_bitmap(words: u32) -> Result<MapHandle, AttachError> {
    let flags = libbpf_sys::BPF_F_MMAPABLE | libbpf_sys::BPF_F_INNER_MAP;
    create_array("bitmap", 8, words, flags)
}

/// A new array map.
pub(super) fn create_array(
    name: &str,
    value_bytes: u32,
    entries: u32,
    flags: u32,
) -> Result<MapHandle, AttachError> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as u64,
        map_flags: flags,
        ..Default::default()
    };
    MapHandle::create(libbpf_rs::MapType::Array, Some(name), 4, value_bytes, entries, &options)
        .map_err(|source| AttachError::kernel("create a map", source))
}

/// Sets an entry of a map.
pub(super) fn set(map: &MapHandle, key: &[u8], value: &[u8]) -> Result<(), AttachError> {
    map.update(key, value, MapFlags::ANY).map_err(|source| AttachError::kernel("set a map's entry", source))
}

/// Opens a pinned link; it is no message if there is none.
pub(super) fn open_link(path: &std::path::Path) -> libbpf_rs::Result<Link> {
    said::during(|| Link::open(path)).map_err(|(error, _)| error)
}

/// What libbpf prints, kept for the error instead.
mod said {
    use std::sync::Mutex;

    use libbpf_rs::{PrintLevel, set_print};

    const KEPT_BYTES_MAX: usize = 4096;
    static SAID: Mutex<String> = Mutex::new(String::new());
    /// The callback is the process's: one load at a time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

    /// Runs `work`; an error comes with the end of what was printed.
    pub(super) fn during<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<T, (E, String)> {
        let one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        said().clear();
        let before = set_print(Some((PrintLevel::Warn, keep)));
        let result = work();
        set_print(before);
        drop(one);
        result.map_err(|error| (error, said().trim().to_owned()))
    }

    fn said() -> std::sync::MutexGuard<'static, String> {
        SAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn keep(_level: PrintLevel, message: String) {
        let mut kept = said();
        kept.push_str(&message);
        // The reason stands at the end of a verifier's log.
        while kept.len() > KEPT_BYTES_MAX {
            let cut = kept.char_indices().nth(kept.len() - KEPT_BYTES_MAX).map_or(kept.len(), |(at, _)| at);
            kept.drain(..cut.max(1));
        }
    }
}
