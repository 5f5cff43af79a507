//! Longhorn's manager and the CSI attacher: between the VolumeAttachments that the real controller-manager makes and removes and Longhorn's volumes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Actor;
use crate::plane::Plane;
use crate::plane::api::Api;

const DRIVER: &str = "driver.longhorn.io";
const FINALIZER: &str = "external-attacher/driver-longhorn-io";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const LONGHORN: &str = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system";
const BUDGETS: &str = "/apis/policy/v1/namespaces/longhorn-system/poddisruptionbudgets";

/// How the storage behaves.
#[derive(Debug, Clone)]
pub struct Volumes {
    /// How long a volume is `attaching` and `detaching`.
    pub takes: Duration,
    /// Attachments change only while a Pod `app=csi-attacher` in longhorn-system is Ready, as on a site: evict it and nothing detaches any more.
    pub needs_attacher: bool,
}

impl Default for Volumes {
    fn default() -> Self {
        Self { takes: Duration::from_millis(500), needs_attacher: false }
    }
}

/// A volume: its claim is `namespace/claim`.
#[derive(Debug, Clone, Copy)]
pub struct Volume<'a> {
    /// Longhorn's name of it, and that of the PersistentVolume.
    pub name: &'a str,
    /// Where the claim is.
    pub namespace: &'a str,
    /// What pods name.
    pub claim: &'a str,
}

/// Creates the objects of a volume: PersistentVolume, bound claim, Longhorn's Volume and its (empty) VolumeAttachment.
///
/// # Errors
/// Where one is refused.
pub fn volume(plane: &Plane, volume: Volume<'_>) -> Result<()> {
    let Volume { name, namespace, claim } = volume;
    plane.apply(&format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {name}}}\nspec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, storageClassName: longhorn, claimRef: {{namespace: {namespace}, name: {claim}}}, csi: {{driver: {DRIVER}, volumeHandle: {name}}}}}\n---\n\
         apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {claim}, namespace: {namespace}}}\nspec: {{storageClassName: longhorn, volumeName: {name}, accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n---\n\
         apiVersion: longhorn.io/v1beta2\nkind: Volume\nmetadata: {{name: {name}, namespace: longhorn-system}}\nspec: {{size: \"1073741824\", numberOfReplicas: 3}}\n---\n\
         apiVersion: longhorn.io/v1beta2\nkind: VolumeAttachment\nmetadata: {{name: {name}, namespace: longhorn-system}}\nspec: {{volume: {name}, attachmentTickets: {{}}}}\n"
    ))?;
    plane.kubectl(&["-n", namespace, "wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=30s", &format!("pvc/{claim}")])?;
    Ok(())
}

/// Creates what Longhorn runs: CSIDriver, the csi-attacher, its manager and CSI plugin on every node, and on each of `nodes` an instance-manager
/// and Longhorn's own Node.
///
/// # Errors
/// Where something is refused.
pub fn storage_plane(plane: &Plane, nodes: &[&str]) -> Result<()> {
    plane.apply_file(&crate::plane::lab_file("longhorn.yaml"))?;
    let api = plane.api()?;
    for node in nodes {
        let known = json!({"apiVersion": "longhorn.io/v1beta2", "kind": "Node", "metadata": {"name": node}, "spec": {"name": node, "allowScheduling": true}});
        api.create(&format!("{LONGHORN}/nodes"), &known)?;
        let name = format!("instance-manager-{node}");
        let manager =
            json!({"apiVersion": "longhorn.io/v1beta2", "kind": "InstanceManager", "metadata": {"name": name}, "spec": {"nodeID": node}});
        let uid = api.create(&format!("{LONGHORN}/instancemanagers"), &manager)?["metadata"]["uid"].clone();
        let owner = json!({"apiVersion": "longhorn.io/v1beta2", "kind": "InstanceManager", "name": name, "uid": uid, "controller": true});
        let labels = json!({"longhorn.io/component": "instance-manager", "longhorn.io/node": node});
        let tolerations = json!([{"operator": "Exists"}]);
        let spec = json!({"nodeName": node, "tolerations": tolerations, "containers": [{"name": "instance-manager", "image": "longhorn-instance-manager"}]});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels, "ownerReferences": [owner]}, "spec": spec});
        api.create("/api/v1/namespaces/longhorn-system/pods", &pod)?;
    }
    Ok(())
}

