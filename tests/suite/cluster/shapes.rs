//! The set of pods that metis evicts is the set that kubectl drain would evict.

use std::collections::BTreeSet;

use metis_tests::plane::{Options, Plane, available};
use metisd::cluster::port::Cluster;
use serde_json::{Value, json};

use super::*;

/// Name, what is laid over the pod, what over its status, and whether kubectl evicts it: a table to check the test itself.
type Shape = (&'static str, Value, Option<Value>, bool);

fn owner(kind: &str, name: &str) -> Value {
    let group = if kind == "Job" { "batch/v1" } else { "apps/v1" };
    json!({"ownerReferences": [{"apiVersion": group, "kind": kind, "name": name, "uid": format!("uid-{kind}-{name}"), "controller": true}]})
}

fn with(mut base: Value, more: &[(&str, Value)]) -> Value {
    for (key, value) in more {
        base[key] = value.clone();
    }
    base
}

fn shapes() -> Vec<Shape> {
    let meta = |meta: Value| json!({"metadata": meta});
    let owned = || owner("ReplicaSet", "web");
    let mirror = json!({"kubernetes.io/config.mirror": "0123456789abcdef"});
    let volume = |volume: Value| json!({"metadata": owned(), "spec": {"volumes": [volume]}});
    let phase = |phase: &str| Some(json!({"phase": phase}));
    // The lab would end it in a second, before all others run.
    let job = || with(owner("Job", "migrate"), &[("annotations", json!({"lab.metis/complete-after": "1h"}))]);
    let labels = |app: &str| with(owned(), &[("labels", json!({"app": app}))]);
    vec![
        ("of-a-replicaset", meta(owned()), None, true),
        ("of-a-statefulset", meta(owner("StatefulSet", "db")), None, true),
        ("of-a-job", meta(job()), None, true),
        ("of-a-job-done", meta(job()), phase("Succeeded"), true),
        ("of-a-job-failed", meta(job()), phase("Failed"), true),
        ("of-a-controller-of-its-own", meta(owner("InstanceManager", "im")), None, true),
        ("of-a-daemonset", meta(owner("DaemonSet", "agent")), None, false),
        ("of-a-daemonset-failed", meta(owner("DaemonSet", "agent")), phase("Failed"), true),
        ("of-a-daemonset-succeeded", meta(owner("DaemonSet", "agent")), phase("Succeeded"), true),
        ("of-a-daemonset-pending", meta(owner("DaemonSet", "agent")), phase("Pending"), false),
        (
            "of-a-daemonset-with-emptydir",
            json!({"metadata": owner("DaemonSet", "agent"), "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            None,
            false,
        ),
        ("of-a-daemonset-that-is-gone", meta(owner("DaemonSet", "gone")), None, true),
        ("of-a-daemonset-that-is-gone-succeeded", meta(owner("DaemonSet", "gone")), phase("Succeeded"), true),
        ("of-nobody", json!({}), None, true),
        ("of-nobody-succeeded", json!({}), phase("Succeeded"), true),
        ("of-nobody-with-emptydir", json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}), None, true),
        (
            "owned-not-controlled",
            meta(json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "u"}]})),
            None,
            true,
        ),
        ("mirror", meta(json!({"annotations": mirror})), None, false),
        (
            "mirror-of-a-node",
            meta(with(
                json!({"annotations": mirror}),
                &[("ownerReferences", json!([{"apiVersion": "v1", "kind": "Node", "name": "titan-13", "uid": "u", "controller": true}]))],
            )),
            None,
            false,
        ),
        ("mirror-failed", meta(json!({"annotations": mirror})), phase("Failed"), false),
        (
            "static-by-source-annotation-alone",
            meta(with(owned(), &[("annotations", json!({"kubernetes.io/config.source": "file"}))])),
            None,
            true,
        ),
        ("with-emptydir", volume(json!({"name": "v", "emptyDir": {}})), None, true),
        ("with-emptydir-in-memory", volume(json!({"name": "v", "emptyDir": {"medium": "Memory"}})), None, true),
        ("with-hostpath", volume(json!({"name": "v", "hostPath": {"path": "/mnt"}})), None, true),
        ("with-a-claim", volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": "none"}})), None, true),
        ("pending", meta(owned()), phase("Pending"), true),
        ("unknown", meta(owned()), phase("Unknown"), true),
        ("being-deleted", meta(with(owned(), &[("finalizers", json!(["lab.metis/held"]))])), None, true),
        ("critical", json!({"metadata": owned(), "spec": {"priorityClassName": "system-node-critical"}}), None, true),
        ("with-host-network", json!({"metadata": owned(), "spec": {"hostNetwork": true}}), None, true),
        ("tolerating-everything", json!({"metadata": owned(), "spec": {"tolerations": [{"operator": "Exists"}]}}), None, true),
        ("without-grace", json!({"metadata": owned(), "spec": {"terminationGracePeriodSeconds": 0}}), None, true),
        ("budget-allows", meta(labels("allows")), None, true),
        (
            "budget-always-allows-unhealthy",
            json!({"metadata": with(labels("unhealthy"), &[("annotations", json!({"lab.metis/never-ready": "true"}))])}),
            None,
            true,
        ),
        ("on-another-node", json!({"metadata": owned(), "spec": {"nodeName": "titan-15"}}), None, false),
        ("not-scheduled", json!({"metadata": owned(), "spec": {"nodeName": null, "schedulerName": "nobody"}}), None, false),
    ]
}

