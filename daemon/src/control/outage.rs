//! What is decided while the power fails and when it is back: shutdowns wanted, their deadlines, and which of them are undone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::decide::Order;
use super::draft::Draft;
use super::takeover::Kind;
use super::{Fact, RunRecord, State};
use crate::runbook::{self, PlannedStep};
use crate::site::{Cause, DomainName, Gate, OnTrigger, RunId, Step, StepId, Verdict};

/// A deadline is shared out anew when it moved by this much at least, or by a tenth of what is left.
const WORTH_A_CUT: Duration = Duration::from_secs(5);

/// A domain is about to lose power.
pub(super) fn trigger(draft: &mut Draft<'_>, domain: &DomainName, because: &str, budget: Duration, runtime: Option<Duration>) {
    decide(draft, domain, because.to_owned(), budget, runtime, false);
}

/// The power failed again during a start-up: under its minimum of charge the site is stopped at once, while the battery still allows it.
pub(super) fn charge(draft: &mut Draft<'_>, domain: &DomainName, percent: f64, budget: Duration, runtime: Option<Duration>) {
    let minimum = draft.state.active().filter_map(|record| least_charge(record)).max();
    if let Some(minimum) = minimum.filter(|minimum| percent < f64::from(*minimum)) {
        let because = format!("the power failed again during a start-up: {percent:.0} % of charge are left, and {minimum} % are asked for");
        decide(draft, domain, because, budget, runtime, true);
    }
}

fn decide(draft: &mut Draft<'_>, domain: &DomainName, because: String, budget: Duration, runtime: Option<Duration>, in_startup: bool) {
    if !stands(&draft.state, domain) {
        let (domain, would_act) = (domain.clone(), draft.state.on_trigger());
        draft.add(Fact::TriggerDecided { domain, because, would_act, budget, runtime, in_startup });
        want_shutdown(draft);
    }
}

/// Whether that trigger was decided by [`charge`].
pub(super) fn by_charge(state: &State, domain: &DomainName) -> bool {
    stands(state, domain) && state.triggers.get(domain).is_some_and(|trigger| trigger.in_startup)
}

/// The charge that a start-up asks for, in percent.
fn least_charge(record: &RunRecord) -> Option<u8> {
    record.run.book.steps().find_map(|step| match &step.action {
        Step::Await { gate: Gate::Charge { minimum }, .. } => Some(*minimum),
        _ => None,
    })
}

/// Why a start-up starts nothing more for now: it waited for the mains, and they are gone again.
pub(super) fn holds_startup(state: &State, record: &RunRecord) -> Option<String> {
    let waits = |step: &PlannedStep<Step>| matches!(&step.action, Step::Await { gate: Gate::Mains, .. });
    if Kind::of(&record.run.book.kind) != Some(Kind::Startup) || !record.run.book.steps().any(waits) {
        return None;
    }
    let failing = state.domains.iter().filter(|(_, belief)| matches!(belief.verdict, Verdict::OnBattery | Verdict::Critical));
    let names: Vec<_> = failing.map(|(name, _)| name.as_str()).collect();
    (!names.is_empty()).then(|| format!("until the mains are back: {} runs on battery", names.join(", ")))
}

/// The reason of a trigger is gone.
pub(super) fn clear_trigger(draft: &mut Draft<'_>, domain: &DomainName, because: &str) {
    if stands(&draft.state, domain) {
        draft.add(Fact::TriggerCleared { domain: domain.clone(), because: because.to_owned() });
    }
    undo_where_mains_are_back(draft);
}

fn stands(state: &State, domain: &DomainName) -> bool {
    state.triggers.get(domain).is_some_and(|trigger| trigger.cleared.is_none())
}

/// Domains whose trigger stands, was decided while armed, and for which no shutdown was begun since.
pub(super) fn unanswered(state: &State) -> BTreeSet<DomainName> {
    let answered =
        |domain: &DomainName, since| state.runs.iter().filter(|record| is_shutdown(record)).any(|record| record.answers(domain, since));
    let wanted = state.triggers.iter().filter(|(_, trigger)| trigger.cleared.is_none() && trigger.would_act != OnTrigger::Observe);
    wanted.filter(|(domain, trigger)| !answered(domain, trigger.at)).map(|(domain, _)| domain.clone()).collect()
}

