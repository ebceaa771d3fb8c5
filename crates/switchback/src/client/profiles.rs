//! Profiles: which configuration server, known by which authority, with which token.
//!
//! `~/.config/switchback/profiles.toml`:
//! ```toml
//! default = "prod"
//!
//! [profiles.prod]
//! server = "https://cs.example:443"
//! authority = "-----BEGIN CERTIFICATE-----…"
//! token = "…"
//! ```
//! Invariants: the file has secrets, so it is for its owner alone (mode 0600): one that others can read is refused, not read. It is replaced
//! atomically, and changed by one process at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use switchback_disk::{DirVolume, OpenVolumeError, Volume};
use zeroize::Zeroizing;

const FILE: &str = "profiles.toml";
/// Longest file in bytes.
const LEN_MAX: usize = 1 << 20;

/// A profile.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// `https://HOST[:PORT]`.
    pub server: String,
    /// The authority's certificate in PEM.
    pub authority: String,
    /// The secret.
    pub token: String,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("server", &self.server).finish_non_exhaustive()
    }
}

/// All profiles of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// The one that is used when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// By name.
    #[serde(default)]
    pub profiles: BTreeMap<String, Profile>,
}

/// Why profiles cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProfilesError {
    /// There is no home directory.
    #[error("there is no place for profiles: neither HOME nor XDG_CONFIG_HOME is set")]
    Nowhere,
    /// Others can read the secrets.
    #[error("{path} can be read by others (mode {mode:03o}); make it yours alone: chmod 600 {path}")]
    Mode {
        /// The file.
        path: String,
        /// Its permissions.
        mode: u32,
    },
    /// It is not understood.
    #[error("{path} is not understood: {why}; correct it, or remove it and add the profiles anew")]
    Malformed {
        /// The file.
        path: String,
        /// Where and what.
        why: String,
    },
    /// The operating system refuses.
    #[error("the profiles in {path} cannot be {doing}")]
    Io {
        /// The file.
        path: String,
        /// What was tried.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The directory cannot be opened or made.
    #[error("the directory of the profiles cannot be used")]
    Directory(#[from] OpenVolumeError),
}

/// The directory of a user's profiles.
///
/// # Errors
/// [`ProfilesError::Nowhere`].
pub fn directory(environment: impl Fn(&str) -> Option<String>) -> Result<PathBuf, ProfilesError> {
    let set = |name| environment(name).filter(|value| Path::new(value).is_absolute());
    let configuration = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let configuration = configuration.or_else(|| set("HOME").map(|home| Path::new(&home).join(".config")));
    Ok(configuration.ok_or(ProfilesError::Nowhere)?.join("switchback"))
}

/// Reads the profiles; there being none yet is no error.
///
/// # Errors
/// [`ProfilesError`].
pub fn load(directory: &Path) -> Result<Profiles, ProfilesError> {
    let path = directory.join(FILE);
    let shown = path.display().to_string();
    let failed = |source| ProfilesError::Io { path: shown.clone(), doing: "read", source };
    let mode = match std::fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Profiles::default()),
        Err(error) => return Err(failed(error)),
        Ok(facts) => facts.permissions().mode() & 0o777,
    };
    if mode & 0o077 != 0 {
        return Err(ProfilesError::Mode { path: shown, mode });
    }
    let volume = DirVolume::open(directory)?;
    let bytes = Zeroizing::new(volume.read_all(FILE, LEN_MAX).map_err(failed)?);
    let malformed = |why: String| ProfilesError::Malformed { path: shown.clone(), why };
    let text = std::str::from_utf8(&bytes).map_err(|error| malformed(error.to_string()))?;
    // Not the error's own text, which quotes the line: it may be the one with the token.
    toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
        malformed(match line {
            Some(line) => format!("line {line}: {}", error.message()),
            None => error.message().to_owned(),
        })
    })
}

/// Changes the profiles, durably; makes their directory if need be.
///
/// # Errors
/// [`ProfilesError`].
pub fn update(directory: &Path, change: impl FnOnce(&mut Profiles)) -> Result<Profiles, ProfilesError> {
    let failed = |doing| {
        let path = directory.join(FILE).display().to_string();
        move |source| ProfilesError::Io { path, doing, source }
    };
    let volume = match DirVolume::open(directory) {
        Ok(volume) => volume,
        Err(error) if directory.exists() => return Err(error.into()),
        Err(_) => {
            if let Some(parent) = directory.parent() {
                std::fs::create_dir_all(parent).map_err(failed("stored"))?;
            }
            DirVolume::create(directory)?
        }
    };
    let _lock = volume.lock().map_err(failed("changed"))?;
    let mut profiles = load(directory)?;
    change(&mut profiles);
    let text = toml::to_string(&profiles).map_err(|error| failed("written")(io::Error::other(error)))?;
    let text = Zeroizing::new(text);
    volume.write_atomic(FILE, text.as_bytes()).map_err(failed("stored"))?;
    Ok(profiles)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{FILE, Profile, ProfilesError, directory, load, update};

    fn profile(server: &str) -> Profile {
        Profile { server: server.into(), authority: "-----BEGIN".into(), token: "secret".into() }
    }

    #[test]
    fn what_was_stored_is_read_again_and_for_the_owner_alone() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().join("config/switchback");
        assert_eq!(load(&place).unwrap(), super::Profiles::default());
        for name in ["a", "b"] {
            update(&place, |all| {
                all.default.get_or_insert_with(|| name.into());
                all.profiles.insert(name.into(), profile(name));
            })
            .unwrap();
        }
        let read = load(&place).unwrap();
        assert_eq!((read.default.as_deref(), read.profiles.len()), (Some("a"), 2));
        assert_eq!(read.profiles["b"], profile("b"));
        assert!(!format!("{read:?}").contains("secret"));
        let mode = std::fs::metadata(place.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let place = tempfile::tempdir().unwrap();
        update(place.path(), |_| {}).unwrap();
        let file = place.path().join(FILE);
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
            let refused = load(place.path());
            assert!(
                matches!(refused, Err(ProfilesError::Mode { mode: found, .. }) if found == mode),
                "{refused:?}"
            );
            assert!(update(place.path(), |_| {}).is_err());
        }
    }

    #[test]
    fn bad_toml_is_told_with_its_line_but_without_its_text() {
        let place = tempfile::tempdir().unwrap();
        update(place.path(), |_| {}).unwrap();
        let bad =
            ["default = \"a\"\n[profiles.a]\nserver = 1\n", "[profiles.a]\n\ntoken = secret\n", "a = 1\n"];
        for (text, line) in bad.into_iter().zip([3, 3, 1]) {
            std::fs::write(place.path().join(FILE), text).unwrap();
            let shown = load(place.path()).unwrap_err().to_string();
            assert!(shown.contains(&format!("line {line}:")), "{shown}");
            assert!(!shown.contains("secret"), "{shown}");
        }
    }

    #[test]
    fn profiles_are_where_the_desktop_says_configuration_is() {
        let place = |set: &'static [(&str, &str)]| {
            directory(|name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into()))
                .ok()
        };
        assert_eq!(place(&[("HOME", "/h")]), Some("/h/.config/switchback".into()));
        assert_eq!(place(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]), Some("/c/switchback".into()));
        assert_eq!(place(&[("XDG_CONFIG_HOME", "relative")]), None);
    }
}
