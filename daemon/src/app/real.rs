//! The real rooms through which the site is changed.

use std::sync::Arc;

use tokio::sync::watch;

use super::parts::{Look, MakeParts, Parts};
use super::world::World;
use super::{daemon, peers, simulate, topology, vault};
use crate::cluster::RealCluster;
use crate::cluster::port::{Cluster, Commander, Exposure, Platform, Repairs, Survey, Vault};
use crate::config::Settings;
use crate::host::clock::Clock;
use crate::host::port::Pods;
use crate::host::{MagicPacket, RealHosts, Secrets};
use crate::power::NutPrimary;
use crate::power::nut::Held;
use crate::probe::RealProber;
use crate::secrets;

/// The world as it is. `held`: logins of this daemon's own monitor.
///
/// # Errors
/// A simulated site is asked for and cannot be had.
pub fn world(settings: watch::Receiver<Arc<Settings>>, context: secrets::Context, held: Held, clock: &Clock) -> anyhow::Result<World> {
    let (clock, this_host) = (clock.clone(), daemon::host_name());
    let real = parts(context.clone(), held, this_host.clone());
    let parts = simulate::from_environment(&this_host, &real)?.unwrap_or(real);
    Ok(World::new(settings, context, parts, Arc::new(move || clock.now()), this_host))
}

fn parts(context: secrets::Context, held: Held, this_host: String) -> Arc<MakeParts> {
    let resolve: Secrets = Arc::new(move |reference| secrets::resolve(reference, &context).map_err(|error| error.to_string()));
    Arc::new(move |settings| {
        let (resolve, held, this_host) = (Arc::clone(&resolve), held.clone(), this_host.clone());
        Box::pin(async move {
            let cluster = cluster(&settings, Arc::clone(&resolve)).await.map(Arc::new);
            let pods = cluster.as_ref().ok().map(|cluster| Arc::new(cluster.pods(&settings.hosts.helper_namespace)) as Arc<dyn Pods>);
            let topology = topology::of(&settings, &this_host);
            let hosts = Arc::new(RealHosts::new(&settings.hosts, Arc::clone(&resolve), pods));
            let lease = cluster.clone().map(|cluster| cluster as Arc<dyn Commander>);
            let vault = match (&settings.cluster.startup.vault, &cluster) {
                (Some(vault), Ok(cluster)) => {
                    let reach = vault::reach(vault, Arc::clone(&hosts), &topology, Arc::clone(&resolve));
                    Ok(Arc::new(cluster.vault(vault, reach)) as Arc<dyn Vault>)
                }
                (Some(_), Err(why)) => Err(why.clone()),
                (None, _) => Err("startup.vault is not set".to_owned()),
            };
            Parts {
                peers: peers::real(&settings, &topology, &hosts, lease),
                topology,
                settings: settings.cluster.clone(),
                hosts,
                vault,
                waker: Arc::new(MagicPacket),
                cluster: cluster.clone().map(|cluster| cluster as Arc<dyn Cluster>),
                platform: cluster.clone().map(|cluster| cluster as Arc<dyn Platform>),
                exposure: cluster.clone().map(|cluster| cluster as Arc<dyn Exposure>),
                repairs: cluster.clone().map(|cluster| cluster as Arc<dyn Repairs>),
                prober: Arc::new(RealProber::default()),
                survey: cluster.map(|cluster| cluster as Arc<dyn Survey>),
                look: Look::default(),
                primary: Arc::new(NutPrimary::new(&settings.power.upses, resolve, held)),
            }
        })
    })
}

async fn cluster(settings: &Settings, resolve: Secrets) -> Result<RealCluster, String> {
    let Some(kubeconfig) = settings.cluster.kubeconfig.clone() else {
        return Err("the site has no cluster: `cluster.kubeconfig` is not set".to_owned());
    };
    let read = tokio::task::spawn_blocking(move || resolve(&kubeconfig)).await.map_err(|error| error.to_string())?;
    let kubeconfig = read.map_err(|why| format!("cluster.kubeconfig: {why}"))?;
    RealCluster::new(&settings.cluster, &kubeconfig).await.map_err(|error| format!("cluster.kubeconfig: {error}"))
}
