//! Through what the site is changed: real rooms, or simulated ones with the same ports.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use crate::cluster;
use crate::cluster::port::{Cluster, Commander, Exposure, Platform, Repairs, Survey, Vault};
use crate::cluster::seen::Seen;
use crate::config::Settings;
use crate::host::port::{Hosts, Waker};
use crate::peer;
use crate::peer::port::Link;
use crate::power::port::Primary;
use crate::probe::port::Prober;
use crate::site::{Host, NodeName, Topology};

/// What performing a shutdown needs, of one version of the settings.
pub struct Parts {
    /// Hosts, and what powers them.
    pub topology: Topology,
    /// Sections `cluster` and `shutdown`.
    pub settings: cluster::Settings,
    /// Hosts.
    pub hosts: Arc<dyn Hosts>,
    /// Wakes those that are off.
    pub waker: Arc<dyn Waker>,
    /// The cluster; `None`: the site has none, or its kubeconfig cannot be read, and why.
    pub cluster: Result<Arc<dyn Cluster>, String>,
    /// The same as a start-up looks at it.
    pub platform: Result<Arc<dyn Platform>, String>,
    /// The same as it is seen from outside.
    pub exposure: Result<Arc<dyn Exposure>, String>,
    /// Asks what the site serves.
    pub prober: Arc<dyn Prober>,
    /// The same as preparations look at it.
    pub survey: Result<Arc<dyn Survey>, String>,
    /// The pods of Vault; why not, where there is none to look at.
    pub vault: Result<Arc<dyn Vault>, String>,
    /// The same as a start-up mends it.
    pub repairs: Result<Arc<dyn Repairs>, String>,
    /// The newest look at it, for all gates that are judged side by side.
    pub look: Look,
    /// UPSes of which this host is the primary.
    pub primary: Arc<dyn Primary>,
    /// The other metis host; `None`: the site has none.
    pub peers: Option<Peers>,
}

/// The other metis host, and the Lease by which one of the two commands.
#[derive(Clone)]
pub struct Peers {
    /// Section `peer`.
    pub settings: peer::Settings,
    /// Its daemon.
    pub link: Arc<dyn Link>,
    /// The Lease; or why it cannot be asked for.
    pub lease: Result<Arc<dyn Commander>, String>,
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

/// A look at the cluster that several share: its lists are long, and gates are judged for every node side by side.
#[derive(Default)]
pub struct Look(tokio::sync::Mutex<Option<(Instant, Arc<Seen>)>>);

impl Look {
    /// One that is not older than `age`.
    pub async fn not_older(&self, age: Duration, platform: &dyn Platform, within: Duration) -> Arc<Seen> {
        let mut newest = self.0.lock().await;
        if let Some((_, seen)) = newest.as_ref().filter(|(at, _)| at.elapsed() < age) {
            return Arc::clone(seen);
        }
        let seen = Arc::new(platform.see(within).await);
        *newest = Some((Instant::now(), Arc::clone(&seen)));
        seen
    }
}

/// Makes them for given settings.
pub type MakeParts = dyn Fn(Arc<Settings>) -> BoxFuture<'static, Parts> + Send + Sync;
