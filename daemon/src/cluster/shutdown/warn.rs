//! What a person should know before it is begun.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::scope::{is_shed, reachable};
use super::steps::Maker;
use crate::cluster::{Datastore, ShutdownMode};
use crate::runbook::{Run, Runbook, cut};
use crate::site::{Access, Host, Returns, Step, Topology};

/// Names that are listed before the rest is counted.
const LISTED: usize = 8;

pub(super) fn warnings(maker: &Maker<'_>, topology: &Topology, book: &Runbook<Step>) -> Vec<String> {
    let mut lines = Vec::new();
    extent(maker, &mut lines);
    hosts(maker, topology, &mut lines);
    cluster(maker, topology, &mut lines);
    volumes(maker, &mut lines);
    returns(maker, &mut lines);
    time(maker, book, &mut lines);
    lines.extend(maker.facts.unseen.iter().map(|what| format!("not seen: {what}")));
    lines
}

/// `a, b and 3 more`.
pub(super) fn few<T: AsRef<str>>(names: &[T]) -> String {
    let listed: Vec<_> = names.iter().take(LISTED).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(LISTED) {
        0 => listed.join(", "),
        more => format!("{} and {more} more", listed.join(", ")),
    }
}

fn names<'a>(hosts: impl Iterator<Item = &'a Host>) -> Vec<&'a str> {
    hosts.map(|host| host.name.as_str()).collect()
}

fn extent(maker: &Maker<'_>, lines: &mut Vec<String>) {
    let scope = maker.scope;
    // Where all of it loses its power there is nothing to explain.
    let keeps_power = scope.every_k3s().any(|host| !scope.shed.contains(&host.name));
    if !scope.because.is_empty() && keeps_power {
        let because = scope.because.join("; ");
        lines.push(format!("all k3s services stop, though only a part of the site loses its power: {because}"));
    }
}

fn hosts(maker: &Maker<'_>, topology: &Topology, lines: &mut Vec<String>) {
    let scope = maker.scope;
    let concerned = |host: &&Host| scope.shed.contains(&host.name) || (scope.whole_cluster && host.k3s.is_some());
    let alone = names(topology.hosts.values().filter(concerned).filter(|host| !reachable(host)));
    if !alone.is_empty() {
        lines.push(format!("left alone, metis has no access or is not to manage them: {}", few(&alone)));
    }
    if let Some(failing) = &maker.order.domains {
        let stays = |host: &&Host| !is_shed(host, maker.order) && host.domains.iter().any(|domain| failing.contains(domain));
        for host in topology.hosts.values().filter(stays) {
            let others: Vec<_> = host.domains.difference(failing).map(ToString::to_string).collect();
            lines.push(format!("{} stays, it is fed by {} as well", host.name, others.join(", ")));
        }
    }
    let unfed = |host: &&Host| host.domains.is_empty() && reachable(host) && !scope.shed.contains(&host.name);
    let on = names(topology.hosts.values().filter(unfed).filter(|host| host.this_host || scope.stopped.contains(&host.name)));
    if maker.order.mode == ShutdownMode::HostPoweroff && !on.is_empty() {
        lines.push(format!("not powered off, no UPS is known to feed them (power.domains): {}", few(&on)));
    }
    if maker.order.mode == ShutdownMode::HostPoweroff && !topology.hosts.values().any(|host| host.this_host) {
        lines.push("this host is not in the inventory (hosts.this_host): it stays on".to_owned());
    }
    let pods = |host: &&Host| host.access == Access::HelperPod;
    for host in scope.off().filter(pods).filter(|host| super::is_datastore(maker.settings, host)) {
        lines.push(format!(
            "{} holds the datastore and is reached by helper pod only: once the servers have stopped nobody powers it off",
            host.name
        ));
    }
    let stopped: Vec<_> = scope.every_k3s().filter(pods).filter(|host| !scope.is_off(host)).collect();
    if !stopped.is_empty() {
        let names = few(&names(stopped.into_iter()));
        lines.push(format!(
            "reached by helper pod only, so what k3s leaves running is not ended there and metis cannot start it again: {names}"
        ));
    }
}

