//! A fact's kind, the run and step it belongs to, and its stored form.

use super::Fact;
use crate::journal::Record;
use crate::site::{RunId, StepId};

/// Every kind there is.
const KINDS: &[&str] = &[
    "daemon.started",
    "daemon.stopping",
    "daemon.stopped",
    "settings.adopted",
    "settings.rejected",
    "ups.changed",
    "ups.fsd-latched",
    "domain.changed",
    "trigger.decided",
    "trigger.cleared",
    "run.admitted",
    "run.raised",
    "run.lowered",
    "run.limits-cut",
    "run.claimed",
    "run.released-claims",
    "lease.renewed",
    "lease.marked",
    "run.collected",
    "run.farewell-ordered",
    "startup.wanted",
    "daemon.prepared",
    "startup.settled",
    "daemon.armed",
    "daemon.disarmed",
    "run.held",
    "run.released",
    "step.started",
    "step.aborted",
    "step.waits",
    "step.ended",
    "milestone",
    "repair.begun",
    "repair.ended",
    "run.cancel-requested",
    "run.ended",
    "call.audited",
    "journal.degraded",
    "journal.restored",
    "host.goes-down",
    "host.stays",
    "clock.jumped",
];

impl Fact {
    /// Version of the stored form. A change of it comes with a step in [`Fact::decode`] from the form before.
    pub const VERSION: u16 = 1;

    /// Its kind as users see it in history.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DaemonStarted { .. } => "daemon.started",
            Self::DaemonStopping => "daemon.stopping",
            Self::DaemonStopped => "daemon.stopped",
            Self::SettingsAdopted { .. } => "settings.adopted",
            Self::SettingsRejected { .. } => "settings.rejected",
            Self::UpsChanged { .. } => "ups.changed",
            Self::FsdLatched { .. } => "ups.fsd-latched",
            Self::DomainChanged { .. } => "domain.changed",
            Self::TriggerDecided { .. } => "trigger.decided",
            Self::TriggerCleared { .. } => "trigger.cleared",
            Self::RunAdmitted { .. } => "run.admitted",
            Self::RunRaised { .. } => "run.raised",
            Self::RunLowered { .. } => "run.lowered",
            Self::LimitsCut { .. } => "run.limits-cut",
            Self::Claimed { .. } => "run.claimed",
            Self::Released { .. } => "run.released-claims",
            Self::LeaseRenewed { .. } => "lease.renewed",
            Self::LeaseMarked { .. } => "lease.marked",
            Self::Collected { .. } => "run.collected",
            Self::FarewellOrdered { .. } => "run.farewell-ordered",
            Self::StartupWanted { .. } => "startup.wanted",
            Self::Prepared { .. } => "daemon.prepared",
            Self::StartupSettled { .. } => "startup.settled",
            Self::Armed { .. } => "daemon.armed",
            Self::Disarmed { .. } => "daemon.disarmed",
            Self::RunHeld { .. } => "run.held",
            Self::RunReleased { .. } => "run.released",
            Self::StepStarted { .. } => "step.started",
            Self::StepAborted { .. } => "step.aborted",
            Self::StepWaits { .. } => "step.waits",
            Self::StepEnded { .. } => "step.ended",
            Self::Milestone { .. } => "milestone",
            Self::RepairBegun { .. } => "repair.begun",
            Self::RepairEnded { .. } => "repair.ended",
            Self::CancelRequested { .. } => "run.cancel-requested",
            Self::RunEnded { .. } => "run.ended",
            Self::CallAudited { .. } => "call.audited",
            Self::JournalDegraded { .. } => "journal.degraded",
            Self::JournalRestored => "journal.restored",
            Self::HostGoesDown { .. } => "host.goes-down",
            Self::HostStays => "host.stays",
            Self::ClockJumped { .. } => "clock.jumped",
        }
    }

    /// The run it belongs to.
    pub fn run(&self) -> Option<&RunId> {
        match self {
            Self::RunAdmitted { run, .. }
            | Self::RunRaised { run, .. }
            | Self::RunLowered { run, .. }
            | Self::LimitsCut { run, .. }
            | Self::Claimed { run, .. }
            | Self::Released { run, .. }
            | Self::LeaseRenewed { run, .. }
            | Self::LeaseMarked { run, .. }
            | Self::Collected { run, .. }
            | Self::FarewellOrdered { run, .. }
            | Self::RunHeld { run, .. }
            | Self::RunReleased { run }
            | Self::StepStarted { run, .. }
            | Self::StepAborted { run, .. }
            | Self::StepWaits { run, .. }
            | Self::StepEnded { run, .. }
            | Self::Milestone { run, .. }
            | Self::RepairBegun { run, .. }
            | Self::RepairEnded { run, .. }
            | Self::CancelRequested { run, .. }
            | Self::RunEnded { run, .. } => Some(run),
            Self::DaemonStarted { .. }
            | Self::DaemonStopping
            | Self::DaemonStopped
            | Self::SettingsAdopted { .. }
            | Self::SettingsRejected { .. }
            | Self::UpsChanged { .. }
            | Self::FsdLatched { .. }
            | Self::DomainChanged { .. }
            | Self::TriggerDecided { .. }
            | Self::TriggerCleared { .. }
            | Self::CallAudited { .. }
            | Self::StartupWanted { .. }
            | Self::Prepared { .. }
            | Self::StartupSettled { .. }
            | Self::Armed { .. }
            | Self::Disarmed { .. }
            | Self::JournalDegraded { .. }
            | Self::JournalRestored
            | Self::HostGoesDown { .. }
            | Self::HostStays
            | Self::ClockJumped { .. } => None,
        }
    }

    /// The step it belongs to.
    pub fn step(&self) -> Option<&StepId> {
        match self {
            Self::StepStarted { step, .. }
            | Self::StepAborted { step, .. }
            | Self::StepWaits { step, .. }
            | Self::StepEnded { step, .. }
            | Self::Milestone { step, .. }
            | Self::RepairBegun { step, .. }
            | Self::RepairEnded { step, .. } => Some(step),
            _ => None,
        }
    }

    /// Its stored form.
    ///
    /// # Errors
    /// A path that is not UTF-8 cannot be stored.
    pub fn record(&self) -> Result<Record, serde_json::Error> {
        let payload = serde_json::to_string(self)?;
        Ok(Record { kind: self.kind().to_owned(), version: Self::VERSION, run: self.run().cloned(), payload })
    }

    /// Whether this metis can read facts of that kind and version; a journal with others is not written to.
    pub fn understands(kind: &str, version: u16) -> bool {
        version <= Self::VERSION && KINDS.contains(&kind)
    }

    /// Reads a stored fact of this or an earlier version.
    pub fn decode(kind: &str, version: u16, payload: &str) -> Result<Self, DecodeError> {
        if version > Self::VERSION {
            return Err(DecodeError::Newer { kind: kind.to_owned(), version });
        }
        serde_json::from_str(payload).map_err(|source| DecodeError::Malformed { kind: kind.to_owned(), source })
    }
}

/// Why a stored fact could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer metis.
    #[error("fact {kind} has version {version}, and this metis knows up to {known}: install the newer metis again", known = Fact::VERSION)]
    Newer {
        /// Its kind.
        kind: String,
        /// Its version.
        version: u16,
    },
    /// Not what any metis wrote.
    #[error("fact {kind} cannot be read: {source}")]
    Malformed {
        /// Its kind.
        kind: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}
