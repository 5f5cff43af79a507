//! Pods that a start-up needs and that do not come up.

use std::time::Duration;

use super::{Act, Found, Look, case, flux_namespace, may, part};
use crate::cluster::Protect;
use crate::cluster::repairs::seen::PodSeen;
use crate::site::Repair;

/// A kubelet waits up to five minutes between two starts; a deletion begins anew at once.
const CRASHING: Duration = Duration::from_secs(180);
/// A pod that has started, or is being started, may need long.
const NOT_READY: Duration = Duration::from_secs(600);

/// Flux' controllers, by the label `app` of their pods (gotk-components.yaml).
const CONTROLLERS: [&str; 6] = [
    "source-controller",
    "kustomize-controller",
    "helm-controller",
    "notification-controller",
    "image-reflector-controller",
    "image-automation-controller",
];

/// An image that cannot be had, or a configuration that cannot be, is the same for the next pod.
const NO_CURE: [&str; 5] = ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"];

impl Look<'_> {
    pub(super) fn stuck_pods(&self) -> Found {
        let (flux, pods, nodes) = (part(&self.symptoms.flux)?, part(&self.symptoms.pods)?, part(&self.symptoms.nodes)?);
        // What a kubelet does not report any more is as old as its last word.
        let up = |pod: &PodSeen| nodes.iter().any(|node| node.name == pod.node && node.ready && node.lease_fresh);
        let needed = pods.iter().filter(|pod| self.needs(pod) && pod.controlled && !pod.finished && may(&pod.is, flux) && up(pod));
        let due = needed.filter_map(|pod| {
            let (why, stands) = stuck(pod)?;
            let act = Act::Delete { uid: pod.is.uid.clone() };
            Some(case(Repair::StuckPod, &pod.is, format!("{} is stuck: {why}", pod.is.object), stands, act))
        });
        Ok(due.collect())
    }

    fn needs(&self, pod: &PodSeen) -> bool {
        let namespace = &pod.is.object.namespace;
        let of_flux =
            *namespace == flux_namespace(self.settings) && pod.labels.get("app").is_some_and(|app| CONTROLLERS.contains(&app.as_str()));
        of_flux || self.settings.repairs.controllers.iter().any(|rule: &Protect| rule.fits(namespace, &pod.labels))
    }
}

fn stuck(pod: &PodSeen) -> Option<(String, Duration)> {
    if pod.ready || pod.waiting.iter().any(|waiting| NO_CURE.contains(&waiting.reason.as_str())) {
        return None;
    }
    let crashing = pod.waiting.iter().find(|waiting| waiting.reason == "CrashLoopBackOff");
    Some(match (crashing, pod.waiting.first()) {
        (Some(waiting), _) => (format!("CrashLoopBackOff of container {}", waiting.container), CRASHING),
        (None, Some(waiting)) => (format!("container {} waits: {}", waiting.container, waiting.reason), NOT_READY),
        (None, None) => ("it runs and is not Ready".to_owned(), NOT_READY),
    })
}
