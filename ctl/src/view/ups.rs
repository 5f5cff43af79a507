//! UPSes, power domains and their history.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use metis_proto::v1;
use serde::Serialize;

use super::{secs, text, time, word};
use crate::human::{self, Look};
use crate::output::{Tone, cell, table, toned};

/// Answer of `ups`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PowerView {
    /// As configured.
    pub upses: Vec<UpsView>,
    /// As configured.
    pub domains: Vec<DomainView>,
    /// The daemon's time.
    pub now: Option<Timestamp>,
}

/// One UPS.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UpsView {
    /// As NUT names it.
    pub name: String,
    /// unknown, online, on-battery or critical.
    pub verdict: &'static str,
    /// Why.
    pub reason: Option<String>,
    /// Tokens of ups.status.
    pub status: Vec<String>,
    /// Percent.
    pub charge_percent: Option<f64>,
    /// Runtime left as the UPS says.
    pub runtime_seconds: Option<f64>,
    /// Percent.
    pub load_percent: Option<f64>,
    /// When the newest good reading came.
    pub last_heard: Option<Timestamp>,
    /// Since when the verdict holds.
    pub since: Option<Timestamp>,
    /// "connected", or why not.
    pub link: String,
    /// FSD was seen and is not acted on.
    pub fsd_latched: bool,
    /// All variables.
    pub vars: BTreeMap<String, String>,
}

/// What fails together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DomainView {
    /// As configured.
    pub name: String,
    /// unknown, online, on-battery or critical.
    pub verdict: &'static str,
    /// Why.
    pub reason: Option<String>,
    /// Its feeds.
    pub upses: Vec<String>,
    /// What it powers.
    pub nodes: Vec<String>,
    /// Time that a shutdown takes.
    pub budget_seconds: Option<f64>,
    /// Runtime left.
    pub runtime_seconds: Option<f64>,
    /// runtime - budget × safety factor; may be negative.
    pub margin_seconds: Option<f64>,
    /// When it would trigger at the present rate.
    pub would_trigger: Option<Timestamp>,
    /// Once a trigger is decided.
    pub trigger: Option<TriggerView>,
    /// Where the budget comes from: configured, or learned from real runs.
    pub budget_source: Option<String>,
    /// What the budget is made of.
    pub budget_lines: Vec<BudgetLineView>,
    /// It triggers when the runtime is at most this factor × budget.
    pub safety_factor: Option<f64>,
}

/// One step of the critical path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BudgetLineView {
    /// e.g. "node.drain".
    pub kind: String,
    /// Host of the inventory.
    pub host: Option<String>,
    /// How long it takes.
    pub takes_seconds: Option<f64>,
    /// From real runs; false: configured.
    pub learned: bool,
}

/// A decided trigger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TriggerView {
    /// When.
    pub at: Option<Timestamp>,
    /// Why.
    pub because: String,
    /// False: disarmed, only recorded.
    pub acted: bool,
}

/// Answer of `ups history`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HistoryView {
    /// Oldest first.
    pub samples: Vec<SampleView>,
    /// Oldest first.
    pub transitions: Vec<TransitionView>,
}

/// One reading.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SampleView {
    /// When.
    pub at: Option<Timestamp>,
    /// The UPS.
    pub name: String,
    /// ups.status.
    pub status: String,
    /// Percent.
    pub charge_percent: Option<f64>,
    /// Runtime left.
    pub runtime_seconds: Option<f64>,
    /// Percent.
    pub load_percent: Option<f64>,
}

/// A change of verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TransitionView {
    /// When.
    pub at: Option<Timestamp>,
    /// The UPS.
    pub name: String,
    /// Verdict before.
    pub from: &'static str,
    /// Verdict after.
    pub to: &'static str,
    /// Why.
    pub reason: Option<String>,
}

/// A verdict as a word.
pub fn verdict(value: i32) -> &'static str {
    match v1::UpsVerdict::try_from(value).unwrap_or_default() {
        v1::UpsVerdict::Unspecified => word::UNSPECIFIED,
        v1::UpsVerdict::Unknown => "unknown",
        v1::UpsVerdict::Online => "online",
        v1::UpsVerdict::OnBattery => "on-battery",
        v1::UpsVerdict::Critical => "critical",
    }
}

fn tone(verdict: &str) -> Tone {
    match verdict {
        "online" => Tone::Good,
        "critical" => Tone::Bad,
        _ => Tone::Warn,
    }
}

