//! What a fact does to the state. Pure and total: whatever is folded in whatever order, it ends in a state.

use std::sync::Arc;
use std::time::Duration;

use super::repair;
use super::takeover::Kind;
use super::{
    Belief, ClaimRecord, Fact, GoingDown, Life, PreparedRecord, RUNS_KEPT, Raised, RunRecord, SettingsState, Stamp, State, TriggerRecord,
};
use crate::power::budget::Learning;
use crate::runbook::{Hold, Run, Runbook, Status};
use crate::site::{Change, NodeName, ObjectRef, RunId, StepId};

/// Folds one fact in. A fact of a run that is not kept changes nothing but the counters.
pub fn apply(state: &mut State, fact: &Fact, stamp: &Stamp) {
    state.facts = state.facts.saturating_add(1);
    state.last_seq = state.last_seq.max(stamp.seq);
    match fact.run() {
        Some(run) => apply_to_runs(state, run, fact, stamp),
        None => apply_to_site(state, fact, stamp),
    }
}

fn apply_to_site(state: &mut State, fact: &Fact, stamp: &Stamp) {
    let at = stamp.now.wall;
    match fact {
        Fact::DaemonStarted { boot_id, version } => {
            let (boot_id, version) = (boot_id.clone(), version.clone());
            if state.going_down.as_ref().is_some_and(|going| going.boot_id != boot_id) {
                state.going_down = None;
            }
            state.life = Some(Life { boot_id, version, started: at, stopping: false, stopped: false });
        }
        Fact::DaemonStopping => state.life.iter_mut().for_each(|life| life.stopping = true),
        Fact::DaemonStopped => state.life.iter_mut().for_each(|life| life.stopped = true),
        Fact::SettingsAdopted { settings } => {
            state.settings = Some(SettingsState { adopted: settings.clone(), since: at, rejected: Vec::new() });
        }
        Fact::SettingsRejected { errors } => state.settings.iter_mut().for_each(|settings| settings.rejected.clone_from(errors)),
        Fact::UpsChanged { ups, to, reason, .. } => {
            state.upses.insert(ups.clone(), Belief { verdict: *to, since: at, reason: reason.clone() });
        }
        Fact::DomainChanged { domain, to, reason, .. } => {
            state.domains.insert(domain.clone(), Belief { verdict: *to, since: at, reason: reason.clone() });
        }
        Fact::TriggerDecided { domain, because, would_act, budget, runtime, in_startup } => {
            let (because, would_act, budget, runtime, in_startup) = (because.clone(), *would_act, *budget, *runtime, *in_startup);
            state.triggers.insert(domain.clone(), TriggerRecord { at, because, would_act, budget, runtime, in_startup, cleared: None });
        }
        Fact::TriggerCleared { domain, .. } => {
            if let Some(trigger) = state.triggers.get_mut(domain) {
                trigger.cleared.get_or_insert(at);
            }
        }
        Fact::HostGoesDown { by, .. } => {
            state.going_down = Some(GoingDown { at, boot_id: stamp.now.boot_id.clone(), by: by.clone() });
        }
        Fact::HostStays => state.going_down = None,
        Fact::StartupWanted { because } => state.startup_wanted = Some(because.clone()),
        Fact::Prepared { prepared } => state.prepared = Some(PreparedRecord { at, prepared: prepared.clone() }),
        Fact::StartupSettled { .. } => {
            state.startup_wanted = None;
            state.settled = super::comeback::newest(state).map(|record| record.id.clone());
        }
        Fact::Armed { mode, .. } => state.armed = Some(*mode),
        Fact::Disarmed { .. } => state.armed = None,
        Fact::JournalDegraded { reason } => state.journal_trouble = Some(reason.clone()),
        Fact::JournalRestored => state.journal_trouble = None,
        _ => {}
    }
}

fn apply_to_runs(state: &mut State, id: &RunId, fact: &Fact, stamp: &Stamp) {
    apply_to_claims(state, id, fact, stamp);
    if let Fact::RunAdmitted { runbook, requester, settings, boot_id, cause, deadline, .. } = fact {
        if matches!(Kind::of(&runbook.kind), Some(Kind::Shutdown | Kind::Startup)) {
            state.startup_wanted = None;
        }
        if state.run(id).is_none() {
            state.run_numbers = state.run_numbers.saturating_add(1).max(number(id));
            state.runs.push_back(Arc::new(RunRecord {
                id: id.clone(),
                run: Run { deadline: *deadline, ..Run::new(Runbook::clone(runbook)) },
                cause: cause.clone(),
                requester: requester.clone(),
                settings: settings.clone(),
                boot_id: boot_id.clone(),
                started: stamp.now.wall,
                ended: None,
                reason: String::new(),
                seq: stamp.seq,
                raised: Vec::new(),
                repairs: Vec::new(),
            }));
        }
    } else if let Some(record) = state.runs.iter_mut().find(|record| record.id == *id) {
        let record = Arc::make_mut(record);
        record.seq = stamp.seq;
        apply_to_run(record, fact, stamp);
        if let Fact::StepEnded { step, status, .. } = fact {
            learn(&mut state.learning, record, step, *status);
        }
    }
    forget_oldest(state);
}

