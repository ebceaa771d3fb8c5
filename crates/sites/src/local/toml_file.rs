//! A TOML file that people write: every mistake in it is told with file, line and key.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::SiteError;

/// Some thousand disks; whatever is longer is no description.
const LEN_MAX: u64 = 1 << 20;

/// A file's text.
#[derive(Debug)]
pub(super) struct TomlFile {
    path: PathBuf,
    text: String,
}

impl TomlFile {
    /// Reads a file; `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, SiteError> {
        let reading = || format!("reading {}", path.display());
        let len = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SiteError::failed(reading(), error)),
        };
        if len > LEN_MAX {
            return Err(SiteError::failed(reading(), format!("it has {len} bytes, more than {LEN_MAX}")));
        }
        match fs::read_to_string(path) {
            Ok(text) => Ok(Some(Self { path: path.to_owned(), text })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SiteError::failed(reading(), error)),
        }
    }

    /// What it says.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, SiteError> {
        toml::from_str(&self.text).map_err(|error| {
            let line = self.line_at(error.span().map_or(0, |span| span.start));
            let said = self.text.lines().nth(line - 1).unwrap_or_default().trim();
            let problem = error.message().trim().replace('\n', " ");
            self.wrong_at(line, if said.is_empty() { problem } else { format!("`{said}`: {problem}") })
        })
    }

    /// An error about `key` (`disks.1.path`: of the second disk), which could be parsed but cannot be right.
    pub(super) fn wrong(&self, key: &str, problem: impl AsRef<str>) -> SiteError {
        self.wrong_at(self.line_of(key), format!("`{key}`: {}", problem.as_ref()))
    }

    fn wrong_at(&self, line: usize, problem: String) -> SiteError {
        SiteError::Description { file: self.path.clone(), line, problem }
    }

    /// The line of a key, or of the innermost table or array around it that is there.
    fn line_of(&self, key: &str) -> usize {
        let Ok(table) = DeTable::parse(&self.text) else { return 1 };
        let mut at = table.span().start;
        let mut parts = key.split('.');
        let mut value: Option<&Spanned<DeValue<'_>>> =
            parts.next().and_then(|first| table.get_ref().get(first));
        while let Some(found) = value {
            at = found.span().start;
            value = parts.next().and_then(|part| match (part.parse::<usize>(), found.get_ref()) {
                (Ok(index), DeValue::Array(array)) => array.get(index),
                (_, DeValue::Table(table)) => table.get(part),
                _ => None,
            });
        }
        self.line_at(at)
    }

    fn line_at(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        before.filter(|byte| **byte == b'\n').count() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Example {
        #[expect(dead_code, reason = "only parsed")]
        cpus: u32,
    }

    fn file(text: &str) -> TomlFile {
        TomlFile { path: PathBuf::from("/m/machine.toml"), text: text.to_owned() }
    }

    #[test]
    fn a_mistake_is_told_with_file_line_and_key() {
        let message = |text: &str| file(text).parse::<Example>().unwrap_err().to_string();
        let unknown = message("cpus = 2\n\ncpu = 3\n");
        assert!(unknown.starts_with("/m/machine.toml, line 3: `cpu = 3`: unknown field"), "{unknown}");
        let kind = message("# comment\ncpus = \"two\"\n");
        assert!(kind.starts_with("/m/machine.toml, line 2: `cpus = \"two\"`: invalid type"), "{kind}");
        let syntax = message("cpus = = 2\n");
        assert!(syntax.starts_with("/m/machine.toml, line 1: `cpus = = 2`"), "{syntax}");
        let missing = message("\n");
        assert!(missing.contains("missing field `cpus`"), "{missing}");
    }

    #[test]
    fn a_wrong_value_is_found_by_its_key() {
        let file = file("name = \"a\"\n[[disks]]\npath = \"/x\"\n[[disks]]\npath = \"/y\"\nsize = 3\n");
        let line = |key: &str| file.line_of(key);
        assert_eq!(line("name"), 1);
        assert_eq!(line("disks.0.path"), 3);
        assert_eq!(line("disks.1.path"), 5);
        assert_eq!(line("disks.1.serial"), 4, "what is missing is where its disk begins");
        assert_eq!(line("absent"), 1);
        let shown = file.wrong("disks.1.size", "must be more").to_string();
        assert_eq!(shown, "/m/machine.toml, line 6: `disks.1.size`: must be more");
    }
}
