//! Atoms: one condition on one field, compiled.

use crate::lookup::BoundLookup;
use crate::plan::{AtomPlan, Op};
use crate::regex_literals;
use crate::text::{Glob, GlobPart, Number, fold_into, folded};
use ipnet::IpNet;
use ironpost_events::{Cell, RowRef, Value, ValueKind};
use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::OnceLock;

/// Where a needle must stand in the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Exact,
    Prefix,
    Suffix,
    Contains,
}

impl Anchor {
    pub(crate) fn holds(self, text: &[u8], needle: &[u8]) -> bool {
        match self {
            Self::Exact => text == needle,
            Self::Prefix => text.starts_with(needle),
            Self::Suffix => text.ends_with(needle),
            Self::Contains => memchr::memmem::find(text, needle).is_some(),
        }
    }
}

/// Which part of a time a `timepart` condition looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimePart {
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

/// What is asked of a value.
#[derive(Debug)]
pub(crate) enum Test {
    /// `cased` holds the needle as written when case matters.
    Text {
        anchor: Anchor,
        folded: Box<[u8]>,
        cased: Option<Box<[u8]>>,
    },
    Glob {
        glob: Glob,
        cased: bool,
        literal: Option<Box<[u8]>>,
    },
    Regex {
        regex: LazyRegex,
        required: regex_literals::Required,
    },
    /// Any value that is not null: what `contains: ''` asks.
    AnyText,
    Cidr(IpNet),
    Exists,
    Null,
    Compare {
        number: Number,
        accept: fn(Ordering) -> bool,
    },
    FieldRef {
        other: u32,
        anchor: Anchor,
        cased: bool,
    },
    TimePart {
        part: TimePart,
        number: i64,
        accept: fn(Ordering) -> bool,
    },
}

/// A compiled atom. `field` is an index into the rule set's lookups; `None` is a keyword.
#[derive(Debug)]
pub(crate) struct Atom {
    pub(crate) field: Option<u32>,
    pub(crate) test: Test,
}

/// A regular expression, compiled when a value first needs it: most of a collection's never do, and compiling all of them
/// takes longer than loading everything else.
#[derive(Debug)]
pub(crate) struct LazyRegex {
    pattern: Box<str>,
    compiled: OnceLock<Option<regex::bytes::Regex>>,
}

impl LazyRegex {
    /// Checks the pattern; what might become too large is compiled at once.
    fn new(pattern: &str) -> Result<Self, String> {
        let made = Self { pattern: pattern.into(), compiled: OnceLock::new() };
        if !regex_literals::is_surely_small(pattern, REGEX_SIZE_LIMIT) {
            let regex = compile_regex(pattern)?;
            let _ = made.compiled.set(Some(regex));
        }
        Ok(made)
    }

    fn is_match(&self, value: &[u8]) -> bool {
        // None never happens to what was found small or compiled at once.
        let compiled = self.compiled.get_or_init(|| compile_regex(&self.pattern).ok());
        compiled.as_ref().is_some_and(|regex| regex.is_match(value))
    }
}

/// `?` in one value: what stands between two `*` is tried at every place of a text, so each costs a pass over it.
const MAX_ONES: usize = 256;

/// Largest compiled size of one regular expression, in bytes.
const REGEX_SIZE_LIMIT: usize = 4 << 20;

fn compile_regex(pattern: &str) -> Result<regex::bytes::Regex, String> {
    regex::bytes::RegexBuilder::new(pattern)
        .size_limit(REGEX_SIZE_LIMIT)
        .dfa_size_limit(1 << 20)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "regular expression is too large when compiled".to_owned(),
            other => {
                // The engine's message shows the pattern on several lines; the last one says what is wrong.
                let text = other.to_string();
                text.lines().last().unwrap_or(&text).trim().trim_start_matches("error: ").to_owned()
            }
        })
}

