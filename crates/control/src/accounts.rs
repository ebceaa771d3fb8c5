//! Run-as accounts: users of other systems (a vCenter) under which this server works there.
//!
//! Invariants: a password is stored encrypted (see `sealing`), bound to the account's name, kind and user; it is shown to nobody, and handed only to
//! what works with it ([`Control::account_secret`]).

use serde::{Deserialize, Serialize};
use switchback_model::{Account, CheckState, ObjectName, ReadinessCheck};
use switchback_sites::Target;
use switchback_store::{Expect, Kind, StoreError};
use zeroize::Zeroizing;

use crate::records::{Batch, Versioned};
use crate::{Control, ControlError, ErrorKind};

/// Longest password or user name, in bytes.
const SECRET_LEN_MAX: usize = 1024;

/// An account as it is kept.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredAccount {
    account: Account,
    /// Nonce and ciphertext, in Base64.
    sealed: String,
}

fn checked(user: &str, password: &str) -> Result<(), ControlError> {
    let is_wrong = |text: &str| text.is_empty() || text.len() > SECRET_LEN_MAX;
    if is_wrong(user) || is_wrong(password) {
        let message = format!("user and password must have 1 to {SECRET_LEN_MAX} bytes");
        return Err(ControlError::new(ErrorKind::Invalid, "account.invalid", message));
    }
    Ok(())
}

/// What a password is bound to: moved to another account it cannot be decrypted.
fn bound(account: &Account) -> Vec<u8> {
    serde_json::to_vec(&("switchback-account/1", account.name.key(), account.kind, &account.user))
        .expect("plain data becomes JSON")
}

impl Control {
    /// Makes an account known.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when the name is taken; [`ErrorKind::Invalid`].
    pub fn add_account(
        &self,
        account: Account,
        password: &Zeroizing<String>,
    ) -> Result<Account, ControlError> {
        checked(&account.user, password)?;
        let stored = self.seal_account(account, password)?;
        let mut batch = Batch::default();
        batch.put(Kind::Account, stored.account.name.key(), Expect::Absent, &stored);
        self.records().commit(batch).map_err(|error| match error {
            StoreError::Conflict { .. } => {
                let message = format!("there is an account {} already", stored.account.name);
                ControlError::new(ErrorKind::Conflict, "name.taken", message)
                    .remedy("`switchback account rotate` changes its password")
            }
            other => other.into(),
        })?;
        Ok(stored.account)
    }

    /// Changes an account's password, and its user if one is given.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Invalid`].
    pub fn rotate_account(
        &self,
        name: &ObjectName,
        user: Option<String>,
        password: &Zeroizing<String>,
    ) -> Result<Account, ControlError> {
        let Versioned { value: StoredAccount { mut account, .. }, version } = self.stored_account(name)?;
        account.user = user.unwrap_or(account.user);
        account.changed = self.now();
        checked(&account.user, password)?;
        let stored = self.seal_account(account, password)?;
        let mut batch = Batch::default();
        batch.replace(Kind::Account, name.key(), version, &stored);
        self.records().commit(batch)?;
        self.reopen_sites();
        Ok(stored.account)
    }

    /// All accounts, without their passwords.
    ///
    /// # Errors
    /// Those of the store.
    pub fn accounts(&self) -> Result<Vec<Account>, ControlError> {
        let accounts = self.records().all::<StoredAccount>(Kind::Account)?;
        Ok(accounts.into_iter().map(|stored| stored.value.account).collect())
    }

    /// One account, without its password.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn account(&self, name: &ObjectName) -> Result<Account, ControlError> {
        Ok(self.stored_account(name)?.value.account)
    }

    fn stored_account(&self, name: &ObjectName) -> Result<Versioned<StoredAccount>, ControlError> {
        self.records().get(Kind::Account, "account", &name.key())
    }

    /// Forgets an account.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn remove_account(&self, name: &ObjectName) -> Result<(), ControlError> {
        let stored = self.stored_account(name)?;
        if let Some(site) = self.sites_with(name)?.first() {
            let message = format!("the site {} is entered with the account {name}", site.name);
            return Err(ControlError::new(ErrorKind::Conflict, "account.in-use", message)
                .remedy("remove the site first, or rotate the account"));
        }
        let mut batch = Batch::default();
        batch.delete(Kind::Account, name.key(), Expect::Version(stored.version));
        Ok(self.records().commit(batch)?)
    }

    /// Tries whether an account is good for what it is for, at each site that it enters.
    ///
    /// # Errors
    /// Why it is not: it is refused, lacks privileges (a read-only role), the server takes no changes; [`ErrorKind::IllegalState`] while no site uses it.
    pub fn test_account(&self, name: &ObjectName) -> Result<(), ControlError> {
        self.account_secret(name)?;
        let sites = self.sites_with(name)?;
        if sites.is_empty() {
            let message =
                format!("no site is entered with the account {name}, so there is nothing to try it at");
            return Err(ControlError::new(ErrorKind::IllegalState, "account.unused", message)
                .remedy("`switchback site add NAME … --account NAME` tries it, too"));
        }
        for site in sites {
            let checks = self.site(&site.name)?.check_targets(&[Target::default()])?;
            let matters = |check: &&ReadinessCheck| {
                check.state == CheckState::Failed
                    && ["site.privileges", "site.edition"].contains(&check.code.as_str())
            };
            if let Some(check) = checks.iter().flatten().find(matters) {
                let error = check.as_error();
                let message = format!("at {}: {}", site.name, error.message);
                return Err(ControlError::new(ErrorKind::IllegalState, &error.code, message)
                    .cause(error.cause)
                    .remedy(error.remedy));
            }
        }
        Ok(())
    }

    /// An account with its password, for what works with it: the opener of a site.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; `account.unreadable` when it cannot be decrypted.
    pub fn account_secret(&self, name: &ObjectName) -> Result<(Account, Zeroizing<String>), ControlError> {
        let stored = self.stored_account(name)?.value;
        let password = self.unseal(&bound(&stored.account), &stored.sealed)?;
        Ok((stored.account, password))
    }

    fn seal_account(
        &self,
        account: Account,
        password: &Zeroizing<String>,
    ) -> Result<StoredAccount, ControlError> {
        let sealed = self.seal(&bound(&account), password)?;
        Ok(StoredAccount { account, sealed })
    }
}
