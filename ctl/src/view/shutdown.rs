//! The plan of a shutdown.

use std::fmt::Write as _;

use metis_proto::v1;
use serde::Serialize;

use super::plan::{PlanPhaseView, PlanStepView, PlanView};
use super::{text, word};
use crate::human::{self, Look};
use crate::output::{Tone, cell, table, toned};

/// Answer of a dry run of `shutdown`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShutdownView {
    /// Nothing was changed.
    pub dry_run: bool,
    /// What would be done.
    pub plan: PlanView,
    /// What becomes of the hosts of the plan.
    pub hosts: Vec<HostEndView>,
}

/// What becomes of a host, and how it comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostEndView {
    /// Its name in the inventory.
    pub name: String,
    /// k3s is stopped there.
    pub k3s_stops: bool,
    /// It is powered off.
    pub powers_off: bool,
    /// ac-cycle, wake-on-lan or by-hand.
    pub returns: String,
    /// How commands get there: ssh, helper-pod, local or none.
    pub access: String,
    /// Power domains that feed it.
    pub domains: Vec<String>,
    /// metisd runs on it.
    pub this_host: bool,
    /// MAC address that a magic packet wakes.
    pub mac: Option<String>,
}

/// A mode as a word.
pub fn mode(value: i32) -> &'static str {
    match v1::ShutdownMode::try_from(value).unwrap_or_default() {
        v1::ShutdownMode::Unspecified => word::UNSPECIFIED,
        v1::ShutdownMode::ClusterOnly => "cluster-only",
        v1::ShutdownMode::HostPoweroff => "host-poweroff",
    }
}

impl From<v1::HostEnd> for HostEndView {
    fn from(h: v1::HostEnd) -> Self {
        Self {
            name: h.name,
            k3s_stops: h.k3s_stops,
            powers_off: h.powers_off,
            returns: h.returns,
            access: h.access,
            domains: h.domains,
            this_host: h.this_host,
            mac: text(h.mac),
        }
    }
}

impl From<v1::ShutdownResponse> for ShutdownView {
    fn from(r: v1::ShutdownResponse) -> Self {
        Self { dry_run: r.run.is_empty(), plan: r.plan.unwrap_or_default().into(), hosts: r.hosts.into_iter().map(Into::into).collect() }
    }
}

impl ShutdownView {
    /// Phases and steps, the point of no return, what a cancellation undoes, how the hosts come back, the time.
    pub fn table(&self, look: &Look) -> String {
        let mut s = format!("{}\n", self.plan.title);
        let all = self.plan.phases.iter().chain(&self.plan.unwind).flat_map(|p| &p.steps);
        let width = all.map(|step| step.id.chars().count()).max().unwrap_or(0);
        let mut committed = false;
        for (number, phase) in self.plan.phases.iter().enumerate() {
            if !committed && phase.steps.iter().any(|step| step.commits) {
                committed = true;
                let _ = writeln!(s, "\n{}", toned(NO_RETURN, Tone::Warn, look));
            }
            let _ = writeln!(s, "\n{}. {}{}", number + 1, phase.name, phase.pace());
            phase.steps.iter().for_each(|step| step_lines(step, width, look, &mut s));
        }
        self.unwinding(committed, width, look, &mut s);
        if !self.hosts.is_empty() {
            let _ = writeln!(s, "\n{}", self.hosts(look));
        }
        let _ = writeln!(s, "\n{}", self.time(look));
        s.push_str(&self.plan.remarks(look));
        s
    }

    fn unwinding(&self, committed: bool, width: usize, look: &Look, s: &mut String) {
        if self.plan.unwind.iter().all(|phase| phase.steps.is_empty()) {
            return;
        }
        let until = if committed { ", possible until the point of no return" } else { "" };
        let _ = writeln!(s, "\nwhat `metisctl run cancel` undoes of it{until}");
        for step in self.plan.unwind.iter().flat_map(|phase| &phase.steps) {
            step_lines(step, width, look, s);
        }
    }