/// Says why a regular expression cannot be used, or `None` when it can.
pub fn check_regex(pattern: &str) -> Option<String> {
    LazyRegex::new(pattern).err()
}

impl Atom {
    /// Compiles an atom; `name` interns what a field name stands for.
    pub(crate) fn compile(plan: &AtomPlan, mut name: impl FnMut(&str) -> u32) -> Result<Self, String> {
        let field = plan.field.as_deref().map(&mut name);
        let test = match plan.op {
            Op::Equals => text(Anchor::Exact, plan)?,
            Op::Contains => text(Anchor::Contains, plan)?,
            Op::Startswith => text(Anchor::Prefix, plan)?,
            Op::Endswith => text(Anchor::Suffix, plan)?,
            Op::Wildcard => glob(plan)?,
            Op::Regex => {
                let pattern = plan.value.as_str().ok_or("a regular expression is text")?;
                Test::Regex { regex: LazyRegex::new(pattern)?, required: regex_literals::required(pattern) }
            }
            Op::Cidr => {
                let value = plan.value.as_str().ok_or("a network is text")?;
                let network = value
                    .parse::<IpNet>()
                    .or_else(|_| value.parse::<IpAddr>().map(IpNet::from))
                    .map_err(|_| format!("{value:?} is not a network such as 10.0.0.0/8"))?;
                Test::Cidr(canonical(network))
            }
            Op::Exists => Test::Exists,
            Op::Null => Test::Null,
            Op::Lt => compare(plan, Ordering::is_lt)?,
            Op::Lte => compare(plan, Ordering::is_le)?,
            Op::Gt => compare(plan, Ordering::is_gt)?,
            Op::Gte => compare(plan, Ordering::is_ge)?,
            Op::Fieldref => {
                let (other, how) = match &plan.value {
                    serde_json::Value::String(other) => (other.as_str(), "equals"),
                    value => (
                        value
                            .get("field")
                            .and_then(|field| field.as_str())
                            .ok_or("fieldref needs a field name")?,
                        value.get("match").and_then(|how| how.as_str()).unwrap_or("equals"),
                    ),
                };
                let anchor = match how {
                    "equals" => Anchor::Exact,
                    "contains" => Anchor::Contains,
                    "startswith" => Anchor::Prefix,
                    "endswith" => Anchor::Suffix,
                    other => return Err(format!("fieldref cannot compare by {other:?}")),
                };
                if field.is_none() {
                    return Err("fieldref needs a field".to_owned());
                }
                Test::FieldRef { other: name(other), anchor, cased: plan.cased }
            }
            Op::Timepart => {
                let part = match plan.value.get("part").and_then(|part| part.as_str()) {
                    Some("minute") => TimePart::Minute,
                    Some("hour") => TimePart::Hour,
                    Some("day") => TimePart::Day,
                    Some("week") => TimePart::Week,
                    Some("month") => TimePart::Month,
                    Some("year") => TimePart::Year,
                    other => return Err(format!("unknown part of time {other:?}")),
                };
                let accept = match plan.value.get("compare").and_then(|compare| compare.as_str()) {
                    Some("eq") => Ordering::is_eq,
                    Some("lt") => Ordering::is_lt,
                    Some("lte") => Ordering::is_le,
                    Some("gt") => Ordering::is_gt,
                    Some("gte") => Ordering::is_ge,
                    other => return Err(format!("unknown comparison {other:?}")),
                };
                let number = plan.value.get("number").and_then(|value| value.as_i64());
                Test::TimePart {
                    part,
                    number: number.ok_or("a time part is compared with an integer")?,
                    accept,
                }
            }
        };
        if field.is_none() && matches!(test, Test::Exists | Test::Null) {
            return Err("a keyword is a value, it cannot be null or merely exist".to_owned());
        }
        Ok(Self { field, test })
    }

