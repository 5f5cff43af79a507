//! What a start-up sees of the cluster: lists, each on its own.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::collect::fresh;
use super::flux::{Versions, in_order};
use super::kube::{Api, Call, List, path};
use super::mark::{Changed, marked};
use super::objects::{Loose, Meta, Node, Suspendable, is_true};
use super::port::ClusterError;
use super::seen::{AppliedSeen, NodeSeen, Part, Seen, SourceSeen, TroubledPod, WorkloadSeen};
use crate::site::ObjectRef;

/// Asked for by `flux reconcile`; a controller answers in `status.lastHandledReconcileAt`.
const REQUESTED_AT: &str = "reconcile.fluxcd.io/requestedAt";
/// Beside it, with the same value: a HelmRelease forgets how often it has failed.
const RESET_AT: &str = "reconcile.fluxcd.io/resetAt";

/// What Flux reconciles on request: kind, API group, resource.
const KINDS: [(&str, &str, &str); 3] = [
    ("GitRepository", "source.toolkit.fluxcd.io", "gitrepositories"),
    ("Kustomization", "kustomize.toolkit.fluxcd.io", "kustomizations"),
    ("HelmRelease", "helm.toolkit.fluxcd.io", "helmreleases"),
];

/// Reasons of a waiting container that do not pass by waiting a little.
const TROUBLES: [&str; 6] =
    ["CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"];

/// Everything that can be seen until `until`.
pub async fn see(api: &Api, versions: &Versions, until: Instant) -> Seen {
    let (nodes, sources, flux, workloads, troubled, namespaces) = tokio::join!(
        nodes(api, until),
        sources(api, versions, until),
        applied(api, versions, until),
        workloads(api, until),
        troubled(api, until),
        namespaces(api, until),
    );
    Seen { nodes, sources, flux, workloads, troubled, namespaces }
}

pub(super) async fn all<T: DeserializeOwned>(api: &Api, path: &str, what: &str, until: Instant) -> Part<List<T>> {
    api.list::<T>(path, &[], until).await.map_err(|failure| failure.error(what).to_string())
}

/// Nodes, each with whether its kubelet renews its Lease.
///
/// # Errors
/// Why they cannot be seen.
pub async fn nodes(api: &Api, until: Instant) -> Part<Vec<NodeSeen>> {
    let (nodes, leases) = (path("v1", "", "nodes", ""), path("coordination.k8s.io/v1", "kube-node-lease", "leases", ""));
    let (nodes, leases) = tokio::join!(all::<Node>(api, &nodes, "nodes", until), all::<Loose>(api, &leases, "Leases of the nodes", until));
    let (nodes, leases) = (nodes?, leases?);
    let seen = nodes.items.into_iter().map(|node| NodeSeen {
        ready: is_true(&node.status.conditions, "Ready"),
        lease_fresh: fresh(&node.metadata.name, &leases),
        boot_id: node.status.node_info.boot_id,
        unschedulable: node.spec.unschedulable,
        mark: marked(&node.metadata).mark(),
        name: node.metadata.name,
    });
    Ok(seen.collect())
}

/// Objects of one kind of Flux; none where the cluster has no such kind.
pub(super) async fn of_kind(api: &Api, versions: &Versions, at: usize, until: Instant) -> Part<Vec<Loose>> {
    let (kind, group, resource) = KINDS[at];
    let what = format!("{kind}s of Flux");
    let Some(version) = versions.of(api, group, until).await.map_err(|failure| failure.error(&what).to_string())? else {
        return Ok(Vec::new());
    };
    match api.list::<Loose>(&path(&version, "", resource, ""), &[], until).await {
        Ok(list) => Ok(list.items),
        Err(failure) if failure.code() == Some(404) => Ok(Vec::new()),
        Err(failure) => Err(failure.error(&what).to_string()),
    }
}

/// GitRepositories of Flux; none where the cluster has no Flux.
///
/// # Errors
/// Why they cannot be seen.
pub async fn sources(api: &Api, versions: &Versions, until: Instant) -> Part<Vec<SourceSeen>> {
    let sources = of_kind(api, versions, 0, until).await?;
    Ok(sources.iter().map(source).collect())
}

