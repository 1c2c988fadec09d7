//! Dates (RFC 9110 section 5.6.7).
//!
//! Exactly the three shapes of the grammar. The general parsers of the field are not used here: they take other zones and loose spacing, or
//! insist on the case of names, while a cache has to compare without regard to case and to take other zones for invalid (RFC 9111 section 4.2). That
//! section tolerates UTC, which is not in the grammar; here it is as invalid as the others.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};

/// A date field; of several lines the first. `None` if it is absent or not a date.
pub(super) fn field(headers: &HeaderMap, name: &HeaderName, now: SystemTime) -> Option<SystemTime> {
    headers.get(name).and_then(|value| parse(value.as_bytes(), now))
}

/// `now` tells the century of a two-digit year.
pub(super) fn parse(text: &[u8], now: SystemTime) -> Option<SystemTime> {
    let text = text.trim_ascii();
    imf_fixdate(text).or_else(|| rfc850_date(text, now)).or_else(|| asctime_date(text))
}

/// The preferred form.
pub(super) fn format(time: SystemTime) -> HeaderValue {
    // A date is always a valid field value.
    HeaderValue::try_from(httpdate::fmt_http_date(time)).unwrap_or(HeaderValue::from_static(""))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(text: &[u8]) -> Option<SystemTime> {
    if text.len() != 29 {
        return None;
    }
    let mut text = Text(text);
    text.one_of(&DAYS)?;
    text.literal(b", ")?;
    let day = text.number(2)?;
    text.literal(b" ")?;
    let month = text.one_of(&MONTHS)?;
    text.literal(b" ")?;
    let year = text.number(4)?;
    text.literal(b" ")?;
    let time = text.time()?;
    text.literal(b" ")?;
    text.zone()?;
    instant(year, month, day, time)
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc850_date(text: &[u8], now: SystemTime) -> Option<SystemTime> {
    let mut text = Text(text);
    text.one_of(&["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"])?;
    text.literal(b", ")?;
    let day = text.number(2)?;
    text.literal(b"-")?;
    let month = text.one_of(&MONTHS)?;
    text.literal(b"-")?;
    let year = text.number(2)?;
    text.literal(b" ")?;
    let time = text.time()?;
    text.literal(b" ")?;
    text.zone()?;
    // "A timestamp that appears to be more than 50 years in the future" is the most recent year in the past with the same last two digits.
    let this_year = year_of(now);
    let year = this_year - this_year % 100 + year;
    let year = if year > this_year + 50 { year - 100 } else { year };
    instant(year, month, day, time)
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime_date(text: &[u8]) -> Option<SystemTime> {
    if text.len() != 24 {
        return None;
    }
    let mut text = Text(text);
    text.one_of(&DAYS)?;
    text.literal(b" ")?;
    let month = text.one_of(&MONTHS)?;
    text.literal(b" ")?;
    let day = if text.literal(b" ").is_some() { text.number(1)? } else { text.number(2)? };
    text.literal(b" ")?;
    let time = text.time()?;
    text.literal(b" ")?;
    let year = text.number(4)?;
    instant(year, month, day, time)
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// What is left to read.
struct Text<'a>(&'a [u8]);

impl<'a> Text<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn literal(&mut self, literal: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(literal)?;
        Some(())
    }

    fn number(&mut self, digits: usize) -> Option<u64> {
        let digits = self.take(digits)?;
        digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
    }

    /// Which of the names comes next, in any case.
    fn one_of(&mut self, names: &[&str]) -> Option<u64> {
        let starts = |name: &&str| self.0.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()));
        let at = names.iter().position(starts)?;
        self.take(names[at].len())?;
        u64::try_from(at).ok()
    }

    fn time(&mut self) -> Option<[u64; 3]> {
        let hour = self.number(2)?;
        self.literal(b":")?;
        let minute = self.number(2)?;
        self.literal(b":")?;
        let second = self.number(2)?;
        // A leap second is of the grammar.
        (hour < 24 && minute < 60 && second <= 60).then_some([hour, minute, second])
    }

    /// Nothing follows it.
    fn zone(&mut self) -> Option<()> {
        self.0.eq_ignore_ascii_case(b"GMT").then_some(())
    }
}

/// Days from the first of March of the year 0 to the epoch.
const MARCH_0: u64 = 719_468;
/// Days of 400 years.
const CYCLE: u64 = 146_097;

fn instant(year: u64, month: u64, day: u64, [hour, minute, second]: [u64; 3]) -> Option<SystemTime> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let in_month = match month {
        1 if leap => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    };
    if day == 0 || day > in_month {
        return None;
    }
    // Years that begin in March end with the leap day.
    let (year, month) = if month < 2 { (year.checked_sub(1)?, month + 10) } else { (year, month - 2) };
    let in_cycle = year % 400;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = year / 400 * CYCLE + in_cycle * 365 + in_cycle / 4 - in_cycle / 100 + day_of_year;
    let of_day = Duration::from_secs(hour * 3600 + minute * 60 + second);
    if days >= MARCH_0 {
        UNIX_EPOCH.checked_add(Duration::from_secs((days - MARCH_0) * 86_400) + of_day)
    } else {
        UNIX_EPOCH.checked_sub(Duration::from_secs((MARCH_0 - days) * 86_400))?.checked_add(of_day)
    }
}

