//! Tokens, the audit log, events.
//!
//! A token's secret is shown once, when it is made; kept is its hash alone. Secrets are 256 random bits, so a plain fast hash is enough, and
//! looking it up by the hash leaks nothing through the time it takes.

use rand::TryRngCore;
use serde::{Deserialize, Serialize};
use switchback_model::{AccessRole, AuditRecord, Event, ObjectName, UnixMillis};
use switchback_store::{Expect, Kind, Query};

use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind};

/// A token as it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredToken {
    name: ObjectName,
    role: AccessRole,
    /// BLAKE3 of the secret, in hex.
    hash: String,
    made: UnixMillis,
}

/// What a secret begins with, so that people and scanners recognise one that has got lost.
const SECRET_PREFIX: &str = "sbt_";

impl Control {
    /// Makes a token and returns its secret, which is kept nowhere.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the name is taken.
    pub fn create_token(&self, name: &ObjectName, role: AccessRole) -> Result<String, ControlError> {
        let (secret, token) = self.new_token(name, role)?;
        let mut batch = Batch::default();
        batch.put(Kind::Token, name.key(), Expect::Absent, &token);
        self.records().commit(batch).map_err(|error| match error {
            switchback_store::StoreError::Conflict { .. } => ControlError::new(
                ErrorKind::Conflict,
                "name.taken",
                format!("there is a token {name} already"),
            ),
            other => other.into(),
        })?;
        Ok(secret)
    }

    fn new_token(&self, name: &ObjectName, role: AccessRole) -> Result<(String, StoredToken), ControlError> {
        let secret = format!("{SECRET_PREFIX}{}", random_hex(32)?);
        let hash = hash_of(&secret);
        Ok((secret, StoredToken { name: name.clone(), role, hash, made: self.now() }))
    }

    /// All tokens: name and role.
    ///
    /// # Errors
    /// Those of the store.
    pub fn tokens(&self) -> Result<Vec<(ObjectName, AccessRole)>, ControlError> {
        let tokens = self.records().all::<StoredToken>(Kind::Token)?;
        Ok(tokens.into_iter().map(|token| (token.value.name, token.value.role)).collect())
    }

    /// Deletes a token; whoever has it is refused from now on.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn delete_token(&self, name: &ObjectName) -> Result<(), ControlError> {
        let token: Versioned<StoredToken> = self.records().get(Kind::Token, "token", &name.key())?;
        let mut batch = Batch::default();
        batch.delete(Kind::Token, name.key(), Expect::Version(token.version));
        Ok(self.records().commit(batch)?)
    }

    /// Whose secret it is, and what that holder may do.
    ///
    /// # Errors
    /// Those of the store.
    pub fn authenticate(&self, secret: &str) -> Result<Option<(ObjectName, AccessRole)>, ControlError> {
        if !secret.starts_with(SECRET_PREFIX) {
            return Ok(None);
        }
        let hash = hash_of(secret);
        let tokens = self.records().all::<StoredToken>(Kind::Token)?;
        Ok(tokens
            .into_iter()
            .find(|token| token.value.hash == hash)
            .map(|token| (token.value.name, token.value.role)))
    }

    /// Writes a line into the audit log.
    ///
    /// # Errors
    /// Those of the store.
    pub fn record_audit(&self, record: &AuditRecord) -> Result<(), ControlError> {
        let mut batch = Batch::default();
        batch.put(Kind::Audit, self.time_key(record.time), Expect::Absent, record);
        self.records().store().commit(&batch.into_changes())?;
        Ok(())
    }

    /// The audit log, newest first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn audit(&self, limit: usize) -> Result<Vec<AuditRecord>, ControlError> {
        self.newest(Kind::Audit, limit)
    }

    /// Events, newest first.
    ///
    /// # Errors
    /// Those of the store.
    pub fn events(&self, limit: usize) -> Result<Vec<Event>, ControlError> {
        self.newest(Kind::Event, limit)
    }

    fn newest<T: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        limit: usize,
    ) -> Result<Vec<T>, ControlError> {
        let query = Query { descending: true, limit, ..Query::all(kind) };
        Ok(crate::inventory::values(self.records().list(&query)?))
    }

    pub(crate) fn add_event(&self, batch: &mut Batch, event: &Event) {
        match event.severity {
            switchback_model::Severity::Critical => {
                tracing::error!(object = event.object, code = event.code, "{}", event.message)
            }
            switchback_model::Severity::Warning => {
                tracing::warn!(object = event.object, code = event.code, "{}", event.message)
            }
            switchback_model::Severity::Info => {
                tracing::info!(object = event.object, code = event.code, "{}", event.message)
            }
        }
        batch.put(Kind::Event, self.time_key(event.time), Expect::Absent, event);
    }

    /// A key that sorts by time and is met once.
    pub(crate) fn time_key(&self, time: UnixMillis) -> String {
        format!("{:015}-{}", time.0, random_hex(6).unwrap_or_else(|_| self.inner.config.owner.clone()))
    }
}

fn hash_of(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

/// Random bytes of the system as hex digits.
pub(crate) fn random_hex(bytes: usize) -> Result<String, ControlError> {
    let mut random = vec![0; bytes];
    rand::rngs::OsRng.try_fill_bytes(&mut random).map_err(|error| {
        ControlError::new(
            ErrorKind::Internal,
            "random.failed",
            format!("the system gives no random numbers: {error}"),
        )
    })?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}
