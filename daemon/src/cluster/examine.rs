//! What repairs are judged by: lists, each on its own. Only asked for while a gate is not ready.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::flux::Versions;
use super::kube::{Api, path};
use super::objects::{Loose, Meta};
use super::observe;
use super::repairs::OPT_OUT;
use super::repairs::seen::{AttachmentSeen, FluxSeen, GitSeen, Identity, JobSeen, PodSeen, ScaleSeen, Symptoms, Waiting};
use super::seen::Part;
use crate::site::ObjectRef;

/// Labels by which an object names who applies it: kind, label of the name, label of the namespace.
const APPLIED_BY: [(&str, &str, &str); 2] = [
    ("Kustomization", "kustomize.toolkit.fluxcd.io/name", "kustomize.toolkit.fluxcd.io/namespace"),
    ("HelmRelease", "helm.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/namespace"),
];

/// Annotations or labels that say no, with the value `disabled`: ours, and those by which an object is taken out of Flux' hands.
const NO: [&str; 3] = [OPT_OUT, "kustomize.toolkit.fluxcd.io/prune", "kustomize.toolkit.fluxcd.io/reconcile"];

/// An object with what a [`Loose`] leaves out of its metadata.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
struct Whole {
    metadata: WholeMeta,
    spec: Value,
    status: Value,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WholeMeta {
    #[serde(flatten)]
    meta: Meta,
    creation_timestamp: Option<Timestamp>,
    managed_fields: Vec<Fields>,
}

/// `metadata.managedFields[]`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Fields {
    time: Option<Timestamp>,
    fields_v1: Value,
}

/// Everything that can be seen until `until`.
pub async fn examine(api: &Api, versions: &Versions, until: Instant) -> Symptoms {
    let (flux, sources, jobs, pods, workloads, attachments, nodes) = tokio::join!(
        flux(api, versions, until),
        sources(api, versions, until),
        jobs(api, until),
        pods(api, until),
        workloads(api, until),
        attachments(api, until),
        observe::nodes(api, until),
    );
    Symptoms { flux, sources, jobs, pods, workloads, attachments, nodes }
}

async fn all(api: &Api, version: &str, resource: &str, until: Instant) -> Part<Vec<Whole>> {
    let list = api.list::<Whole>(&path(version, "", resource, ""), &[], until).await;
    list.map(|list| list.items).map_err(|failure| failure.error(resource).to_string())
}

fn identity(kind: &str, meta: &Meta) -> Identity {
    Identity {
        object: ObjectRef::new(kind, &meta.namespace, &meta.name),
        uid: meta.uid.clone(),
        applied_by: applied_by(meta),
        opted_out: opted_out(meta),
        deleting: meta.deletion_timestamp.is_some(),
    }
}

fn applied_by(meta: &Meta) -> Option<ObjectRef> {
    let named =
        |(kind, name, namespace): &(&str, &str, &str)| Some(ObjectRef::new(kind, meta.labels.get(*namespace)?, meta.labels.get(*name)?));
    APPLIED_BY.iter().find_map(named)
}

fn opted_out(meta: &Meta) -> bool {
    // Flux compares without regard to case (fluxcd/pkg/ssa: AnyInMetadata).
    let disabled = |of: &BTreeMap<String, String>, key: &str| of.get(key).is_some_and(|value| value.eq_ignore_ascii_case("disabled"));
    NO.iter().any(|key| disabled(&meta.annotations, key) || disabled(&meta.labels, key))
}

/// A condition of an object, where it has one.
fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status.get("conditions")?.as_array()?.iter().find(|condition| text(condition, "type") == kind)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or("")
}

fn is_true(status: &Value, kind: &str) -> bool {
    condition(status, kind).is_some_and(|condition| text(condition, "status") == "True")
}

async fn flux(api: &Api, versions: &Versions, until: Instant) -> Part<Vec<FluxSeen>> {
    let (kustomizations, releases) = tokio::join!(observe::of_kind(api, versions, 1, until), observe::of_kind(api, versions, 2, until));
    let (kustomizations, releases) = (kustomizations?, releases?);
    let kustomizations = kustomizations.iter().map(|object| applied("Kustomization", object));
    Ok(kustomizations.chain(releases.iter().map(|object| applied("HelmRelease", object))).collect())
}

