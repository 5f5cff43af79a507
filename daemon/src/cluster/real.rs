//! The cluster itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::drain::{Drain, Rules, drain};
use super::events::{Happened, Recorder, What};
use super::exposed::Exposed;
use super::flux::{self, Versions};
use super::kube::{AccessError, Api, configs, path};
use super::mark::{carry_out, marked};
use super::port::{
    AttachedVolume, Cluster, ClusterError, Commander, Described, DrainOrder, Drained, Exposure, Facts, Platform, Repairs, RightSeen, Survey,
};
use super::repairs::seen::Symptoms;
use super::seen::{NodeSeen, Part, Seen, SourceSeen};
use super::vault::{Reach, RealVault, VaultSettings};
use super::{Pods, Settings, collect, command, describe, examine, exposure, mend, observe, rights, volumes};
use crate::site::{LeaseRecord, Mark, ObjectRef, Secret};

/// Evictions and deletions under way at once, of all drains together.
const CALLS: usize = 50;

/// What metis asks of the API server, beside discovery (`system:discovery`): API group, resource, verbs. `etc/kubernetes/metis-rbac.yaml`
/// grants it.
pub const RIGHTS: &[(&str, &str, &[&str])] = &[
    ("", "namespaces", &["list"]),
    ("", "nodes", &["get", "list", "patch"]),
    ("", "pods", &["list", "delete"]),
    ("", "pods/eviction", &["create"]),
    ("", "services", &["list"]),
    ("", "persistentvolumeclaims", &["list"]),
    ("", "persistentvolumes", &["list"]),
    ("apps", "daemonsets", &["get", "list"]),
    ("apps", "deployments", &["list"]),
    ("apps", "deployments/scale", &["patch"]),
    ("apps", "replicasets", &["list"]),
    ("apps", "statefulsets", &["list"]),
    ("apps", "statefulsets/scale", &["patch"]),
    ("batch", "jobs", &["list", "delete"]),
    ("coordination.k8s.io", "leases", &["get", "list"]),
    ("discovery.k8s.io", "endpointslices", &["list"]),
    ("events.k8s.io", "events", &["create"]),
    ("helm.toolkit.fluxcd.io", "helmreleases", &["get", "list", "patch"]),
    ("kustomize.toolkit.fluxcd.io", "kustomizations", &["get", "list", "patch"]),
    ("longhorn.io", "nodes", &["list"]),
    ("longhorn.io", "replicas", &["list"]),
    ("longhorn.io", "volumeattachments", &["list"]),
    ("longhorn.io", "volumes", &["list"]),
    ("networking.k8s.io", "ingresses", &["list"]),
    ("policy", "poddisruptionbudgets", &["list"]),
    ("source.toolkit.fluxcd.io", "gitrepositories", &["list", "patch"]),
    ("storage.k8s.io", "volumeattachments", &["list", "delete"]),
    ("traefik.containo.us", "ingressroutes", &["list"]),
    ("traefik.io", "ingressroutes", &["list"]),
];

/// A real cluster.
pub struct RealCluster {
    api: Arc<Api>,
    rules: Rules,
    calls: Semaphore,
    versions: Versions,
    events: Recorder,
}

impl RealCluster {
    /// Prepares its clients; no API server is asked. To be called on the runtime that will use it; reads `cluster.ca_file`.
    ///
    /// # Errors
    /// Where kubeconfig, CA or endpoints cannot be used; the message holds nothing of the kubeconfig.
    pub async fn new(settings: &Settings, kubeconfig: &Secret) -> Result<Self, AccessError> {
        let ca = match &settings.ca_file {
            Some(file) => Some(tokio::fs::read(file).await.map_err(|error| AccessError::of_file(file, &error))?),
            None => None,
        };
        let configs = configs(kubeconfig, &settings.endpoints, ca.as_deref()).await?;
        let rules = Rules { storage_plane: settings.shutdown.storage_plane.clone(), protect: settings.shutdown.protect.clone() };
        let api = Arc::new(Api::new(configs, settings.call_timeout)?);
        let events = Recorder::new(Arc::clone(&api));
        Ok(Self { events, api, rules, calls: Semaphore::new(CALLS), versions: Versions::default() })
    }

    /// Its pods of Vault; `reach` is what they need of other rooms.
    pub fn vault(&self, settings: &VaultSettings, reach: Reach) -> RealVault {
        RealVault::new(Arc::clone(&self.api), settings.clone(), reach)
    }

    /// Pods of metis' own in that namespace.
    pub fn pods(&self, namespace: &str) -> Pods {
        Pods::new(Arc::clone(&self.api), namespace)
    }
}

fn until(within: Duration) -> Instant {
    Instant::now() + within
}

#[tonic::async_trait]
impl Cluster for RealCluster {
    async fn collect(&self, within: Duration) -> Result<Facts, ClusterError> {
        Box::pin(collect::collect(&self.api, &self.versions, &self.rules, until(within))).await
    }

