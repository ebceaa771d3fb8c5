//! The file of a backup.
//!
//! ```text
//! switchback-backup 1\n        what it is, and in which format
//! {header}\n                   JSON, one line, readable without a key: see `Header`
//! age ciphertext               https://age-encryption.org/v1, to each of the recipients' X25519 keys
//! BLAKE3, 32 bytes             of everything before
//! ```
//! Within the encryption, compressed with zstd, are lines of JSON: the header once more, then each file, then each record, then an end
//! line with their numbers.
//!
//! Why in this order: a list of backups needs no key; what was cut off or changed on its way is found by the checksum, also without a key; who
//! changes both a byte and the checksum is found by age's authentication of each 64 KiB and of the end; who changes the header is found by its copy within;
//! and the end line finds what this program itself may have left out. A whole file that somebody else has made, knowing the public key only, cannot hold
//! the site's authority: components would not take whoever restored it for their server.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};

use age::secrecy::SecretString;
use age::{Decryptor, Encryptor, x25519};
use serde::{Deserialize, Serialize};
use switchback_model::UnixMillis;
use switchback_model::component::IncarnationProof;
use switchback_store::{Kind, Record, Saved, Snapshot};
use zeroize::Zeroizing;

use super::contents::{Contents, SavedFile};
use crate::ErrorKind;

const MAGIC: &[u8] = b"switchback-backup 1\n";
const CHECKSUM_LEN: usize = 32;
/// Most bytes of the header.
const HEADER_LEN_MAX: usize = 64 << 10;
/// Most bytes of a whole backup: the one that is read may be somebody's else.
pub const FILE_LEN_MAX: usize = 1 << 30;
/// Most bytes of what it unpacks to.
const CONTENTS_LEN_MAX: u64 = 8 << 30;
/// Most bytes of an identity file.
const IDENTITY_LEN_MAX: usize = 64 << 10;
/// zstd's fast default: more costs time at each change of the store.
const LEVEL: i32 = 3;

/// Why a backup was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Something had changed.
    Continuous,
    /// It was time.
    Scheduled,
    /// Somebody asked for it.
    Demanded,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Continuous, Self::Scheduled, Self::Demanded];

    /// As text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Continuous => "continuous",
            Self::Scheduled => "scheduled",
            Self::Demanded => "demanded",
        }
    }

    pub(super) fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// What anybody can see of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// When it was made.
    pub made: UnixMillis,
    /// The build that made it.
    pub build: String,
    /// Why.
    pub reason: Reason,
    /// The server's incarnation.
    pub incarnation: u64,
    /// That it is so; none for a server that was never restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation_proof: Option<IncarnationProof>,
    /// BLAKE3 of the site's authority's certificate (DER), in hex: which site it is of.
    pub authority: String,
    /// How the server was started.
    pub settings: BTreeMap<String, String>,
    /// Numbers of records by kind.
    pub records: BTreeMap<String, u64>,
    /// Number of files.
    pub files: u64,
}

/// Why a backup cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// Something else.
    #[error("this is no backup of Switchback")]
    NotOurs,
    /// By a newer version.
    #[error("the backup has format {format}, this program knows format 1")]
    TooNew {
        /// Its format.
        format: String,
    },
    /// Not what was written.
    #[error("the backup is damaged: {detail}")]
    Damaged {
        /// How it shows.
        detail: String,
    },
    /// Encrypted for others.
    #[error("the backup cannot be opened with this identity")]
    WrongIdentity,
    /// Not an identity.
    #[error("the identity cannot be used: {detail}")]
    Identity {
        /// Why.
        detail: String,
    },
    /// Not a public key.
    #[error("{recipient:?} is no public key of age (age1…)")]
    Recipient {
        /// What was given.
        recipient: String,
    },
    /// Not the name of a backup.
    #[error("{name:?} is no name of a backup")]
    Name {
        /// What was given.
        name: String,
    },
    /// Not to be written, or read.
    #[error("{action} failed: {detail}")]
    Io {
        /// What was being done, and where.
        action: String,
        /// The system's words.
        detail: String,
    },
}

