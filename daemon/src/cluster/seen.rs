//! What a start-up sees of the cluster. Each part on its own: what one cannot see does not hide the others.

use std::collections::BTreeSet;

use crate::site::{Mark, ObjectRef};

/// A part of it, or why it could not be seen.
pub type Part<T> = Result<T, String>;

/// The cluster at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Nodes.
    pub nodes: Part<Vec<NodeSeen>>,
    /// GitRepositories that a Kustomization reads.
    pub sources: Part<Vec<SourceSeen>>,
    /// Kustomizations, a parent before its children, then HelmReleases.
    pub flux: Part<Vec<AppliedSeen>>,
    /// Deployments, StatefulSets and DaemonSets.
    pub workloads: Part<Vec<WorkloadSeen>>,
    /// Pods that crash again and again, or whose image cannot be pulled.
    pub troubled: Part<Vec<TroubledPod>>,
    /// Namespaces that are not being deleted.
    pub namespaces: Part<BTreeSet<String>>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeSeen {
    /// Its Kubernetes name.
    pub name: String,
    /// Its condition Ready is True; after a cold boot that is stale until the kubelet renews its Lease.
    pub ready: bool,
    /// Its Lease was renewed in time, by the API server's clock.
    pub lease_fresh: bool,
    /// `status.nodeInfo.bootID`.
    pub boot_id: String,
    /// Cordoned.
    pub unschedulable: bool,
    /// Our mark.
    pub mark: Option<Mark>,
}

/// A GitRepository.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceSeen {
    /// `namespace/name`.
    pub name: String,
    /// `spec.url`.
    pub url: String,
    /// `spec.ref.branch`; empty where it follows something else.
    pub branch: String,
    /// `spec.suspend`.
    pub suspended: bool,
    /// Its condition Ready is True for the generation that stands.
    pub ready: bool,
    /// Message of its condition Ready.
    pub message: String,
    /// Revision of its artifact; empty: it has none, whatever Ready says.
    pub revision: String,
}

/// A Kustomization or HelmRelease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedSeen {
    /// Which.
    pub object: ObjectRef,
    /// `spec.suspend`: its conditions say nothing then, although they go on being written.
    pub suspended: bool,
    /// Our mark.
    pub mark: Option<Mark>,
    /// Its condition Ready is True.
    pub ready: bool,
    /// Message of its condition Ready.
    pub message: String,
    /// `metadata.generation` = `status.observedGeneration`.
    pub observed: bool,
    /// `status.lastAppliedRevision`; of a HelmRelease empty.
    pub applied: String,
    /// Its source, `namespace/name`; empty where it reads no GitRepository.
    pub source: String,
    /// A reconciliation that somebody asked for was handled, where one was (`reconcile.fluxcd.io/requestedAt`).
    pub handled: bool,
}

/// A Deployment, StatefulSet or DaemonSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadSeen {
    /// Which.
    pub object: ObjectRef,
    /// Pods wanted.
    pub wanted: u64,
    /// Pods that are ready.
    pub ready: u64,
    /// Pods of its newest template.
    pub updated: u64,
    /// `metadata.generation` = `status.observedGeneration`.
    pub observed: bool,
}

/// A pod in trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TroubledPod {
    /// `namespace/name`.
    pub name: String,
    /// `CrashLoopBackOff`, `ImagePullBackOff`, …, with the container.
    pub why: String,
}

/// What a gate is judged by, beside what is seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expected {
    /// The URL that Flux should read; empty: any.
    pub url: String,
    /// The branch that it should follow; empty: any.
    pub branch: String,
    /// The source to which both apply, `namespace/name`.
    pub source: String,
    /// Kustomizations that need not be applied, `namespace/name`.
    pub optional: BTreeSet<String>,
    /// Namespaces that must be there.
    pub namespaces: BTreeSet<String>,
    /// Nodes that are not waited for, by Kubernetes name.
    pub ignored: BTreeSet<String>,
}
