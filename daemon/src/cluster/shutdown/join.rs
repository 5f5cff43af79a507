//! Pure: the plan of a shutdown that is under way, joined with what a failing UPS wants meanwhile.

use std::collections::BTreeSet;
use std::time::Duration;

use super::phase_name::{AGENTS, BACK, DETACH, DRAIN, FORTH, SERVERS};
use super::{WHOLE, with_power};
use crate::runbook::{Form, Limit, Phase, PlannedStep, Run, Runbook};
use crate::site::{K3sRole, NodeName, Step};

/// One plan that does what both of them do.
///
/// Of a step that is in both the present action stays, and the shorter of both ceilings counts. What a person left out of a stop of the
/// whole cluster (drain, snapshot) stays left out, and what needs the API is not begun any more once a server is being stopped.
pub fn join(running: &Run<Step>, more: &Runbook<Step>) -> Runbook<Step> {
    let present = &running.book;
    let known: BTreeSet<_> = present.steps().map(|step| &step.id).collect();
    let left_out = is_whole(present) || serverless(running);
    let is_new = |step: &&PlannedStep<Step>| !(known.contains(&step.id) || left_out && needs_api(&step.action));
    let mut book = present.clone();
    book.phases = joined(&FORTH, &present.phases, &more.phases, is_new, |step| tightened(step, more));
    book.unwind = joined(&BACK, &present.unwind, &more.unwind, |step| !known.contains(&step.id), Clone::clone);
    await_all_volumes(&mut book, running, more);
    power_off_instead(&mut book, running);
    let warnings: Vec<_> = present.warnings.iter().filter(|line| !more.warnings.contains(line)).cloned().collect();
    book.warnings = more.warnings.iter().cloned().chain(warnings).collect();
    book.abort_grace = present.abort_grace.min(more.abort_grace);
    book.tail = present.tail.max(more.tail);
    book.title = title(present, more, &book);
    book
}

fn is_whole(book: &Runbook<Step>) -> bool {
    book.title.starts_with(WHOLE)
}

fn title(present: &Runbook<Step>, more: &Runbook<Step>, both: &Runbook<Step>) -> String {
    let off = |step: &&PlannedStep<Step>| matches!(step.action, Step::PowerOff { .. } | Step::PowerOffThisHost { .. });
    if is_whole(present) || is_whole(more) { with_power(WHOLE, both.steps().filter(off).count()) } else { more.title.clone() }
}

/// A server is being stopped, or was.
fn serverless(run: &Run<Step>) -> bool {
    let of_servers = |step: &&PlannedStep<Step>| matches!(step.action, Step::StopK3s { role: K3sRole::Server, .. });
    run.book.steps().filter(of_servers).any(|step| begun(run, step))
}

fn begun(run: &Run<Step>, step: &PlannedStep<Step>) -> bool {
    run.state(&step.id).is_some_and(|state| state.started.is_some())
}

/// What comes before the first stop.
fn needs_api(step: &Step) -> bool {
    matches!(
        step,
        Step::Collect
            | Step::SuspendFlux
            | Step::SnapshotEtcd { .. }
            | Step::DumpDatastore { .. }
            | Step::Drain { .. }
            | Step::AwaitDetach { .. }
    )
}

/// Both lists of phases in `order`, each step once.
fn joined(
    order: &[&str],
    present: &[Phase<Step>],
    more: &[Phase<Step>],
    is_new: impl Fn(&&PlannedStep<Step>) -> bool,
    keep: impl Fn(&PlannedStep<Step>) -> PlannedStep<Step>,
) -> Vec<Phase<Step>> {
    let of = |phases: &'_ [Phase<Step>], name: &str| phases.iter().find(|phase| phase.name == name).cloned();
    // A plan that another version of metis made may name them otherwise: those are gone through first.
    let strange = |phase: &&Phase<Step>| !order.contains(&phase.name.as_str());
    let mut phases: Vec<_> = present.iter().filter(strange).cloned().collect();
    for name in order {
        let (mine, theirs) = (of(present, name), of(more, name));
        let places = |phase: &Option<Phase<Step>>| phase.as_ref().map_or(1, |phase| phase.concurrency);
        let places = places(&mine).max(places(&theirs));
        let mut steps: Vec<_> = mine.iter().flat_map(|phase| &phase.steps).map(&keep).collect();
        steps.extend(theirs.iter().flat_map(|phase| &phase.steps).filter(&is_new).cloned());
        // Its own end comes last, whatever came in.
        steps.sort_by_key(|step| matches!(step.action, Step::PowerOffThisHost { .. }));
        let concurrency = if *name == DRAIN { u32::try_from(steps.len()).unwrap_or(u32::MAX) } else { places };
        if !steps.is_empty() {
            phases.push(Phase { name: (*name).to_owned(), concurrency, steps });
        }
    }
    phases
}

