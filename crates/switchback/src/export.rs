//! A recovery point as files: `disk-<n>.raw` in a read-only FUSE mount, for QEMU, `mount -o loop`, `fsck` or any copy tool.
//!
//! Why FUSE and not NBD: `docs/decisions/0006-export-by-fuse.md`. Nothing is copied: a read of a file is a read of the
//! [`ReadPoint`], also while newer cycles are being applied. When the process ends, the mount goes; whoever
//! still reads gets an error, not a hang.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, Request,
};
use switchback_model::DiskIndex;
use switchback_replica::ReadPoint;

/// A point never changes: what the kernel knows of its files stays right.
const VALID_FOR: Duration = Duration::from_hours(1);
/// Requests served at the same time.
const THREADS: usize = 4;
/// Inode of the first disk; 1 is the directory.
const FIRST_DISK: u64 = 2;

/// A recovery point mounted as files; unmounted when dropped.
#[derive(Debug)]
pub struct Export {
    session: Option<BackgroundSession>,
}

impl Export {
    /// Mounts the point at `mount_point`, a directory.
    ///
    /// # Errors
    /// Those of the mount: no FUSE in the kernel, no permission, not a directory.
    pub fn mount(view: Arc<dyn ReadPoint>, mount_point: &Path) -> io::Result<Self> {
        let mut config = Config::default();
        let name = format!("switchback-point-{}", view.point().seq);
        config.mount_options.extend([
            MountOption::RO,
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoExec,
            MountOption::FSName(name),
            MountOption::DefaultPermissions,
        ]);
        config.n_threads = Some(THREADS);
        let sizes = view.disk_sizes();
        let session = fuser::spawn_mount(PointFiles { view, sizes }, mount_point, &config)?;
        Ok(Self { session: Some(session) })
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            tracing::warn!(%error, "unmounting an exported recovery point failed; `umount -l` removes it");
        }
    }
}

struct PointFiles {
    view: Arc<dyn ReadPoint>,
    sizes: Vec<u64>,
}

impl PointFiles {
    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let number = u64::from(inode);
        let disk = number.checked_sub(FIRST_DISK).and_then(|disk| usize::try_from(disk).ok());
        let (size, kind, perm) = match disk {
            None if number == 1 => (0, FileType::Directory, 0o500),
            None => return None,
            Some(disk) => (*self.sizes.get(disk)?, FileType::RegularFile, 0o400),
        };
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(self.view.point().time.0);
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 1 << 20,
            flags: 0,
        })
    }

    fn names(&self) -> impl Iterator<Item = (u64, String)> + use<> {
        (0..self.sizes.len() as u64).map(|disk| (FIRST_DISK + disk, format!("disk-{disk}.raw")))
    }
}

impl Filesystem for PointFiles {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let inode =
            self.names().find(|(_, known)| name.to_str() == Some(known)).map(|(inode, _)| INodeNo(inode));
        match inode.and_then(|inode| self.attributes(inode)) {
            Some(attributes) => reply.entry(&VALID_FOR, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&VALID_FOR, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let disk = u64::from(inode).checked_sub(FIRST_DISK).and_then(|disk| u16::try_from(disk).ok());
        let Some((disk, disk_size)) = disk.and_then(|disk| Some((disk, *self.sizes.get(usize::from(disk))?)))
        else {
            return reply.error(Errno::ENOENT);
        };
        let len = disk_size.saturating_sub(offset).min(size.into());
        let mut data = vec![0; usize::try_from(len).expect("a request is far smaller than memory")];
        match self.view.read_at(DiskIndex(disk), offset, &mut data) {
            Ok(()) => reply.data(&data),
            Err(error) => {
                tracing::error!(%error, disk, offset, "a recovery point could not be read");
                reply.error(Errno::EIO);
            }
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // Nothing was written.
        reply.ok();
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        if u64::from(inode) != 1 {
            return reply.error(Errno::ENOTDIR);
        }
        let dots = [(1, ".".to_owned()), (1, "..".to_owned())];
        let entries = dots.into_iter().chain(self.names()).zip(1..);
        for ((inode, name), next) in entries.skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            let kind = if inode == 1 { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(inode), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
