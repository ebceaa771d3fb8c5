//! A whole store at one moment, independent of which database it is in: what backups are made of.
//!
//! Versions go along, and so does the number from which new ones are taken: whoever holds a record's version from before the backup
//! meets the same one after a restore. Leases do not: whoever held them is gone.

use switchback_model::UnixMillis;

use crate::{Change, Expect, Kind, Record, StoreError, check};

/// A record with what only its store knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The record.
    pub record: Record,
    /// When a job has to be worked on.
    pub due: Option<UnixMillis>,
}

/// A whole store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Versions of new records go on above this number.
    pub last_version: u64,
    /// By kind, then by key.
    pub records: Vec<Saved>,
}

/// Number of records and sum of their versions, without reports, which change every few seconds and are said again, and without what becomes of alerts
/// on their way: a backup after each that was sent would keep what nobody needs any more.
///
/// Two fingerprints of one store are equal only if nothing has changed between. Proof: a record that is made gets a version above every version there
/// is, a record that is changed one more than it had. So with as many records as before, the sum can only have grown; and with another number of
/// records it differs by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Records.
    pub count: u64,
    /// Of their versions.
    pub versions: u64,
}

/// The statement of [`Fingerprint`]: one row of count and sum.
pub(crate) const FINGERPRINT: &str = "SELECT count(*), CAST(coalesce(sum(version), 0) AS BIGINT) FROM record WHERE kind NOT IN ('report', 'alert', 'delivery')";
/// The statement of [`Snapshot::last_version`].
pub(crate) const LAST_VERSION: &str = "SELECT last_version FROM store_state WHERE id = 1";
/// Sets it.
pub(crate) const SET_LAST_VERSION: &str = "UPDATE store_state SET last_version = $1 WHERE id = 1";
/// All records: kind, key, owner, version, body, due.
pub(crate) const ALL_RECORDS: &str =
    "SELECT kind, key, owner, version, body, due FROM record ORDER BY kind, key";
/// How many records there are.
pub(crate) const COUNT: &str = "SELECT count(*) FROM record";

/// A row of [`ALL_RECORDS`].
pub(crate) type Row = (String, String, Option<String>, i64, String, Option<i64>);

/// Makes a record of a row; an error says what cannot be.
pub(crate) fn saved((kind, key, owner, version, body, due): Row) -> Result<Saved, String> {
    let kind = Kind::of(&kind).ok_or_else(|| format!("a record of the unknown kind {kind:?}"))?;
    let version = u64::try_from(version).map_err(|_| format!("{kind:?} {key} has version {version}"))?;
    let due = due.map(|due| u64::try_from(due).map(UnixMillis)).transpose();
    let due = due.map_err(|_| format!("{kind:?} {key} is due at no time"))?;
    Ok(Saved { record: Record { kind, key, owner, version, body }, due })
}

/// Checks that any store could hold it, and that its versions are such as a store gives.
pub(crate) fn check(snapshot: &Snapshot) -> Result<(), StoreError> {
    for Saved { record, .. } in &snapshot.records {
        let change = Change::Put {
            kind: record.kind,
            key: record.key.clone(),
            owner: record.owner.clone(),
            expect: Expect::Absent,
            body: record.body.clone(),
            due: None,
        };
        check::changes(std::slice::from_ref(&change))?;
        if record.version == 0 || record.version > i64::MAX.unsigned_abs() {
            let what = format!("{:?} {}", record.kind, record.key);
            return Err(StoreError::Invalid { what, why: format!("its version is {}", record.version) });
        }
    }
    Ok(())
}

/// What new versions begin above, whatever the snapshot says: never below a record that is there.
pub(crate) fn last_version(snapshot: &Snapshot) -> i64 {
    let highest = snapshot.records.iter().map(|saved| saved.record.version).max().unwrap_or(0);
    i64::try_from(snapshot.last_version.max(highest)).unwrap_or(i64::MAX)
}

/// A store that is to be filled has records.
pub(crate) fn not_empty(place: &str, count: i64) -> StoreError {
    StoreError::Invalid {
        what: format!("a backup into {place}"),
        why: format!("it holds {count} records already: restore into an empty one"),
    }
}
