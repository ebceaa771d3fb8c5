//! What no store takes, whatever its database could hold.
//!
//! The limits are those that both databases keep with room to spare, so that a record that one takes is taken by the other too.

use serde::de::IgnoredAny;

use crate::{Change, Expect, KEYS_MAX, Query, StoreError};

/// Bytes of a key, an owner or a lease's owner. PostgreSQL's index entries have some 2700 bytes, and one holds kind, owner and key.
pub const KEY_LEN_MAX: usize = 512;
/// Bytes of a body.
pub const BODY_LEN_MAX: usize = 16 << 20;
/// Changes of one batch: each is a round trip to the database, and the whole has to fit the limit of a call on a slow network too.
pub const CHANGES_MAX: usize = 1_000;

/// Checks a batch.
pub(crate) fn changes(changes: &[Change]) -> Result<(), StoreError> {
    if changes.len() > CHANGES_MAX {
        let what = format!("a batch of {} changes", changes.len());
        return Err(StoreError::Invalid { what, why: format!("a batch has at most {CHANGES_MAX}") });
    }
    for change in changes {
        match change {
            Change::Put { kind, key, owner, body, .. } => {
                name("key", key)?;
                owner.as_deref().map_or(Ok(()), |owner| name("owner", owner))?;
                self::body(body)
                    .map_err(|why| StoreError::Invalid { what: format!("{kind:?} {key}"), why })?;
            }
            Change::Delete { kind, key, expect } => {
                name("key", key)?;
                if *expect == Expect::Absent {
                    let why = "what is not there cannot be deleted".to_owned();
                    return Err(StoreError::Invalid { what: format!("the deletion of {kind:?} {key}"), why });
                }
            }
        }
    }
    Ok(())
}

/// Checks a key or an owner.
pub(crate) fn name(role: &str, value: &str) -> Result<(), StoreError> {
    let why = if value.is_empty() {
        "it is empty".to_owned()
    } else if value.len() > KEY_LEN_MAX {
        format!("it has {} bytes, more than the {KEY_LEN_MAX} allowed", value.len())
    } else if value.contains('\0') {
        "it contains a zero byte".to_owned()
    } else {
        return Ok(());
    };
    // Enough to recognise it, in a message for people.
    let shown: String = value.chars().take(40).collect();
    Err(StoreError::Invalid { what: format!("the {role} {shown:?}"), why })
}

/// Whether a record or an owner can have this name at all. A question about another is answered without asking the database, which may not
/// be able to take it: PostgreSQL has no zero bytes.
pub(crate) fn can_be(name: &str) -> bool {
    self::name("name", name).is_ok()
}

/// Checks a query.
pub(crate) fn query(query: &Query) -> Result<(), StoreError> {
    query.owner.as_deref().map_or(Ok(()), bound)?;
    let keys = query.keys.as_deref().unwrap_or_default();
    if keys.len() > KEYS_MAX {
        let why = format!("it names {} keys, more than the {KEYS_MAX} allowed", keys.len());
        return Err(StoreError::Invalid { what: "the question".to_owned(), why });
    }
    keys.iter().try_for_each(|key| bound(key))?;
    query.after.as_deref().map_or(Ok(()), bound)
}

/// Checks what keys are compared with; it need not be one.
pub(crate) fn bound(value: &str) -> Result<(), StoreError> {
    if value.contains('\0') {
        let why = "it contains a zero byte".to_owned();
        return Err(StoreError::Invalid { what: format!("the question about {value:?}"), why });
    }
    Ok(())
}

fn body(body: &str) -> Result<(), String> {
    if body.len() > BODY_LEN_MAX {
        return Err(format!("its body has {} bytes, more than the {BODY_LEN_MAX} allowed", body.len()));
    }
    // Whoever reads it will parse it: what is no JSON would be lost although it was stored.
    serde_json::from_str::<IgnoredAny>(body)
        .map(|_| ())
        .map_err(|error| format!("its body is no JSON: {error}"))
}
