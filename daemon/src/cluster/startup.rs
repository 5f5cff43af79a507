//! Pure: inventory and what is asked for → the plan of a start-up.
//!
//! The order is that of FEATURES "Power: starting up": mains and charge, hosts, the datastore's host, all servers together, the API, agents,
//! nodes Ready since their present boot, our own cordons, Vault, Flux's source, Flux resumed by what we hold, everything applied, workloads,
//! what answers from outside, and all of it stable. What is so already is only looked at: on a healthy cluster it changes nothing.

pub mod exposed;
pub mod judge;
mod steps;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Clocks, Datastore, Settings, repairs};
use crate::runbook::{Phase, PlannedStep, Runbook};
use crate::site::{Access, Gate, Guard, Host, K3sRole, Learned, NodeName, Returns, Step, Topology};

use steps::Maker;
pub use table::{GATES, GUARDS, GuardRow, HARD_END, Row, row};

/// The kind of its runs.
pub const KIND: &str = "startup";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StartupOrder {
    /// Hosts that are not waited for: the run ends degraded where they are not back.
    pub ignore: BTreeSet<NodeName>,
    /// Goes on while a UPS runs on battery.
    pub allow_on_battery: bool,
    /// Least charge of every UPS, in percent; the setting where absent.
    pub min_battery: Option<u8>,
    /// So long nothing may regress at the end; the setting where absent.
    pub stability_window: Option<Duration>,
    /// Ingress, services and endpoints are waited for so long without progress; the setting where absent.
    pub checklist_timeout: Option<Duration>,
    /// The stable window is waited for so long; the setting where absent.
    pub stability_timeout: Option<Duration>,
    /// What storage needs is not looked for on hosts.
    pub skip_packages: bool,
    /// The site has UPSes.
    pub has_ups: bool,
    /// The site has another metis host.
    pub two_hosts: bool,
}

/// Plans a start-up. Total: it asks nobody.
pub fn plan(settings: &Settings, topology: &Topology, learned: &Learned, order: &StartupOrder) -> Runbook<Step> {
    let hosts: Vec<&Host> = topology.hosts.values().filter(|host| concerned(settings, host)).collect();
    let wanted: Vec<&Host> = hosts.iter().copied().filter(|host| !order.ignore.contains(&host.name)).collect();
    let settings = &asked(settings, order);
    let maker = Maker { settings, learned };
    let mut book = Runbook::new(KIND, title(&wanted), phases(&maker, topology, order, &wanted, &hosts));
    book.warnings = warnings(settings, topology, order);
    book.refusals = refusals(settings, topology, order, &wanted);
    book
}

/// The settings with the times that were asked for.
fn asked(settings: &Settings, order: &StartupOrder) -> Settings {
    let mut settings = settings.clone();
    let startup = &mut settings.startup;
    startup.checklist_timeout = order.checklist_timeout.unwrap_or(startup.checklist_timeout);
    startup.stability_timeout = order.stability_timeout.unwrap_or(startup.stability_timeout);
    startup.stability_window = order.stability_window.unwrap_or(startup.stability_window);
    settings
}

fn title(wanted: &[&Host]) -> String {
    format!("start the cluster on {} hosts", wanted.iter().filter(|host| host.k3s.is_some()).count())
}

/// Hosts of the cluster that metis reaches, and the datastore's.
fn concerned(settings: &Settings, host: &Host) -> bool {
    host.access != Access::None && (host.k3s.is_some() || is_datastore(settings, host))
}

/// Nothing but a person brings it back.
fn stays_off(host: &Host) -> bool {
    host.returns == Returns::ByHand || (host.returns == Returns::WakeOnLan && host.mac.is_none())
}

fn is_datastore(settings: &Settings, host: &Host) -> bool {
    matches!(&settings.datastore, Datastore::External { host: name, .. } if *name == host.name)
}

/// Hosts of whose clocks a majority has to be synchronised.
fn quorum(settings: &Settings, topology: &Topology, wanted: &[&Host]) -> Option<BTreeSet<NodeName>> {
    let this = topology.hosts.values().filter(|host| host.this_host);
    let asked = wanted.iter().copied().filter(|host| host.access != Access::HelperPod).chain(this);
    (settings.startup.clocks == Clocks::Quorum).then(|| asked.map(|host| host.name.clone()).collect())
}

fn needs_packages(settings: &Settings, topology: &Topology, order: &StartupOrder, host: &Host) -> bool {
    !order.skip_packages && !settings.startup.packages.is_empty() && host.k3s.is_some() && topology.storage.contains(&host.name)
}

