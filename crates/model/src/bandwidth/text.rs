//! Limits as people write them: rates `10M`, windows `mon-fri/08:00-18:00=2M`, offsets `+01:00`. What is written can be read again.

use super::Window;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Bytes per second of a rate; `None` for `none`.
///
/// # Errors
/// How it is to be written.
pub fn read_rate(text: &str) -> Result<Option<u64>, String> {
    if text == "none" {
        return Ok(None);
    }
    let wrong = || format!("{text:?} is no rate: bytes per second, as 500k or 10M, or none");
    let (digits, factor) = match text.chars().last() {
        Some('k') => (&text[..text.len() - 1], 1_000),
        Some('M') => (&text[..text.len() - 1], 1_000_000),
        Some('G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    Ok(Some(number.checked_mul(factor).ok_or_else(wrong)?))
}

fn minute(text: &str) -> Result<u16, String> {
    let wrong = || format!("{text:?} is no time of day: write it like 08:30");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let (hour, minute): (u16, u16) =
        (hour.parse().map_err(|_| wrong())?, minute.parse().map_err(|_| wrong())?);
    if hour > 24 || minute > 59 || hour == 24 && minute > 0 { Err(wrong()) } else { Ok(hour * 60 + minute) }
}

fn days(text: &str) -> Result<Vec<u8>, String> {
    let day = |name: &str| {
        let found = DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("{name:?} is no day: {}", DAYS.join(", ")))
    };
    let mut all = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (day(from)?, day(to)?);
        let count = (to + 7 - from) % 7 + 1;
        all.extend((from..from + count).map(|day| u8::try_from(day % 7).unwrap_or_default()));
    }
    Ok(all)
}

/// A window.
///
/// # Errors
/// How it is to be written.
pub fn read_window(text: &str) -> Result<Window, String> {
    let wrong = || format!("{text:?} is no window: write it like mon-fri/08:00-18:00=2M");
    let (when, limit) = text.split_once('=').ok_or_else(wrong)?;
    let (on, times) = when.split_once('/').ok_or_else(wrong)?;
    let (from, to) = times.split_once('-').ok_or_else(wrong)?;
    let bytes_per_s_max = read_rate(limit)?;
    let (from_minute, to_minute) = (minute(from)?, minute(to)?);
    Ok(Window { days: days(on)?, from_minute, to_minute, bytes_per_s_max })
}

/// Minutes of local time from UTC.
///
/// # Errors
/// How it is to be written.
pub fn read_offset(text: &str) -> Result<i16, String> {
    let wrong = || format!("{text:?} is no offset from UTC: write it like +01:00 or -05:30");
    let (sign, rest) = match text.split_at_checked(1) {
        Some(("+", rest)) => (1, rest),
        Some(("-", rest)) => (-1, rest),
        _ => return Err(wrong()),
    };
    let minutes = i16::try_from(minute(rest).map_err(|_| wrong())?).map_err(|_| wrong())?;
    Ok(sign * minutes)
}

/// A rate as [`read_rate`] reads it.
#[must_use]
pub fn write_rate(rate: Option<u64>) -> String {
    let units = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    rate.map_or_else(
        || "none".into(),
        |rate| match units.into_iter().find(|(factor, _)| rate > 0 && rate.is_multiple_of(*factor)) {
            Some((factor, unit)) => format!("{}{unit}", rate / factor),
            None => rate.to_string(),
        },
    )
}

/// A time of day.
#[must_use]
pub fn write_minute(minute: u16) -> String {
    format!("{:02}:{:02}", minute / 60, minute % 60)
}

/// Days as they are listed.
#[must_use]
pub fn write_days(days: &[u8]) -> String {
    let names = days.iter().filter_map(|day| DAYS.get(usize::from(*day)).copied());
    names.collect::<Vec<_>>().join(",")
}

/// A window as [`read_window`] reads it.
#[must_use]
pub fn write_window(window: &Window) -> String {
    let (from, to) = (write_minute(window.from_minute), write_minute(window.to_minute));
    format!("{}/{from}-{to}={}", write_days(&window.days), write_rate(window.bytes_per_s_max))
}

/// An offset as [`read_offset`] reads it.
#[must_use]
pub fn write_offset(minutes: i16) -> String {
    let sign = if minutes < 0 { '-' } else { '+' };
    format!("{sign}{}", write_minute(minutes.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::{days, read_offset, read_rate, read_window, write_offset, write_rate, write_window};

    #[test]
    fn rates_windows_and_offsets_are_read_and_written() {
        let rates = [
            ("10M", Some(10_000_000)),
            ("500k", Some(500_000)),
            ("2G", Some(2_000_000_000)),
            ("1234", Some(1234)),
            ("none", None),
        ];
        for (text, rate) in rates {
            assert_eq!(read_rate(text).unwrap(), rate);
            assert_eq!(write_rate(rate), text);
        }
        assert_eq!(days("fri-mon").unwrap(), [4, 5, 6, 0]);
        let read = read_window("mon-fri/08:00-18:30=2M").unwrap();
        assert_eq!((read.days.len(), read.from_minute, read.to_minute), (5, 480, 1110));
        assert_eq!(write_window(&read), "mon,tue,wed,thu,fri/08:00-18:30=2M");
        assert_eq!(read_window(&write_window(&read)), Ok(read));
        for (text, minutes) in [("+05:30", 330), ("-01:00", -60), ("+00:00", 0)] {
            assert_eq!((read_offset(text), write_offset(minutes).as_str()), (Ok(minutes), text));
        }
        for bad in [
            "",
            "mon/08:00=1M",
            "mon/8-9=1M",
            "day/08:00-09:00=1M",
            "mon/08:00-25:00=1M",
            "mon/08:00-09:00=x",
        ] {
            assert!(read_window(bad).is_err(), "{bad}");
        }
        assert!(read_offset("1").is_err() && read_rate("1T").is_err() && read_rate("").is_err());
    }
}
