//! What is true because it happened. The only thing that is stored.

mod form;

pub use form::DecodeError;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::RepairEnd;
use crate::runbook::{Mode, Outcome, Runbook, Status};
use crate::site::{
    BootId, Cause, Claim, DomainName, Now, ObjectRef, OnBoot, OnTrigger, RepairCase, RunId, SettingsDigest, Step, StepId, UpsName, Verdict,
};

/// A fact and the moment at which it was recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// Where and when.
    pub stamp: Stamp,
    /// What.
    pub fact: Fact,
}

/// Place in the journal and moment of a fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// Journal position; only grows.
    pub seq: u64,
    /// When it was recorded.
    pub now: Now,
}

/// Settings as they come into force; the values themselves stay in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopted {
    /// SHA-256 of all settings.
    pub digest: SettingsDigest,
    /// The files they were read from.
    pub files: Vec<String>,
    /// `power.on_trigger`.
    pub on_trigger: OnTrigger,
    /// `startup.on_boot`.
    #[serde(default)]
    pub on_boot: OnBoot,
}

/// What a look at everything that a bad day needs came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Who asked, for people.
    pub requester: String,
    /// The settings under which it was looked at.
    pub settings: SettingsDigest,
    /// What stands in the way, each with its name; empty: it is green.
    pub problems: Vec<String>,
    /// How many warnings there were.
    pub warnings: usize,
    /// How much could not be told.
    pub unclear: usize,
}

/// A mutating call, served or refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// The caller's uid as the kernel says (SO_PEERCRED, unix(7)).
    pub uid: u32,
    /// His role; empty where he has none.
    pub role: String,
    /// The RPC, e.g. `Card.Burn`.
    pub method: String,
    /// Upon what, e.g. `titan-13 to /dev/sdz`.
    pub target: String,
    /// Whether it was let through.
    pub allowed: bool,
}

