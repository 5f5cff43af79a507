//! What an event means: facts to record and orders to carry out. Pure and total.

use std::collections::BTreeSet;
use std::time::Duration;

use super::draft::Draft;
use super::{Event, Fact, Reply, Request, State, comeback, outage, recover, repair, request};
use crate::runbook::{Mode, settle};
use crate::site::{DomainName, NodeName, Now, OnTrigger, RunId, StepId, UpsName, Verdict};

/// What was decided. The facts are recorded and applied, then the orders are carried out, then the reply is sent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// To be recorded, in this order.
    pub facts: Vec<Fact>,
    /// To be carried out after that.
    pub orders: Vec<Order>,
    /// To the caller; present for every [`Event::Asked`].
    pub reply: Option<Reply>,
}

/// What the mailbox carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Begin an attempt.
    Start {
        /// Of this run.
        run: RunId,
        /// Of this step.
        step: StepId,
        /// What it is asked for.
        mode: Mode,
        /// Its serial number.
        attempt: u32,
        /// Boot time at which it is told to end.
        deadline: Duration,
    },
    /// Tell the attempt under way to end.
    Abort {
        /// Of this run.
        run: RunId,
        /// Of this step.
        step: StepId,
    },
    /// Send [`Event::TimerFired`] at this boot time at the latest.
    Timer {
        /// Boot time.
        at: Duration,
    },
    /// Report a run that has ended.
    Ended {
        /// Which.
        run: RunId,
    },
    /// Plan a shutdown and ask for it.
    PlanShutdown {
        /// For these domains.
        domains: BTreeSet<DomainName>,
        /// Why, for people.
        because: String,
        /// What becomes of the hosts.
        mode: OnTrigger,
        /// Runtime that was left, where it was known.
        runtime: Option<Duration>,
    },
    /// Plan a start-up and ask for it.
    PlanStartup {
        /// Why, for people.
        because: String,
    },
    /// Power this host off: the run in whose plan that stands is recorded as ended.
    PowerOffThisHost {
        /// Which run.
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
    /// End the loop.
    Stop,
}

/// Decides. The same state, event and moment always give the same decision.
pub fn decide(state: &State, event: &Event, now: &Now) -> Decision {
    let mut draft = Draft::new(state, now);
    let reply = meaning(&mut draft, event);
    draft.advance();
    comeback::consider(&mut draft);
    draft.finish(reply)
}

