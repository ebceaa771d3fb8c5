//! The standard image and the standard change, the same ones in every run: what is measured must not depend on luck.
//!
//! Image: ext4, about half of it allocated, with copies of `/usr`, a twentieth random data, the rest holes.
//! Change, at 8 GiB: 2,800 random blocks of 64 KiB, and in one region of 100 MiB one block in ten. It scales with the image. Only
//! blocks that hold something are changed: so the way back costs the same as the way there, and runs can go to and fro.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::process::{Janitor, run};

/// Bytes of a block of the standard change.
pub(super) const BLOCK: u64 = 64 << 10;
/// What the numbers of the standard change are for.
const STANDARD_SIZE: u64 = 8 << 30;
const STANDARD_BLOCKS: u64 = 2800;
const STANDARD_REGION: u64 = 100 << 20;
/// Places tried for the region; about one in three will do.
const TRIES_MAX: u32 = 10_000;
/// O_DIRECT, from the kernel's fcntl.h of each architecture.
#[cfg(target_arch = "aarch64")]
const O_DIRECT: i32 = 0o200_000;
#[cfg(not(target_arch = "aarch64"))]
const O_DIRECT: i32 = 0o40_000;
/// What direct I/O wants memory aligned to.
const ALIGNMENT: usize = 4096;

/// SplitMix64 (Steele, Lea, Flood 2014): seeded, and enough for this.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
    }
}

/// Makes the standard image, unless it is there from an earlier run.
pub(super) fn standard(janitor: &Janitor, work: &Path, size: u64) -> anyhow::Result<PathBuf> {
    let image = work.join(format!("standard-{size}.img"));
    if image.exists() {
        return Ok(image);
    }
    let unfinished = image.with_extension("unfinished");
    File::create(&unfinished)?.set_len(size)?;
    let device = run("losetup", &["--find", "--show", &text(&unfinished)])?;
    janitor.undo("loop", &device)?;
    run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &device])?;
    let mount = work.join("standard");
    fs::create_dir_all(&mount)?;
    run("mount", &[&device, &text(&mount)])?;
    janitor.undo("mount", mount.display())?;
    fill(&mount, size)?;
    run("umount", &[&text(&mount)])?;
    run("losetup", &["-d", &device])?;
    #[expect(clippy::disallowed_methods, reason = "an image that can be made again needs no durable name")]
    fs::rename(&unfinished, &image)?;
    Ok(image)
}

fn fill(mount: &Path, size: u64) -> anyhow::Result<()> {
    let mut random = Random(1);
    let mut file = File::create(mount.join("random"))?;
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..size / 20 / buffer.len() as u64 {
        random.fill(&mut buffer);
        file.write_all(&buffer)?;
    }
    let mut left = size / 2 - size / 20;
    for copy in 0.. {
        let before = left;
        copy_tree(Path::new("/usr"), &mount.join(format!("usr-{copy}")), &mut left)?;
        // Nearly done, or nothing there to copy.
        if left < size / 100 || left == before {
            return Ok(());
        }
    }
    Ok(())
}

/// Copies regular files, sorted by name, as long as there is room for them.
fn copy_tree(source: &Path, target: &Path, left: &mut u64) -> anyhow::Result<()> {
    fs::create_dir(target)?;
    let mut entries = fs::read_dir(source)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (kind, target) = (entry.file_type()?, target.join(entry.file_name()));
        if kind.is_dir() {
            copy_tree(&entry.path(), &target, left)?;
        } else if kind.is_file() {
            // With its inode and the rest of its last block.
            let len = entry.metadata()?.len().next_multiple_of(4096) + 256;
            if len <= *left {
                fs::copy(entry.path(), target)?;
                *left -= len;
            }
        }
    }
    Ok(())
}

