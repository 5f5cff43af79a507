//! The plan of a start-up, and what it waits for.

use std::fmt::Write as _;

use metis_proto::v1;
use serde::Serialize;

use super::plan::PlanView;
use super::{secs, text};
use crate::human::{self, Look};
use crate::output::{Tone, cell, table};

/// Answer of a dry run of `startup`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StartupView {
    /// Nothing was changed.
    pub dry_run: bool,
    /// What would be done.
    pub plan: PlanView,
    /// The metis host that took it over, and the run that it became there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handed_over: Option<HandedOver>,
}

/// Where a start-up went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HandedOver {
    /// The host.
    pub to: String,
    /// The run there.
    pub run: String,
}

impl From<v1::StartupResponse> for StartupView {
    fn from(r: v1::StartupResponse) -> Self {
        let (dry_run, to) = (r.run.is_empty(), text(r.handed_over_to));
        let handed_over = to.map(|to| HandedOver { to, run: r.run });
        Self { dry_run, plan: r.plan.unwrap_or_default().into(), handed_over }
    }
}

impl StartupView {
    /// Phases and steps.
    pub fn table(&self, look: &Look) -> String {
        self.plan.table(look)
    }

    /// What a person reads where the coordinator runs it.
    pub fn handed_over(&self) -> String {
        self.handed_over.as_ref().map_or_else(String::new, |HandedOver { to, run }| {
            format!("{to} is the coordinator and runs it as {run}: follow it there (metisctl --host {to} run watch {run})\n")
        })
    }

    /// What a person reads before the events of an execution.
    pub fn headline(&self, run: &str, flags: &str, look: &Look) -> String {
        let remarks = self.plan.remarks(look);
        let again = format!("Ctrl-C detaches; `metisctl{flags} run cancel {run}` ends it: nothing more is started, what runs goes on");
        format!("{run}: {}\n{again}{}{}", self.plan.title, if remarks.is_empty() { "" } else { "\n" }, remarks.trim_end())
    }
}

/// Answer of `startup --list`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GatesView {
    /// In the order in which a start-up comes to them.
    pub gates: Vec<GateView>,
    /// What refuses a start-up, all of it at once.
    pub guards: Vec<GuardRowView>,
    /// What it mends by itself while a gate is not ready.
    pub repairs: Vec<RepairRowView>,
}

/// A condition that a start-up waits for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateView {
    /// Its name.
    pub name: String,
    /// What has to be there for it to be looked at.
    pub needs: String,
    /// What is looked at.
    pub probe: String,
    /// So long without progress is borne; four times that is the hard end.
    pub patience_seconds: Option<f64>,
    /// What a person does where it fails.
    pub on_failure: String,
}

/// A guard before a start-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuardRowView {
    /// Its name.
    pub name: String,
    /// What it refuses.
    pub refuses: String,
    /// The flag that waives it; null: it cannot be waived.
    pub waiver: Option<String>,
}

/// A repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairRowView {
    /// Its name.
    pub name: String,
    /// Its switch below `startup.repairs`; null: it cannot be switched off.
    pub setting: Option<String>,
    /// Whether the settings let it be used.
    pub allowed: bool,
    /// What is seen, exactly.
    pub symptom: String,
    /// What must be so beside it.
    pub preconditions: String,
    /// What is done, and all that it can touch.
    pub blast_radius: String,
    /// How a person takes it back.
    pub undo: String,
    /// What a person does where it was used up or is switched off.
    pub by_hand: String,
    /// Gates that it is a remedy of; empty: a step of its own sees to it.
    pub gates: Vec<String>,
}

impl From<v1::RepairRow> for RepairRowView {
    fn from(r: v1::RepairRow) -> Self {
        let v1::RepairRow { name, setting, allowed, symptom, preconditions, blast_radius, undo, by_hand, gates } = r;
        Self { name, setting: text(setting), allowed, symptom, preconditions, blast_radius, undo, by_hand, gates }
    }
}

impl From<v1::GatesResponse> for GatesView {
    fn from(r: v1::GatesResponse) -> Self {
        let gate = |g: v1::Gate| GateView {
            name: g.name,
            needs: g.needs,
            probe: g.probe,
            patience_seconds: secs(g.patience),
            on_failure: g.on_failure,
        };
        let guard = |g: v1::GuardRow| GuardRowView { name: g.name, refuses: g.refuses, waiver: text(g.waiver) };
        Self {
            gates: r.gates.into_iter().map(gate).collect(),
            guards: r.guards.into_iter().map(guard).collect(),
            repairs: r.repairs.into_iter().map(Into::into).collect(),
        }
    }
}

/// What only a person or the mains can bring.
const FOR_EVER_SECONDS: f64 = 7.0 * 86_400.0;

impl GatesView {
    /// Three tables.
    pub fn table(&self, look: &Look) -> String {
        let plain = |text: &str| cell(text, Tone::Plain);
        let mut s = String::from("Guards: what refuses a start-up\n\n");
        let rows =
            self.guards.iter().map(|g| vec![plain(&g.name), plain(&g.refuses), plain(g.waiver.as_deref().unwrap_or("cannot be waived"))]);
        let _ = writeln!(s, "{}", table(&["GUARD", "REFUSES", "WAIVED BY"], &[], rows.collect(), look));
        s.push_str("\nGates: what it waits for, in this order; patience is time without progress, four times that is the hard end\n");
        for gate in &self.gates {
            let patience = match gate.patience_seconds {
                Some(seconds) if seconds < FOR_EVER_SECONDS => human::seconds(seconds),
                _ => "as long as it takes".to_owned(),
            };
            let _ = writeln!(s, "\n{}  (patience: {patience}; needs {})", gate.name, gate.needs);
            let _ = writeln!(s, "   passes when: {}", gate.probe);
            let _ = writeln!(s, "   if it fails: {}", gate.on_failure);
        }
        s.push_str("\nRepairs: what it mends while a gate is not ready, each once per cause; nothing that a person suspended or opted out is touched\n");
        self.repairs.iter().for_each(|repair| repair.write(&mut s));
        s
    }
}

impl RepairRowView {
    fn write(&self, s: &mut String) {
        let switch = match (&self.setting, self.allowed) {
            (None, _) => "always on".to_owned(),
            (Some(setting), true) => format!("on; off with startup.repairs.{setting}: false"),
            (Some(setting), false) => format!("OFF by startup.repairs.{setting}"),
        };
        let gates = if self.gates.is_empty() { "a step of its own".to_owned() } else { self.gates.join(", ") };
        let _ = writeln!(s, "\n{}  ({switch}; at: {gates})", self.name);
        let _ = writeln!(s, "   seen: {}", self.symptom);
        let _ = writeln!(s, "   only where: {}", self.preconditions);
        let _ = writeln!(s, "   does: {}", self.blast_radius);
        let _ = writeln!(s, "   undo: {}", self.undo);
        let _ = writeln!(s, "   by hand: {}", self.by_hand);
    }
}
