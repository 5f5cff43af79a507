//! What the facts add up to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Adopted, Prepared, RepairRecord};
use crate::power::budget::Learning;
use crate::runbook::Run;
use crate::site::{BootId, Cause, Claim, DomainName, OnTrigger, RunId, SettingsDigest, Step, StepId, UpsName, Verdict};

/// Runs that have ended are kept up to this many; older ones are in the journal only.
pub const RUNS_KEPT: usize = 100;

/// Everything that is known, folded from the facts. Only [`super::apply()`] changes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Facts folded so far.
    pub facts: u64,
    /// Journal position of the newest of them.
    pub last_seq: u64,
    /// The daemon's present life, or its last one.
    pub life: Option<Life>,
    /// Numbers given to runs so far.
    pub run_numbers: u64,
    /// The newest runs, oldest first; every run that has not ended is among them. Shared with the views, copied when changed.
    #[serde(with = "shared")]
    pub runs: VecDeque<Arc<RunRecord>>,
    /// Settings in force.
    pub settings: Option<SettingsState>,
    /// What is believed of the UPSes.
    pub upses: BTreeMap<UpsName, Belief>,
    /// What is believed of the power domains.
    pub domains: BTreeMap<DomainName, Belief>,
    /// The newest trigger of each domain.
    pub triggers: BTreeMap<DomainName, TriggerRecord>,
    /// Why facts do not reach the disk.
    pub journal_trouble: Option<String>,
    /// What is done on a trigger; `None`: disarmed.
    #[serde(default)]
    pub armed: Option<OnTrigger>,
    /// The newest look at everything that a bad day needs, and when it was.
    #[serde(default)]
    pub prepared: Option<PreparedRecord>,
    /// What metis changed and has not undone.
    #[serde(default)]
    pub claims: Vec<ClaimRecord>,
    /// How long steps of real shutdowns took.
    #[serde(default)]
    pub learning: Learning,
    /// The newest record of what was seen of the cluster: run and blob.
    #[serde(default)]
    pub collected: Option<(RunId, String)>,
    /// Why the cluster is to be started without a person; `None`: it is not, or the start-up is admitted.
    #[serde(default)]
    pub startup_wanted: Option<String>,
    /// The newest shutdown or start-up when the other metis host had started the cluster: nothing is to be started for it any more.
    #[serde(default)]
    pub settled: Option<RunId>,
    /// The newest run at whose end this host was ordered to power off.
    #[serde(default)]
    pub farewell: Option<RunId>,
    /// This host is being powered off or rebooted.
    #[serde(default)]
    pub going_down: Option<GoingDown>,
}

/// A look at everything that a bad day needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedRecord {
    /// When.
    pub at: Timestamp,
    /// What it came to.
    #[serde(flatten)]
    pub prepared: Prepared,
}

/// This host's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoingDown {
    /// When it was heard of.
    pub at: Timestamp,
    /// The boot that it ends.
    pub boot_id: BootId,
    /// The run that ordered it; `None`: somebody else did.
    pub by: Option<RunId>,
}

/// A change that metis made, or was about to make, and has not undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// What.
    #[serde(flatten)]
    pub claim: Claim,
    /// By this run.
    pub run: RunId,
    /// In this step.
    pub step: StepId,
    /// When.
    pub at: Timestamp,
    /// Why a person has to look, where its lease expired and its reason is not known to be gone.
    #[serde(default)]
    pub marked: Option<String>,
}

/// From start to stop of metisd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The kernel's boot id.
    pub boot_id: BootId,
    /// Version of metisd.
    pub version: String,
    /// When it started.
    pub started: Timestamp,
    /// It was told to stop.
    pub stopping: bool,
    /// It stopped in order.
    pub stopped: bool,
}

/// Settings in force and the newest ones that were refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsState {
    /// In force.
    #[serde(flatten)]
    pub adopted: Adopted,
    /// Since when.
    pub since: Timestamp,
    /// Errors of the newest reload, where it was refused.
    pub rejected: Vec<String>,
}

/// What is believed of a UPS or a power domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Belief {
    /// What.
    pub verdict: Verdict,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    pub reason: String,
}

