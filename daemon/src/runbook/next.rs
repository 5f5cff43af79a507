//! What has to happen now.

use std::time::Duration;

use super::{Mode, OnFailure, Outcome, Phase, PlannedStep, Run, Status, StepState};
use crate::runbook::Form;
use crate::site::{Now, StepId};

/// How long an attempt that was told to end is waited for.
pub const ABORT_GRACE: Duration = Duration::from_secs(5);

/// One thing to do. The caller records it as a fact, applies it to the run, and asks again until only timers are left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Begin an attempt.
    Start {
        /// Of this step.
        step: StepId,
        /// What it is asked for.
        mode: Mode,
        /// Its serial number.
        attempt: u32,
        /// Boot time at which it is told to end.
        deadline: Duration,
    },
    /// Tell the attempt under way to end.
    Abort {
        /// Of this step.
        step: StepId,
        /// Why.
        because: String,
    },
    /// Close a step without waiting for anything.
    Settle {
        /// Which one.
        step: StepId,
        /// As what.
        status: Status,
        /// Why.
        detail: String,
    },
    /// Ask again at this boot time at the latest.
    Timer {
        /// Boot time.
        at: Duration,
    },
    /// The run has ended.
    Finish {
        /// How.
        outcome: Outcome,
        /// Why, for people; empty where it is simply done.
        reason: String,
    },
}

/// What has to happen now. Empty where the run has ended, or only waits for attempts to end.
///
/// Every step in progress has a deadline, and an aborted attempt is abandoned after [`ABORT_GRACE`]: a run that is not held always ends.
pub fn next<S>(run: &Run<S>, now: &Now) -> Vec<Order> {
    if run.outcome.is_some() {
        return Vec::new();
    }
    let mut orders = overdue(run, now);
    if orders.is_empty() {
        orders = match ending(run) {
            Some(why) => wind_up(run, &why),
            None => begin(run, now),
        };
    }
    if !orders.iter().any(|order| matches!(order, Order::Finish { .. })) {
        orders.extend(timer(run, now));
    }
    orders
}

/// Why nothing new may start any more.
enum Ending {
    Cancelled(String),
    Failed,
    AllEnded,
}

fn ending<S>(run: &Run<S>) -> Option<Ending> {
    if run.phase().is_none() {
        Some(Ending::AllEnded)
    } else if let Some(because) = &run.cancel {
        Some(Ending::Cancelled(because.clone()))
    } else {
        culprit(run).map(|_| Ending::Failed)
    }
}

/// The step whose failure stops the run.
fn culprit<S>(run: &Run<S>) -> Option<(&PlannedStep<S>, &StepState)> {
    failures(run).find(|(step, _)| step.on_failure == OnFailure::Stop)
}

fn failures<S>(run: &Run<S>) -> impl Iterator<Item = (&PlannedStep<S>, &StepState)> {
    run.book.steps().filter_map(|step| Some((step, run.state(&step.id)?))).filter(|(_, state)| state.status.failed())
}

/// Attempts past their deadline are aborted, aborted ones past their grace abandoned, pauses past the deadline failed.
fn overdue<S>(run: &Run<S>, now: &Now) -> Vec<Order> {
    run.book.steps().filter_map(|step| late(step, run.state(&step.id)?, now)).collect()
}

fn late<S>(step: &PlannedStep<S>, state: &StepState, now: &Now) -> Option<Order> {
    let passed = state.deadline.is_some_and(|deadline| now.boot >= deadline);
    match (&state.status, &state.aborting) {
        (Status::Running { .. }, Some((since, because))) if now.boot >= since.saturating_add(ABORT_GRACE) => Some(Order::Settle {
            step: step.id.clone(),
            status: Status::Abandoned,
            detail: format!("{because}; it did not end within {} s and is no longer waited for", ABORT_GRACE.as_secs()),
        }),
        (Status::Running { .. }, None) if passed => {
            Some(Order::Abort { step: step.id.clone(), because: "its deadline has passed".to_owned() })
        }
        (Status::Waiting { .. }, _) if passed => Some(Order::Settle {
            step: step.id.clone(),
            status: Status::Failed,
            detail: format!("its deadline has passed; last: {}", last_words(state)),
        }),
        _ => None,
    }
}

fn last_words(state: &StepState) -> &str {
    if state.detail.is_empty() { "nothing heard" } else { &state.detail }
}

