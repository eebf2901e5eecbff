//! Timestamps of log lines, parsed by hand.
//!
//! All functions return nanoseconds since the Unix epoch. Years outside 1970–2261 do not fit and give `None`.

use crate::batch::ZoneCache;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const DAY: i64 = 86_400;
const NANOS: i64 = 1_000_000_000;
/// A line may be this much ahead of our clock (skew, a zone we do not know) before its year is doubted.
const FUTURE_TOLERANCE: i64 = 36 * 3600;

/// Days since 1970-01-01 in the proleptic Gregorian calendar.
fn days(year: i64, month: u32, day: u32) -> i64 {
    // Years begin in March, so that the leap day is the last day of a year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = i64::from((month + 9) % 12);
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Year, month, day of a day number.
fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = ((month_from_march + 2) % 12 + 1) as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 => 28 + u32::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn join(seconds: i64, nanos: u32) -> Option<i64> {
    if seconds < 0 {
        return None;
    }
    seconds.checked_mul(NANOS)?.checked_add(i64::from(nanos))
}

fn two(bytes: &[u8], at: usize) -> Option<u32> {
    let (high, low) = (bytes.get(at)?.wrapping_sub(b'0'), bytes.get(at + 1)?.wrapping_sub(b'0'));
    (high < 10 && low < 10).then(|| u32::from(high) * 10 + u32::from(low))
}

/// `HH:MM:SS` at the start. A leap second counts as the first second of the next minute.
fn clock(bytes: &[u8]) -> Option<u32> {
    if bytes.len() < 8 || bytes[2] != b':' || bytes[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (two(bytes, 0)?, two(bytes, 3)?, two(bytes, 6)?);
    (hour < 24 && minute < 60 && second <= 60).then_some(hour * 3600 + minute * 60 + second)
}

/// Digits of a fraction after `.` (or `,`): nanoseconds and how many digits there were.
fn fraction(bytes: &[u8]) -> (u32, usize) {
    let mut nanos = 0_u32;
    let mut digits = 0;
    for &byte in bytes {
        if !byte.is_ascii_digit() {
            break;
        }
        if digits < 9 {
            nanos = nanos * 10 + u32::from(byte - b'0');
        }
        digits += 1;
    }
    for _ in digits..9 {
        nanos *= 10;
    }
    (nanos, digits)
}

/// How timestamps without an offset or a year are completed.
#[derive(Debug)]
pub(crate) struct Completion {
    zone: TimeZone,
    fixed: Option<i32>,
    year: Option<i16>,
}

impl Completion {
    pub(crate) fn new(zone: TimeZone, year: Option<i16>) -> Self {
        let fixed = zone.to_fixed_offset().ok().map(|offset| offset.seconds());
        Self { zone, fixed, year }
    }

    /// Local seconds (as if they were UTC) → UTC seconds.
    fn to_utc(&self, local: i64, cache: &mut ZoneCache) -> i64 {
        if let Some(offset) = self.fixed {
            return local - i64::from(offset);
        }
        // Every zone rule in use changes at a multiple of 15 minutes.
        let quarter_hour = local.div_euclid(900);
        if let (Some(offset), true) = (cache.offset_seconds, cache.quarter_hour == quarter_hour) {
            return local - i64::from(offset);
        }
        let (year, month, day) = civil(local.div_euclid(DAY));
        let second = local.rem_euclid(DAY) as i32;
        let offset = DateTime::new(
            year as i16,
            month as i8,
            day as i8,
            (second / 3600) as i8,
            (second / 60 % 60) as i8,
            (second % 60) as i8,
            0,
        )
        .ok()
        .and_then(|datetime| self.zone.to_ambiguous_timestamp(datetime).compatible().ok())
        .map_or(0, |instant| (local - instant.as_second()) as i32);
        *cache = ZoneCache { quarter_hour, offset_seconds: Some(offset) };
        local - i64::from(offset)
    }

    /// The year of a month and day without one: the latest that is not in the future of `now`.
    fn infer_year(&self, month: u32, day: u32, second_of_day: u32, now: i64) -> i64 {
        if let Some(year) = self.year {
            return i64::from(year);
        }
        let limit = now.div_euclid(NANOS) + FUTURE_TOLERANCE;
        let (this_year, _, _) = civil(now.div_euclid(NANOS).div_euclid(DAY));
        // 29 February may be up to eight years back (1896–1904, 2096–2104).
        (this_year - 8..=this_year + 1)
            .rev()
            .find(|&year| {
                day <= days_in_month(year, month)
                    && days(year, month, day) * DAY + i64::from(second_of_day) <= limit
            })
            .unwrap_or(this_year)
    }
}

/// A timestamp at the start of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Nanoseconds since the epoch; `None` when it is well formed but does not fit.
    pub(crate) nanos: Option<i64>,
    /// Bytes it took.
    pub(crate) len: usize,
}

/// RFC 3339, at the start of `bytes`.
///
/// `strict` is RFC 5424 §6.2.3: upper-case `T` and `Z`, an offset, at most six fraction digits, no leap second.
/// Otherwise lower case, a blank for `T`, a comma for the point, nine digits and a missing offset are allowed.
pub(crate) fn rfc3339(
    bytes: &[u8],
    strict: bool,
    completion: &Completion,
    cache: &mut ZoneCache,
) -> Option<Stamp> {
    if bytes.len() < 19 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let year = i64::from(two(bytes, 0)? * 100 + two(bytes, 2)?);
    let (month, day) = (two(bytes, 5)?, two(bytes, 8)?);
    if !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
        return None;
    }
    match bytes[10] {
        b'T' => {}
        b't' | b' ' if !strict => {}
        _ => return None,
    }
    let second_of_day = clock(&bytes[11..])?;
    if strict && bytes[17] == b'6' {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0;
    if matches!(bytes.get(at), Some(b'.')) || (!strict && matches!(bytes.get(at), Some(b','))) {
        let (value, digits) = fraction(&bytes[at + 1..]);
        if digits == 0 || (strict && digits > 6) {
            return None;
        }
        nanos = value;
        at += 1 + digits;
    }
    let local = days(year, month, day) * DAY + i64::from(second_of_day);
    let seconds = match bytes.get(at) {
        Some(b'Z') => {
            at += 1;
            local
        }
        Some(b'z') if !strict => {
            at += 1;
            local
        }
        Some(sign @ (b'+' | b'-')) => {
            let hour = two(bytes, at + 1)?;
            let colon = usize::from(bytes.get(at + 3) == Some(&b':'));
            if strict && colon == 0 {
                return None;
            }
            let minute = two(bytes, at + 3 + colon)?;
            if hour > 23 || minute > 59 {
                return None;
            }
            at += 5 + colon;
            let offset = i64::from(hour * 3600 + minute * 60);
            if *sign == b'+' { local - offset } else { local + offset }
        }
        _ if strict => return None,
        _ => completion.to_utc(local, cache),
    };
    Some(Stamp { nanos: join(seconds, nanos), len: at })
}

fn month_number(name: &[u8]) -> Option<u32> {
    Some(match name {
        b"Jan" => 1,
        b"Feb" => 2,
        b"Mar" => 3,
        b"Apr" => 4,
        b"May" => 5,
        b"Jun" => 6,
        b"Jul" => 7,
        b"Aug" => 8,
        b"Sep" => 9,
        b"Oct" => 10,
        b"Nov" => 11,
        b"Dec" => 12,
        _ => return None,
    })
}

/// Zone names that RFC 822 §5.1 defines, as seconds east of Greenwich.
fn zone_name(name: &[u8]) -> Option<i64> {
    Some(match name {
        b"UTC" | b"GMT" | b"UT" => 0,
        b"EDT" => -4 * 3600,
        b"EST" | b"CDT" => -5 * 3600,
        b"CST" | b"MDT" => -6 * 3600,
        b"MST" | b"PDT" => -7 * 3600,
        b"PST" => -8 * 3600,
        _ => return None,
    })
}

/// `Mmm dd hh:mm:ss` of RFC 3164 §4.1.2 at the start of `bytes`.
///
/// Allowed beyond the RFC because it is in use: a single digit without the blank, a fraction of a second, and a
/// year or a zone with a year behind the time (`Aug 24 05:34:00 CST 1987`).
pub(crate) fn bsd(bytes: &[u8], completion: &Completion, now: i64, cache: &mut ZoneCache) -> Option<Stamp> {
    if bytes.len() < 14 || bytes[3] != b' ' {
        return None;
    }
    let month = month_number(&bytes[..3])?;
    let digit = |at: usize| bytes[at].is_ascii_digit().then(|| u32::from(bytes[at] - b'0'));
    let (day, mut at) = if bytes[4] == b' ' {
        (digit(5)?, 7)
    } else if bytes[5] == b' ' {
        (digit(4)?, 6)
    } else {
        (digit(4)? * 10 + digit(5)?, 7)
    };
    if bytes[at - 1] != b' ' || day == 0 || day > days_in_month(2000, month) {
        return None;
    }
    let second_of_day = clock(&bytes[at..])?;
    at += 8;
    let mut nanos = 0;
    if bytes.get(at) == Some(&b'.') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
        let (value, digits) = fraction(&bytes[at + 1..]);
        nanos = value;
        at += 1 + digits;
    }
    let four = |at: usize| -> Option<i64> {
        let year = i64::from(two(bytes, at)? * 100 + two(bytes, at + 2)?);
        ((matches!(bytes.get(at + 4), None | Some(b' ')) || bytes.get(at + 4..at + 6) == Some(b": "))
            && (1970..2200).contains(&year))
        .then_some(year)
    };
    let mut year = None;
    let mut offset = None;
    if bytes.get(at) == Some(&b' ') {
        if let Some(value) = four(at + 1) {
            year = Some(value);
            at += 5;
        } else if let Some(name) = bytes.get(at + 1..at + 4)
            && bytes.get(at + 4) == Some(&b' ')
            && let Some(seconds) = zone_name(name)
            && let Some(value) = four(at + 5)
        {
            year = Some(value);
            offset = Some(seconds);
            at += 9;
        }
    }
    let year = year.unwrap_or_else(|| completion.infer_year(month, day, second_of_day, now));
    if day > days_in_month(year, month) {
        return Some(Stamp { nanos: None, len: at });
    }
    let local = days(year, month, day) * DAY + i64::from(second_of_day);
    let seconds = offset.map_or_else(|| completion.to_utc(local, cache), |offset| local - offset);
    Some(Stamp { nanos: join(seconds, nanos), len: at })
}

