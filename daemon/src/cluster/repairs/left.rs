//! What the last shutdown left behind, by what it had recorded before it changed anything.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::seen::{ScaleSeen, Symptoms};
use crate::cluster::port::Facts;
use crate::cluster::seen::{NodeSeen, Seen};
use crate::site::ObjectRef;

/// What the collecting step of the last shutdown saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Replicas wanted, of what wanted any.
    pub replicas: BTreeMap<ObjectRef, i32>,
    /// `status.nodeInfo.bootID` by node.
    pub boot_ids: BTreeMap<String, String>,
    /// When that shutdown ended: what was scaled or attached later was not left by it.
    pub ended: Timestamp,
}

impl Known {
    /// Of the facts of a shutdown that ended then.
    pub fn of(facts: &Facts, ended: Timestamp) -> Self {
        let replicas = facts.replicas.iter().filter(|(_, count)| *count > 0);
        let boot_ids = facts.nodes.iter().filter(|node| !node.boot_id.is_empty());
        Self {
            replicas: replicas.cloned().collect(),
            boot_ids: boot_ids.map(|node| (node.name.clone(), node.boot_id.clone())).collect(),
            ended,
        }
    }

    /// Workloads of these namespaces that had replicas and want none: whether anybody scaled them since is not known yet.
    pub fn suspects(&self, seen: &Seen, namespaces: &BTreeSet<String>) -> Vec<ObjectRef> {
        let none = seen.workloads.iter().flatten().filter(|workload| workload.wanted == 0).map(|workload| &workload.object);
        none.filter(|object| self.replicas.contains_key(object) && namespaces.contains(&object.namespace)).cloned().collect()
    }

    /// The replicas that it had, where the shutdown left it without: its count was written last before that ended, and nobody wrote it since.
    pub(super) fn lost(&self, workload: &ScaleSeen) -> Option<i32> {
        let before = self.replicas.get(&workload.is.object)?;
        let by_the_shutdown = workload.scaled.is_some_and(|at| at <= self.ended);
        (workload.replicas == 0 && by_the_shutdown).then_some(*before)
    }

    /// The node was started anew since the shutdown began.
    pub(super) fn rebooted(&self, node: &NodeSeen) -> bool {
        let before = self.boot_ids.get(&node.name);
        !node.boot_id.is_empty() && before.is_some_and(|before| *before != node.boot_id)
    }
}

/// Workloads of these namespaces that the last shutdown left without replicas: no gate may be passed with them.
///
/// # Errors
/// Workloads cannot be seen.
pub fn left_at_zero(symptoms: &Symptoms, known: &Known, namespaces: &BTreeSet<String>) -> Result<Vec<ObjectRef>, String> {
    let workloads = symptoms.workloads.as_ref().map_err(Clone::clone)?;
    let lost = workloads.iter().filter(|workload| known.lost(workload).is_some() && !workload.is.opted_out && !workload.is.deleting);
    Ok(lost.map(|workload| workload.is.object.clone()).filter(|object| namespaces.contains(&object.namespace)).collect())
}
