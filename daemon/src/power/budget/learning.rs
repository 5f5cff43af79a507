//! How long steps took in real runs, and what that says of the next one.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::site::Learned;

/// Real runs of a step that are remembered; older ones are forgotten.
pub const RUNS_KEPT: usize = 20;
/// From so many real runs on their figure counts instead of the configured one.
pub const RUNS_NEEDED: usize = 3;

/// A run that took longer counts as this multiple of the median.
const OUTLIER: u32 = 2;
/// Below this everything is the same: the median of steps that take no time would make an outlier of any other run.
const RESOLUTION: Duration = Duration::from_secs(1);
/// Share of the runs that are to stay within the figure.
const PERCENTILE: usize = 95;

/// Durations of real runs. What is to be noted: steps that were done, and steps that their limit ended, with the time they were given; not
/// steps that failed early, nor rehearsals and dry runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Learning {
    /// `k3s.stop titan-13` (or `flux.suspend`) → the newest [`RUNS_KEPT`] durations, oldest first.
    runs: BTreeMap<String, VecDeque<Duration>>,
}

impl Learning {
    /// Adds a real run of that kind of step on that host (empty: on none).
    pub fn note(&mut self, kind: &str, host: &str, took: Duration) {
        let runs = self.runs.entry(Learned::key(kind, host)).or_default();
        runs.push_back(took);
        while runs.len() > RUNS_KEPT {
            runs.pop_front();
        }
    }

    /// What is to be expected: by kind and host, and by kind alone as on the slowest host that is known.
    pub fn learned(&self) -> Learned {
        let mut steps = BTreeMap::new();
        for (key, runs) in self.runs.iter().filter(|(_, runs)| runs.len() >= RUNS_NEEDED) {
            let figure = expected(runs);
            let kind = key.split_once(' ').map_or(key.as_str(), |(kind, _)| kind);
            for key in [kind, key] {
                let slowest: &mut Duration = steps.entry(key.to_owned()).or_default();
                *slowest = figure.max(*slowest);
            }
        }
        Learned { steps }
    }
}

/// The 95th percentile (nearest rank), every run cut to twice the median: one run that went wrong at most doubles it.
fn expected(runs: &VecDeque<Duration>) -> Duration {
    let mut sorted: Vec<Duration> = runs.iter().copied().collect();
    sorted.sort();
    let Some(last) = sorted.len().checked_sub(1) else { return Duration::ZERO };
    let most = sorted[last / 2].saturating_mul(OUTLIER).max(RESOLUTION);
    let rank = (sorted.len() * PERCENTILE).div_ceil(100).saturating_sub(1);
    sorted[rank.min(last)].min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn figure(runs: &[u64]) -> Option<Duration> {
        let mut learning = Learning::default();
        for run in runs {
            learning.note("k3s.stop", "titan-13", secs(*run));
        }
        learning.learned().get("k3s.stop", "titan-13")
    }

    #[test]
    fn figures_of_real_runs() {
        let many: Vec<u64> = (1..=20).collect();
        let table: [(&str, &[u64], Option<u64>); 8] = [
            ("none", &[], None),
            ("too few", &[5, 5], None),
            ("three: the longest", &[4, 6, 5], Some(6)),
            ("an outlier counts as twice the median", &[5, 5, 900], Some(10)),
            ("two of four are none", &[5, 9, 9, 9], Some(9)),
            ("steps of no time", &[0, 0, 40], Some(1)),
            ("the 19th of twenty", &many, Some(19)),
            ("what is long ago is forgotten", &[[900; 20], [3; 20]].concat(), Some(3)),
        ];
        for (name, runs, expected) in table {
            assert_eq!(figure(runs), expected.map(secs), "{name}");
        }
    }

    #[test]
    fn a_host_that_was_never_seen_is_taken_for_the_slowest() {
        let mut learning = Learning::default();
        for (host, took) in [("titan-13", 4), ("titan-15", 9), ("titan-17", 2)] {
            for _ in 0..RUNS_NEEDED {
                learning.note("k3s.stop", host, secs(took));
            }
        }
        learning.note("k3s.stop", "titan-19", secs(100));
        let learned = learning.learned();
        assert_eq!(learned.get("k3s.stop", "titan-13"), Some(secs(4)));
        assert_eq!(learned.get("k3s.stop", "titan-19"), Some(secs(9)), "one run says nothing yet");
        assert_eq!(learned.get("node.drain", "titan-13"), None);
    }

    proptest! {
        /// Runs within a factor of two of each other, and one that went wrong.
        #[test]
        fn one_outlier_at_most_doubles_it(least in 1..600_u64, more in prop::collection::vec(0.0..1.0_f64, 3..25), outlier in 0..1_000_000_u64) {
            let runs: Vec<u64> = more.iter().map(|more| least + (more * least as f64) as u64).collect();
            let (before, after) = (figure(&runs).unwrap(), figure(&[&runs[..], &[outlier]].concat()).unwrap());
            prop_assert!(after <= before * 2, "{before:?} -> {after:?}");
        }

        #[test]
        fn total_and_the_same_after_json(notes in prop::collection::vec((0..4_u8, 0..4_u8, any::<u64>()), 0..120)) {
            let mut learning = Learning::default();
            for (kind, host, seconds) in notes {
                let host = if host == 0 { String::new() } else { format!("h{host}") };
                learning.note(&format!("k{kind}"), &host, secs(seconds));
            }
            let learned = learning.learned();
            for (key, figure) in &learned.steps {
                let kind = key.split(' ').next().unwrap();
                prop_assert!(learned.steps[kind] >= *figure, "{key}");
            }
            let json = serde_json::to_string(&learning).unwrap();
            prop_assert_eq!(serde_json::from_str::<Learning>(&json).unwrap(), learning);
        }
    }
}
