//! Pure: a finished run to a report, `last-*-report.json`.
//!
//! The file is one JSON object, [`Report`], field by field as documented here; times are RFC 3339 in UTC, durations whole seconds, and
//! what does not apply is `null` or empty, never missing. [`SCHEMA`] counts up when a field changes its meaning or goes; new ones may come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::runbook::{Outcome, Phase, PlannedStep, Run, Status};
use crate::site::{BootId, Cause, DomainName, NodeName, RunId, SettingsDigest, Step};

mod left;
pub mod progress;
mod story;
#[cfg(test)]
mod tests;
mod timing;

pub use left::Aftermath;
pub use timing::{Timing, timings};

/// Version of the file's fields.
pub const SCHEMA: u32 = 2;

/// What is known of a run beside its steps.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its id.
    pub id: &'a RunId,
    /// Plan and step states.
    pub run: &'a Run<Step>,
    /// Who asked, for people.
    pub requester: &'a str,
    /// Why it was begun.
    pub cause: &'a Cause,
    /// What the battery said then, where it was a UPS that caused it.
    pub trigger: Option<&'a TriggerReading>,
    /// The settings it was pinned to.
    pub settings: &'a SettingsDigest,
    /// The boot it belonged to.
    pub boot_id: &'a BootId,
    /// When it was admitted.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Boot time at which it ended; `None` where it ended in another boot than it began.
    pub ended_boot: Option<Duration>,
    /// Why it ended as it did; empty where it is simply done.
    pub reason: &'a str,
    /// Who holds a lock against this host's power-off, which it ordered at its end.
    pub locks: &'a [String],
    /// What it leaves behind.
    pub after: Aftermath<'a>,
    /// Failing UPSes that it was raised for, oldest first.
    pub raised: &'a [RaisedReport],
}

/// That a run did what a failing UPS wanted as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RaisedReport {
    /// When.
    pub at: Timestamp,
    /// Who asked, for people.
    pub requested_by: String,
    /// Domains that were about to lose power.
    pub domains: BTreeSet<DomainName>,
    /// When the mains were back and the run went on as it was; null: it did not.
    pub lowered: Option<Timestamp>,
}

/// What was read when a UPS was the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TriggerReading {
    /// When it was decided.
    pub at: Timestamp,
    /// The reading and the threshold it passed, for people.
    pub because: String,
    /// Runtime that the battery had left; null where it said none.
    pub runtime_seconds: Option<u64>,
    /// What a shutdown was taken to need.
    pub budget_seconds: u64,
}

/// A run that has ended, for people and for `last-*-report.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its id, e.g. `shutdown-3`.
    pub run: RunId,
    /// What it did, e.g. `burn`, `shutdown`.
    pub kind: String,
    /// One line for people.
    pub title: String,
    /// How it ended: `done`, `degraded`, `failed`, `cancelled`, `interrupted`, `unknown_outcome`.
    pub outcome: Outcome,
    /// Why; empty where it is simply done.
    pub reason: String,
    /// Who asked, for people.
    pub requested_by: String,
    /// Why it was begun: `{"cause": "person"}`, `{"cause": "ups", "domains": […]}`, `{"cause": "power-failed-again"}`, `{"cause": "boot"}`.
    pub cause: Cause,
    /// What the battery said when it was begun or raised; null where that was no reason.
    pub trigger: Option<TriggerReading>,
    /// Failing UPSes that it was raised for while it was under way, oldest first; empty where there was none.
    pub raised: Vec<RaisedReport>,
    /// The settings it was pinned to.
    pub settings_digest: SettingsDigest,
    /// The boot it belonged to.
    pub boot_id: BootId,
    /// Its whole time.
    pub span: Span,
    /// How long the plan was expected to take; compare `span.seconds`.
    pub predicted_seconds: u64,
    /// Hosts that it ordered to power off were given so long to be off; deadlines leave room for it.
    pub tail_seconds: u64,
    /// Seconds that were left when it ended, counted to the newest deadline; negative: too late. Null where it had no deadline.
    pub margin_seconds: Option<i64>,
    /// Its time line.
    pub phases: Vec<PhaseReport>,
    /// What undid it, as a time line; empty where it was not undone.
    pub undone: Vec<PhaseReport>,
    /// The same steps by host of the inventory, in the order in which they began.
    pub hosts: BTreeMap<NodeName, Vec<HostStep>>,
    /// Hosts that the run was to stop or power off and did not: name → why. Empty where it was undone.
    pub abandoned: BTreeMap<NodeName, String>,
    /// Locks against a power-off (block mode of systemd-inhibit(1)) that were passed over: host → who held them and why.
    pub overridden_locks: BTreeMap<NodeName, Vec<String>>,
    /// Hosts that took the order to power off, or may have taken it: name → how it comes back.
    pub powered_off: BTreeMap<NodeName, String>,
    /// What it changed and has not undone when it ended: `suspended`, `cordoned`, `stopped`, `powered-off` → objects.
    pub left: BTreeMap<&'static str, Vec<String>>,
    /// Rungs that drains took beyond plain eviction, and whatever else was worth telling, step by step in the order of the plan.
    pub rungs: Vec<RungReport>,
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
    /// From its first step's begin to its last step's end; null where none began.
    pub span: Option<Span>,
    /// How long it was expected to take; compare `span.seconds`.
    pub predicted_seconds: u64,
    /// Its steps.
    pub steps: Vec<StepReport>,
}

