//! Through what the site is changed: real rooms, or simulated ones with the same ports.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::cluster;
use crate::cluster::port::Cluster;
use crate::config::Settings;
use crate::host::port::Hosts;
use crate::power::port::Primary;
use crate::site::{Host, NodeName, Topology};

/// What performing a shutdown needs, of one version of the settings.
pub struct Parts {
    /// Hosts, and what powers them.
    pub topology: Topology,
    /// Sections `cluster` and `shutdown`.
    pub settings: cluster::Settings,
    /// Hosts.
    pub hosts: Arc<dyn Hosts>,
    /// The cluster; `None`: the site has none, or its kubeconfig cannot be read, and why.
    pub cluster: Result<Arc<dyn Cluster>, String>,
    /// UPSes of which this host is the primary.
    pub primary: Arc<dyn Primary>,
}

impl Parts {
    /// A host by its name in the inventory.
    ///
    /// # Errors
    /// It is not there any more.
    pub fn host(&self, name: &NodeName) -> Result<&Host, String> {
        self.topology.hosts.get(name).ok_or_else(|| format!("{name} is no host of the inventory"))
    }
}

/// Makes them for given settings.
pub type MakeParts = dyn Fn(Arc<Settings>) -> BoxFuture<'static, Parts> + Send + Sync;