impl From<v1::ListUpsResponse> for PowerView {
    fn from(r: v1::ListUpsResponse) -> Self {
        Self {
            upses: r.upses.into_iter().map(Into::into).collect(),
            domains: r.domains.into_iter().map(Into::into).collect(),
            now: time(r.now),
        }
    }
}

impl From<v1::UpsState> for UpsView {
    fn from(u: v1::UpsState) -> Self {
        Self {
            verdict: verdict(u.verdict),
            name: u.name,
            reason: text(u.reason),
            status: u.status,
            charge_percent: u.charge,
            runtime_seconds: secs(u.runtime),
            load_percent: u.load,
            last_heard: time(u.last_heard),
            since: time(u.since),
            link: u.link,
            fsd_latched: u.fsd_latched,
            vars: u.vars.into_iter().collect(),
        }
    }
}

impl From<v1::Domain> for DomainView {
    fn from(d: v1::Domain) -> Self {
        let trigger = |t: v1::Trigger| TriggerView { at: time(t.at), because: t.because, acted: t.acted };
        let line =
            |l: v1::BudgetLine| BudgetLineView { kind: l.kind, host: text(l.host), takes_seconds: secs(l.takes), learned: l.learned };
        Self {
            name: d.name,
            verdict: verdict(d.verdict),
            reason: text(d.reason),
            upses: d.upses,
            nodes: d.nodes,
            budget_seconds: secs(d.budget),
            runtime_seconds: secs(d.runtime),
            margin_seconds: secs(d.margin),
            would_trigger: time(d.would_trigger),
            trigger: d.trigger.map(trigger),
            budget_source: text(d.budget_source),
            budget_lines: d.budget_lines.into_iter().map(line).collect(),
            safety_factor: (d.safety_factor > 0.0).then_some(d.safety_factor),
        }
    }
}

impl From<v1::UpsHistoryResponse> for HistoryView {
    fn from(r: v1::UpsHistoryResponse) -> Self {
        let sample = |s: v1::UpsSample| SampleView {
            at: time(s.at),
            name: s.name,
            status: s.status,
            charge_percent: s.charge,
            runtime_seconds: secs(s.runtime),
            load_percent: s.load,
        };
        let transition = |t: v1::UpsTransition| TransitionView {
            at: time(t.at),
            name: t.name,
            from: verdict(t.from),
            to: verdict(t.to),
            reason: text(t.reason),
        };
        Self { samples: r.samples.into_iter().map(sample).collect(), transitions: r.transitions.into_iter().map(transition).collect() }
    }
}

fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| format!("{v:.0} %"))
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), human::seconds)
}

impl PowerView {
    /// UPSes, then domains, then triggers.
    pub fn table(&self, look: &Look) -> String {
        if self.upses.is_empty() && self.domains.is_empty() {
            return "no UPS is configured (section power of metis.yaml); nothing is watched".into();
        }
        let look = &Look { now: self.now.unwrap_or(look.now), ..look.clone() };
        let upses = table(
            &["UPS", "STATE", "CHARGE", "RUNTIME", "LOAD", "HEARD", "WHY"],
            &[2, 3, 4],
            self.upses.iter().map(|u| u.row(look)).collect(),
            look,
        );
        let powers: String = self.domains.iter().map(|d| d.powers(look)).collect();
        let budgets: String = self.domains.iter().filter_map(DomainView::budget).collect();
        format!("{upses}\n\n{}\n{budgets}{powers}", domains(&self.domains, look))
    }
}

/// Domains: runtime left, budget, margin, when it would trigger; then what was decided.
pub fn domains(domains: &[DomainView], look: &Look) -> String {
    let rows = domains.iter().map(|d| d.row(look)).collect();
    let mut s = table(&["DOMAIN", "STATE", "RUNTIME", "BUDGET", "MARGIN", "WOULD TRIGGER", "NODES"], &[2, 3, 4, 6], rows, look);
    for domain in domains {
        if let (Some(reason), true) = (&domain.reason, domain.verdict != "online") {
            let _ = write!(s, "\n{}: {reason}", domain.name);
        }
        if let Some(trigger) = &domain.trigger {
            let _ = write!(s, "\n{}", trigger.line(&domain.name, look));
        }
    }
    s
}

