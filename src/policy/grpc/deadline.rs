//! `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, "Timeout").

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

/// How long the caller waits; `None` if it does not say, or not so that it can be read.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    let (unit, digits) = headers.get(&super::TIMEOUT)?.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

/// The field that says so, in the finest unit that it fits, rounded up.
pub(super) fn field(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let nanos = timeout.as_nanos();
    let units = [("n", 1), ("u", 1_000), ("m", 1_000_000), ("S", 1_000_000_000), ("M", 60_000_000_000), ("H", 3_600_000_000_000_u128)];
    let fit = units.iter().map(|(unit, size)| (nanos.div_ceil(*size), unit)).find(|(value, _)| *value <= MOST);
    let (value, unit) = fit.unwrap_or((MOST, &"H"));
    // Digits and a letter.
    HeaderValue::try_from(format!("{value}{unit}")).unwrap_or(HeaderValue::from_static("99999999H"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        of(&headers)
    }

    #[test]
    fn a_timeout_is_read_by_the_letter() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("40m", Some(Duration::from_millis(40))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000S", None),
            ("S", None),
            ("1", None),
            ("+1S", None),
            ("1 S", None),
            ("1h", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_never_shorter() {
        for timeout in [0, 1, 99_999_999, 100_000_001, 60_000_000_000, 123_456_789_012_345, u64::MAX].map(Duration::from_nanos) {
            let back = read(field(timeout).to_str().unwrap()).unwrap();
            assert!(back >= timeout && back <= timeout + timeout / 100_000, "{timeout:?} {back:?}");
        }
    }
}
