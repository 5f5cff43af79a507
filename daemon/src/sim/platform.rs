//! A simulated cluster as a start-up looks at it.

use std::time::Duration;

use super::site::{Fault, Model, Site};
use crate::cluster::port::{ClusterError, Described, NodeDescribed, Platform, RightSeen, Survey};
use crate::cluster::seen::{AppliedSeen, NodeSeen, Part, Seen, SourceSeen, WorkloadSeen};
use crate::site::ObjectRef;

/// What the Git server holds.
pub(super) const REVISION: &str = "main@sha1:5eed";
const SOURCE: &str = "flux-system/flux-system";

#[tonic::async_trait]
impl Platform for Site {
    async fn ready(&self, within: Duration) -> Result<(), ClusterError> {
        self.call(within, |_| Ok(())).await
    }

    async fn see(&self, within: Duration) -> Seen {
        match self.call(within, |model| Ok(seen(model))).await {
            Ok(seen) => seen,
            Err(error) => {
                let why = error.to_string();
                Seen {
                    nodes: Err(why.clone()),
                    sources: Err(why.clone()),
                    flux: Err(why.clone()),
                    workloads: Err(why.clone()),
                    troubled: Err(why.clone()),
                    namespaces: Err(why),
                }
            }
        }
    }

    async fn nodes(&self, within: Duration) -> Result<Vec<NodeSeen>, ClusterError> {
        self.call(within, |model| Ok(nodes(model))).await
    }

    async fn ask_for_a_person(&self, node: &str, because: Option<&str>, within: Duration) -> Result<(), ClusterError> {
        self.call(within, |model| {
            let Some(known) = model.nodes.get_mut(node) else { return Err(ClusterError::Gone(format!("node {node} is not there"))) };
            known.manual_action = because.map(ToOwned::to_owned);
            Ok(())
        })
        .await
    }

    async fn reconcile(&self, object: &ObjectRef, _token: &str, within: Duration) -> Result<(), ClusterError> {
        self.call(within, |model| {
            model.log.push(format!("reconcile {object}"));
            Ok(())
        })
        .await
    }
}

#[tonic::async_trait]
impl Survey for Site {
    async fn rights(&self, _helpers: Option<&str>, within: Duration) -> Result<Vec<RightSeen>, ClusterError> {
        self.call(within, |_| Ok(vec![RightSeen { what: "everything".to_owned(), allowed: true }])).await
    }

    async fn sources(&self, within: Duration) -> Part<Vec<SourceSeen>> {
        self.see(within).await.sources
    }

    async fn describe(&self, within: Duration) -> Result<Described, ClusterError> {
        self.call(within, |model| {
            let node = |name: &String| NodeDescribed { name: name.clone(), hostname: name.clone(), ..NodeDescribed::default() };
            Ok(Described { nodes: model.nodes.keys().map(node).collect(), longhorn: Ok(std::collections::BTreeMap::new()) })
        })
        .await
    }
}

pub(super) fn nodes(model: &Model) -> Vec<NodeSeen> {
    let seen = model.nodes.iter().map(|(name, node)| NodeSeen {
        name: name.clone(),
        // What stood before a power cut stands until somebody writes it anew.
        ready: true,
        lease_fresh: kubelet(model, name),
        boot_id: boot_id(name, node.boot),
        unschedulable: node.unschedulable,
        mark: node.mark.clone(),
    });
    seen.collect()
}

fn seen(model: &Model) -> Seen {
    let down = model.faults.contains(&Fault::GitDown);
    let revision = if down { String::new() } else { REVISION.to_owned() };
    let ill = model.ills.sources.iter().find(|seen| format!("{}/{}", seen.is.object.namespace, seen.is.object.name) == SOURCE);
    let (down, revision) = ill.map_or((down, revision), |ill| (!ill.ready, ill.revision.clone()));
    let source = SourceSeen {
        name: SOURCE.to_owned(),
        branch: "main".to_owned(),
        ready: !down,
        message: ill.map_or(if down { "dial tcp: connection refused" } else { "stored artifact" }, |ill| ill.message.as_str()).to_owned(),
        revision: revision.clone(),
        ..SourceSeen::default()
    };
    let flux = model.flux.iter().map(|object| AppliedSeen {
        object: object.object.clone(),
        suspended: object.suspended,
        mark: object.mark.clone(),
        ready: !failed(model, &object.object),
        message: String::new(),
        observed: true,
        applied: REVISION.to_owned(),
        source: if object.object.kind == "Kustomization" { SOURCE.to_owned() } else { String::new() },
        handled: true,
    });
    Seen {
        nodes: Ok(nodes(model)),
        sources: Ok(vec![source]),
        flux: Ok(flux.collect()),
        workloads: Ok(workloads(model)),
        troubled: Ok(Vec::new()),
        namespaces: Ok(std::iter::once("apps".to_owned()).collect()),
    }
}

fn failed(model: &Model, object: &ObjectRef) -> bool {
    model.ills.flux.iter().any(|seen| seen.is.object == *object && seen.failed)
}

fn workloads(model: &Model) -> Vec<WorkloadSeen> {
    let count = |pods: i32| u64::try_from(pods).unwrap_or(0);
    let more = model.ills.workloads.iter().map(|seen| WorkloadSeen {
        object: seen.is.object.clone(),
        wanted: count(seen.replicas),
        ready: count(seen.ready),
        updated: count(seen.replicas),
        observed: true,
    });
    std::iter::once(workload(model)).chain(more).collect()
}

/// All pods of the site are one Deployment's.
fn workload(model: &Model) -> WorkloadSeen {
    let count = |pods: usize| pods as u64;
    let ready = model.nodes.iter().filter(|(name, _)| kubelet(model, name)).map(|(_, node)| count(node.pods.len())).sum();
    let wanted = model.nodes.values().map(|node| count(node.pods.len() + node.pending.len())).sum();
    WorkloadSeen { object: ObjectRef::new("Deployment", "apps", "all"), wanted, ready, updated: wanted, observed: true }
}

/// Whether the node's kubelet runs: only then is its Lease renewed.
pub(super) fn kubelet(model: &Model, name: &str) -> bool {
    let up = |host: &super::site::SimHost| host.on && !host.units.is_empty();
    model.hosts.get(name).is_some_and(up) && !model.faults.contains(&Fault::KubeletStays(name.to_owned()))
}

/// The boot id of a host that was switched on so often.
pub(super) fn boot_id(host: &str, boots: u32) -> String {
    format!("{host}-{boots}")
}
