//! What PostgreSQL's errors mean for a user: which database, the likely cause, what to do.
//!
//! Source of the codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

use std::time::Duration;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::StoreError;

/// Why a call was not done.
pub(super) enum Failure {
    Postgres(Error),
    Store(StoreError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Postgres(error)
    }
}

pub(super) fn corrupt(place: &str, detail: String) -> StoreError {
    StoreError::Corrupt { place: place.to_owned(), detail }
}

pub(super) fn wrong_encoding(place: &str, encoding: &str) -> StoreError {
    database(
        place,
        "opening the database",
        format!(
            "it has the encoding {encoding}: create one with `createdb --encoding=UTF8 --template=template0`"
        ),
        false,
    )
}

/// The server has said nothing for `limit`.
pub(super) fn no_answer(place: &str, doing: &str, limit: Duration) -> StoreError {
    let detail = format!(
        "there was no answer within {} s: check that the server runs and can be reached",
        limit.as_secs_f32()
    );
    database(place, doing, detail, true)
}

fn database(place: &str, doing: &str, detail: String, passing: bool) -> StoreError {
    StoreError::Database { action: format!("{doing} (in {place})"), detail, passing }
}

pub(super) fn from_failure(place: &str, doing: &str, failure: Failure) -> StoreError {
    let error = match failure {
        Failure::Store(error) => return error,
        Failure::Postgres(error) => error,
    };
    let Some(said) = error.as_db_error() else {
        return from_connection(place, doing, &error);
    };
    let code = said.code();
    if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code) {
        return corrupt(place, said.message().to_owned());
    }
    let (advice, passing) = advice(code);
    let detail = format!("{} ({}); {advice}", said.message(), code.code());
    database(place, doing, detail, passing)
}

/// What to do about an error of the server, and whether trying again may help.
fn advice(code: &SqlState) -> (&'static str, bool) {
    match *code {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            ("check the user and password in the connection string, and the server's pg_hba.conf", false)
        }
        SqlState::INVALID_CATALOG_NAME => ("create the database with `createdb`", false),
        SqlState::INSUFFICIENT_PRIVILEGE => (
            "the user needs the right to create a schema in the database: make it the database's owner",
            false,
        ),
        SqlState::READ_ONLY_SQL_TRANSACTION => (
            "this server is a standby, or was set to read only: connect to the one that can be written",
            true,
        ),
        SqlState::LOCK_NOT_AVAILABLE | SqlState::QUERY_CANCELED => {
            ("it took too long: is the server overloaded, or is somebody keeping a lock?", true)
        }
        SqlState::DISK_FULL => ("make room on the server's drive", true),
        SqlState::TOO_MANY_CONNECTIONS => {
            ("raise `max_connections` of the server, or use fewer servers", true)
        }
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW => {
            ("the server is stopping or starting: it will be tried again", true)
        }
        SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => {
            ("somebody has changed the tables of the schema `switchback`: restore a backup", false)
        }
        _ => match code.code().get(..2) {
            // Operator intervention, insufficient resources, connection exceptions, transaction rollback, system errors.
            Some("57" | "53" | "08" | "40" | "58") => ("see the server's log", true),
            _ => ("see the server's log; if that says nothing, please report it", false),
        },
    }
}

/// The connection was not made, or lost; also what the client cannot do.
fn from_connection(place: &str, doing: &str, error: &Error) -> StoreError {
    let mut detail = error.to_string();
    // "error connecting to server" alone says nothing.
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_says = cause.to_string();
        if !detail.contains(&cause_says) {
            detail = format!("{detail}: {cause_says}");
        }
        source = cause.source();
    }
    let (advice, passing) = if error.is_closed() {
        ("the connection was lost; what was being done may have been done", true)
    } else if detail.contains("TLS") {
        ("connections are not encrypted: use a local socket, or a tunnel, and leave `sslmode` out", false)
    } else if detail.contains("password") {
        ("add the password to the connection string", false)
    } else {
        ("check that the server runs and can be reached under this name", true)
    };
    database(place, doing, format!("{detail}; {advice}"), passing)
}
