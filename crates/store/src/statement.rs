//! The statements, in the words that SQLite and PostgreSQL share: what one store does, the other does too.
//!
//! Invariant: the parameters `$1`, `$2`, … of a statement first appear in this order, because SQLite numbers them by their first
//! appearance and PostgreSQL by their name.
//!
//! Every writer of several rows first takes the one row of `store_state` ([`NEXT_VERSION`]). In PostgreSQL this puts batches in order and
//! leaves no two transactions that could wait for each other; SQLite has one writer at a time anyway.

use std::borrow::Cow;

use switchback_model::UnixMillis;

use crate::{Change, Expect, Kind, LIMIT_MAX, Query};

/// A value of a statement.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parameter<'a> {
    Text(Option<&'a str>),
    Integer(Option<i64>),
}

/// A statement and its values.
#[derive(Clone, Debug)]
pub(crate) struct Statement<'a> {
    pub(crate) sql: Cow<'static, str>,
    pub(crate) parameters: Vec<Parameter<'a>>,
}

/// What follows the choice of a job: PostgreSQL passes over what others are taking, SQLite has one writer at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowLock {
    None,
    SkipLocked,
}

/// Takes `$1` numbers for the versions of new records, and returns the largest.
pub(crate) const NEXT_VERSION: &str =
    "UPDATE store_state SET last_version = last_version + $1 WHERE id = 1 RETURNING last_version";

/// The columns of a record, in the order in which both stores read them. The kind is known from the question.
const COLUMNS: &str = "key, owner, version, body";

/// What a kind is called in the database.
pub(crate) const fn kind_name(kind: Kind) -> &'static str {
    kind.as_str()
}

fn text(value: &str) -> Parameter<'_> {
    Parameter::Text(Some(value))
}

fn integer(value: i64) -> Parameter<'static> {
    Parameter::Integer(Some(value))
}

/// Versions are below 2⁶³ in the database; one that is not is no record's.
fn version(value: u64) -> Parameter<'static> {
    integer(i64::try_from(value).unwrap_or(-1))
}

/// The end of time is as far as both databases count.
fn time(value: UnixMillis) -> Parameter<'static> {
    integer(i64::try_from(value.0).unwrap_or(i64::MAX))
}

/// One record.
pub(crate) fn get(kind: Kind, key: &str) -> Statement<'_> {
    let sql = format!("SELECT {COLUMNS} FROM record WHERE kind = $1 AND key = $2");
    Statement { sql: sql.into(), parameters: vec![text(kind_name(kind)), text(key)] }
}

/// The records of a query.
pub(crate) fn list(query: &Query) -> Statement<'_> {
    let mut sql = format!("SELECT {COLUMNS} FROM record WHERE kind = $1");
    let mut parameters = vec![text(kind_name(query.kind))];
    if let Some(owner) = &query.owner {
        parameters.push(text(owner));
        sql.push_str(&format!(" AND owner = ${}", parameters.len()));
    }
    if let Some(keys) = &query.keys {
        let places = keys.iter().map(|key| {
            parameters.push(text(key));
            format!("${}", parameters.len())
        });
        let places = places.collect::<Vec<_>>().join(", ");
        // PostgreSQL takes no empty list; nothing is equal to NULL.
        let places = if places.is_empty() { "NULL" } else { &places };
        sql.push_str(&format!(" AND key IN ({places})"));
    }
    let (beyond, order) = if query.descending { ("<", "DESC") } else { (">", "ASC") };
    if let Some(after) = &query.after {
        parameters.push(text(after));
        sql.push_str(&format!(" AND key {beyond} ${}", parameters.len()));
    }
    let limit = query.limit.min(LIMIT_MAX);
    parameters.push(integer(i64::try_from(limit).unwrap_or(i64::MAX)));
    sql.push_str(&format!(" ORDER BY key {order} LIMIT ${}", parameters.len()));
    Statement { sql: sql.into(), parameters }
}

/// One change; returns one row with the record's version, or none when the record was not as expected. `fresh` is the version of a record
/// that is made.
pub(crate) fn change(change: &Change, fresh: i64) -> Statement<'_> {
    match change {
        Change::Put { kind, key, owner, expect, body, due } => {
            let due = if *kind == Kind::Job { *due } else { None };
            let due = due.map_or(Parameter::Integer(None), time);
            let owner = Parameter::Text(owner.as_deref());
            put(*expect, [text(kind_name(*kind)), text(key), owner, text(body), due], fresh)
        }
        Change::Delete { kind, key, expect } => {
            let mut sql = "DELETE FROM record WHERE kind = $1 AND key = $2".to_owned();
            let mut parameters = vec![text(kind_name(*kind)), text(key)];
            if let Expect::Version(expected) = expect {
                parameters.push(version(*expected));
                sql.push_str(" AND version = $3");
            }
            sql.push_str(" RETURNING version");
            Statement { sql: sql.into(), parameters }
        }
    }
}

