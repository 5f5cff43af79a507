//! Pure: a finished run to a report.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::runbook::{Outcome, Phase, PlannedStep, Run, Status};
use crate::site::{BootId, RunId, SettingsDigest, Step};

#[cfg(test)]
mod tests;

/// What is known of a run beside its steps.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its id.
    pub id: &'a RunId,
    /// Plan and step states.
    pub run: &'a Run<Step>,
    /// Who asked, for people.
    pub requester: &'a str,
    /// The settings it was pinned to.
    pub settings: &'a SettingsDigest,
    /// The boot it belonged to.
    pub boot_id: &'a BootId,
    /// When it was admitted.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Why it ended as it did; empty where it is simply done.
    pub reason: &'a str,
}

/// A run that has ended, for people and for `last-*-report.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Its id.
    pub run: RunId,
    /// What it did, e.g. `burn`.
    pub kind: String,
    /// One line for people.
    pub title: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why; empty where it is simply done.
    pub reason: String,
    /// Who asked, for people.
    pub requested_by: String,
    /// The settings it was pinned to.
    pub settings_digest: SettingsDigest,
    /// The boot it belonged to.
    pub boot_id: BootId,
    /// Its whole time.
    pub span: Span,
    /// Its time line.
    pub phases: Vec<PhaseReport>,
    /// What was said before it began.
    pub warnings: Vec<String>,
}

/// From when to when, by the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Whole seconds in between; 0 where the clock was set back.
    pub seconds: u64,
}

/// One phase of the time line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PhaseReport {
    /// Its name.
    pub name: String,
    /// From its first step's begin to its last step's end; absent where none began.
    pub span: Option<Span>,
    /// Its steps.
    pub steps: Vec<StepReport>,
}

/// One step of the time line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// Its id.
    pub id: String,
    /// What was performed, e.g. `card.write`.
    pub kind: &'static str,
    /// One line for people.
    pub title: String,
    /// How it ended.
    pub status: Status,
    /// Attempts, probes included.
    pub attempts: u32,
    /// Absent where it never began.
    pub span: Option<Span>,
    /// How long it was expected to take.
    pub predicted_seconds: u64,
    /// The last word of it.
    pub detail: String,
}

impl Span {
    fn new(started: Timestamp, ended: Timestamp) -> Self {
        let seconds = u64::try_from(ended.duration_since(started).as_secs()).unwrap_or(0);
        Self { started, ended, seconds }
    }
}

/// Reports a run. One that has no outcome yet is reported as interrupted.
pub fn report(subject: &Subject<'_>) -> Report {
    let book = &subject.run.book;
    Report {
        run: subject.id.clone(),
        kind: book.kind.clone(),
        title: book.title.clone(),
        outcome: subject.run.outcome.unwrap_or(Outcome::Interrupted),
        reason: subject.reason.to_owned(),
        requested_by: subject.requester.to_owned(),
        settings_digest: subject.settings.clone(),
        boot_id: subject.boot_id.clone(),
        span: Span::new(subject.started, subject.ended),
        phases: book.phases.iter().map(|phase| phase_report(subject, phase)).collect(),
        warnings: book.warnings.clone(),
    }
}

fn phase_report(subject: &Subject<'_>, phase: &Phase<Step>) -> PhaseReport {
    let steps: Vec<_> = phase.steps.iter().map(|step| step_report(subject, step)).collect();
    let spans = || steps.iter().filter_map(|step| step.span);
    let span = spans().map(|span| span.started).min().zip(spans().map(|span| span.ended).max());
    PhaseReport { name: phase.name.clone(), span: span.map(|(started, ended)| Span::new(started, ended)), steps }
}

fn step_report(subject: &Subject<'_>, step: &PlannedStep<Step>) -> StepReport {
    let state = subject.run.state(&step.id).cloned().unwrap_or_default();
    StepReport {
        id: step.id.to_string(),
        kind: step.action.kind(),
        title: step.title.clone(),
        status: state.status,
        attempts: state.attempts,
        span: state.started.map(|started| Span::new(started, state.ended.unwrap_or(subject.ended))),
        predicted_seconds: step.predicted.as_secs(),
        detail: state.detail,
    }
}

impl Report {
    /// One paragraph for the log: who wanted what, how it ended, what took its time, what to look at.
    pub fn story(&self) -> String {
        let took = words(Duration::from_secs(self.span.seconds));
        let mut story = format!("{}: {}, asked for by {}: {} after {took}", self.run, self.title, self.requested_by, self.outcome.name());
        if !self.reason.is_empty() {
            story = format!("{story}: {}", self.reason);
        }
        let timed: Vec<_> = self.steps().filter_map(|step| Some((step, step.span?))).map(step_words).collect();
        if !timed.is_empty() {
            story = format!("{story}. Time line: {}", timed.join(", "));
        }
        let begun_never: Vec<_> = self.steps().filter(|step| step.span.is_none()).map(|step| step.title.as_str()).collect();
        if !begun_never.is_empty() {
            story = format!("{story}. Never begun: {}", begun_never.join(", "));
        }
        story + "."
    }

    fn steps(&self) -> impl Iterator<Item = &StepReport> {
        self.phases.iter().flat_map(|phase| phase.steps.iter())
    }
}

fn step_words((step, span): (&StepReport, Span)) -> String {
    let mut text = format!("{} {}", step.title, words(Duration::from_secs(span.seconds)));
    if step.attempts > 1 {
        text = format!("{text} ({} attempts)", step.attempts);
    }
    match step.status {
        Status::Done => text,
        Status::Cancelled => format!("{text} (cancelled)"),
        Status::Abandoned => format!("{text} (abandoned)"),
        Status::UnknownOutcome => format!("{text} (outcome unknown)"),
        Status::Skipped => format!("{text} (skipped)"),
        Status::Failed | Status::Pending | Status::Running { .. } | Status::Waiting { .. } => format!("{text} (failed)"),
    }
}

/// `42 s`, `4 min 12 s`, `2 h 03 min`.
fn words(span: Duration) -> String {
    let seconds = span.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s:02} s"),
        (h, m, _) => format!("{h} h {m:02} min"),
    }
}
