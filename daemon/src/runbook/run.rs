//! A runbook in execution: its steps' states, and the changes that facts make to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Mode, Outcome, Phase, PlannedStep, Runbook, Status};
use crate::site::StepId;

/// An immutable runbook and how far it has come. Only the methods of this file change it, and they take what was decided, not why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run<S> {
    /// The plan.
    pub book: Runbook<S>,
    /// State by step.
    pub states: BTreeMap<StepId, StepState>,
    /// Limits as re-cut ([`super::cut()`]), of ended steps the last they had; a step that is not listed has its own.
    pub limits: BTreeMap<StepId, Duration>,
    /// Why it is being cancelled.
    pub cancel: Option<String>,
    /// Set while nothing new may start.
    pub hold: Option<Hold>,
    /// Set once it has ended.
    pub outcome: Option<Outcome>,
    /// Boot time at which it has to have ended; [`super::cut()`] keeps it.
    #[serde(default)]
    pub deadline: Option<Duration>,
}

/// Nothing new is started; what runs goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Why, and what ends it.
    pub because: String,
}

/// How one step stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    /// Where it is.
    pub status: Status,
    /// Attempts so far, probes and remedies included.
    pub attempts: u32,
    /// Times it was told to act.
    pub acts: u32,
    /// Probes in a row that could not tell; not counted in gates.
    pub unclear: u32,
    /// Remedies used.
    pub remedies: u32,
    /// Boot time since which patience counts.
    pub patient_since: Duration,
    /// Boot time at which it is ended; set when it begins.
    pub deadline: Option<Duration>,
    /// Boot time at which it was told to end, and why.
    pub aborting: Option<(Duration, String)>,
    /// When it began.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// The newest message of it, for people.
    pub detail: String,
    /// What was worth telling while it ran, oldest first; at most [`MILESTONES_KEPT`].
    #[serde(default)]
    pub milestones: Vec<String>,
}

/// Milestones of a step that are kept.
pub const MILESTONES_KEPT: usize = 64;

impl Default for StepState {
    fn default() -> Self {
        Self {
            status: Status::Pending,
            attempts: 0,
            acts: 0,
            unclear: 0,
            remedies: 0,
            patient_since: Duration::ZERO,
            deadline: None,
            aborting: None,
            started: None,
            ended: None,
            detail: String::new(),
            milestones: Vec::new(),
        }
    }
}

impl<S> Run<S> {
    /// A run of that plan, nothing begun. Of two steps with one id only the first is ever performed.
    pub fn new(book: Runbook<S>) -> Self {
        let states = book.steps().map(|step| (step.id.clone(), StepState::default())).collect();
        Self { book, states, limits: BTreeMap::new(), cancel: None, hold: None, outcome: None, deadline: None }
    }

    /// The state of a step.
    pub fn state(&self, step: &StepId) -> Option<&StepState> {
        self.states.get(step)
    }

    /// Where a step is; one that is not in the plan was skipped.
    pub fn status(&self, step: &StepId) -> Status {
        self.states.get(step).map_or(Status::Skipped, |state| state.status)
    }

    /// The first phase that has not ended; while the run is undone, the one that is still in progress, then the first of those that undo it.
    pub fn phase(&self) -> Option<&Phase<S>> {
        let unended = |phase: &&Phase<S>| phase.steps.iter().any(|step| !self.status(&step.id).ended());
        if !self.unwinding() {
            return self.book.phases.iter().find(unended);
        }
        let busy = |phase: &&Phase<S>| phase.steps.iter().any(|step| self.status(&step.id).in_progress());
        self.book.phases.iter().find(busy).or_else(|| self.book.unwind.iter().find(unended))
    }

    /// Whether the point of no return has been passed: a step that commits has begun.
    pub fn committed(&self) -> bool {
        let steps = self.book.phases.iter().flat_map(|phase| phase.steps.iter());
        steps.filter(|step| step.commits).any(|step| self.begun(step))
    }

    /// Whether it is being undone: cancelled after something had begun, and before the point of no return.
    pub fn unwinding(&self) -> bool {
        let steps = || self.book.phases.iter().flat_map(|phase| phase.steps.iter());
        self.cancel.is_some() && !self.book.unwind.is_empty() && !self.committed() && steps().any(|step| self.begun(step))
    }

    fn begun(&self, step: &PlannedStep<S>) -> bool {
        self.state(&step.id).is_some_and(|state| state.started.is_some())
    }

    /// Steps with an attempt under way.
    pub fn running(&self) -> impl Iterator<Item = &PlannedStep<S>> {
        self.book.steps().filter(|step| matches!(self.status(&step.id), Status::Running { .. }))
    }