/// What a drain resorted to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RungReport {
    /// The step, e.g. `drain.titan-13`.
    pub step: String,
    /// The host.
    pub host: Option<NodeName>,
    /// What was told, oldest first.
    pub taken: Vec<String>,
}

/// One step of the time line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// Its id, e.g. `drain.titan-13`.
    pub id: String,
    /// What was performed, e.g. `node.drain`.
    pub kind: &'static str,
    /// On which host of the inventory; null where on none.
    pub host: Option<NodeName>,
    /// One line for people.
    pub title: String,
    /// How it ended: `done`, `skipped`, `failed`, `cancelled`, `abandoned`, `unknown_outcome`.
    pub status: Status,
    /// Attempts, probes included.
    pub attempts: u32,
    /// Null where it never began.
    pub span: Option<Span>,
    /// How long it was expected to take; compare `span.seconds`.
    pub predicted_seconds: u64,
    /// What it was last allowed to take: its ceiling, or what the remaining runtime left of it.
    pub limit_seconds: u64,
    /// What was worth telling while it ran, oldest first: rungs that a drain took, volumes that were waited for.
    pub milestones: Vec<String>,
    /// The last word of it.
    pub detail: String,
}

/// One step of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostStep {
    /// Its id; the phases say all of it.
    pub id: String,
    /// How it ended.
    pub status: Status,
    /// Null where it never began.
    pub span: Option<Span>,
    /// How long it was expected to take; compare `span.seconds`.
    pub predicted_seconds: u64,
}

impl Span {
    fn new(started: Timestamp, ended: Timestamp) -> Self {
        let seconds = u64::try_from(ended.duration_since(started).as_secs()).unwrap_or(0);
        Self { started, ended, seconds }
    }
}

/// Reports a run. One that has no outcome yet is reported as interrupted.
pub fn report(subject: &Subject<'_>) -> Report {
    let (book, run) = (&subject.run.book, subject.run);
    let timeline = |phases: &[Phase<Step>]| phases.iter().map(|phase| phase_report(subject, phase)).collect::<Vec<_>>();
    let phases = timeline(&book.phases);
    let undone = if run.unwinding() { timeline(&book.unwind) } else { Vec::new() };
    let margin = run.deadline.zip(subject.ended_boot).filter(|_| !run.unwinding());
    Report {
        schema: SCHEMA,
        run: subject.id.clone(),
        kind: book.kind.clone(),
        title: book.title.clone(),
        outcome: run.outcome.unwrap_or(Outcome::Interrupted),
        reason: subject.reason.to_owned(),
        requested_by: subject.requester.to_owned(),
        cause: subject.cause.clone(),
        trigger: subject.trigger.cloned(),
        raised: subject.raised.to_vec(),
        settings_digest: subject.settings.clone(),
        boot_id: subject.boot_id.clone(),
        span: Span::new(subject.started, subject.ended),
        predicted_seconds: book.predicted().as_secs(),
        tail_seconds: book.tail.as_secs(),
        margin_seconds: margin.map(|(deadline, ended)| seconds_between(ended, deadline)),
        hosts: by_host(phases.iter().chain(&undone)),
        rungs: phases.iter().flat_map(|phase| &phase.steps).filter_map(rungs).collect(),
        abandoned: if run.cancel.is_some() { BTreeMap::new() } else { abandoned(run) },
        overridden_locks: overridden_locks(subject),
        powered_off: left::off(run, &subject.after),
        left: left::left(subject.after.claims),
        phases,
        undone,
        warnings: book.warnings.clone(),
    }
}

