//! What metis does to the cluster; the second implementation is `sim`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::exposed::Exposed;
use super::repairs::seen::Symptoms;
use super::seen::{NodeSeen, Part, Seen, SourceSeen};
use super::vault::{UnsealError, VaultPod, VaultSeen};
use crate::site::{LeaseRecord, Mark, ObjectRef};

/// The cluster. Every call ends within the time it is given, whatever the API server does.
#[tonic::async_trait]
pub trait Cluster: Send + Sync {
    /// What a shutdown or start-up has to know.
    async fn collect(&self, within: Duration) -> Result<Facts, ClusterError>;

    /// Suspends (with our mark) or resumes (removing it) a Flux object.
    async fn set_suspended(&self, object: &ObjectRef, mark: Option<&Mark>, within: Duration) -> Result<(), ClusterError>;

    /// Cordons a node (with our mark) or clears its cordon (removing it).
    async fn set_cordoned(&self, node: &str, mark: Option<&Mark>, within: Duration) -> Result<(), ClusterError>;

    /// Evicts a node's pods until `deadline`, which may come nearer meanwhile; `tell` hears of every rung that is taken.
    async fn drain(
        &self,
        order: &DrainOrder,
        deadline: watch::Receiver<Instant>,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Drained, ClusterError>;

    /// Volumes that are attached to these nodes.
    async fn attached(&self, nodes: &BTreeSet<String>, within: Duration) -> Result<Vec<AttachedVolume>, ClusterError>;
}

/// The cluster as a start-up looks at it.
#[tonic::async_trait]
pub trait Platform: Send + Sync {
    /// The API is ready to serve us, at one endpoint at least.
    async fn ready(&self, within: Duration) -> Result<(), ClusterError>;

    /// What gates are judged by; each part on its own.
    async fn see(&self, within: Duration) -> Seen;

    /// The nodes alone.
    async fn nodes(&self, within: Duration) -> Result<Vec<NodeSeen>, ClusterError>;

    /// Tells on a node that a person has to look (annotation `metis.v1/manual-action`), or takes that back.
    async fn ask_for_a_person(&self, node: &str, because: Option<&str>, within: Duration) -> Result<(), ClusterError>;

    /// Asks for the reconciliation of a GitRepository, Kustomization or HelmRelease.
    async fn reconcile(&self, object: &ObjectRef, token: &str, within: Duration) -> Result<(), ClusterError>;
}

/// What the cluster offers to the outside.
#[tonic::async_trait]
pub trait Exposure: Send + Sync {
    /// Hosts of its ingress and addresses of its Services; each part on its own.
    async fn exposed(&self, within: Duration) -> Exposed;
}

/// The cluster as preparations for a bad day look at it. Nothing here changes it.
#[tonic::async_trait]
pub trait Survey: Send + Sync {
    /// Whether the API server lets us do all that metis does; `helpers`: the namespace of helper pods, where there are any.
    async fn rights(&self, helpers: Option<&str>, within: Duration) -> Result<Vec<RightSeen>, ClusterError>;

    /// GitRepositories of Flux.
    async fn sources(&self, within: Duration) -> Part<Vec<SourceSeen>>;

    /// Its nodes, as an inventory describes them.
    async fn describe(&self, within: Duration) -> Result<Described, ClusterError>;
}

/// A verb on a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RightSeen {
    /// e.g. `patch nodes`, `list volumes.longhorn.io`.
    pub what: String,
    /// The API server lets it.
    pub allowed: bool,
}

/// The nodes of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// By name.
    pub nodes: Vec<NodeDescribed>,
    /// What Longhorn keeps on them, or why it is not known; a cluster without Longhorn has none.
    pub longhorn: Result<BTreeMap<String, Vec<LonghornDisk>>, String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeDescribed {
    /// Its name.
    pub name: String,
    /// Its host name (address of type Hostname); empty where it has none.
    pub hostname: String,
    /// Its internal addresses.
    pub addresses: Vec<String>,
    /// e.g. `arm64`.
    pub arch: String,
    /// e.g. `Ubuntu 24.04.1 LTS`.
    pub os_image: String,
    /// Version of its kubelet, e.g. `v1.31.5+k3s1`.
    pub version: String,
    /// It is a server: the control plane runs there.
    pub server: bool,
    /// Labels, those that Kubernetes and k3s set by themselves included.
    pub labels: BTreeMap<String, String>,
    /// Taints `key=value:Effect`, those that the node controller sets by itself included.
    pub taints: Vec<String>,
}

/// A disk of Longhorn's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LonghornDisk {
    /// Where it is mounted.
    pub path: String,
    /// `diskUUID` of its status: what Longhorn wrote on it.
    pub uuid: String,
}