fn source(object: &Loose) -> SourceSeen {
    let (ready, message) = ready(object);
    SourceSeen {
        name: object.metadata.key(),
        url: object.spec_str("/url").to_owned(),
        branch: object.spec_str("/ref/branch").to_owned(),
        suspended: suspended(object),
        ready: ready && observed(object),
        message,
        revision: object.status_str("/artifact/revision").to_owned(),
    }
}

async fn applied(api: &Api, versions: &Versions, until: Instant) -> Part<Vec<AppliedSeen>> {
    let (kustomizations, releases) = tokio::join!(of_kind(api, versions, 1, until), of_kind(api, versions, 2, until));
    let (kustomizations, releases) = (kustomizations?, releases?);
    let order =
        in_order(kustomizations.iter().map(|object| Suspendable { metadata: object.metadata.clone(), ..Suspendable::default() }).collect());
    let mut by_key: BTreeMap<String, &Loose> = kustomizations.iter().map(|object| (object.metadata.key(), object)).collect();
    let parents_first = order.iter().filter_map(|object| by_key.remove(&object.metadata.key()));
    let kustomizations = parents_first.map(|object| one_applied("Kustomization", object));
    Ok(kustomizations.chain(releases.iter().map(|object| one_applied("HelmRelease", object))).collect())
}

fn one_applied(kind: &str, object: &Loose) -> AppliedSeen {
    let meta = &object.metadata;
    let (ready, message) = ready(object);
    AppliedSeen {
        object: ObjectRef::new(kind, &meta.namespace, &meta.name),
        suspended: suspended(object),
        mark: marked(meta).mark(),
        ready,
        message,
        observed: observed(object),
        applied: object.status_str("/lastAppliedRevision").to_owned(),
        source: git_source(object),
        handled: handled(meta, object),
    }
}

/// The GitRepository of a Kustomization, in its own namespace where it names none.
pub(super) fn git_source(object: &Loose) -> String {
    if object.spec_str("/sourceRef/kind") != "GitRepository" {
        return String::new();
    }
    let namespace = object.spec_str("/sourceRef/namespace");
    let namespace = if namespace.is_empty() { &object.metadata.namespace } else { namespace };
    format!("{namespace}/{}", object.spec_str("/sourceRef/name"))
}

fn handled(meta: &Meta, object: &Loose) -> bool {
    meta.annotations.get(REQUESTED_AT).is_none_or(|asked| object.status_str("/lastHandledReconcileAt") == asked)
}

pub(super) fn suspended(object: &Loose) -> bool {
    object.spec.get("suspend").and_then(Value::as_bool).unwrap_or(false)
}

pub(super) fn observed(object: &Loose) -> bool {
    object.status.get("observedGeneration").and_then(Value::as_i64) == Some(object.metadata.generation)
}

/// Whether its condition Ready is True, and its message.
pub(super) fn ready(object: &Loose) -> (bool, String) {
    let conditions = object.status.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let text = |condition: &Value, key: &str| condition.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let found = conditions.into_iter().find(|condition| text(condition, "type") == "Ready");
    found.map_or((false, "it has no condition Ready yet".to_owned()), |found| (text(found, "status") == "True", text(found, "message")))
}

async fn workloads(api: &Api, until: Instant) -> Part<Vec<WorkloadSeen>> {
    let mut seen = Vec::new();
    for (kind, resource) in [("Deployment", "deployments"), ("StatefulSet", "statefulsets"), ("DaemonSet", "daemonsets")] {
        let list = all::<Loose>(api, &path("apps/v1", "", resource, ""), &format!("{kind}s"), until).await?;
        seen.extend(list.items.iter().map(|object| workload(kind, object)));
    }
    Ok(seen)
}