impl Volumes {
    /// Starts the actor.
    ///
    /// # Errors
    /// Where the plane gives no client.
    pub fn start(self, plane: &Plane) -> Result<Actor> {
        let mut since = BTreeMap::new();
        Ok(Actor::start(plane.api_as("actor")?, move |api| self.step(api, &mut since)))
    }

    fn step(&self, api: &Api, since: &mut BTreeMap<String, Instant>) -> Result<()> {
        let pods = api.list("/api/v1/pods")?;
        let volumes = by_name(api.list(&format!("{LONGHORN}/volumes"))?);
        if !self.needs_attacher || pods.iter().any(is_ready_attacher) {
            let used = used(&pods, &api.list("/api/v1/persistentvolumes")?);
            for attachment in api.list(ATTACHMENTS)?.iter().filter(|a| a["spec"]["attacher"] == DRIVER) {
                attach_or_detach(api, attachment, &volumes, &used)?;
            }
        }
        let mut busy = BTreeSet::new();
        let tickets = by_name(api.list(&format!("{LONGHORN}/volumeattachments"))?);
        for (name, volume) in &volumes {
            let wanted = tickets
                .get(name)
                .and_then(|t| t["spec"]["attachmentTickets"].as_object()?.values().next())
                .map(|ticket| text(ticket, "/nodeID"));
            self.follow(api, name, volume, wanted, since)?;
            if text(volume, "/status/state") != "detached" && !text(volume, "/status/currentNodeID").is_empty() {
                busy.insert(text(volume, "/status/currentNodeID").to_owned());
            }
        }
        guard_instance_managers(api, &busy)?;
        mirror_nodes(api)
    }

    /// Moves a volume one state on towards the node of its ticket, or to none.
    fn follow(&self, api: &Api, name: &str, volume: &Value, wanted: Option<&str>, since: &mut BTreeMap<String, Instant>) -> Result<()> {
        let path = format!("{LONGHORN}/volumes/{name}/status");
        let set = |state: &str, robustness: &str, node: &str| {
            api.merge(&path, &json!({"status": {"state": state, "robustness": robustness, "currentNodeID": node}})).map(|_| ())
        };
        let waited = since.get(name).is_some_and(|begun| begun.elapsed() >= self.takes);
        let node = text(volume, "/status/currentNodeID");
        match (text(volume, "/status/state"), wanted) {
            ("" | "creating", None) => set("detached", "unknown", ""),
            ("" | "creating" | "detached", Some(to)) => {
                since.insert(name.to_owned(), Instant::now());
                set("attaching", "unknown", to)
            }
            ("attaching", Some(to)) if waited => set("attached", "healthy", to),
            ("attaching" | "attached", None) => {
                since.insert(name.to_owned(), Instant::now());
                set("detaching", "unknown", node)
            }
            ("attached", Some(to)) if to != node => {
                since.insert(name.to_owned(), Instant::now());
                set("detaching", "unknown", node)
            }
            ("detaching", _) if waited => set("detached", "unknown", ""),
            _ => Ok(()),
        }
    }
}

/// The CSI attacher: a ticket for each attachment, and none, once it is to go and no pod needs it.
fn attach_or_detach(api: &Api, attachment: &Value, volumes: &BTreeMap<String, Value>, used: &BTreeSet<(String, String)>) -> Result<()> {
    let name = text(attachment, "/metadata/name");
    let (volume, node) = (text(attachment, "/spec/source/persistentVolumeName"), text(attachment, "/spec/nodeName"));
    let path = format!("{ATTACHMENTS}/{name}");
    let state = volumes.get(volume).with_context(|| format!("{name} is for {volume}, which Longhorn does not have"))?;
    let (state, at) = (text(state, "/status/state"), text(state, "/status/currentNodeID"));
    let ticket = |ticket: Value| {
        let patch = json!({"spec": {"attachmentTickets": {name: ticket}}});
        api.merge(&format!("{LONGHORN}/volumeattachments/{volume}"), &patch).map(|_| ())
    };
    if attachment["metadata"]["deletionTimestamp"].is_null() {
        if attachment["status"]["attached"] == true {
            return Ok(());
        }
        if !finalizers(attachment).contains(&FINALIZER) {
            api.merge(&path, &json!({"metadata": {"finalizers": [FINALIZER]}}))?;
        }
        ticket(json!({"id": name, "nodeID": node, "type": "csi-attacher"}))?;
        if state == "attached" && at == node {
            api.merge(&format!("{path}/status"), &json!({"status": {"attached": true}}))?;
        }
        return Ok(());
    }
    if used.contains(&(volume.to_owned(), node.to_owned())) {
        let message = format!("volume {volume} is in use by a pod on {node}");
        if attachment.pointer("/status/detachError/message").and_then(Value::as_str) != Some(&message) {
            api.merge(&format!("{path}/status"), &json!({"status": {"detachError": {"message": message}}}))?;
        }
        return Ok(());
    }
    ticket(Value::Null)?;
    if state == "detached" || (at != node && state != "detaching") {
        let left: Vec<&str> = finalizers(attachment).into_iter().filter(|f| *f != FINALIZER).collect();
        api.merge(&path, &json!({"metadata": {"finalizers": left}}))?;
    }
    Ok(())
}