fn cluster(maker: &Maker<'_>, topology: &Topology, lines: &mut Vec<String>) {
    let scope = maker.scope;
    if !scope.has_api && !scope.stopped.is_empty() {
        lines.push("no kubeconfig (cluster.kubeconfig): Flux is not suspended and nothing is drained, k3s is just stopped".to_owned());
    }
    let down = names(scope.every_k3s().filter(|host| scope.not_ready(host)));
    if !down.is_empty() {
        lines.push(format!("not Ready, so probably out of reach; cordoned, not drained: {}", few(&down)));
    }
    let known: BTreeSet<_> = topology.hosts.values().map(|host| host.node_name.as_str()).collect();
    let strangers: Vec<_> = scope.seen.keys().filter(|node| !known.contains(*node)).copied().collect();
    if !strangers.is_empty() {
        lines.push(format!("nodes of the cluster that the inventory lacks, they are not stopped: {}", few(&strangers)));
    }
    let missing = names(scope.every_k3s().filter(|host| !scope.seen.is_empty() && scope.node(host).is_none()));
    if !missing.is_empty() {
        lines.push(format!("no nodes of the cluster, though the inventory has a k3s role for them: {}", few(&missing)));
    }
    let whole = scope.whole_cluster && !scope.stopped.is_empty();
    if whole && (maker.order.skip_etcd_snapshot || maker.save_datastore().is_none()) {
        let why = match &maker.settings.datastore {
            _ if maker.order.skip_etcd_snapshot => "as asked for",
            Datastore::EmbeddedEtcd { .. } => "no server can be reached",
            Datastore::External { dump: None, .. } => "cluster.datastore has no dump command",
            Datastore::External { .. } => "its host cannot be reached",
            Datastore::Sqlite => "SQLite is copied with the server stopped (server/db)",
        };
        lines.push(format!("the datastore is not saved: {why}"));
    }
}

/// Volumes that will not be detached by the time their node goes.
fn volumes(maker: &Maker<'_>, lines: &mut Vec<String>) {
    let scope = maker.scope;
    let stays = |host: &Host| maker.order.skip_drain || scope.not_ready(host);
    let mut held: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for host in scope.every_k3s() {
        let here = maker.facts.volumes.iter().filter(|volume| volume.node == host.node_name);
        // Attached by Longhorn's own page: nothing but a person detaches it.
        let of_host: Vec<_> =
            here.filter(|volume| stays(host) || volume.held_by.contains("longhorn-api")).map(|volume| volume.name.as_str()).collect();
        if !of_host.is_empty() {
            held.insert(host.name.as_str(), of_host);
        }
    }
    for (host, volumes) in held {
        let what = if scope.off().any(|off| off.name.as_str() == host) { "powered off" } else { "stopped" };
        lines.push(format!("{host} will be {what} with volumes attached: {}", few(&volumes)));
    }
}

fn returns(maker: &Maker<'_>, lines: &mut Vec<String>) {
    let mut by: BTreeMap<Returns, Vec<&str>> = BTreeMap::new();
    let asleep: Vec<&str> = names(maker.scope.off().filter(|host| host.returns == Returns::WakeOnLan && host.mac.is_none()));
    if !asleep.is_empty() {
        lines.push(format!("will not wake by themselves, their MAC address is not known (inventory: `host.mac`): {}", few(&asleep)));
    }
    for host in maker.scope.off().filter(|host| !asleep.contains(&host.name.as_str())) {
        by.entry(host.returns).or_default().push(host.name.as_str());
    }
    for (how, hosts) in by {
        let how = match how {
            Returns::AcCycle if !maker.scope.cut.is_empty() => "by themselves, once the UPS has cut and restored its outlets (ac-cycle)",
            Returns::AcCycle => "by themselves, but only if their power really goes and returns: power.cut_outlets makes sure (ac-cycle)",
            Returns::WakeOnLan => "by a magic packet (wake-on-lan)",
            Returns::ByHand => "when a person presses the button (by-hand)",
        };
        lines.push(format!("come back {how}: {}", few(&hosts)));
    }
}

/// What the runtime that is left does to the plan.
fn time(maker: &Maker<'_>, book: &Runbook<Step>, lines: &mut Vec<String>) {
    let Some(remaining) = maker.order.remaining else { return };
    if book.needed() > remaining {
        let tail = if book.tail.is_zero() { String::new() } else { format!(" and {} until the hosts are off", words(book.tail)) };
        lines.push(format!("expected to take {}{tail}, and {} are left", words(book.predicted()), words(remaining)));
    }
    let run = Run::new(book.clone());
    let limits = cut(&run, remaining.saturating_sub(book.tail));
    for phase in &book.phases {
        let limit = |step: &crate::runbook::PlannedStep<Step>| limits.get(&step.id).copied().unwrap_or_default();
        let passed: Vec<_> = phase.steps.iter().filter(|step| limit(step).is_zero()).map(|step| step.title.as_str()).collect();
        if !passed.is_empty() {
            lines.push(format!("no time for: {}", few(&passed)));
        }
        let squeezed = phase.steps.iter().filter(|step| !limit(step).is_zero() && limit(step) < step.predicted);
        let squeezed: Vec<_> =
            squeezed.map(|step| format!("{} ({} of {})", step.title, words(limit(step)), words(step.predicted))).collect();
        if !squeezed.is_empty() {
            lines.push(format!("cut short: {}", few(&squeezed)));
        }
    }
}

fn words(time: Duration) -> String {
    format!("{} s", time.as_secs())
}
