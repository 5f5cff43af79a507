//! Which pods go.

use std::collections::BTreeSet;

use super::*;
use crate::cluster::Protect;
use crate::cluster::drain::filter::{Fate, Keep, Rules, fate};

const GO: Fate = Fate::Go;
const FOR_GOOD: Fate = Fate::GoForGood;
const DAEMON: Fate = Fate::Keep(Keep::DaemonSet);
const MIRROR: Fate = Fate::Keep(Keep::Mirror);
const PLANE: Fate = Fate::Keep(Keep::StoragePlane);
const KEPT: Fate = Fate::Keep(Keep::Protected);

fn owner(kind: &str) -> Value {
    json!({"metadata": {"ownerReferences": [{"kind": kind, "name": "set", "uid": "u", "controller": true}]}})
}

fn both(mut a: Value, b: &Value) -> Value {
    merge(&mut a, b);
    a
}

#[test]
fn pods_go_or_stay_as_with_kubectl() {
    let rules = Rules {
        storage_plane: vec![
            Protect { namespace: Some("longhorn-system".into()), selector: String::new() },
            Protect { namespace: Some("kube-system".into()), selector: "k8s-app=kube-dns".into() },
        ],
        protect: vec![Protect { namespace: None, selector: "app=vault,component=server".into() }],
    };
    let mirror = json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "hash"}}});
    let finished = |phase: &str| json!({"status": {"phase": phase}});
    let orphan = json!({"metadata": {"ownerReferences": null}});
    let of_gone = json!({"metadata": {"ownerReferences": [{"kind": "DaemonSet", "name": "gone", "uid": "u", "controller": true}]}});
    let cases = [
        ("of a ReplicaSet", json!({}), GO),
        ("of a StatefulSet", owner("StatefulSet"), GO),
        ("of a Job", owner("Job"), GO),
        ("of a controller that nobody knows", owner("InstanceManager"), GO),
        ("with emptyDir", json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}), GO),
        ("not ready", json!({"status": {"conditions": []}}), GO),
        ("pending", finished("Pending"), GO),
        ("unknown", finished("Unknown"), GO),
        ("being deleted", json!({"metadata": {"deletionTimestamp": "2026-11-21T12:00:00Z"}}), GO),
        ("succeeded", finished("Succeeded"), GO),
        ("failed", finished("Failed"), GO),
        ("of nobody", orphan.clone(), FOR_GOOD),
        ("of nobody, succeeded", both(orphan.clone(), &finished("Succeeded")), GO),
        ("of nobody, with emptyDir", both(orphan.clone(), &json!({"spec": {"volumes": [{"emptyDir": {}}]}})), FOR_GOOD),
        ("owned, but not managed", json!({"metadata": {"ownerReferences": [{"kind": "ReplicaSet", "name": "r", "uid": "u"}]}}), FOR_GOOD),
        ("of a DaemonSet", owner("DaemonSet"), DAEMON),
        ("of a DaemonSet, failed", both(owner("DaemonSet"), &finished("Failed")), GO),
        ("of a DaemonSet, being deleted", both(owner("DaemonSet"), &json!({"metadata": {"deletionTimestamp": "x"}})), DAEMON),
        ("of a DaemonSet that is gone", of_gone.clone(), FOR_GOOD),
        ("of a DaemonSet that is gone, succeeded", both(of_gone, &finished("Succeeded")), GO),
        (
            "owned by a DaemonSet, managed by none",
            json!({"metadata": {"ownerReferences": [{"kind": "DaemonSet", "name": "set"}]}}),
            FOR_GOOD,
        ),
        ("static", both(mirror.clone(), &owner("Node")), MIRROR),
        ("static, of nobody", both(mirror.clone(), &orphan), MIRROR),
        ("static, failed", both(mirror, &finished("Failed")), MIRROR),
        ("source annotation of a static pod alone", json!({"metadata": {"annotations": {"kubernetes.io/config.source": "file"}}}), GO),
        ("of Longhorn", json!({"metadata": {"namespace": "longhorn-system"}}), PLANE),
        ("of Longhorn, of nobody", both(json!({"metadata": {"namespace": "longhorn-system"}}), &orphan), PLANE),
        ("of Longhorn, of a DaemonSet", both(json!({"metadata": {"namespace": "longhorn-system"}}), &owner("DaemonSet")), DAEMON),
        ("CoreDNS", json!({"metadata": {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}}), PLANE),
        ("of kube-system", json!({"metadata": {"namespace": "kube-system", "labels": {"k8s-app": "metrics"}}}), GO),
        ("the label elsewhere", json!({"metadata": {"labels": {"k8s-app": "kube-dns"}}}), GO),
        ("protected", json!({"metadata": {"labels": {"app": "vault", "component": "server"}}}), KEPT),
        ("half of the selector", json!({"metadata": {"labels": {"app": "vault"}}}), GO),
        ("with priority", json!({"spec": {"priorityClassName": "system-node-critical", "priority": 2_000_001_000}}), GO),
    ];
    let gone = BTreeSet::from([("web".to_owned(), "gone".to_owned())]);
    for (what, patch, expected) in cases {
        assert_eq!(fate(&pod("p", patch), &rules, &gone), expected, "{what}");
    }
}
