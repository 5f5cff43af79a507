//! Disruption budgets that can never be met: where all nodes a new pod could go to are being drained themselves, an evicted pod stays
//! Pending, no pod becomes ready again, and waiting for the budget only costs runtime.

use std::collections::BTreeSet;

use crate::cluster::objects::{Budget, Node, Pod, Taint, Toleration, is_true};

/// What is known of the namespace of a pod whose eviction was refused, and of the nodes.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Budgets of the namespace.
    pub budgets: Vec<Budget>,
    /// Pods of the namespace.
    pub pods: Vec<Pod>,
    /// Nodes of the cluster.
    pub nodes: Vec<Node>,
}

/// Whether the eviction of `pod` can never be allowed: there is a budget for it that allows none now, no pod of that budget is about to
/// become ready where it is, and no node outside of `beside` would take a new one.
pub fn hopeless(pod: &Pod, around: &Surroundings, beside: &BTreeSet<String>) -> bool {
    if around.nodes.iter().any(|node| takes(node, pod, beside)) {
        return false;
    }
    around.budgets.iter().filter(|budget| covers(budget, pod) && budget.status.disruptions_allowed <= 0).any(|budget| {
        let rising = |other: &Pod| {
            covers(budget, other) && !other.spec.node_name.is_empty() && !other.deleting() && !other.finished() && !other.ready()
        };
        !around.pods.iter().any(rising)
    })
}

/// Names of the budgets that allow no eviction of it now.
pub fn refusing(pod: &Pod, around: &Surroundings) -> Vec<String> {
    let refuses = |budget: &&Budget| covers(budget, pod) && budget.status.disruptions_allowed <= 0;
    around.budgets.iter().filter(refuses).map(|budget| budget.metadata.name.clone()).collect()
}

fn covers(budget: &Budget, pod: &Pod) -> bool {
    budget.metadata.namespace == pod.metadata.namespace
        && budget.spec.selector.as_ref().is_some_and(|selector| selector.fits(&pod.metadata.labels))
}

/// Whether a pod like this one could be scheduled there. Room, affinity and volumes are not looked at: in doubt it could.
fn takes(node: &Node, pod: &Pod, beside: &BTreeSet<String>) -> bool {
    let bears =
        |taint: &Taint| taint.effect == "PreferNoSchedule" || pod.spec.tolerations.iter().any(|toleration| tolerates(toleration, taint));
    !beside.contains(&node.metadata.name)
        && !node.spec.unschedulable
        && node.metadata.deletion_timestamp.is_none()
        && is_true(&node.status.conditions, "Ready")
        && node.spec.taints.iter().all(bears)
        && pod.spec.node_selector.iter().all(|(key, value)| node.metadata.labels.get(key) == Some(value))
}

/// corev1 `Toleration.ToleratesTaint`.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    (toleration.effect.is_empty() || toleration.effect == taint.effect)
        && (toleration.key.is_empty() || toleration.key == taint.key)
        && match toleration.operator.as_str() {
            "" | "Equal" => toleration.value == taint.value,
            "Exists" => true,
            _ => false,
        }
}