    async fn set_suspended(&self, object: &ObjectRef, mark: Option<&Mark>, within: Duration) -> Result<(), ClusterError> {
        flux::set_suspended(&self.api, &self.versions, object, mark, until(within)).await
    }

    async fn set_cordoned(&self, node: &str, mark: Option<&Mark>, within: Duration) -> Result<(), ClusterError> {
        let what = format!("{} of {node}", if mark.is_some() { "cordon" } else { "uncordon" });
        let done = carry_out(&self.api, &path("v1", "", "nodes", node), "unschedulable", mark, &what, until(within)).await?;
        let told = done.and_then(|changed| {
            let what = match mark {
                Some(mark) => What::Cordoned(mark.clone()),
                None => What::Uncordoned(marked(&changed.meta).mark()?),
            };
            Some(Happened { node: changed.meta, what, at: changed.at? })
        });
        if let Some(happened) = told {
            self.events.tell(happened);
        }
        Ok(())
    }

    async fn drain(
        &self,
        order: &DrainOrder,
        deadline: watch::Receiver<Instant>,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> Result<Drained, ClusterError> {
        let drain_all = Drain { api: &self.api, calls: &self.calls, rules: &self.rules };
        drain(&drain_all, order, deadline, tell).await
    }

    async fn attached(&self, nodes: &BTreeSet<String>, within: Duration) -> Result<Vec<AttachedVolume>, ClusterError> {
        volumes::attached(&self.api, Some(nodes), until(within)).await
    }
}

#[tonic::async_trait]
impl Platform for RealCluster {
    async fn ready(&self, within: Duration) -> Result<(), ClusterError> {
        observe::ready_to_serve(&self.api, until(within)).await
    }

    async fn see(&self, within: Duration) -> Seen {
        Box::pin(observe::see(&self.api, &self.versions, until(within))).await
    }

    async fn nodes(&self, within: Duration) -> Result<Vec<NodeSeen>, ClusterError> {
        observe::nodes(&self.api, until(within)).await.map_err(ClusterError::Unreachable)
    }

    async fn ask_for_a_person(&self, node: &str, because: Option<&str>, within: Duration) -> Result<(), ClusterError> {
        let done = observe::ask_for_a_person(&self.api, node, because, until(within)).await?;
        if let Some((because, at)) = because.zip(done.at) {
            self.events.tell(Happened { node: done.meta, what: What::ManualAction(because.to_owned()), at });
        }
        Ok(())
    }

    async fn reconcile(&self, object: &ObjectRef, token: &str, within: Duration) -> Result<(), ClusterError> {
        observe::reconcile(&self.api, &self.versions, object, token, until(within)).await
    }
}

#[tonic::async_trait]
impl Exposure for RealCluster {
    async fn exposed(&self, within: Duration) -> Exposed {
        Box::pin(exposure::exposed(&self.api, &self.versions, until(within))).await
    }
}

#[tonic::async_trait]
impl Survey for RealCluster {
    async fn rights(&self, helpers: Option<&str>, within: Duration) -> Result<Vec<RightSeen>, ClusterError> {
        rights::rights(&self.api, helpers, until(within)).await
    }

    async fn sources(&self, within: Duration) -> Part<Vec<SourceSeen>> {
        observe::sources(&self.api, &self.versions, until(within)).await
    }

    async fn describe(&self, within: Duration) -> Result<Described, ClusterError> {
        describe::describe(&self.api, until(within)).await
    }
}

#[tonic::async_trait]
impl Commander for RealCluster {
    async fn command_lease(&self, namespace: &str, within: Duration) -> Result<Option<LeaseRecord>, ClusterError> {
        command::read(&self.api, namespace, until(within)).await
    }

    async fn write_command_lease(&self, namespace: &str, record: &LeaseRecord, within: Duration) -> Result<bool, ClusterError> {
        command::write(&self.api, namespace, record, until(within)).await
    }
}

#[tonic::async_trait]
impl Repairs for RealCluster {
    async fn examine(&self, within: Duration) -> Symptoms {
        Box::pin(examine::examine(&self.api, &self.versions, until(within))).await
    }

    async fn delete(&self, object: &ObjectRef, uid: &str, within: Duration) -> Result<(), ClusterError> {
        mend::delete(&self.api, object, uid, until(within)).await
    }

    async fn scale(&self, object: &ObjectRef, version: &str, replicas: i32, within: Duration) -> Result<(), ClusterError> {
        mend::scale(&self.api, object, version, replicas, until(within)).await
    }

    async fn retry(&self, object: &ObjectRef, token: &str, reset: bool, within: Duration) -> Result<(), ClusterError> {
        if reset {
            observe::reset(&self.api, &self.versions, object, token, until(within)).await
        } else {
            observe::reconcile(&self.api, &self.versions, object, token, until(within)).await
        }
    }
}