/// Ends what is in progress; finishes once nothing is. A failure lets running siblings come to their own end.
fn wind_up<S>(run: &Run<S>, why: &Ending) -> Vec<Order> {
    let mut orders = Vec::new();
    for step in run.book.steps() {
        let Some(state) = run.state(&step.id) else { continue };
        let id = step.id.clone();
        match (&state.status, why) {
            (Status::Running { .. }, Ending::Cancelled(because)) if state.aborting.is_none() => {
                orders.push(Order::Abort { step: id, because: because.clone() });
            }
            (Status::Waiting { .. }, Ending::Cancelled(because)) => {
                orders.push(Order::Settle { step: id, status: Status::Cancelled, detail: because.clone() });
            }
            (Status::Waiting { .. }, Ending::Failed) => {
                let detail = "another step failed".to_owned();
                orders.push(Order::Settle { step: id, status: Status::Cancelled, detail });
            }
            _ => {}
        }
    }
    if orders.is_empty() && run.running().next().is_none() {
        let (outcome, reason) = verdict(run);
        orders.push(Order::Finish { outcome, reason });
    }
    orders
}

/// The outcome of a run in which nothing is in progress.
fn verdict<S>(run: &Run<S>) -> (Outcome, String) {
    let tell = |(step, state): (&PlannedStep<S>, &StepState)| format!("{}: {}", step.title, last_words(state));
    if let Some((step, state)) = culprit(run) {
        let outcome = if state.status == Status::UnknownOutcome { Outcome::UnknownOutcome } else { Outcome::Failed };
        return match &run.cancel {
            Some(because) => (Outcome::Cancelled, format!("{because}; {}", tell((step, state)))),
            None => (outcome, tell((step, state))),
        };
    }
    let unfinished = run.book.steps().any(|step| matches!(run.status(&step.id), Status::Pending | Status::Cancelled | Status::Skipped));
    match &run.cancel {
        Some(because) if unfinished => (Outcome::Cancelled, cut_short(run, because)),
        _ => match failures(run).map(tell).reduce(|all, one| format!("{all}; {one}")) {
            Some(reasons) => (Outcome::Degraded, reasons),
            None => (Outcome::Done, String::new()),
        },
    }
}

/// Why a run was cancelled, with what the last step that was ended in its middle says of the state that it left.
fn cut_short<S>(run: &Run<S>, because: &str) -> String {
    let ended = run.book.steps().filter_map(|step| run.state(&step.id)).filter(|state| state.status == Status::Cancelled);
    ended.filter(|state| state.detail.starts_with(because)).last().map_or_else(|| because.to_owned(), |state| state.detail.clone())
}

/// Starts what may start in the current phase.
fn begin<S>(run: &Run<S>, now: &Now) -> Vec<Order> {
    let Some(phase) = run.phase() else { return Vec::new() };
    if run.hold.is_some() {
        return Vec::new();
    }
    let mut free = phase.width().saturating_sub(places_taken(run, phase));
    let mut orders = Vec::new();
    for step in &phase.steps {
        let Some(state) = run.state(&step.id) else { continue };
        let mode = match state.status {
            Status::Waiting { until, then } if now.boot >= until => then,
            Status::Pending if free > 0 && !orders_name(&orders, &step.id) => {
                free -= 1;
                first_mode(step)
            }
            _ => continue,
        };
        let deadline = state.deadline.unwrap_or_else(|| now.boot.saturating_add(run.limit(step)));
        orders.push(Order::Start { step: step.id.clone(), mode, attempt: state.attempts.saturating_add(1), deadline });
    }
    orders
}

/// Whether a step of that id is started already: an id that stands twice in a plan is performed once.
fn orders_name(orders: &[Order], id: &StepId) -> bool {
    orders.iter().any(|order| matches!(order, Order::Start { step, .. } if step == id))
}

fn places_taken<S>(run: &Run<S>, phase: &Phase<S>) -> usize {
    phase.steps.iter().filter(|step| run.status(&step.id).in_progress()).count()
}

fn first_mode<S>(step: &PlannedStep<S>) -> Mode {
    match step.form {
        Form::Act => Mode::Act,
        Form::Ensure | Form::Gate { .. } => Mode::Probe,
    }
}

/// The earliest moment at which something becomes due by itself.
fn timer<S>(run: &Run<S>, now: &Now) -> Option<Order> {
    let due = |state: &StepState| -> Option<Duration> {
        match (&state.status, &state.aborting) {
            (Status::Running { .. }, Some((since, _))) => Some(since.saturating_add(ABORT_GRACE)),
            (Status::Waiting { until, .. }, _) if run.hold.is_none() => Some(state.deadline.map_or(*until, |end| end.min(*until))),
            (Status::Running { .. }, None) | (Status::Waiting { .. }, _) => state.deadline,
            _ => None,
        }
    };
    let at = run.states.values().filter_map(due).min()?;
    (at > now.boot).then_some(Order::Timer { at })
}