/// What a drain told on its way but for its first word, which is how many pods there are.
fn rungs(step: &StepReport) -> Option<RungReport> {
    let is_rung = |told: &&String| step.kind == "node.drain" && !told.contains(" pods to evict");
    let taken: Vec<_> = step.milestones.iter().filter(is_rung).cloned().collect();
    (!taken.is_empty()).then(|| RungReport { step: step.id.clone(), host: step.host.clone(), taken })
}

fn seconds_between(from: Duration, to: Duration) -> i64 {
    let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    if to >= from { whole(to.saturating_sub(from)) } else { -whole(from.saturating_sub(to)).max(1) }
}

fn phase_report(subject: &Subject<'_>, phase: &Phase<Step>) -> PhaseReport {
    let steps: Vec<_> = phase.steps.iter().map(|step| step_report(subject, step)).collect();
    let spans = || steps.iter().filter_map(|step| step.span);
    let span = spans().map(|span| span.started).min().zip(spans().map(|span| span.ended).max());
    let span = span.map(|(started, ended)| Span::new(started, ended));
    PhaseReport { name: phase.name.clone(), span, predicted_seconds: phase.predicted().as_secs(), steps }
}

fn step_report(subject: &Subject<'_>, step: &PlannedStep<Step>) -> StepReport {
    let state = subject.run.state(&step.id).cloned().unwrap_or_default();
    StepReport {
        id: step.id.to_string(),
        kind: step.action.kind(),
        host: step.action.host().cloned(),
        title: step.title.clone(),
        status: state.status,
        attempts: state.attempts,
        span: state.started.map(|started| Span::new(started, state.ended.unwrap_or(subject.ended))),
        predicted_seconds: step.predicted.as_secs(),
        limit_seconds: subject.run.limit(step).as_secs(),
        milestones: state.milestones,
        detail: state.detail,
    }
}

fn by_host<'a>(phases: impl Iterator<Item = &'a PhaseReport>) -> BTreeMap<NodeName, Vec<HostStep>> {
    let mut hosts: BTreeMap<NodeName, Vec<HostStep>> = BTreeMap::new();
    for step in phases.flat_map(|phase| &phase.steps) {
        if let Some(host) = &step.host {
            let StepReport { status, span, predicted_seconds, .. } = *step;
            hosts.entry(host.clone()).or_default().push(HostStep { id: step.id.clone(), status, span, predicted_seconds });
        }
    }
    for steps in hosts.values_mut() {
        steps.sort_by_key(|step| step.span.map_or(Timestamp::MAX, |span| span.started));
    }
    hosts
}

/// The first stop or power-off of each host that did not come to its end.
fn abandoned(run: &Run<Step>) -> BTreeMap<NodeName, String> {
    let mut hosts = BTreeMap::new();
    for step in run.book.phases.iter().flat_map(|phase| &phase.steps) {
        let stops = matches!(step.action, Step::StopK3s { .. } | Step::PowerOff { .. } | Step::PowerOffThisHost { .. });
        let Some((host, state)) = step.action.host().zip(run.state(&step.id)).filter(|_| stops) else { continue };
        if state.status != Status::Done {
            let why = if state.detail.is_empty() { "never begun" } else { &state.detail };
            hosts.entry(host.clone()).or_insert_with(|| format!("{}: {why}", step.title));
        }
    }
    hosts
}

/// What the power-offs told, and what is known of this host, which goes after the run has ended.
fn overridden_locks(subject: &Subject<'_>) -> BTreeMap<NodeName, Vec<String>> {
    let locks = |step: &PlannedStep<Step>| match &step.action {
        Step::PowerOff { .. } => subject.run.state(&step.id).map(|state| state.milestones.clone()).unwrap_or_default(),
        Step::PowerOffThisHost { .. } => subject.locks.to_vec(),
        _ => Vec::new(),
    };
    let steps = subject.run.book.phases.iter().flat_map(|phase| &phase.steps);
    let told = steps.filter_map(|step| Some((step.action.host()?.clone(), locks(step))));
    told.filter(|(_, locks)| !locks.is_empty()).collect()
}

impl Report {
    fn steps(&self) -> impl Iterator<Item = &StepReport> {
        self.phases.iter().flat_map(|phase| phase.steps.iter())
    }
}
