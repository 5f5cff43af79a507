use serde_json::json;

use super::*;

fn whole(text: Value) -> Whole {
    serde_json::from_value(text).unwrap()
}

#[test]
fn who_applies_an_object_and_who_says_no_is_read_from_its_metadata() {
    let meta = |text: Value| whole(json!({"metadata": text})).metadata.meta;
    let labels = json!({"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"});
    assert_eq!(applied_by(&meta(json!({"labels": labels}))), Some(ObjectRef::new("Kustomization", "flux-system", "apps")));
    let labels = json!({"helm.toolkit.fluxcd.io/name": "web", "helm.toolkit.fluxcd.io/namespace": "apps"});
    assert_eq!(applied_by(&meta(json!({"labels": labels}))), Some(ObjectRef::new("HelmRelease", "apps", "web")));
    assert_eq!(applied_by(&meta(json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}))), None, "half a name is none");
    for key in NO {
        assert!(opted_out(&meta(json!({"annotations": {key: "disabled"}}))), "{key}");
        assert!(opted_out(&meta(json!({"labels": {key: "Disabled"}}))), "{key}");
        assert!(!opted_out(&meta(json!({"annotations": {key: "enabled"}}))), "{key}");
    }
}

#[test]
fn a_pod_is_applied_by_whoever_applies_its_deployment_and_uses_the_volumes_of_its_claims() {
    let owner = |kind: &str, name: &str, uid: &str| json!([{"kind": kind, "name": name, "uid": uid, "controller": true}]);
    let meta = |text: Value| whole(json!({"metadata": text})).metadata.meta;
    let deployment = meta(json!({"name": "web", "namespace": "apps", "uid": "d", "annotations": {"metis.v1/repair": "disabled"},
        "labels": {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}}));
    let set = meta(json!({"name": "web-1", "namespace": "apps", "uid": "s", "ownerReferences": owner("Deployment", "web", "d")}));
    let makers: Makers =
        [(ObjectRef::new("Deployment", "apps", "web"), deployment), (ObjectRef::new("ReplicaSet", "apps", "web-1"), set)].into();
    let key = |name: &str| ("apps".to_owned(), name.to_owned());
    let claims: Claims = [(key("data"), "pvc-1".to_owned()), (key("web-1-x-tmp"), "pvc-2".to_owned()), (key("new"), String::new())].into();
    let pod = |uid: &str| {
        whole(json!({
            "metadata": {"name": "web-1-x", "namespace": "apps", "uid": "p", "ownerReferences": owner("ReplicaSet", "web-1", uid)},
            "spec": {"nodeName": "titan-13", "containers": [{"name": "main", "image": "registry.example/web:1"}],
                     "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "tmp", "ephemeral": {}},
                                 {"name": "new", "persistentVolumeClaim": {"claimName": "new"}}, {"name": "x", "emptyDir": {}}]},
            "status": {"phase": "Pending", "containerStatuses": [{"name": "main", "image": "sha256:0", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}
        }))
    };
    let seen = one_pod(&pod("s"), &makers, &claims);
    assert_eq!(seen.is.applied_by, Some(ObjectRef::new("Kustomization", "flux-system", "apps")));
    assert!(seen.is.opted_out && seen.controlled && !seen.ready && !seen.finished);
    assert_eq!(seen.volumes, ["pvc-1", "pvc-2"].map(str::to_owned).into());
    assert_eq!((seen.waiting[0].reason.as_str(), seen.waiting[0].image.as_str()), ("ImagePullBackOff", "registry.example/web:1"));
    assert_eq!(one_pod(&pod("earlier"), &makers, &claims).is.applied_by, None, "a set of that name, but not the one that made it");
}

#[test]
fn who_wrote_the_replicas_last_is_in_the_managed_fields() {
    let object = whole(json!({
        "metadata": {"name": "web", "namespace": "apps", "resourceVersion": "9", "managedFields": [
            {"manager": "kustomize-controller", "time": "2026-11-21T10:00:00Z", "fieldsV1": {"f:spec": {"f:template": {}}}},
            {"manager": "kubectl", "subresource": "scale", "time": "2026-11-21T09:00:00Z", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
        ]},
        "spec": {"replicas": 0}, "status": {}
    }));
    let seen = workload("Deployment", &object);
    assert_eq!((seen.replicas, seen.ready, seen.version.as_str()), (0, 0, "9"));
    assert_eq!(seen.scaled, Some("2026-11-21T09:00:00Z".parse().unwrap()));
    assert_eq!(workload("Deployment", &whole(json!({"metadata": {"name": "web"}, "spec": {}}))).replicas, 1, "Kubernetes' default");
}

#[test]
fn a_release_tells_whether_somebody_is_at_work_on_it() {
    let object = |kind: &str, reason: &str| -> Loose {
        let conditions = json!([
            {"type": "Ready", "status": "False", "reason": "PendingRelease", "message": "Unlocked"},
            {"type": kind, "status": "True", "reason": reason},
        ]);
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "apps"}, "spec": {}, "status": {"conditions": conditions}}))
            .unwrap()
    };
    let stalled = applied("HelmRelease", &object("Stalled", "RetriesExceeded"));
    assert!(stalled.failed && !stalled.busy);
    assert_eq!((stalled.reason.as_str(), stalled.stalled.as_str()), ("PendingRelease", "RetriesExceeded"));
    let busy = applied("HelmRelease", &object("Reconciling", "Progressing"));
    assert!(busy.busy && busy.stalled.is_empty());
}

#[test]
fn a_kubelet_names_a_volume_by_its_driver_and_handle() {
    let volume = whole(json!({"metadata": {"name": "pvc-1"}, "spec": {"csi": {"driver": "driver.longhorn.io", "volumeHandle": "pvc-1"}}}));
    assert_eq!(unique_name(&volume).unwrap(), "kubernetes.io/csi/driver.longhorn.io^pvc-1");
    let node = whole(json!({"metadata": {"name": "titan-13"}, "status": {"volumesInUse": ["kubernetes.io/csi/driver.longhorn.io^pvc-1"]}}));
    assert_eq!(in_use(&node).collect::<Vec<_>>(), [("titan-13", "kubernetes.io/csi/driver.longhorn.io^pvc-1")]);
}
