//! How much a process server may forward, and when: limits with windows of the week, for all of it and for each target.
//!
//! Pure: which limit is in force is computed from a time that is given. Windows are in a local time whose offset from UTC is said with them and does not
//! change by itself: where clocks are set for summer, somebody has to say so. A window that ends before it begins goes on into the next day, and
//! belongs to the day that it begins on. Of several windows the first that holds counts.

pub mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::UnixMillis;

const MINUTES_A_DAY: i64 = 24 * 60;
const DAYS_A_WEEK: i64 = 7;
/// 1970-01-01 was a Thursday; weeks begin on Monday.
const FIRST_DAY: i64 = 3;
/// Farthest that local time is from UTC, in minutes: 14 hours (Kiribati).
const OFFSET_MAX: i16 = 14 * 60;
/// Windows of one limit, and targets, at most.
const COUNT_MAX: usize = 32;
/// The lowest limit there is, in bytes per second: below it not even signs of life would get through in time.
pub const BYTES_PER_S_MIN: u64 = 64 << 10;

/// How much a process server may forward.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Bandwidth {
    /// Of local time from UTC, in minutes: 60 is +01:00.
    pub utc_offset_minutes: i16,
    /// All together.
    pub total: Limit,
    /// To each of these master targets, by name in lower case.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub targets: BTreeMap<String, Limit>,
}

/// A limit that depends on the time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limit {
    /// Bytes per second where no window holds; `None`: as many as can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s_max: Option<u64>,
    /// When it is another.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
}

/// A part of the week.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Window {
    /// On which days it begins: 0 is Monday, 6 Sunday.
    pub days: Vec<u8>,
    /// Minutes after midnight; up to 1439.
    pub from_minute: u16,
    /// Minutes after midnight, not included; up to 1440.
    pub to_minute: u16,
    /// Bytes per second; `None`: as many as can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s_max: Option<u64>,
}

impl Window {
    /// Whether it holds at a minute of a week.
    fn holds(&self, minute_of_week: i64) -> bool {
        let (from, to) = (i64::from(self.from_minute), i64::from(self.to_minute));
        let len = if to > from { to - from } else { to - from + MINUTES_A_DAY };
        let week = DAYS_A_WEEK * MINUTES_A_DAY;
        self.days
            .iter()
            .any(|day| (minute_of_week - i64::from(*day) * MINUTES_A_DAY - from).rem_euclid(week) < len)
    }

    fn check(&self) -> Result<(), String> {
        if self.days.is_empty() || self.days.iter().any(|day| *day > 6) {
            return Err("a window has days from 0 (Monday) to 6 (Sunday)".into());
        }
        if self.from_minute >= 1440 || self.to_minute > 1440 || self.from_minute == self.to_minute {
            return Err("a window begins at minute 0 to 1439 of a day and ends at another, up to 1440".into());
        }
        rate(self.bytes_per_s_max)
    }
}

fn rate(bytes_per_s: Option<u64>) -> Result<(), String> {
    match bytes_per_s {
        Some(rate) if rate < BYTES_PER_S_MIN => {
            Err(format!("a limit is {BYTES_PER_S_MIN} bytes per second at least"))
        }
        _ => Ok(()),
    }
}

impl Limit {
    /// What is in force at a minute of a week, in bytes per second.
    fn at(&self, minute_of_week: i64) -> Option<u64> {
        let window = self.windows.iter().find(|window| window.holds(minute_of_week));
        window.map_or(self.bytes_per_s_max, |window| window.bytes_per_s_max)
    }

    fn check(&self) -> Result<(), String> {
        if self.windows.len() > COUNT_MAX {
            return Err(format!("a limit has {COUNT_MAX} windows at most"));
        }
        rate(self.bytes_per_s_max)?;
        self.windows.iter().try_for_each(Window::check)
    }
}

impl Bandwidth {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// What does not, in words.
    pub fn check(&self) -> Result<(), String> {
        if !(-OFFSET_MAX..=OFFSET_MAX).contains(&self.utc_offset_minutes) {
            return Err(format!("local time is {OFFSET_MAX} minutes from UTC at most"));
        }
        if self.targets.len() > COUNT_MAX {
            return Err(format!("there are limits for {COUNT_MAX} targets at most"));
        }
        self.total.check()?;
        self.targets.values().try_for_each(Limit::check)
    }

