//! Volumes that are held where nobody uses them.

use std::time::Duration;

use super::{Act, Found, Look, case, hands_off, may, part};
use crate::cluster::repairs::seen::{AttachmentSeen, PodSeen};
use crate::cluster::seen::NodeSeen;
use crate::site::Repair;

impl Look<'_> {
    /// Detaching a volume that somebody writes to destroys it. So: its node is gone, or was started anew since the attachment was made and
    /// says itself that it does not use the volume; no pod there names it, not even one that is ending; and a pod elsewhere waits for it.
    pub(super) fn orphaned_attachments(&self) -> Found {
        let (flux, pods) = (part(&self.symptoms.flux)?, part(&self.symptoms.pods)?);
        let (attachments, nodes) = (part(&self.symptoms.attachments)?, part(&self.symptoms.nodes)?);
        let mut due = Vec::new();
        for held in attachments.iter().filter(|held| may(&held.is, flux) && !held.in_use && !held.volume.is_empty()) {
            let Some(why) = self.holder_is_gone(held, nodes) else { continue };
            let names = |pod: &&PodSeen| pod.volumes.contains(&held.volume);
            let used_there = pods.iter().filter(names).any(|pod| pod.node == held.node && !pod.finished);
            let waits = |pod: &&PodSeen| !hands_off(pod.is.applied_by.as_ref(), flux) && waits_elsewhere(pod, held);
            let Some(waiting) = pods.iter().filter(names).find(waits).filter(|_| !used_there) else { continue };
            let because =
                format!("{} waits for {}, which {} holds on {}: {why}", waiting.is.object, held.volume, held.is.object, held.node);
            let act = Act::Delete { uid: held.is.uid.clone() };
            due.push(case(Repair::OrphanedAttachment, &held.is, because, Duration::from_secs(60), act));
        }
        Ok(due)
    }

    fn holder_is_gone(&self, held: &AttachmentSeen, nodes: &[NodeSeen]) -> Option<&'static str> {
        let Some(node) = nodes.iter().find(|node| node.name == held.node) else { return Some("that node is not there any more") };
        let known = self.known?;
        let older = held.created.is_some_and(|created| created <= known.ended);
        (older && node.ready && node.lease_fresh && known.rebooted(node)).then_some("of a boot before its present one")
    }
}

/// Bound to another node, and not begun.
fn waits_elsewhere(pod: &PodSeen, held: &AttachmentSeen) -> bool {
    let created = |reason: &str| matches!(reason, "ContainerCreating" | "PodInitializing");
    let not_begun = pod.waiting.iter().any(|waiting| created(&waiting.reason));
    !pod.node.is_empty() && pod.node != held.node && !pod.finished && !pod.ready && !pod.is.deleting && not_begun
}
