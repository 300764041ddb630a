//! The wall clock, and times for people.

use std::time::{Duration, SystemTime};

use coterie_model::UnixTime;
use time::OffsetDateTime;

/// The machine's clock.
pub(crate) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime(since.map_or(0, |since| since.as_secs()))
}

/// `2026-11-24T07:45:45Z` (RFC 3339).
pub(crate) fn date(t: UnixTime) -> String {
    const LAST: u64 = 253_402_300_799;
    let seconds = i64::try_from(t.0.min(LAST)).expect("the year 9999 fits 63 bits of seconds");
    let d = OffsetDateTime::from_unix_timestamp(seconds).expect("the library covers the years to 9999");
    let (year, month, day) = (d.year(), u8::from(d.month()), d.day());
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        d.hour(),
        d.minute(),
        d.second()
    )
}

/// `in 59 min` or `3 s ago`.
pub(crate) fn relative(t: UnixTime, now: UnixTime) -> String {
    if t > now {
        format!("in {}", span(t.since(now)))
    } else {
        format!("{} ago", span(now.since(t)))
    }
}

/// A span in its largest unit: `3 s`, `59 min`, `5 h`, `30 d`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Milliseconds with as many digits as they deserve: `0.31 ms`, `4.2 ms`, `37 ms`.
pub(crate) fn milliseconds(ms: f64) -> String {
    let digits = if ms < 1.0 {
        2
    } else if ms < 10.0 {
        1
    } else {
        0
    };
    format!("{ms:.digits$} ms")
}

/// A span as people type it: `500ms`, `2s`, `1.5s`, `10m`, `1h`, `30d`; a bare number is seconds.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let fault =
        || format!("`{text}` is no span of time; write a number and ms, s, m, h or d, such as 500ms, 60s or 30d");
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => return Err(fault()),
    };
    let number: f64 = number.parse().map_err(|_| fault())?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| fault())
}

/// A span that a server keeps, which counts whole seconds: at least one.
pub(crate) fn parse_lasting_span(text: &str) -> Result<Duration, String> {
    let span = parse_span(text)?;
    if span.as_secs() == 0 {
        return Err(format!("`{text}` is over at once; write 1s or more"));
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_in_and_go_out() {
        assert_eq!(parse_span("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_span("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_span("30d"), Ok(Duration::from_secs(30 * 86_400)));
        for bad in ["", "s", "-1s", "1 s", "1w", "1e3", "..s", "99999999999999999999d"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_lasting_span("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["0", "0s", "999ms", "1w"] {
            assert!(parse_lasting_span(bad).is_err(), "{bad}");
        }
        assert_eq!(span(Duration::from_secs(59 * 60)), "59 min");
        assert_eq!(date(UnixTime(951_782_400)), "2000-02-29T00:00:00Z");
        assert_eq!(relative(UnixTime(100), UnixTime(97)), "in 3 s");
        assert_eq!(relative(UnixTime(0), UnixTime(7200)), "2 h ago");
    }
}
