//! Times as the contract has them: RFC 3339 in UTC.

use switchback_model::UnixMillis;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What the service shows for "never" (its database's smallest time).
pub(crate) const NEVER: &str = "1753-01-01T01:01:01Z";

/// A moment, to the millisecond; [`NEVER`] for one that no calendar has.
pub(crate) fn show(time: UnixMillis) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.0) * 1_000_000);
    moment.ok().and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| NEVER.into())
}

/// The same, of a moment that may not have come.
pub(crate) fn show_option(time: Option<UnixMillis>) -> Option<String> {
    time.map(show)
}

/// Reads what a client sent; moments before 1970 are taken for its beginning.
pub(crate) fn parse(text: &str) -> Option<UnixMillis> {
    let moment = OffsetDateTime::parse(text.trim(), &Rfc3339).ok()?;
    let millis = moment.unix_timestamp_nanos() / 1_000_000;
    Some(UnixMillis(u64::try_from(millis).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use switchback_model::UnixMillis;

    use super::{NEVER, parse, show};

    #[test]
    fn moments_survive_text() {
        assert_eq!(show(UnixMillis(0)), "1970-01-01T00:00:00Z");
        assert_eq!(show(UnixMillis(1_732_441_234_567)), "2024-11-24T09:40:34.567Z");
        for millis in [0, 1, 1_732_441_234_567] {
            assert_eq!(parse(&show(UnixMillis(millis))), Some(UnixMillis(millis)));
        }
        assert_eq!(parse("2024-11-24T10:40:34.567+01:00"), Some(UnixMillis(1_732_441_234_567)));
        assert_eq!(parse(NEVER), Some(UnixMillis(0)));
        assert_eq!(parse("yesterday"), None);
        assert_eq!(show(UnixMillis(u64::MAX)), NEVER);
    }
}
