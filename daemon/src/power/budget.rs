//! Pure: what a shutdown needs, what is left of it, and when the trigger would come at the present rate.

use std::collections::VecDeque;
use std::time::Duration;

use super::Settings;
use crate::site::{DomainName, UpsName};

pub mod learning;

pub use learning::Learning;

/// Samples that a [`Trend`] keeps.
const KEPT: usize = 60;
/// A trend shorter than this says nothing: the estimate then takes one second of runtime per second.
const SHORTEST_TREND: Duration = Duration::from_secs(10);
/// Estimates beyond this are not worth telling.
const FARTHEST: Duration = Duration::from_hours(7 * 24);

/// A learned budget is not taken for less than this part of the configured one: a few quick runs of an idle cluster do not make the next
/// outage wait for the last minute.
const LEAST: u32 = 4;
/// Nor for less than this, whatever is configured: a host alone needs so long to halt.
const FLOOR: Duration = Duration::from_secs(30);
/// Nor for more than so many times the configured one: a plan is cut to what is left, and a battery seldom gives more.
const MOST: u32 = 3;

/// What a shutdown is taken to need until real runs were measured (`power.shutdown_budget`).
pub fn configured(settings: &Settings) -> Duration {
    settings.shutdown_budget
}

/// The budget that a plan makes: its critical path as predicted from real runs, within bounds around the configured one.
/// For [`Settings::budgets`], and only where all steps of the plan were measured.
pub fn of_plan(settings: &Settings, predicted: Duration) -> Duration {
    let configured = configured(settings);
    let least = (configured / LEAST).max(FLOOR.min(configured));
    predicted.clamp(least, configured.saturating_mul(MOST).max(least))
}

/// What a shutdown of what that domain feeds is taken to need: learned, else configured.
pub fn of_domain(settings: &Settings, domain: &DomainName) -> Duration {
    settings.budgets.get(domain).copied().unwrap_or_else(|| configured(settings))
}

/// The longest budget of the domains that the UPS feeds.
pub fn of_ups(settings: &Settings, ups: &UpsName) -> Duration {
    let fed = settings.domains.iter().filter(|domain| domain.upses.contains(ups));
    fed.map(|domain| of_domain(settings, &domain.name)).max().unwrap_or_else(|| configured(settings))
}

/// The runtime at or under which the battery is too low for a shutdown of that budget: factor x budget.
pub fn required_runtime(settings: &Settings, budget: Duration) -> Duration {
    let seconds = settings.thresholds.runtime_safety_factor * budget.as_secs_f64();
    Duration::try_from_secs_f64(seconds).unwrap_or(budget)
}

/// Seconds of runtime beyond what is required for that budget; negative: too little.
pub fn margin_seconds(settings: &Settings, budget: Duration, runtime: Duration) -> f64 {
    runtime.as_secs_f64() - required_runtime(settings, budget).as_secs_f64()
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
    /// `None` where nothing is known. `budget` is what a shutdown needs, `battery_for` the time on battery so far.
    pub fn until_trigger(&self, settings: &Settings, budget: Duration, battery_for: Duration) -> Option<Duration> {
        let required = required_runtime(settings, budget).as_secs_f64();
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
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::power::Thresholds;
    use crate::site::{OnTrigger, PowerDomain};
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
            prepared_within: None,
            predecessors: Vec::new(),
            budgets: BTreeMap::new(),
            upses: Vec::new(),
            domains: vec![PowerDomain { name: "d".into(), upses: BTreeSet::new(), nodes: BTreeSet::new() }],
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
            let until = trend.until_trigger(&settings(1.1, *limit), Duration::from_mins(5), Duration::from_secs(40));
            assert_eq!(until.map(|until| until.as_secs_f64().round() as u64), *expected, "{name}");
        }
    }

    #[test]
    fn margin_is_what_is_left_beyond_factor_times_budget() {
        let settings = settings(1.1, None);
        let five = Duration::from_mins(5);
        assert!((required_runtime(&settings, five).as_secs_f64() - 330.0).abs() < 1e-6);
        assert!((margin_seconds(&settings, five, five) + 30.0).abs() < 1e-6);
    }

    #[test]
    fn learned_budgets_by_domain_and_by_ups() {
        let mut settings = settings(1.1, None);
        let domain = |name: &str, upses: &[&str]| PowerDomain {
            name: name.into(),
            upses: upses.iter().map(|ups| (*ups).into()).collect(),
            nodes: BTreeSet::new(),
        };
        settings.domains = vec![domain("d", &["a@h", "both@h"]), domain("e", &["both@h"]), domain("f", &["c@h"])];
        settings.budgets = BTreeMap::from([("d".into(), Duration::from_secs(90)), ("e".into(), Duration::from_secs(120))]);
        for (name, seconds) in [("d", 90), ("e", 120), ("f", 300), ("stranger", 300)] {
            assert_eq!(of_domain(&settings, &name.into()).as_secs(), seconds, "{name}");
        }
        for (ups, seconds) in [("a@h", 90), ("both@h", 120), ("c@h", 300), ("stranger@h", 300)] {
            assert_eq!(of_ups(&settings, &ups.into()).as_secs(), seconds, "{ups}");
        }
    }

    #[test]
    fn a_learned_budget_stays_within_bounds() {
        let mut settings = settings(1.1, None);
        for (configured, predicted, expected) in
            [(300, 120, 120), (300, 10, 75), (300, 5000, 900), (60, 1, 30), (20, 1, 20), (20, 500, 60), (1, 0, 1)]
        {
            settings.shutdown_budget = Duration::from_secs(configured);
            let budget = of_plan(&settings, Duration::from_secs(predicted));
            assert_eq!(budget.as_secs(), expected, "{configured} {predicted}");
        }
    }

    proptest! {
        #[test]
        fn total(samples in prop::collection::vec((any::<u64>(), prop::option::of(any::<u32>()), prop::option::of(any::<f64>())), 0..100),
                 factor in any::<f64>(), budget in any::<u64>(), battery_for in any::<u64>()) {
            let mut trend = Trend::default();
            for (boot, runtime, charge) in samples {
                trend.push(Duration::from_secs(boot), runtime.map(|r| Duration::from_secs(r.into())), charge);
            }
            let until = trend.until_trigger(&settings(factor, Some(600)), Duration::from_secs(budget), Duration::from_secs(battery_for));
            prop_assert!(until.is_none_or(|until| until <= FARTHEST));
        }
    }
}
