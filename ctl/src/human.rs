//! Quantities as people read them.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// What the rendering depends on besides the data.
#[derive(Debug, Clone)]
pub struct Look {
    /// "Now" for relative times: the daemon's where it says it.
    pub now: Timestamp,
    /// Zone of absolute times.
    pub zone: TimeZone,
    /// Width of the output.
    pub columns: u16,
    /// Whether colours help.
    pub color: bool,
}

/// Two units at most: "45 s", "3 min 20 s", "2 h 05 min", "4 d 3 h"; negative with a minus.
pub fn seconds(value: f64) -> String {
    let sign = if value <= -0.5 { "-" } else { "" };
    let s = value.abs().round() as u64;
    match s {
        0..60 => format!("{sign}{s} s"),
        60..3_600 if s.is_multiple_of(60) => format!("{sign}{} min", s / 60),
        60..3_600 => format!("{sign}{} min {:02} s", s / 60, s % 60),
        3_600..86_400 => format!("{sign}{} h {:02} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{sign}{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// Decimal units, as media are sold: "512 B", "1.83 GB".
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if value < 1_000 {
        return format!("{value} B");
    }
    let mut v = value as f64 / 1_000.0;
    let mut unit = 0;
    while v >= 999.5 && unit + 1 < UNITS.len() {
        v /= 1_000.0;
        unit += 1;
    }
    let digits = if v < 9.995 { 2 } else { usize::from(v < 99.95) };
    format!("{v:.digits$} {}", UNITS[unit])
}

/// Relative and absolute: "3 min 20 s ago (14:03:12)", "in 40 s (14:07:00)"; with the date when it is another day.
pub fn when(at: Timestamp, look: &Look) -> String {
    let s = at.duration_since(look.now).as_secs_f64();
    let relative = match s {
        s if s >= 0.5 => format!("in {}", seconds(s)),
        s if s > -0.5 => "now".to_owned(),
        s => format!("{} ago", seconds(-s)),
    };
    format!("{relative} ({})", clock(at, look))
}

/// Local time of day; with the date when it is not today.
pub fn clock(at: Timestamp, look: &Look) -> String {
    let at = at.to_zoned(look.zone.clone());
    let today = look.now.to_zoned(look.zone.clone()).date();
    if at.date() == today { at.strftime("%H:%M:%S").to_string() } else { at.strftime("%Y-%m-%d %H:%M").to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let table = [
            (0.2, "0 s"),
            (-0.2, "0 s"),
            (45.0, "45 s"),
            (60.0, "1 min"),
            (200.0, "3 min 20 s"),
            (-125.0, "-2 min 05 s"),
            (7_500.0, "2 h 05 min"),
            (356_400.0, "4 d 3 h"),
        ];
        for (value, text) in table {
            assert_eq!(seconds(value), text);
        }
    }

    #[test]
    fn sizes() {
        let table = [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (9_999, "10.0 kB"),
            (999_999, "1.00 MB"),
            (1_830_000_000, "1.83 GB"),
            (31_914_983_424, "31.9 GB"),
            (256_000_000_000, "256 GB"),
            (u64::MAX, "18447 PB"),
        ];
        for (value, text) in table {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn times() {
        let look =
            Look { now: "2026-11-21T13:00:00Z".parse().unwrap(), zone: TimeZone::fixed(jiff::tz::offset(1)), columns: 100, color: false };
        let table = [
            ("2026-11-21T12:56:40Z", "3 min 20 s ago (13:56:40)"),
            ("2026-11-21T13:00:40Z", "in 40 s (14:00:40)"),
            ("2026-11-21T13:00:00Z", "now (14:00:00)"),
            ("2026-11-20T13:00:00Z", "1 d 0 h ago (2026-11-20 14:00)"),
            ("2026-11-20T23:30:00Z", "13 h 30 min ago (00:30:00)"),
        ];
        for (at, text) in table {
            assert_eq!(when(at.parse().unwrap(), &look), text);
        }
    }
}
