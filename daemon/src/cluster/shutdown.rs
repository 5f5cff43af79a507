//! Pure: inventory, facts and what is asked for → the plan of a shutdown.
//!
//! The order is that of FEATURES "Power: shutting down": look, suspend Flux, save the datastore, drain, wait for volumes, stop agents, stop
//! servers, end what they left, power off (the datastore's host after all others, this host last). API calls and waiting carry a share of
//! the time that is left and are passed over where there is none; stops and power-offs carry none and are always begun.

pub(super) mod by_hand;
mod expect;
mod join;
mod scope;
mod steps;
#[cfg(test)]
pub(super) mod tests;
mod warn;

use super::port::Facts;
use super::{Datastore, Settings, ShutdownOrder};
use crate::runbook::{ABORT_GRACE, Phase, Runbook};
use crate::site::{Access, Guard, Host, K3sRole, Learned, NodeName, Step, Topology};

pub use join::join;
use scope::Scope;
use steps::Maker;
pub use steps::SNAPSHOT;

/// The kind of its runs.
pub const KIND: &str = "shutdown";

/// Grace of an abort while the site runs on battery: it is reserved once in each phase.
const GRACE_ON_BATTERY: std::time::Duration = std::time::Duration::from_secs(1);

/// The title of a plan that stops all k3s services begins so.
const WHOLE: &str = "stop the cluster";

/// Names of the phases, in their order.
mod phase_name {
    pub(super) const LOOK: &str = "look";
    pub(super) const SUSPEND: &str = "suspend Flux";
    pub(super) const SAVE: &str = "save the datastore";
    pub(super) const DRAIN: &str = "drain";
    pub(super) const DETACH: &str = "wait for volumes";
    pub(super) const AGENTS: &str = "stop agents";
    pub(super) const SERVERS: &str = "stop servers";
    pub(super) const TELL: &str = "tell other machines";
    pub(super) const LEFTOVERS: &str = "end what k3s left";
    pub(super) const OFF: &str = "power off";
    pub(super) const DATASTORE_OFF: &str = "power off the datastore";
    pub(super) const AWAIT: &str = "wait for other machines";
    pub(super) const THIS_OFF: &str = "power off this host";
    pub(super) const START: &str = "start agents";
    pub(super) const UNCORDON: &str = "uncordon";
    pub(super) const RESUME: &str = "resume Flux";

    /// Of a plan.
    pub(super) const FORTH: [&str; 13] =
        [LOOK, SUSPEND, SAVE, DRAIN, DETACH, AGENTS, SERVERS, TELL, LEFTOVERS, OFF, DATASTORE_OFF, AWAIT, THIS_OFF];
    /// Of what undoes it.
    pub(super) const BACK: [&str; 3] = [START, UNCORDON, RESUME];
}

/// Plans a shutdown. Total: what is not known of the cluster is planned for as if it were there, and said in the warnings.
pub fn plan(settings: &Settings, topology: &Topology, facts: &Facts, learned: &Learned, order: &ShutdownOrder) -> Runbook<Step> {
    let scope = Scope::of(settings, topology, facts, order);
    let maker = Maker { settings, facts, learned, order, scope: &scope };
    let mut book = Runbook::new(KIND, title(&scope, order), phases(&maker));
    book.unwind = unwind(&maker);
    book.tail = maker.tail();
    book.abort_grace = if order.remaining.is_some() { GRACE_ON_BATTERY } else { ABORT_GRACE };
    if book.phases.is_empty() {
        let message = "there is nothing to stop: no host that metis may stop is concerned (inventory: `host.access`, `host.managed`)";
        book.refusals.push(Guard { name: "shutdown.empty".to_owned(), message: message.to_owned(), waiver: None });
    }
    book.warnings = warn::warnings(&maker, topology, &book);
    book
}

/// Whether real runs say of every step how long it takes, but for this host's own end: only then does the plan make a budget.
pub fn measured(book: &Runbook<Step>, learned: &Learned) -> bool {
    let own_end = |step: &Step| matches!(step, Step::CutOutlets { .. } | Step::PowerOffThisHost { .. });
    let host = |step: &Step| step.host().map_or("", NodeName::as_str).to_owned();
    let steps = book.phases.iter().flat_map(|phase| &phase.steps).map(|step| &step.action);
    steps.filter(|step| !own_end(step)).all(|step| learned.get(step.kind(), &host(step)).is_some())
}

fn title(scope: &Scope<'_>, order: &ShutdownOrder) -> String {
    let what = match &order.domains {
        Some(domains) if !scope.whole_cluster => format!("shed what {} feeds", joined(domains.iter().map(ToString::to_string))),
        _ => WHOLE.to_owned(),
    };
    // None in mode cluster-only.
    with_power(&what, scope.off().count())
}

fn with_power(what: &str, off: usize) -> String {
    match off {
        0 => what.to_owned(),
        1 => format!("{what} and power off 1 host"),
        hosts => format!("{what} and power off {hosts} hosts"),
    }
}

