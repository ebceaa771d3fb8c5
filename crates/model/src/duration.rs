//! Times as users write them: `15s`, `500ms`, `1h30m`, `3d`; milliseconds inside.

/// Units, the longest first; names that begin alike, the longer first.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];
/// Ten years: nothing here takes longer.
const MAX: u64 = 10 * 366 * 86_400_000;

/// Milliseconds of a time.
///
/// # Errors
/// How it is to be written.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time; write it like 15s, 500ms, 1h30m or 3d");
    if text == "0" {
        return Ok(0);
    }
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let (unit, millis) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit)).ok_or_else(wrong)?;
        rest = &rest[unit.len()..];
        total = number
            .checked_mul(*millis)
            .and_then(|part| total.checked_add(part))
            .filter(|total| *total <= MAX)
            .ok_or_else(wrong)?;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

/// The shortest way to write it.
#[must_use]
pub fn show(millis: u64) -> String {
    let is_whole = |(_, unit): &&(&str, u64)| millis > 0 && millis.is_multiple_of(*unit);
    let longest = UNITS.iter().filter(is_whole).max_by_key(|(_, unit)| *unit);
    longest.map_or_else(|| format!("{}s", millis / 1000), |(name, unit)| format!("{}{name}", millis / unit))
}

#[cfg(test)]
mod tests {
    use super::{parse, show};

    #[test]
    fn times_are_read_and_shown() {
        let times =
            [("0", 0), ("0s", 0), ("500ms", 500), ("15s", 15_000), ("1h", 3_600_000), ("3d", 259_200_000)];
        for (text, millis) in times {
            assert_eq!(parse(text), Ok(millis), "{text}");
        }
        assert_eq!(parse("1h30m"), Ok(5_400_000));
        assert_eq!(
            [show(0), show(500), show(15_000), show(5_400_000), show(86_400_000)],
            ["0s", "500ms", "15s", "90m", "1d"]
        );
        for bad in ["", "15", "s", "-1s", "1.5h", "1 h", "1y", "99999999999999999999s", "4000d"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