fn applied(kind: &str, object: &Loose) -> FluxSeen {
    let ready = condition(&object.status, "Ready");
    let of_ready = |key: &str| ready.map(|ready| text(ready, key).to_owned()).unwrap_or_default();
    let stalled = condition(&object.status, "Stalled").filter(|stalled| text(stalled, "status") == "True");
    FluxSeen {
        is: identity(kind, &object.metadata),
        suspended: observe::suspended(object),
        failed: of_ready("status") == "False",
        reason: of_ready("reason"),
        message: of_ready("message"),
        busy: is_true(&object.status, "Reconciling"),
        stalled: stalled.map(|stalled| text(stalled, "reason").to_owned()).unwrap_or_default(),
        source: observe::git_source(object),
    }
}

async fn sources(api: &Api, versions: &Versions, until: Instant) -> Part<Vec<GitSeen>> {
    let sources = observe::of_kind(api, versions, 0, until).await?;
    let seen = sources.iter().map(|object| {
        let (ready, message) = observe::ready(object);
        GitSeen {
            is: identity("GitRepository", &object.metadata),
            suspended: observe::suspended(object),
            ready: ready && observe::observed(object),
            message,
            revision: object.status_str("/artifact/revision").to_owned(),
        }
    });
    Ok(seen.collect())
}

async fn jobs(api: &Api, until: Instant) -> Part<Vec<JobSeen>> {
    let jobs = all(api, "batch/v1", "jobs", until).await?;
    let seen = jobs.iter().map(|job| JobSeen {
        is: identity("Job", &job.metadata.meta),
        owned: !job.metadata.meta.owner_references.is_empty(),
        finished: is_true(&job.status, "Complete") || is_true(&job.status, "Failed"),
    });
    Ok(seen.collect())
}

/// Deployments, ReplicaSets, … by kind, namespace and name.
type Makers = BTreeMap<ObjectRef, Meta>;

/// The claim's persistent volume, by namespace and name.
type Claims = BTreeMap<(String, String), String>;

async fn pods(api: &Api, until: Instant) -> Part<Vec<PodSeen>> {
    let (pods, claims, sets, deployments, stateful, daemons) = tokio::join!(
        all(api, "v1", "pods", until),
        all(api, "v1", "persistentvolumeclaims", until),
        all(api, "apps/v1", "replicasets", until),
        all(api, "apps/v1", "deployments", until),
        all(api, "apps/v1", "statefulsets", until),
        all(api, "apps/v1", "daemonsets", until),
    );
    let mut makers = Makers::new();
    for (kind, list) in [("ReplicaSet", sets?), ("Deployment", deployments?), ("StatefulSet", stateful?), ("DaemonSet", daemons?)] {
        makers.extend(list.into_iter().map(|object| {
            let meta = object.metadata.meta;
            (ObjectRef::new(kind, &meta.namespace, &meta.name), meta)
        }));
    }
    let claims: Claims = claims?.iter().map(claim).collect();
    Ok(pods?.iter().map(|pod| one_pod(pod, &makers, &claims)).collect())
}

fn claim(claim: &Whole) -> ((String, String), String) {
    let meta = &claim.metadata.meta;
    ((meta.namespace.clone(), meta.name.clone()), text(&claim.spec, "volumeName").to_owned())
}

fn one_pod(pod: &Whole, makers: &Makers, claims: &Claims) -> PodSeen {
    let meta = &pod.metadata.meta;
    let mut is = identity("Pod", meta);
    if let Some(maker) = maker(meta, makers) {
        is.applied_by = applied_by(maker).or(is.applied_by);
        is.opted_out |= opted_out(maker);
    }
    PodSeen {
        is,
        labels: meta.labels.clone(),
        controlled: meta.controller().is_some(),
        node: text(&pod.spec, "nodeName").to_owned(),
        finished: matches!(text(&pod.status, "phase"), "Succeeded" | "Failed"),
        ready: is_true(&pod.status, "Ready"),
        waiting: waiting(pod),
        volumes: volumes(pod, claims),
    }
}

/// Who makes the pod, at the top: the Deployment of its ReplicaSet.
fn maker<'a>(meta: &Meta, makers: &'a Makers) -> Option<&'a Meta> {
    let of = |meta: &Meta| {
        let owner = meta.controller()?;
        makers.get(&ObjectRef::new(&owner.kind, &meta.namespace, &owner.name)).filter(|maker| maker.uid == owner.uid)
    };
    let first = of(meta)?;
    Some(of(first).unwrap_or(first))
}

