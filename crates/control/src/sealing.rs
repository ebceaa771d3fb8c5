//! Secrets that have to be kept: passwords of run-as accounts, of mail servers, keys of webhooks, the portal's secret at an issuer.
//!
//! Invariants: a secret is stored encrypted (AES-256-GCM, a fresh nonce for each, bound to what it is for) under a key that is kept in the server's
//! directory (`accounts.key`, mode 0600), apart from the database and in every backup. Several servers on one database need the same key: copy the file.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::TryRngCore;
use switchback_disk::{DirVolume, Volume};
use zeroize::Zeroizing;

use crate::{Control, ControlError, ErrorKind};

/// The key's file in the server's directory.
pub(crate) const KEY_FILE: &str = "accounts.key";
const KEY_LEN: usize = 32;

fn broken(detail: &str) -> ControlError {
    ControlError::new(
        ErrorKind::Internal,
        "account.unreadable",
        format!("the password cannot be decrypted: {detail}"),
    )
    .cause("the file accounts.key in the server's directory is missing or another one")
    .remedy(
        "bring it back from a backup, or set the password again (of an account: `switchback account rotate`)",
    )
}

impl Control {
    /// A secret as it may be stored. `bound` says what it is for: with other words it cannot be opened.
    pub(crate) fn seal(&self, bound: &[u8], secret: &Zeroizing<String>) -> Result<String, ControlError> {
        let failed = || {
            ControlError::new(
                ErrorKind::Internal,
                "account.not-encrypted",
                "the password could not be encrypted",
            )
        };
        let key = self.sealing_key()?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| failed())?;
        let mut sealed = secret.as_bytes().to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(bound), &mut sealed).map_err(|_| failed())?;
        let mut whole = nonce.as_ref().to_vec();
        whole.extend(sealed);
        Ok(STANDARD.encode(whole))
    }

    /// What was sealed with the same `bound`.
    pub(crate) fn unseal(&self, bound: &[u8], sealed: &str) -> Result<Zeroizing<String>, ControlError> {
        let key = self.read_sealing_key()?.ok_or_else(|| broken("there is no key"))?;
        let sealed = STANDARD.decode(sealed).map_err(|_| broken("it is damaged"))?;
        let (nonce, ciphertext) =
            sealed.split_at_checked(NONCE_LEN).ok_or_else(|| broken("it is damaged"))?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| broken("it is damaged"))?;
        let key =
            RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| broken("the key cannot be used"))?;
        let mut plain = Zeroizing::new(ciphertext.to_vec());
        let opened = key
            .open_in_place(nonce, Aad::from(bound), &mut plain)
            .map_err(|_| broken("the key, or what it is for, is another one"))?;
        let text = std::str::from_utf8(opened).map_err(|_| broken("it is no text"))?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    fn sealing_volume(&self) -> Result<DirVolume, ControlError> {
        let directory = &self.server_home()?.directory;
        DirVolume::open(directory)
            .map_err(|error| ControlError::new(ErrorKind::Internal, "account.key", error.to_string()))
    }

    fn read_sealing_key(&self) -> Result<Option<Zeroizing<Vec<u8>>>, ControlError> {
        match self.sealing_volume()?.read_all(KEY_FILE, KEY_LEN) {
            Ok(key) if key.len() == KEY_LEN => Ok(Some(Zeroizing::new(key))),
            Ok(_) => Err(broken("the key is damaged")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(broken(&error.to_string())),
        }
    }

    /// The key, made when it is first needed.
    fn sealing_key(&self) -> Result<Zeroizing<Vec<u8>>, ControlError> {
        let _turn = self.inner.account_key.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(key) = self.read_sealing_key()? {
            return Ok(key);
        }
        if !self.accounts()?.is_empty() || self.has_alert_secrets()? || self.has_sign_in_secrets()? {
            // Another key would make what is there unreadable for good.
            return Err(broken("there is no key"));
        }
        let failed = |error: String| ControlError::new(ErrorKind::Internal, "account.key", error);
        let mut key = Zeroizing::new(vec![0; KEY_LEN]);
        rand::rngs::OsRng.try_fill_bytes(&mut key).map_err(|error| failed(error.to_string()))?;
        self.sealing_volume()?.write_atomic(KEY_FILE, &key).map_err(|error| failed(error.to_string()))?;
        Ok(key)
    }
}