/// `10/Oct/2000:13:55:36 -0700` of the common log format, the whole of `bytes`.
pub(crate) fn common_log(bytes: &[u8]) -> Option<Stamp> {
    if bytes.len() != 26 || bytes[2] != b'/' || bytes[6] != b'/' || bytes[11] != b':' || bytes[20] != b' ' {
        return None;
    }
    let (day, month) = (two(bytes, 0)?, month_number(&bytes[3..6])?);
    let year = i64::from(two(bytes, 7)? * 100 + two(bytes, 9)?);
    if day == 0 || day > days_in_month(year, month) {
        return None;
    }
    let local = days(year, month, day) * DAY + i64::from(clock(&bytes[12..20])?);
    let offset = i64::from(two(bytes, 22)? * 3600 + two(bytes, 24)? * 60);
    let seconds = match bytes[21] {
        b'+' => local - offset,
        b'-' => local + offset,
        _ => return None,
    };
    Some(Stamp { nanos: join(seconds, 0), len: bytes.len() })
}

/// Seconds, milliseconds, microseconds or nanoseconds since the epoch, told apart by the number of digits.
pub(crate) fn epoch(bytes: &[u8]) -> Option<i64> {
    let (whole, rest) =
        bytes.split_at(bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len()));
    if whole.is_empty() || whole.len() > 19 {
        return None;
    }
    let value =
        whole.iter().fold(0_u64, |sum, digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
    let value = i64::try_from(value).ok()?;
    let unit = match whole.len() {
        0..=11 => NANOS,
        12..=14 => 1_000_000,
        15..=17 => 1000,
        _ => 1,
    };
    let nanos = value.checked_mul(unit)?;
    if rest.is_empty() {
        return Some(nanos);
    }
    let (part, digits) = fraction(rest.strip_prefix(b".")?);
    if digits == 0 || rest.len() != digits + 1 {
        return None;
    }
    nanos.checked_add(i64::from(part) * unit / NANOS)
}