/// Phases without steps are left out.
fn phases(maker: &Maker<'_>, topology: &Topology, order: &StartupOrder, wanted: &[&Host], all: &[&Host]) -> Vec<Phase<Step>> {
    let settings = maker.settings;
    let k3s = |role: K3sRole| wanted.iter().copied().filter(move |host| host.k3s == Some(role));
    let nodes = || wanted.iter().copied().filter(|host| host.k3s.is_some());
    let others = |host: &&Host| !host.this_host;
    // A host that only the API reaches is up when its node is.
    let reached = |host: &&Host| host.access != Access::HelperPod;
    let (datastore, rest): (Vec<_>, Vec<_>) = wanted.iter().copied().partition(|host| is_datastore(settings, host));
    let storage: Vec<&Host> = wanted.iter().copied().filter(|host| needs_packages(settings, topology, order, host)).collect();
    let mut phases = vec![
        phase("command", order.two_hosts.then(|| maker.gate(Gate::Command))),
        phase("wait for power", power(maker, order)),
        phase("wait for the datastore", datastore.into_iter().filter(others).flat_map(|host| maker.come_up(host))),
        phase("wait for hosts", rest.into_iter().filter(others).filter(reached).flat_map(|host| maker.come_up(host))),
        phase("clocks", quorum(settings, topology, wanted).map(|hosts| maker.gate(Gate::Clocks { hosts }))),
        phase("host packages", storage.iter().copied().filter(reached).map(|host| maker.packages(host))),
        phase("start servers", k3s(K3sRole::Server).filter(reached).map(|host| maker.bring_up(host, K3sRole::Server))),
    ];
    if settings.kubeconfig.is_none() {
        phases.push(phase("start agents", k3s(K3sRole::Agent).filter(reached).map(|host| maker.bring_up(host, K3sRole::Agent))));
        phases.retain(|phase| !phase.steps.is_empty());
        return phases;
    }
    phases.extend([
        phase("control plane", [maker.gate(Gate::ControlPlane)]),
        phase("Lease", order.two_hosts.then(|| maker.gate(Gate::Lease))),
        phase("start agents", k3s(K3sRole::Agent).filter(reached).map(|host| maker.bring_up(host, K3sRole::Agent))),
        phase("nodes", nodes().map(|host| maker.gate(Gate::NodeReady { node: host.name.clone() }))),
        phase("packages of nodes", storage.into_iter().filter(|host| !reached(host)).map(|host| maker.packages(host))),
        phase("cordons", [maker.release_cordons(&order.ignore)]),
        // Before Flux: its Git server may need what Vault keeps.
        phase("Vault", settings.startup.vault.is_some().then(|| maker.gate(Gate::Vault))),
        phase("Flux source", [maker.gate(Gate::FluxSource)]),
        serial("resume Flux", vec![maker.release_flux(), maker.reconcile()]),
        phase("Flux", [maker.gate(Gate::Flux)]),
        phase("namespaces", (!settings.startup.namespaces.is_empty()).then(|| maker.gate(Gate::Namespaces))),
        phase("workloads", [maker.gate(Gate::Workloads)]),
        phase("ingress", settings.startup.ingress.check.then(|| maker.gate(Gate::Ingress))),
        phase("services", (!settings.startup.services.is_empty()).then(|| maker.gate(Gate::Services))),
        phase("endpoints", (!settings.startup.endpoints.is_empty()).then(|| maker.gate(Gate::Endpoints))),
        phase("soak", [maker.gate(Gate::Soak { window: settings.startup.stability_window })]),
        phase("missing hosts", all.iter().filter(|host| order.ignore.contains(&host.name)).map(|host| maker.missing(host))),
    ]);
    phases.retain(|phase| !phase.steps.is_empty());
    phases
}

fn power(maker: &Maker<'_>, order: &StartupOrder) -> Vec<PlannedStep<Step>> {
    let startup = &maker.settings.startup;
    let mut steps = Vec::new();
    if order.has_ups && !order.allow_on_battery {
        steps.push(maker.gate(Gate::Mains));
    }
    let minimum = order.min_battery.unwrap_or(startup.min_battery);
    if order.has_ups && minimum > 0 && !order.allow_on_battery {
        steps.push(maker.gate(Gate::Charge { minimum }));
    }
    steps.extend((startup.clocks == Clocks::Strict).then(|| maker.gate(Gate::Clocks { hosts: BTreeSet::new() })));
    steps
}

