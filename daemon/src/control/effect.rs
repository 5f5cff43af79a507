//! What leaves the mailbox: work to be performed, and word of what ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::RunRecord;
use crate::runbook::Mode;
use crate::site::{DomainName, NodeName, OnTrigger, Progress, RunId, SettingsDigest, Step, StepId};

/// What the composition root has to do. It is sent after the facts behind it were recorded.
#[derive(Debug)]
pub enum Effect {
    /// Perform an attempt and send [`super::Event::StepFinished`] when it has ended, whatever became of it.
    Perform(Box<Job>),
    /// A run has ended: report it.
    Ended(Arc<RunRecord>),
    /// Plan a shutdown for these domains and ask for it, again and again until it is admitted or nobody wants it any more.
    PlanShutdown {
        /// Domains that are about to lose power.
        domains: BTreeSet<DomainName>,
        /// Why, for people.
        because: String,
        /// What becomes of the hosts.
        mode: OnTrigger,
        /// Runtime that was left, where it was known.
        runtime: Option<Duration>,
    },
    /// Plan a start-up and ask for it, again and again until it is admitted or nobody wants it any more.
    PlanStartup {
        /// Why, for people.
        because: String,
    },
    /// The run is recorded: power this host off.
    PowerOffThisHost {
        /// At the end of this run.
        run: RunId,
        /// This host.
        node: NodeName,
        /// Until it acts.
        delay: Duration,
    },
    /// Take back what this run told the shutdown hook: this host stays on.
    WithdrawOutlets {
        /// Which run.
        run: RunId,
    },
}

/// One attempt at a step.
#[derive(Debug)]
pub struct Job {
    /// Of this run.
    pub run: RunId,
    /// Which step.
    pub step: StepId,
    /// Serial number, to be handed back.
    pub attempt: u32,
    /// Look, or do. A remedy's action is in `action` and is to be done.
    pub mode: Mode,
    /// What.
    pub action: Step,
    /// Boot time at which `cancel` fires; it may come nearer.
    pub deadline: watch::Receiver<Duration>,
    /// Settings to which the run is pinned.
    pub settings: SettingsDigest,
    /// Fires when the attempt has to end.
    pub cancel: CancellationToken,
    /// For byte progress.
    pub progress: ProgressSink,
}

/// How far a run's step has come. Volatile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepProgress {
    /// Which step.
    pub step: StepId,
    /// How far.
    pub progress: Progress,
}

/// Where a step tells how far it has come; each word replaces the one before.
#[derive(Debug, Clone)]
pub struct ProgressSink {
    step: StepId,
    to: watch::Sender<Option<StepProgress>>,
}

impl ProgressSink {
    /// A sink for one step; `to` is the run's channel.
    pub fn new(step: StepId, to: watch::Sender<Option<StepProgress>>) -> Self {
        Self { step, to }
    }

    /// Tells it. Never blocks.
    pub fn report(&self, progress: Progress) {
        self.to.send_replace(Some(StepProgress { step: self.step.clone(), progress }));
    }
}