/// Writes RFC 3339 in UTC with as many fraction digits (0, 3, 6 or 9) as the value has.
pub(crate) fn write_rfc3339(nanos: i64, out: &mut Vec<u8>) {
    let seconds = nanos.div_euclid(NANOS);
    let part = nanos.rem_euclid(NANOS) as u32;
    let (year, month, day) = civil(seconds.div_euclid(DAY));
    let second = seconds.rem_euclid(DAY) as u32;
    let mut digits = |value: u32, width: u32| {
        for power in (0..width).rev() {
            out.push(b'0' + (value / 10_u32.pow(power) % 10) as u8);
        }
    };
    digits(year as u32, 4);
    for (mark, value) in
        [(b'-', month), (b'-', day), (b'T', second / 3600), (b':', second / 60 % 60), (b':', second % 60)]
    {
        out.push(mark);
        out.push(b'0' + (value / 10) as u8);
        out.push(b'0' + (value % 10) as u8);
    }
    if part != 0 {
        out.push(b'.');
        let (value, width) = if part.is_multiple_of(1_000_000) {
            (part / 1_000_000, 3)
        } else if part.is_multiple_of(1000) {
            (part / 1000, 6)
        } else {
            (part, 9)
        };
        for power in (0..width).rev() {
            out.push(b'0' + (value / 10_u32.pow(power) % 10) as u8);
        }
    }
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc() -> Completion {
        Completion::new(TimeZone::UTC, None)
    }

    fn text(nanos: Option<i64>) -> String {
        let mut out = Vec::new();
        write_rfc3339(nanos.unwrap_or(0), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn instant(value: &str) -> i64 {
        i64::try_from(value.parse::<jiff::Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    #[test]
    fn calendar_agrees_with_jiff_for_every_day_until_2200() {
        let mut date = jiff::civil::date(1970, 1, 1);
        for number in 0..84_000 {
            assert_eq!(days(i64::from(date.year()), date.month() as u32, date.day() as u32), number);
            assert_eq!(civil(number), (i64::from(date.year()), date.month() as u32, date.day() as u32));
            date = date.tomorrow().unwrap();
        }
    }

    #[test]
    fn rfc5424_section_6_2_3_1_examples() {
        for (line, expected) in [
            ("1985-04-12T23:20:50.52Z", Some("1985-04-12T23:20:50.520Z")),
            ("1985-04-12T19:20:50.52-04:00", Some("1985-04-12T23:20:50.520Z")),
            ("2003-10-11T22:14:15.003Z", Some("2003-10-11T22:14:15.003Z")),
            ("2003-08-24T05:14:15.000003-07:00", Some("2003-08-24T12:14:15.000003Z")),
            ("2003-08-24T05:14:15.000000003-07:00", None),
            ("2003-08-24t05:14:15Z", None),
            ("2003-08-24T05:14:15z", None),
            ("2003-08-24T05:14:60Z", None),
            ("2003-02-29T05:14:15Z", None),
            ("2003-08-24T05:14:15", None),
        ] {
            let stamp = rfc3339(line.as_bytes(), true, &utc(), &mut ZoneCache::default());
            assert_eq!(stamp.map(|stamp| text(stamp.nanos)).as_deref(), expected, "{line}");
            assert!(stamp.is_none_or(|stamp| stamp.len == line.len()));
        }
    }

    #[test]
    fn a_year_is_inferred_across_new_year_and_for_the_leap_day() {
        for (now, line, expected) in [
            ("2026-01-01T00:10:00Z", "Dec 31 23:59:59", "2025-12-31T23:59:59Z"),
            ("2026-01-01T00:10:00Z", "Jan  1 00:09:00", "2026-01-01T00:09:00Z"),
            ("2025-12-31T23:59:59Z", "Jan  1 00:00:03", "2026-01-01T00:00:03Z"),
            ("2025-12-31T23:59:59Z", "Jan  3 00:00:03", "2025-01-03T00:00:03Z"),
            ("2026-11-20T12:00:00Z", "Nov 20 12:00:01", "2026-11-20T12:00:01Z"),
            ("2026-11-20T12:00:00Z", "Nov 23 12:00:01", "2025-11-23T12:00:01Z"),
            ("2026-11-20T12:00:00Z", "Feb 29 01:02:03", "2024-02-29T01:02:03Z"),
            ("2028-03-01T00:00:00Z", "Feb 29 23:59:59", "2028-02-29T23:59:59Z"),
            ("2028-02-28T23:59:59Z", "Feb 29 00:00:00", "2028-02-29T00:00:00Z"),
            ("2028-02-01T00:00:00Z", "Feb 29 00:00:00", "2024-02-29T00:00:00Z"),
        ] {
            let stamp = bsd(line.as_bytes(), &utc(), instant(now), &mut ZoneCache::default()).unwrap();
            assert_eq!(text(stamp.nanos), expected, "{line} seen at {now}");
        }
    }

    #[test]
    fn a_given_year_is_taken_as_it_is() {
        let completion = Completion::new(TimeZone::UTC, Some(2005));
        let at = |line: &str| bsd(line.as_bytes(), &completion, 0, &mut ZoneCache::default()).unwrap();
        assert_eq!(text(at("Jun 14 15:16:01").nanos), "2005-06-14T15:16:01Z");
        assert_eq!(at("Feb 29 15:16:01").nanos, None, "2005 has no leap day");
    }

    #[test]
    fn days_are_read_with_blank_one_digit_or_two() {
        let now = instant("2026-06-01T00:00:00Z");
        for line in ["Jan  5 01:02:03", "Jan 5 01:02:03", "Jan 05 01:02:03", "Jan  5 01:02:03.000"] {
            let stamp = bsd(line.as_bytes(), &utc(), now, &mut ZoneCache::default()).unwrap();
            assert_eq!(text(stamp.nanos), "2026-01-05T01:02:03Z", "{line}");
            assert_eq!(stamp.len, line.len());
        }
        for line in
            ["Jan  0 01:02:03", "Jan 32 01:02:03", "Jun 31 01:02:03", "Foo  1 01:02:03", "Jan  5 24:02:03"]
        {
            assert_eq!(bsd(line.as_bytes(), &utc(), now, &mut ZoneCache::default()), None, "{line}");
        }
    }

    #[test]
    fn local_time_follows_the_zone_through_a_daylight_change() {
        let completion = Completion::new(TimeZone::get("Europe/Berlin").unwrap(), Some(2026));
        let mut cache = ZoneCache::default();
        for (line, expected) in [
            ("Mar 29 01:59:59", "2026-03-29T00:59:59Z"),
            ("Mar 29 03:00:00", "2026-03-29T01:00:00Z"),
            ("Oct 25 01:59:59", "2026-10-24T23:59:59Z"),
            ("Oct 25 03:00:00", "2026-10-25T02:00:00Z"),
        ] {
            let stamp = bsd(line.as_bytes(), &completion, 0, &mut cache).unwrap();
            assert_eq!(text(stamp.nanos), expected, "{line}");
        }
    }

    #[test]
    fn epoch_numbers_are_told_apart_by_their_length() {
        for (number, expected) in [
            ("1700000000", "2023-11-14T22:13:20Z"),
            ("1700000000.25", "2023-11-14T22:13:20.250Z"),
            ("1700000000123", "2023-11-14T22:13:20.123Z"),
            ("1700000000123456", "2023-11-14T22:13:20.123456Z"),
            ("1700000000123456789", "2023-11-14T22:13:20.123456789Z"),
            ("0", "1970-01-01T00:00:00Z"),
        ] {
            assert_eq!(text(epoch(number.as_bytes())), expected, "{number}");
            assert!(epoch(number.as_bytes()).is_some());
        }
        for number in ["", "-1", "1e9", "99999999999999999999", "17000000.x"] {
            assert_eq!(epoch(number.as_bytes()), None, "{number}");
        }
    }
}
