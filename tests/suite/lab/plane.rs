//! The control plane itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use metis_tests::plane::{Options, Plane, available};
use metis_tests::require;
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
fn metis_may_what_its_steps_need_and_nothing_else() {
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
        let review =
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}});
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
        "delete jobs.batch media",
        "delete volumeattachments.storage.k8s.io",
        "patch deployments/scale.apps media",
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

/// Processes that name this in their command line.
fn naming(what: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(what)).collect()
}

#[test]
fn a_holder_that_is_killed_takes_its_plane_with_it_and_the_next_one_clears_up() {
    if !available("a killed holder") {
        return;
    }
    let work = tempfile::tempdir().unwrap();
    let lab = work.path().join("lab");
    std::fs::create_dir(&lab).unwrap();
    let serve = || Command::new(env!("CARGO_BIN_EXE_metis-lab")).arg("serve").env("METIS_LAB", &lab).stdin(Stdio::null()).spawn().unwrap();
    let ready = lab.join("ready");
    let wait = || {
        let until = Instant::now() + Duration::from_secs(120);
        while !ready.exists() {
            assert!(Instant::now() < until, "not up");
            std::thread::sleep(Duration::from_millis(100));
        }
        let said = std::fs::read_to_string(&ready).unwrap();
        let log = said.lines().find_map(|line| line.strip_prefix("audit log")).unwrap().trim().to_owned();
        Path::new(&log).parent().unwrap().to_owned()
    };
    let mut holder = serve();
    let dir = wait();
    assert!(naming(dir.to_str().unwrap()).len() >= 7, "{:?}", naming(dir.to_str().unwrap()));
    holder.kill().unwrap();
    holder.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while !naming(dir.to_str().unwrap()).is_empty() {
        assert!(Instant::now() < until, "{:?}", naming(dir.to_str().unwrap()));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(dir.exists(), "nobody was left who could remove it");
    let plane = Plane::start(&Options::default()).unwrap();
    assert!(!dir.exists());
    drop(plane);
}

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

/// Goes when it is dropped, whatever the test comes to.
struct Namespace(String);

impl Namespace {
    fn add(name: &str) -> Self {
        ip(&format!("netns add {name}"));
        Self(name.to_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("netns delete {}", self.0));
    }
}

#[test]
fn a_plane_in_a_network_namespace_is_reached_through_it() {
    if !available("network namespaces") || !require::root("network namespaces") || !require::programs("network namespaces", &["ip"]) {
        return;
    }
    let name = format!("metis-lab-{}", std::process::id());
    let _namespace = Namespace::add(&name);
    ip(&format!("-n {name} address add 10.99.0.1/32 dev lo"));
    ip(&format!("-n {name} link set lo up"));
    let address = Some("10.99.0.1".parse().unwrap());
    let options = Options { address, netns: Some(name.clone()), names: vec!["titan-0a".to_owned()], ..Options::default() };
    let plane = Plane::start(&options).unwrap();
    assert!(plane.api().unwrap().get("/readyz").is_ok());
    assert!(plane.front().unwrap().url().starts_with("https://10.99.0.1:"));
    // All of it is in there, nothing out here.
    let network = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let inside = plane.pids().into_iter().map(network).collect::<BTreeSet<_>>();
    assert!(inside.len() == 1 && !inside.contains(&network(std::process::id())), "{inside:?}");
}
