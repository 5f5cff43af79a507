//! Volumes that are attached: what Kubernetes says (VolumeAttachments), and what Longhorn says (its volumes and attachment tickets), which
//! may lag behind in either direction. A cluster without Longhorn has none of its own.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokio::time::Instant;

use super::kube::{Api, Failure, path};
use super::objects::Loose;
use super::port::{AttachedVolume, ClusterError};

/// Longhorn's API (v1.3 and later; v1beta1 is gone since 1.10).
const LONGHORN: &str = "longhorn.io/v1beta2";

/// Volumes that are attached to any of `nodes`, or to any node where that is `None`.
///
/// # Errors
/// Where one of the lists could not be read: what is not seen may be attached.
pub async fn attached(api: &Api, nodes: Option<&BTreeSet<String>>, until: Instant) -> Result<Vec<AttachedVolume>, ClusterError> {
    let of_kubernetes = path("storage.k8s.io/v1", "", "volumeattachments", "");
    let (attachments, volumes, tickets) = tokio::try_join!(
        async { api.list::<Loose>(&of_kubernetes, &[], until).await.map(|list| list.items) },
        longhorn(api, "volumes", until),
        longhorn(api, "volumeattachments", until),
    )
    .map_err(|failure| failure.error("attached volumes"))?;
    let mut all = merge(&attachments, &volumes, &tickets);
    all.retain(|volume| nodes.is_none_or(|nodes| nodes.contains(&volume.node)));
    Ok(all)
}

/// Longhorn volumes by name, each with the nodes that have a healthy replica of it.
///
/// # Errors
/// Where the list could not be read.
pub async fn replicas(api: &Api, until: Instant) -> Result<Vec<(String, BTreeSet<String>)>, ClusterError> {
    let replicas = longhorn(api, "replicas", until).await.map_err(|failure| failure.error("replicas of Longhorn"))?;
    let mut by_volume: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for replica in &replicas {
        let nodes = by_volume.entry(replica.spec_str("/volumeName").to_owned()).or_default();
        // Longhorn: healthyAt is set once it was in sync, failedAt while it is not.
        if !replica.spec_str("/healthyAt").is_empty() && replica.spec_str("/failedAt").is_empty() {
            nodes.insert(replica.spec_str("/nodeID").to_owned());
        }
    }
    by_volume.retain(|volume, _| !volume.is_empty());
    Ok(by_volume.into_iter().collect())
}

/// Objects of Longhorn; none where the cluster has no Longhorn.
pub(super) async fn longhorn(api: &Api, resource: &str, until: Instant) -> Result<Vec<Loose>, Failure> {
    match api.list(&path(LONGHORN, "", resource, ""), &[], until).await {
        Ok(list) => Ok(list.items),
        Err(failure) if failure.code() == Some(404) => Ok(Vec::new()),
        Err(failure) => Err(failure),
    }
}

/// One entry for each volume and node, with everything that holds it there.
pub fn merge(attachments: &[Loose], volumes: &[Loose], tickets: &[Loose]) -> Vec<AttachedVolume> {
    let mut held: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let mut hold = |volume: &str, node: &str, by: String| {
        if !node.is_empty() {
            held.entry((volume.to_owned(), node.to_owned())).or_default().insert(by);
        }
    };
    for attachment in attachments {
        let volume = match attachment.spec_str("/source/persistentVolumeName") {
            "" => &attachment.metadata.name,
            name => name,
        };
        hold(volume, attachment.spec_str("/nodeName"), format!("VolumeAttachment of {}", attachment.spec_str("/attacher")));
    }
    for volume in volumes {
        let state = volume.status_str("/state");
        if !matches!(state, "" | "detached" | "creating" | "deleting") {
            hold(&volume.metadata.name, volume.status_str("/currentNodeID"), format!("Longhorn: {state}"));
        }
    }
    for attachment in tickets {
        let tickets = attachment.spec.get("attachmentTickets").and_then(Value::as_object);
        for ticket in tickets.into_iter().flat_map(|tickets| tickets.values()) {
            let text = |key: &str| ticket.get(key).and_then(Value::as_str).unwrap_or("");
            hold(&attachment.metadata.name, text("nodeID"), format!("Longhorn ticket {}", text("type")));
        }
    }
    let join = |by: BTreeSet<String>| by.into_iter().collect::<Vec<_>>().join(", ");
    held.into_iter().map(|((name, node), by)| AttachedVolume { name, node, held_by: join(by) }).collect()
}
