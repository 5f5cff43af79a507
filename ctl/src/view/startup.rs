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
        Self { gates: r.gates.into_iter().map(gate).collect(), guards: r.guards.into_iter().map(guard).collect() }
    }
}

/// What only a person or the mains can bring.
const FOR_EVER_SECONDS: f64 = 7.0 * 86_400.0;

impl GatesView {
    /// Two tables.
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
        s
    }
}
