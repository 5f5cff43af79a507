//! Runs and their events.

use std::fmt::Write as _;

use jiff::Timestamp;
use metis_proto::v1;
use serde::Serialize;

use super::{secs, text, time, timeline, word};
use crate::exit::Exit;
use crate::human::{self, Look};
use crate::output::{Tone, cell, table};

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunView {
    /// e.g. "burn-17".
    pub id: String,
    /// e.g. "burn".
    pub kind: String,
    /// One line.
    pub title: String,
    /// pending, running, held, done, degraded, skipped, failed, cancelled, abandoned or unknown-outcome.
    pub phase: &'static str,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Why it ended as it did.
    pub reason: Option<String>,
    /// Who asked for it.
    pub requested_by: Option<String>,
    /// Its parts.
    pub phases: Vec<RunPhaseView>,
    /// Digest of the settings it is pinned to.
    pub settings_digest: Option<String>,
    /// Kernel boot under which it was admitted.
    pub boot_id: Option<String>,
    /// Journal position of its newest fact.
    pub seq: u64,
    /// What undoes it; skipped unless it was cancelled in time.
    pub unwind: Vec<RunPhaseView>,
    /// Why it was begun: person, ups, power-failed-again or boot.
    pub cause: Option<String>,
    /// Its point of no return is behind it.
    pub committed: bool,
    /// How long it was expected to take.
    pub predicted_seconds: Option<f64>,
    /// By when it has to have ended.
    pub deadline: Option<Timestamp>,
    /// Failing UPSes that it was raised for while it was under way, oldest first.
    pub raised: Vec<RaisedView>,
}

/// That a run does what a failing UPS wants as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RaisedView {
    /// When.
    pub at: Option<Timestamp>,
    /// Who asked.
    pub requested_by: String,
    /// Power domains that were about to lose power.
    pub domains: Vec<String>,
    /// When the mains were back and the run went on as it was; null: it did not.
    pub lowered: Option<Timestamp>,
}

/// Steps that belong together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunPhaseView {
    /// e.g. "write".
    pub name: String,
    /// In order.
    pub steps: Vec<RunStepView>,
    /// How long it was expected to take.
    pub predicted_seconds: Option<f64>,
}

/// One step of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunStepView {
    /// Unique in the run.
    pub id: String,
    /// e.g. "card.write".
    pub kind: String,
    /// One line.
    pub title: String,
    /// As the run's.
    pub phase: &'static str,
    /// How often it was tried.
    pub attempts: u32,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Its result or error.
    pub detail: Option<String>,
    /// What was worth telling while it ran: rungs that were taken, pods that were left.
    pub milestones: Vec<String>,
    /// How long it was expected to take.
    pub predicted_seconds: Option<f64>,
    /// How long it may take.
    pub limit_seconds: Option<f64>,
    /// Point of no return.
    pub commits: bool,
    /// The host of the inventory on which it works.
    pub host: Option<String>,
}

/// One event of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventView {
    /// The run.
    pub run: String,
    /// Journal position; 0 for progress.
    pub seq: u64,
    /// When.
    pub at: Option<Timestamp>,
    /// The step, if it is about one.
    pub step: Option<String>,
    /// e.g. "step.started", "milestone", "progress", "run.ended".
    pub kind: String,
    /// For people.
    pub message: Option<String>,
    /// What the run or step became.
    pub phase: Option<&'static str>,
    /// Byte progress.
    pub progress: Option<ProgressView>,
}

/// Bytes done within a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgressView {
    /// e.g. "fetch", "write", "verify".
    pub stage: String,
    /// Done.
    pub done_bytes: u64,
    /// In all; null where it is not known.
    pub total_bytes: Option<u64>,
}

/// Answer of `run`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunsView {
    /// Newest first.
    pub runs: Vec<RunView>,
}

/// Answer of `run get`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunDetailView {
    /// The run.
    pub run: RunView,
    /// Its events, oldest first.
    pub events: Vec<EventView>,
}

/// Answer of `run cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CancelView {
    /// The run.
    pub run: String,
    /// Whether nothing was changed because --execute was not given.
    pub dry_run: bool,
    /// Whether it is cancelled now.
    pub cancelled: bool,
    /// What is unwound, or why it cannot be cancelled any more.
    pub consequences: Vec<String>,
    /// The step from whose beginning on it cannot be cancelled.
    pub until: Option<String>,
}

