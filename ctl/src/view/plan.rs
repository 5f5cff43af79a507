//! Plans and guards.

use std::fmt::{self, Write as _};

use metis_proto::v1;
use serde::Serialize;

use super::{secs, text};
use crate::human::{self, Look};
use crate::output::{Tone, toned};

/// What would be, or is, executed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanView {
    /// e.g. "burn".
    pub kind: String,
    /// One line.
    pub title: String,
    /// In order.
    pub phases: Vec<PlanPhaseView>,
    /// Worth knowing; none of them blocks.
    pub warnings: Vec<String>,
    /// Guards that refuse the execution.
    pub refusals: Vec<GuardView>,
    /// How long it should take.
    pub predicted_seconds: Option<f64>,
    /// What undoes it where it is cancelled before its point of no return.
    pub unwind: Vec<PlanPhaseView>,
    /// Time that is left, where the site runs on battery.
    pub remaining_seconds: Option<f64>,
    /// What it sets in motion goes on for so long after its last step.
    pub tail_seconds: Option<f64>,
}

/// Steps that belong together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanPhaseView {
    /// e.g. "write".
    pub name: String,
    /// In order.
    pub steps: Vec<PlanStepView>,
    /// So many of them run side by side.
    pub concurrency: u32,
    /// How long it should take.
    pub predicted_seconds: Option<f64>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanStepView {
    /// Unique in the plan.
    pub id: String,
    /// e.g. "card.write".
    pub kind: String,
    /// One line.
    pub title: String,
    /// The command a person would type.
    pub by_hand: Option<String>,
    /// How long it should take.
    pub predicted_seconds: Option<f64>,
    /// How long it may take.
    pub deadline_seconds: Option<f64>,
    /// "act", "ensure" or "gate".
    pub form: String,
    /// "idempotent", "check-first" or "never-repeat".
    pub replay: String,
    /// Point of no return: once it has begun the run is not undone any more.
    pub commits: bool,
    /// How long it may take in the time that is left; null: that does not cut it.
    pub limit_seconds: Option<f64>,
    /// What the time that is left does to it: "shortened" (it is expected to need more) or "skipped"; null: nothing.
    pub squeeze: Option<String>,
    /// The host of the inventory on which it works.
    pub host: Option<String>,
    /// What its failure does to the run: "stop" or "continue".
    pub on_failure: Option<String>,
}

/// A guard that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuardView {
    /// e.g. "device.mounted".
    pub name: String,
    /// What is wrong and what to do.
    pub message: String,
    /// The flag that waives it; null: it cannot be waived.
    pub waiver: Option<String>,
}

impl fmt::Display for GuardView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ", self.name, self.message)?;
        match &self.waiver {
            Some(flag) => write!(f, "(waive it with {flag})"),
            None => f.write_str("(cannot be waived)"),
        }
    }
}

impl From<v1::Guard> for GuardView {
    fn from(g: v1::Guard) -> Self {
        Self { name: g.name, message: g.message, waiver: text(g.waiver) }
    }
}

impl From<v1::PlanStep> for PlanStepView {
    fn from(s: v1::PlanStep) -> Self {
        Self {
            id: s.id,
            kind: s.kind,
            title: s.title,
            by_hand: text(s.by_hand),
            predicted_seconds: secs(s.predicted),
            deadline_seconds: secs(s.deadline),
            form: s.form,
            replay: s.replay,
            commits: s.commits,
            limit_seconds: secs(s.limit),
            squeeze: text(s.squeeze),
            host: text(s.host),
            on_failure: text(s.on_failure),
        }
    }
}

impl From<v1::PlanPhase> for PlanPhaseView {
    fn from(p: v1::PlanPhase) -> Self {
        Self {
            name: p.name,
            steps: p.steps.into_iter().map(Into::into).collect(),
            concurrency: p.concurrency,
            predicted_seconds: secs(p.predicted),
        }
    }
}

impl From<v1::Plan> for PlanView {
    fn from(p: v1::Plan) -> Self {
        Self {
            kind: p.kind,
            title: p.title,
            phases: p.phases.into_iter().map(Into::into).collect(),
            warnings: p.warnings,
            refusals: p.refusals.into_iter().map(Into::into).collect(),
            predicted_seconds: secs(p.predicted),
            unwind: p.unwind.into_iter().map(Into::into).collect(),
            remaining_seconds: secs(p.remaining),
            tail_seconds: secs(p.tail),
        }
    }
}

impl PlanView {
    /// Phases, steps and the commands that a person would type; then warnings and refusals.
    pub fn table(&self, look: &Look) -> String {
        let mut s = format!("{}\n", self.title);
        let width = self.phases.iter().flat_map(|p| &p.steps).map(|s| s.id.chars().count()).max().unwrap_or(0);
        for (number, phase) in self.phases.iter().enumerate() {
            let _ = writeln!(s, "\n{}. {}", number + 1, phase.name);
            for step in &phase.steps {
                step.lines(width, &mut s);
            }
        }
        if let Some(total) = self.predicted_seconds.filter(|s| *s > 0.0) {
            let _ = writeln!(s, "\ntakes about {}", human::seconds(total));
        }
        s.push_str(&self.remarks(look));
        s
    }

    /// Warnings and refusals.
    pub fn remarks(&self, look: &Look) -> String {
        let mut s = String::new();
        for warning in &self.warnings {
            let _ = writeln!(s, "{} {warning}", toned("warning:", Tone::Warn, look));
        }
        for guard in &self.refusals {
            let _ = writeln!(s, "{} {guard}", toned("would be refused:", Tone::Bad, look));
        }
        if s.is_empty() { s } else { format!("\n{s}") }
    }
}

impl PlanStepView {
    fn lines(&self, width: usize, s: &mut String) {
        let takes = self.predicted_seconds.map(|t| format!("  (about {})", human::seconds(t))).unwrap_or_default();
        let _ = writeln!(s, "   {:width$}  {}{takes}", self.id, self.title);
        for line in self.by_hand.iter().flat_map(|c| c.lines()) {
            let _ = writeln!(s, "   {:width$}    $ {line}", "");
        }
    }
}
