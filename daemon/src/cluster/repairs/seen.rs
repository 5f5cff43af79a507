//! What repairs are judged by. Each part on its own: what one cannot see does not hide the others.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cluster::seen::{NodeSeen, Part};
use crate::site::ObjectRef;

/// The cluster at one moment, as a repair looks at it.
#[derive(Debug, Clone, PartialEq)]
pub struct Symptoms {
    /// Kustomizations and HelmReleases.
    pub flux: Part<Vec<FluxSeen>>,
    /// GitRepositories.
    pub sources: Part<Vec<GitSeen>>,
    /// Jobs.
    pub jobs: Part<Vec<JobSeen>>,
    /// Pods.
    pub pods: Part<Vec<PodSeen>>,
    /// Deployments and StatefulSets.
    pub workloads: Part<Vec<ScaleSeen>>,
    /// VolumeAttachments of persistent volumes.
    pub attachments: Part<Vec<AttachmentSeen>>,
    /// Nodes.
    pub nodes: Part<Vec<NodeSeen>>,
}

/// What every object has that may be repaired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Which.
    pub object: ObjectRef,
    /// Tells it from an earlier or later object of the same name.
    pub uid: String,
    /// The Kustomization or HelmRelease that applies it, by its labels.
    pub applied_by: Option<ObjectRef>,
    /// It carries an annotation or label that says no: ours, or Flux' for its own pruning or reconciliation.
    pub opted_out: bool,
    /// It is being deleted.
    pub deleting: bool,
}

/// A Kustomization or HelmRelease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FluxSeen {
    /// Which.
    #[serde(flatten)]
    pub is: Identity,
    /// `spec.suspend`.
    pub suspended: bool,
    /// Its condition Ready is False; not only Unknown.
    pub failed: bool,
    /// Reason of its condition Ready.
    pub reason: String,
    /// Message of its condition Ready.
    pub message: String,
    /// Its controller is at work on it: condition Reconciling.
    pub busy: bool,
    /// Its controller has given up: condition Stalled, with its reason; empty where it is not.
    pub stalled: String,
    /// The GitRepository that it reads, `namespace/name`; empty where it reads none.
    pub source: String,
}

/// A GitRepository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitSeen {
    /// Which.
    #[serde(flatten)]
    pub is: Identity,
    /// `spec.suspend`.
    pub suspended: bool,
    /// Its condition Ready is True for the generation that stands.
    pub ready: bool,
    /// Message of its condition Ready.
    pub message: String,
    /// Revision of its artifact; empty where it has none.
    pub revision: String,
}

/// A Job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSeen {
    /// Which.
    #[serde(flatten)]
    pub is: Identity,
    /// It has ownerReferences: whoever owns it makes it anew in its own way.
    pub owned: bool,
    /// Its condition Complete or Failed is True: nothing of it runs.
    pub finished: bool,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSeen {
    /// Which; applied by whoever applies its Deployment, StatefulSet or DaemonSet.
    #[serde(flatten)]
    pub is: Identity,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Something makes it anew when it is gone.
    pub controlled: bool,
    /// The node that it is bound to; empty: to none.
    pub node: String,
    /// Succeeded or Failed.
    pub finished: bool,
    /// Its condition Ready is True.
    pub ready: bool,
    /// Containers that wait, init containers first.
    pub waiting: Vec<Waiting>,
    /// Persistent volumes that it uses.
    pub volumes: BTreeSet<String>,
}

/// A container that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its name.
    pub container: String,
    /// `CrashLoopBackOff`, `ImagePullBackOff`, `ContainerCreating`, …
    pub reason: String,
    /// The image that it is made of.
    pub image: String,
}

/// A Deployment or StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleSeen {
    /// Which.
    #[serde(flatten)]
    pub is: Identity,
    /// Its resourceVersion: nobody's change in between is overwritten.
    pub version: String,
    /// `spec.replicas`.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// When somebody wrote `spec.replicas` last, by the API server's clock (managedFields); `None`: nobody is on record.
    pub scaled: Option<Timestamp>,
}

/// A VolumeAttachment of a persistent volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentSeen {
    /// Which.
    #[serde(flatten)]
    pub is: Identity,
    /// The persistent volume.
    pub volume: String,
    /// The node that it is attached to.
    pub node: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The node's kubelet says that it uses the volume (`status.volumesInUse`).
    pub in_use: bool,
}
