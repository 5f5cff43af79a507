//! The rooms' plain values as messages of `metis.v1`.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use metis_proto::v1;

use super::errors::guard_to_proto;
use super::port::{CardFacts, Planned};
use crate::card::InjectedFile;
use crate::card::device::Device;
use crate::control::{Fact, Raised, RunRecord, StepProgress, Told};
use crate::journal;
use crate::power::{DomainState, UpsState};
use crate::runbook::{self, OnFailure, Outcome, Run, Runbook, Status, StepState};
use crate::site::{Cause, Guard, Now, RunId, Step, StepId, Verdict};

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

pub(super) fn duration(d: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), nanos: d.subsec_nanos() as i32 }
}

fn signed(d: SignedDuration) -> prost_types::Duration {
    prost_types::Duration { seconds: d.as_secs(), nanos: d.subsec_nanos() }
}

/// A plan. `remaining`: the time that is left, where there is a limit to it.
pub(super) fn plan(book: &Runbook<Step>, remaining: Option<Duration>) -> v1::Plan {
    let cut = |remaining: Duration| runbook::cut(&Run::new(book.clone()), remaining.saturating_sub(book.tail));
    let cuts = remaining.map(cut).unwrap_or_default();
    let phases = |phases: &[runbook::Phase<Step>]| phases.iter().map(|phase| plan_phase(phase, &cuts)).collect();
    v1::Plan {
        kind: book.kind.clone(),
        title: book.title.clone(),
        phases: phases(&book.phases),
        warnings: book.warnings.clone(),
        refusals: book.refusals.iter().map(guard_to_proto).collect(),
        predicted: Some(duration(book.predicted())),
        unwind: phases(&book.unwind),
        remaining: remaining.map(duration),
        tail: (!book.tail.is_zero()).then(|| duration(book.tail)),
    }
}

fn plan_phase(phase: &runbook::Phase<Step>, cuts: &BTreeMap<StepId, Duration>) -> v1::PlanPhase {
    v1::PlanPhase {
        name: phase.name.clone(),
        steps: phase.steps.iter().map(|step| plan_step(step, cuts.get(&step.id).copied())).collect(),
        concurrency: phase.concurrency.max(1),
        predicted: Some(duration(phase.predicted())),
    }
}

/// `cut`: how long it may take in the time that is left.
fn plan_step(step: &runbook::PlannedStep<Step>, cut: Option<Duration>) -> v1::PlanStep {
    let limit = cut.filter(|cut| *cut < step.limit.ceiling);
    let squeeze = match limit {
        Some(Duration::ZERO) => "skipped",
        Some(limit) if limit < step.predicted => "shortened",
        _ => "",
    };
    v1::PlanStep {
        id: step.id.to_string(),
        kind: step.action.kind().to_owned(),
        title: step.title.clone(),
        by_hand: step.by_hand.clone(),
        predicted: Some(duration(step.predicted)),
        deadline: Some(duration(step.limit.ceiling)),
        form: step.form.name().to_owned(),
        replay: step.replay.name().to_owned(),
        commits: step.commits,
        limit: limit.map(duration),
        squeeze: squeeze.to_owned(),
        host: host(step),
        on_failure: match step.on_failure {
            OnFailure::Stop => "stop",
            OnFailure::Continue => "continue",
        }
        .to_owned(),
    }
}

fn host(step: &runbook::PlannedStep<Step>) -> String {
    step.action.host().map(ToString::to_string).unwrap_or_default()
}

/// How a step stands.
pub(super) fn step_phase(status: Status) -> v1::Phase {
    match status {
        Status::Pending => v1::Phase::Pending,
        Status::Running { .. } | Status::Waiting { .. } => v1::Phase::Running,
        Status::Done => v1::Phase::Done,
        Status::Skipped => v1::Phase::Skipped,
        Status::Failed => v1::Phase::Failed,
        Status::Cancelled => v1::Phase::Cancelled,
        Status::Abandoned => v1::Phase::Abandoned,
        Status::UnknownOutcome => v1::Phase::UnknownOutcome,
    }
}

