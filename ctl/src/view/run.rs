//! Runs and their events.

use std::fmt::Write as _;

use jiff::Timestamp;
use metis_proto::v1;
use serde::Serialize;

use super::{text, time, word};
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
}

/// Steps that belong together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunPhaseView {
    /// e.g. "write".
    pub name: String,
    /// In order.
    pub steps: Vec<RunStepView>,
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

fn tone(phase: &str) -> Tone {
    match phase {
        "done" => Tone::Good,
        "failed" | "abandoned" | "unknown-outcome" => Tone::Bad,
        "held" | "degraded" | "cancelled" => Tone::Warn,
        _ => Tone::Plain,
    }
}

impl From<v1::Run> for RunView {
    fn from(r: v1::Run) -> Self {
        let phases = |p: v1::RunPhase| RunPhaseView { name: p.name, steps: p.steps.into_iter().map(Into::into).collect() };
        Self {
            id: r.id,
            kind: r.kind,
            title: r.title,
            phase: phase(r.phase),
            started: time(r.started),
            ended: time(r.ended),
            reason: text(r.reason),
            requested_by: text(r.requested_by),
            phases: r.phases.into_iter().map(phases).collect(),
            settings_digest: text(r.settings_digest),
            boot_id: text(r.boot_id),
            seq: r.seq,
        }
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
        line("reason", r.reason.clone());
        line("started", r.started.map(|t| human::when(t, look)));
        line("took", took(r.started, r.ended));
        line("by", r.requested_by.clone());
        if r.phases.iter().any(|p| !p.steps.is_empty()) {
            let _ = writeln!(s, "\n{}", self.steps(look));
        }
        if !self.events.is_empty() {
            s.push('\n');
        }
        for event in self.events.iter().filter(|e| e.progress.is_none()) {
            let _ = writeln!(s, "{}", event.line(look));
        }
        s
    }

    fn steps(&self, look: &Look) -> String {
        let rows = self.run.phases.iter().flat_map(|p| p.steps.iter().map(move |s| (p, s))).map(|(p, s)| {
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

impl CancelView {
    /// What it means, line by line.
    pub fn table(&self) -> String {
        let head = match (self.cancelled, self.dry_run) {
            (true, _) => format!("{} is cancelled", self.run),
            (false, true) => format!("cancelling {} would mean:", self.run),
            (false, false) => format!("{} cannot be cancelled:", self.run),
        };
        std::iter::once(head).chain(self.consequences.iter().map(|c| format!("  {c}"))).collect::<Vec<_>>().join("\n")
    }
}