    /// Literals that send a row to this atom when one of them is found in the field's folded value; `None` when the atom
    /// must be tested on the value itself.
    pub(crate) fn literals(&self) -> Option<Vec<&[u8]>> {
        match &self.test {
            Test::Text { folded, .. } => Some(vec![folded]),
            Test::Glob { literal, .. } => literal.as_deref().map(|literal| vec![literal]),
            Test::Regex { required, .. } => {
                required.literals.as_ref().map(|all| all.iter().map(|text| &**text).collect())
            }
            _ => None,
        }
    }

    /// Tests one value; `folded` is its case-folded form.
    pub(crate) fn holds_for(&self, value: Value<'_>, folded_value: &[u8]) -> bool {
        match value.kind {
            ValueKind::Null => return matches!(self.test, Test::Exists | Test::Null),
            ValueKind::Container => return matches!(self.test, Test::Exists),
            _ => {}
        }
        match &self.test {
            Test::Text { anchor, folded, cased: None } => anchor.holds(folded_value, folded),
            Test::Text { anchor, cased: Some(needle), .. } => anchor.holds(value.bytes, needle),
            Test::Glob { glob, cased, .. } => glob.matches(if *cased { value.bytes } else { folded_value }),
            Test::Regex { regex, required } => {
                !required.misses(value.bytes, folded_value) && regex.is_match(value.bytes)
            }
            Test::AnyText | Test::Exists => true,
            Test::Null | Test::FieldRef { .. } => false,
            Test::Cidr(network) => address(value.bytes).is_some_and(|address| in_network(network, address)),
            Test::Compare { number, accept } => {
                Number::parse(value.bytes).and_then(|found| found.partial_cmp(number)).is_some_and(accept)
            }
            Test::TimePart { part, number, accept } => {
                time_part(value.bytes, *part).is_some_and(|found| accept(found.cmp(number)))
            }
        }
    }
}

impl Atom {
    /// Whether a part of the row's own time fits, for rows whose time is no cell: that of log lines, in UTC.
    fn holds_at(&self, lookup: &BoundLookup, row: RowRef<'_>) -> bool {
        let Test::TimePart { part, number, accept } = &self.test else { return false };
        lookup.has_time()
            && row.info().timestamp.is_some_and(|nanoseconds| {
                let seconds = nanoseconds.div_euclid(1_000_000_000);
                accept(part_of_epoch(seconds, *part).cmp(number))
            })
    }
}

/// The address a value is; the zone of a link-local one (`fe80::1%eth0`) says nothing about networks.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    text.split_once('%').map_or(text, |(address, _)| address).parse().ok()
}

/// A network with its own address, without host bits; one of IPv4-mapped IPv6 addresses is the IPv4 network it stands for.
fn canonical(network: IpNet) -> IpNet {
    let mapped = match network {
        IpNet::V6(six) if six.prefix_len() >= 96 => six
            .addr()
            .to_ipv4_mapped()
            .and_then(|address| IpNet::new(address.into(), six.prefix_len() - 96).ok()),
        _ => None,
    };
    mapped.unwrap_or(network).trunc()
}

/// IPv4-mapped IPv6 addresses are judged as the IPv4 address they stand for.
fn in_network(network: &IpNet, address: IpAddr) -> bool {
    network.contains(&address) || network.contains(&address.to_canonical())
}

fn text(anchor: Anchor, plan: &AtomPlan) -> Result<Test, String> {
    let needle = match &plan.value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(number) => number.to_string(),
        serde_json::Value::Bool(flag) => flag.to_string(),
        _ => return Err("a value to compare with is text, a number or a boolean".to_owned()),
    };
    if needle.is_empty() && anchor != Anchor::Exact {
        return Ok(Test::AnyText);
    }
    Ok(Test::Text {
        anchor,
        folded: folded(needle.as_bytes()),
        cased: plan.cased.then(|| needle.into_bytes().into_boxed_slice()),
    })
}

