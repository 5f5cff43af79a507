//! What readers see: one immutable value, published after each batch of facts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;

use super::takeover::Kind;
use super::tell::on_trigger;
use super::{Belief, ClaimRecord, GoingDown, PreparedRecord, RunRecord, SettingsState, State, StepProgress, TriggerRecord, outage};
use crate::power::{Snapshot, UpsState};
use crate::runbook::{Outcome, Status};
use crate::site::{BootId, DomainName, Guard, Learned, OnTrigger, RunId, UpsName, Verdict};

/// Everything there is to see.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Journal position of the newest fact in it.
    pub last_seq: u64,
    /// Version of metisd; empty before it has started.
    pub version: String,
    /// When metisd started.
    pub started: Option<Timestamp>,
    /// The kernel's boot id.
    pub boot_id: Option<BootId>,
    /// One line for people; systemd's `STATUS=`.
    pub phase: String,
    /// The newest runs, newest first.
    pub runs: Vec<Arc<RunRecord>>,
    /// Byte progress of the runs that are under way.
    pub progress: BTreeMap<RunId, watch::Receiver<Option<StepProgress>>>,
    /// UPSes and power domains at this moment; `None` before the daemon has started.
    pub power: Option<Snapshot>,
    /// Verdicts on the UPSes as recorded.
    pub upses: BTreeMap<UpsName, Belief>,
    /// Verdicts on the power domains as recorded.
    pub domains: BTreeMap<DomainName, Belief>,
    /// The newest trigger of each domain.
    pub triggers: BTreeMap<DomainName, TriggerRecord>,
    /// The journal's state.
    pub journal: JournalView,
    /// Settings in force.
    pub settings: Option<SettingsState>,
    /// What is not as it should be, each with what to do.
    pub problems: Vec<String>,
    /// metisd was told to stop.
    pub stopping: bool,
    /// What is done on a trigger; `None`: disarmed.
    pub armed: Option<OnTrigger>,
    /// The newest look at everything that a bad day needs.
    pub prepared: Option<PreparedRecord>,
    /// What metis changed and has not undone.
    pub claims: Vec<ClaimRecord>,
    /// Why the cluster is to be started without a person.
    pub startup_wanted: Option<String>,
    /// The newest record of what was seen of the cluster: run and blob.
    pub collected: Option<(RunId, String)>,
    /// How long steps of a shutdown are taken to need, from real runs.
    pub learned: Learned,
    unanswered: BTreeSet<DomainName>,
}

/// How the journal is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalView {
    /// Why facts do not reach the disk; `None`: they do.
    pub degraded: Option<String>,
    /// Facts folded since the journal began.
    pub facts: u64,
    /// Facts that wait for the disk.
    pub waiting: u64,
    /// Facts that found no place at all.
    pub lost: u64,
}

impl View {
    /// Whether a trigger would be acted upon.
    pub fn armed(&self) -> bool {
        self.on_trigger() != OnTrigger::Observe
    }

    /// What is done on a trigger: `observe` while disarmed, whatever `power.on_trigger` says.
    pub fn on_trigger(&self) -> OnTrigger {
        self.armed.unwrap_or_default()
    }

    /// Domains whose trigger stands, was decided while armed, and for which no shutdown was begun since.
    pub fn unanswered(&self) -> &BTreeSet<DomainName> {
        &self.unanswered
    }

    /// The run of that id, or the newest for `last`.
    pub fn run(&self, id: &str) -> Option<&Arc<RunRecord>> {
        if id == "last" { self.runs.first() } else { self.runs.iter().find(|record| record.id.as_str() == id) }
    }

    /// Why a person may not release what is held: the run that holds it is under way, and would miss it.
    pub fn in_use(&self, held: &ClaimRecord) -> Option<Guard> {
        let run = self.run(held.run.as_str()).filter(|record| record.run.outcome.is_none())?;
        let message = format!("{} placed it and is under way: `metisctl run cancel {}` undoes it", run.id, run.id);
        Some(Guard { name: "lease.in_use".to_owned(), message, waiver: None })
    }

    /// Builds it from the state.
    pub(super) fn build(state: &State, volatile: Volatile) -> Self {
        let life = state.life.as_ref();
        Self {
            last_seq: state.last_seq,
            version: life.map(|life| life.version.clone()).unwrap_or_default(),
            started: life.map(|life| life.started),
            boot_id: life.map(|life| life.boot_id.clone()),
            phase: phase_line(state, &volatile.power),
            runs: state.runs.iter().rev().cloned().collect(),
            progress: volatile.progress,
            power: Some(volatile.power),
            upses: state.upses.clone(),
            domains: state.domains.clone(),
            triggers: state.triggers.clone(),
            journal: JournalView {
                degraded: state.journal_trouble.clone(),
                facts: state.facts,
                waiting: volatile.waiting,
                lost: volatile.lost,
            },
            settings: state.settings.clone(),
            problems: problems(state, volatile.lost, volatile.notes),
            stopping: state.stopping(),
            armed: state.armed,
            prepared: state.prepared.clone(),
            startup_wanted: state.startup_wanted.clone(),
            claims: state.claims.clone(),
            collected: state.collected.clone(),
            learned: state.learning.learned(),
            unanswered: outage::unanswered(state),
        }
    }
}

