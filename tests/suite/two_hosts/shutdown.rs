//! Both hosts shut the site down at once, on one real API server: each node is done once, as the audit log has it. Hosts are simulated.

use std::collections::BTreeMap;
use std::time::Duration;

use metis_tests::plane::audit::Entry;
use metis_tests::plane::{Flux, Options, Plane, available};
use metis_tests::require;
use metisd::sim::site::{Model, SimHost};
use serde_json::json;

use super::*;

const WORKERS: [&str; 2] = ["titan-13", "titan-15"];
const KUSTOMIZATIONS: &str = "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations";

fn hosts() -> Model {
    let mut model = Model::default();
    for (name, unit) in [("titan-0a", "k3s.service"), ("titan-13", "k3s-agent.service"), ("titan-15", "k3s-agent.service")] {
        model.hosts.insert(name.to_owned(), SimHost { on: true, units: [unit.to_owned()].into(), leftovers: 3, ..SimHost::default() });
    }
    model
}

fn deployment(node: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web-{node}, namespace: default}}\nspec: {{replicas: 3, selector: {{matchLabels: {{app: {node}}}}}, template: {{metadata: {{labels: {{app: {node}}}}}, spec: {{nodeSelector: {{kubernetes.io/hostname: {node}}}, containers: [{{name: main, image: web}}]}}}}}}\n---\n"
    )
}

fn kustomization(name: &str) -> String {
    format!(
        "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {{name: {name}, namespace: flux-system}}\nspec: {{interval: 10m, path: ./{name}, prune: true, sourceRef: {{kind: GitRepository, name: site}}}}\n---\n"
    )
}

/// Names that metis wrote to so, each with how often it was let.
fn writes(audit: &[Entry], verb: &str, resource: &str) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    let done = audit.iter().filter(|entry| entry.by_metis() && entry.verb == verb && entry.resource == resource && entry.code < 300);
    for entry in done {
        *names.entry(entry.name.clone()).or_default() += 1;
    }
    names
}

#[test]
fn full_both_hosts_shut_down_at_once_and_each_node_is_done_once() {
    let test = "two metisd on one API server";
    if !available(test) || !require::root(test) || !require::programs(test, &["unshare"]) {
        return;
    }
    let mut plane = Plane::start(&Options { flux: Flux::Crds, ..Options::default() }).unwrap();
    plane.kwok(&["titan-0a", "titan-13", "titan-15"]).unwrap();
    plane.apply(&WORKERS.map(deployment).concat()).unwrap();
    for node in WORKERS {
        plane.kubectl(&["wait", "--for=condition=Available", "--timeout=60s", &format!("deployment/web-{node}")]).unwrap();
    }
    plane.apply(&["root", "apps"].map(kustomization).concat()).unwrap();
    let inventory = inventory(9, "");
    let mut daemons = [0, 1].map(|at: usize| {
        let rest = format!(
            "hosts: {{ this_host: {}, connect_timeout: 1s }}
cluster: {{ kubeconfig: {{ file: {} }}, datastore: {{ kind: sqlite }} }}
peer: {{ host: {}, ask_timeout: 2s }}
",
            NAMES[at],
            plane.metis_kubeconfig().display(),
            NAMES[1 - at],
        );
        let daemon = daemon(at, &inventory, &rest);
        std::fs::write(daemon.path("site.json"), serde_json::to_vec(&hosts()).unwrap()).unwrap();
        daemon
    });
    for daemon in &mut daemons {
        let file = daemon.path("site.json").display().to_string();
        daemon.start_with(&[("METIS_SIMULATE_HOSTS", &file)]).unwrap();
    }
    // The link between the two is cut: a shutdown waits for nobody.
    let clients = daemons.each_ref().map(|daemon| daemon.ctl_command(&["shutdown", "--execute", "--reason", "storm"]).spawn().unwrap());
    for mut client in clients {
        assert!(matches!(client.wait().unwrap().code(), Some(0 | 5)));
    }
    for daemon in &daemons {
        let report = std::fs::read_to_string(daemon.path("state/last-shutdown-report.json")).unwrap();
        let report: serde_json::Value = serde_json::from_str(&report).unwrap();
        assert!(report["outcome"] == "done" || report["outcome"] == "degraded", "{report:#}");
        let site: Model = serde_json::from_slice(&std::fs::read(daemon.path("site.json")).unwrap()).unwrap();
        assert!(site.hosts.values().all(|host| host.units.is_empty()), "each host ended its own part: {:#?}", site.log);
    }
    let audit = plane.audit().unwrap();
    let once = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1)).collect::<BTreeMap<_, _>>();
    let cordons = writes(&audit, "patch", "nodes");
    assert_eq!(cordons.into_iter().filter(|(name, _)| WORKERS.contains(&name.as_str())).collect::<BTreeMap<_, _>>(), once(&WORKERS));
    assert_eq!(writes(&audit, "patch", "kustomizations"), once(&["apps", "root"]));
    let evictions = writes(&audit, "create", "pods/eviction");
    assert_eq!((evictions.len(), evictions.values().max()), (6, Some(&1)), "{evictions:#?}");
    let api = plane.api().unwrap();
    let lease = api.get("/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/metis").unwrap();
    assert!(lease["spec"]["leaseTransitions"].as_u64() >= Some(1) && lease["spec"]["holderIdentity"].is_null(), "given back: {lease:#}");
    let root = api.get(&format!("{KUSTOMIZATIONS}/root")).unwrap();
    assert_eq!(root["spec"]["suspend"], json!(true));
    // Neither holds what the other one did.
    let held: Vec<_> = daemons.iter().map(|daemon| daemon.json(&["lease", "list"]).unwrap()).collect();
    let count: usize = held.iter().map(|list| list["leases"].as_array().map_or(0, Vec::len)).sum();
    assert_eq!(count, WORKERS.len(), "{held:#?}");
    for daemon in &mut daemons {
        let stopped = daemon.stop().unwrap();
        assert!(stopped < Duration::from_secs(10));
    }
}