fn glob(plan: &AtomPlan) -> Result<Test, String> {
    let parts = plan.value.as_array().ok_or("a wildcard value is a list of parts")?;
    let mut compiled = Vec::with_capacity(parts.len());
    for part in parts {
        compiled.push(match part {
            serde_json::Value::String(text) if plan.cased => GlobPart::Literal(text.clone().into_bytes()),
            serde_json::Value::String(text) => GlobPart::Literal(folded(text.as_bytes()).into_vec()),
            other => match other.get("wild").and_then(|wild| wild.as_str()) {
                Some("*") => GlobPart::Many,
                Some("?") => GlobPart::One,
                _ => return Err(format!("unknown part of a wildcard value: {other}")),
            },
        });
    }
    if compiled.iter().filter(|part| **part == GlobPart::One).count() > MAX_ONES {
        return Err(format!("a value has at most {MAX_ONES} `?`"));
    }
    if !compiled.is_empty() && compiled.iter().all(|part| *part == GlobPart::Many) {
        return Ok(Test::AnyText);
    }
    let glob = Glob::new(&compiled);
    let literal = glob.longest_literal().map(folded);
    Ok(Test::Glob { glob, cased: plan.cased, literal })
}

fn compare(plan: &AtomPlan, accept: fn(Ordering) -> bool) -> Result<Test, String> {
    let written = match &plan.value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(number) => number.to_string(),
        other => return Err(format!("{other} is not a number")),
    };
    let number = Number::parse(written.as_bytes()).ok_or_else(|| format!("{written:?} is not a number"))?;
    Ok(Test::Compare { number, accept })
}

/// Epoch seconds of the years 1 to 9999; other numbers are no times.
const TIMES: std::ops::Range<f64> = -62_135_596_800.0..253_402_300_800.0;

/// A part of an RFC 3339 time or date, or of epoch seconds; a part that is not there or none of the calendar's is none, in the time's own offset (epoch: UTC).
fn time_part(text: &[u8], part: TimePart) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return TIMES.contains(&seconds).then(|| part_of_epoch(seconds.floor() as i64, part));
    }
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<i64>().ok()
    };
    let date = (number(0..4)?, number(5..7)?, number(8..10)?);
    let is_date = text.get(4..5)? == "-"
        && text.get(7..8)? == "-"
        && civil_from_days(days_from_civil(date)) == date
        && date.0 > 0;
    let clock = match text.get(10..11) {
        None => None, // a date has no hour
        Some("T" | "t" | " ") if text.get(13..14)? == ":" => Some((number(11..13)?, number(14..16)?)),
        Some(_) => return None,
    };
    let is_clock = clock.is_none_or(|(hour, minute)| hour < 24 && minute < 60);
    if !is_date || !is_clock || (clock.is_none() && matches!(part, TimePart::Hour | TimePart::Minute)) {
        return None;
    }
    let (hour, minute) = clock.unwrap_or_default();
    Some(chosen(date, hour, minute, part))
}

/// A part of the UTC time so many seconds after 1970.
fn part_of_epoch(seconds: i64, part: TimePart) -> i64 {
    let clock = seconds.rem_euclid(86_400);
    chosen(civil_from_days(seconds.div_euclid(86_400)), clock / 3_600, clock / 60 % 60, part)
}

fn chosen(date: (i64, i64, i64), hour: i64, minute: i64, part: TimePart) -> i64 {
    match part {
        TimePart::Minute => minute,
        TimePart::Hour => hour,
        TimePart::Day => date.2,
        TimePart::Month => date.1,
        TimePart::Year => date.0,
        TimePart::Week => iso_week(date),
    }
}

/// Days since 1970-01-01 to (year, month, day), proleptic Gregorian.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468; // days since 0000-03-01
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

fn days_from_civil((year, month, day): (i64, i64, i64)) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// ISO 8601 week number.
fn iso_week(date: (i64, i64, i64)) -> i64 {
    let days = days_from_civil(date);
    let weekday = (days + 3).rem_euclid(7); // Monday = 0
    let thursday = days - weekday + 3;
    let year = civil_from_days(thursday).0;
    (thursday - days_from_civil((year, 1, 1))) / 7 + 1
}