fn waiting(pod: &Whole) -> Vec<Waiting> {
    let containers = ["initContainerStatuses", "containerStatuses"].into_iter();
    let statuses = containers.filter_map(|key| pod.status.get(key)?.as_array()).flatten();
    let one = |status: &Value| {
        let reason = status.pointer("/state/waiting/reason")?.as_str()?.to_owned();
        // What the spec says: the status may hold a digest, or nothing yet.
        let name = text(status, "name");
        let mut specs = ["initContainers", "containers"].into_iter().filter_map(|key| pod.spec.get(key)?.as_array()).flatten();
        let image = specs.find(|spec| text(spec, "name") == name).map(|spec| text(spec, "image").to_owned());
        Some(Waiting { container: name.to_owned(), reason, image: image.unwrap_or_default() })
    };
    statuses.filter_map(one).collect()
}

/// Persistent volumes behind its claims, those made for it alone (`ephemeral`: named after pod and volume) included.
fn volumes(pod: &Whole, claims: &Claims) -> BTreeSet<String> {
    let meta = &pod.metadata.meta;
    let of = |volume: &Value| {
        let named = volume.pointer("/persistentVolumeClaim/claimName").and_then(Value::as_str).map(ToOwned::to_owned);
        let own = || volume.get("ephemeral").map(|_| format!("{}-{}", meta.name, text(volume, "name")));
        claims.get(&(meta.namespace.clone(), named.or_else(own)?)).filter(|volume| !volume.is_empty()).cloned()
    };
    let all = pod.spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(of).collect()
}

async fn workloads(api: &Api, until: Instant) -> Part<Vec<ScaleSeen>> {
    let mut seen = Vec::new();
    for (kind, resource) in [("Deployment", "deployments"), ("StatefulSet", "statefulsets")] {
        let list = all(api, "apps/v1", resource, until).await?;
        seen.extend(list.iter().map(|object| workload(kind, object)));
    }
    Ok(seen)
}

fn workload(kind: &str, object: &Whole) -> ScaleSeen {
    let count = |value: &Value, key: &str| value.get(key).and_then(Value::as_i64).and_then(|count| i32::try_from(count).ok());
    ScaleSeen {
        is: identity(kind, &object.metadata.meta),
        version: object.metadata.meta.resource_version.clone(),
        replicas: count(&object.spec, "replicas").unwrap_or(1),
        ready: count(&object.status, "readyReplicas").unwrap_or(0),
        scaled: scaled(&object.metadata),
    }
}

/// When somebody wrote `spec.replicas` last.
fn scaled(meta: &WholeMeta) -> Option<Timestamp> {
    let writes = meta.managed_fields.iter().filter(|fields| fields.fields_v1.pointer("/f:spec/f:replicas").is_some());
    writes.filter_map(|fields| fields.time).max()
}

async fn attachments(api: &Api, until: Instant) -> Part<Vec<AttachmentSeen>> {
    let (attachments, volumes, nodes) = tokio::join!(
        all(api, "storage.k8s.io/v1", "volumeattachments", until),
        all(api, "v1", "persistentvolumes", until),
        all(api, "v1", "nodes", until),
    );
    let (attachments, volumes, nodes) = (attachments?, volumes?, nodes?);
    let used: BTreeSet<(&str, &str)> = nodes.iter().flat_map(in_use).collect();
    let handles: BTreeMap<&str, String> =
        volumes.iter().filter_map(|volume| Some((volume.metadata.meta.name.as_str(), unique_name(volume)?))).collect();
    let seen = attachments.iter().map(|held| {
        let (volume, node) =
            (held.spec.pointer("/source/persistentVolumeName").and_then(Value::as_str).unwrap_or(""), text(&held.spec, "nodeName"));
        AttachmentSeen {
            is: identity("VolumeAttachment", &held.metadata.meta),
            volume: volume.to_owned(),
            node: node.to_owned(),
            created: held.metadata.creation_timestamp,
            // A volume of which the kubelets' name for it is not known may be in use.
            in_use: handles.get(volume).is_none_or(|handle| used.contains(&(node, handle.as_str()))),
        }
    });
    Ok(seen.collect())
}

/// Node and volume, for every volume that its kubelet says is in use.
fn in_use(node: &Whole) -> impl Iterator<Item = (&str, &str)> {
    let volumes = node.status.get("volumesInUse").and_then(Value::as_array).into_iter().flatten();
    volumes.filter_map(Value::as_str).map(|volume| (node.metadata.meta.name.as_str(), volume))
}

/// A volume as kubelets name it (k8s.io/kubernetes pkg/volume/csi: `kubernetes.io/csi/DRIVER^HANDLE`).
fn unique_name(volume: &Whole) -> Option<String> {
    let csi = volume.spec.get("csi")?;
    Some(format!("kubernetes.io/csi/{}^{}", text(csi, "driver"), text(csi, "volumeHandle")))
}

#[cfg(test)]
mod tests;
