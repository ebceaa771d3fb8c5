//! The key for encryption at rest, in a file.
//!
//! What is kept on a retention drive or a cache disk is encrypted under 32 random bytes; they live in a file that only its owner can read, as
//! 64 hexadecimal digits. A replica's settings name the file, so every command on the replica finds it. The key itself is never in
//! an argument, a log, or on the drive it protects.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// More than a key file ever has.
const FILE_LEN_MAX: u64 = 256;
const KEY_LEN: usize = 32;

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageKeyError {
    /// It cannot be read or written.
    #[error("{action} the key file {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Others can read it.
    #[error(
        "the key file {path} can be read by others (mode {mode:o}): run `chmod 600 {path}`, or make a new key if others may have read it"
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error(
        "{path} holds no key: a key file has 64 hexadecimal digits, as `switchback identity storage-key` writes them"
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
}

/// A key's 32 secret bytes. Overwritten when dropped.
pub type StorageKey = Zeroizing<[u8; KEY_LEN]>;

/// Reads a key file.
///
/// # Errors
/// [`StorageKeyError`].
pub fn load(path: &Path) -> Result<StorageKey, StorageKeyError> {
    let failed = |source| StorageKeyError::Io { action: "reading", path: path.into(), source };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StorageKeyError::TooOpen { path: path.into(), mode });
    }
    let mut text = Zeroizing::new(String::new());
    let read = file.take(FILE_LEN_MAX).read_to_string(&mut text);
    let not_a_key = || StorageKeyError::NotAKey { path: path.into() };
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Err(not_a_key()),
        other => other.map_err(failed)?,
    };
    let (digits, rest) = text.trim().as_bytes().as_chunks::<2>();
    if digits.len() != KEY_LEN || !rest.is_empty() {
        return Err(not_a_key());
    }
    let mut key = Zeroizing::new([0; KEY_LEN]);
    for (byte, [high, low]) in key.iter_mut().zip(digits) {
        let digit = |c: u8| char::from(c).to_digit(16);
        let value = digit(*high).zip(digit(*low)).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        *byte = value.ok_or_else(not_a_key)?;
    }
    Ok(key)
}

/// Writes a new key into a new file, durably.
///
/// # Errors
/// When there is a file already, or it cannot be written.
pub fn create(path: &Path) -> Result<(), StorageKeyError> {
    use rand::TryRngCore;
    let failed = |source| StorageKeyError::Io { action: "writing", path: path.into(), source };
    let mut key = Zeroizing::new([0_u8; KEY_LEN]);
    rand::rngs::OsRng
        .try_fill_bytes(&mut *key)
        .expect("the kernel's generator works once the machine has booted");
    let mut text = Zeroizing::new(String::with_capacity(2 * KEY_LEN + 1));
    for byte in key.iter() {
        text.extend(
            [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).expect("below 16")),
        );
    }
    text.push('\n');
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{StorageKeyError, create, load};

    #[test]
    fn a_key_comes_back_and_what_is_none_or_open_to_others_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create(&path).unwrap();
        let key = load(&path).unwrap();
        assert_ne!(*key, [0; 32]);
        assert_eq!(load(&path).unwrap(), key);
        assert!(matches!(create(&path), Err(StorageKeyError::Io { .. })), "never overwritten");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let error = load(&path).unwrap_err();
        assert!(matches!(error, StorageKeyError::TooOpen { mode: 0o640, .. }), "{error}");
        for bad in ["", "abc", &"g".repeat(64), &"0".repeat(63), &"0".repeat(66)] {
            let path = directory.path().join(format!("bad-{}", bad.len()));
            std::fs::write(&path, bad).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            assert!(matches!(load(&path), Err(StorageKeyError::NotAKey { .. })), "{bad:?}");
        }
    }
}
