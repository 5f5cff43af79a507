//! What is decided once, after the stored facts were folded: what becomes of the runs that an earlier life left behind.

use super::decide::Order;
use super::draft::Draft;
use super::takeover::{Kind, OnRestart, on_restart};
use super::{Adopted, Fact, RunRecord, comeback, outage};
use crate::runbook::{self, Outcome, Replay, Status};
use crate::site::{RunId, Step};

/// The daemon's new life begins.
pub(super) fn recover(draft: &mut Draft<'_>, version: &str, settings: &Adopted, rejected: &[String]) {
    let before = draft.state.life.clone();
    draft.add(Fact::DaemonStarted { boot_id: draft.now.boot_id.clone(), version: version.to_owned() });
    draft.add(Fact::SettingsAdopted { settings: settings.clone() });
    if !rejected.is_empty() {
        draft.add(Fact::SettingsRejected { errors: rejected.to_vec() });
    }
    report_again(draft);
    let left: Vec<RunId> = draft.state.active().map(|record| record.id.clone()).collect();
    for run in left {
        take_up(draft, &run);
    }
    outage::want_shutdown(draft);
    say_farewell_again(draft);
    withdraw_again(draft);
    comeback::at_start(draft, before.as_ref());
}

/// metisd may have stopped, or this host have gone, between the record of a run's end and its report. Who reports knows whether it is
/// written already.
fn report_again(draft: &mut Draft<'_>) {
    for kind in [Kind::Shutdown, Kind::Startup] {
        let newest = draft.state.runs.iter().rfind(|record| Kind::of(&record.run.book.kind) == Some(kind));
        if let Some(id) = newest.filter(|record| record.run.outcome.is_some()).map(|record| record.id.clone()) {
            draft.report(&id);
        }
    }
}

/// The newest run of this boot was recorded, and metisd stopped before what it had told the shutdown hook was taken back.
fn withdraw_again(draft: &mut Draft<'_>) {
    let newest = draft.state.runs.iter().rfind(|record| Kind::of(&record.run.book.kind) == Some(Kind::Shutdown));
    let ended = newest.filter(|record| record.boot_id == draft.now.boot_id && record.run.outcome.is_some());
    if let Some(id) = ended.map(|record| record.id.clone()) {
        draft.withdraw_outlets(&id);
    }
}

/// The run was recorded, and metisd stopped before this host was ordered to power off.
fn say_farewell_again(draft: &mut Draft<'_>) {
    let newest = draft.state.runs.back().filter(|record| record.boot_id == draft.now.boot_id && record.run.outcome.is_some());
    if let Some(id) = newest.map(|record| record.id.clone()).filter(|id| draft.state.farewell.as_ref() != Some(id)) {
        draft.farewell(&id);
    }
}

/// This host's end is ordered, by this daemon or by somebody else, or called off. Nothing of the site is stopped for it.
pub(super) fn this_host(draft: &mut Draft<'_>, goes_down: bool) {
    let known = draft.state.going_down.is_some();
    if !goes_down && known {
        draft.add(Fact::HostStays);
        let ordered = draft.state.farewell.as_ref().and_then(|id| draft.state.run(id));
        if let Some(run) = ordered.filter(|record| record.boot_id == draft.now.boot_id).map(|record| record.id.clone()) {
            draft.order(Order::WithdrawOutlets { run });
        }
    } else if goes_down && !known {
        // It goes as soon as it took the order, which may be heard before that is recorded.
        let newest = draft.state.runs.iter().rev().find(|record| Kind::of(&record.run.book.kind) == Some(Kind::Shutdown));
        let by = newest.filter(|record| comeback::goes_off(record, &draft.now.boot_id)).map(|record| record.id.clone());
        let runs = draft.state.active().map(|record| record.id.clone()).collect();
        draft.add(Fact::HostGoesDown { by, runs });
    }
}

fn take_up(draft: &mut Draft<'_>, id: &RunId) {
    let Some(record) = draft.state.run(id).cloned() else { return };
    if record.run.phase().is_none() {
        return; // All its steps ended; only the end itself was not recorded.
    }
    let same_boot = record.boot_id == draft.now.boot_id;
    let rule = Kind::of(&record.run.book.kind).map_or(OnRestart::CloseInterrupted, |kind| on_restart(kind, same_boot));
    match rule {
        OnRestart::Resume => {
            for order in runbook::resume(&record.run, draft.now) {
                if let runbook::Order::Settle { step, status, detail } = order {
                    draft.settle(id, &step, status, detail);
                }
            }
        }
        OnRestart::CloseFailed => close(draft, &record, Outcome::Failed, same_boot),
        OnRestart::CloseInterrupted => close(draft, &record, Outcome::Interrupted, same_boot),
    }
}

fn close(draft: &mut Draft<'_>, record: &RunRecord, outcome: Outcome, same_boot: bool) {
    let who = if same_boot { "metisd stopped" } else { "this host went down" };
    for step in record.run.book.steps() {
        let status = match record.run.status(&step.id) {
            Status::Running { .. } if step.replay == Replay::NeverRepeat => Status::UnknownOutcome,
            Status::Running { .. } => Status::Failed,
            Status::Waiting { .. } => Status::Cancelled,
            _ => continue,
        };
        draft.settle(&record.id, &step.id, status, format!("{who} while it ran"));
    }
    let steps: Vec<_> = record.run.running().map(|step| step.id.as_str()).collect();
    let during = if steps.is_empty() { "between two steps".to_owned() } else { format!("while step {} ran", steps.join(", ")) };
    let mut reason = format!("interrupted: {who} {during}");
    if let Some(left) = left_behind(record) {
        reason = format!("{reason}; {left}");
    }
    draft.add(Fact::RunEnded { run: record.id.clone(), outcome, reason });
    draft.report(&record.id);
}

/// In which state a card or image is left by a run that ends before its plan does.
pub(super) fn left_behind(record: &RunRecord) -> Option<String> {
    record.run.book.steps().find_map(|step| {
        let status = record.run.status(&step.id);
        match &step.action {
            Step::WriteCard { device, .. } => Some(match status {
                Status::Pending | Status::Skipped => format!("{} was not touched", device.display()),
                Status::Done => format!("the card in {} is complete", device.display()),
                // From not yet touched to just finished: the fact of that may be what is missing.
                _ => format!("the card in {} is not to be used (its partition table is written last): burn it again", device.display()),
            }),
            Step::StreamImage { target } => Some(match status {
                Status::Pending | Status::Skipped => format!("nothing was written to {target}"),
                Status::Done => format!("{target} is complete"),
                _ => format!("{target} is not to be used (its partition table is written last): make it again"),
            }),
            _ => None,
        }
    })
}
