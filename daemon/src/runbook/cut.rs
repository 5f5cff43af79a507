//! Shares out the time that is left.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Phase, PlannedStep, Run};
use crate::site::StepId;

/// The least with which an attempt can get anywhere: connect, say it, hear that it was understood.
const FLOOR: f64 = 1.0;
/// A step for which time is reserved gets its expected time so many times over before anything is shared out.
const HEADROOM: f64 = 2.0;

/// New limits for every step that has not ended, so that the run ends within `remaining` even if each of them is used up and each
/// attempt takes the whole grace of an abort.
///
/// 1. Steps without a share are served first: each gets twice what it is expected to take, the ceiling where nothing is expected.
///    Where that is too much already, all of them are scaled down, below a second only where there is no other way.
/// 2. What is left is shared out by weight, no step above its ceiling. A step for which less than a second would be left gets nothing
///    ([`Run::shed`]: it is passed over, and costs nothing), those of the least weight first.
/// 3. What is left then lifts the steps without a share towards their ceilings.
///
/// Phases come one after the other; within one, Graham's bound for list scheduling (sum of the limits / places + the longest) is what it
/// may take. What undoes the run is not cut.
pub fn cut<S>(run: &Run<S>, remaining: Duration) -> BTreeMap<StepId, Duration> {
    let plan = Open::of(run);
    let remaining = remaining.as_secs_f64();
    let (reserved, shed) = (plan.reserved(remaining), vec![0.0; plan.steps.len()]);
    let shared = plan.shared_out(&overlaid(&reserved, &shed), remaining);
    let limits = plan.lifted(&overlaid(&reserved, &shared), remaining);
    plan.steps.iter().zip(limits).map(|(open, limit)| (open.step.id.clone(), whole_millis(limit))).collect()
}

/// The least `remaining` with which [`cut`] gives every step without a share a second (or its ceiling, where that is less).
pub fn least<S>(run: &Run<S>) -> Duration {
    let plan = Open::of(run);
    let floors: Vec<f64> = plan.steps.iter().map(|open| if open.share() == 0.0 { open.floor() } else { 0.0 }).collect();
    Duration::try_from_secs_f64(plan.cost(&floors)).unwrap_or(Duration::MAX)
}

/// Rounded down: a sum of them must not exceed what was shared out.
fn whole_millis(seconds: f64) -> Duration {
    Duration::from_millis((seconds * 1000.0).floor().max(0.0) as u64)
}

fn overlaid(below: &[f64], above: &[f64]) -> Vec<f64> {
    below.iter().zip(above).map(|(low, high)| low.max(*high)).collect()
}

/// The steps of a run that have not ended.
struct Open<'a, S> {
    steps: Vec<OpenStep<'a, S>>,
    /// Places of each phase.
    widths: Vec<usize>,
    grace: f64,
}

struct OpenStep<'a, S> {
    step: &'a PlannedStep<S>,
    /// Index of its phase.
    phase: usize,
    /// It was told to end: only its grace is still to come.
    aborting: bool,
}

impl<S> OpenStep<'_, S> {
    fn ceiling(&self) -> f64 {
        if self.aborting { 0.0 } else { self.step.limit.ceiling.as_secs_f64() }
    }

    fn share(&self) -> f64 {
        f64::from(self.step.limit.share)
    }

    fn floor(&self) -> f64 {
        self.ceiling().min(FLOOR)
    }

    /// What is reserved for a step without a share.
    fn need(&self) -> f64 {
        let expected = HEADROOM * self.step.predicted.as_secs_f64();
        if expected > 0.0 { self.ceiling().min(expected.max(FLOOR)) } else { self.ceiling() }
    }
}

impl<'a, S> Open<'a, S> {
    fn of(run: &'a Run<S>) -> Self {
        let open = |(phase, book): (usize, &'a Phase<S>)| {
            let of_phase = book.steps.iter().filter(|step| !run.status(&step.id).ended());
            let aborting = |step: &PlannedStep<S>| run.state(&step.id).is_some_and(|state| state.aborting.is_some());
            of_phase.map(|step| OpenStep { step, phase, aborting: aborting(step) }).collect::<Vec<_>>()
        };
        Self {
            steps: run.book.phases.iter().enumerate().flat_map(open).collect(),
            widths: run.book.phases.iter().map(Phase::width).collect(),
            grace: run.book.abort_grace.as_secs_f64(),
        }
    }

