//! For this crate's tests: a volume in memory, and a clock that is set by hand.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use switchback_disk::{Clock, Volume, VolumeEntry, VolumeFile, VolumeLock};
use switchback_model::UnixMillis;

/// A clock that stands where it was put.
#[derive(Debug)]
pub(crate) struct TestClock(pub(crate) AtomicU64);

impl TestClock {
    pub(crate) fn at(millis: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(millis)))
    }

    pub(crate) fn set(&self, millis: u64) {
        self.0.store(millis, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixMillis {
        UnixMillis(self.0.load(Ordering::SeqCst))
    }
}

type Contents = Arc<Mutex<Vec<u8>>>;

/// Files in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryVolume(Mutex<BTreeMap<String, Contents>>);

#[derive(Debug)]
struct MemoryFile(Contents);

impl MemoryVolume {
    pub(crate) fn edit(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.0.lock().unwrap()[name].lock().unwrap());
    }
}

impl Volume for MemoryVolume {
    fn name(&self) -> &str {
        "memory"
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn VolumeFile>> {
        let mut files = self.0.lock().unwrap();
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let contents = Contents::default();
        files.insert(name.into(), contents.clone());
        Ok(Box::new(MemoryFile(contents)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn VolumeFile>> {
        let files = self.0.lock().unwrap();
        let contents = files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile(contents.clone())))
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let contents = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.into(), contents);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.lock().unwrap().remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<VolumeEntry>> {
        let files = self.0.lock().unwrap();
        let entry = |(name, contents): (&String, &Contents)| VolumeEntry {
            name: name.clone(),
            len: contents.lock().unwrap().len() as u64,
        };
        Ok(files.iter().map(entry).collect())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }

    fn lock(&self) -> io::Result<VolumeLock> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl VolumeFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let contents = self.0.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        buf.copy_from_slice(contents.get(from..from + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut contents = self.0.lock().unwrap();
        let from = usize::try_from(offset).unwrap();
        let len = contents.len().max(from + data.len());
        contents.resize(len, 0);
        contents[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