/// How a run ended.
pub(super) fn outcome_phase(outcome: Outcome) -> v1::Phase {
    match outcome {
        Outcome::Done => v1::Phase::Done,
        Outcome::Degraded => v1::Phase::Degraded,
        Outcome::Failed | Outcome::Interrupted => v1::Phase::Failed,
        Outcome::Cancelled => v1::Phase::Cancelled,
        Outcome::UnknownOutcome => v1::Phase::UnknownOutcome,
    }
}

fn phase_of(run: &Run<Step>) -> v1::Phase {
    match (run.outcome, &run.hold) {
        (Some(outcome), _) => outcome_phase(outcome),
        (None, Some(_)) => v1::Phase::Held,
        (None, None) => v1::Phase::Running,
    }
}

/// A run, as it stands at `now`.
pub fn run(record: &RunRecord, now: &Now) -> v1::Run {
    let book = &record.run.book;
    let phases = |phases: &[runbook::Phase<Step>]| phases.iter().map(|phase| run_phase(&record.run, phase)).collect();
    v1::Run {
        id: record.id.to_string(),
        kind: book.kind.clone(),
        title: book.title.clone(),
        phase: phase_of(&record.run).into(),
        started: Some(timestamp(record.started)),
        ended: record.ended.map(timestamp),
        reason: record.reason.clone(),
        requested_by: record.requester.clone(),
        phases: phases(&book.phases),
        settings_digest: record.settings.to_string(),
        boot_id: record.boot_id.to_string(),
        seq: record.seq,
        unwind: phases(&book.unwind),
        cause: match record.cause {
            Cause::Person => "person",
            Cause::Ups { .. } => "ups",
            Cause::PowerFailedAgain => "power-failed-again",
            Cause::Boot => "boot",
        }
        .to_owned(),
        committed: record.run.committed(),
        predicted: Some(duration(book.predicted())),
        deadline: deadline(record, now),
        raised: record.raised.iter().map(raised).collect(),
    }
}

fn raised(raised: &Raised) -> v1::Raised {
    v1::Raised {
        at: Some(timestamp(raised.at)),
        requested_by: raised.requester.clone(),
        domains: raised.domains.iter().map(ToString::to_string).collect(),
        lowered: raised.lowered.map(timestamp),
    }
}

/// Boot time as wall time; only of this boot, and only while it counts.
fn deadline(record: &RunRecord, now: &Now) -> Option<prost_types::Timestamp> {
    let counts = record.run.outcome.is_none() && record.boot_id == now.boot_id;
    let left = SignedDuration::try_from(record.run.deadline.filter(|_| counts)?).ok()? - SignedDuration::try_from(now.boot).ok()?;
    now.wall.checked_add(left).ok().map(timestamp)
}

fn run_phase(run: &Run<Step>, phase: &runbook::Phase<Step>) -> v1::RunPhase {
    v1::RunPhase {
        name: phase.name.clone(),
        steps: phase.steps.iter().map(|step| run_step(run, step)).collect(),
        predicted: Some(duration(phase.predicted())),
    }
}

fn run_step(run: &Run<Step>, step: &runbook::PlannedStep<Step>) -> v1::RunStep {
    let none = StepState::default();
    let state = run.state(&step.id).unwrap_or(&none);
    v1::RunStep {
        id: step.id.to_string(),
        kind: step.action.kind().to_owned(),
        title: step.title.clone(),
        phase: step_phase(state.status).into(),
        attempts: state.attempts,
        started: state.started.map(timestamp),
        ended: state.ended.map(timestamp),
        detail: state.detail.clone(),
        milestones: state.milestones.clone(),
        predicted: Some(duration(step.predicted)),
        limit: Some(duration(run.limit(step))),
        commits: step.commits,
        host: host(step),
    }
}

/// A recorded fact of a run.
pub fn told(run: &RunId, told: &Told) -> v1::RunEvent {
    v1::RunEvent {
        run: run.to_string(),
        seq: told.stamp.seq,
        at: Some(timestamp(told.stamp.now.wall)),
        step: told.fact.step().map(ToString::to_string).unwrap_or_default(),
        kind: told.fact.kind().to_owned(),
        message: told.fact.message(),
        phase: fact_phase(&told.fact).into(),
        progress: None,
    }
}

