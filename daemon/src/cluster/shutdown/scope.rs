//! Which hosts a shutdown concerns, and how.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::port::{Facts, NodeFacts};
use crate::cluster::{Datastore, Settings, ShutdownMode, ShutdownOrder};
use crate::site::{Access, DomainName, Host, K3sRole, NodeName, Topology, UpsName};

/// No domain is left that the cluster could go on with.
const EVERYTHING_FAILS: &str = "every power domain of the site fails";

/// What is concerned.
pub(super) struct Scope<'a> {
    topology: &'a Topology,
    /// Nodes as seen, by Kubernetes name.
    pub seen: BTreeMap<&'a str, &'a NodeFacts>,
    /// There is an API server to talk to.
    pub has_api: bool,
    /// All k3s services stop, not only those of the hosts that lose their power.
    pub whole_cluster: bool,
    /// Why, where the outage is a partial one.
    pub because: Vec<String>,
    /// Hosts that lose their power, or all.
    pub shed: BTreeSet<&'a NodeName>,
    /// Hosts on which k3s is stopped.
    pub stopped: BTreeSet<&'a NodeName>,
    mode: ShutdownMode,
    /// UPSes whose other machines are told to shut down.
    pub tell: BTreeSet<UpsName>,
    /// UPSes that are to cut their outlets.
    pub cut: BTreeSet<UpsName>,
}

impl<'a> Scope<'a> {
    pub(super) fn of(settings: &'a Settings, topology: &'a Topology, facts: &'a Facts, order: &ShutdownOrder) -> Self {
        let seen: BTreeMap<_, _> = facts.nodes.iter().map(|node| (node.name.as_str(), node)).collect();
        let shed: BTreeSet<_> = topology.hosts.values().filter(|host| is_shed(host, order)).map(|host| &host.name).collect();
        let because = match &order.domains {
            None => Vec::new(),
            Some(failing) if topology.domains.keys().all(|domain| failing.contains(domain)) => vec![EVERYTHING_FAILS.to_owned()],
            Some(_) => losses(settings, topology, facts, &seen, &shed),
        };
        let whole_cluster = order.domains.is_none() || !because.is_empty();
        let concerned = |host: &&Host| host.k3s.is_some() && reachable(host) && (whole_cluster || shed.contains(&host.name));
        let stopped = topology.hosts.values().filter(concerned).map(|host| &host.name).collect();
        let mut scope = Self {
            topology,
            seen,
            has_api: settings.kubeconfig.is_some(),
            whole_cluster,
            because,
            shed,
            stopped,
            mode: order.mode,
            tell: BTreeSet::new(),
            cut: BTreeSet::new(),
        };
        let this_goes = scope.off().any(|host| host.this_host);
        let ours = failing_upses(topology, order);
        // Machines of others are left alone where their power stays.
        if order.mode == ShutdownMode::HostPoweroff && (order.cause.emergency() || order.cut_outlets) {
            scope.tell.clone_from(&ours);
        }
        if order.cut_outlets && this_goes {
            scope.cut = ours;
        }
        scope
    }

    /// Hosts on which k3s of that role is stopped.
    pub(super) fn k3s(&self, role: K3sRole) -> impl Iterator<Item = &'a Host> + '_ {
        self.hosts(&self.stopped).filter(move |host| host.k3s == Some(role))
    }

    /// Hosts on which k3s is stopped.
    pub(super) fn every_k3s(&self) -> impl Iterator<Item = &'a Host> + use<'a> {
        self.hosts(&self.stopped)
    }

