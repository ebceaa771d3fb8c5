//! Times, ages and sizes for people.

use switchback_model::UnixMillis;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

const MOMENT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
const ISO: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");

/// A moment, and how long ago it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// `2026-11-30 12:00:00 UTC`.
    pub(crate) text: String,
    /// For programs.
    pub(crate) iso: String,
    /// `3 min ago`.
    pub(crate) ago: String,
}

impl Moment {
    pub(crate) fn of(at: UnixMillis, now: UnixMillis) -> Self {
        let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000_000).ok();
        let show =
            |format| moment.and_then(|moment| moment.format(format).ok()).unwrap_or_else(|| "never".into());
        let ago = match now.0.checked_sub(at.0) {
            Some(ms) => format!("{} ago", span(ms)),
            None => format!("in {}", span(at.0 - now.0)),
        };
        Self { text: show(MOMENT), iso: show(ISO), ago }
    }
}

/// A span of milliseconds in the unit that says enough of it: `12 s`, `3 min`, `5 h`, `2 d`.
pub(crate) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use switchback_model::UnixMillis;

    use super::{Moment, span};

    #[test]
    fn spans_have_the_unit_that_says_enough() {
        let shown = [0, 999, 119_999, 120_000, 7_199_000, 7_200_000, 172_800_000].map(span);
        assert_eq!(shown, ["0 s", "0 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }

    #[test]
    fn moments_are_shown_in_utc_and_by_their_age() {
        let at = UnixMillis(1_732_441_234_567);
        let moment = Moment::of(at, UnixMillis(at.0 + 3_000));
        assert_eq!(
            (moment.text.as_str(), moment.iso.as_str(), moment.ago.as_str()),
            ("2024-11-24 09:40:34 UTC", "2024-11-24T09:40:34Z", "3 s ago")
        );
        assert_eq!(Moment::of(at, UnixMillis(at.0 - 60_000)).ago, "in 60 s");
        assert_eq!(Moment::of(UnixMillis(u64::MAX), at).text, "never");
    }
}
