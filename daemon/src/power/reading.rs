//! From NUT's variables to a [`Reading`]: what is not a sensible number is unknown, never 0 and never 100.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::site::Reading;

/// Longer runtimes are nonsense (a UPS that says "unlimited" by a huge number).
const LONGEST_RUNTIME_SECONDS: f64 = 30.0 * 24.0 * 3600.0;

/// Reads `ups.status`, `battery.charge`, `battery.runtime` and `ups.load` out of the variables of `LIST VAR`.
pub fn reading_from_vars(vars: BTreeMap<String, String>) -> Reading {
    let status = vars.get("ups.status").map(|text| text.split_whitespace().map(str::to_owned).collect()).unwrap_or_default();
    Reading {
        status,
        charge: number(&vars, "battery.charge", 100.0),
        runtime: number(&vars, "battery.runtime", LONGEST_RUNTIME_SECONDS).map(Duration::from_secs_f64),
        load: number(&vars, "ups.load", 1000.0),
        vars,
    }
}

/// The variable as a number in `0..=max`; `None` for anything else ("NA", "nan", "-1", "1e999").
fn number(vars: &BTreeMap<String, String>, name: &str, max: f64) -> Option<f64> {
    vars.get(name)?.trim().parse::<f64>().ok().filter(|value| (0.0..=max).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn numbers_and_tokens_are_read() {
        let reading = reading_from_vars(vars(&[
            ("ups.status", " OB  DISCHRG LB X-NEW "),
            ("battery.charge", "42.5"),
            ("battery.runtime", " 1200 "),
            ("ups.load", "101"),
        ]));
        assert_eq!(reading.status.iter().map(String::as_str).collect::<Vec<_>>(), ["DISCHRG", "LB", "OB", "X-NEW"]);
        assert_eq!((reading.charge, reading.runtime, reading.load), (Some(42.5), Some(Duration::from_mins(20)), Some(101.0)));
    }

    #[test]
    fn what_is_not_a_sensible_number_is_unknown() {
        for text in ["", "NA", "nan", "NaN", "inf", "-inf", "-1", "1e999", "1e300", "12 %", "0x10", "１００"] {
            let reading = reading_from_vars(vars(&[("battery.charge", text), ("battery.runtime", text), ("ups.load", text)]));
            assert_eq!((reading.charge, reading.runtime, reading.load), (None, None, None), "{text:?}");
        }
        assert_eq!(reading_from_vars(vars(&[("battery.charge", "100.1")])).charge, None);
        assert!(reading_from_vars(BTreeMap::new()).status.is_empty());
    }
}