impl BackupError {
    pub(super) fn advice(&self) -> (ErrorKind, &'static str, &'static str) {
        match self {
            Self::NotOurs => {
                (ErrorKind::Invalid, "backup.not-ours", "name a file that `switchback backup` has made")
            }
            Self::TooNew { .. } => {
                (ErrorKind::Invalid, "backup.too-new", "use a newer version of switchback")
            }
            Self::Damaged { .. } => {
                (ErrorKind::Internal, "backup.damaged", "use another backup; look after the drive it is on")
            }
            Self::WrongIdentity => (
                ErrorKind::Invalid,
                "backup.identity",
                "use the identity that belongs to one of the public keys of its policy",
            ),
            Self::Identity { .. } => {
                (ErrorKind::Invalid, "backup.identity", "`switchback backup keygen` makes one")
            }
            Self::Recipient { .. } => (
                ErrorKind::Invalid,
                "backup.recipient",
                "`switchback backup keygen` makes an identity and prints its public key",
            ),
            Self::Name { .. } => (ErrorKind::Invalid, "backup.name", "`switchback backup list` shows them"),
            Self::Io { .. } => (
                ErrorKind::Unavailable,
                "backup.destination",
                "see that the destination is there, has room and lets this server in",
            ),
        }
    }
}

fn damaged(detail: impl Into<String>) -> BackupError {
    BackupError::Damaged { detail: detail.into() }
}

fn failed(action: &str) -> impl FnOnce(std::io::Error) -> BackupError + '_ {
    move |error| BackupError::Io { action: action.into(), detail: error.to_string() }
}

/// A line within the encryption.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    Header(Header),
    File(SavedFile),
    Record {
        kind: String,
        key: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
        version: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        due: Option<u64>,
        body: String,
    },
    End {
        last_version: u64,
        files: u64,
        records: u64,
    },
}

/// The public keys of a policy.
///
/// # Errors
/// [`BackupError::Recipient`]: one is none, or there is none.
pub fn recipients(texts: &[String]) -> Result<Vec<x25519::Recipient>, BackupError> {
    if texts.is_empty() {
        return Err(BackupError::Recipient { recipient: String::new() });
    }
    let parse = |text: &String| {
        // A private key that was mistaken for the public one must not be repeated in a message.
        let shown =
            if text.to_ascii_uppercase().contains("SECRET") { "(a secret key)".into() } else { text.clone() };
        text.parse().map_err(|_| BackupError::Recipient { recipient: shown })
    };
    texts.iter().map(parse).collect()
}

/// Makes the file.
///
/// # Errors
/// [`BackupError::Recipient`]; [`BackupError::Io`] when memory or the system's random numbers fail.
pub fn encode(header: &Header, contents: &Contents, to: &[String]) -> Result<Vec<u8>, BackupError> {
    let recipients = recipients(to)?;
    let mut file = MAGIC.to_vec();
    file.extend(serde_json::to_vec(header).expect("plain data becomes JSON"));
    file.push(b'\n');
    let encryptor = Encryptor::with_recipients(recipients.iter().map(|recipient| recipient as _))
        .map_err(|error| BackupError::Io { action: "encrypting".into(), detail: error.to_string() })?;
    let encrypting = encryptor.wrap_output(file).map_err(failed("encrypting"))?;
    let mut packing = zstd::Encoder::new(encrypting, LEVEL).map_err(failed("compressing"))?;
    write_lines(&mut packing, header, contents).map_err(failed("compressing"))?;
    let encrypting = packing.finish().map_err(failed("compressing"))?;
    let mut file = encrypting.finish().map_err(failed("encrypting"))?;
    let checksum = *blake3::hash(&file).as_bytes();
    file.extend(checksum);
    if file.len() > FILE_LEN_MAX {
        let detail =
            format!("it would have {} bytes, more than the {FILE_LEN_MAX} that can be restored", file.len());
        return Err(BackupError::Io { action: "making the backup".into(), detail });
    }
    Ok(file)
}

