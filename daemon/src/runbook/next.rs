//! What has to happen now.

use std::time::Duration;

use super::verdict::{culprit, last_words, verdict};
use super::{Form, Mode, Outcome, Phase, PlannedStep, Run, Status, StepState};
use crate::site::{Now, StepId};

/// How long an attempt that was told to end is waited for, where the plan says nothing else.
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
/// Every step in progress has a deadline, and an aborted attempt is abandoned after the plan's grace: a run that is not held always ends.
/// One with a deadline has ended by then, held or not: nothing begins within the grace before it, and nothing is waited for beyond it.
/// A run that is cancelled before its point of no return undoes what it did; there its deadline does not count, for the reason of it is gone.
pub fn next<S>(run: &Run<S>, now: &Now) -> Vec<Order> {
    if run.outcome.is_some() {
        return Vec::new();
    }
    let mut orders = overdue(run, now);
    if orders.is_empty() {
        orders = match ending(run, now) {
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
    TimeIsUp,
    AllEnded,
}

fn ending<S>(run: &Run<S>, now: &Now) -> Option<Ending> {
    if run.phase().is_none() {
        return Some(Ending::AllEnded);
    }
    if let Some(because) = &run.cancel {
        let undoing = run.unwinding() && !in_progress(run, &run.book.phases);
        return (!undoing).then(|| Ending::Cancelled(because.clone()));
    }
    if culprit(run).is_some() {
        return Some(Ending::Failed);
    }
    last_call(run).is_some_and(|moment| now.boot >= moment).then_some(Ending::TimeIsUp)
}

fn in_progress<S>(run: &Run<S>, phases: &[Phase<S>]) -> bool {
    phases.iter().any(|phase| places_taken(run, phase) > 0)
}

/// Boot time by which the run has to have ended.
fn end<S>(run: &Run<S>) -> Option<Duration> {
    run.deadline.filter(|_| !run.unwinding())
}

/// Boot time from which nothing new begins, and at which attempts are told to end.
fn last_call<S>(run: &Run<S>) -> Option<Duration> {
    end(run).map(|end| end.saturating_sub(run.book.abort_grace))
}

/// Attempts past their deadline are aborted, aborted ones past their grace abandoned, pauses past the deadline failed.
fn overdue<S>(run: &Run<S>, now: &Now) -> Vec<Order> {
    run.book.steps().filter_map(|step| late(run, step, run.state(&step.id)?, now)).collect()
}

fn late<S>(run: &Run<S>, step: &PlannedStep<S>, state: &StepState, now: &Now) -> Option<Order> {
    let own = state.deadline.is_some_and(|deadline| now.boot >= deadline);
    let whose = if own { "its deadline" } else { "the deadline of the run" };
    let passed = own || last_call(run).is_some_and(|moment| now.boot >= moment);
    match (&state.status, &state.aborting) {
        (Status::Running { .. }, Some((since, because))) if now.boot >= given_up(run, *since) => Some(Order::Settle {
            step: step.id.clone(),
            status: Status::Abandoned,
            detail: format!("{because}; it did not end within {:?} and is no longer waited for", now.boot.saturating_sub(*since)),
        }),
        (Status::Running { .. }, None) if passed => Some(Order::Abort { step: step.id.clone(), because: format!("{whose} has passed") }),
        (Status::Waiting { .. }, _) if passed => Some(Order::Settle {
            step: step.id.clone(),
            status: Status::Failed,
            detail: format!("{whose} has passed; last: {}", last_words(state)),
        }),
        _ => None,
    }
}

/// Boot time at which an attempt that was told to end at `since` is given up.
fn given_up<S>(run: &Run<S>, since: Duration) -> Duration {
    let patient = since.saturating_add(run.book.abort_grace);
    end(run).map_or(patient, |end| patient.min(end))
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
    let undone = !run.unwinding() || run.phase().is_none();
    if orders.is_empty() && undone && run.running().next().is_none() {
        let (outcome, reason) = verdict(run);
        orders.push(Order::Finish { outcome, reason });
    }
    orders
}

/// Starts what may start in the current phase, and passes over what a cut left no time for.
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
            Status::Pending if orders_name(&orders, &step.id) => continue,
            Status::Pending if run.shed(step) => {
                let detail = "no time was left for it".to_owned();
                orders.push(Order::Settle { step: step.id.clone(), status: Status::Skipped, detail });
                continue;
            }
            Status::Pending if free > 0 => {
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

/// Whether a step of that id is dealt with already: an id that stands twice in a plan is performed once.
fn orders_name(orders: &[Order], id: &StepId) -> bool {
    orders.iter().any(|order| matches!(order, Order::Start { step, .. } | Order::Settle { step, .. } if step == id))
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
    let call = last_call(run).unwrap_or(Duration::MAX);
    let due = |state: &StepState| -> Option<Duration> {
        match (&state.status, &state.aborting) {
            (Status::Running { .. }, Some((since, _))) => Some(given_up(run, *since)),
            (Status::Waiting { until, .. }, _) if run.hold.is_none() => {
                Some(state.deadline.map_or(*until, |end| end.min(*until)).min(call))
            }
            (Status::Running { .. }, None) | (Status::Waiting { .. }, _) => state.deadline.map(|end| end.min(call)),
            _ => None,
        }
    };
    // A held run with nothing in progress still has to end.
    let unheld = Some(call).filter(|call| *call > now.boot && *call < Duration::MAX);
    let at = run.states.values().filter_map(due).chain(unheld).min()?;
    (at > now.boot).then_some(Order::Timer { at })
}
