//! Shares out the time that is left.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Phase, PlannedStep, Run};
use crate::site::StepId;

/// New limits for every step that has not ended, so that the run ends within `remaining` even if each of them is used up.
///
/// Steps without a share get their ceiling first (all scaled down where that is too much already), the rest of the time is shared out by
/// weight, no step above its ceiling. Phases come one after the other; within one, Graham's bound for list scheduling
/// (sum of the limits / places + the longest) is what it may take.
pub fn cut<S>(run: &Run<S>, remaining: Duration) -> BTreeMap<StepId, Duration> {
    let open = |step: &&PlannedStep<S>| !run.status(&step.id).ended();
    let cost = |weight: &dyn Fn(&PlannedStep<S>) -> f64| -> f64 {
        run.book.phases.iter().map(|phase| phase_cost(phase, phase.steps.iter().filter(open).map(weight))).sum()
    };
    let fixed = cost(&|step| if step.limit.share == 0 { step.limit.ceiling.as_secs_f64() } else { 0.0 });
    let weights = cost(&|step| f64::from(step.limit.share));
    let remaining = remaining.as_secs_f64();
    let squeeze = if fixed > remaining { remaining / fixed } else { 1.0 };
    let per_weight = if weights > 0.0 { (remaining - fixed).max(0.0) / weights } else { 0.0 };
    let limit = |step: &PlannedStep<S>| {
        let ceiling = step.limit.ceiling;
        if step.limit.share == 0 {
            ceiling.mul_f64(squeeze)
        } else {
            Duration::try_from_secs_f64(per_weight * f64::from(step.limit.share)).unwrap_or(ceiling).min(ceiling)
        }
    };
    run.book.steps().filter(open).map(|step| (step.id.clone(), limit(step))).collect()
}

fn phase_cost<S>(phase: &Phase<S>, costs: impl Iterator<Item = f64>) -> f64 {
    let (count, sum, longest) = costs.fold((0_usize, 0.0_f64, 0.0_f64), |(n, sum, max), cost| (n + 1, sum + cost, max.max(cost)));
    let width = phase.width();
    if count <= width {
        longest
    } else if width == 1 {
        sum
    } else {
        sum / width as f64 + longest
    }
}
