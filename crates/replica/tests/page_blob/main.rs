//! `PageBlobReplica` on a simulated storage account.

#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests, of small sizes; the seed of a failure is printed"
)]

mod behind;
mod budget;
mod faults;
mod fill;
mod history;
mod requests;
mod shape;
#[path = "../history/source.rs"]
mod source;

use std::sync::Arc;

use switchback_model::ReplicaId;
use switchback_replica::conformance::{Fixture, sessions};
use switchback_replica::sim::SimAccount;
use switchback_replica::store::BlobStore;
use switchback_replica::{
    DiskSpec, PageBlobConfig, PageBlobReplica, ReplicaError, ReplicaSession, SessionRequest,
};

/// A replica as the suite wants it.
struct Simulated {
    account: SimAccount,
    replica: Arc<PageBlobReplica>,
}

impl Simulated {
    fn new(io_threads: usize) -> Self {
        let account = SimAccount::new(1);
        let store = account.connect();
        PageBlobReplica::create(&*store, vec![DiskSpec { size: 1 << 20 }; 2], ReplicaId([5; 16])).unwrap();
        let config = PageBlobConfig { io_threads, ..PageBlobConfig::default() };
        let replica = PageBlobReplica::open(store as Arc<dyn BlobStore>, config, [1; 16], false).unwrap();
        Self { account, replica: Arc::new(replica) }
    }
}

impl Fixture for Simulated {
    fn session(&self, request: &SessionRequest) -> Result<Box<dyn ReplicaSession>, ReplicaError> {
        Ok(Box::new(self.replica.session(request)?))
    }

    fn contents(&self, disk: usize) -> Vec<u8> {
        self.replica.maintain().unwrap();
        let mut contents = self.account.contents(&format!("disk-{disk}.vhd")).unwrap();
        contents.truncate(1 << 20);
        contents
    }
}

#[test]
fn sessions_are_as_they_must_be() {
    sessions(|| Simulated::new(1));
    sessions(|| Simulated::new(4));
}
