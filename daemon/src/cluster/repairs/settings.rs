//! Section `startup.repairs`.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::cluster::Protect;
use crate::site::Repair;

/// Section `startup.repairs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RepairSettings {
    /// Repairs that are switched off: `startup.repairs.immutable_job: false`.
    pub off: BTreeSet<Repair>,
    /// `startup.repairs.controllers`: pods that a start-up needs, beside Flux' own controllers.
    pub controllers: Vec<Protect>,
    /// `startup.repairs.git_namespace`: where the Git server runs, if it does in the cluster; empty: it does not.
    pub git_namespace: String,
    /// `startup.repairs.registry_namespace`: where the registry runs that serves the Git server's images.
    pub registry_namespace: String,
    /// `startup.repairs.registry_host`: the registry as images name it (`registry.example:5000`); empty: it is not in the cluster.
    pub registry_host: String,
}

impl Default for RepairSettings {
    /// CoreDNS: nothing of Flux finds its Git server without it.
    fn default() -> Self {
        Self {
            off: BTreeSet::new(),
            controllers: vec![Protect { namespace: Some("kube-system".to_owned()), selector: "k8s-app=kube-dns".to_owned() }],
            git_namespace: "gitea".to_owned(),
            registry_namespace: "harbor".to_owned(),
            registry_host: String::new(),
        }
    }
}

impl RepairSettings {
    /// Whether it may be used.
    pub fn allows(&self, repair: Repair) -> bool {
        !self.off.contains(&repair)
    }
}