/// Where a fact leaves its step or run.
fn fact_phase(fact: &Fact) -> v1::Phase {
    match fact {
        Fact::RunAdmitted { .. } => v1::Phase::Pending,
        Fact::RunHeld { .. } => v1::Phase::Held,
        Fact::StepEnded { status, .. } => step_phase(*status),
        Fact::RunEnded { outcome, .. } => outcome_phase(*outcome),
        _ => v1::Phase::Running,
    }
}

/// Byte progress of a run.
pub(super) fn progress(run: &RunId, of: &StepProgress) -> v1::RunEvent {
    let progress = v1::Progress { stage: of.progress.stage.to_owned(), done_bytes: of.progress.done, total_bytes: of.progress.total };
    v1::RunEvent {
        run: run.to_string(),
        step: of.step.to_string(),
        kind: "progress".to_owned(),
        phase: v1::Phase::Running.into(),
        progress: Some(progress),
        ..v1::RunEvent::default()
    }
}

/// A disk of this host.
pub(super) fn device(device: &Device, guards: &[Guard]) -> v1::Device {
    v1::Device {
        path: device.path.display().to_string(),
        by_id: device.by_id.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        size: device.size,
        model: device.model.clone(),
        serial: device.serial.clone(),
        transport: device.transport.to_owned(),
        removable: device.removable,
        read_only: device.read_only,
        mounts: device.mounts.clone(),
        diskseq: device.diskseq,
        guards: guards.iter().map(guard_to_proto).collect(),
    }
}

/// A card that is planned.
pub(super) fn planned_card(planned: &Planned) -> v1::CardSummary {
    let image = planned.runbook.steps().find_map(|s| match &s.action {
        Step::FetchImage { image } => Some(image.clone()),
        _ => None,
    });
    v1::CardSummary {
        node: planned.node.name.to_string(),
        class: planned.node.class.to_string(),
        image: image.as_ref().map(|i| i.url.clone()).unwrap_or_default(),
        image_sha256: image.map(|i| i.sha256).unwrap_or_default(),
        ..v1::CardSummary::default()
    }
}

/// A card that is made.
pub(super) fn finished_card(planned: &Planned, facts: &CardFacts) -> v1::CardSummary {
    let file = |f: &InjectedFile| v1::InjectedFile {
        path: f.path.clone(),
        mode: f.mode,
        uid: f.uid,
        gid: f.gid,
        size: f.size,
        secret: f.secret,
        filesystem: f.filesystem.to_owned(),
    };
    v1::CardSummary {
        instance_id: facts.instance_id.clone(),
        image_sha256: facts.image_sha256.clone(),
        files: facts.files.iter().map(file).collect(),
        ..planned_card(planned)
    }
}

fn verdict(verdict: Verdict) -> v1::UpsVerdict {
    match verdict {
        Verdict::Unknown => v1::UpsVerdict::Unknown,
        Verdict::Online => v1::UpsVerdict::Online,
        Verdict::OnBattery => v1::UpsVerdict::OnBattery,
        Verdict::Critical => v1::UpsVerdict::Critical,
    }
}

/// A UPS.
pub(super) fn ups(state: &UpsState) -> v1::UpsState {
    v1::UpsState {
        name: state.name.to_string(),
        verdict: verdict(state.verdict).into(),
        reason: state.reason.clone(),
        status: state.status.iter().cloned().collect(),
        charge: state.charge,
        runtime: state.runtime.map(duration),
        load: state.load,
        last_heard: state.last_heard.map(timestamp),
        since: Some(timestamp(state.since)),
        link: state.link.clone(),
        fsd_latched: state.fsd_latched,
        vars: state.vars.clone().into_iter().collect(),
    }
}

