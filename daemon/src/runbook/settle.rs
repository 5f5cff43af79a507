//! What the end of an attempt means for its step.

use std::time::Duration;

use super::{Form, Mode, Order, PlannedStep, Replay, Run, Status, StepResult, StepState};
use crate::site::{Now, StepId};

/// Gates are not probed faster than this, whatever the plan says.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// Where a step goes after that result, and the text for people.
///
/// `None`: the result is of no attempt that is under way (late, doubled, or of a run that has ended), and changes nothing.
pub fn settle<S>(run: &Run<S>, step: &StepId, attempt: u32, result: &StepResult, now: &Now) -> Option<(Status, String)> {
    let planned = run.book.step(step)?;
    let state = run.state(step)?;
    let Status::Running { mode, attempt: current } = state.status else { return None };
    if current != attempt || run.outcome.is_some() {
        return None;
    }
    let detail = result.detail().to_owned();
    if let (Some((_, because)), false) = (&state.aborting, is_end(planned, mode, result)) {
        let status = if run.cancel.is_some() { Status::Cancelled } else { Status::Failed };
        return Some((status, if detail.is_empty() { because.clone() } else { format!("{because}: {detail}") }));
    }
    let status = match (mode, &planned.form) {
        (Mode::Act, _) => after_act(planned, state, result, now),
        (Mode::Remedy(_), _) => Status::Waiting { until: now.boot, then: Mode::Probe },
        (Mode::Probe, Form::Gate { patience, every, remedies }) => {
            let next_remedy = (state.remedies as usize) < remedies.len();
            after_gate(state, result, *patience, *every, next_remedy, now)
        }
        (Mode::Probe, Form::Act | Form::Ensure) => after_probe(planned, state, result, now),
    };
    Some((status, detail))
}

/// An attempt that did all there is to do, even though it was told to end.
fn is_end<S>(step: &PlannedStep<S>, mode: Mode, result: &StepResult) -> bool {
    matches!(result, StepResult::Done { .. }) && !(matches!(mode, Mode::Remedy(_)) && matches!(step.form, Form::Gate { .. }))
}

fn after_act<S>(step: &PlannedStep<S>, state: &StepState, result: &StepResult, now: &Now) -> Status {
    let again = match result {
        StepResult::Done { .. } => return Status::Done,
        StepResult::Failed { permanent, .. } => !permanent,
        StepResult::Unreached { .. } => !given_up(step, state, now),
        StepResult::NotReady { .. } | StepResult::CannotTell { .. } => true,
        StepResult::Cancelled { .. } => false,
    };
    if !again || !may_act(step, state) {
        return Status::Failed;
    }
    let probe_first = matches!(step.form, Form::Ensure) || step.replay == Replay::CheckFirst;
    let then = if probe_first { Mode::Probe } else { Mode::Act };
    Status::Waiting { until: now.boot.saturating_add(step.retry.pause(state.acts)), then }
}

/// Whether nothing was reached for so long that the next attempt is not waited for.
fn given_up<S>(step: &PlannedStep<S>, state: &StepState, now: &Now) -> bool {
    let next = now.boot.saturating_add(step.retry.pause(state.acts));
    step.unreached.is_some_and(|limit| next > state.patient_since.saturating_add(limit))
}

fn after_probe<S>(step: &PlannedStep<S>, state: &StepState, result: &StepResult, now: &Now) -> Status {
    match result {
        StepResult::Done { .. } => Status::Done,
        StepResult::NotReady { .. } if may_act(step, state) => Status::Waiting { until: now.boot, then: Mode::Act },
        StepResult::NotReady { .. } | StepResult::Cancelled { .. } | StepResult::Failed { permanent: true, .. } => Status::Failed,
        StepResult::Unreached { .. } if given_up(step, state, now) => Status::Failed,
        StepResult::CannotTell { .. } | StepResult::Failed { .. } | StepResult::Unreached { .. } => {
            let failures = state.unclear.saturating_add(1);
            if failures >= step.retry.attempts.max(1) {
                Status::Failed
            } else {
                Status::Waiting { until: now.boot.saturating_add(step.retry.pause(failures)), then: Mode::Probe }
            }
        }
    }
}

fn after_gate(state: &StepState, result: &StepResult, patience: Duration, every: Duration, next_remedy: bool, now: &Now) -> Status {
    let again = Status::Waiting { until: now.boot.saturating_add(every.max(SHORTEST_PAUSE)), then: Mode::Probe };
    let out_of_patience = now.boot >= state.patient_since.saturating_add(patience);
    match result {
        StepResult::Done { .. } => Status::Done,
        StepResult::Cancelled { .. } | StepResult::Failed { permanent: true, .. } => Status::Failed,
        _ if !out_of_patience => again,
        StepResult::NotReady { .. } if next_remedy => Status::Waiting { until: now.boot, then: Mode::Remedy(state.remedies) },
        StepResult::NotReady { .. } | StepResult::CannotTell { .. } | StepResult::Failed { .. } | StepResult::Unreached { .. } => {
            Status::Failed
        }
    }
}

/// Whether the step may be told to act (again).
fn may_act<S>(step: &PlannedStep<S>, state: &StepState) -> bool {
    let most = if step.replay == Replay::NeverRepeat { 1 } else { step.retry.attempts.max(1) };
    state.acts < most
}

/// What becomes of the steps that were under way when the daemon stopped, where the run goes on in the same boot.
pub fn resume<S>(run: &Run<S>, now: &Now) -> Vec<Order> {
    run.running()
        .filter_map(|step| {
            let Status::Running { mode, .. } = run.status(&step.id) else { return None };
            let (status, detail) = replay(step, mode, now);
            Some(Order::Settle { step: step.id.clone(), status, detail: detail.to_owned() })
        })
        .collect()
}

fn replay<S>(step: &PlannedStep<S>, mode: Mode, now: &Now) -> (Status, &'static str) {
    let again = |then| Status::Waiting { until: now.boot, then };
    match (mode, step.replay) {
        (Mode::Probe, _) => (again(Mode::Probe), "metisd stopped while it was probed; probed again"),
        (Mode::Remedy(_), _) => (again(Mode::Probe), "metisd stopped during a remedy; probed again"),
        (Mode::Act, Replay::Idempotent) => (again(Mode::Act), "metisd stopped while it ran; repeated"),
        (Mode::Act, Replay::CheckFirst) => (again(Mode::Probe), "metisd stopped while it ran; checked first"),
        (Mode::Act, Replay::NeverRepeat) => (Status::UnknownOutcome, "metisd stopped while it ran, and it must not be repeated"),
    }
}