fn meaning(draft: &mut Draft<'_>, event: &Event) -> Option<Reply> {
    match event {
        Event::Recovered { version, settings, rejected } => recover::recover(draft, version, settings, rejected),
        Event::SettingsAdopted(settings) => draft.add(Fact::SettingsAdopted { settings: settings.clone() }),
        Event::SettingsRejected { errors } => draft.add(Fact::SettingsRejected { errors: errors.clone() }),
        Event::UpsVerdict { ups, verdict, reason } => judge_ups(draft, ups, *verdict, reason),
        Event::FsdLatched { ups } => draft.add(Fact::FsdLatched { ups: ups.clone() }),
        Event::DomainVerdict { domain, verdict, reason } => judge_domain(draft, domain, *verdict, reason),
        Event::Trigger { domain, because, budget, runtime } => outage::trigger(draft, domain, because, *budget, *runtime),
        Event::Runtime { left } => outage::runtime(draft, left),
        Event::Charge { domain, percent, budget, runtime } => outage::charge(draft, domain, *percent, *budget, *runtime),
        Event::TriggerGone { domain, because } => outage::clear_trigger(draft, domain, because),
        Event::StepFinished { run, step, attempt, result } => {
            let settled = draft.state.run(run).and_then(|record| settle(&record.run, step, *attempt, result, draft.now));
            if let Some((status, detail)) = settled {
                draft.settle(run, step, status, detail);
            }
        }
        Event::Milestone { run, step, message } => milestone(draft, run, step, message),
        Event::TimerFired => {}
        Event::JournalFailed { reason } => {
            if draft.state.journal_trouble.is_none() {
                draft.add(Fact::JournalDegraded { reason: reason.clone() });
            }
        }
        Event::JournalRestored => {
            if draft.state.journal_trouble.is_some() {
                draft.add(Fact::JournalRestored);
            }
        }
        Event::ClockJumped { seconds } => draft.add(Fact::ClockJumped { seconds: *seconds }),
        Event::Asked(Request::Admit { requester, runbook, cause, within }) => {
            return Some(request::admit(draft, requester, runbook, cause, *within));
        }
        Event::Asked(Request::Claim { run, step, claims }) => return Some(request::claim(draft, run, step, claims)),
        Event::Asked(Request::Release { run, objects, because }) => {
            draft.add(Fact::Released { run: run.clone(), objects: objects.clone(), because: because.clone() });
            return Some(Reply::Noted);
        }
        Event::Asked(Request::Renew { requester, object, expires }) => return Some(request::renew(draft, requester, object, *expires)),
        Event::Asked(Request::MarkLease { object, because }) => return Some(request::mark_lease(draft, object, because)),
        Event::Asked(Request::Adopt { run, step, claim }) => {
            draft.add(Fact::Claimed { run: run.clone(), step: step.clone(), claims: vec![claim.clone()] });
            return Some(Reply::Noted);
        }
        Event::Asked(Request::BeginRepair { run, step, case }) => return Some(repair::begin(draft, run, step, case)),
        Event::Asked(Request::EndRepair { run, step, case, end }) => return Some(repair::end(draft, run, step, case, end)),
        Event::Asked(Request::Collected { run, blob }) => {
            draft.add(Fact::Collected { run: run.clone(), blob: blob.clone() });
            return Some(Reply::Noted);
        }
        Event::Asked(Request::Farewell { run, trouble }) => {
            draft.add(Fact::FarewellOrdered { run: run.clone(), trouble: trouble.clone() });
            return Some(Reply::Noted);
        }
        Event::Asked(Request::Prepared(prepared)) => {
            draft.add(Fact::Prepared { prepared: prepared.clone() });
            return Some(Reply::Noted);
        }
        Event::Asked(Request::Settle { because }) => {
            if draft.state.startup_wanted.is_some() {
                draft.add(Fact::StartupSettled { because: because.clone() });
            }
            return Some(Reply::Noted);
        }
        Event::Asked(Request::Arm { requester, mode }) => return Some(request::arm(draft, requester, *mode)),
        Event::Asked(Request::Disarm { requester }) => {
            if draft.state.armed.is_some() {
                draft.add(Fact::Disarmed { requester: requester.clone() });
            }
            return Some(Reply::Noted);
        }
        Event::Asked(Request::Cancel { requester, run, execute }) => return Some(request::cancel(draft, requester, run, *execute)),
        Event::Asked(Request::ThisHost { goes_down }) => {
            recover::this_host(draft, *goes_down);
            return Some(Reply::Noted);
        }
        Event::Asked(Request::Audit(audit)) => {
            draft.add(Fact::CallAudited { audit: audit.clone() });
            return Some(Reply::Noted);
        }
        Event::Asked(Request::Stop) => return Some(request::stop(draft)),
    }
    None
}

/// Only a change is a fact: a restarted daemon hears again what is known already.
fn judge_ups(draft: &mut Draft<'_>, ups: &UpsName, to: Verdict, reason: &str) {
    let from = draft.state.upses.get(ups).map_or(Verdict::Unknown, |belief| belief.verdict);
    if from != to {
        draft.add(Fact::UpsChanged { ups: ups.clone(), from, to, reason: reason.to_owned() });
    }
}

fn judge_domain(draft: &mut Draft<'_>, domain: &DomainName, to: Verdict, reason: &str) {
    let from = draft.state.domains.get(domain).map_or(Verdict::Unknown, |belief| belief.verdict);
    if from != to {
        draft.add(Fact::DomainChanged { domain: domain.clone(), from, to, reason: reason.to_owned() });
    }
    let since = draft.state.life.as_ref().map(|life| life.started);
    let of_earlier_life = draft.state.triggers.get(domain).is_some_and(|trigger| trigger.cleared.is_none() && Some(trigger.at) < since);
    if to == Verdict::Online && of_earlier_life {
        outage::clear_trigger(draft, domain, "the mains are back; the trigger was decided before metisd was restarted");
    }
    if to == Verdict::Online && outage::by_charge(&draft.state, domain) {
        outage::clear_trigger(draft, domain, "the mains are back");
    }
    if to == Verdict::Online {
        outage::undo_where_mains_are_back(draft);
    }
}

fn milestone(draft: &mut Draft<'_>, run: &RunId, step: &StepId, message: &str) {
    let under_way = draft.state.run(run).is_some_and(|record| record.run.outcome.is_none() && record.run.status(step).in_progress());
    if under_way {
        draft.add(Fact::Milestone { run: run.clone(), step: step.clone(), message: message.to_owned() });
    }
}
