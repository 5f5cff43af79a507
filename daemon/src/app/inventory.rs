//! Drafts an inventory from the live cluster, with the host keys that its hosts show.

use std::time::Duration;

use futures::future::join_all;

use super::world::World;
use crate::api::port::{Draft, InventoryQuestion, PlanError};
use crate::cluster::port::{Described, NodeDescribed};
use crate::config;
use crate::host::ssh;
use crate::prepare::draft::{NodeSeen, Seen, draft};

const WITHIN: Duration = Duration::from_secs(10);
/// SSH's own port.
const SSH_PORT: u16 = 22;

/// The draft; nothing is changed and nobody is logged in to.
///
/// # Errors
/// The cluster cannot be asked.
pub async fn import(world: &World, question: &InventoryQuestion) -> Result<Draft, PlanError> {
    let (settings, parts) = (world.settings(), world.parts().await);
    let survey = parts.survey.as_ref().map_err(|why| PlanError::Failed(why.clone()))?;
    let described = survey.describe(WITHIN).await.map_err(|error| PlanError::Failed(error.to_string()))?;
    let ssh_port = question.ssh_port.or(settings.inventory.defaults.ssh.port).unwrap_or(SSH_PORT);
    let Described { nodes, longhorn } = described;
    let disks = longhorn.as_ref().ok().cloned().unwrap_or_default();
    let seen = join_all(nodes.into_iter().map(|node| {
        let disks = disks.get(&node.name).cloned().unwrap_or_default();
        let disks = disks.into_iter().map(|disk| (disk.path, disk.uuid)).collect();
        async move { NodeSeen { disks, ..shown(node, ssh_port).await } }
    }));
    let seen = Seen { at: world.now().wall, nodes: seen.await, ssh_port, prefix: question.prefix, longhorn: longhorn.map(drop) };
    let (yaml, mut notes) = draft(&seen);
    if let Err(errors) = config::inventory_from_str(&yaml) {
        notes.extend(errors.into_iter().map(|error| format!("to be corrected in the draft: {error}")));
    }
    Ok(Draft { yaml, notes })
}

async fn shown(node: NodeDescribed, port: u16) -> NodeSeen {
    let address = node.addresses.into_iter().next().unwrap_or_default();
    let host_keys = if address.is_empty() {
        None
    } else {
        let keys = ssh::scan(&address, port, WITHIN).await.map_err(|error| error.to_string());
        Some(keys.map(|keys| keys.into_iter().map(|key| (key.algorithm, key.fingerprint)).collect()))
    };
    NodeSeen {
        name: node.name,
        hostname: node.hostname,
        address,
        arch: node.arch,
        os_image: node.os_image,
        version: node.version,
        server: node.server,
        labels: node.labels,
        taints: node.taints,
        disks: Vec::new(),
        host_keys,
    }
}