/// What is stored. A fact holds what was decided, so that an upgrade or a changed threshold cannot rewrite history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// metisd is up and has read its journal.
    DaemonStarted {
        /// The kernel's boot id.
        boot_id: BootId,
        /// Version of metisd.
        version: String,
    },
    /// metisd was told to stop; nothing new is admitted.
    DaemonStopping,
    /// metisd stopped in order.
    DaemonStopped,
    /// Settings came into force; runs that are under way keep theirs.
    SettingsAdopted {
        /// Which.
        #[serde(flatten)]
        settings: Adopted,
    },
    /// A reload was refused; the settings before it stay in force.
    SettingsRejected {
        /// Each with file, line and column.
        errors: Vec<String>,
    },
    /// What is believed of a UPS changed.
    UpsChanged {
        /// Which.
        ups: UpsName,
        /// Before.
        from: Verdict,
        /// Now.
        to: Verdict,
        /// Why.
        reason: String,
    },
    /// FSD stood at first sight while on line: left over from an earlier outage, shown and not acted on.
    FsdLatched {
        /// Of this UPS.
        ups: UpsName,
    },
    /// What is believed of a power domain changed.
    DomainChanged {
        /// Which.
        domain: DomainName,
        /// Before.
        from: Verdict,
        /// Now.
        to: Verdict,
        /// Why.
        reason: String,
    },
    /// A domain is about to lose power.
    TriggerDecided {
        /// Which.
        domain: DomainName,
        /// Why.
        because: String,
        /// What `power.on_trigger` said at that moment; `observe`: nothing was done.
        would_act: OnTrigger,
        /// What a shutdown was taken to need.
        budget: Duration,
        /// Runtime that was left, where it was known.
        runtime: Option<Duration>,
        /// By the charge that a start-up asks for: the policy of the UPSes knows nothing of it, so the verdict clears it.
        #[serde(default)]
        in_startup: bool,
    },
    /// The reason of a trigger is gone.
    TriggerCleared {
        /// Of this domain.
        domain: DomainName,
        /// Why.
        because: String,
    },
    /// A run was admitted.
    RunAdmitted {
        /// Its id.
        run: RunId,
        /// Its plan.
        runbook: Box<Runbook<Step>>,
        /// Who asked, for people.
        requester: String,
        /// The settings it is pinned to.
        settings: SettingsDigest,
        /// The boot it belongs to.
        boot_id: BootId,
        /// Why it was begun.
        #[serde(default)]
        cause: Cause,
        /// Boot time at which it has to have ended.
        #[serde(default)]
        deadline: Option<Duration>,
    },
    /// A run that was under way does what a failing UPS wants as well.
    RunRaised {
        /// Which.
        run: RunId,
        /// Its plan from now on.
        runbook: Box<Runbook<Step>>,
        /// Who asked, for people.
        requester: String,
        /// Domains that are about to lose power.
        domains: BTreeSet<DomainName>,
    },
    /// What a run was raised for is not wanted any more: the mains are back.
    RunLowered {
        /// Which.
        run: RunId,
        /// Why.
        because: String,
        /// Steps that are not taken, where they have not begun.
        steps: BTreeSet<StepId>,
        /// One line for people: what it does from now on.
        title: String,
    },
    /// The time that is left was shared out anew.
    LimitsCut {
        /// Of this run.
        run: RunId,
        /// Boot time at which it has to have ended.
        deadline: Duration,
        /// How long each step that has not ended may take.
        limits: BTreeMap<StepId, Duration>,
    },
    /// A step is about to change these objects, which were not so before.
    Claimed {
        /// Of this run.
        run: RunId,
        /// Which.
        step: StepId,
        /// Each.
        claims: Vec<Claim>,
    },
    /// Changes were undone, or are somebody else's now.
    Released {
        /// By this run.
        run: RunId,
        /// On these objects.
        objects: Vec<ObjectRef>,
        /// Why.
        because: String,
    },
    /// A person renewed a lease.
    LeaseRenewed {
        /// Of this run.
        run: RunId,
        /// On this object.
        object: ObjectRef,
        /// Until then.
        expires: Timestamp,
        /// Who, for people.
        requester: String,
    },
    /// A lease expired, and a person has to look.
    LeaseMarked {
        /// Of this run.
        run: RunId,
        /// On this object.
        object: ObjectRef,
        /// Why.
        because: String,
    },
    /// What was seen of the cluster before anything was changed.
    Collected {
        /// By this run.
        run: RunId,
        /// SHA-256 of the blob in the journal's store.
        blob: String,
    },
    /// The run is recorded as ended, and this host took the order to power off. Not recorded before: what was not taken is ordered again.
    FarewellOrdered {
        /// At the end of this run.
        run: RunId,
        /// Why the order was not taken, and is not given again.
        #[serde(default)]
        trouble: Option<String>,
    },
    /// The cluster is to be started, without a person.
    StartupWanted {
        /// Why.
        because: String,
    },
    /// Somebody had everything looked at that a bad day needs.
    Prepared {
        /// Which.
        #[serde(flatten)]
        prepared: Prepared,
    },
    /// What wanted the cluster started is done, by the other metis host.
    StartupSettled {
        /// How.
        because: String,
    },
    /// From now on a trigger is acted upon.
    Armed {
        /// Who, for people.
        requester: String,
        /// How.
        mode: OnTrigger,
    },
    /// From now on a trigger is only recorded.
    Disarmed {
        /// Who, for people.
        requester: String,
    },
    /// Nothing new of the run is started for now.
    RunHeld {
        /// Which.
        run: RunId,
        /// Why, and what ends it.
        because: String,
    },
    /// The run goes on.
    RunReleased {
        /// Which.
        run: RunId,
    },
    /// An attempt at a step begins.
    StepStarted {
        /// Of this run.
        run: RunId,
        /// Which.
        step: StepId,
        /// What it is asked for.
        mode: Mode,
        /// Its serial number.
        attempt: u32,
        /// Boot time at which it will be told to end.
        deadline: Duration,
    },
    /// The attempt under way was told to end.
    StepAborted {
        /// Of this run.
        run: RunId,
        /// Which.
        step: StepId,
        /// Why.
        because: String,
    },
    /// An attempt ended, and there will be another.
    StepWaits {
        /// Of this run.
        run: RunId,
        /// Which.
        step: StepId,
        /// Boot time of the next attempt.
        until: Duration,
        /// What it will be asked for.
        then: Mode,
        /// How the last one ended.
        detail: String,
    },
    /// A step ended.
    StepEnded {
        /// Of this run.
        run: RunId,
        /// Which.
        step: StepId,
        /// As what.
        status: Status,
        /// For people.
        detail: String,
    },
    /// Something worth telling happened in a step.
    Milestone {
        /// Of this run.
        run: RunId,
        /// Which.
        step: StepId,
        /// What.
        message: String,
    },
    /// A repair is about to be done.
    RepairBegun {
        /// In this run.
        run: RunId,
        /// In this step.
        step: StepId,
        /// Which, and of what.
        case: RepairCase,
    },
    /// A repair was done, or refused.
    RepairEnded {
        /// In this run.
        run: RunId,
        /// In this step.
        step: StepId,
        /// Which, and of what.
        case: RepairCase,
        /// How.
        end: RepairEnd,
    },
    /// Somebody wants a run to end.
    CancelRequested {
        /// Which.
        run: RunId,
        /// Who, and why.
        because: String,
    },
    /// A run ended.
    RunEnded {
        /// Which.
        run: RunId,
        /// How.
        outcome: Outcome,
        /// Why; empty where it is simply done.
        reason: String,
    },
    /// A mutating call was served or refused.
    CallAudited {
        /// Which.
        #[serde(flatten)]
        audit: Audit,
    },
    /// Facts do not reach the disk.
    JournalDegraded {
        /// Why.
        reason: String,
    },
    /// Facts reach the disk again, those kept meanwhile included.
    JournalRestored,
    /// This host is being powered off or rebooted.
    HostGoesDown {
        /// The run that ordered it; `None`: somebody else did.
        by: Option<RunId>,
        /// Runs that are under way.
        runs: Vec<RunId>,
    },
    /// That was called off.
    HostStays,
    /// Wall-clock time went another way than boot time.
    ClockJumped {
        /// Seconds; negative: backwards.
        seconds: i64,
    },
}