    fn minute_of_week(&self, now: UnixMillis) -> i64 {
        let minute =
            i64::try_from(now.0 / 60_000).unwrap_or(i64::MAX / 2) + i64::from(self.utc_offset_minutes);
        (minute + FIRST_DAY * MINUTES_A_DAY).rem_euclid(DAYS_A_WEEK * MINUTES_A_DAY)
    }

    /// Bytes per second in force now for all together; `None`: no limit.
    #[must_use]
    pub fn total_at(&self, now: UnixMillis) -> Option<u64> {
        self.total.at(self.minute_of_week(now))
    }

    /// Bytes per second in force now towards a master target, beside that for all together; `None`: no limit.
    #[must_use]
    pub fn target_at(&self, target: &str, now: UnixMillis) -> Option<u64> {
        self.targets.get(&target.to_lowercase())?.at(self.minute_of_week(now))
    }
}

#[cfg(test)]
mod tests {
    use super::{Bandwidth, Limit, Window};
    use crate::UnixMillis;

    const MB: u64 = 1_000_000;

    /// 2026-11-30 is a Monday; midnight UTC.
    const MONDAY: u64 = 1_795_996_800_000;

    fn at(day: u64, hour: u64, minute: u64) -> UnixMillis {
        UnixMillis(MONDAY + ((day * 24 + hour) * 60 + minute) * 60_000)
    }

    fn window(days: &[u8], from: u16, to: u16, rate: Option<u64>) -> Window {
        Window { days: days.to_vec(), from_minute: from * 60, to_minute: to * 60, bytes_per_s_max: rate }
    }

    fn work() -> Bandwidth {
        let windows = vec![window(&[0, 1, 2, 3, 4], 8, 18, Some(MB)), window(&[6], 22, 6, Some(2 * MB))];
        let total = Limit { bytes_per_s_max: Some(10 * MB), windows };
        Bandwidth { total, ..Bandwidth::default() }
    }

    #[test]
    fn windows_hold_from_their_first_minute_to_before_their_last() {
        let limit = work();
        limit.check().unwrap();
        for (day, hour, minute, rate) in [
            (0, 7, 59, 10),
            (0, 8, 0, 1),
            (4, 17, 59, 1),
            (4, 18, 0, 10),
            (5, 12, 0, 10),
            // Over midnight, and over the end of the week.
            (6, 21, 59, 10),
            (6, 22, 0, 2),
            (7, 5, 59, 2),
            (7, 6, 0, 10),
            (7, 8, 0, 1),
        ] {
            assert_eq!(limit.total_at(at(day, hour, minute)), Some(rate * MB), "{day} {hour}:{minute}");
        }
    }

    #[test]
    fn local_time_is_what_counts() {
        let mut limit = work();
        limit.utc_offset_minutes = 330;
        assert_eq!(limit.total_at(at(0, 2, 29)), Some(10 * MB));
        assert_eq!(limit.total_at(at(0, 2, 30)), Some(MB));
        limit.utc_offset_minutes = -300;
        assert_eq!(limit.total_at(at(0, 12, 59)), Some(10 * MB));
        assert_eq!(limit.total_at(at(0, 13, 0)), Some(MB));
    }

    #[test]
    fn the_first_window_counts_and_each_target_has_its_own() {
        let mut limit = Bandwidth::default();
        assert_eq!(limit.total_at(at(0, 9, 0)), None);
        let windows = vec![window(&[0], 9, 10, None), window(&[0], 0, 24, Some(MB))];
        limit.targets.insert("mt1".into(), Limit { bytes_per_s_max: Some(3 * MB), windows });
        assert_eq!(limit.target_at("MT1", at(0, 9, 30)), None);
        assert_eq!(limit.target_at("mt1", at(0, 10, 0)), Some(MB));
        assert_eq!(limit.target_at("mt1", at(1, 10, 0)), Some(3 * MB));
        assert_eq!(limit.target_at("mt2", at(1, 10, 0)), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let with = |window: Window| Bandwidth {
            total: Limit { bytes_per_s_max: None, windows: vec![window] },
            ..Bandwidth::default()
        };
        for bad in [
            window(&[], 8, 18, None),
            window(&[7], 8, 18, None),
            window(&[0], 8, 8, None),
            window(&[0], 24, 8, None),
            window(&[0], 8, 25, None),
            window(&[0], 8, 18, Some(1000)),
        ] {
            assert!(with(bad.clone()).check().is_err(), "{bad:?}");
        }
        assert!(Bandwidth { utc_offset_minutes: 900, ..Bandwidth::default() }.check().is_err());
    }
}