/// A copy of the standard image with the standard change, and the blocks changed.
pub(super) fn changed(work: &Path, standard: &Path, size: u64) -> anyhow::Result<(PathBuf, Vec<u64>)> {
    let image = work.join("changed.img");
    copy(standard, &image)?;
    let file = OpenOptions::new().read(true).write(true).open(&image)?;
    let mut random = Random(2);
    let mut blocks = BTreeSet::new();
    let scaled =
        |standard: u64| u64::try_from(u128::from(standard) * u128::from(size) / u128::from(STANDARD_SIZE));
    let count = scaled(STANDARD_BLOCKS)?;
    while (blocks.len() as u64) < count {
        let block = random.next() % (size / BLOCK);
        if holds_something(&file, block)? {
            blocks.insert(block);
        }
    }
    blocks.extend(region(&file, scaled(STANDARD_REGION)? / BLOCK, size, &mut random)?);
    let mut buffer = vec![0; usize::try_from(BLOCK)?];
    for block in &blocks {
        random.fill(&mut buffer);
        file.write_all_at(&buffer, block * BLOCK)?;
    }
    file.sync_all()?;
    Ok((image, blocks.into_iter().collect()))
}

/// One block in ten of a region that is in use.
fn region(file: &File, len: u64, size: u64, random: &mut Random) -> anyhow::Result<Vec<u64>> {
    for _ in 0..TRIES_MAX {
        let first = random.next() % (size / BLOCK - len);
        let blocks: Vec<u64> = (first..first + len).step_by(10).collect();
        let mut all = true;
        for block in &blocks {
            all = all && holds_something(file, *block)?;
        }
        if all {
            return Ok(blocks);
        }
    }
    bail!("the standard image has no region of {len} blocks in use: remove it, it is made again")
}

fn holds_something(file: &File, block: u64) -> anyhow::Result<bool> {
    let mut buffer = vec![0; usize::try_from(BLOCK)?];
    file.read_exact_at(&mut buffer, block * BLOCK)?;
    Ok(buffer.iter().any(|byte| *byte != 0))
}

/// A sparse copy that shares nothing with the original.
pub(super) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    run("cp", &["--sparse=always", "--reflink=never", &text(from), &text(to)])?;
    run("sync", &[&text(to)])?;
    Ok(())
}

/// Fails unless two files are equal, byte for byte.
pub(super) fn assert_equal(one: &Path, other: &Path) -> anyhow::Result<()> {
    run("cmp", &[&text(one), &text(other)]).map(drop).context("the result of the work measured is wrong")
}

/// The plain overwrite: these blocks of `image`, written into `target` by four threads with direct I/O and flushed. The
/// contents are read before; gives the seconds of the writing alone.
pub(super) fn overwrite(target: &Path, image: &Path, blocks: &[u64]) -> anyhow::Result<f64> {
    const THREADS: usize = 4;
    let source = File::open(image)?;
    let block_len = usize::try_from(BLOCK)?;
    let mut contents = vec![0; blocks.len() * block_len + ALIGNMENT];
    let start = contents.as_ptr().align_offset(ALIGNMENT);
    let contents = &mut contents[start..start + blocks.len() * block_len];
    for (block, buffer) in blocks.iter().zip(contents.chunks_mut(block_len)) {
        source.read_exact_at(buffer, block * BLOCK)?;
    }
    super::process::drop_caches()?;
    let file = OpenOptions::new().write(true).custom_flags(O_DIRECT).open(target)?;
    let began = std::time::Instant::now();
    let work: Vec<_> = blocks.iter().zip(contents.chunks(block_len)).collect();
    std::thread::scope(|scope| {
        let write = |some: Vec<&(&u64, &[u8])>| {
            some.iter().try_for_each(|(block, data)| file.write_all_at(data, **block * BLOCK))
        };
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let some = work.iter().skip(thread).step_by(THREADS).collect();
                    move || write(some)
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(std::io::Error::other("a writer panicked")))
        })
    })?;
    file.sync_all()?;
    Ok(began.elapsed().as_secs_f64())
}

/// A path as an argument of a program.
pub(super) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
