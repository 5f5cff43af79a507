//! What is decided on what callers ask.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::draft::Draft;
use super::recover::left_behind;
use super::takeover::{IMAGES_AT_ONCE, Kind, OnStop, Takeover, begins_on_a_host_that_goes_down, clash, needs_journal, on_stop, takeover};
use super::{ClaimRecord, Fact, Reply, RunRecord, State, outage};
use crate::cluster::shutdown;
use crate::runbook::{Runbook, Status};
use crate::site::{Cause, Change, Claim, Guard, ObjectRef, OnTrigger, RunId, SettingsDigest, Step, StepId};

/// So many steps that are not begun are named one by one.
const LISTED: usize = 5;

/// Admits a plan, or says everything that stands in its way.
pub(super) fn admit(draft: &mut Draft<'_>, requester: &str, book: &Runbook<Step>, cause: &Cause, within: Option<Duration>) -> Reply {
    let mut guards = book.refusals.clone();
    let (mut preempted, mut raised) = (Vec::new(), Vec::new());
    match Kind::of(&book.kind) {
        Some(kind) => {
            guards.extend(general(&draft.state, kind));
            for record in draft.state.active() {
                match against(kind, book, cause, record) {
                    Takeover::Beside => {}
                    Takeover::Preempts => preempted.push(record.id.clone()),
                    Takeover::Raises if raised.is_empty() => raised.push(record.id.clone()),
                    Takeover::Raises => guards.push(busy(record, "it stops some of the same hosts, and so does another one")),
                    Takeover::Refused(why) => guards.push(busy(record, why)),
                }
            }
        }
        None => guards.push(guard("run.kind", format!("metis has no runs of kind {:?}", book.kind))),
    }
    if let Some(twice) = book.steps().find(|step| book.steps().filter(|other| other.id == step.id).count() > 1) {
        guards.push(guard("run.steps", format!("the plan has two steps {}: this is a defect of metis, report it", twice.id)));
    }
    if !guards.is_empty() {
        return Reply::Refused { guards };
    }
    let next = || RunId::new(format!("{}-{}", book.kind, draft.state.run_numbers.saturating_add(1)));
    let run = raised.first().cloned().unwrap_or_else(next);
    for other in preempted {
        draft.add(Fact::CancelRequested { run: other, because: format!("pre-empted by {run}") });
    }
    let fact = match draft.state.run(&run) {
        Some(record) => raise(record, book, requester, cause),
        None => begin(draft, &run, book, requester, cause),
    };
    draft.add(fact);
    if let Some(left) = within {
        outage::recut(draft, &run, left);
    }
    Reply::Admitted { run }
}

fn begin(draft: &Draft<'_>, run: &RunId, book: &Runbook<Step>, requester: &str, cause: &Cause) -> Fact {
    let settings = draft.state.settings.as_ref().map_or_else(|| SettingsDigest::new(""), |settings| settings.adopted.digest.clone());
    let (runbook, requester, boot_id) = (Box::new(book.clone()), requester.to_owned(), draft.now.boot_id.clone());
    Fact::RunAdmitted { run: run.clone(), runbook, requester, settings, boot_id, cause: cause.clone(), deadline: None }
}

/// A shutdown that is under way does what the failing UPS wants as well.
fn raise(record: &RunRecord, book: &Runbook<Step>, requester: &str, cause: &Cause) -> Fact {
    let domains = match cause {
        Cause::Ups { domains } => domains.clone(),
        Cause::Person | Cause::PowerFailedAgain | Cause::Boot => BTreeSet::new(),
    };
    let runbook = Box::new(shutdown::join(&record.run, book));
    Fact::RunRaised { run: record.id.clone(), runbook, requester: requester.to_owned(), domains }
}

/// Records what a step is about to change: undone later is what stands here, and nothing else.
pub(super) fn claim(draft: &mut Draft<'_>, run: &RunId, step: &StepId, claims: &[Claim]) -> Reply {
    match draft.state.run(run) {
        Some(record) if record.run.outcome.is_none() => {
            draft.add(Fact::Claimed { run: run.clone(), step: step.clone(), claims: claims.to_vec() });
            Reply::Noted
        }
        Some(_) | None => Reply::NoSuchRun,
    }
}

/// A person gives a lease more time.
pub(super) fn renew(draft: &mut Draft<'_>, requester: &str, object: &ObjectRef, expires: Timestamp) -> Reply {
    let Some(run) = lease(draft, object) else { return not_held(object) };
    draft.add(Fact::LeaseRenewed { run, object: object.clone(), expires, requester: requester.to_owned() });
    Reply::Noted
}

/// A lease has expired, and a person has to look.
pub(super) fn mark_lease(draft: &mut Draft<'_>, object: &ObjectRef, because: &str) -> Reply {
    let Some(run) = lease(draft, object) else { return not_held(object) };
    draft.add(Fact::LeaseMarked { run, object: object.clone(), because: because.to_owned() });
    Reply::Noted
}

/// The run that placed the cordon that is held on it.
fn lease(draft: &Draft<'_>, object: &ObjectRef) -> Option<RunId> {
    let held = |record: &&ClaimRecord| record.claim.object == *object && record.claim.change == Change::Cordoned;
    draft.state.claims.iter().find(held).map(|record| record.run.clone())
}

fn not_held(object: &ObjectRef) -> Reply {
    Reply::Refused { guards: vec![guard("lease.unknown", format!("metis holds no cordon on {object}; see `metisctl lease list`"))] }
}

