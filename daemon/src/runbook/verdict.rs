//! How a run ended, and why.

use super::{OnFailure, Outcome, PlannedStep, Run, Status, StepState};

/// The step whose failure stops the run.
pub(super) fn culprit<S>(run: &Run<S>) -> Option<(&PlannedStep<S>, &StepState)> {
    failures(run).find(|(step, _)| step.on_failure == OnFailure::Stop)
}

/// Steps of the plan itself that failed, or for which no time was left.
fn failures<S>(run: &Run<S>) -> impl Iterator<Item = (&PlannedStep<S>, &StepState)> {
    let steps = run.book.phases.iter().flat_map(|phase| phase.steps.iter());
    steps
        .filter_map(|step| Some((step, run.state(&step.id)?)))
        .filter(|(_, state)| state.status.failed() || state.status == Status::Skipped)
}

/// The outcome of a run in which nothing is in progress.
pub(super) fn verdict<S>(run: &Run<S>) -> (Outcome, String) {
    if run.unwinding() {
        return (Outcome::Cancelled, undone(run));
    }
    if let Some((step, state)) = culprit(run) {
        let outcome = if state.status == Status::UnknownOutcome { Outcome::UnknownOutcome } else { Outcome::Failed };
        return match &run.cancel {
            Some(because) => (Outcome::Cancelled, format!("{because}; {}", tell((step, state)))),
            None => (outcome, tell((step, state))),
        };
    }
    let unfinished = || {
        let steps = run.book.phases.iter().flat_map(|phase| phase.steps.iter());
        steps.filter(|step| matches!(run.status(&step.id), Status::Pending | Status::Cancelled | Status::Skipped))
    };
    match &run.cancel {
        Some(because) if unfinished().next().is_some() => (Outcome::Cancelled, cut_short(run, because)),
        _ => {
            let pending = || unfinished().filter(|step| run.status(&step.id) == Status::Pending);
            let never = joined(pending().map(|step| step.title.clone()), ", ");
            let never = never.map(|titles| format!("the deadline of the run has passed; never begun: {titles}"));
            let reasons = joined(never.into_iter().chain(failures(run).map(tell)), "; ");
            match reasons {
                Some(reasons) if pending().any(|step| step.on_failure == OnFailure::Stop) => (Outcome::Failed, reasons),
                Some(reasons) => (Outcome::Degraded, reasons),
                None => (Outcome::Done, String::new()),
            }
        }
    }
}

/// Why a run was cancelled, with what the last step that was ended in its middle says of the state that it left.
fn cut_short<S>(run: &Run<S>, because: &str) -> String {
    let ended = run.book.steps().filter_map(|step| run.state(&step.id)).filter(|state| state.status == Status::Cancelled);
    ended.filter(|state| state.detail.starts_with(because)).last().map_or_else(|| because.to_owned(), |state| state.detail.clone())
}

/// Why a run was cancelled, and what of it could not be undone.
fn undone<S>(run: &Run<S>) -> String {
    let because = run.cancel.as_deref().unwrap_or_default();
    let steps = run.book.unwind.iter().flat_map(|phase| phase.steps.iter());
    let left = steps.filter_map(|step| Some((step, run.state(&step.id)?))).filter(|(_, state)| state.status != Status::Done);
    match joined(left.map(tell), "; ") {
        Some(left) => format!("{because}; not undone: {left}"),
        None => format!("{because}; what it had done is undone"),
    }
}

fn tell<S>((step, state): (&PlannedStep<S>, &StepState)) -> String {
    format!("{}: {}", step.title, last_words(state))
}

pub(super) fn last_words(state: &StepState) -> &str {
    if state.detail.is_empty() { "nothing heard" } else { &state.detail }
}

fn joined(words: impl Iterator<Item = String>, by: &str) -> Option<String> {
    words.reduce(|all, one| format!("{all}{by}{one}"))
}
