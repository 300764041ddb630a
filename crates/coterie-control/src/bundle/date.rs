//! Times for people (RFC 3339, UTC) and for certificates.

use coterie_model::UnixTime;
use time::OffsetDateTime;

/// The last second that a certificate can express: 9999-12-31T23:59:59Z.
const LAST: u64 = 253_402_300_799;

/// `2026-11-24T07:45:45Z`; times after the year 9999 are shown as its end.
pub(crate) fn text(t: UnixTime) -> String {
    let d = date_time(t);
    let (year, month, day) = (d.year(), u8::from(d.month()), d.day());
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        d.hour(),
        d.minute(),
        d.second()
    )
}

/// The same for an X.509 library.
pub(crate) fn date_time(t: UnixTime) -> OffsetDateTime {
    let seconds = i64::try_from(t.0.min(LAST)).expect("the year 9999 fits 63 bits of seconds");
    OffsetDateTime::from_unix_timestamp(seconds).expect("the library covers the years to 9999")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_rfc_3339() {
        assert_eq!(text(UnixTime(0)), "1970-01-01T00:00:00Z");
        assert_eq!(text(UnixTime(951_782_399)), "2000-02-28T23:59:59Z");
        assert_eq!(text(UnixTime(951_782_400)), "2000-02-29T00:00:00Z");
        assert_eq!(text(UnixTime(u64::MAX)), "9999-12-31T23:59:59Z");
    }
}