fn apply_to_claims(state: &mut State, id: &RunId, fact: &Fact, stamp: &Stamp) {
    match fact {
        Fact::Claimed { step, claims, .. } => {
            for claim in claims {
                let same = |record: &ClaimRecord| record.claim.object == claim.object && record.claim.change == claim.change;
                // It was not so when it was claimed: what an earlier run did to it, others have undone.
                state.claims.retain(|record| !same(record) || record.run == *id);
                if !state.claims.iter().any(same) {
                    let (claim, run, step) = (claim.clone(), id.clone(), step.clone());
                    state.claims.push(ClaimRecord { claim, run, step, at: stamp.now.wall, marked: None });
                }
            }
        }
        Fact::Released { objects, .. } => state.claims.retain(|record| !objects.contains(&record.claim.object)),
        Fact::LeaseRenewed { object, expires, .. } => {
            for record in lease(state, object) {
                record.claim.expires = Some(*expires);
                record.marked = None;
            }
        }
        Fact::LeaseMarked { object, because, .. } => {
            for record in lease(state, object) {
                record.marked = Some(because.clone());
            }
        }
        Fact::Collected { blob, .. } => state.collected = Some((id.clone(), blob.clone())),
        Fact::FarewellOrdered { .. } => state.farewell = Some(id.clone()),
        _ => {}
    }
}

/// The cordon that is held on a node.
fn lease<'a>(state: &'a mut State, object: &'a ObjectRef) -> impl Iterator<Item = &'a mut ClaimRecord> {
    state.claims.iter_mut().filter(move |record| record.claim.object == *object && record.claim.change == Change::Cordoned)
}

fn apply_to_run(record: &mut RunRecord, fact: &Fact, stamp: &Stamp) {
    let (boot, at) = (stamp.now.boot, stamp.now.wall);
    let run = &mut record.run;
    match fact {
        Fact::RunHeld { because, .. } => run.hold = Some(Hold { because: because.clone() }),
        Fact::RunReleased { .. } => run.hold = None,
        Fact::StepStarted { step, mode, attempt, deadline, .. } => run.started(step, *mode, *attempt, *deadline, boot, at),
        Fact::StepAborted { step, because, .. } => run.aborting(step, because, boot),
        Fact::StepWaits { step, until, then, detail, .. } => {
            run.settled(step, Status::Waiting { until: *until, then: *then }, detail, boot, at);
        }
        Fact::StepEnded { step, status, detail, .. } => run.settled(step, *status, detail, boot, at),
        Fact::LimitsCut { deadline, limits, .. } => {
            run.deadline = Some(*deadline);
            run.recut(limits.clone(), boot);
        }
        Fact::RunRaised { runbook, requester, domains, .. } => {
            let added = runbook.steps().filter(|step| run.state(&step.id).is_none()).map(|step| step.id.clone()).collect();
            let before = run.book.title.clone();
            run.joined(Runbook::clone(runbook));
            let (requester, domains) = (requester.clone(), domains.clone());
            record.raised.push(Raised { at, requester, domains, added, before, lowered: None });
        }
        Fact::RunLowered { steps, title, .. } => {
            run.withdrawn(steps, title);
            for raised in &mut record.raised {
                raised.lowered.get_or_insert(at);
            }
        }
        Fact::Milestone { step, message, .. } => run.milestone(step, message),
        Fact::RepairBegun { step, .. } | Fact::RepairEnded { step, .. } => {
            run.milestone(step, &fact.message());
            repair::apply(&mut record.repairs, fact, at);
        }
        Fact::CancelRequested { because, .. } => run.cancelled(because),
        Fact::RunEnded { outcome, reason, .. } => {
            run.finished(*outcome);
            record.ended.get_or_insert(at);
            record.reason.clone_from(reason);
        }
        _ => {}
    }
}

/// A step of a shutdown that was done, or was ended by its limit, says how long the next one takes.
fn learn(learning: &mut Learning, record: &RunRecord, step: &StepId, status: Status) {
    if Kind::of(&record.run.book.kind) != Some(Kind::Shutdown) || record.run.cancel.is_some() {
        return;
    }
    let (Some(planned), Some(state)) = (record.run.book.step(step), record.run.state(step)) else { return };
    let (Some(started), Some(ended)) = (state.started, state.ended) else { return };
    let limited = matches!(status, Status::Failed | Status::Abandoned) && state.aborting.is_some();
    if status == Status::Done || limited {
        let took = Duration::try_from(ended.duration_since(started)).unwrap_or_default();
        learning.note(planned.action.kind(), planned.action.host().map_or("", NodeName::as_str), took);
    }
}

/// The number of a run's id; 0 where it has none.
fn number(id: &RunId) -> u64 {
    id.as_str().rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Drops the oldest ended runs beyond [`RUNS_KEPT`].
fn forget_oldest(state: &mut State) {
    while state.runs.len() > RUNS_KEPT {
        let Some(oldest) = state.runs.iter().position(|record| record.run.outcome.is_some()) else { return };
        state.runs.remove(oldest);
    }
}
