//! The rooms' plain values as messages of `metis.v1`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use metis_proto::v1;

use super::errors::guard_to_proto;
use super::port::{CardFacts, Planned};
use crate::card::InjectedFile;
use crate::card::device::Device;
use crate::control::{Fact, RunRecord, StepProgress, Told};
use crate::journal;
use crate::power::{DomainState, UpsState};
use crate::runbook::{Outcome, Run, Runbook, Status, StepState};
use crate::site::{Guard, RunId, Step, Verdict};

pub(super) fn timestamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

pub(super) fn duration(d: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), nanos: d.subsec_nanos() as i32 }
}

fn signed(d: SignedDuration) -> prost_types::Duration {
    prost_types::Duration { seconds: d.as_secs(), nanos: d.subsec_nanos() }
}

/// A plan.
pub(super) fn plan(book: &Runbook<Step>) -> v1::Plan {
    let step = |step: &crate::runbook::PlannedStep<Step>| v1::PlanStep {
        id: step.id.to_string(),
        kind: step.action.kind().to_owned(),
        title: step.title.clone(),
        by_hand: step.by_hand.clone(),
        predicted: Some(duration(step.predicted)),
        deadline: Some(duration(step.limit.ceiling)),
        form: step.form.name().to_owned(),
        replay: step.replay.name().to_owned(),
    };
    v1::Plan {
        kind: book.kind.clone(),
        title: book.title.clone(),
        phases: book.phases.iter().map(|p| v1::PlanPhase { name: p.name.clone(), steps: p.steps.iter().map(step).collect() }).collect(),
        warnings: book.warnings.clone(),
        refusals: book.refusals.iter().map(guard_to_proto).collect(),
        predicted: Some(duration(book.predicted())),
    }
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

fn run_phase(run: &Run<Step>) -> v1::Phase {
    match (run.outcome, &run.hold) {
        (Some(outcome), _) => outcome_phase(outcome),
        (None, Some(_)) => v1::Phase::Held,
        (None, None) => v1::Phase::Running,
    }
}

/// A run.
pub(super) fn run(record: &RunRecord) -> v1::Run {
    let step = |planned: &crate::runbook::PlannedStep<Step>| {
        let none = StepState::default();
        let state = record.run.state(&planned.id).unwrap_or(&none);
        v1::RunStep {
            id: planned.id.to_string(),
            kind: planned.action.kind().to_owned(),
            title: planned.title.clone(),
            phase: step_phase(state.status).into(),
            attempts: state.attempts,
            started: state.started.map(timestamp),
            ended: state.ended.map(timestamp),
            detail: state.detail.clone(),
        }
    };
    let phase =
        |phase: &crate::runbook::Phase<Step>| v1::RunPhase { name: phase.name.clone(), steps: phase.steps.iter().map(step).collect() };
    v1::Run {
        id: record.id.to_string(),
        kind: record.run.book.kind.clone(),
        title: record.run.book.title.clone(),
        phase: run_phase(&record.run).into(),
        started: Some(timestamp(record.started)),
        ended: record.ended.map(timestamp),
        reason: record.reason.clone(),
        requested_by: record.requester.clone(),
        phases: record.run.book.phases.iter().map(phase).collect(),
        settings_digest: record.settings.to_string(),
        boot_id: record.boot_id.to_string(),
        seq: record.seq,
    }
}

/// A recorded fact of a run.
pub(super) fn told(run: &RunId, told: &Told) -> v1::RunEvent {
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