/// Orders a plan for every domain that wants one. The planner asks until it is admitted, so an order too many does no harm.
pub(super) fn want_shutdown(draft: &mut Draft<'_>) {
    let domains = unanswered(&draft.state);
    let triggers: Vec<_> = domains.iter().filter_map(|domain| draft.state.triggers.get(domain)).collect();
    let Some(mode) = triggers.iter().map(|trigger| trigger.would_act).max_by_key(|mode| *mode == OnTrigger::HostPoweroff) else { return };
    let because = triggers.iter().map(|trigger| trigger.because.as_str()).collect::<Vec<_>>().join("; ");
    let runtime = triggers.iter().filter_map(|trigger| trigger.runtime).min();
    draft.order(Order::PlanShutdown { domains, because, mode, runtime });
}

/// Shutdowns that are under way keep to what the batteries still give.
pub(super) fn runtime(draft: &mut Draft<'_>, left: &BTreeMap<DomainName, Duration>) {
    let shutdowns: Vec<RunId> = draft.state.active().filter(|record| is_shutdown(record)).map(|record| record.id.clone()).collect();
    for id in shutdowns {
        let Some(record) = draft.state.run(&id) else { continue };
        let left = match &record.cause {
            Cause::Ups { .. } => {
                let domains = record.domains();
                left.iter().filter(|(domain, _)| domains.contains(*domain)).map(|(_, left)| *left).min()
            }
            Cause::Person | Cause::PowerFailedAgain | Cause::Boot => left.values().copied().min(),
        };
        if let Some(left) = left {
            recut(draft, &id, left);
        }
    }
}

/// Shares out the time that is left to a run, where it is not about what was shared out before. `left`: until the power is gone.
pub(super) fn recut(draft: &mut Draft<'_>, id: &RunId, left: Duration) {
    let Some(record) = draft.state.run(id) else { return };
    // What it has set in motion has to be over by then.
    let left = left.saturating_sub(record.run.book.tail);
    // A reading near zero must not end it with hosts still on: their stops are tried whatever the battery says.
    let left = left.max(runbook::least(&record.run));
    let deadline = draft.now.boot.saturating_add(left);
    let worth = WORTH_A_CUT.max(left / 10);
    if record.run.deadline.is_none_or(|before| before.abs_diff(deadline) >= worth) {
        let limits = runbook::cut(&record.run, left);
        draft.add(Fact::LimitsCut { run: id.clone(), deadline, limits });
    }
}

/// Before the point of no return: a shutdown that only failing UPSes asked for is undone when all of their domains are back on the mains;
/// one that was raised by them goes on as it was asked for.
pub(super) fn undo_where_mains_are_back(draft: &mut Draft<'_>) {
    let undone = |record: &&Arc<RunRecord>| {
        is_shutdown(record) && record.run.cancel.is_none() && !record.run.committed() && mains_are_back(&draft.state, record)
    };
    let back: Vec<Arc<RunRecord>> = draft.state.active().filter(undone).cloned().collect();
    for record in back {
        let (run, because) = (record.id.clone(), "the mains are back".to_owned());
        draft.add(match record.cause {
            Cause::Ups { .. } => Fact::CancelRequested { run, because },
            Cause::Person | Cause::PowerFailedAgain | Cause::Boot => lowered(&record, because),
        });
    }
}

fn mains_are_back(state: &State, record: &RunRecord) -> bool {
    let online = |domain| state.domains.get(domain).is_some_and(|belief| belief.verdict == Verdict::Online) && !stands(state, domain);
    let domains = record.domains();
    !domains.is_empty() && domains.iter().all(online)
}

/// Power-offs and what belongs to them are not taken any more; a stop of further nodes that has begun is not left half-way.
fn lowered(record: &RunRecord, because: String) -> Fact {
    let of_power = |id: &&StepId| record.run.book.step(id).is_some_and(|step| is_of_power(&step.action));
    let raises = || record.raised.iter().filter(|raised| raised.lowered.is_none());
    let steps: BTreeSet<_> = raises().flat_map(|raised| &raised.added).filter(of_power).cloned().collect();
    let others = raises().flat_map(|raised| &raised.added).any(|id| !steps.contains(id));
    let title = match raises().next() {
        Some(first) if !others => first.before.clone(),
        _ => format!("{}, but for the power-offs", record.run.book.title),
    };
    Fact::RunLowered { run: record.id.clone(), because, steps, title }
}

fn is_of_power(step: &Step) -> bool {
    matches!(
        step,
        Step::PowerOff { .. }
            | Step::PowerOffThisHost { .. }
            | Step::CutOutlets { .. }
            | Step::SetFsd { .. }
            | Step::AwaitSecondaries { .. }
    )
}

fn is_shutdown(record: &RunRecord) -> bool {
    Kind::of(&record.run.book.kind) == Some(Kind::Shutdown)
}
