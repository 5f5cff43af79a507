//! Whether the cluster is to be started without a person: after a stop that a UPS caused, or after a boot that nobody ordered.

use super::decide::Order;
use super::draft::Draft;
use super::takeover::Kind;
use super::{Fact, Life, RunRecord, State};
use crate::runbook::{Outcome, Status};
use crate::site::{BootId, Cause, OnBoot, Step, Verdict};

/// The daemon's new life begins; `before`: the life that ended.
pub(super) fn at_start(draft: &mut Draft<'_>, before: Option<&Life>) {
    let new_boot = before.is_none_or(|life| life.boot_id != draft.now.boot_id);
    let because = match on_boot(&draft.state) {
        OnBoot::Always if new_boot => Some("this host has booted (startup.on_boot: always)".to_owned()),
        OnBoot::AfterOutage if new_boot => after_outage(&draft.state).or_else(|| unclean(&draft.state, before)),
        OnBoot::Never | OnBoot::AfterOutage | OnBoot::Always => None,
    };
    match because {
        Some(because) => want(draft, because),
        // It was wanted before metisd was restarted, and not admitted yet.
        None => order(draft),
    }
}

/// Something changed in the life of the daemon: a shutdown has ended, or the mains are back.
pub(super) fn consider(draft: &mut Draft<'_>) {
    let state = &draft.state;
    if on_boot(state) == OnBoot::Never || state.startup_wanted.is_some() || state.stopping() {
        return;
    }
    let Some(newest) = newest(state).filter(|record| !goes_off(record, &draft.now.boot_id)) else { return };
    let online = |domain| state.domains.get(domain).is_some_and(|belief| belief.verdict == Verdict::Online);
    let mains_are_back = matches!(&newest.cause, Cause::Ups { domains } if domains.iter().all(online));
    if let Some(because) = after_outage(state).filter(|_| mains_are_back) {
        want(draft, because);
    }
}

fn on_boot(state: &State) -> OnBoot {
    state.settings.as_ref().map_or(OnBoot::Never, |settings| settings.adopted.on_boot)
}

fn want(draft: &mut Draft<'_>, because: String) {
    draft.add(Fact::StartupWanted { because });
    order(draft);
}

/// The planner asks until it is admitted, so an order too many does no harm.
fn order(draft: &mut Draft<'_>) {
    if let Some(because) = draft.state.startup_wanted.clone() {
        draft.order(Order::PlanStartup { because });
    }
}

/// The newest run that stopped or started the cluster.
pub(super) fn newest(state: &State) -> Option<&RunRecord> {
    let concerned = |record: &&std::sync::Arc<RunRecord>| matches!(Kind::of(&record.run.book.kind), Some(Kind::Shutdown | Kind::Startup));
    state.runs.iter().rev().find(concerned).map(AsRef::as_ref)
}

/// This host is on its way off, or is about to be told: its next boot is the one that starts the cluster.
pub(super) fn goes_off(record: &RunRecord, boot: &BootId) -> bool {
    let mut steps = record.run.book.steps().filter(|step| matches!(step.action, Step::PowerOffThisHost { .. }));
    record.boot_id == *boot && steps.any(|step| record.run.status(&step.id) == Status::Done)
}

/// A stop that a UPS caused and that went past its point of no return; a start-up that went down with its host.
fn after_outage(state: &State) -> Option<String> {
    let record = newest(state)?;
    let outcome = record.run.outcome?;
    // The other metis host started the cluster after it.
    if state.settled.as_ref() == Some(&record.id) {
        return None;
    }
    match (Kind::of(&record.run.book.kind), &record.cause) {
        (Some(Kind::Shutdown), Cause::Ups { .. } | Cause::PowerFailedAgain) if record.run.committed() => {
            Some(format!("{} stopped the cluster because its power failed", record.id))
        }
        (Some(Kind::Startup), _) if outcome == Outcome::Interrupted => Some(format!("{} was interrupted", record.id)),
        _ => None,
    }
}

/// A stop that a person planned stays so, however this host went down after it.
fn unclean(state: &State, before: Option<&Life>) -> Option<String> {
    let planned =
        newest(state).is_some_and(|record| Kind::of(&record.run.book.kind) == Some(Kind::Shutdown) && record.cause == Cause::Person);
    let crashed = before.is_some_and(|life| !life.stopped);
    (crashed && !planned).then(|| "this host went down without a word".to_owned())
}
