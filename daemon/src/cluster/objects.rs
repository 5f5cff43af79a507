//! Kubernetes objects, as much of them as metis reads. What is absent has its default; what is unknown is left out.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// `metadata`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    /// Its name.
    pub name: String,
    /// Empty where it has none.
    pub namespace: String,
    /// Tells it from an earlier object of the same name.
    pub uid: String,
    /// Changes with the spec.
    pub generation: i64,
    /// Changes with every write.
    pub resource_version: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Who owns it.
    pub owner_references: Vec<Owner>,
    /// Set while it is being deleted.
    pub deletion_timestamp: Option<String>,
    /// The grace it was given, in seconds.
    pub deletion_grace_period_seconds: Option<u64>,
    /// What holds it after its deletion.
    pub finalizers: Vec<String>,
}

impl Meta {
    /// The owner that manages it (`metav1.GetControllerOf`).
    pub fn controller(&self) -> Option<&Owner> {
        self.owner_references.iter().find(|owner| owner.controller)
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// An owner.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Owner {
    /// e.g. `ReplicaSet`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Whether it manages the object.
    pub controller: bool,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// `metadata`.
    pub metadata: Meta,
    /// `spec`.
    pub spec: PodSpec,
    /// `status`.
    pub status: PodStatus,
}

impl Pod {
    /// `Succeeded` or `Failed`: nothing of it runs any more.
    pub fn finished(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Being deleted.
    pub fn deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Its condition Ready is True.
    pub fn ready(&self) -> bool {
        is_true(&self.status.conditions, "Ready")
    }
}

/// `spec` of a pod.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodSpec {
    /// Empty: not scheduled yet.
    pub node_name: String,
    /// Seconds between SIGTERM and SIGKILL; 30 where the API server says nothing.
    pub termination_grace_period_seconds: Option<u64>,
    /// Labels that its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it bears.
    pub tolerations: Vec<Toleration>,
}

/// A toleration.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Toleration {
    /// Empty: all keys.
    pub key: String,
    /// `Equal` (also when empty) or `Exists`.
    pub operator: String,
    /// Compared where the operator is `Equal`.
    pub value: String,
    /// Empty: all effects.
    pub effect: String,
}

/// `status` of a pod.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// A condition.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    /// e.g. `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

/// Whether the condition is there and True.
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions.iter().any(|condition| condition.kind == kind && condition.status == "True")
}

/// A node.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// `metadata`.
    pub metadata: Meta,
    /// `spec`.
    pub spec: NodeSpec,
    /// `status`.
    pub status: NodeStatus,
}

/// `spec` of a node.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Cordoned.
    pub unschedulable: bool,
    /// Taints.
    pub taints: Vec<Taint>,
}

/// A taint.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value; may be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// `status` of a node.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeStatus {
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// What the kubelet says of its machine.
    pub node_info: NodeInfo,
}

/// `status.nodeInfo`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct NodeInfo {
    /// The kernel's boot id.
    #[serde(rename = "bootID")]
    pub boot_id: String,
}

/// A PodDisruptionBudget of policy/v1.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// `metadata`.
    pub metadata: Meta,
    /// `spec`.
    pub spec: BudgetSpec,
    /// `status`.
    pub status: BudgetStatus,
}

/// `spec` of a PodDisruptionBudget.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct BudgetSpec {
    /// Its pods; absent: none; empty: all of the namespace.
    pub selector: Option<Selector>,
}

/// `status` of a PodDisruptionBudget.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BudgetStatus {
    /// So many pods may be evicted now.
    pub disruptions_allowed: i64,
}

/// A label selector.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Selector {
    /// All of these must be there.
    pub match_labels: BTreeMap<String, String>,
    /// And all of these must hold.
    pub match_expressions: Vec<Requirement>,
}

/// A term of a selector.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// Label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Of `In` and `NotIn`.
    pub values: Vec<String>,
}

impl Selector {
    /// Whether labels fit it (labels.Selector of apimachinery: `NotIn` also fits where the label is absent).
    pub fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds = |term: &Requirement| {
            let value = labels.get(&term.key);
            match term.operator.as_str() {
                "In" => value.is_some_and(|value| term.values.contains(value)),
                "NotIn" => value.is_none_or(|value| !term.values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        };
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value)) && self.match_expressions.iter().all(holds)
    }
}

/// A Kustomization or HelmRelease.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Suspendable {
    /// `metadata`.
    pub metadata: Meta,
    /// `spec`.
    pub spec: SuspendableSpec,
}

/// `spec` of a [`Suspendable`].
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct SuspendableSpec {
    /// Not reconciled.
    pub suspend: bool,
}

/// An object of which everything below `spec` and `status` is looked up by name.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub struct Loose {
    /// `metadata`.
    pub metadata: Meta,
    /// `spec`.
    pub spec: Value,
    /// `status`.
    pub status: Value,
}

impl Loose {
    /// Text at a JSON pointer of `spec`; empty where there is none.
    pub fn spec_str(&self, pointer: &str) -> &str {
        self.spec.pointer(pointer).and_then(Value::as_str).unwrap_or("")
    }

    /// As [`Loose::spec_str`], of `status`.
    pub fn status_str(&self, pointer: &str) -> &str {
        self.status.pointer(pointer).and_then(Value::as_str).unwrap_or("")
    }
}