    /// How long a step may take.
    pub fn limit(&self, step: &PlannedStep<S>) -> Duration {
        self.limits.get(&step.id).copied().unwrap_or(step.limit.ceiling).min(step.limit.ceiling)
    }

    /// Whether the newest cut left no time for it.
    pub fn shed(&self, step: &PlannedStep<S>) -> bool {
        self.limits.get(&step.id).is_some_and(Duration::is_zero)
    }

    /// An attempt begins.
    pub fn started(&mut self, step: &StepId, mode: Mode, attempt: u32, deadline: Duration, boot: Duration, at: Timestamp) {
        let Some(state) = self.states.get_mut(step) else { return };
        state.status = Status::Running { mode, attempt };
        state.attempts = attempt;
        match mode {
            Mode::Probe => {}
            Mode::Act => state.acts = state.acts.saturating_add(1),
            Mode::Remedy(index) => state.remedies = index.saturating_add(1),
        }
        if state.started.is_none() {
            state.started = Some(at);
            state.patient_since = boot;
        }
        state.deadline = Some(deadline);
    }

    /// The attempt under way was told to end.
    pub fn aborting(&mut self, step: &StepId, because: &str, boot: Duration) {
        if let Some(state) = self.states.get_mut(step) {
            state.aborting.get_or_insert_with(|| (boot, because.to_owned()));
        }
    }

    /// An attempt, or the whole step, came to `status`.
    pub fn settled(&mut self, step: &StepId, status: Status, detail: &str, boot: Duration, at: Timestamp) {
        let Some(state) = self.states.get_mut(step) else { return };
        match (state.status, status) {
            (Status::Running { mode: Mode::Remedy(_), .. }, _) => state.patient_since = boot,
            (Status::Running { mode: Mode::Probe, .. }, Status::Waiting { then: Mode::Probe, .. }) => {
                state.unclear = state.unclear.saturating_add(1);
            }
            _ => state.unclear = 0,
        }
        if !detail.is_empty() {
            detail.clone_into(&mut state.detail);
        }
        state.status = status;
        if status.ended() {
            state.ended = Some(at);
        }
    }

    /// Something worth telling happened in a step.
    pub fn milestone(&mut self, step: &StepId, message: &str) {
        if let Some(state) = self.states.get_mut(step) {
            message.clone_into(&mut state.detail);
            if state.milestones.len() < MILESTONES_KEPT {
                state.milestones.push(message.to_owned());
            }
        }
    }

    /// Somebody wants it to end. Past the point of no return that changes nothing.
    pub fn cancelled(&mut self, because: &str) {
        if !self.committed() {
            self.cancel.get_or_insert_with(|| because.to_owned());
        }
    }

    /// Limits were cut anew: steps in progress end earlier where needed, never later.
    pub fn recut(&mut self, limits: BTreeMap<StepId, Duration>, boot: Duration) {
        for (id, limit) in &limits {
            if let Some(StepState { deadline: Some(deadline), .. }) = self.states.get_mut(id) {
                *deadline = (*deadline).min(boot.saturating_add(*limit));
            }
        }
        self.limits.extend(limits);
    }

    /// Its plan was joined with another: what is in both goes on where it stands, what is new has not begun.
    pub fn joined(&mut self, book: Runbook<S>) {
        self.states.retain(|id, _| book.step(id).is_some());
        for step in book.steps() {
            self.states.entry(step.id.clone()).or_default();
        }
        self.limits.retain(|id, _| book.step(id).is_some());
        self.book = book;
    }

    /// These of its steps are not wanted any more, and it need not hurry; those of them that have begun go on.
    pub fn withdrawn(&mut self, steps: &BTreeSet<StepId>, title: &str) {
        let unbegun: BTreeSet<StepId> = steps.iter().filter(|id| self.status(id) == Status::Pending).cloned().collect();
        for phase in &mut self.book.phases {
            phase.steps.retain(|step| !unbegun.contains(&step.id));
        }
        self.book.phases.retain(|phase| !phase.steps.is_empty());
        self.states.retain(|id, _| !unbegun.contains(id));
        title.clone_into(&mut self.book.title);
        self.deadline = None;
        let states = &self.states;
        self.limits.retain(|id, _| states.get(id).is_some_and(|state| state.status.ended()));
    }

    /// It has ended; what had not begun never will.
    pub fn finished(&mut self, outcome: Outcome) {
        for state in self.states.values_mut().filter(|state| state.status == Status::Pending) {
            state.status = Status::Skipped;
        }
        self.outcome.get_or_insert(outcome);
    }
}
