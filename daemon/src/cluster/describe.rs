//! The nodes as an inventory describes them.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::time::Instant;

use super::kube::{Api, path};
use super::objects::Loose;
use super::port::{ClusterError, Described, LonghornDisk, NodeDescribed};
use super::volumes::longhorn;

/// k3s sets one of them on its servers.
const SERVER_LABELS: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// Nodes, and what Longhorn keeps on them.
///
/// # Errors
/// The nodes cannot be listed.
pub async fn describe(api: &Api, until: Instant) -> Result<Described, ClusterError> {
    let nodes = path("v1", "", "nodes", "");
    let (nodes, disks) = tokio::join!(api.list::<Loose>(&nodes, &[], until), longhorn(api, "nodes", until));
    let nodes = nodes.map_err(|failure| failure.error("nodes"))?;
    let longhorn = match disks {
        Ok(nodes) => Ok(nodes.iter().map(|node| (node.metadata.name.clone(), disks_of(node))).collect()),
        Err(failure) => Err(failure.error("nodes of Longhorn").to_string()),
    };
    Ok(Described { nodes: nodes.items.iter().map(node).collect(), longhorn })
}

pub(super) fn node(node: &Loose) -> NodeDescribed {
    let address = |kind: &'static str| {
        let all = node.status["addresses"].as_array().into_iter().flatten();
        all.filter(move |address| address["type"] == kind).filter_map(|address| address["address"].as_str().map(ToOwned::to_owned))
    };
    let labels = node.metadata.labels.clone();
    NodeDescribed {
        name: node.metadata.name.clone(),
        hostname: address("Hostname").next().unwrap_or_default(),
        addresses: address("InternalIP").collect(),
        arch: node.status_str("/nodeInfo/architecture").to_owned(),
        os_image: node.status_str("/nodeInfo/osImage").to_owned(),
        version: node.status_str("/nodeInfo/kubeletVersion").to_owned(),
        server: SERVER_LABELS.iter().any(|label| labels.contains_key(*label)),
        taints: node.spec["taints"].as_array().into_iter().flatten().map(taint).collect(),
        labels,
    }
}

fn taint(taint: &Value) -> String {
    let text = |key: &str| taint[key].as_str().unwrap_or_default();
    let value = text("value");
    let equals = if value.is_empty() { "" } else { "=" };
    format!("{}{equals}{value}:{}", text("key"), text("effect"))
}

/// Disks of `spec`, with what their status says of them.
pub(super) fn disks_of(node: &Loose) -> Vec<LonghornDisk> {
    let disks = node.spec["disks"].as_object().into_iter().flatten();
    let mut found: Vec<LonghornDisk> = disks
        .map(|(name, disk)| LonghornDisk {
            path: disk["path"].as_str().unwrap_or_default().to_owned(),
            uuid: node.status["diskStatus"][name]["diskUUID"].as_str().unwrap_or_default().to_owned(),
        })
        .collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// By Kubernetes name, nodes with at least one disk.
pub fn stores(longhorn: &BTreeMap<String, Vec<LonghornDisk>>) -> std::collections::BTreeSet<String> {
    longhorn.iter().filter(|(_, disks)| !disks.is_empty()).map(|(node, _)| node.clone()).collect()
}