/// The year of a time, 1970 for all before.
fn year_of(time: SystemTime) -> u64 {
    let days = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400 + MARCH_0;
    let (cycles, day) = (days / CYCLE, days % CYCLE);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    // From January on it is the next one.
    cycles * 400 + year + u64::from(day_of_year >= 306)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// 2026-11-24.
    fn now() -> SystemTime {
        at(1_795_478_400)
    }

    #[test]
    fn the_three_shapes_are_read_and_nothing_else() {
        let valid = Some(at(784_111_777));
        for (text, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", valid),
            ("Sunday, 06-Nov-94 08:49:37 GMT", valid),
            ("Sun Nov  6 08:49:37 1994", valid),
            ("  Sun, 06 Nov 1994 08:49:37 GMT ", valid),
            ("sUN, 06 nOV 1994 08:49:37 gmt", valid),
            ("sunday, 06-NOV-94 08:49:37 gmt", valid),
            ("Sun, 06 Nov 1994 08:49:37 UTC", None),
            ("Sun, 06 Nov 1994 08:49:37 EST", None),
            ("Sun, 06 Nov 1994 08:49:37 +0000", None),
            ("Sun, 06 Nov 1994 08:49:37", None),
            ("Sun, 06 Nov 1994 08:49:37 GMT+1", None),
            ("Sun, 06 Nov 1994 8:49:37 GMT", None),
            ("Sun, 6 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 94 08:49:37 GMT", None),
            ("Sun,  06 Nov 1994 08:49:37 GMT", None),
            ("Sun 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06-Nov-1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08-49-37 GMT", None),
            ("Sun, 06 Nov 1994 24:00:00 GMT", None),
            ("Sun, 06 Nov 1994 23:60:00 GMT", None),
            ("Sun, 31 Nov 1994 08:49:37 GMT", None),
            ("Sun, 00 Nov 1994 08:49:37 GMT", None),
            ("Foo, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Foo 1994 08:49:37 GMT", None),
            ("06 Nov 1994 08:49:37 GMT", None),
            ("1994-11-06T08:49:37Z", None),
            ("Sun Nov 6 08:49:37 1994", None),
            ("Sun Nov  6 08:49:37 1994 GMT", None),
            ("Sun Nov 06 08:49:37 94", None),
            ("784111777", None),
            ("0", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes(), now()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_two_digit_year_is_never_more_than_50_years_ahead() {
        for (year, expected) in [("26", 2026), ("76", 2076), ("77", 1977), ("99", 1999), ("00", 2000)] {
            let date = parse(format!("Sunday, 06-Nov-{year} 08:49:37 GMT").as_bytes(), now()).unwrap();
            assert_eq!(year_of(date), expected);
        }
    }

    #[test]
    fn leap_days_exist_in_leap_years_alone() {
        for (text, exists) in [("29 Feb 2000", true), ("29 Feb 1900", false), ("29 Feb 2024", true), ("29 Feb 2023", false)] {
            assert_eq!(parse(format!("Sun, {text} 00:00:00 GMT").as_bytes(), now()).is_some(), exists, "{text}");
        }
        assert_eq!(parse(b"Thu, 01 Jan 1970 00:00:00 GMT", now()), Some(UNIX_EPOCH));
        assert_eq!(parse(b"Wed, 31 Dec 1969 23:59:59 GMT", now()), UNIX_EPOCH.checked_sub(Duration::from_secs(1)));
        assert!(parse(b"Mon, 01 Jan 0001 00:00:00 GMT", now()).is_some());
        assert!(parse(b"Fri, 31 Dec 9999 23:59:59 GMT", now()).is_some());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0_u64..253_402_300_800) {
            prop_assert_eq!(parse(format(at(seconds)).as_bytes(), now()), Some(at(seconds)));
            let text = httpdate::fmt_http_date(at(seconds));
            prop_assert_eq!(format!("{:04}", year_of(at(seconds))), &text[12..16]);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            parse(&bytes, now());
        }

        #[test]
        fn one_changed_byte_never_moves_a_date_by_its_spacing(at in 0_usize..29, byte in prop::sample::select(b" :-,x\t".to_vec())) {
            let mut text = *b"Sun, 06 Nov 1994 08:49:37 GMT";
            prop_assume!(text[at] != byte);
            text[at] = byte;
            // A blank at either end is white space around the value, and then a byte is missing.
            prop_assert_eq!(parse(&text, now()), None);
        }
    }
}