fn joined(words: impl IntoIterator<Item = String>) -> String {
    words.into_iter().collect::<Vec<_>>().join(", ")
}

/// Phases without steps are left out.
fn phases(maker: &Maker<'_>) -> Vec<Phase<Step>> {
    let at_once = maker.settings.shutdown.hosts_at_once;
    let scope = maker.scope;
    let agents = || scope.k3s(K3sRole::Agent);
    let servers = || scope.k3s(K3sRole::Server);
    let mut phases = prelude(maker);
    phases.push(phase(phase_name::AGENTS, at_once, agents().map(|host| maker.stop(host, K3sRole::Agent))));
    phases.push(phase(phase_name::SERVERS, at_once, servers().map(|host| maker.stop(host, K3sRole::Server))));
    // It latches, and the machines of others go down by it: not before the point of no return.
    phases.push(phase(phase_name::TELL, 1, scope.tell.iter().map(|ups| maker.set_fsd(ups))));
    let left = agents().chain(servers()).filter(|host| host.access != Access::HelperPod);
    phases.push(phase(phase_name::LEFTOVERS, at_once, left.map(|host| maker.end_leftovers(host))));
    let (last, early): (Vec<_>, Vec<_>) =
        scope.off().filter(|host| !goes_with_its_stop(maker.settings, host)).partition(|host| is_datastore(maker.settings, host));
    let others = |hosts: Vec<&Host>| hosts.into_iter().filter(|host| !host.this_host).map(|host| maker.power_off(host)).collect::<Vec<_>>();
    phases.push(phase(phase_name::OFF, at_once, others(early)));
    phases.push(phase(phase_name::DATASTORE_OFF, 1, others(last)));
    phases.push(phase(phase_name::AWAIT, at_once, scope.tell.iter().map(|ups| maker.await_secondaries(ups))));
    if let Some(this) = scope.off().find(|host| host.this_host) {
        let cut = (!scope.cut.is_empty()).then(|| maker.cut_outlets(&scope.cut));
        phases.push(phase(phase_name::THIS_OFF, 1, cut.into_iter().chain([maker.power_off_this(this)])));
    }
    phases.retain(|phase| !phase.steps.is_empty());
    phases
}

/// What needs the API, and the datastore's copy.
fn prelude(maker: &Maker<'_>) -> Vec<Phase<Step>> {
    let scope = maker.scope;
    let nodes: Vec<&Host> = scope.drained().collect();
    let mut phases = Vec::new();
    if !scope.has_api || scope.stopped.is_empty() {
        phases.push(phase(phase_name::SAVE, 1, maker.save_datastore()));
        return phases;
    }
    phases.push(phase(phase_name::LOOK, 1, [maker.collect()]));
    phases.push(phase(phase_name::SUSPEND, 1, scope.whole_cluster.then(|| maker.suspend_flux())));
    phases.push(phase(phase_name::SAVE, 1, maker.save_datastore()));
    phases.push(phase(phase_name::DRAIN, u32::try_from(nodes.len()).unwrap_or(u32::MAX), nodes.iter().map(|host| maker.drain(host))));
    // Nobody detaches the volumes of a node that is gone in time.
    let there: Vec<&Host> = nodes.iter().copied().filter(|host| !scope.not_ready(host)).collect();
    let gate = (!there.is_empty() && !maker.order.skip_drain).then(|| maker.await_detach(&there));
    phases.push(phase(phase_name::DETACH, 1, gate));
    phases
}

/// Undoes the prelude and the stops of agents, last first.
fn unwind(maker: &Maker<'_>) -> Vec<Phase<Step>> {
    let scope = maker.scope;
    let at_once = maker.settings.shutdown.hosts_at_once;
    let agents = scope.k3s(K3sRole::Agent).filter(|host| !scope.is_off(host) || !goes_with_its_stop(maker.settings, host));
    let mut phases = vec![phase(phase_name::START, at_once, agents.map(|host| maker.start(host)))];
    if scope.has_api {
        phases.push(phase(phase_name::UNCORDON, at_once, scope.drained().map(|host| maker.uncordon(host))));
        let flux = scope.whole_cluster && !scope.stopped.is_empty();
        phases.push(phase(phase_name::RESUME, 1, flux.then(|| maker.resume_flux())));
    }
    phases.retain(|phase| !phase.steps.is_empty());
    phases
}

fn phase(name: &str, concurrency: u32, steps: impl IntoIterator<Item = crate::runbook::PlannedStep<Step>>) -> Phase<Step> {
    Phase { name: name.to_owned(), concurrency: concurrency.max(1), steps: steps.into_iter().collect() }
}

/// Without a kubelet no pod helps any more: such a node is powered off where others are stopped; not so the host of the datastore, which
/// the servers still need.
fn goes_with_its_stop(settings: &Settings, host: &Host) -> bool {
    host.access == Access::HelperPod && host.k3s.is_some() && !is_datastore(settings, host)
}

fn is_datastore(settings: &Settings, host: &Host) -> bool {
    matches!(&settings.datastore, Datastore::External { host: name, .. } if *name == host.name)
}
