//! The laboratory itself: what its parts promise to the tests that use them.
#![allow(clippy::disallowed_methods, reason = "tests start the processes they talk to")]

mod plane {
    //! The control plane.
    use std::path::Path;
    use std::time::{Duration, Instant};

    use metis_tests::plane::{Options, Plane, available};
    use serde_json::json;

    const POD: &str =
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: NAME\n  labels: {app: web}\nspec:\n  containers: [{name: main, image: web}]\n";

    #[test]
    fn evictions_are_refused_by_the_real_api_server_while_a_budget_forbids_them() {
        if !available("evictions") {
            return;
        }
        let mut plane = Plane::start(&Options::default()).unwrap();
        plane.kwok(&["titan-13"]).unwrap();
        let budget = "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: web}\nspec: {minAvailable: 1, selector: {matchLabels: {app: web}}}\n";
        plane.apply(&format!("{}---\n{budget}", POD.replace("NAME", "web-1"))).unwrap();
        plane.kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "pod/web-1"]).unwrap();
        plane.kubectl(&["wait", "--for=jsonpath={.status.currentHealthy}=1", "--timeout=30s", "pdb/web"]).unwrap();
        let api = plane.api().unwrap();
        let evict = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web-1", "namespace": "default"}});
        let path = "/api/v1/namespaces/default/pods/web-1/eviction";
        let (code, answer) = api.send("POST", path, Some(("application/json", &evict))).unwrap();
        assert_eq!((code, answer.pointer("/details/causes/0/reason").unwrap().as_str()), (429, Some("DisruptionBudget")), "{answer}");
        plane.kubectl(&["delete", "pdb", "web"]).unwrap();
        let (code, answer) = api.send("POST", path, Some(("application/json", &evict))).unwrap();
        assert_eq!(code, 201, "{answer}");
        plane.kubectl(&["wait", "--for=delete", "--timeout=10s", "pod/web-1"]).unwrap();
        let codes: Vec<u16> = plane.audit().unwrap().iter().filter(|e| e.resource == "pods/eviction").map(|e| e.code).collect();
        assert_eq!(codes, [429, 201]);
    }

    #[test]
    fn nothing_of_a_plane_is_left_behind() {
        if !available("nothing left behind") {
            return;
        }
        let mut plane = Plane::start(&Options::default()).unwrap();
        plane.kwok(&["titan-13"]).unwrap();
        let (pids, dir) = (plane.pids(), plane.dir().to_owned());
        assert_eq!(pids.len(), 5, "etcd, API server, controller-manager, scheduler, kwok");
        // One that is stopped ends too.
        plane.freeze().unwrap();
        drop(plane);
        for pid in pids {
            assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} still runs");
        }
        assert!(!dir.exists());
    }

    #[test]
    fn a_frozen_api_server_is_silent_and_a_killed_one_refuses() {
        if !available("frozen API server") {
            return;
        }
        let mut plane = Plane::start(&Options { more_servers: 1, ..Options::default() }).unwrap();
        plane.server(0).signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
        let asked = Instant::now();
        let silent = plane.kubectl_output(plane.kubeconfig(), &["get", "--raw", "/readyz", "--request-timeout=2s"], "").unwrap();
        assert!(!silent.status.success() && asked.elapsed() > Duration::from_secs(2), "{silent:?}");
        // The second one on the same datastore answers meanwhile.
        let second = plane.dir().join("second.kubeconfig");
        let token = plane.identity().token("admin").unwrap();
        plane.identity().write_kubeconfig(&second, "admin", &plane.url_of(1), token).unwrap();
        assert!(plane.kubectl_output(&second, &["get", "--raw", "/readyz"], "").unwrap().status.success());
        plane.thaw().unwrap();
        plane.kubectl(&["create", "namespace", "kept"]).unwrap();
        plane.stop_apiserver();
        let refused = plane.kubectl_output(plane.kubeconfig(), &["get", "nodes"], "").unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("refused"), "{refused:?}");
        plane.restart().unwrap();
        plane.kubectl(&["get", "namespace", "kept"]).unwrap();
    }

    #[test]
    fn metis_may_what_a_shutdown_needs_and_nothing_else() {
        if !available("rights of metis") {
            return;
        }
        let plane = Plane::start(&Options { longhorn: true, ..Options::default() }).unwrap();
        let api = plane.metis_api().unwrap();
        // "verb resource[/subresource][.group] [namespace [name]]"
        let may = |question: &&&str| {
            let words: Vec<&str> = question.split(' ').collect();
            let (kind, group) = words[1].split_once('.').unwrap_or((words[1], ""));
            let (resource, subresource) = kind.split_once('/').unwrap_or((kind, ""));
            let (namespace, name) = (words.get(2).unwrap_or(&""), words.get(3).unwrap_or(&""));
            let attributes = json!({"verb": words[0], "group": group, "resource": resource, "subresource": subresource, "namespace": namespace, "name": name});
            let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}});
            api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).unwrap()["status"]["allowed"] == true
        };
        let allowed = [
            "patch nodes",
            "list pods",
            "delete pods media",
            "create pods/eviction media",
            "list poddisruptionbudgets.policy",
            "get daemonsets.apps media",
            "patch kustomizations.kustomize.toolkit.fluxcd.io flux-system",
            "patch helmreleases.helm.toolkit.fluxcd.io media",
            "list volumeattachments.storage.k8s.io",
            "list volumes.longhorn.io longhorn-system",
            "get leases.coordination.k8s.io kube-node-lease",
            "update leases.coordination.k8s.io kube-system metis",
            "create events default",
            "create pods kube-system",
        ];
        let refused = [
            "get secrets kube-system",
            "create nodes",
            "delete nodes",
            "patch pods media",
            "create pods media",
            "create pods/exec kube-system",
            "patch deployments.apps media",
            "update statefulsets/scale.apps media",
            "delete jobs.batch media",
            "delete volumeattachments.storage.k8s.io",
            "patch volumes.longhorn.io longhorn-system",
            "update leases.coordination.k8s.io kube-system other",
            "delete kustomizations.kustomize.toolkit.fluxcd.io flux-system",
            "impersonate users",
            "create serviceaccounts/token kube-system",
        ];
        let missing: Vec<_> = allowed.iter().filter(|question| !may(question)).collect();
        let too_much: Vec<_> = refused.iter().filter(may).collect();
        assert!(missing.is_empty() && too_much.is_empty(), "missing: {missing:?}; too much: {too_much:?}");
    }
}
