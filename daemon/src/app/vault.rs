//! The ways to Vault's pods and to its keys, from the rooms that have them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::vault::{Dial, KeySource, Reach, ReadKeys, Stream, VaultPod, VaultSettings, Via};
use crate::host::{RealHosts, Secrets, break_glass};
use crate::site::{Access, Host, SecretRef, Topology};

/// What its pods need of other rooms.
pub fn reach(settings: &VaultSettings, hosts: Arc<RealHosts>, topology: &Topology, secrets: Secrets) -> Reach {
    let kept = settings.keys.iter().map(|keys| kept(keys, &secrets));
    let command = (!settings.break_glass.is_empty()).then(|| printed(settings));
    Reach { sources: kept.chain(command).collect(), dial: dial(settings.via, hosts, topology.hosts.values().cloned().collect()) }
}

fn kept(keys: &SecretRef, secrets: &Secrets) -> KeySource {
    let (keys, secrets) = (keys.clone(), Arc::clone(secrets));
    let name = keys.to_string();
    let read: ReadKeys = Arc::new(move |_| {
        let (keys, secrets) = (keys.clone(), Arc::clone(&secrets));
        Box::pin(async move { tokio::task::spawn_blocking(move || secrets(&keys)).await.map_err(|error| error.to_string())? })
    });
    KeySource { name, read, once: false }
}

fn printed(settings: &VaultSettings) -> KeySource {
    let (command, limit) = (settings.break_glass.clone(), settings.break_glass_timeout);
    let read: ReadKeys = Arc::new(move |within| {
        let command = command.clone();
        Box::pin(async move { break_glass::printed(&command, limit.min(within)).await })
    });
    KeySource { name: "the break-glass command".to_owned(), read, once: true }
}

/// A node that is this host has its pods on a bridge of its own.
fn dial(via: Via, hosts: Arc<RealHosts>, known: Vec<Host>) -> Dial {
    Arc::new(move |pod, port, within| {
        let host = known.iter().find(|host| host.node_name == pod.node).cloned();
        let hosts = Arc::clone(&hosts);
        Box::pin(async move {
            let address = pod.address.ok_or_else(|| "its pod has no address".to_owned())?;
            match (via, host) {
                (Via::Direct, _) => straight(address, port, within).await,
                (Via::Ssh, Some(host)) if host.access == Access::Local => straight(address, port, within).await,
                (Via::Ssh, Some(host)) => {
                    let tunnel = hosts.tunnel(&host, address, port, within).await.map_err(|error| error.to_string())?;
                    Ok(Box::new(tunnel) as Box<dyn Stream>)
                }
                (Via::Ssh, None) => Err(no_way(&pod)),
            }
        })
    })
}

fn no_way(pod: &VaultPod) -> String {
    format!(
        "its node `{}` is no host of the inventory, so that it cannot be reached through it; add it, or say startup.vault.via: direct where \
         this host has a route to pods",
        pod.node
    )
}

async fn straight(address: IpAddr, port: u16, within: Duration) -> Result<Box<dyn Stream>, String> {
    let connected = timeout(within, TcpStream::connect((address, port))).await;
    let stream =
        connected.map_err(|_| "no connection in time; has this host a route to pods?".to_owned())?.map_err(|error| error.to_string())?;
    Ok(Box::new(stream))
}