impl TriggerView {
    fn line(&self, domain: &str, look: &Look) -> String {
        let at = self.at.map_or_else(|| "-".into(), |t| human::clock(t, look));
        let said = if self.acted { "TRIGGERED" } else { "DISARMED: would have acted" };
        format!("{domain}: {} at {at} because {}", toned(said, Tone::Bad, look), self.because)
    }
}

impl UpsView {
    fn row(&self, look: &Look) -> Vec<comfy_table::Cell> {
        let plain = |text: String| cell(text, Tone::Plain);
        let mut why = vec![self.status.join(" ")];
        why.extend(self.reason.clone());
        if self.link != "connected" {
            why.push(self.link.clone());
        }
        if self.fsd_latched {
            why.push("FSD latched, not acted on".into());
        }
        why.retain(|w| !w.is_empty());
        vec![
            plain(self.name.clone()),
            cell(self.verdict, tone(self.verdict)),
            plain(percent(self.charge_percent)),
            plain(seconds(self.runtime_seconds)),
            plain(percent(self.load_percent)),
            plain(self.last_heard.map_or("never".into(), |t| human::when(t, look))),
            plain(why.join("; ")),
        ]
    }
}

impl DomainView {
    /// When it triggers, and what the budget is made of.
    fn budget(&self) -> Option<String> {
        let (source, budget, factor) = (self.budget_source.as_ref()?, self.budget_seconds?, self.safety_factor?);
        let (needs, all) = (human::seconds(budget * factor), human::seconds(budget));
        let mut s = format!("\n{} triggers at {needs} of runtime: {factor:.2} x {all}, {source}", self.name);
        for line in &self.budget_lines {
            let on = line.host.as_ref().map(|host| format!(" {host}")).unwrap_or_default();
            let source = if line.learned { "learned" } else { "configured" };
            let _ = write!(s, "\n    {:>11}  {}{on} ({source})", seconds(line.takes_seconds), line.kind);
        }
        Some(s)
    }

    /// What it powers, by name, broken at the width.
    fn powers(&self, look: &Look) -> String {
        let mut text = format!("\n{} powers", self.name);
        let mut column = text.len();
        for node in &self.nodes {
            if column + 1 + node.len() > usize::from(look.columns) {
                text.push_str("\n   ");
                column = 3;
            }
            text.push(' ');
            text.push_str(node);
            column += 1 + node.len();
        }
        text
    }

    fn row(&self, look: &Look) -> Vec<comfy_table::Cell> {
        let margin = if self.margin_seconds.is_some_and(|m| m <= 0.0) { Tone::Bad } else { Tone::Plain };
        vec![
            cell(self.name.as_str(), Tone::Plain),
            cell(self.verdict, tone(self.verdict)),
            cell(seconds(self.runtime_seconds), Tone::Plain),
            cell(seconds(self.budget_seconds), Tone::Plain),
            cell(seconds(self.margin_seconds), margin),
            cell(self.would_trigger.map_or("-".into(), |t| human::when(t, look)), Tone::Plain),
            cell(self.nodes.len().to_string(), Tone::Plain),
        ]
    }
}

impl HistoryView {
    /// Transitions, then samples.
    pub fn table(&self, look: &Look) -> String {
        if self.samples.is_empty() && self.transitions.is_empty() {
            return "no readings in that time".into();
        }
        let plain = |text: String| cell(text, Tone::Plain);
        let at = |t: Option<Timestamp>| plain(t.map_or("-".into(), |t| human::when(t, look)));
        let samples = self.samples.iter().map(|s| {
            vec![
                at(s.at),
                plain(s.status.clone()),
                plain(percent(s.charge_percent)),
                plain(seconds(s.runtime_seconds)),
                plain(percent(s.load_percent)),
            ]
        });
        let transitions = self
            .transitions
            .iter()
            .map(|t| vec![at(t.at), cell(t.from, tone(t.from)), cell(t.to, tone(t.to)), plain(t.reason.clone().unwrap_or_default())]);
        let samples = table(&["READING", "STATUS", "CHARGE", "RUNTIME", "LOAD"], &[2, 3, 4], samples.collect(), look);
        if self.transitions.is_empty() {
            return samples;
        }
        let transitions = table(&["CHANGE", "FROM", "TO", "WHY"], &[], transitions.collect(), look);
        format!("{transitions}\n\n{samples}")
    }
}
