//! What the cluster offers to the outside: hosts of its ingress, and who is behind its Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::seen::Part;
use crate::site::ObjectRef;

/// At one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Exposed {
    /// Hosts that an Ingress or an IngressRoute names.
    pub hosts: Part<Vec<HostSeen>>,
    /// Services by `namespace/name`.
    pub backends: Part<BTreeMap<String, Backend>>,
}

/// A host of an Ingress or IngressRoute, with one path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostSeen {
    /// What names it.
    pub object: ObjectRef,
    /// As its rule names it; may begin with `*.`.
    pub host: String,
    /// Of its rule; empty: `/`.
    pub path: String,
    /// It is served over TLS.
    pub tls: bool,
    /// Where its ingress controller is, by its status.
    pub addresses: BTreeSet<IpAddr>,
    /// Services behind it, `namespace/name`.
    pub backends: BTreeSet<String>,
}

impl HostSeen {
    /// A host that fits its rule.
    pub fn asked(&self) -> String {
        self.host.strip_prefix("*.").map_or_else(|| self.host.clone(), |rest| format!("metis-asks.{rest}"))
    }
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backend {
    /// Of type ExternalName: it has no addresses of its own.
    pub external: bool,
    /// Node of each ready address; empty where it has none.
    pub ready_on: Vec<String>,
}