/// A power domain. `acted`: whether a trigger is acted upon.
pub(super) fn domain(state: &DomainState, acted: bool) -> v1::Domain {
    v1::Domain {
        name: state.name.to_string(),
        verdict: verdict(state.verdict).into(),
        reason: state.reason.clone(),
        upses: state.upses.iter().map(ToString::to_string).collect(),
        nodes: state.nodes.iter().map(ToString::to_string).collect(),
        budget: Some(duration(state.budget)),
        runtime: state.runtime.map(duration),
        margin: state.margin.map(signed),
        would_trigger: state.would_trigger.map(timestamp),
        trigger: state.trigger.as_ref().map(|t| v1::Trigger { at: Some(timestamp(t.at)), because: t.because.clone(), acted }),
        budget_source: if state.budget_learned { "learned from real runs" } else { "configured" }.to_owned(),
        budget_lines: Vec::new(),
        safety_factor: state.safety_factor,
    }
}

/// History of a UPS.
pub(super) fn history(history: &journal::History) -> v1::UpsHistoryResponse {
    let sample = |s: &journal::Sample| v1::UpsSample {
        at: Some(timestamp(s.at)),
        name: s.name.clone(),
        status: s.status.clone(),
        charge: s.charge,
        runtime: s.runtime.map(duration),
        load: s.load,
    };
    let transition = |t: &journal::Transition| v1::UpsTransition {
        at: Some(timestamp(t.at)),
        name: t.name.clone(),
        from: verdict(t.from).into(),
        to: verdict(t.to).into(),
        reason: t.reason.clone(),
    };
    v1::UpsHistoryResponse {
        samples: history.samples.iter().map(sample).collect(),
        transitions: history.transitions.iter().map(transition).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runbook::{Limit, Phase, PlannedStep};
    use crate::site::NodeName;

    const fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    /// Drains are squeezed by the time that is left, stops have theirs reserved.
    fn book() -> Runbook<Step> {
        let node = || NodeName::new("titan-13");
        let drain = PlannedStep {
            limit: Limit { ceiling: secs(180), share: 1 },
            predicted: secs(40),
            ..PlannedStep::act("drain", "drain titan-13", Step::Drain { node: node(), cordon_only: false }, secs(180))
        };
        let end = PlannedStep {
            predicted: secs(5),
            commits: true,
            ..PlannedStep::act("end", "end what is left", Step::EndLeftovers { node: node() }, secs(10))
        };
        let mut book =
            Runbook::new("shutdown", "stop the site", vec![Phase::serial("drain", vec![drain]), Phase::serial("stop", vec![end])]);
        let uncordon = PlannedStep::act("uncordon", "uncordon titan-13", Step::Uncordon { node: node() }, secs(10));
        book.unwind = vec![Phase::serial("undo", vec![uncordon])];
        book
    }

    #[test]
    fn the_time_that_is_left_is_shown_step_by_step() {
        let squeezes = |remaining: Option<u64>| -> Vec<(String, bool)> {
            let plan = plan(&book(), remaining.map(secs));
            plan.phases.iter().flat_map(|p| &p.steps).map(|s| (s.squeeze.clone(), s.limit.is_some())).collect()
        };
        let step = |squeeze: &str, limited| (squeeze.to_owned(), limited);
        assert_eq!(squeezes(None), [step("", false), step("", false)], "on line");
        assert_eq!(squeezes(Some(3600)), [step("", false), step("", false)], "more than enough");
        assert_eq!(squeezes(Some(100))[0], step("", true), "less than it may take, not than it needs");
        assert_eq!(squeezes(Some(50))[0], step("shortened", true));
        assert_eq!(squeezes(Some(5))[0], step("skipped", true), "time is reserved for the stop alone");
    }

    #[test]
    fn the_point_of_no_return_hosts_and_what_undoes_it_are_told() {
        let plan = plan(&book(), None);
        let steps: Vec<_> = plan.phases.iter().chain(&plan.unwind).flat_map(|p| &p.steps).collect();
        assert_eq!(steps.iter().map(|s| s.commits).collect::<Vec<_>>(), [false, true, false]);
        assert!(steps.iter().all(|s| s.host == "titan-13"));
        assert_eq!(plan.unwind[0].steps[0].kind, "node.uncordon");
    }
}