/// A phase as a word.
pub fn phase(value: i32) -> &'static str {
    match v1::Phase::try_from(value).unwrap_or_default() {
        v1::Phase::Unspecified => word::UNSPECIFIED,
        v1::Phase::Pending => "pending",
        v1::Phase::Running => "running",
        v1::Phase::Held => "held",
        v1::Phase::Done => "done",
        v1::Phase::Degraded => "degraded",
        v1::Phase::Skipped => "skipped",
        v1::Phase::Failed => "failed",
        v1::Phase::Cancelled => "cancelled",
        v1::Phase::Abandoned => "abandoned",
        v1::Phase::UnknownOutcome => "unknown-outcome",
    }
}

/// Exit code of a command that waited for a run; `None` while it has not ended.
pub fn exit(value: i32) -> Option<Exit> {
    match v1::Phase::try_from(value).unwrap_or_default() {
        v1::Phase::Unspecified | v1::Phase::Pending | v1::Phase::Running | v1::Phase::Held => None,
        v1::Phase::Done | v1::Phase::Skipped => Some(Exit::Done),
        v1::Phase::Degraded => Some(Exit::Degraded),
        v1::Phase::Failed | v1::Phase::Cancelled | v1::Phase::Abandoned | v1::Phase::UnknownOutcome => Some(Exit::Failed),
    }
}

/// How well a phase is.
pub(super) fn tone(phase: &str) -> Tone {
    match phase {
        "done" => Tone::Good,
        "failed" | "abandoned" | "unknown-outcome" => Tone::Bad,
        "held" | "degraded" | "cancelled" => Tone::Warn,
        _ => Tone::Plain,
    }
}

