//! What is to be done, and the words for how it went.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ABORT_GRACE, Retry};
use crate::site::{Guard, StepId};

/// A plan: what a dry run prints, a rehearsal simulates and an execution performs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Runbook<S> {
    /// What it does, e.g. `burn`; the first half of a run's id.
    pub kind: String,
    /// One line for people.
    pub title: String,
    /// Phases, one after the other.
    pub phases: Vec<Phase<S>>,
    /// What a person should know first; none of it blocks.
    pub warnings: Vec<String>,
    /// Guards that refuse the execution, all of them at once.
    pub refusals: Vec<Guard>,
    /// What undoes it where it is cancelled before a step that [commits](PlannedStep::commits) has begun; phases, one after the other.
    #[serde(default = "Vec::new")]
    pub unwind: Vec<Phase<S>>,
    /// How long an attempt that was told to end is waited for.
    #[serde(default = "default_grace")]
    pub abort_grace: Duration,
    /// What it has set in motion goes on for so long after its last step; a deadline leaves room for it.
    #[serde(default)]
    pub tail: Duration,
}

/// Runs of before it could be chosen.
fn default_grace() -> Duration {
    ABORT_GRACE
}

impl<S> Runbook<S> {
    /// A plan that nothing is to be undone of.
    pub fn new(kind: impl Into<String>, title: impl Into<String>, phases: Vec<Phase<S>>) -> Self {
        Self {
            kind: kind.into(),
            title: title.into(),
            phases,
            warnings: Vec::new(),
            refusals: Vec::new(),
            unwind: Vec::new(),
            abort_grace: ABORT_GRACE,
            tail: Duration::ZERO,
        }
    }

    /// All steps in order, those that undo it last.
    pub fn steps(&self) -> impl Iterator<Item = &PlannedStep<S>> {
        self.phases.iter().chain(&self.unwind).flat_map(|phase| phase.steps.iter())
    }

    /// The step of that name.
    pub fn step(&self, id: &StepId) -> Option<&PlannedStep<S>> {
        self.steps().find(|step| step.id == *id)
    }

    /// How long it is expected to take: phases in turn, each as its concurrency allows.
    pub fn predicted(&self) -> Duration {
        self.phases.iter().map(Phase::predicted).fold(Duration::ZERO, Duration::saturating_add)
    }

    /// How long until all that it sets in motion is expected to be over.
    pub fn needed(&self) -> Duration {
        self.predicted().saturating_add(self.tail)
    }
}

/// Steps that may run side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase<S> {
    /// Its name for people.
    pub name: String,
    /// How many of its steps may be in progress at once; 0 counts as 1.
    pub concurrency: u32,
    /// The steps, started in this order.
    pub steps: Vec<PlannedStep<S>>,
}

impl<S> Phase<S> {
    /// A phase whose steps run one after the other.
    pub fn serial(name: impl Into<String>, steps: Vec<PlannedStep<S>>) -> Self {
        Self { name: name.into(), concurrency: 1, steps }
    }

    /// [`Phase::concurrency`], at least 1.
    pub fn width(&self) -> usize {
        self.concurrency.max(1) as usize
    }

    /// Expected duration: each step is taken by the lane that is free first.
    pub fn predicted(&self) -> Duration {
        let mut lanes = vec![Duration::ZERO; self.width().min(self.steps.len().max(1))];
        for step in &self.steps {
            if let Some(lane) = lanes.iter_mut().min() {
                *lane = lane.saturating_add(step.predicted);
            }
        }
        lanes.into_iter().max().unwrap_or_default()
    }
}

/// One step of a plan. Immutable once the run is admitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep<S> {
    /// Unique within the runbook.
    pub id: StepId,
    /// One line for people.
    pub title: String,
    /// What is performed.
    pub action: S,
    /// How it is performed.
    pub form: Form<S>,
    /// How long it may take, all attempts together.
    pub limit: Limit,
    /// How long it is expected to take.
    pub predicted: Duration,
    /// What its failure does to the run.
    pub on_failure: OnFailure,
    /// What may be done with it when the daemon stopped while it ran.
    pub replay: Replay,
    /// The command that a person would type to do the same; empty where there is none.
    pub by_hand: String,
    /// How often it is tried.
    pub retry: Retry,
    /// Point of no return: once it has begun the run is not undone any more, it goes on to its end.
    #[serde(default)]
    pub commits: bool,
    /// It is given up where what it works on was not reached for so long ([`StepResult::Unreached`]); absent: only its limit ends it.
    #[serde(default)]
    pub unreached: Option<Duration>,
}

impl<S> PlannedStep<S> {
    /// A step that acts once, stops the run when it fails, and may be repeated; `within` bounds it.
    pub fn act(id: impl Into<StepId>, title: impl Into<String>, action: S, within: Duration) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            action,
            form: Form::Act,
            limit: Limit::within(within),
            predicted: Duration::ZERO,
            on_failure: OnFailure::Stop,
            replay: Replay::Idempotent,
            by_hand: String::new(),
            retry: Retry::ONCE,
            commits: false,
            unreached: None,
        }
    }
}

