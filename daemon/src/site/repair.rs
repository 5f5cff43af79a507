//! What a start-up mends by itself.

use serde::{Deserialize, Serialize};

use super::ObjectRef;

/// A repair. Exact symptom, preconditions and blast radius of each: `cluster::repairs::REPAIRS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repair {
    /// A finished Job whose template Git has changed holds up its Kustomization.
    ImmutableJob,
    /// A pod that a start-up needs crashes again and again, or does not come up.
    StuckPod,
    /// The last shutdown left a workload without replicas.
    LeftAtZero,
    /// Helm's lock was left behind by an operation that nobody finishes.
    PendingRelease,
    /// A volume is held by a node that is gone, or by an earlier boot of it.
    OrphanedAttachment,
    /// A source says Ready and has nothing to give.
    MissingArtifact,
    /// Flux waits for the Git server, and that for images of a registry, both in the cluster that Flux feeds.
    Coupling,
    /// A cordon of metis' own outlived its reason.
    StaleCordon,
}

impl Repair {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::ImmutableJob,
        Self::StuckPod,
        Self::LeftAtZero,
        Self::PendingRelease,
        Self::OrphanedAttachment,
        Self::MissingArtifact,
        Self::Coupling,
        Self::StaleCordon,
    ];

    /// Its name in the table and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::ImmutableJob => "immutable-job",
            Self::StuckPod => "stuck-pod",
            Self::LeftAtZero => "left-at-zero",
            Self::PendingRelease => "pending-release",
            Self::OrphanedAttachment => "orphaned-attachment",
            Self::MissingArtifact => "missing-artifact",
            Self::Coupling => "coupling",
            Self::StaleCordon => "stale-cordon",
        }
    }
}

/// One use of a repair; in one run there is none other with the same repair and cause.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RepairCase {
    /// Which.
    pub repair: Repair,
    /// What made it due, the same at every look: the object with its UID.
    pub cause: String,
    /// What is changed.
    pub object: ObjectRef,
}

impl RepairCase {
    /// Due because of that very object.
    pub fn of(repair: Repair, object: &ObjectRef, uid: &str) -> Self {
        Self { repair, cause: format!("{object} {uid}"), object: object.clone() }
    }
}
