//! Quantities for people.

use std::fmt;

/// A number of bytes that displays with a binary unit: `1.5 GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let (mut tenths, mut unit) = (u128::from(self.0) * 10 / 1024, 0);
        while tenths >= 10_240 {
            tenths /= 1024;
            unit += 1;
        }
        write!(f, "{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSize;

    #[test]
    fn displays_with_the_largest_unit_that_keeps_a_whole_part() {
        let shown = [0, 1023, 1024, 1536, 1 << 20, (1 << 30) - 1, u64::MAX].map(|n| ByteSize(n).to_string());
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1023.9 MiB", "15.9 EiB"]);
    }
}