/// `values`: kind, key, owner, body, due.
fn put<'a>(expect: Expect, values: [Parameter<'a>; 5], fresh: i64) -> Statement<'a> {
    const INSERT: &str =
        "INSERT INTO record (kind, key, owner, body, due, version) VALUES ($1, $2, $3, $4, $5, $6)";
    let mut parameters = values.to_vec();
    let sql = match expect {
        Expect::Absent => {
            parameters.push(integer(fresh));
            format!("{INSERT} ON CONFLICT (kind, key) DO NOTHING RETURNING version")
        }
        Expect::Any => {
            parameters.push(integer(fresh));
            // The lease stays as it is.
            format!(
                "{INSERT} ON CONFLICT (kind, key) DO UPDATE SET owner = excluded.owner, body = excluded.body, \
                 due = excluded.due, version = record.version + 1 RETURNING version"
            )
        }
        Expect::Version(expected) => {
            parameters = vec![values[2], values[3], values[4], values[0], values[1], version(expected)];
            "UPDATE record SET owner = $1, body = $2, due = $3, version = version + 1 \
             WHERE kind = $4 AND key = $5 AND version = $6 RETURNING version"
                .to_owned()
        }
    };
    Statement { sql: sql.into(), parameters }
}

/// Leases the job that has been due longest; returns it.
pub(crate) fn claim(owner: &str, now: UnixMillis, until: UnixMillis, lock: RowLock) -> Statement<'_> {
    let lock = match lock {
        RowLock::None => "",
        RowLock::SkipLocked => " FOR UPDATE SKIP LOCKED",
    };
    let sql = format!(
        "UPDATE record SET lease_owner = $1, lease_until = $2 WHERE kind = 'job' AND key = (\
         SELECT key FROM record WHERE kind = 'job' AND due <= $3 AND (lease_owner IS NULL OR lease_until <= $3) \
         ORDER BY due, key LIMIT 1{lock}) RETURNING {COLUMNS}"
    );
    Statement { sql: sql.into(), parameters: vec![text(owner), time(until), time(now)] }
}

/// Prolongs a lease; changes one row, or none.
pub(crate) fn renew<'a>(owner: &'a str, job: &'a str, until: UnixMillis) -> Statement<'a> {
    let sql = "UPDATE record SET lease_until = $1 WHERE kind = 'job' AND key = $2 AND lease_owner = $3";
    Statement { sql: sql.into(), parameters: vec![time(until), text(job), text(owner)] }
}

/// Gives a job back.
pub(crate) fn release<'a>(owner: &'a str, job: &'a str) -> Statement<'a> {
    let sql = "UPDATE record SET lease_owner = NULL, lease_until = NULL \
               WHERE kind = 'job' AND key = $1 AND lease_owner = $2";
    Statement { sql: sql.into(), parameters: vec![text(job), text(owner)] }
}

/// Gives all jobs of an owner back.
pub(crate) fn release_all(owner: &str) -> Statement<'_> {
    let sql =
        "UPDATE record SET lease_owner = NULL, lease_until = NULL WHERE kind = 'job' AND lease_owner = $1";
    Statement { sql: sql.into(), parameters: vec![text(owner)] }
}

/// Removes what is older.
pub(crate) fn prune(kind: Kind, key: &str) -> Statement<'_> {
    let sql = "DELETE FROM record WHERE kind = $1 AND key < $2";
    Statement { sql: sql.into(), parameters: vec![text(kind_name(kind)), text(key)] }
}

/// Whether a change that returned no row is a conflict.
pub(crate) fn must_match(change: &Change) -> bool {
    !matches!(change, Change::Delete { expect: Expect::Any, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The positions of the first appearances of `$1`, `$2`, ….
    fn first_appearances(sql: &str, count: usize) -> Vec<usize> {
        (1..=count).map(|number| sql.find(&format!("${number}")).expect("every value is used")).collect()
    }

    #[test]
    fn values_first_appear_in_their_order() {
        let put = |expect| Change::Put {
            kind: Kind::Job,
            key: "k".to_owned(),
            owner: None,
            expect,
            body: "{}".to_owned(),
            due: None,
        };
        let delete = Change::Delete { kind: Kind::Job, key: "k".to_owned(), expect: Expect::Version(1) };
        let mut query = Query::all(Kind::Job);
        query.owner = Some("o".to_owned());
        query.after = Some("a".to_owned());
        let (absent, any, replace) = (put(Expect::Absent), put(Expect::Any), put(Expect::Version(1)));
        let (now, until) = (UnixMillis(1), UnixMillis(2));
        for statement in [
            get(Kind::Job, "k"),
            list(&query),
            change(&absent, 1),
            change(&any, 1),
            change(&replace, 1),
            change(&delete, 1),
            claim("o", now, until, RowLock::SkipLocked),
            renew("o", "k", until),
            release("o", "k"),
            release_all("o"),
            prune(Kind::Job, "k"),
        ] {
            let positions = first_appearances(&statement.sql, statement.parameters.len());
            assert!(positions.is_sorted(), "{}", statement.sql);
            let beyond = format!("${}", statement.parameters.len() + 1);
            assert!(!statement.sql.contains(&beyond), "{} has no value for {beyond}", statement.sql);
        }
    }
}