    /// A host of the inventory on which metis may act.
    pub(super) fn host(&self, name: &NodeName) -> Option<&'a Host> {
        self.topology.hosts.get(name).filter(|host| reachable(host))
    }

    /// Nodes that are drained: workers, and servers that were seen to run pods.
    pub(super) fn drained(&self) -> impl Iterator<Item = &'a Host> + '_ {
        let runs_pods = |host: &Host| self.node(host).is_some_and(|node| node.evictable > 0);
        self.hosts(&self.stopped).filter(move |host| self.has_api && (host.k3s == Some(K3sRole::Agent) || runs_pods(host)))
    }

    /// Hosts that are powered off.
    pub(super) fn off(&self) -> impl Iterator<Item = &'a Host> + '_ {
        self.hosts(&self.shed).filter(|host| self.mode == ShutdownMode::HostPoweroff && reachable(host))
    }

    pub(super) fn is_off(&self, host: &Host) -> bool {
        self.off().any(|other| other.name == host.name)
    }

    /// The node as seen.
    pub(super) fn node(&self, host: &Host) -> Option<&'a NodeFacts> {
        self.seen.get(host.node_name.as_str()).copied()
    }

    /// Seen, and known not to be ready.
    pub(super) fn not_ready(&self, host: &Host) -> bool {
        self.node(host).is_some_and(|node| !node.ready)
    }

    fn hosts(&self, names: &BTreeSet<&'a NodeName>) -> impl Iterator<Item = &'a Host> + use<'a> {
        let hosts: Vec<_> = names.iter().filter_map(|name| self.topology.hosts.get(*name)).collect();
        hosts.into_iter()
    }
}

/// Metis may act on it.
pub(super) fn reachable(host: &Host) -> bool {
    host.access != Access::None
}

/// Whether all that feeds it fails. A host of which no feed is known loses its power only where a person asks for the whole site: no UPS
/// says that it has to.
pub(super) fn is_shed(host: &Host, order: &ShutdownOrder) -> bool {
    match &order.domains {
        None => !order.cause.emergency() || !host.domains.is_empty(),
        Some(failing) => !host.domains.is_empty() && host.domains.is_subset(failing),
    }
}

/// UPSes with their upsd on this host that feed what fails.
fn failing_upses(topology: &Topology, order: &ShutdownOrder) -> BTreeSet<UpsName> {
    let fails = |domain: &DomainName| order.domains.as_ref().is_none_or(|failing| failing.contains(domain));
    let upses = topology.domains.iter().filter(|(domain, _)| fails(domain)).flat_map(|(_, upses)| upses);
    upses.filter(|ups| topology.local_upses.contains(ups)).cloned().collect()
}

/// What the rest of the cluster cannot do without: then all of it is stopped in order.
fn losses(
    settings: &Settings,
    topology: &Topology,
    facts: &Facts,
    seen: &BTreeMap<&str, &NodeFacts>,
    shed: &BTreeSet<&NodeName>,
) -> Vec<String> {
    let mut losses = Vec::new();
    let works = |host: &Host| seen.get(host.node_name.as_str()).is_none_or(|node| node.ready);
    let servers: Vec<_> = topology.hosts.values().filter(|host| host.k3s == Some(K3sRole::Server)).collect();
    let staying = servers.iter().filter(|host| !shed.contains(&host.name) && works(host)).count();
    let lost = servers.iter().any(|host| shed.contains(&host.name));
    let quorum = match settings.datastore {
        Datastore::EmbeddedEtcd { .. } => servers.len() / 2 + 1,
        Datastore::External { .. } | Datastore::Sqlite => 1,
    };
    if lost && staying < quorum {
        losses.push(format!("{staying} of {} servers would stay, {quorum} are needed", servers.len()));
    }
    if let Datastore::External { host, .. } = &settings.datastore
        && shed.contains(host)
    {
        losses.push(format!("{host} holds the datastore"));
    }
    let shed_nodes: BTreeSet<&str> = shed.iter().filter_map(|name| topology.hosts.get(*name)).map(|host| host.node_name.as_str()).collect();
    let gone: Vec<_> = facts
        .replica_nodes
        .iter()
        .filter(|(_, nodes)| !nodes.is_empty() && nodes.iter().all(|node| shed_nodes.contains(node.as_str())))
        .map(|(volume, _)| volume.as_str())
        .collect();
    if !gone.is_empty() {
        losses.push(format!("the last replicas of {} are there", super::warn::few(&gone)));
    }
    losses
}
