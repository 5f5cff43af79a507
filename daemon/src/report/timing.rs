//! What a real run teaches of how long steps take.

use std::time::Duration;

use crate::runbook::{PlannedStep, Run, Status, StepState};
use crate::site::{NodeName, Step};

/// How long one step took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timing {
    /// Its kind, e.g. `k3s.stop`.
    pub kind: &'static str,
    /// On which host; empty: on none.
    pub host: String,
    /// How long, by the wall clock; 0 where that was set back.
    pub took: Duration,
}

/// The steps of a run that say how long such a step takes: those that were done, and those that were told to end because their time was up
/// (they took that long at least). Not those that failed by themselves, were cancelled, or had no time left for them.
pub fn timings(run: &Run<Step>) -> Vec<Timing> {
    run.book.steps().filter_map(|step| timing(run, step, run.state(&step.id)?)).collect()
}

fn timing(run: &Run<Step>, step: &PlannedStep<Step>, state: &StepState) -> Option<Timing> {
    let out_of_time = state.status.failed() && state.aborting.is_some() && run.cancel.is_none();
    if state.status != Status::Done && !out_of_time {
        return None;
    }
    let took = state.ended?.duration_since(state.started?);
    let host = step.action.host().map_or("", NodeName::as_str).to_owned();
    Some(Timing { kind: step.action.kind(), host, took: Duration::try_from(took).unwrap_or_default() })
}