/// How a step is performed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "snake_case")]
pub enum Form<S> {
    /// The action is performed.
    Act,
    /// The action's state is probed first, and the action performed only where it is not so yet.
    Ensure,
    /// The action is a probe, repeated until it is ready.
    Gate {
        /// How long *not ready* is borne before the next remedy, and after the last one before the gate fails.
        patience: Duration,
        /// Pause between probes.
        every: Duration,
        /// Tried one after the other, and only on *not ready*, never on *cannot tell*.
        remedies: Vec<S>,
    },
}

impl<S> Form<S> {
    /// `act`, `ensure` or `gate`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Act => "act",
            Self::Ensure => "ensure",
            Self::Gate { .. } => "gate",
        }
    }
}

/// How long a step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Never longer than this.
    pub ceiling: Duration,
    /// Weight when the time that is left is shared out ([`super::cut()`]); 0: its time is reserved before any is shared out.
    pub share: u32,
}

impl Limit {
    /// A fixed limit.
    pub fn within(ceiling: Duration) -> Self {
        Self { ceiling, share: 0 }
    }
}

/// What the failure of a step does to its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Nothing more is started; the run fails.
    Stop,
    /// The run goes on and ends degraded.
    Continue,
}

/// What may be done with a step that ran while the daemon stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replay {
    /// It is performed again.
    Idempotent,
    /// It is probed, and performed again where it is not done.
    CheckFirst,
    /// It is performed once at most; its outcome is unknown.
    NeverRepeat,
}

impl Replay {
    /// `idempotent`, `check-first` or `never-repeat`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idempotent => "idempotent",
            Self::CheckFirst => "check-first",
            Self::NeverRepeat => "never-repeat",
        }
    }
}

/// What a step is asked to do when it is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Look whether it is so already; change nothing.
    Probe,
    /// Do it.
    Act,
    /// Perform this remedy of the gate (index).
    Remedy(u32),
}

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum StepResult {
    /// Done; a probe: it is as wanted.
    Done {
        /// What was done or seen, for people; may be empty.
        detail: String,
    },
    /// A probe: it is not as wanted.
    NotReady {
        /// What is missing.
        detail: String,
    },
    /// A probe: it could not be found out.
    CannotTell {
        /// Why not.
        detail: String,
    },
    /// It failed.
    Failed {
        /// What failed, on what, why, and what to do.
        detail: String,
        /// Another attempt cannot succeed.
        permanent: bool,
    },
    /// What it works on was not reached: nothing was done there.
    Unreached {
        /// What was tried, and what came of it.
        detail: String,
    },
    /// It was ended by its cancel token.
    Cancelled {
        /// In which state things were left.
        detail: String,
    },
}

impl StepResult {
    /// The text for people.
    pub fn detail(&self) -> &str {
        match self {
            Self::Done { detail }
            | Self::NotReady { detail }
            | Self::CannotTell { detail }
            | Self::Failed { detail, .. }
            | Self::Unreached { detail }
            | Self::Cancelled { detail } => detail,
        }
    }
}

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Not begun.
    Pending,
    /// An attempt is under way.
    Running {
        /// What it was asked for.
        mode: Mode,
        /// Serial number of the attempt, probes and remedies included.
        attempt: u32,
    },
    /// Between attempts.
    Waiting {
        /// Boot time of the next one.
        until: Duration,
        /// What it will be asked for.
        then: Mode,
    },
    /// Done, or found done.
    Done,
    /// Never begun, because the run ended before, or because no time was left for it.
    Skipped,
    /// Failed.
    Failed,
    /// Ended by a cancellation.
    Cancelled,
    /// Told to end and did not; nobody waits for it any more.
    Abandoned,
    /// The daemon stopped while it ran, and it must not be repeated.
    UnknownOutcome,
}

impl Status {
    /// Begun and not ended: it holds one of its phase's places.
    pub fn in_progress(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Waiting { .. })
    }

    /// Nothing more will happen to it.
    pub fn ended(&self) -> bool {
        !self.in_progress() && *self != Self::Pending
    }

    /// Ended, and not as planned.
    pub fn failed(&self) -> bool {
        matches!(self, Self::Failed | Self::Abandoned | Self::UnknownOutcome)
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All steps are done.
    Done,
    /// Done but for steps that may fail.
    Degraded,
    /// A step failed that must not.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// The host or the daemon stopped before it ended.
    Interrupted,
    /// It stopped at a step of which it is not known whether it was done.
    UnknownOutcome,
}

impl Outcome {
    /// `done`, `degraded`, `failed`, `cancelled`, `interrupted` or `unknown outcome`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::UnknownOutcome => "unknown outcome",
        }
    }
}
