//! Pure: a start-up that is under way, for people and programs that watch it: `startup-progress.json`.
//!
//! The file is one JSON object, [`Progress`]; what does not apply is `null` or empty, never missing. [`SCHEMA`] counts up when a field
//! changes its meaning or goes; new ones may come.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::runbook::{Outcome, Phase, PlannedStep, Run, Status};
use crate::site::{Cause, Gate, NodeName, RunId, Step, StepId};

/// Version of the file's fields.
pub const SCHEMA: u32 = 1;

/// A step under way counts as no more than this share of itself, however long it takes.
const NEARLY: f64 = 0.9;

/// What is known of a run beside its steps.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// Its id.
    pub id: &'a RunId,
    /// Plan and step states.
    pub run: &'a Run<Step>,
    /// Who asked, for people.
    pub requester: &'a str,
    /// Why it was begun.
    pub cause: &'a Cause,
    /// When it was admitted.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Why it ended as it did.
    pub reason: &'a str,
    /// The moment.
    pub now: Timestamp,
    /// What a person does where a gate fails.
    pub advice: &'a dyn Fn(&Gate) -> &'static str,
}

/// How far a start-up is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its id, e.g. `startup-3`.
    pub run: RunId,
    /// One line for people.
    pub title: String,
    /// `running`, `held`, `cancelling`, or how it ended: `done`, `degraded`, `failed`, `cancelled`, `interrupted`, `unknown_outcome`.
    pub state: &'static str,
    /// Why nothing new is started, or why it ended as it did; null where there is nothing to say.
    pub reason: Option<String>,
    /// Who asked, for people.
    pub requested_by: String,
    /// Why it was begun.
    pub cause: Cause,
    /// When it was admitted.
    pub started: Timestamp,
    /// When this was written.
    pub updated: Timestamp,
    /// When it ended; null: it has not.
    pub ended: Option<Timestamp>,
    /// By the time that its steps are expected to take; 100 only once it is done.
    pub percent: u8,
    /// Steps that have ended.
    pub steps_done: usize,
    /// All of them.
    pub steps_total: usize,
    /// The first phase that has not ended, or the one in which it failed; null once it is done.
    pub phase: Option<PhaseNow>,
    /// The step that is under way for the longest time, or the one that failed; null where there is none.
    pub step: Option<StepNow>,
    /// The gate that is waited at for the longest time, or the one that failed; null where there is none.
    pub gate: Option<GateNow>,
    /// Ids of all steps that are under way.
    pub under_way: Vec<StepId>,
    /// The command to type next.
    pub next: String,
}

/// Where in the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PhaseNow {
    /// Its name.
    pub name: String,
    /// Which of them, from 1.
    pub number: usize,
    /// Of so many.
    pub of: usize,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepNow {
    /// Its id.
    pub id: StepId,
    /// What is performed, e.g. `k3s.bring-up`.
    pub kind: &'static str,
    /// On which host of the inventory; null where on none.
    pub host: Option<NodeName>,
    /// One line for people.
    pub title: String,
    /// When it began; null where it never did.
    pub since: Option<Timestamp>,
    /// Its newest word; null where it said none.
    pub detail: Option<String>,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GateNow {
    /// Its name in `metisctl startup --list`.
    pub name: &'static str,
    /// Of which host; null where of the site.
    pub host: Option<NodeName>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// What is missing; null where it was not looked at yet.
    pub why: Option<String>,
    /// So long without progress is borne.
    pub patience_seconds: u64,
    /// When it is given up, whatever progress is made; null where it has not begun.
    pub hard_end: Option<Timestamp>,
    /// What a person does where it fails.
    pub on_failure: &'static str,
}

/// How far it is.
pub fn progress(subject: &Subject<'_>) -> Progress {
    let run = subject.run;
    let steps = || run.book.phases.iter().flat_map(|phase| &phase.steps);
    let shown = shown(run);
    let gate = shown.iter().find_map(|step| gate(subject, step));
    let oldest = shown.first().copied();
    Progress {
        schema: SCHEMA,
        run: subject.id.clone(),
        title: run.book.title.clone(),
        state: state(run),
        reason: reason(subject),
        requested_by: subject.requester.to_owned(),
        cause: subject.cause.clone(),
        started: subject.started,
        updated: subject.now,
        ended: subject.ended,
        percent: percent(run, subject.now),
        steps_done: steps().filter(|step| run.status(&step.id).ended() && run.status(&step.id) != Status::Skipped).count(),
        steps_total: steps().count(),
        phase: phase(run, oldest),
        step: oldest.map(|step| step_now(run, step)),
        next: next(subject, shown.iter().find(|step| is_gate(step)).copied()),
        gate,
        under_way: steps().filter(|step| run.status(&step.id).in_progress()).map(|step| step.id.clone()).collect(),
    }
}

/// Steps that are under way, the oldest first; of a run that has ended badly those that failed.
fn shown(run: &Run<Step>) -> Vec<&PlannedStep<Step>> {
    let wanted = |status: Status| match run.outcome {
        None => status.in_progress(),
        Some(Outcome::Done | Outcome::Degraded) => false,
        Some(_) => status.failed() || status == Status::Cancelled,
    };
    let mut found: Vec<_> = run.book.phases.iter().flat_map(|phase| &phase.steps).filter(|step| wanted(run.status(&step.id))).collect();
    found.sort_by_key(|step| run.state(&step.id).and_then(|state| state.started).unwrap_or(Timestamp::MAX));
    found
}

fn state(run: &Run<Step>) -> &'static str {
    match (run.outcome, &run.cancel, &run.hold) {
        (Some(Outcome::Done), ..) => "done",
        (Some(Outcome::Degraded), ..) => "degraded",
        (Some(Outcome::Failed), ..) => "failed",
        (Some(Outcome::Cancelled), ..) => "cancelled",
        (Some(Outcome::Interrupted), ..) => "interrupted",
        (Some(Outcome::UnknownOutcome), ..) => "unknown_outcome",
        (None, Some(_), _) => "cancelling",
        (None, None, Some(_)) => "held",
        (None, None, None) => "running",
    }
}