impl From<v1::Run> for RunView {
    fn from(r: v1::Run) -> Self {
        let phases = |phases: Vec<v1::RunPhase>| phases.into_iter().map(Into::into).collect();
        Self {
            id: r.id,
            kind: r.kind,
            title: r.title,
            phase: phase(r.phase),
            started: time(r.started),
            ended: time(r.ended),
            reason: text(r.reason),
            requested_by: text(r.requested_by),
            phases: phases(r.phases),
            settings_digest: text(r.settings_digest),
            boot_id: text(r.boot_id),
            seq: r.seq,
            unwind: phases(r.unwind),
            cause: text(r.cause),
            committed: r.committed,
            predicted_seconds: secs(r.predicted),
            deadline: time(r.deadline),
            raised: r.raised.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<v1::Raised> for RaisedView {
    fn from(r: v1::Raised) -> Self {
        Self { at: time(r.at), requested_by: r.requested_by, domains: r.domains, lowered: time(r.lowered) }
    }
}

impl RaisedView {
    fn line(&self, look: &Look) -> String {
        let at = self.at.map_or_else(String::new, |t| format!("{} ", human::clock(t, look)));
        let lowered = self.lowered.map(|t| format!("; the mains were back at {}, and it goes on as it was", human::clock(t, look)));
        format!("{at}by {}{}", self.requested_by, lowered.unwrap_or_default())
    }
}

impl From<v1::RunPhase> for RunPhaseView {
    fn from(p: v1::RunPhase) -> Self {
        Self { name: p.name, steps: p.steps.into_iter().map(Into::into).collect(), predicted_seconds: secs(p.predicted) }
    }
}

impl From<v1::RunStep> for RunStepView {
    fn from(s: v1::RunStep) -> Self {
        Self {
            id: s.id,
            kind: s.kind,
            title: s.title,
            phase: phase(s.phase),
            attempts: s.attempts,
            started: time(s.started),
            ended: time(s.ended),
            detail: text(s.detail),
            milestones: s.milestones,
            predicted_seconds: secs(s.predicted),
            limit_seconds: secs(s.limit),
            commits: s.commits,
            host: text(s.host),
        }
    }
}

impl From<v1::RunEvent> for EventView {
    fn from(e: v1::RunEvent) -> Self {
        let progress = |p: v1::Progress| ProgressView {
            stage: p.stage,
            done_bytes: p.done_bytes,
            total_bytes: (p.total_bytes > 0).then_some(p.total_bytes),
        };
        let phase = phase(e.phase);
        Self {
            run: e.run,
            seq: e.seq,
            at: time(e.at),
            step: text(e.step),
            kind: e.kind,
            message: text(e.message),
            phase: (phase != word::UNSPECIFIED).then_some(phase),
            progress: e.progress.map(progress),
        }
    }
}

impl RunView {
    /// What the last event of a run says of it, where nothing more is to be had.
    pub fn ended_with(event: v1::RunEvent) -> Self {
        let prefix = format!("{}: ", phase(event.phase));
        let reason = event.message.strip_prefix(&prefix).unwrap_or(&event.message).to_owned();
        let kind = event.run.split('-').next().unwrap_or_default().to_owned();
        Self::from(v1::Run { id: event.run, kind, phase: event.phase, ended: event.at, reason, seq: event.seq, ..v1::Run::default() })
    }

    /// "burn-17 done in 3 min 20 s: …".
    pub fn outcome(&self) -> String {
        let took = took(self.started, self.ended).map(|t| format!(" in {t}")).unwrap_or_default();
        let phase = if self.phase == "done" { "done" } else { self.phase };
        let text = self.reason.as_ref().unwrap_or(&self.title);
        format!("{} {phase}{took}: {text}", self.id)
    }

    /// The outcome, then every step that was not done, with its host: what a person has to look at.
    pub fn ending(&self) -> String {
        // The steps below say it better than a reason that names them all.
        let mut s = if self.phase == "degraded" && self.unfinished().next().is_some() {
            Self { reason: None, ..self.clone() }.outcome()
        } else {
            self.outcome()
        };
        for step in self.unfinished() {
            let _ = write!(s, "\n  {}", step.verdict());
        }
        s
    }

    /// The ending, with the time line and what was told on the way.
    pub fn story(&self, look: &Look) -> String {
        format!("{}\n\n{}\n\n{}", self.ending(), timeline::steps(self, look), timeline::milestones(self))
    }

    /// Steps that failed, were given up, or of which it is not known.
    fn unfinished(&self) -> impl Iterator<Item = &RunStepView> {
        let all = self.phases.iter().chain(&self.unwind).flat_map(|phase| &phase.steps);
        all.filter(|step| matches!(step.phase, "failed" | "abandoned" | "unknown-outcome"))
    }

    /// It works on hosts, or can be undone: worth a time line.
    fn of_hosts(&self) -> bool {
        !self.unwind.is_empty() || self.phases.iter().flat_map(|phase| &phase.steps).any(|step| step.host.is_some())
    }

    fn row(&self, look: &Look) -> Vec<comfy_table::Cell> {
        let plain = |text: String| cell(text, Tone::Plain);
        let reason = match (&self.reason, self.phase) {
            (Some(reason), phase) if phase != "done" => format!("{}: {reason}", self.title),
            _ => self.title.clone(),
        };
        vec![
            plain(self.id.clone()),
            cell(self.phase, tone(self.phase)),
            plain(self.started.map_or("-".into(), |t| human::when(t, look))),
            plain(took(self.started, self.ended).unwrap_or_else(|| "-".into())),
            plain(reason),
        ]
    }
}

impl RunStepView {
    /// "titan-13: node.drain abandoned: …".
    fn verdict(&self) -> String {
        let what = self.host.as_ref().map_or_else(|| self.id.clone(), |host| format!("{host}: {}", self.kind));
        let detail = self.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
        format!("{what} {}{detail}", self.phase)
    }
}

fn took(started: Option<Timestamp>, ended: Option<Timestamp>) -> Option<String> {
    Some(human::seconds(ended?.duration_since(started?).as_secs_f64()))
}

/// Table of runs, newest first.
pub fn list(runs: &[RunView], look: &Look) -> String {
    if runs.is_empty() {
        return "no runs yet".into();
    }
    table(&["RUN", "STATE", "STARTED", "TOOK", "WHAT"], &[], runs.iter().map(|r| r.row(look)).collect(), look)
}

impl EventView {
    /// "14:03:12  card.write  step.started  …".
    pub fn line(&self, look: &Look) -> String {
        let at = self.at.map_or_else(String::new, |t| human::clock(t, look));
        let what = [self.step.as_deref(), Some(self.kind.as_str()), self.phase].into_iter().flatten().collect::<Vec<_>>().join(" ");
        match &self.message {
            Some(message) => format!("{at}  {what}: {message}"),
            None => format!("{at}  {what}"),
        }
    }
}

impl RunDetailView {
    /// Headline, steps, events.
    pub fn table(&self, look: &Look) -> String {
        let r = &self.run;
        let mut s = format!("{}  {}\n", r.id, r.title);
        let mut line = |name: &str, value: Option<String>| value.map(|v| writeln!(s, "{name:9}{v}"));
        line("state", Some(r.phase.into()));
        line("reason", r.reason.clone().filter(|_| r.phase != "degraded" || r.unfinished().next().is_none() || !r.of_hosts()));
        line("started", r.started.map(|t| human::when(t, look)));
        line("took", took(r.started, r.ended).map(|t| format!("{t}{}", r.expected())));
        line("by", r.requested_by.clone());
        line("cause", r.cause.as_deref().and_then(cause).map(str::to_owned));
        for raised in &r.raised {
            line("raised", Some(raised.line(look)));
        }
        line("deadline", r.deadline.map(|t| human::when(t, look)));
        line("undo", r.undo());
        if r.phases.iter().any(|p| !p.steps.is_empty()) {
            let _ = writeln!(s, "\n{}", self.steps(look));
        }
        if r.of_hosts() {
            self.time_line(look, &mut s);
        }
        if !self.events.is_empty() {
            s.push('\n');
        }
        for event in self.events.iter().filter(|e| e.progress.is_none()) {
            let _ = writeln!(s, "{}", event.line(look));
        }
        s
    }

    fn time_line(&self, look: &Look, s: &mut String) {
        let steps = timeline::steps(&self.run, look);
        if self.run.phases.iter().flat_map(|p| &p.steps).any(|step| step.started.is_some()) {
            let _ = writeln!(s, "\n{steps}");
        }
        let milestones = timeline::milestones(&self.run);
        if !milestones.is_empty() {
            let _ = write!(s, "\n{milestones}");
        }
        let unfinished: Vec<String> = self.run.unfinished().map(RunStepView::verdict).collect();
        if !unfinished.is_empty() {
            let _ = writeln!(s, "\nnot done:\n  {}", unfinished.join("\n  "));
        }
    }

    fn steps(&self, look: &Look) -> String {
        // What undoes it is worth a row once it was begun.
        let undone = self.run.unwind.iter().filter(|phase| phase.steps.iter().any(|step| step.started.is_some()));
        let rows = self.run.phases.iter().chain(undone).flat_map(|p| p.steps.iter().map(move |s| (p, s))).map(|(p, s)| {
            vec![
                cell(p.name.as_str(), Tone::Plain),
                cell(s.id.as_str(), Tone::Plain),
                cell(s.phase, tone(s.phase)),
                cell(took(s.started, s.ended).unwrap_or_else(|| "-".into()), Tone::Plain),
                cell(s.detail.as_ref().unwrap_or(&s.title).as_str(), Tone::Plain),
            ]
        });
        table(&["PHASE", "STEP", "STATE", "TOOK", "DETAIL"], &[], rows.collect(), look)
    }
}

/// A cause that is worth a line: not what a person asked for.
fn cause(word: &str) -> Option<&'static str> {
    match word {
        "ups" => Some("a UPS reading: an emergency"),
        "boot" => Some("the power is back: nobody had to ask"),
        "power-failed-again" => Some("the power failed again during a start-up: an emergency"),
        _ => None,
    }
}

impl RunView {
    fn expected(&self) -> String {
        match self.predicted_seconds.filter(|s| *s > 0.0) {
            Some(expected) if self.of_hosts() => format!(" (expected about {})", human::seconds(expected)),
            _ => String::new(),
        }
    }

    /// Whether it can still be undone, while it is under way.
    fn undo(&self) -> Option<String> {
        let under_way = matches!(self.phase, "pending" | "running" | "held");
        if !under_way || self.unwind.is_empty() {
            return None;
        }
        Some(if self.committed {
            "no longer: its point of no return is behind it".to_owned()
        } else {
            format!("possible: `metisctl run cancel {}` says what it means", self.id)
        })
    }
}

impl CancelView {
    /// What it means, line by line.
    pub fn table(&self) -> String {
        let head = match (self.cancelled, self.dry_run) {
            (true, _) => format!("{} is cancelled", self.run),
            (false, true) => format!("cancelling {} would mean:", self.run),
            (false, false) => format!("{} cannot be cancelled:", self.run),
        };
        let until = self.until.as_ref().map(|step| format!("possible until it begins to: {step}"));
        let lines = self.consequences.iter().map(|c| format!("  {c}"));
        std::iter::once(head).chain(lines).chain(until).collect::<Vec<_>>().join("\n")
    }
}