fn workload(kind: &str, object: &Loose) -> WorkloadSeen {
    let count = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64);
    let status = |key: &str| count(&object.status, key).unwrap_or(0);
    let (wanted, ready, updated) = if kind == "DaemonSet" {
        (status("desiredNumberScheduled"), status("numberReady"), status("updatedNumberScheduled"))
    } else {
        (count(&object.spec, "replicas").unwrap_or(1), status("readyReplicas"), status("updatedReplicas"))
    };
    // Whoever updates by deletion, or in parts, says himself when pods become new.
    let by_hand = object.spec_str("/updateStrategy/type") == "OnDelete"
        || object.spec.pointer("/updateStrategy/rollingUpdate/partition").and_then(Value::as_u64) > Some(0);
    WorkloadSeen {
        object: ObjectRef::new(kind, &object.metadata.namespace, &object.metadata.name),
        wanted,
        ready,
        updated: if by_hand { wanted } else { updated },
        observed: observed(object),
    }
}

async fn troubled(api: &Api, until: Instant) -> Part<Vec<TroubledPod>> {
    let pods = all::<Loose>(api, &path("v1", "", "pods", ""), "pods", until).await?;
    Ok(pods.items.iter().filter_map(trouble).collect())
}

/// The first container that waits for something that does not come by itself.
fn trouble(pod: &Loose) -> Option<TroubledPod> {
    let containers = ["initContainerStatuses", "containerStatuses"].into_iter();
    let statuses = containers.filter_map(|key| pod.status.get(key)?.as_array()).flatten();
    let why = statuses.into_iter().find_map(|status| {
        let reason = status.pointer("/state/waiting/reason")?.as_str()?;
        let name = status.get("name").and_then(Value::as_str).unwrap_or("");
        TROUBLES.contains(&reason).then(|| format!("{reason} of container {name}"))
    })?;
    Some(TroubledPod { name: pod.metadata.key(), why })
}

async fn namespaces(api: &Api, until: Instant) -> Part<BTreeSet<String>> {
    let list = all::<Loose>(api, &path("v1", "", "namespaces", ""), "namespaces", until).await?;
    let there = list.items.into_iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
    Ok(there.map(|namespace| namespace.metadata.name).collect())
}

/// `/readyz` for an account of the API server's: 401 only says that TLS is up, and k3s answers it to everybody.
///
/// # Errors
/// Nobody answers with success in time.
pub async fn ready_to_serve(api: &Api, until: Instant) -> Result<(), ClusterError> {
    api.once(&Call::get("/readyz", &[]), until).await.map(drop).map_err(|failure| failure.error("readiness of the API"))
}

/// Annotation for people: what they have to look at.
const MANUAL_ACTION: &str = "metis.v1/manual-action";

/// Sets it on a node, or removes it.
///
/// # Errors
/// The API server refuses, or the node is not there.
pub async fn ask_for_a_person(api: &Api, node: &str, because: Option<&str>, until: Instant) -> Result<Changed, ClusterError> {
    let patch = json!({"metadata": {"annotations": {MANUAL_ACTION: because}}});
    let call = Call::patch(&path("v1", "", "nodes", node), &patch);
    let answer = api.ask(&call, until).await.map_err(|failure| failure.error(&format!("annotation of {node}")))?;
    let patched: Loose = serde_json::from_slice(&answer.body).unwrap_or_default();
    Ok(Changed { meta: patched.metadata, at: answer.date })
}

/// Asks the object's controller to reconcile it now; `token` tells one request from another.
///
/// # Errors
/// The API server refuses, or the object is not there.
pub async fn reconcile(api: &Api, versions: &Versions, object: &ObjectRef, token: &str, until: Instant) -> Result<(), ClusterError> {
    annotate(api, versions, object, &json!({REQUESTED_AT: token}), until).await
}

/// The same, and its failures are forgotten (helm-controller: `resetAt` counts where it is equal to `requestedAt`).
///
/// # Errors
/// As [`reconcile`].
pub async fn reset(api: &Api, versions: &Versions, object: &ObjectRef, token: &str, until: Instant) -> Result<(), ClusterError> {
    annotate(api, versions, object, &json!({REQUESTED_AT: token, RESET_AT: token}), until).await
}

