//! The PostgreSQL store: the suite of all stores, and servers that come and go.

use std::cell::Cell;
use std::sync::Arc;

use switchback_store::conformance::{self, Fixture};
use switchback_store::testing::PostgresServer;
use switchback_store::{PostgresStore, Store};

struct Database(String);

impl Fixture for Database {
    fn open(&self) -> Arc<dyn Store> {
        Arc::new(PostgresStore::open(&self.0).unwrap())
    }
}

#[test]
fn conforms() {
    let server = PostgresServer::start();
    let number = Cell::new(0);
    conformance::stores(|| {
        number.set(number.get() + 1);
        Database(server.database(&format!("fresh-{}", number.get())))
    });
}
