//! The cluster's adapters against a real API server, controller-manager, scheduler and Flux.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod command;
mod drain;
mod endpoints;
mod exposed;
mod flux;
mod gates;
mod marks;
mod repairs;
mod shapes;
mod vault;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use metis_tests::plane::Plane;
use metis_tests::plane::audit::Entry;
use metisd::cluster::RealCluster;
use metisd::cluster::port::{Cluster, ClusterError, DrainOrder, Drained};
use metisd::config::{check_report, from_strs};
use metisd::site::{Mark, Secret};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;

/// metis as it is configured, on a runtime like the daemon's.
struct Metis {
    runtime: Runtime,
    cluster: RealCluster,
}

impl Metis {
    /// `more`: further keys of the sections `cluster` (at four spaces) and `shutdown`.
    fn new(kubeconfig: &Path, cluster: &str, shutdown: &str) -> Self {
        let text =
            format!("cluster:\n    kubeconfig: {{ credential: kubeconfig }}\n{cluster}\nshutdown:\n    mode: cluster-only\n{shutdown}\n");
        let settings = from_strs(&text, "").unwrap_or_else(|all| panic!("{}\n{text}", check_report(&Err(all))));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let kubeconfig = Secret::new(std::fs::read(kubeconfig).unwrap());
        let cluster = runtime.block_on(RealCluster::new(&settings.cluster, &kubeconfig)).unwrap();
        Self { runtime, cluster }
    }

    fn of(plane: &Plane) -> Self {
        Self::new(plane.metis_kubeconfig(), "", "")
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn cordon(&self, nodes: &[&str]) {
        for node in nodes {
            self.run(self.cluster.set_cordoned(node, Some(&mark("shutdown-1", "node.drain")), seconds(10))).unwrap();
        }
    }

    /// Drains a node within `within`; what it told is returned too. `cut`: after the first the deadline becomes the second, from the beginning.
    fn drain(
        &self,
        node: &str,
        beside: &[&str],
        within: Duration,
        cut: Option<(Duration, Duration)>,
    ) -> (Result<Drained, ClusterError>, Vec<String>, Duration) {
        let order = DrainOrder { node: node.to_owned(), beside: beside.iter().map(|&node| node.to_owned()).collect() };
        let told = Mutex::new(Vec::new());
        let tell = |line: String| told.lock().unwrap().push(line);
        self.run(async {
            let began = Instant::now();
            let (sender, receiver) = watch::channel(began + within);
            let cutting = async {
                if let Some((after, end)) = cut {
                    tokio::time::sleep(after).await;
                    sender.send(began + end).unwrap();
                }
                std::future::pending::<()>().await;
            };
            let result = tokio::select! {
                result = self.cluster.drain(&order, receiver, &tell) => result,
                () = cutting => unreachable!(),
            };
            (result, told.lock().unwrap().clone(), began.elapsed())
        })
    }
}

fn mark(run: &str, step: &str) -> Mark {
    Mark { holder: "titan-db".to_owned(), run: run.to_owned(), step: step.to_owned(), reason: "a test".to_owned(), expires: None }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Pods that metis asked to go, `namespace/name`: evicted, and deleted.
fn asked(audit: &[Entry]) -> (BTreeSet<String>, BTreeSet<String>) {
    let of = |verb: &str, resource: &str| {
        let matching = audit.iter().filter(|entry| entry.by_metis() && entry.verb == verb && entry.resource == resource);
        matching.map(|entry| format!("{}/{}", entry.namespace, entry.name)).collect()
    };
    (of("create", "pods/eviction"), of("delete", "pods"))
}

/// A Deployment whose pods only fit on `node`; `pod` goes below the pods' spec, `annotations` to the pods.
fn deployment(name: &str, replicas: u32, node: &str, annotations: &str, pod: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: default}}\nspec: {{replicas: {replicas}, selector: {{matchLabels: {{app: {name}}}}}, template: {{metadata: {{labels: {{app: {name}}}, annotations: {{{annotations}}}}}, spec: {{{pod}nodeSelector: {{kubernetes.io/hostname: {node}}}, containers: [{{name: main, image: web}}]}}}}}}\n---\n"
    )
}

fn budget(name: &str, least: u32) -> String {
    format!(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: {name}, namespace: default}}\nspec: {{minAvailable: {least}, selector: {{matchLabels: {{app: {name}}}}}}}\n---\n"
    )
}

fn wait_ready(plane: &Plane, deployments: &[&str]) {
    for name in deployments {
        plane.kubectl(&["wait", "--for=condition=Available", "--timeout=60s", &format!("deployment/{name}")]).unwrap();
    }
}