/// The step with the shorter ceiling of both plans.
fn tightened(step: &PlannedStep<Step>, more: &Runbook<Step>) -> PlannedStep<Step> {
    let Some(other) = more.step(&step.id) else { return step.clone() };
    let limit = Limit { ceiling: step.limit.ceiling.min(other.limit.ceiling), ..step.limit };
    let patience = |form: &Form<Step>| match form {
        Form::Gate { patience, .. } => *patience,
        Form::Act | Form::Ensure => Duration::MAX,
    };
    let mut form = step.form.clone();
    if let Form::Gate { patience: own, .. } = &mut form {
        *own = (*own).min(patience(&other.form));
    }
    PlannedStep { limit, form, predicted: step.predicted.min(limit.ceiling), ..step.clone() }
}

/// Volumes of the nodes that came in: with those that are waited for, or after them where that has begun.
fn await_all_volumes(book: &mut Runbook<Step>, running: &Run<Step>, more: &Runbook<Step>) {
    let (present, Some(theirs)) = (gates(&running.book), gates(more).into_iter().next()) else { return };
    let Step::AwaitDetach { nodes: wanted } = &theirs.action else { return };
    let drained: BTreeSet<_> = book.steps().filter_map(|step| drained_node(&step.action)).cloned().collect();
    let awaited: BTreeSet<NodeName> = present.iter().flat_map(|step| awaited_nodes(&step.action)).cloned().collect();
    let missing: BTreeSet<NodeName> = wanted.difference(&awaited).filter(|node| drained.contains(*node)).cloned().collect();
    let Some(phase) = book.phases.iter_mut().find(|phase| phase.name == DETACH).filter(|_| !missing.is_empty() && !present.is_empty())
    else {
        return;
    };
    match phase.steps.last_mut() {
        Some(last) if !begun(running, last) => last.action = Step::AwaitDetach { nodes: awaited.union(&missing).cloned().collect() },
        _ => {
            let id = format!("{}.{}", theirs.id, phase.steps.len() + 1);
            phase.steps.push(PlannedStep { id: id.into(), action: Step::AwaitDetach { nodes: missing }, ..theirs });
        }
    }
}

fn gates(book: &Runbook<Step>) -> Vec<PlannedStep<Step>> {
    book.phases.iter().filter(|phase| phase.name == DETACH).flat_map(|phase| phase.steps.clone()).collect()
}

fn drained_node(step: &Step) -> Option<&NodeName> {
    match step {
        Step::Drain { node, cordon_only: false } => Some(node),
        _ => None,
    }
}

fn awaited_nodes(step: &Step) -> BTreeSet<&NodeName> {
    match step {
        Step::AwaitDetach { nodes } => nodes.iter().collect(),
        _ => BTreeSet::new(),
    }
}

/// A host that is reached through its kubelet is powered off where it would have been stopped: afterwards nobody reaches it.
fn power_off_instead(book: &mut Runbook<Step>, running: &Run<Step>) {
    for phase in book.phases.iter_mut().filter(|phase| phase.name == AGENTS || phase.name == SERVERS) {
        let off: BTreeSet<NodeName> = phase.steps.iter().filter_map(|step| powered_off(&step.action)).cloned().collect();
        phase.steps.retain(|step| {
            let stops = matches!(step.action, Step::StopK3s { .. }) && !begun(running, step);
            !(stops && step.action.host().is_some_and(|host| off.contains(host)))
        });
    }
}

fn powered_off(step: &Step) -> Option<&NodeName> {
    match step {
        Step::PowerOff { node } => Some(node),
        _ => None,
    }
}