/// Arms, unless that would stop the site at once.
pub(super) fn arm(draft: &mut Draft<'_>, requester: &str, mode: OnTrigger) -> Reply {
    let critical: Vec<_> =
        draft.state.triggers.iter().filter(|(_, trigger)| trigger.cleared.is_none()).map(|(name, _)| name.as_str()).collect();
    if !critical.is_empty() {
        let message = format!(
            "{} is about to lose power: metis is armed on mains, or `metisctl shutdown --execute` stops the site now",
            critical.join(", ")
        );
        return Reply::Refused { guards: vec![guard("power.critical", message)] };
    }
    if draft.state.on_trigger() != mode {
        draft.add(if mode == OnTrigger::Observe {
            Fact::Disarmed { requester: requester.to_owned() }
        } else {
            Fact::Armed { requester: requester.to_owned(), mode }
        });
    }
    Reply::Noted
}

fn guard(name: &str, message: String) -> Guard {
    Guard { name: name.to_owned(), message, waiver: None }
}

fn busy(record: &RunRecord, why: &str) -> Guard {
    let id = &record.id;
    let message = format!("{id} ({}) is under way: {why}; wait for it (metisctl run watch {id}) or cancel it", record.run.book.title);
    guard("run.busy", message)
}

/// What stands in the way of any run of that kind.
fn general(state: &State, kind: Kind) -> Vec<Guard> {
    let mut guards = Vec::new();
    if state.stopping() {
        guards.push(guard("daemon.stopping", "metisd is stopping: ask again when it is back".to_owned()));
    }
    if let Some(trouble) = state.journal_trouble.as_ref().filter(|_| needs_journal(kind)) {
        let message = format!("a {} needs the journal, and facts do not reach the disk: {trouble}", kind.name());
        guards.push(guard("journal.degraded", message));
    }
    if state.going_down.is_some() && !begins_on_a_host_that_goes_down(kind) {
        guards.push(guard("host.goes-down", "this host is being powered off or rebooted: ask again when it is back".to_owned()));
    }
    let images = state.active().filter(|record| record.run.book.kind == Kind::Image.name()).count();
    if kind == Kind::Image && images >= IMAGES_AT_ONCE {
        guards.push(guard("run.images", format!("{images} images are being made, and no more are made at once: wait for one to end")));
    }
    guards
}

/// A run of a kind that this metis does not know keeps everything else out.
fn against(newcomer: Kind, book: &Runbook<Step>, cause: &Cause, record: &RunRecord) -> Takeover {
    match Kind::of(&record.run.book.kind) {
        Some(running) => match takeover(newcomer, running, clash(book, &record.run.book), cause.emergency()) {
            Takeover::Raises if record.run.cancel.is_some() => Takeover::Refused("it is being undone"),
            verdict => verdict,
        },
        None => Takeover::Refused("this metis does not know its kind"),
    }
}

/// Cancels a run, or says what that would unwind.
pub(super) fn cancel(draft: &mut Draft<'_>, requester: &str, id: &RunId, execute: bool) -> Reply {
    let Some(record) = draft.state.run(id).cloned() else { return Reply::NoSuchRun };
    if let Some(outcome) = record.run.outcome {
        return Reply::Cancel { consequences: vec![format!("{id} has ended already: {}", outcome.name())], cancelled: false };
    }
    if record.run.committed() {
        let line = format!("{id} is past its point of no return: it goes on to its end, and is not undone half-way");
        return Reply::Cancel { consequences: vec![line], cancelled: false };
    }
    if let Some(because) = &record.run.cancel {
        return Reply::Cancel { consequences: vec![format!("{id} is being cancelled already: {because}")], cancelled: true };
    }
    if execute {
        draft.add(Fact::CancelRequested { run: id.clone(), because: format!("cancelled by {requester}") });
    }
    let claims: Vec<_> = draft.state.claims_of(id).collect();
    Reply::Cancel { consequences: consequences(&record, &claims), cancelled: execute }
}

/// What a cancellation means: for steps under way, for those to come, and for what was changed.
fn consequences(record: &RunRecord, claims: &[&ClaimRecord]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = Vec::new();
    for step in record.run.book.phases.iter().flat_map(|phase| &phase.steps) {
        match record.run.status(&step.id) {
            Status::Running { .. } => lines.push(format!("{}: is ended where it is", step.title)),
            Status::Waiting { .. } => lines.push(format!("{}: is not tried again", step.title)),
            Status::Pending => pending.push(step.title.as_str()),
            _ => {}
        }
    }
    match pending.as_slice() {
        // A shutdown has many.
        [first, .., last] if pending.len() > LISTED => {
            lines.push(format!("{} further steps are not begun: {first} … {last}", pending.len()));
        }
        pending => lines.extend(pending.iter().map(|title| format!("{title}: is not begun"))),
    }
    for (change, done) in [(Change::Cordoned, "uncordoned"), (Change::Suspended, "resumed"), (Change::Stopped, "started again")] {
        let objects: Vec<_> = claims.iter().filter(|held| held.claim.change == change).map(|held| held.claim.object.to_string()).collect();
        if !objects.is_empty() {
            lines.push(format!("{done}: {}", objects.join(", ")));
        }
    }
    lines.extend(left_behind(record));
    lines
}

/// Begins the daemon's ordered stop.
pub(super) fn stop(draft: &mut Draft<'_>) -> Reply {
    if !draft.state.stopping() {
        draft.add(Fact::DaemonStopping);
        let cancelled: Vec<RunId> = draft
            .state
            .active()
            .filter(|record| Kind::of(&record.run.book.kind).is_none_or(|kind| on_stop(kind) == OnStop::Cancel))
            .map(|record| record.id.clone())
            .collect();
        for run in cancelled {
            draft.add(Fact::CancelRequested { run, because: "metisd was told to stop".to_owned() });
        }
    }
    Reply::Noted
}