fn write_lines(to: &mut impl Write, header: &Header, contents: &Contents) -> std::io::Result<()> {
    let mut line = |line: &Line| {
        let text = Zeroizing::new(serde_json::to_vec(line).expect("plain data becomes JSON"));
        to.write_all(&text)?;
        to.write_all(b"\n")
    };
    line(&Line::Header(header.clone()))?;
    for file in &contents.files {
        line(&Line::File(file.clone()))?;
    }
    for Saved { record, due } in &contents.snapshot.records {
        line(&Line::Record {
            kind: record.kind.as_str().into(),
            key: record.key.clone(),
            owner: record.owner.clone(),
            version: record.version,
            due: due.map(|due| due.0),
            body: record.body.clone(),
        })?;
    }
    line(&Line::End {
        last_version: contents.snapshot.last_version,
        files: contents.files.len() as u64,
        records: contents.snapshot.records.len() as u64,
    })
}

/// A file whose checksum and header are right.
#[derive(Debug)]
pub struct Inspected<'a> {
    /// What it says of itself.
    pub header: Header,
    ciphertext: &'a [u8],
}

/// Checks what can be checked without a key.
///
/// # Errors
/// [`BackupError::NotOurs`], [`BackupError::TooNew`], [`BackupError::Damaged`].
pub fn inspect(file: &[u8]) -> Result<Inspected<'_>, BackupError> {
    let Some(rest) = file.strip_prefix(MAGIC) else {
        let name = MAGIC.split(|byte| *byte == b' ').next().unwrap_or_default();
        let format = file.strip_prefix(name).and_then(|rest| rest.strip_prefix(b" "));
        let format = format
            .and_then(|rest| rest.iter().take(8).position(|byte| *byte == b'\n').map(|end| &rest[..end]));
        return Err(match format.map(|format| String::from_utf8_lossy(format).into_owned()) {
            Some(format) if format.parse::<u32>().is_ok() => BackupError::TooNew { format },
            _ if MAGIC.starts_with(file) => damaged("it is cut off"),
            _ => BackupError::NotOurs,
        });
    };
    let body_len = file.len().checked_sub(CHECKSUM_LEN).filter(|len| *len > MAGIC.len());
    let (body, checksum) = file.split_at(body_len.ok_or_else(|| damaged("it is cut off"))?);
    if blake3::hash(body).as_bytes() != checksum {
        return Err(damaged("its checksum is not that of its contents: it was cut off or changed"));
    }
    let end = rest.iter().take(HEADER_LEN_MAX).position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| damaged("its header has no end"))?;
    let header =
        serde_json::from_slice(&rest[..end]).map_err(|error| damaged(format!("its header: {error}")))?;
    Ok(Inspected { header, ciphertext: &body[MAGIC.len() + end + 1..] })
}

impl Inspected<'_> {
    /// Opens it, and checks all of it.
    ///
    /// # Errors
    /// [`BackupError::WrongIdentity`], [`BackupError::Damaged`].
    pub fn open(&self, identities: &Identities) -> Result<Contents, BackupError> {
        let decryptor =
            Decryptor::new(self.ciphertext).map_err(|error| damaged(format!("its encryption: {error}")))?;
        let identities = identities.0.iter().map(|identity| identity as &dyn age::Identity);
        let plain = decryptor.decrypt(identities).map_err(|error| match error {
            age::DecryptError::NoMatchingKeys => BackupError::WrongIdentity,
            other => damaged(format!("its encryption: {other}")),
        })?;
        let unpacked = zstd::Decoder::new(plain).map_err(failed("unpacking"))?;
        let contents = self.read_lines(BufReader::new(unpacked.take(CONTENTS_LEN_MAX)))?;
        let counted = (contents.counts(), contents.files.len() as u64);
        if counted != (self.header.records.clone(), self.header.files) {
            return Err(damaged("it does not hold what its header says"));
        }
        Ok(contents)
    }

    fn read_lines(&self, mut from: impl BufRead) -> Result<Contents, BackupError> {
        let mut contents = Contents { files: Vec::new(), snapshot: Snapshot::default() };
        let (mut text, mut header, mut ended) = (Zeroizing::new(Vec::new()), None, false);
        loop {
            text.clear();
            let read = from
                .read_until(b'\n', &mut text)
                .map_err(|error| damaged(format!("its contents: {error}")))?;
            if read == 0 {
                break;
            }
            let line =
                serde_json::from_slice(&text).map_err(|error| damaged(format!("its contents: {error}")))?;
            match line {
                _ if ended => return Err(damaged("it goes on after its end")),
                Line::Header(inner) if header.is_none() => header = Some(inner),
                _ if header.is_none() => return Err(damaged("it does not begin with its header")),
                Line::Header(_) => return Err(damaged("it has two headers")),
                Line::File(file) => contents.files.push(file),
                Line::Record { kind, key, owner, version, due, body } => {
                    let kind = Kind::of(&kind)
                        .ok_or_else(|| damaged(format!("a record of the unknown kind {kind:?}")))?;
                    let record = Record { kind, key, owner, version, body };
                    contents.snapshot.records.push(Saved { record, due: due.map(UnixMillis) });
                }
                Line::End { last_version, files, records } => {
                    contents.snapshot.last_version = last_version;
                    let counted = (contents.files.len() as u64, contents.snapshot.records.len() as u64);
                    if counted != (files, records) {
                        return Err(damaged("parts of it are missing"));
                    }
                    ended = true;
                }
            }
        }
        if !ended {
            return Err(damaged("it has no end"));
        }
        if header.as_ref() != Some(&self.header) {
            return Err(damaged("its header was changed"));
        }
        Ok(contents)
    }
}

