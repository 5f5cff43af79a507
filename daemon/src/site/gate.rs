//! What a start-up waits for before it goes on.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::NodeName;

/// A condition of the site. What each means, what it needs and what a person does where it fails: `cluster::startup::GATES`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "gate", rename_all = "kebab-case")]
pub enum Gate {
    /// This host commands: no other metis host holds the Lease, where the API answers.
    Command,
    /// This host holds the Lease.
    Lease,
    /// No UPS of the site runs on its battery.
    Mains,
    /// Every UPS of the site holds at least so much charge.
    Charge {
        /// Percent.
        minimum: u8,
    },
    /// Clocks are synchronised.
    Clocks {
        /// Of a majority of these; empty: this host's.
        #[serde(default)]
        hosts: BTreeSet<NodeName>,
    },
    /// The host is on and lets us act: a real command runs there.
    HostUp {
        /// Which.
        node: NodeName,
    },
    /// The host has what its storage needs.
    Packages {
        /// Which.
        node: NodeName,
    },
    /// The API answers as ready to somebody it knows.
    ControlPlane,
    /// The node is Ready since its host's present boot.
    NodeReady {
        /// Which.
        node: NodeName,
    },
    /// Every pod of Vault is initialised and unsealed.
    Vault,
    /// Flux reads what it should, from where it should, and has it.
    FluxSource,
    /// What Flux applies is applied, at the revision that its source has.
    Flux,
    /// Namespaces that the site needs are there.
    Namespaces,
    /// Deployments, StatefulSets and DaemonSets are as many, and as new, as wanted.
    Workloads,
    /// Every host of the cluster's ingress is answered for by its backend.
    Ingress,
    /// The services of the checklist serve.
    Services,
    /// Critical Services have ready addresses.
    Endpoints,
    /// All of this stays so.
    Soak {
        /// For so long without a break.
        window: Duration,
    },
}

impl Gate {
    /// Its name in the table, in step ids and in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Lease => "lease",
            Self::Mains => "mains",
            Self::Charge { .. } => "charge",
            Self::Clocks { .. } => "clocks",
            Self::HostUp { .. } => "host-up",
            Self::Packages { .. } => "host-packages",
            Self::ControlPlane => "control-plane",
            Self::NodeReady { .. } => "node-ready",
            Self::Vault => "vault",
            Self::FluxSource => "flux-source",
            Self::Flux => "flux",
            Self::Namespaces => "namespaces",
            Self::Workloads => "workloads",
            Self::Ingress => "ingress",
            Self::Services => "services",
            Self::Endpoints => "endpoints",
            Self::Soak { .. } => "soak",
        }
    }
}

/// What a look at a gate came to. Only *not ready* may be repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It is as wanted.
    Ready(String),
    /// It is not.
    NotReady {
        /// What is missing, on which object, since when where that is known.
        why: String,
        /// How much of it is there already; more than ever before is progress.
        done: u64,
    },
    /// It could not be found out.
    CannotTell(String),
}

impl Judged {
    /// What was seen, for people.
    pub fn text(&self) -> &str {
        match self {
            Self::Ready(text) | Self::CannotTell(text) | Self::NotReady { why: text, .. } => text,
        }
    }
}
