//! Which of the two stores a location means.

use std::path::Path;
use std::sync::Arc;

use crate::{PostgresStore, SqliteStore, Store, StoreError};

/// Opens the store at `location`: `postgres://…` is a PostgreSQL database, anything else the path of an SQLite file, which is made when it is
/// not there.
///
/// # Errors
/// Those of [`SqliteStore::open`] and [`PostgresStore::open`].
pub fn open(location: &str) -> Result<Arc<dyn Store>, StoreError> {
    let is_postgres = ["postgres://", "postgresql://"].iter().any(|scheme| location.starts_with(scheme));
    if is_postgres {
        Ok(Arc::new(PostgresStore::open(location)?))
    } else {
        Ok(Arc::new(SqliteStore::open(Path::new(location))?))
    }
}