/// The case-folded form of the value looked at last: atoms that ask the same field come one after the other.
#[derive(Debug, Default)]
pub(crate) struct LastFold {
    folded: Vec<u8>,
    /// Where the value is and how long.
    of: Option<(usize, usize)>,
}

impl LastFold {
    fn of(&mut self, value: &[u8]) -> &[u8] {
        let place = (value.as_ptr() as usize, value.len());
        if self.of != Some(place) {
            fold_into(value, &mut self.folded);
            self.of = Some(place);
        }
        &self.folded
    }

    /// To be called before another row: other values may stand in the same place.
    pub(crate) fn forget(&mut self) {
        self.of = None;
    }
}

/// Tests an atom on a row the slow, direct way and says which value made it hold.
///
/// The value is `None` when the absence of one did (null).
pub(crate) fn witness<'a>(
    atom: &Atom,
    row: RowRef<'a>,
    lookups: &[BoundLookup],
    fold: &mut LastFold,
) -> Option<Option<(&'a [u8], Value<'a>)>> {
    let Some(field) = atom.field else {
        for cell in row.cells().iter().filter(|cell| !is_raw(row, cell)) {
            let value = row.value_of(cell);
            if atom.holds_for(value, fold.of(value.bytes)) {
                return Some(Some((row.name_of(cell), value)));
            }
        }
        let raw = raw_value(row)?;
        return atom.holds_for(raw, fold.of(raw.bytes)).then_some(Some((b"event.original".as_slice(), raw)));
    };
    let Some(lookup) = lookups.get(field as usize).filter(|lookup| !lookup.is_empty()) else {
        return matches!(atom.test, Test::Null).then_some(None);
    };
    let mut present = false;
    for cell in lookup.cells(row) {
        present = true;
        let value = row.value_of(cell);
        let holds = match &atom.test {
            Test::FieldRef { other, anchor, cased } => {
                field_reference(row, value, lookups.get(*other as usize), *anchor, *cased)
            }
            _ => atom.holds_for(value, fold.of(value.bytes)),
        };
        if holds {
            return Some(Some((row.name_of(cell), value)));
        }
    }
    if !present && atom.holds_at(lookup, row) {
        return Some(None);
    }
    (!present && matches!(atom.test, Test::Null)).then_some(None)
}

/// True for a cell that only repeats the raw record, which keywords see once or not at all.
pub(crate) fn is_raw(row: RowRef<'_>, cell: &Cell) -> bool {
    cell.value == row.info().raw
}