async fn annotate(api: &Api, versions: &Versions, object: &ObjectRef, annotations: &Value, until: Instant) -> Result<(), ClusterError> {
    let what = format!("request to reconcile {object}");
    let Some((_, group, resource)) = KINDS.into_iter().find(|(kind, ..)| *kind == object.kind) else {
        return Err(ClusterError::Refused(format!("{what}: Flux does not reconcile a {}", object.kind)));
    };
    let version = versions.of(api, group, until).await.map_err(|failure| failure.error(&what))?;
    let version = version.ok_or_else(|| ClusterError::Gone(format!("{what}: the cluster has no API group {group}")))?;
    let patch = json!({"metadata": {"annotations": annotations}});
    let call = Call::patch(&path(&version, &object.namespace, resource, &object.name), &patch);
    api.ask(&call, until).await.map(drop).map_err(|failure| failure.error(&what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loose(text: Value) -> Loose {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_source_is_ready_for_the_generation_that_stands() {
        let object = |generation: i64| {
            loose(json!({
                "metadata": {"name": "flux-system", "namespace": "flux-system", "generation": generation},
                "spec": {"url": "ssh://git@scm/x.git", "ref": {"branch": "main"}},
                "status": {"observedGeneration": 3, "artifact": {"revision": "main@sha1:ab"},
                           "conditions": [{"type": "Ready", "status": "True", "message": "stored artifact"}]}
            }))
        };
        let seen = source(&object(3));
        assert_eq!((seen.name.as_str(), seen.branch.as_str(), seen.revision.as_str()), ("flux-system/flux-system", "main", "main@sha1:ab"));
        assert!(seen.ready);
        assert!(!source(&object(4)).ready, "its spec was changed since");
    }

    #[test]
    fn a_request_that_was_not_handled_is_seen() {
        let object = |handled: &str| {
            one_applied(
                "Kustomization",
                &loose(json!({
                    "metadata": {"name": "apps", "namespace": "flux-system", "generation": 1, "annotations": {"reconcile.fluxcd.io/requestedAt": "now"}},
                    "spec": {"sourceRef": {"kind": "GitRepository", "name": "site"}},
                    "status": {"observedGeneration": 1, "lastHandledReconcileAt": handled, "lastAppliedRevision": "main@sha1:ab"}
                })),
            )
        };
        assert!(object("now").handled && !object("before").handled);
        assert_eq!(object("now").source, "flux-system/site");
        assert_eq!(object("now").message, "it has no condition Ready yet");
    }

    #[test]
    fn workloads_count_as_their_kind_does() {
        let set = workload(
            "DaemonSet",
            &loose(json!({
                "metadata": {"name": "manager", "namespace": "longhorn-system", "generation": 2}, "spec": {},
                "status": {"observedGeneration": 2, "desiredNumberScheduled": 4, "numberReady": 3, "updatedNumberScheduled": 4}
            })),
        );
        assert_eq!((set.wanted, set.ready, set.updated, set.observed), (4, 3, 4, true));
        let stateful = workload(
            "StatefulSet",
            &loose(json!({
                "metadata": {"name": "db", "namespace": "postgres", "generation": 1},
                "spec": {"updateStrategy": {"type": "OnDelete"}}, "status": {"readyReplicas": 1}
            })),
        );
        assert_eq!((stateful.wanted, stateful.ready, stateful.updated, stateful.observed), (1, 1, 1, false));
    }

    #[test]
    fn a_container_that_starts_is_no_trouble() {
        let pod = |reason: &str| {
            trouble(&loose(json!({"metadata": {"name": "web-0", "namespace": "apps"}, "status": {
                "containerStatuses": [{"name": "web", "state": {"waiting": {"reason": reason}}}]
            }})))
        };
        assert_eq!(pod("ContainerCreating"), None);
        assert_eq!(pod("CrashLoopBackOff").unwrap().why, "CrashLoopBackOff of container web");
    }
}