/// All of its steps side by side.
fn phase(name: &str, steps: impl IntoIterator<Item = PlannedStep<Step>>) -> Phase<Step> {
    let steps: Vec<_> = steps.into_iter().collect();
    Phase { name: name.to_owned(), concurrency: u32::try_from(steps.len()).unwrap_or(u32::MAX).max(1), steps }
}

fn serial(name: &str, steps: Vec<PlannedStep<Step>>) -> Phase<Step> {
    Phase::serial(name, steps)
}

fn refusals(settings: &Settings, topology: &Topology, order: &StartupOrder, wanted: &[&Host]) -> Vec<Guard> {
    let guard = |name: &str, message: String| Guard { name: name.to_owned(), message, waiver: None };
    let mut guards = Vec::new();
    if !wanted.iter().any(|host| host.k3s == Some(K3sRole::Server)) {
        let message = "no k3s server is left that metis may start (inventory: `k3s.role`, `host.access`, `host.managed`; --ignore-node)";
        guards.push(guard("startup.empty", message.to_owned()));
    }
    for node in order.ignore.iter().filter(|node| !topology.hosts.contains_key(*node)) {
        guards.push(guard("startup.unknown_node", format!("--ignore-node {node}: the inventory has no such node")));
    }
    for host in wanted.iter().filter(|host| host.access == Access::HelperPod && host.k3s == Some(K3sRole::Server)) {
        let message =
            format!("{}: a k3s server cannot be started through a pod of the API that it serves; give it `access: ssh`", host.name);
        guards.push(guard("startup.server_access", message));
    }
    guards.extend(mapping(topology).into_iter().map(|message| guard("inventory.mapping", message)));
    if settings.kubeconfig.is_none() {
        let message =
            "the site has no `cluster.kubeconfig`: nothing could say whether the cluster is up; write { file: /etc/metis/kubeconfig }";
        guards.push(guard("cluster.kubeconfig", message.to_owned()));
    }
    guards
}

/// Two hosts of one name or address: what is done to one would be done to, or believed of, the other.
fn mapping(topology: &Topology) -> Vec<String> {
    let mut troubles = Vec::new();
    let mut nodes: BTreeMap<&str, &NodeName> = BTreeMap::new();
    let mut places: BTreeMap<(&str, u16), &NodeName> = BTreeMap::new();
    for host in topology.hosts.values().filter(|host| host.k3s.is_some() && host.access != Access::None) {
        if let Some(first) = nodes.insert(&host.node_name, &host.name) {
            let node = &host.node_name;
            troubles.push(format!("{first} and {} are both the Kubernetes node {node}; give each its own `host.node_name`", host.name));
        }
        let by_ssh = host.access == Access::Ssh;
        if let Some(first) = by_ssh.then(|| places.insert((&host.address, host.port), &host.name)).flatten() {
            let place = format!("{}:{}", host.address, host.port);
            troubles.push(format!("{first} and {} are both reached at {place}; give each its own `host.address`", host.name));
        }
    }
    troubles
}

fn warnings(settings: &Settings, topology: &Topology, order: &StartupOrder) -> Vec<String> {
    let mut warnings = Vec::new();
    let list = |hosts: Vec<&Host>| hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
    let left: Vec<_> = topology.hosts.values().filter(|host| host.access == Access::None && host.k3s.is_some()).collect();
    if !left.is_empty() {
        warnings
            .push(format!("left alone, because metis may not act there (`host.managed: false` or `host.access: none`): {}", list(left)));
    }
    let by_hand: Vec<_> = topology.hosts.values().filter(|host| concerned(settings, host) && stays_off(host) && !host.this_host).collect();
    if !by_hand.is_empty() {
        warnings.push(format!("do not come back by themselves where they are off, and are waited for: {}", list(by_hand)));
    }
    if settings.kubeconfig.is_some() {
        warnings.push(repairs::allowed(&settings.startup));
    }
    if !order.ignore.is_empty() {
        let names: Vec<_> = order.ignore.iter().map(NodeName::as_str).collect();
        warnings.push(format!("not waited for (--ignore-node); the run ends degraded where they are not back: {}", names.join(", ")));
    }
    if order.has_ups && order.allow_on_battery {
        warnings.push("--allow-on-battery: the mains are not waited for, and a shutdown may follow at once".to_owned());
    }
    warnings
}