fn reason(subject: &Subject<'_>) -> Option<String> {
    let run = subject.run;
    let why = match run.outcome {
        Some(_) => subject.reason.to_owned(),
        None => run.cancel.clone().or_else(|| run.hold.as_ref().map(|hold| hold.because.clone())).unwrap_or_default(),
    };
    said(&why)
}

fn said(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Steps weigh what they are expected to take, and a second at least.
fn percent(run: &Run<Step>, now: Timestamp) -> u8 {
    if matches!(run.outcome, Some(Outcome::Done | Outcome::Degraded)) {
        return 100;
    }
    let (mut done, mut total) = (0.0, 0.0);
    for step in run.book.phases.iter().flat_map(|phase| &phase.steps) {
        let weight = step.predicted.as_secs_f64().max(1.0);
        let status = run.status(&step.id);
        let share = match status {
            Status::Pending | Status::Skipped => 0.0,
            _ if status.ended() => 1.0,
            _ => {
                let since = run.state(&step.id).and_then(|state| state.started).unwrap_or(now);
                (now.duration_since(since).as_secs_f64().max(0.0) / weight).min(NEARLY)
            }
        };
        done += weight * share;
        total += weight;
    }
    if total == 0.0 { 0 } else { (100.0 * done / total).floor().clamp(0.0, 99.0) as u8 }
}

fn phase(run: &Run<Step>, oldest: Option<&PlannedStep<Step>>) -> Option<PhaseNow> {
    let holds = |phase: &Phase<Step>| match (run.outcome, oldest) {
        (None, _) => phase.steps.iter().any(|step| !run.status(&step.id).ended()),
        (Some(_), Some(step)) => phase.steps.iter().any(|other| other.id == step.id),
        (Some(_), None) => false,
    };
    let at = run.book.phases.iter().position(holds)?;
    Some(PhaseNow { name: run.book.phases[at].name.clone(), number: at + 1, of: run.book.phases.len() })
}

fn step_now(run: &Run<Step>, step: &PlannedStep<Step>) -> StepNow {
    let state = run.state(&step.id);
    StepNow {
        id: step.id.clone(),
        kind: step.action.kind(),
        host: step.action.host().cloned(),
        title: step.title.clone(),
        since: state.and_then(|state| state.started),
        detail: state.and_then(|state| said(&state.detail)),
    }
}

fn is_gate(step: &PlannedStep<Step>) -> bool {
    matches!(step.action, Step::Await { .. })
}

fn gate(subject: &Subject<'_>, step: &PlannedStep<Step>) -> Option<GateNow> {
    let Step::Await { gate, patience } = &step.action else { return None };
    let state = subject.run.state(&step.id);
    let since = state.and_then(|state| state.started);
    let why = state.and_then(|state| said(state.detail.strip_prefix("waiting: ").unwrap_or(&state.detail)));
    Some(GateNow {
        name: gate.name(),
        host: step.action.host().cloned(),
        since,
        why,
        patience_seconds: patience.as_secs(),
        hard_end: since.and_then(|since| later(since, subject.run.limit(step))),
        on_failure: (subject.advice)(gate),
    })
}

fn later(at: Timestamp, by: Duration) -> Option<Timestamp> {
    at.checked_add(SignedDuration::try_from(by).ok()?).ok()
}

/// At a gate the command that shows what is missing.
fn next(subject: &Subject<'_>, gate: Option<&PlannedStep<Step>>) -> String {
    let id = subject.id;
    match (gate, subject.run.outcome) {
        (Some(step), _) if !step.by_hand.is_empty() => step.by_hand.clone(),
        (_, Some(_)) => format!("metisctl run show {id}"),
        (_, None) if subject.run.hold.is_some() => "metisctl ups".to_owned(),
        (_, None) => format!("metisctl run watch {id}"),
    }
}

#[cfg(test)]
mod tests;
