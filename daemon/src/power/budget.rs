//! Pure: what a shutdown needs, what is left of it, and when the trigger would come at the present rate.

use std::collections::VecDeque;
use std::time::Duration;

use super::Settings;

/// Samples that a [`Trend`] keeps.
const KEPT: usize = 60;
/// A trend shorter than this says nothing: the estimate then takes one second of runtime per second.
const SHORTEST_TREND: Duration = Duration::from_secs(10);
/// Estimates beyond this are not worth telling.
const FARTHEST: Duration = Duration::from_hours(7 * 24);

/// What a shutdown is taken to need (`power.shutdown_budget`).
pub fn configured(settings: &Settings) -> Duration {
    settings.shutdown_budget
}

/// The runtime at or under which the battery is too low: factor x budget.
pub fn required_runtime(settings: &Settings) -> Duration {
    let seconds = settings.thresholds.runtime_safety_factor * configured(settings).as_secs_f64();
    Duration::try_from_secs_f64(seconds).unwrap_or_else(|_| configured(settings))
}

/// Seconds of runtime beyond what is required; negative: too little.
pub fn margin_seconds(settings: &Settings, runtime: Duration) -> f64 {
    runtime.as_secs_f64() - required_runtime(settings).as_secs_f64()
}

/// Runtime and charge as they went since the battery took over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trend {
    samples: VecDeque<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    boot: Duration,
    runtime: Option<f64>,
    charge: Option<f64>,
}

impl Trend {
    /// Forgets everything: the mains are back.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// Adds what was read at `boot`.
    pub fn push(&mut self, boot: Duration, runtime: Option<Duration>, charge: Option<f64>) {
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { boot, runtime: runtime.map(|r| r.as_secs_f64()), charge });
    }

    /// How long until runtime, charge or time on battery would be the reason of a trigger, counted from the newest sample;
    /// `None` where nothing is known. `battery_for` is the time on battery so far.
    pub fn until_trigger(&self, settings: &Settings, battery_for: Duration) -> Option<Duration> {
        let required = required_runtime(settings).as_secs_f64();
        let by_runtime = self.newest(|s| s.runtime).map(|left| {
            let rate = self.fall_per_second(|s| s.runtime).unwrap_or(1.0);
            (left - required).max(0.0) / rate
        });
        let by_charge = self.newest(|s| s.charge).and_then(|left| {
            let rate = self.fall_per_second(|s| s.charge)?;
            Some((left - settings.thresholds.charge_floor).max(0.0) / rate)
        });
        let by_time = settings.thresholds.max_on_battery.map(|limit| limit.saturating_sub(battery_for).as_secs_f64());
        let seconds = [by_runtime, by_charge, by_time].into_iter().flatten().min_by(f64::total_cmp)?;
        Duration::try_from_secs_f64(seconds).ok().filter(|until| *until <= FARTHEST)
    }

    fn newest(&self, value: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        self.samples.iter().rev().find_map(value)
    }

    /// Least-squares fall per second; `None` where too short, level or rising.
    fn fall_per_second(&self, value: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
        let origin = self.samples.front()?.boot;
        let points: Vec<(f64, f64)> =
            self.samples.iter().filter_map(|s| Some((s.boot.saturating_sub(origin).as_secs_f64(), value(s)?))).collect();
        let (first, last) = (points.first()?, points.last()?);
        if last.0 - first.0 < SHORTEST_TREND.as_secs_f64() {
            return None;
        }
        let count = points.len() as f64;
        let mean_t = points.iter().map(|p| p.0).sum::<f64>() / count;
        let mean_v = points.iter().map(|p| p.1).sum::<f64>() / count;
        let spread = points.iter().map(|p| (p.0 - mean_t).powi(2)).sum::<f64>();
        let slope = points.iter().map(|p| (p.0 - mean_t) * (p.1 - mean_v)).sum::<f64>() / spread;
        // A rate near zero would promise for ever; one digit of charge in 1000 s is the least that counts.
        (slope < -0.001).then_some(-slope)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::power::Thresholds;
    use crate::site::OnTrigger;
    use proptest::prelude::*;

    fn settings(factor: f64, max_on_battery: Option<u64>) -> Settings {
        Settings {
            on_trigger: OnTrigger::Observe,
            poll_interval: Duration::from_secs(2),
            read_timeout: Duration::from_secs(2),
            thresholds: Thresholds {
                runtime_safety_factor: factor,
                charge_floor: 20.0,
                max_on_battery: max_on_battery.map(Duration::from_secs),
                debounce_polls: 3,
                comm_lost_after: Duration::from_secs(15),
                off_after: Duration::from_secs(30),
            },
            shutdown_budget: Duration::from_mins(5),
            cut_outlets: false,
            predecessors: Vec::new(),
            upses: Vec::new(),
            domains: vec![crate::site::PowerDomain { name: "d".into(), upses: BTreeSet::new(), nodes: BTreeSet::new() }],
        }
    }

    /// Every 2 s for `polls` polls, falling by `per_second`.
    fn trend(polls: u64, runtime: Option<(f64, f64)>, charge: Option<(f64, f64)>) -> Trend {
        let at = |line: Option<(f64, f64)>, seconds: f64| line.map(|(from, per_second)| from - per_second * seconds);
        let mut trend = Trend::default();
        for poll in 0..polls {
            let seconds = 2.0 * poll as f64;
            trend.push(Duration::from_secs(50 + 2 * poll), at(runtime, seconds).map(Duration::from_secs_f64), at(charge, seconds));
        }
        trend
    }

    #[test]
    fn the_first_reason_to_come_is_the_estimate() {
        let table: &[(&str, Trend, Option<u64>, Option<u64>)] = &[
            ("nothing known", Trend::default(), None, None),
            ("only a limit of time, 40 s of it gone", trend(1, None, None), Some(600), Some(560)),
            ("too short for a slope: a second each second", trend(3, Some((934.0, 1.0)), None), None, Some(600)),
            ("level: a second each second", trend(20, Some((930.0, 0.0)), None), None, Some(600)),
            ("falls by 2 s each second", trend(21, Some((1010.0, 2.0)), None), None, Some(300)),
            ("charge is first", trend(21, Some((3600.0, 1.0)), Some((60.0, 0.5))), None, Some(40)),
            ("charge alone, level: cannot tell", trend(21, None, Some((60.0, 0.0))), None, None),
            ("under it already", trend(21, Some((200.0, 1.0)), None), None, Some(0)),
        ];
        for (name, trend, limit, expected) in table {
            let until = trend.until_trigger(&settings(1.1, *limit), Duration::from_secs(40));
            assert_eq!(until.map(|until| until.as_secs_f64().round() as u64), *expected, "{name}");
        }
    }

    #[test]
    fn margin_is_what_is_left_beyond_factor_times_budget() {
        let settings = settings(1.1, None);
        assert!((required_runtime(&settings).as_secs_f64() - 330.0).abs() < 1e-6);
        assert!((margin_seconds(&settings, Duration::from_mins(5)) + 30.0).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn total(samples in prop::collection::vec((any::<u64>(), prop::option::of(any::<u32>()), prop::option::of(any::<f64>())), 0..100),
                 factor in any::<f64>(), battery_for in any::<u64>()) {
            let mut trend = Trend::default();
            for (boot, runtime, charge) in samples {
                trend.push(Duration::from_secs(boot), runtime.map(|r| Duration::from_secs(r.into())), charge);
            }
            let until = trend.until_trigger(&settings(factor, Some(600)), Duration::from_secs(battery_for));
            prop_assert!(until.is_none_or(|until| until <= FARTHEST));
        }
    }
}
