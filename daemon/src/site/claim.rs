//! What metis changed and has to undo: journaled before the change, marked on the object itself.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A Kubernetes object by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// e.g. `Kustomization`, `HelmRelease`, `Node`, `K3sUnit` (a host's unit), `Host`.
    pub kind: String,
    /// Empty where it has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// Puts it together.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind, self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// What is changed on an object; undoing it is the opposite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// `spec.suspend: true`.
    Suspended,
    /// `spec.unschedulable: true`, on lease.
    Cordoned,
    /// Its unit was stopped.
    Stopped,
    /// It was told to power off.
    PoweredOff,
}

impl Change {
    /// `suspended`, `cordoned`, `stopped` or `powered-off`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Suspended => "suspended",
            Self::Cordoned => "cordoned",
            Self::Stopped => "stopped",
            Self::PoweredOff => "powered-off",
        }
    }
}

/// A change that metis is about to make: the object was not so before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// On what.
    pub object: ObjectRef,
    /// What.
    pub change: Change,
    /// When it expires, where it is on lease.
    pub expires: Option<Timestamp>,
}

/// The mark that a changed object carries (annotation `metis.v1/holder`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The host that changed it.
    pub holder: String,
    /// The run.
    pub run: String,
    /// The step.
    pub step: String,
    /// Why, for people.
    pub reason: String,
    /// When it expires, where it is on lease.
    pub expires: Option<Timestamp>,
}