/// A decided trigger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TriggerRecord {
    /// When it was decided.
    pub at: Timestamp,
    /// Why.
    pub because: String,
    /// What `power.on_trigger` said; `observe`: nothing was done.
    pub would_act: OnTrigger,
    /// What a shutdown was taken to need.
    pub budget: Duration,
    /// Runtime that was left, where it was known.
    pub runtime: Option<Duration>,
    /// By the charge that a start-up asks for: the domain's verdict clears it.
    #[serde(default)]
    pub in_startup: bool,
    /// When its reason was gone; `None`: it stands.
    pub cleared: Option<Timestamp>,
}

/// A run with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Kind and number.
    pub id: RunId,
    /// Plan and step states.
    pub run: Run<Step>,
    /// Who asked, for people.
    pub requester: String,
    /// The settings it is pinned to.
    pub settings: SettingsDigest,
    /// The boot it belongs to.
    pub boot_id: BootId,
    /// Why it was begun.
    #[serde(default)]
    pub cause: Cause,
    /// When it was admitted.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// Why it ended as it did; empty where it is simply done.
    pub reason: String,
    /// Journal position of its newest fact.
    pub seq: u64,
    /// Failing UPSes that it was raised for while it was under way, oldest first.
    #[serde(default)]
    pub raised: Vec<Raised>,
    /// Repairs that it has begun, oldest first.
    #[serde(default)]
    pub repairs: Vec<RepairRecord>,
}

/// That a run does what a failing UPS wants as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    /// When.
    pub at: Timestamp,
    /// Who asked, for people.
    pub requester: String,
    /// Domains that were about to lose power.
    pub domains: BTreeSet<DomainName>,
    /// Steps that came in by it.
    pub added: BTreeSet<StepId>,
    /// What it did before, one line for people.
    pub before: String,
    /// When that was not wanted any more; `None`: it is.
    pub lowered: Option<Timestamp>,
}

impl RunRecord {
    /// Domains for which it is an emergency.
    pub fn domains(&self) -> BTreeSet<DomainName> {
        let own = match &self.cause {
            Cause::Ups { domains } => domains.clone(),
            Cause::Person | Cause::PowerFailedAgain | Cause::Boot => BTreeSet::new(),
        };
        let raised = self.raised.iter().filter(|raised| raised.lowered.is_none()).flat_map(|raised| raised.domains.iter().cloned());
        own.into_iter().chain(raised).collect()
    }

    /// Whether it was begun, or raised, for that domain since then.
    pub fn answers(&self, domain: &DomainName, since: Timestamp) -> bool {
        let own = self.started >= since && matches!(&self.cause, Cause::Ups { domains } if domains.contains(domain));
        own || self.raised.iter().any(|raised| raised.at >= since && raised.domains.contains(domain))
    }
}

impl State {
    /// A run that is kept.
    pub fn run(&self, id: &RunId) -> Option<&Arc<RunRecord>> {
        self.runs.iter().find(|record| record.id == *id)
    }

    /// Runs that have not ended, oldest first.
    pub fn active(&self) -> impl Iterator<Item = &Arc<RunRecord>> {
        self.runs.iter().filter(|record| record.run.outcome.is_none())
    }

    /// What is done on a trigger.
    pub fn on_trigger(&self) -> OnTrigger {
        self.armed.unwrap_or_default()
    }

    /// What that run changed and has not undone.
    pub fn claims_of(&self, run: &RunId) -> impl Iterator<Item = &ClaimRecord> {
        self.claims.iter().filter(move |record| record.run == *run)
    }

    /// Whether the daemon was told to stop.
    pub fn stopping(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.stopping)
    }
}

/// Runs are stored as if they were not shared.
mod shared {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::RunRecord;

    pub(super) fn serialize<S: Serializer>(runs: &VecDeque<Arc<RunRecord>>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(runs.iter().map(AsRef::as_ref))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<VecDeque<Arc<RunRecord>>, D::Error> {
        Ok(Vec::<RunRecord>::deserialize(from)?.into_iter().map(Arc::new).collect())
    }
}
