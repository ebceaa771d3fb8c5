//! The table of prices: a file that the user edits, or the built-in one.
//!
//! What it never does: fetch a price. The built-in numbers are examples.

use std::collections::BTreeMap;
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::{ControlError, ErrorKind};

/// The file in the configuration server's directory.
pub const FILE: &str = "prices.toml";
/// As it is written for a user to edit, and used as long as there is none.
pub const BUILT_IN: &str = include_str!("prices.toml");
/// Of the file, at most.
const FILE_LEN_MAX: u64 = 1 << 20;

/// An amount of the table's currency: finite, not negative.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) struct Price(pub(super) f64);

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let price = f64::deserialize(deserializer)?;
        if price.is_finite() && price >= 0.0 {
            return Ok(Self(price));
        }
        Err(D::Error::custom(format!("a price must be a number of 0 or more, not {price}")))
    }
}

/// All prices.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PriceTable {
    /// Of all amounts: `EUR`.
    pub currency: String,
    /// When they were looked up, `YYYY-MM-DD`.
    pub date: String,
    /// Where from.
    pub source: String,
    pub(super) storage: Storage,
    pub(super) transactions: Transactions,
    #[serde(default)]
    pub(super) machines: BTreeMap<String, MachinePrice>,
    #[serde(default)]
    pub(super) disks: BTreeMap<String, Vec<DiskPrice>>,
}

/// Per GiB and month.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Storage {
    pub(super) page_blobs: Price,
    pub(super) kept: Price,
}

/// Per 10,000.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Transactions {
    pub(super) page_writes: Price,
    pub(super) block_uploads: Price,
}

/// A virtual machine's size.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct MachinePrice {
    pub(super) cores: u32,
    pub(super) memory_gib: u32,
    pub(super) per_hour: Price,
}

/// A managed disk's size.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct DiskPrice {
    pub(super) gib: u64,
    pub(super) per_month: Price,
}

impl PriceTable {
    /// A table as a user writes it.
    ///
    /// # Errors
    /// With the line and the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let table: Self = toml::from_str(text).map_err(|error| error.to_string().trim().to_owned())?;
        let is_date = |date: &str| {
            let digits = |(place, byte): (usize, u8)| {
                if matches!(place, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() }
            };
            date.len() == 10 && date.bytes().enumerate().all(digits)
        };
        let line =
            |key: &str| 1 + text.lines().position(|line| line.trim_start().starts_with(key)).unwrap_or(0);
        if !is_date(&table.date) {
            return Err(format!(
                "line {}: date = {:?} is not of the form YYYY-MM-DD",
                line("date"),
                table.date
            ));
        }
        if table.currency.trim().is_empty() {
            return Err(format!("line {}: currency is empty", line("currency")));
        }
        Ok(table)
    }

    /// The table in a directory, and where it comes from; without a file there, the built-in one.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the file cannot be read or is none, with the line and the key.
    pub fn in_force(directory: Option<&Path>) -> Result<(Self, String), ControlError> {
        let built_in = || (Self::parse(BUILT_IN).expect("a test reads it"), "built-in examples".to_owned());
        let Some(path) = directory.map(|directory| directory.join(FILE)) else { return Ok(built_in()) };
        let invalid = |why: String| {
            ControlError::new(ErrorKind::Invalid, "cost.prices", format!("{}: {why}", path.display()))
                .cause("the file was edited, and is not a table of prices any more")
                .remedy("put it right; `switchback site prices` checks it, and without the file the built-in examples are used")
        };
        match std::fs::metadata(&path) {
            Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(built_in()),
            Ok(found) if found.len() > FILE_LEN_MAX => {
                return Err(invalid(format!("{} bytes are too many", found.len())));
            }
            _ => {}
        }
        let text = std::fs::read_to_string(&path).map_err(|error| invalid(error.to_string()))?;
        Ok((Self::parse(&text).map_err(invalid)?, path.display().to_string()))
    }
}