/// The Lease by which one of two metis hosts commands.
#[tonic::async_trait]
pub trait Commander: Send + Sync {
    /// As it stands; `None`: it was never made.
    async fn command_lease(&self, namespace: &str, within: Duration) -> Result<Option<LeaseRecord>, ClusterError>;

    /// Writes it where it still stands as `record.version` says; whether it did.
    async fn write_command_lease(&self, namespace: &str, record: &LeaseRecord, within: Duration) -> Result<bool, ClusterError>;
}

/// Vault, pod by pod: a Service in front of them answers while one behind it is sealed.
#[tonic::async_trait]
pub trait Vault: Send + Sync {
    /// Every pod that there is, with what it says of its seal.
    async fn look(&self, within: Duration) -> Result<Vec<VaultSeen>, ClusterError>;

    /// Unseals these pods with the keys that are kept; by what, or why not.
    async fn unseal(&self, pods: &[VaultPod], within: Duration) -> Vec<(VaultPod, Result<String, UnsealError>)>;
}

/// The cluster as a start-up mends it. Each change is of one very object: one that was replaced or changed since is [`ClusterError::Gone`]
/// or [`ClusterError::Refused`].
#[tonic::async_trait]
pub trait Repairs: Send + Sync {
    /// What repairs are judged by; each part on its own.
    async fn examine(&self, within: Duration) -> Symptoms;

    /// Deletes a Job, Pod or VolumeAttachment that has this UID, in the background what it owns.
    async fn delete(&self, object: &ObjectRef, uid: &str, within: Duration) -> Result<(), ClusterError>;

    /// Gives a Deployment or StatefulSet of this resourceVersion so many replicas.
    async fn scale(&self, object: &ObjectRef, version: &str, replicas: i32, within: Duration) -> Result<(), ClusterError>;

    /// Asks the controller of a GitRepository, Kustomization or HelmRelease for a reconciliation; `reset`: and to forget its failures.
    async fn retry(&self, object: &ObjectRef, token: &str, reset: bool, within: Duration) -> Result<(), ClusterError>;
}

/// What was seen of the cluster.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// Nodes.
    pub nodes: Vec<NodeFacts>,
    /// Kustomizations in the order in which they are suspended (a parent before its children), then HelmReleases.
    pub flux: Vec<FluxObject>,
    /// Replicas wanted, by Deployment and StatefulSet.
    pub replicas: Vec<(ObjectRef, i32)>,
    /// Volumes that are attached.
    pub volumes: Vec<AttachedVolume>,
    /// Longhorn volumes all of whose healthy replicas are on one set of nodes: volume → nodes with replicas.
    pub replica_nodes: Vec<(String, BTreeSet<String>)>,
    /// What could not be seen, each with the reason.
    pub unseen: Vec<String>,
}

/// A node as seen.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its Ready condition is True and its Lease is fresh.
    pub ready: bool,
    /// Cordoned.
    pub unschedulable: bool,
    /// Our mark, where it carries one.
    pub mark: Option<Mark>,
    /// `status.nodeInfo.bootID`.
    pub boot_id: String,
    /// Pods that a drain would evict.
    pub evictable: u32,
}

/// A Kustomization or HelmRelease as seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FluxObject {
    /// Which.
    pub object: ObjectRef,
    /// `spec.suspend`.
    pub suspended: bool,
    /// Our mark, where it carries one.
    pub mark: Option<Mark>,
}

/// A volume that is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedVolume {
    /// Its name.
    pub name: String,
    /// To this node.
    pub node: String,
    /// What holds it: a VolumeAttachment, or the types of Longhorn's attachment tickets.
    pub held_by: String,
}

/// A drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainOrder {
    /// The node; it is cordoned already.
    pub node: String,
    /// Nodes that are being drained at the same time, this one included: no PDB can be met by moving a pod to one of them.
    pub beside: BTreeSet<String>,
}

/// How a drain ended: all pods that had to go are gone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Drained {
    /// Pods that went.
    pub gone: u32,
    /// Rungs that were taken beyond the first, each with the pods it was taken for.
    pub rungs: Vec<String>,
    /// Pods that were still there when the time was up (`namespace/name`, why).
    pub left: Vec<String>,
}

/// Why the cluster did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// No API server answered in time: down, hung, or answering nothing but 5xx and 429.
    #[error("{0}")]
    Unreachable(String),
    /// It refused: rights, admission, conflict that stays.
    #[error("{0}")]
    Refused(String),
    /// The object is not there.
    #[error("{0}")]
    Gone(String),
}