fn merge(base: &mut Value, patch: &Value) {
    match patch {
        Value::Object(patch) if base.is_object() => patch.iter().for_each(|(key, value)| match value {
            Value::Null => drop(base.as_object_mut().unwrap().remove(key)),
            value => merge(&mut base[key.as_str()], value),
        }),
        other => *base = other.clone(),
    }
}

const PODS: &str = "/api/v1/namespaces/shapes/pods";

/// Without controllers pods may be owned by what does not exist, and budgets say what they are told to say.
fn prepare(plane: &mut Plane) {
    plane.kwok(&["titan-13", "titan-15"]).unwrap();
    plane.kubectl(&["create", "namespace", "shapes"]).unwrap();
    plane.controller_manager().kill();
    let api = plane.api().unwrap();
    let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"}, "spec": {"selector": {"matchLabels": {"a": "a"}}, "template": {"metadata": {"labels": {"a": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    api.create("/apis/apps/v1/namespaces/shapes/daemonsets", &set).unwrap();
    for (name, allowed, policy) in [("allows", 1, "IfHealthyBudget"), ("unhealthy", 0, "AlwaysAllow")] {
        let path = "/apis/policy/v1/namespaces/shapes/poddisruptionbudgets";
        let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": name}}, "unhealthyPodEvictionPolicy": policy});
        api.create(path, &json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec}))
            .unwrap();
        let status = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 2, "desiredHealthy": 1, "expectedPods": 2}});
        api.merge(&format!("{path}/{name}/status"), &status).unwrap();
    }
    for (name, patch, ..) in shapes() {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"nodeName": "titan-13", "containers": [{"name": "main", "image": "web"}]}});
        merge(&mut pod, &patch);
        api.create(PODS, &pod).unwrap();
    }
    let placed = |pod: &Value| pod["spec"]["nodeName"].is_string();
    plane
        .wait(60, "all pods to run", || {
            let pods = api.list(PODS)?;
            let running = pods.iter().filter(|pod| pod["status"]["phase"] == "Running").count();
            anyhow::ensure!(running == pods.iter().filter(|pod| placed(pod)).count(), "{running} run");
            Ok(())
        })
        .unwrap();
    for (name, _, status, _) in shapes() {
        if let Some(status) = status {
            api.merge(&format!("{PODS}/{name}/status"), &json!({"status": status})).unwrap();
        }
    }
    api.delete(&format!("{PODS}/being-deleted")).unwrap();
}

fn kubectl_drains(plane: &Plane) -> BTreeSet<String> {
    let arguments = ["drain", "titan-13", "--dry-run=server", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=20s"];
    let out = plane.kubectl_output(plane.kubeconfig(), &arguments, "").unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    let evicted = text.lines().filter_map(|line| line.strip_prefix("evicting pod ")?.split_whitespace().next());
    let found: BTreeSet<String> = evicted.map(str::to_owned).collect();
    assert!(!found.is_empty(), "{text}");
    found
}

#[test]
fn metis_evicts_exactly_what_kubectl_drain_would() {
    if !available("shapes of pods") {
        return;
    }
    let mut plane = Plane::start(&Options::default()).unwrap();
    prepare(&mut plane);
    let expected: BTreeSet<String> = shapes().into_iter().filter(|shape| shape.3).map(|shape| format!("shapes/{}", shape.0)).collect();
    let kubectl = kubectl_drains(&plane);
    assert_eq!(kubectl, expected, "the table of this test is what kubectl does");

    let metis = Metis::new(plane.metis_kubeconfig(), "", "    storage_plane: []");
    let facts = metis.run(metis.cluster.collect(seconds(20))).unwrap();
    assert_eq!(facts.unseen, Vec::<String>::new());
    let node = facts.nodes.iter().find(|node| node.name == "titan-13").unwrap();
    assert_eq!((node.evictable as usize, node.ready, node.unschedulable), (expected.len(), true, false));

    metis.cordon(&["titan-13"]);
    let (drained, told, took) = metis.drain("titan-13", &["titan-13"], seconds(60), None);
    let drained = drained.unwrap();
    assert_eq!(told[0], format!("titan-13: {} pods to evict; 3 of a DaemonSet, 3 static stay", expected.len()));
    assert_eq!(drained.left, ["shapes/being-deleted: has ended, but finalizers hold it: lab.metis/held"], "{told:?}");
    assert_eq!(drained.gone as usize, expected.len() - 1);
    assert!(took < seconds(50), "{took:?}");

    let (evicted, deleted) = asked(&plane.audit().unwrap());
    let mut asked: BTreeSet<String> = evicted.union(&deleted).cloned().collect();
    asked.insert("shapes/being-deleted".to_owned());
    assert_eq!(asked, expected);
    assert_eq!(deleted, BTreeSet::new());
    let left: BTreeSet<String> = plane
        .api()
        .unwrap()
        .list(PODS)
        .unwrap()
        .iter()
        .map(|pod| format!("shapes/{}", pod["metadata"]["name"].as_str().unwrap()))
        .collect();
    let kept =
        shapes().into_iter().filter(|shape| !shape.3).map(|shape| format!("shapes/{}", shape.0)).chain(["shapes/being-deleted".to_owned()]);
    assert_eq!(left, kept.collect());
}