/// Private keys that open backups.
pub struct Identities(Vec<x25519::Identity>);

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}

/// Whether an identity file is itself encrypted with a passphrase (as `age -p` does).
#[must_use]
pub fn needs_passphrase(file: &[u8]) -> bool {
    file.starts_with(b"age-encryption.org/v1\n")
}

impl Identities {
    /// Of an identity file: a line `AGE-SECRET-KEY-1…` for each, `#` begins a comment; the whole may be encrypted with a passphrase.
    ///
    /// # Errors
    /// [`BackupError::Identity`].
    pub fn read(file: &[u8], passphrase: Option<&Zeroizing<String>>) -> Result<Self, BackupError> {
        let wrong = |detail: &str| BackupError::Identity { detail: detail.into() };
        if file.len() > IDENTITY_LEN_MAX {
            return Err(wrong("the file is too long for one"));
        }
        let mut plain = Zeroizing::new(Vec::new());
        if needs_passphrase(file) {
            let passphrase = passphrase.ok_or_else(|| wrong("it is protected with a passphrase"))?;
            let identity = age::scrypt::Identity::new(SecretString::from(passphrase.to_string()));
            let decryptor = Decryptor::new(file).map_err(|_| wrong("it is damaged"))?;
            let mut reader = decryptor
                .decrypt(std::iter::once(&identity as &dyn age::Identity))
                .map_err(|_| wrong("the passphrase is another one"))?;
            reader.read_to_end(&mut plain).map_err(|_| wrong("it is damaged"))?;
        } else {
            plain.extend_from_slice(file);
        }
        let text = std::str::from_utf8(&plain).map_err(|_| wrong("it is no text"))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<_> = lines
            .map(|line| line.parse().map_err(|_| wrong("it has a line that is no AGE-SECRET-KEY-1…")))
            .collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(wrong("there is none in the file")) } else { Ok(Self(keys)) }
    }
}

/// A new identity file, encrypted with the passphrase if one is given, and its public key.
///
/// # Errors
/// [`BackupError::Io`].
pub fn new_identity(
    passphrase: Option<&Zeroizing<String>>,
) -> Result<(Zeroizing<Vec<u8>>, String), BackupError> {
    use age::secrecy::ExposeSecret;
    let identity = x25519::Identity::generate();
    let public = identity.to_public().to_string();
    let text = Zeroizing::new(format!(
        "# opens backups of Switchback's configuration server; public key: {public}\n{}\n",
        identity.to_string().expose_secret()
    ));
    let Some(passphrase) = passphrase else { return Ok((Zeroizing::new(text.as_bytes().to_vec()), public)) };
    let encryptor = Encryptor::with_user_passphrase(SecretString::from(passphrase.to_string()));
    let mut writer = encryptor.wrap_output(Vec::new()).map_err(failed("encrypting"))?;
    writer.write_all(text.as_bytes()).map_err(failed("encrypting"))?;
    Ok((Zeroizing::new(writer.finish().map_err(failed("encrypting"))?), public))
}

#[cfg(test)]
mod tests;