    fn hosts(&self, look: &Look) -> String {
        let rows = self.hosts.iter().map(|h| {
            let plain = |text: &str| cell(text, Tone::Plain);
            let name = if h.this_host { format!("{} (this host)", h.name) } else { h.name.clone() };
            let k3s = if h.k3s_stops { "stops" } else { "-" };
            let (power, back) = match (h.powers_off, h.returns.as_str()) {
                (false, _) => ("stays on", plain("-")),
                (true, "by-hand") => ("off", cell("a person presses its button", Tone::Warn)),
                (true, "ac-cycle") => ("off", plain("by itself after a power cut")),
                (true, "wake-on-lan") if h.mac.is_none() => ("off", cell("not by itself: no MAC address is known", Tone::Warn)),
                (true, "wake-on-lan") => ("off", plain("by a magic packet")),
                (true, other) => ("off", plain(other)),
            };
            vec![plain(&name), plain(k3s), plain(power), plain(&h.access), plain(&h.domains.join(" ")), back]
        });
        table(&["HOST", "K3S", "POWER", "THROUGH", "DOMAIN", "COMES BACK"], &[], rows.collect(), look)
    }

    fn time(&self, look: &Look) -> String {
        let mut about = self.plan.predicted_seconds.map_or_else(|| "an unknown time".to_owned(), human::seconds);
        if let Some(tail) = self.plan.tail_seconds {
            let _ = write!(about, ", and {} until the hosts are off", human::seconds(tail));
        }
        let Some(left) = self.plan.remaining_seconds else {
            return format!("takes about {about}; no battery limits it");
        };
        let squeezed: Vec<_> = self.plan.phases.iter().flat_map(|p| &p.steps).filter(|step| step.squeeze.is_some()).collect();
        let fits = match squeezed.len() {
            0 => toned("it fits", Tone::Good, look),
            n => toned(&format!("{n} of its steps are cut"), Tone::Bad, look),
        };
        format!("takes about {about}; {} of runtime are left: {fits}", human::seconds(left))
    }

    /// What a person reads before the events of an execution.
    pub fn headline(&self, run: &str, flags: &str, look: &Look) -> String {
        let title = &self.plan.title;
        let remarks = self.plan.remarks(look);
        let again = format!("Ctrl-C detaches; `metisctl{flags} run cancel {run}` says what it would undo");
        format!("{run}: {title}\n{}\n{again}{}{}", self.time(look), if remarks.is_empty() { "" } else { "\n" }, remarks.trim_end())
    }
}

const NO_RETURN: &str = "--- point of no return: once this begins the shutdown is finished, not undone";

impl PlanPhaseView {
    fn pace(&self) -> String {
        let beside = if self.concurrency > 1 && self.steps.len() > 1 {
            format!(", {} side by side", self.concurrency.min(u32::try_from(self.steps.len()).unwrap_or(u32::MAX)))
        } else {
            String::new()
        };
        match self.predicted_seconds {
            Some(takes) => format!(" ({}{beside})", about(takes)),
            None => String::new(),
        }
    }
}

fn about(seconds: f64) -> String {
    format!("about {}", human::seconds(seconds))
}

fn step_lines(step: &PlanStepView, width: usize, look: &Look, s: &mut String) {
    let takes = step.predicted_seconds.map(about);
    let skipped = step.squeeze.as_deref() == Some("skipped");
    let most = step.limit_seconds.or(step.deadline_seconds).filter(|_| !skipped).map(|t| format!("at most {}", human::seconds(t)));
    let time = [takes, most].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let cut = match step.squeeze.as_deref() {
        None => String::new(),
        Some("skipped") => format!("  {}", toned("SKIPPED: no time is left for it", Tone::Bad, look)),
        Some(_) => format!("  {}", toned("SHORTENED: it is expected to need more", Tone::Bad, look)),
    };
    let _ = writeln!(s, "   {:width$}  {}  ({time}){cut}", step.id, step.title);
    for line in step.by_hand.iter().flat_map(|command| command.lines()) {
        let _ = writeln!(s, "   {:width$}    $ {line}", "");
    }
}