/// The raw record, when it is text a keyword may search: the raw form of a JSON object would add its keys and escapes.
/// Of an object whose values are not all there, it is what can't hide them.
pub(crate) fn raw_value(row: RowRef<'_>) -> Option<Value<'_>> {
    let raw = row.raw();
    let read_as_json = || {
        !matches!(row.info().format, "" | "text") // a line that only looks like an object is text
            && !row.info().truncated
            && raw.trim_ascii_start().starts_with(b"{")
    };
    (!raw.is_empty() && !read_as_json()).then_some(Value { kind: ValueKind::Text, bytes: raw })
}

/// Compares a value with the values of another field.
fn field_reference(
    row: RowRef<'_>,
    value: Value<'_>,
    other: Option<&BoundLookup>,
    anchor: Anchor,
    cased: bool,
) -> bool {
    let Some(other) = other else { return false };
    if !value.kind.has_value() {
        return false;
    }
    let candidates = other.cells(row).filter(|cell| cell.kind.has_value());
    candidates.map(|cell| row.value_of(cell)).any(|candidate| {
        if cased {
            anchor.holds(value.bytes, candidate.bytes)
        } else {
            anchor.holds(&folded(value.bytes), &folded(candidate.bytes))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_weeks_follow_the_calendar() {
        for (text, week) in [
            ("2021-01-03T00:00:00Z", 53),
            ("2021-01-04", 1),
            ("2026-11-20T18:00:00Z", 47),
            ("2016-01-01", 53),
        ] {
            assert_eq!(time_part(text.as_bytes(), TimePart::Week), Some(week), "{text}");
        }
    }

    #[test]
    fn epoch_seconds_and_text_give_the_same_parts() {
        assert_eq!(time_part(b"1614000000", TimePart::Day), Some(22));
        assert_eq!(time_part(b"1614000000", TimePart::Hour), Some(13));
        assert_eq!(time_part(b"2021-02-22T13:20:00+00:00", TimePart::Minute), Some(20));
        for text in ["garbage", "1e300", "-1e300", "inf", "nan", "1614000000000"] {
            assert_eq!(time_part(text.as_bytes(), TimePart::Year), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_has_no_parts() {
        for text in [
            "2026-01-01T99:59:00",
            "2026-01-01T23:60",
            "2026-77-01",
            "2026-00-01",
            "2026-02-30T00:00",
            "2026-01-01T1:00",
            "2026-01-01T10",
            "2026-01-01x10:00",
            "+026-01-01",
            "0000-01-01",
        ] {
            assert_eq!(time_part(text.as_bytes(), TimePart::Year), None, "{text}");
        }
        assert_eq!(time_part(b"2026-01-01", TimePart::Hour), None);
        assert_eq!(time_part(b"2026-01-01", TimePart::Minute), None);
        assert_eq!(time_part(b"2026-01-01", TimePart::Month), Some(1));
        assert_eq!(time_part(b"2024-02-29 23:59", TimePart::Hour), Some(23));
    }

    #[test]
    fn a_mapped_network_is_the_ipv4_network() {
        let mapped = canonical("::ffff:192.0.2.9/120".parse().unwrap());
        assert_eq!(mapped, "192.0.2.0/24".parse().unwrap());
        assert_eq!(canonical("2001:db8::1/32".parse().unwrap()), "2001:db8::/32".parse().unwrap());
    }

    #[test]
    fn a_zone_does_not_hide_an_address() {
        let network = "fe80::/10".parse().unwrap();
        assert!(in_network(&network, address(b"fe80::1%eth0").unwrap()));
        assert_eq!(address(b"10.0.0.1%"), "10.0.0.1".parse().ok());
        assert_eq!(address(b"%eth0"), None);
    }

    #[test]
    fn what_is_compiled_later_can_be_compiled() {
        let pieces = [
            "a",
            ".",
            r"\w",
            r"\W",
            r"[^\n]",
            r"(?i)\pL",
            r"(?i)k",
            r"(?:a|é)",
            r"(?-u:[^a])",
            r"\b",
            "(?:x?)",
            "(?:.*)",
        ];
        let mut small = 0;
        for piece in pieces {
            for count in (0..24).map(|power| 1u32 << power) {
                let pattern = format!("(?:{piece}){{{count}}}(?:{piece}){{0,{count}}}");
                if regex_literals::is_surely_small(&pattern, REGEX_SIZE_LIMIT) {
                    small += 1;
                    assert!(compile_regex(&pattern).is_ok(), "{pattern}");
                }
            }
        }
        assert!(small > pieces.len(), "{small}");
        for (pattern, reason) in
            [("(", "unclosed"), (r"\w{5000}", "too large"), ("(a{1000}){1000}", "too large")]
        {
            let found = check_regex(pattern).unwrap_or_default();
            assert!(found.contains(reason), "{pattern}: {found}");
        }
    }

    #[test]
    fn an_unusable_regex_says_why_in_one_line() {
        let reason = check_regex(r"(?=a)b").unwrap();
        assert!(reason.contains("look-around"), "{reason}");
        assert_eq!(check_regex(r"a+b"), None);
    }
}
