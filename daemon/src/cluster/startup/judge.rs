//! Pure: what is seen of the cluster → whether a gate is passed.
//!
//! Every rule here has a twin that looks green and is not: a Ready of before the boot, a suspended object whose conditions go on being
//! written, a source that is Ready without an artifact.

use std::collections::BTreeSet;

use crate::cluster::seen::{AppliedSeen, Expected, NodeSeen, Part, Seen, SourceSeen};
use crate::site::{Judged, Mark, ObjectRef};

/// So many objects are named one by one.
const NAMED: usize = 6;

fn not_ready(why: impl Into<String>, done: usize) -> Judged {
    Judged::NotReady { why: why.into(), done: done as u64 }
}

pub(super) fn part<'a, T>(part: &'a Part<T>, what: &str) -> Result<&'a T, Judged> {
    part.as_ref().map_err(|why| Judged::CannotTell(format!("{what} cannot be seen: {why}")))
}

/// The first few, and how many more.
pub fn named(troubles: &[String]) -> String {
    let more = troubles.len().saturating_sub(NAMED);
    let first = troubles.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if more == 0 { first } else { format!("{first}; and {more} more") }
}

/// All are well, or these are not.
pub(super) fn all_of(total: usize, troubles: &[String], what: &str) -> Judged {
    if troubles.is_empty() {
        return Judged::Ready(format!("all {total} {what}"));
    }
    let well = total.saturating_sub(troubles.len());
    not_ready(format!("{well} of {total} {what}: {}", named(troubles)), well)
}

/// Ready is believed only of the host's present boot: kube-apiserver keeps the status of before a power cut, and the node controller needs
/// most of a minute to doubt it.
pub fn node(seen: &Seen, node: &str, boot_id: &str) -> Judged {
    let nodes = match part(&seen.nodes, "nodes") {
        Ok(nodes) => nodes,
        Err(judged) => return judged,
    };
    let Some(found) = nodes.iter().find(|seen| seen.name == node) else {
        return not_ready(format!("node {node} has not registered"), 0);
    };
    match node_trouble(found, boot_id) {
        None => Judged::Ready(format!("node {node} is Ready since the present boot of its host")),
        Some((why, done)) => not_ready(why, done),
    }
}

fn node_trouble(node: &NodeSeen, boot_id: &str) -> Option<(String, usize)> {
    let name = &node.name;
    if node.boot_id != boot_id {
        return Some((
            format!("node {name} still shows its status of an earlier boot (bootID {}, its host's is {boot_id})", node.boot_id),
            1,
        ));
    }
    if !node.lease_fresh {
        return Some((format!("node {name} does not renew its Lease: its kubelet has not come up, whatever Ready says"), 2));
    }
    (!node.ready).then(|| (format!("node {name} is not Ready"), 3))
}

/// Flux's source is the one that is wanted, Ready, and has an artifact.
pub fn source(seen: &Seen, expected: &Expected) -> Judged {
    if expected.source.is_empty() {
        return Judged::Ready("the site names no source of Flux".to_owned());
    }
    let sources = match part(&seen.sources, "GitRepositories of Flux") {
        Ok(sources) => sources,
        Err(judged) => return judged,
    };
    let Some(source) = sources.iter().find(|source| source.name == expected.source) else {
        return not_ready(format!("GitRepository {} is not there", expected.source), 0);
    };
    if let Some(drift) = drift(source, expected) {
        return not_ready(drift, 1);
    }
    let name = &source.name;
    if source.suspended {
        return not_ready(format!("GitRepository {name} is suspended"), 2);
    }
    if !source.ready {
        return not_ready(format!("GitRepository {name} is not Ready: {}", source.message), 3);
    }
    if source.revision.is_empty() {
        return not_ready(format!("GitRepository {name} says Ready, and has no artifact: its storage does not survive a restart"), 4);
    }
    Judged::Ready(format!("GitRepository {name} has {}", source.revision))
}

/// Where the source reads something else than it should.
pub fn drift(source: &SourceSeen, expected: &Expected) -> Option<String> {
    let differs = |wanted: &str, is: &str| !wanted.is_empty() && wanted != is;
    let name = &source.name;
    if differs(&expected.url, &source.url) {
        return Some(format!("GitRepository {name} reads {}, and {} is expected", source.url, expected.url));
    }
    if differs(&expected.branch, &source.branch) {
        let is = if source.branch.is_empty() { "no branch" } else { &source.branch };
        return Some(format!("GitRepository {name} follows {is}, and {} is expected", expected.branch));
    }
    None
}

/// All Kustomizations but the optional ones, and all HelmReleases that nobody suspended, are applied.
pub fn flux(seen: &Seen, expected: &Expected) -> Judged {
    let (objects, sources) = match (part(&seen.flux, "Kustomizations and HelmReleases"), part(&seen.sources, "GitRepositories of Flux")) {
        (Ok(objects), Ok(sources)) => (objects, sources),
        (Err(judged), _) | (_, Err(judged)) => return judged,
    };
    let wanted: Vec<_> = objects.iter().filter(|object| is_wanted(object, expected)).collect();
    let troubles: Vec<_> = wanted.iter().filter_map(|object| Some(format!("{} {}", object.object, trouble(object, sources)?))).collect();
    all_of(wanted.len(), &troubles, "objects of Flux are applied")
}