/// What a view shows that is no fact.
pub(super) struct Volatile {
    pub progress: BTreeMap<RunId, watch::Receiver<Option<StepProgress>>>,
    pub waiting: u64,
    pub lost: u64,
    pub power: Snapshot,
    /// What was found amiss at the start.
    pub notes: Vec<String>,
}

/// The daemon's state in one line: the most urgent first.
fn phase_line(state: &State, power: &Snapshot) -> String {
    let mut parts = Vec::new();
    if state.stopping() {
        parts.push("stopping".to_owned());
    }
    match &state.going_down {
        Some(GoingDown { by: Some(run), .. }) => parts.push(format!("this host goes down, as {run} ordered")),
        Some(GoingDown { by: None, .. }) => parts.push("this host goes down, which somebody else ordered".to_owned()),
        None => {}
    }
    for (domain, trigger) in state.triggers.iter().filter(|(_, trigger)| trigger.cleared.is_none()) {
        let disarmed = if trigger.would_act == OnTrigger::Observe { "DISARMED: would have acted: " } else { "" };
        parts.push(format!("{domain} is about to lose power ({disarmed}{})", trigger.because));
    }
    if let Some(because) = &state.startup_wanted {
        parts.push(format!("a start-up is due ({because})"));
    }
    parts.extend(power.upses.iter().filter(|ups| !triggered(state, power, &ups.name)).filter_map(ups_line));
    for record in state.active() {
        parts.push(run_line(record));
    }
    if let Some(trouble) = &state.journal_trouble {
        parts.push(format!("journal degraded: {trouble}"));
    }
    parts.extend(failed_startup(state));
    if parts.is_empty() {
        parts.push("watching".to_owned());
    }
    if state.on_trigger() != OnTrigger::Observe {
        parts.push(format!("armed: a trigger leads to {}", on_trigger(state.on_trigger())));
    }
    parts.join("; ")
}

/// Whether a trigger stands that says it all.
fn triggered(state: &State, power: &Snapshot, ups: &UpsName) -> bool {
    let stands = |name| state.triggers.get(name).is_some_and(|trigger| trigger.cleared.is_none());
    power.domains.iter().any(|domain| domain.upses.contains(ups) && stands(&domain.name))
}

fn ups_line(ups: &UpsState) -> Option<String> {
    let verdict = match ups.verdict {
        Verdict::OnBattery => "on battery",
        Verdict::Critical => "critical",
        Verdict::Online | Verdict::Unknown => return None,
    };
    let runtime = match ups.runtime.map(|runtime| runtime.as_secs()) {
        Some(seconds @ 0..120) => format!("runtime {seconds} s"),
        Some(seconds) => format!("runtime {} min", seconds / 60),
        None => "runtime unknown".to_owned(),
    };
    Some(format!("{verdict}: {} ({runtime})", ups.name))
}

fn run_line(record: &RunRecord) -> String {
    let now = match (&record.run.hold, record.run.book.steps().find(|step| record.run.status(&step.id).in_progress())) {
        (Some(hold), _) => format!("held: {}", hold.because),
        (None, Some(step)) if matches!(record.run.status(&step.id), Status::Waiting { .. }) => format!("{} (waiting)", step.title),
        (None, Some(step)) => step.title.clone(),
        (None, None) => record.run.book.title.clone(),
    };
    format!("{}: {now}", record.id)
}

/// Until somebody begins another run: the cluster is not up, and only a person gets it there.
fn failed_startup(state: &State) -> Option<String> {
    let record = state.runs.back().filter(|record| Kind::of(&record.run.book.kind) == Some(Kind::Startup))?;
    let failed = matches!(record.run.outcome, Some(Outcome::Failed | Outcome::UnknownOutcome));
    failed.then(|| format!("{} FAILED, a person has to look: {}", record.id, record.reason.chars().take(300).collect::<String>()))
}

fn problems(state: &State, lost: u64, notes: Vec<String>) -> Vec<String> {
    let mut problems = notes;
    if let Some(trouble) = &state.journal_trouble {
        problems.push(format!("journal degraded, cards are not burnt until it is well: {trouble}"));
    }
    if lost > 0 {
        problems.push(format!("{lost} facts found no place in the journal or the spill file"));
    }
    if let Some(settings) = state.settings.as_ref().filter(|settings| !settings.rejected.is_empty()) {
        let count = settings.rejected.len();
        problems
            .push(format!("the configuration on disk was refused ({count} errors), an earlier one is in force: run metisd --check-config"));
    }
    problems
}