/// Longhorn's budget for the instance-manager of a node: there while a volume is attached on it.
fn guard_instance_managers(api: &Api, busy: &BTreeSet<String>) -> Result<()> {
    let there = by_name(api.list(BUDGETS)?);
    for node in busy.iter().filter(|node| !there.contains_key(&format!("instance-manager-{node}"))) {
        let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"longhorn.io/node": node}}});
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": format!("instance-manager-{node}")}, "spec": spec});
        api.create(BUDGETS, &budget)?;
    }
    let idle = |name: &&String| name.strip_prefix("instance-manager-").is_some_and(|node| !busy.contains(node));
    there.keys().filter(idle).try_for_each(|name| api.delete(&format!("{BUDGETS}/{name}")))
}

/// Longhorn's view of the nodes: Ready as Kubernetes says, Schedulable unless cordoned.
fn mirror_nodes(api: &Api) -> Result<()> {
    let nodes = by_name(api.list("/api/v1/nodes")?);
    for known in api.list(&format!("{LONGHORN}/nodes"))? {
        let name = text(&known, "/metadata/name");
        let node = nodes.get(name).unwrap_or(&Value::Null);
        let is = |yes: bool| if yes { "True" } else { "False" };
        let (ready, cordoned) = (is_ready(node), node["spec"]["unschedulable"] == true);
        let reason = if cordoned { "KubernetesNodeCordoned" } else { "" };
        let conditions = json!([
            {"type": "Ready", "status": is(ready), "reason": if ready { "" } else { "KubernetesNodeNotReady" }},
            {"type": "Schedulable", "status": is(!cordoned), "reason": reason},
        ]);
        if known["status"]["conditions"] != conditions {
            api.merge(&format!("{LONGHORN}/nodes/{name}/status"), &json!({"status": {"conditions": conditions}}))?;
        }
    }
    Ok(())
}

/// (PersistentVolume, node) of every pod that has not ended.
fn used(pods: &[Value], persistent: &[Value]) -> BTreeSet<(String, String)> {
    let claim = |volume: &Value| (text(volume, "/spec/claimRef/namespace").to_owned(), text(volume, "/spec/claimRef/name").to_owned());
    let names: BTreeMap<_, _> = persistent.iter().map(|volume| (claim(volume), text(volume, "/metadata/name"))).collect();
    let mut used = BTreeSet::new();
    for pod in pods.iter().filter(|pod| !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")) {
        for volume in pod["spec"]["volumes"].as_array().into_iter().flatten() {
            let claim = (text(pod, "/metadata/namespace").to_owned(), text(volume, "/persistentVolumeClaim/claimName").to_owned());
            if let Some(name) = names.get(&claim) {
                used.insert(((*name).to_owned(), text(pod, "/spec/nodeName").to_owned()));
            }
        }
    }
    used
}

fn is_ready(object: &Value) -> bool {
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    object["status"]["conditions"].as_array().is_some_and(|conditions| conditions.iter().any(ready))
}

fn is_ready_attacher(pod: &Value) -> bool {
    text(pod, "/metadata/namespace") == "longhorn-system"
        && text(pod, "/metadata/labels/app") == "csi-attacher"
        && pod["metadata"]["deletionTimestamp"].is_null()
        && is_ready(pod)
}

fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    objects.into_iter().map(|object| (text(&object, "/metadata/name").to_owned(), object)).collect()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
