//! What reaches the mailbox, and what is answered.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::{Adopted, Audit, Prepared, RepairEnd};
use crate::runbook::{Runbook, StepResult};
use crate::site::{Cause, Claim, DomainName, Guard, ObjectRef, OnTrigger, RepairCase, RunId, Step, StepId, UpsName, Verdict};

/// Something that happened. Events are not stored; what is decided on them is.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The stored facts were folded; sent once, before anything else.
    Recovered {
        /// Version of metisd.
        version: String,
        /// The settings in force.
        settings: Adopted,
        /// Why settings were refused that are on disk now; the last good ones are in force then.
        rejected: Vec<String>,
    },
    /// A reload brought new settings into force.
    SettingsAdopted(Adopted),
    /// A reload was refused.
    SettingsRejected {
        /// Each with file, line and column.
        errors: Vec<String>,
    },
    /// The verdict on a UPS.
    UpsVerdict {
        /// Which.
        ups: UpsName,
        /// What is believed of it now.
        verdict: Verdict,
        /// Why.
        reason: String,
    },
    /// FSD stood at first sight while on line.
    FsdLatched {
        /// Of this UPS.
        ups: UpsName,
    },
    /// The verdict on a power domain.
    DomainVerdict {
        /// Which.
        domain: DomainName,
        /// What is believed of it now.
        verdict: Verdict,
        /// Why.
        reason: String,
    },
    /// A domain is about to lose power.
    Trigger {
        /// Which.
        domain: DomainName,
        /// Why.
        because: String,
        /// What a shutdown needs.
        budget: Duration,
        /// Runtime that is left, where it is known.
        runtime: Option<Duration>,
    },
    /// Runtime that is left to domains that run on battery.
    Runtime {
        /// By domain.
        left: BTreeMap<DomainName, Duration>,
    },
    /// Charge that is left to a domain that runs on battery while the cluster is being started.
    Charge {
        /// Which.
        domain: DomainName,
        /// Percent, of the feed that holds most.
        percent: f64,
        /// What a shutdown is taken to need.
        budget: Duration,
        /// Runtime that is left, where it is known.
        runtime: Option<Duration>,
    },
    /// The reason of a trigger is gone.
    TriggerGone {
        /// Of this domain.
        domain: DomainName,
        /// Why.
        because: String,
    },
    /// An attempt at a step came to its end.
    StepFinished {
        /// Of this run.
        run: RunId,
        /// Which.
        step: StepId,
        /// Which attempt, as in [`super::Job::attempt`].
        attempt: u32,
        /// How.
        result: StepResult,
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
    /// A moment that an order asked for has come.
    TimerFired,
    /// Facts do not reach the disk.
    JournalFailed {
        /// Why.
        reason: String,
    },
    /// Facts reach the disk again.
    JournalRestored,
    /// Wall-clock time went another way than boot time.
    ClockJumped {
        /// Seconds; negative: backwards.
        seconds: i64,
    },
    /// Somebody asks for something.
    Asked(Request),
}

/// What a caller may ask of the daemon.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Execute a plan.
    Admit {
        /// Who asks, for people, e.g. `ada (uid 1000)`.
        requester: String,
        /// The plan; one with refusals is refused.
        runbook: Runbook<Step>,
        /// Why.
        cause: Cause,
        /// It has to have ended after this time.
        within: Option<Duration>,
    },
    /// Record what a step is about to change; answered once it is recorded.
    Claim {
        /// Of this run.
        run: RunId,
        /// Which.
        step: StepId,
        /// Each, not so before.
        claims: Vec<Claim>,
    },
    /// Record that changes were undone, or are somebody else's now.
    Release {
        /// By this run.
        run: RunId,
        /// On these objects.
        objects: Vec<ObjectRef>,
        /// Why.
        because: String,
    },
    /// Renew the lease on an object; a person's.
    Renew {
        /// Who asks, for people.
        requester: String,
        /// On this object.
        object: ObjectRef,
        /// Until then.
        expires: Timestamp,
    },
    /// Record that the lease on an object has expired and a person has to look.
    MarkLease {
        /// On this object.
        object: ObjectRef,
        /// Why.
        because: String,
    },
    /// Record a change that carries our mark and that the journal does not know.
    Adopt {
        /// The run that made it, as the mark says.
        run: RunId,
        /// In which step.
        step: StepId,
        /// What.
        claim: Claim,
    },
    /// Record that a repair is about to be done; refused where it was used for that cause in this run.
    BeginRepair {
        /// Of this run.
        run: RunId,
        /// In this step.
        step: StepId,
        /// Which, and of what.
        case: RepairCase,
    },
    /// Record how a repair ended.
    EndRepair {
        /// Of this run.
        run: RunId,
        /// In this step.
        step: StepId,
        /// Which, and of what.
        case: RepairCase,
        /// How.
        end: RepairEnd,
    },
    /// Record what was seen of the cluster.
    Collected {
        /// By this run.
        run: RunId,
        /// SHA-256 of the blob.
        blob: String,
    },
    /// Record that this host took the order to power off, or that it is given up.
    Farewell {
        /// At the end of this run.
        run: RunId,
        /// Why it is given up.
        trouble: Option<String>,
    },
    /// Record what a look at everything that a bad day needs came to.
    Prepared(Prepared),
    /// Record that the other metis host did what was wanted of a start-up.
    Settle {
        /// How.
        because: String,
    },
    /// Act upon triggers from now on.
    Arm {
        /// Who asks, for people.
        requester: String,
        /// How.
        mode: OnTrigger,
    },
    /// Only record triggers from now on.
    Disarm {
        /// Who asks, for people.
        requester: String,
    },
    /// End a run, or say what that would unwind.
    Cancel {
        /// Who asks, for people.
        requester: String,
        /// Which run.
        run: RunId,
        /// False: only say it.
        execute: bool,
    },
    /// Record that this host is being powered off or rebooted, or that it stays; answered once it is recorded.
    ThisHost {
        /// Whether it goes down.
        goes_down: bool,
    },
    /// Record a mutating call.
    Audit(Audit),
    /// Stop the daemon: runs that cannot be resumed are cancelled, the others stay as they are.
    Stop,
}

impl Request {
    /// Somebody asks for that plan, and the time is not short.
    pub fn admit(requester: impl Into<String>, runbook: Runbook<Step>) -> Self {
        Self::Admit { requester: requester.into(), runbook, cause: Cause::Person, within: None }
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The run is recorded and begins.
    Admitted {
        /// Its id.
        run: RunId,
    },
    /// All guards that refuse, at once.
    Refused {
        /// At least one.
        guards: Vec<Guard>,
    },
    /// What the cancellation unwinds, or why it cannot be.
    Cancel {
        /// For people.
        consequences: Vec<String>,
        /// Whether it was ordered.
        cancelled: bool,
    },
    /// There is no such run.
    NoSuchRun,
    /// Recorded.
    Noted,
}
