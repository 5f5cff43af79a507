//! Flux reads its source from a Git server that it manages itself, whose images come from a registry that it manages too.

use std::time::Duration;

use super::{Act, Due, Found, Look, case, may, part};
use crate::cluster::repairs::seen::{FluxSeen, GitSeen, PodSeen, ScaleSeen};
use crate::site::Repair;

const STANDS: Duration = Duration::from_secs(30);

/// What source-controller says of a server that was not there; a key or a branch that is wrong stays so however often it is asked.
const NOT_THERE: [&str; 8] = [
    "connection refused",
    "connection reset",
    "no route to host",
    "no such host",
    "i/o timeout",
    "context deadline exceeded",
    "server misbehaving",
    "EOF",
];

impl Look<'_> {
    /// Each link of the chain in turn, once what it waited for is there: the kubelet and source-controller wait longer after each failure,
    /// at last longer than a start-up is patient.
    pub(super) fn coupling(&self) -> Found {
        let names = &self.settings.repairs;
        if names.git_namespace.is_empty() {
            return Ok(Vec::new());
        }
        let (flux, sources) = (part(&self.symptoms.flux)?, part(&self.symptoms.sources)?);
        let (pods, workloads) = (part(&self.symptoms.pods)?, part(&self.symptoms.workloads)?);
        let is_source = |source: &&GitSeen| format!("{}/{}", source.is.object.namespace, source.is.object.name) == self.settings.source;
        let Some(source) = sources.iter().find(is_source).filter(|source| !source.ready && !source.suspended && may(&source.is, flux))
        else {
            return Ok(Vec::new());
        };
        if serves(workloads, &names.git_namespace) {
            let unreached = NOT_THERE.iter().any(|word| source.message.contains(word));
            return Ok(unreached.then(|| ask_again(source, &names.git_namespace)).into_iter().collect());
        }
        if names.registry_host.is_empty() || !serves(workloads, &names.registry_namespace) {
            return Ok(Vec::new());
        }
        let prefix = format!("{}/", names.registry_host);
        let of_it = pods.iter().filter(|pod| pod.is.object.namespace == names.git_namespace && pod.controlled && !pod.finished);
        Ok(of_it.filter_map(|pod| pull_again(pod, &prefix, flux)).collect())
    }
}

/// Everything in it that wants replicas has them, and something does.
fn serves(workloads: &[ScaleSeen], namespace: &str) -> bool {
    let mut wanted = workloads.iter().filter(|workload| workload.is.object.namespace == namespace && workload.replicas > 0).peekable();
    wanted.peek().is_some() && wanted.all(|workload| workload.ready >= workload.replicas)
}

fn ask_again(source: &GitSeen, namespace: &str) -> Due {
    let because = format!("{} was not reached ({}), and what serves it in {namespace} is up", source.is.object, source.message);
    case(Repair::Coupling, &source.is, because, STANDS, Act::Reconcile { reset: false })
}

fn pull_again(pod: &PodSeen, prefix: &str, flux: &[FluxSeen]) -> Option<Due> {
    let misses = |reason: &str| matches!(reason, "ImagePullBackOff" | "ErrImagePull");
    let waiting = pod.waiting.iter().find(|waiting| misses(&waiting.reason) && waiting.image.starts_with(prefix))?;
    let because = format!("{} waits for its image {}, and the registry that has it is up", pod.is.object, waiting.image);
    may(&pod.is, flux).then(|| case(Repair::Coupling, &pod.is, because, STANDS, Act::Delete { uid: pod.is.uid.clone() }))
}