    /// What the run may take with these limits; a step with none is passed over.
    fn cost(&self, limits: &[f64]) -> f64 {
        let mut phases = vec![(0_usize, 0.0_f64, 0.0_f64); self.widths.len()];
        for (open, limit) in self.steps.iter().zip(limits) {
            if *limit > 0.0 || open.aborting {
                let (count, sum, longest) = &mut phases[open.phase];
                let most = limit + self.grace;
                (*count, *sum, *longest) = (*count + 1, *sum + most, longest.max(most));
            }
        }
        phases.iter().zip(&self.widths).map(|((count, sum, longest), width)| phase_cost(*count, *sum, *longest, *width)).sum()
    }

    /// Limits of the steps without a share.
    fn reserved(&self, remaining: f64) -> Vec<f64> {
        let of = |limit: &dyn Fn(&OpenStep<'_, S>) -> f64| -> Vec<f64> {
            self.steps.iter().map(|open| if open.share() == 0.0 { limit(open) } else { 0.0 }).collect()
        };
        let needs = of(&|open| open.need());
        if self.cost(&needs) <= remaining {
            return needs;
        }
        let floors = of(&|open| open.floor());
        if self.cost(&floors) <= remaining {
            return self.most(remaining, |factor| of(&|open| open.floor().max(factor * open.need())));
        }
        self.most(remaining, |factor| of(&|open| factor * open.floor()))
    }

    /// Limits of the steps with a share, beside those that are reserved.
    fn shared_out(&self, reserved: &[f64], remaining: f64) -> Vec<f64> {
        let mut weights: Vec<f64> = self.steps.iter().map(OpenStep::share).collect();
        let longest = self.steps.iter().map(OpenStep::ceiling).fold(0.0, f64::max);
        loop {
            let of = |per_weight: f64| -> Vec<f64> {
                self.steps.iter().zip(&weights).map(|(open, weight)| (per_weight * weight).min(open.ceiling())).collect()
            };
            let shared = self.most(remaining, |factor| overlaid(reserved, &of(factor * longest)));
            let starved = |i: &usize| weights[*i] > 0.0 && shared[*i] < self.steps[*i].floor();
            if !(0..weights.len()).any(|i| starved(&i)) {
                return shared;
            }
            let least = weights.iter().copied().filter(|weight| *weight > 0.0).fold(f64::MAX, f64::min);
            for weight in weights.iter_mut().filter(|weight| **weight <= least) {
                *weight = 0.0;
            }
        }
    }

    /// Gives what is left to the steps without a share.
    fn lifted(&self, limits: &[f64], remaining: f64) -> Vec<f64> {
        let lift = |factor: f64| -> Vec<f64> {
            let up = |(open, limit): (&OpenStep<'_, S>, &f64)| {
                if open.share() == 0.0 && *limit > 0.0 { limit.max(factor * open.ceiling()) } else { *limit }
            };
            self.steps.iter().zip(limits).map(up).collect()
        };
        if self.cost(limits) > remaining { limits.to_vec() } else { self.most(remaining, lift) }
    }

    /// The limits of the greatest factor up to 1 that fit; they grow with the factor. Those of 0 where none does.
    fn most(&self, remaining: f64, limits: impl Fn(f64) -> Vec<f64>) -> Vec<f64> {
        let all = limits(1.0);
        if self.cost(&all) <= remaining {
            return all;
        }
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..40 {
            let middle = f64::midpoint(low, high);
            if self.cost(&limits(middle)) <= remaining {
                low = middle;
            } else {
                high = middle;
            }
        }
        limits(low)
    }
}

fn phase_cost(count: usize, sum: f64, longest: f64, width: usize) -> f64 {
    if count <= width {
        longest
    } else if width == 1 {
        sum
    } else {
        sum / width as f64 + longest
    }
}
