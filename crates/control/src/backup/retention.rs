//! Names of backups, and which of them are kept: pure.
//!
//! A name tells all that is needed to choose one: `20261124T124500123Z_continuous_0_3f2a9c01.backup` is the time (UTC, to the
//! millisecond, so that names sort by it), why it was made, the server's incarnation, and a random part that keeps two servers apart.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use switchback_model::UnixMillis;
use time::OffsetDateTime;

use super::format::{BackupError, Reason};

const SUFFIX: &str = ".backup";
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Which backups are kept: the newest, and beside them one for each hour and day. The newest of all is never removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    /// So many of the newest of each reason.
    pub last: u32,
    /// For so many hours the newest of each hour.
    pub hours: u32,
    /// For so many days the newest of each day (UTC).
    pub days: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Self { last: 24, hours: 24, days: 30 }
    }
}

/// A backup's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackupName {
    /// When it was made.
    pub made: UnixMillis,
    /// Why.
    pub reason: Reason,
    /// By which incarnation of the server.
    pub incarnation: u64,
    tail: String,
}

impl BackupName {
    /// A new name.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new(made: UnixMillis, reason: Reason, incarnation: u64) -> Result<Self, crate::ControlError> {
        Ok(Self { made, reason, incarnation, tail: crate::access::random_hex(4)? })
    }
}

impl fmt::Display for BackupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.made.0) * 1_000_000;
        let moment = OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|_| fmt::Error)?;
        let (year, month, day) = moment.to_calendar_date();
        let (hour, minute, second, milli) = moment.to_hms_milli();
        write!(
            f,
            "{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}{milli:03}Z_{}_{}_{}{SUFFIX}",
            u8::from(month),
            self.reason.as_str(),
            self.incarnation,
            self.tail
        )
    }
}

impl FromStr for BackupName {
    type Err = BackupError;

    fn from_str(text: &str) -> Result<Self, BackupError> {
        let parse = || {
            let mut parts = text.strip_suffix(SUFFIX)?.split('_');
            let (time, reason, incarnation, tail) =
                (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
            let is_tail = tail.len() == 8 && tail.bytes().all(|byte| byte.is_ascii_hexdigit());
            if parts.next().is_some() || !is_tail || time.len() != 19 || !time.is_ascii() {
                return None;
            }
            let number = |range: std::ops::Range<usize>| time[range].parse::<u16>().ok();
            let small = |range| number(range).and_then(|number| u8::try_from(number).ok());
            let month = time::Month::try_from(small(4..6)?).ok()?;
            let date = time::Date::from_calendar_date(i32::from(number(0..4)?), month, small(6..8)?).ok()?;
            let clock =
                time::Time::from_hms_milli(small(9..11)?, small(11..13)?, small(13..15)?, number(15..18)?)
                    .ok()?;
            let moment = OffsetDateTime::new_utc(date, clock).unix_timestamp_nanos() / 1_000_000;
            let name = Self {
                made: UnixMillis(u64::try_from(moment).ok()?),
                reason: Reason::of(reason)?,
                incarnation: incarnation.parse().ok()?,
                tail: tail.into(),
            };
            // Exactly as it would be written.
            (name.to_string() == text).then_some(name)
        };
        parse().ok_or_else(|| BackupError::Name { name: text.chars().take(100).collect() })
    }
}

/// Those that are kept no longer, oldest first.
#[must_use]
pub fn superfluous(names: &[BackupName], keep: &Keep, now: UnixMillis) -> Vec<BackupName> {
    let mut sorted: Vec<_> = names.iter().collect();
    sorted.sort_unstable();
    sorted.reverse();
    let mut kept: BTreeSet<&BackupName> = sorted.first().copied().into_iter().collect();
    for reason in Reason::ALL {
        let of_reason = sorted.iter().filter(|name| name.reason == reason);
        kept.extend(of_reason.take(usize::try_from(keep.last).unwrap_or(usize::MAX)).copied());
    }
    for (unit_ms, count) in [(HOUR_MS, keep.hours), (DAY_MS, keep.days)] {
        let mut seen = BTreeSet::new();
        for name in &sorted {
            let age = (now.0 / unit_ms).saturating_sub(name.made.0 / unit_ms);
            if age < u64::from(count) && seen.insert(name.made.0 / unit_ms) {
                kept.insert(name);
            }
        }
    }
    sorted.reverse();
    sorted.into_iter().filter(|name| !kept.contains(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(made: u64, reason: Reason) -> BackupName {
        BackupName { made: UnixMillis(made), reason, incarnation: 7, tail: "0011aaff".into() }
    }

    #[test]
    fn a_name_tells_its_time() {
        let name = name(1_732_441_234_567, Reason::Continuous);
        assert_eq!(name.to_string(), "20241124T094034567Z_continuous_7_0011aaff.backup");
        assert_eq!(name.to_string().parse::<BackupName>().unwrap(), name);
        for wrong in [
            "",
            "x.backup",
            "20241124T094034567Z_continuous_7_0011aaff",
            "20241324T094034567Z_continuous_7_0011aaff.backup",
            "20241124T094034567Z_other_7_0011aaff.backup",
            "20241124T094034567Z_continuous_7_0011aaff.backup.new",
            "20241124X094034567Z_continuous_7_0011aaff.backup",
            "20241124T094034567Z_continuous_07_0011aaff.backup",
            "2024112éT09403456Z_continuous_7_0011aaff.backup",
        ] {
            assert!(wrong.parse::<BackupName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_busy_day_leaves_the_newest_and_one_for_each_hour_and_day() {
        let now = 40 * DAY_MS + 5 * HOUR_MS + 1;
        let names: Vec<_> =
            (0..40 * 24 * 4).map(|quarter| name(now - quarter * HOUR_MS / 4, Reason::Continuous)).collect();
        let keep = Keep { last: 10, hours: 24, days: 30 };
        let gone = superfluous(&names, &keep, UnixMillis(now));
        let kept: Vec<_> = names.iter().filter(|name| !gone.contains(name)).collect();
        let newest = |unit: u64, back: u64| {
            names
                .iter()
                .map(|name| name.made.0)
                .filter(|made| made / unit == now / unit - back)
                .max()
                .unwrap()
        };
        for back in 0..24 {
            assert!(kept.iter().any(|name| name.made.0 == newest(HOUR_MS, back)), "hour {back}");
        }
        for back in 0..30 {
            assert!(kept.iter().any(|name| name.made.0 == newest(DAY_MS, back)), "day {back}");
        }
        assert!(kept.len() <= 10 + 24 + 30, "{}", kept.len());
        assert!(kept.iter().all(|name| name.made.0 / DAY_MS > now / DAY_MS - 30));
    }

    proptest! {
        #[test]
        fn the_newest_stays_and_a_second_look_finds_nothing(
            made in proptest::collection::vec(0_u64..100 * DAY_MS, 1..60), last in 1_u32..5, hours in 0_u32..30, days in 0_u32..40,
        ) {
            let names: Vec<_> = made.iter().enumerate()
                .map(|(at, made)| name(*made, Reason::ALL[at % 3])).collect();
            let (keep, now) = (Keep { last, hours, days }, UnixMillis(100 * DAY_MS));
            let gone = superfluous(&names, &keep, now);
            prop_assert!(!gone.contains(names.iter().max().unwrap()));
            let left: Vec<_> = names.iter().filter(|name| !gone.contains(name)).cloned().collect();
            prop_assert_eq!(superfluous(&left, &keep, now), vec![]);
        }
    }
}
