//! Durations and sizes, which always carry their unit.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::shown;
use crate::config::cursor::Parsed;
use crate::config::tree::Scalar;

/// Milliseconds per unit, largest first: the order in which the parts of a duration stand.
const TIME: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A duration such as `5s` or `1m30s` within `allowed`.
pub fn duration(allowed: RangeInclusive<Duration>) -> impl Fn(&Scalar) -> Parsed<Duration> {
    move |scalar| {
        let value = parse_duration(&scalar.text)?;
        if allowed.contains(&value) {
            return Ok(value);
        }
        let (least, most) = (show_duration(*allowed.start()), show_duration(*allowed.end()));
        Err(format!("{} is out of range; write a duration from {least} to {most}", shown(&scalar.text)))
    }
}

/// As [`duration`], or `never`.
pub fn duration_or_never(allowed: RangeInclusive<Duration>) -> impl Fn(&Scalar) -> Parsed<Option<Duration>> {
    let duration = duration(allowed);
    move |scalar| match scalar.text.as_str() {
        "never" => Ok(None),
        _ => duration(scalar).map(Some).map_err(|message| format!("{message}, or never")),
    }
}

fn parse_duration(text: &str) -> Parsed<Duration> {
    let allowed = "write a duration such as 500ms, 5s, 1m30s or 2h (units: ms, s, m, h, d)";
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
        return Err(format!("{} has no unit; write {text}s for seconds or {text}m for minutes (units: ms, s, m, h, d)", shown(text)));
    }
    let wrong = || format!("{} is not a duration; {allowed}", shown(text));
    let mut rest = text;
    let mut units = TIME.iter();
    let mut total = 0u64;
    while !rest.is_empty() {
        let (count, unit, tail) = part(rest).ok_or_else(wrong)?;
        // Each unit at most once and the larger first; the iterator never goes back.
        let (_, millis) = units.find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        total = count.checked_mul(*millis).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = tail;
    }
    if text.is_empty() || text.ends_with(' ') { Err(wrong()) } else { Ok(Duration::from_millis(total)) }
}

/// Number, unit and what follows.
fn part(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (count, rest) = text.split_at(digits);
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(end);
    Some((count.parse().ok()?, unit, tail.trim_start_matches(' ')))
}

/// A duration as the files write it.
pub fn show_duration(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (unit, size) in TIME {
        if millis >= size {
            let _ = write!(out, "{}{unit}", millis / size);
            millis %= size;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

/// Bytes per unit. As in dd(1): `G` and `GiB` are powers of 1024, `GB` of 1000, as cards are sold.
const SIZE: [(&str, u64); 13] = [
    ("B", 1),
    ("K", 1 << 10),
    ("KiB", 1 << 10),
    ("kB", 1000),
    ("M", 1 << 20),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("G", 1 << 30),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("T", 1 << 40),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
];

/// A size in bytes, such as `500 MiB` or `2G`, of at least `least`.
pub fn size(least: u64) -> impl Fn(&Scalar) -> Parsed<u64> {
    move |scalar| {
        let text = &scalar.text;
        let units = "units: B, K, KiB, kB, M, MiB, MB, G, GiB, GB, T, TiB, TB";
        if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) {
            return Err(format!("{} has no unit; write a size such as 500 MiB or 2G ({units})", shown(text)));
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (count, unit) = text.split_at(digits);
        let factor = SIZE.iter().find(|(name, _)| *name == unit.trim_start_matches(' ')).map(|(_, factor)| *factor);
        let bytes = factor.zip(count.parse::<u64>().ok()).and_then(|(factor, count)| count.checked_mul(factor));
        match bytes {
            Some(bytes) if bytes >= least => Ok(bytes),
            Some(_) => Err(format!("{} is too small; write at least {least} B", shown(text))),
            None => Err(format!("{} is not a size; write a whole number with a unit, such as 500 MiB or 2G ({units})", shown(text))),
        }
    }
}

/// A size of journald.conf(5): bytes, or with K, M, G, T, P or E.
pub fn journal_size(scalar: &Scalar) -> Parsed<String> {
    let number = scalar.text.strip_suffix(['K', 'M', 'G', 'T', 'P', 'E']);
    match number {
        Some(digits) if !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()) => Ok(scalar.text.clone()),
        _ => Err(format!("{} is not a size of journald.conf(5); write one such as 200M (units: K, M, G, T)", shown(&scalar.text))),
    }
}

/// Words of systemd.time(7) for units.
const SPAN: [&str; 28] = [
    "us", "usec", "ms", "msec", "s", "sec", "second", "seconds", "m", "min", "minute", "minutes", "h", "hr", "hour", "hours", "d", "day",
    "days", "w", "week", "weeks", "M", "month", "months", "y", "year", "years",
];

/// A time span of systemd.time(7), such as `1month` or `2h 30min`.
pub fn time_span(scalar: &Scalar) -> Parsed<String> {
    let mut rest = scalar.text.as_str();
    let wrong = || format!("{} is not a time span of systemd.time(7); write one such as 1month, 2week or 30day", shown(&scalar.text));
    while !rest.is_empty() {
        let (_, unit, tail) = part(rest).ok_or_else(wrong)?;
        if !SPAN.contains(&unit) {
            return Err(wrong());
        }
        rest = tail;
    }
    if scalar.text.is_empty() { Err(wrong()) } else { Ok(scalar.text.clone()) }
}
