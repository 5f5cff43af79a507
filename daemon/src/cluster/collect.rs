//! What a shutdown or start-up has to know of the cluster, each part on its own: what one cannot see does not hide the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::drain::{Fate, Rules, daemon_set, fate};
use super::flux::{self, Versions};
use super::kube::{Api, Failure, List, path};
use super::mark::marked;
use super::objects::{Loose, Node, Pod, is_true};
use super::port::{ClusterError, Facts, NodeFacts};
use super::volumes;
use crate::site::ObjectRef;

/// Beyond the Lease's own duration (40 s): the node controller takes 50 s, and `Date` counts whole seconds.
const SLACK: Duration = Duration::from_secs(10);

/// Everything that can be seen until `until`.
///
/// # Errors
/// Where nothing at all could be seen: the first reason.
pub async fn collect(api: &Api, versions: &Versions, rules: &Rules, until: Instant) -> Result<Facts, ClusterError> {
    let (nodes, flux, replicas, volumes, replica_nodes) = tokio::join!(
        nodes(api, rules, until),
        flux::list(api, versions, until),
        replicas(api, until),
        volumes::attached(api, None, until),
        volumes::replicas(api, until),
    );
    let mut facts = Facts::default();
    let mut blind = Blind::default();
    if let Some((nodes, unseen)) = blind.note(nodes) {
        facts.nodes = nodes;
        blind.unseen.extend(unseen);
    }
    facts.flux = blind.note(flux).unwrap_or_default();
    facts.replicas = blind.note(replicas).unwrap_or_default();
    facts.volumes = blind.note(volumes).unwrap_or_default();
    facts.replica_nodes = blind.note(replica_nodes).unwrap_or_default();
    match blind.first {
        Some(error) if blind.seen == 0 => Err(error),
        _ => {
            facts.unseen = blind.unseen;
            Ok(facts)
        }
    }
}

/// What could not be seen.
#[derive(Default)]
struct Blind {
    seen: u32,
    unseen: Vec<String>,
    first: Option<ClusterError>,
}

impl Blind {
    fn note<T>(&mut self, result: Result<T, ClusterError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.seen += 1;
                Some(value)
            }
            Err(error) => {
                self.unseen.push(error.to_string());
                self.first.get_or_insert(error);
                None
            }
        }
    }
}

/// Nodes; beside them what could not be seen of them.
async fn nodes(api: &Api, rules: &Rules, until: Instant) -> Result<(Vec<NodeFacts>, Vec<String>), ClusterError> {
    let (nodes, leases, pods, sets) = (
        path("v1", "", "nodes", ""),
        path("coordination.k8s.io/v1", "kube-node-lease", "leases", ""),
        path("v1", "", "pods", ""),
        path("apps/v1", "", "daemonsets", ""),
    );
    let (nodes, leases, pods, sets) = tokio::join!(
        api.list::<Node>(&nodes, &[], until),
        api.list::<Loose>(&leases, &[], until),
        api.list::<Pod>(&pods, &[], until),
        api.list::<Loose>(&sets, &[], until),
    );
    let nodes = nodes.map_err(|failure| failure.error("nodes"))?;
    let mut unseen = Vec::new();
    let mut note = |failure: Failure, what: &str| unseen.push(failure.error(what).to_string());
    let leases = leases.map_err(|failure| note(failure, "Leases of the nodes, so that Ready may be stale")).ok();
    let pods = pods.map_err(|failure| note(failure, "pods")).map_or_else(|()| Vec::new(), |list| list.items);
    // Where DaemonSets cannot be seen, all count as being there.
    let sets = sets.map_err(|failure| note(failure, "DaemonSets")).ok();
    let gone = sets.map(|list| gone_sets(&pods, &list.items)).unwrap_or_default();
    let evictable = evictable(&pods, rules, &gone);
    let facts = nodes.items.into_iter().map(|node| NodeFacts {
        ready: is_true(&node.status.conditions, "Ready") && leases.as_ref().is_none_or(|leases| fresh(&node.metadata.name, leases)),
        unschedulable: node.spec.unschedulable,
        mark: marked(&node.metadata).mark(),
        boot_id: node.status.node_info.boot_id,
        evictable: evictable.get(&node.metadata.name).copied().unwrap_or(0),
        name: node.metadata.name,
    });
    Ok((facts.collect(), unseen))
}

/// Whether the node's Lease was renewed in time, by the API server's clock.
pub fn fresh(node: &str, leases: &List<Loose>) -> bool {
    let Some(lease) = leases.items.iter().find(|lease| lease.metadata.name == node) else { return false };
    let renewed: Option<Timestamp> = lease.spec_str("/renewTime").parse().ok();
    let lasts = lease.spec.get("leaseDurationSeconds").and_then(Value::as_u64).unwrap_or(40);
    let (Some(renewed), Some(date)) = (renewed, leases.date) else { return false };
    // A Lease from the future is of a clock that is wrong, and may be old.
    date.duration_since(renewed).unsigned_abs() <= Duration::from_secs(lasts) + SLACK
}

fn gone_sets(pods: &[Pod], sets: &[Loose]) -> BTreeSet<(String, String)> {
    let there: BTreeSet<(&str, &str)> = sets.iter().map(|set| (set.metadata.namespace.as_str(), set.metadata.name.as_str())).collect();
    pods.iter().filter_map(daemon_set).filter(|(namespace, name)| !there.contains(&(namespace, name))).collect()
}

fn evictable(pods: &[Pod], rules: &Rules, gone: &BTreeSet<(String, String)>) -> BTreeMap<String, u32> {
    let mut by_node: BTreeMap<String, u32> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !matches!(fate(pod, rules, gone), Fate::Keep(_))) {
        *by_node.entry(pod.spec.node_name.clone()).or_default() += 1;
    }
    by_node
}

/// `spec.replicas` of Deployments and StatefulSets.
async fn replicas(api: &Api, until: Instant) -> Result<Vec<(ObjectRef, i32)>, ClusterError> {
    let mut all = Vec::new();
    for (kind, resource) in [("Deployment", "deployments"), ("StatefulSet", "statefulsets")] {
        let list = api.list::<Loose>(&path("apps/v1", "", resource, ""), &[], until).await;
        let list = list.map_err(|failure| failure.error(&format!("{kind}s")))?;
        all.extend(list.items.iter().map(|object| {
            let replicas = object.spec.get("replicas").and_then(Value::as_i64).unwrap_or(1);
            (ObjectRef::new(kind, &object.metadata.namespace, &object.metadata.name), replicas as i32)
        }));
    }
    Ok(all)
}