/// A HelmRelease that somebody else suspended is his; a Kustomization holds up everything below it and must be named as optional.
fn is_wanted(object: &AppliedSeen, expected: &Expected) -> bool {
    let name = format!("{}/{}", object.object.namespace, object.object.name);
    match object.object.kind.as_str() {
        "Kustomization" => !expected.optional.contains(&name),
        _ => !object.suspended || object.mark.is_some(),
    }
}

/// Why it is not applied (kustomize-controller: conditions, observedGeneration and lastHandledReconcileAt are written for suspended objects
/// too, and "handled" also where the reconciliation failed; only all of them together say that it is).
pub fn trouble(object: &AppliedSeen, sources: &[SourceSeen]) -> Option<String> {
    if object.suspended {
        let whose = if object.mark.is_some() { "by metis" } else { "by somebody else: resume it, or name it in startup.optional" };
        return Some(format!("is suspended ({whose})"));
    }
    if !object.ready {
        return Some(format!("is not Ready: {}", object.message));
    }
    if !object.observed {
        return Some("was changed, and its controller has not seen it yet".to_owned());
    }
    if !object.handled {
        return Some("was asked to reconcile, and has not yet".to_owned());
    }
    if object.source.is_empty() {
        return None;
    }
    match sources.iter().find(|source| source.name == object.source) {
        None => Some(format!("reads GitRepository {}, which is not there", object.source)),
        Some(source) if source.revision.is_empty() => Some(format!("reads GitRepository {}, which has no artifact", source.name)),
        Some(source) if source.revision != object.applied => {
            let applied = if object.applied.is_empty() { "nothing" } else { &object.applied };
            Some(format!("has applied {applied}, and its source is at {}", source.revision))
        }
        Some(_) => None,
    }
}

/// Namespaces are there.
pub fn namespaces(seen: &Seen, expected: &Expected) -> Judged {
    let there = match part(&seen.namespaces, "namespaces") {
        Ok(there) => there,
        Err(judged) => return judged,
    };
    let missing: Vec<_> = expected.namespaces.difference(there).map(|name| format!("namespace {name} is missing")).collect();
    all_of(expected.namespaces.len(), &missing, "namespaces are there")
}

/// Workloads have converged. A DaemonSet cannot have its pods on nodes that are not waited for.
pub fn workloads(seen: &Seen, expected: &Expected) -> Judged {
    let workloads = match part(&seen.workloads, "workloads") {
        Ok(workloads) => workloads,
        Err(judged) => return judged,
    };
    let mut troubles = Vec::new();
    for workload in workloads {
        let object = &workload.object;
        let absent = if object.kind == "DaemonSet" { expected.ignored.len() as u64 } else { 0 };
        let wanted = workload.wanted.saturating_sub(absent);
        if !workload.observed {
            troubles.push(format!("{object} was changed, and its controller has not seen it yet"));
        } else if workload.ready < wanted {
            troubles.push(format!("{object} has {} of {} pods ready", workload.ready, workload.wanted));
        } else if workload.updated < wanted {
            troubles.push(format!("{object} has {} of {} pods of its newest template", workload.updated, workload.wanted));
        }
    }
    all_of(workloads.len(), &troubles, "workloads have converged")
}

/// Nothing regressed: what the gates before saw is still so, and no pod crashes or misses its image. What is wrong, each on its own.
pub fn regressions(seen: &Seen, expected: &Expected) -> Result<Vec<String>, String> {
    let mut troubles = Vec::new();
    for judged in
        [source(seen, expected), flux(seen, expected), namespaces(seen, expected), workloads(seen, expected), nodes_lost(seen, expected)]
    {
        match judged {
            Judged::Ready(_) => {}
            Judged::NotReady { why, .. } => troubles.push(why),
            Judged::CannotTell(why) => return Err(why),
        }
    }
    let pods = seen.troubled.as_ref().map_err(|why| format!("pods cannot be seen: {why}"))?;
    troubles.extend(pods.iter().map(|pod| format!("pod {}: {}", pod.name, pod.why)));
    Ok(troubles)
}

fn nodes_lost(seen: &Seen, expected: &Expected) -> Judged {
    let nodes = match part(&seen.nodes, "nodes") {
        Ok(nodes) => nodes,
        Err(judged) => return judged,
    };
    let wanted: Vec<_> = nodes.iter().filter(|node| !expected.ignored.contains(&node.name)).collect();
    let lost = |node: &&NodeSeen| (!node.ready || !node.lease_fresh).then(|| format!("node {} is not Ready any more", node.name));
    let troubles: Vec<_> = wanted.iter().filter_map(lost).collect();
    all_of(wanted.len(), &troubles, "nodes are Ready")
}

/// Marked objects: nodes that are cordoned, objects of Flux that are suspended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marked {
    /// By Kubernetes name.
    pub nodes: BTreeSet<String>,
    /// Each.
    pub flux: BTreeSet<ObjectRef>,
}

/// Those that one of `holders` marked, and those that another metis host did.
pub fn marked_by(seen: &Seen, holders: &BTreeSet<String>) -> (Marked, Marked) {
    let by = |ours: bool| {
        let is = move |mark: &Option<Mark>| mark.as_ref().is_some_and(|mark| holders.contains(&mark.holder) == ours);
        let nodes = seen.nodes.iter().flatten().filter(|node| is(&node.mark)).map(|node| node.name.clone());
        let flux = seen.flux.iter().flatten().filter(|object| object.suspended && is(&object.mark)).map(|object| object.object.clone());
        Marked { nodes: nodes.collect(), flux: flux.collect() }
    };
    (by(true), by(false))
}
