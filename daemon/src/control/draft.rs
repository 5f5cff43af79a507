//! A decision in the making: facts are applied to a copy as they are decided, so that the next question is asked of the state to come.

use super::decide::Order;
use super::recover::left_behind;
use super::takeover::{Kind, OnStop, needs_journal, on_stop};
use super::{Decision, Fact, Reply, RunRecord, Stamp, State, apply, outage};
use crate::runbook::{self, Status, StepState};
use crate::site::{Now, RunId, Step, StepId};

/// See the module.
pub(super) struct Draft<'a> {
    pub now: &'a Now,
    /// The state with all facts of the draft applied.
    pub state: State,
    facts: Vec<Fact>,
    orders: Vec<Order>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(state: &State, now: &'a Now) -> Self {
        Self { now, state: state.clone(), facts: Vec::new(), orders: Vec::new() }
    }

    /// Decides a fact.
    pub(super) fn add(&mut self, fact: Fact) {
        let stamp = Stamp { seq: self.state.last_seq.saturating_add(1), now: self.now.clone() };
        apply(&mut self.state, &fact, &stamp);
        self.facts.push(fact);
    }

    /// Decides on something to be carried out.
    pub(super) fn order(&mut self, order: Order) {
        self.orders.push(order);
    }

    /// Decides where a step goes.
    pub(super) fn settle(&mut self, run: &RunId, step: &StepId, status: Status, detail: String) {
        let (run, step) = (run.clone(), step.clone());
        self.add(match status {
            Status::Waiting { until, then } => Fact::StepWaits { run, step, until, then, detail },
            status => Fact::StepEnded { run, step, status, detail },
        });
    }

    /// Takes every run that has not ended as far as it goes by itself, and the daemon's stop.
    pub(super) fn advance(&mut self) {
        let active: Vec<RunId> = self.state.active().map(|record| record.id.clone()).collect();
        for run in active {
            self.hold_or_release(&run);
            while self.advance_once(&run) {}
        }
        let waits_for = |record: &RunRecord| Kind::of(&record.run.book.kind).is_none_or(|kind| on_stop(kind) == OnStop::Cancel);
        let stopped = self.state.life.as_ref().is_some_and(|life| life.stopped);
        if self.state.stopping() && !stopped && !self.state.active().any(|record| waits_for(record)) {
            self.add(Fact::DaemonStopped);
            self.orders.push(Order::Stop);
        }
    }

    /// The one place that says why a run may not start anything new.
    fn hold_or_release(&mut self, id: &RunId) {
        let Some(record) = self.state.run(id) else { return };
        let kind = Kind::of(&record.run.book.kind);
        let because = match &self.state.journal_trouble {
            _ if self.state.stopping() && kind.is_some_and(|kind| on_stop(kind) == OnStop::Leave) => {
                Some("metisd is stopping; the next one goes on".to_owned())
            }
            Some(trouble) if kind.is_some_and(needs_journal) => Some(format!("until facts reach the disk again: {trouble}")),
            _ => outage::holds_startup(&self.state, record),
        };
        match (&record.run.hold, because) {
            (None, Some(because)) => self.add(Fact::RunHeld { run: id.clone(), because }),
            (Some(_), None) => self.add(Fact::RunReleased { run: id.clone() }),
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    /// Whether anything but the passing of time was ordered.
    fn advance_once(&mut self, id: &RunId) -> bool {
        let orders = self.state.run(id).map(|record| runbook::next(&record.run, self.now)).unwrap_or_default();
        let waits = orders.iter().all(|order| matches!(order, runbook::Order::Timer { .. }));
        for order in orders {
            self.take(id, order, waits);
        }
        !waits
    }

    fn take(&mut self, id: &RunId, order: runbook::Order, waits: bool) {
        let run = id.clone();
        match order {
            // Nobody would be left to record it: it is done once the run is recorded as ended.
            runbook::Order::Start { step, .. } if self.is_farewell(id, &step) => {
                self.settle(&run, &step, Status::Done, "ordered once this run is recorded".to_owned());
            }
            runbook::Order::Start { step, mode, attempt, deadline } => {
                self.add(Fact::StepStarted { run: run.clone(), step: step.clone(), mode, attempt, deadline });
                self.orders.push(Order::Start { run, step, mode, attempt, deadline });
            }
            runbook::Order::Abort { step, because } => {
                self.add(Fact::StepAborted { run: run.clone(), step: step.clone(), because });
                self.orders.push(Order::Abort { run, step });
            }
            runbook::Order::Settle { step, status, detail } => self.settle(&run, &step, status, detail),
            runbook::Order::Finish { outcome, mut reason } => {
                if let Some(left) = self.state.run(id).filter(|record| abandoned(record)).and_then(|record| left_behind(record)) {
                    reason = format!("{reason}; {left}");
                }
                self.add(Fact::RunEnded { run: run.clone(), outcome, reason });
                self.orders.push(Order::Ended { run });
                self.farewell(id);
                self.withdraw_outlets(id);
                outage::want_shutdown(self);
            }
            runbook::Order::Timer { at } if waits => self.orders.push(Order::Timer { at }),
            // Asked for again once the other orders were taken.
            runbook::Order::Timer { .. } => {}
        }
    }

    fn is_farewell(&self, id: &RunId, step: &StepId) -> bool {
        let planned = self.state.run(id).and_then(|record| record.run.book.step(step));
        planned.is_some_and(|planned| matches!(planned.action, Step::PowerOffThisHost { .. }))
    }

    /// This host's own power-off, where the run's plan came to it.
    pub(super) fn farewell(&mut self, id: &RunId) {
        let Some(record) = self.state.run(id) else { return };
        let last = record.run.book.steps().find_map(|step| match &step.action {
            Step::PowerOffThisHost { node, delay } if record.run.status(&step.id) == Status::Done => Some((node.clone(), *delay)),
            _ => None,
        });
        if let Some((node, delay)) = last {
            self.orders.push(Order::PowerOffThisHost { run: id.clone(), node, delay });
        }
    }

    /// The shutdown hook is not left with a word of a run that ended without this host's power-off: it would cut the outlets at the next one.
    pub(super) fn withdraw_outlets(&mut self, id: &RunId) {
        let Some(run) = self.state.run(id).map(|record| &record.run) else { return };
        let has = |wanted: fn(&Step) -> bool, is: fn(&StepState) -> bool| {
            run.book.steps().filter(|step| wanted(&step.action)).any(|step| run.state(&step.id).is_some_and(is))
        };
        let told = has(|step| matches!(step, Step::CutOutlets { .. }), |state| state.started.is_some());
        let goes = has(|step| matches!(step, Step::PowerOffThisHost { .. }), |state| state.status == Status::Done);
        if told && !goes {
            self.orders.push(Order::WithdrawOutlets { run: id.clone() });
        }
    }

    /// Reports a run that was closed without its runner.
    pub(super) fn report(&mut self, run: &RunId) {
        self.orders.push(Order::Ended { run: run.clone() });
    }

    pub(super) fn finish(self, reply: Option<Reply>) -> Decision {
        Decision { facts: self.facts, orders: self.orders, reply }
    }
}

/// Whether a step was given up without a word: nobody else says in which state its work is.
fn abandoned(record: &RunRecord) -> bool {
    record.run.book.steps().any(|step| record.run.status(&step.id) == Status::Abandoned)
}
