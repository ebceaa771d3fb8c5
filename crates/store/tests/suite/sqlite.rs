//! The SQLite store: the suite of all stores, and files that are not what they should be.

use std::path::PathBuf;
use std::sync::Arc;

use switchback_store::conformance::{self, Fixture};
use switchback_store::{SqliteStore, Store};

struct InDirectory(tempfile::TempDir);

impl InDirectory {
    fn path(&self) -> PathBuf {
        self.0.path().join("store.db")
    }
}

impl Fixture for InDirectory {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(SqliteStore::open(self.path()).unwrap())
    }
}

#[test]
fn conforms() {
    conformance::stores(|| InDirectory(tempfile::tempdir().unwrap()));
}
