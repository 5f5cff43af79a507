//! All nodes of a site at once: metis beside kubectl drain, on one real control plane with kwok's nodes.
#![allow(clippy::disallowed_methods, reason = "starts the kubectl that metis is compared with")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use metis_tests::plane::{Options, Plane, tool};
use metisd::cluster::RealCluster;
use metisd::cluster::port::{Cluster, DrainOrder};
use metisd::site::{Mark, Secret};
use tokio::sync::watch;

use crate::{process, table};

const NODES: usize = 20;
const PODS: usize = 1000;

/// kubectl as it is used for this, and as much in its favour as it can be.
const FLAGS: [&str; 3] = ["--ignore-daemonsets", "--delete-emptydir-data", "--force"];

/// 1,000 pods on 20 nodes; each way drains all nodes, then they are uncordoned and the pods come back.
pub fn measure() -> Result<()> {
    let mut plane = Plane::start(&Options::default())?;
    let names: Vec<String> = (0..NODES).map(|n| format!("node-{n:02}")).collect();
    let nodes: Vec<&str> = names.iter().map(String::as_str).collect();
    plane.kwok(&nodes)?;
    plane.apply(&format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web, namespace: default}}\nspec: {{replicas: {PODS}, selector: {{matchLabels: {{app: web}}}}, template: {{metadata: {{labels: {{app: web}}}}, spec: {{containers: [{{name: main, image: web}}]}}}}}}\n"
    ))?;
    let mut rows = vec![table::row(["way", "s", "CPU s of the client", "pods evicted", "requests", "load"])];
    type Way = fn(&Plane, &[&str]) -> Result<()>;
    let ways: [(&str, Way); 4] = [
        ("metis, all nodes at once", metis),
        ("kubectl drain, one process per node, all at once", kubectl_at_once),
        ("kubectl drain of all nodes, one command", kubectl_all),
        ("kubectl drain, node by node", kubectl_in_turn),
    ];
    for (name, way) in ways {
        come_back(&plane, &nodes)?;
        let before = plane.audit()?.len();
        let (began, cpu) = (Instant::now(), process::cpu("self")?);
        way(&plane, &nodes)?;
        let (took, cpu) = (began.elapsed(), process::cpu("self")?.saturating_sub(cpu));
        let left = plane.kubectl(&["get", "pods", "--field-selector=status.phase=Running", "-o", "name"])?.lines().count();
        ensure!(left == 0, "{name}: {left} pods are left");
        let audit = plane.audit()?.split_off(before);
        let evicted = audit.iter().filter(|entry| entry.resource == "pods/eviction" && entry.code < 300).count();
        let asked = audit.iter().filter(|entry| entry.by_metis() || entry.user == "admin").count();
        let load = process::machine().rsplit(' ').next().unwrap_or_default().to_owned();
        println!("{name}: {:.1} s, CPU {:.1} s", took.as_secs_f64(), cpu.as_secs_f64());
        rows.push(vec![
            name.to_owned(),
            format!("{:.1}", took.as_secs_f64()),
            format!("{:.1}", cpu.as_secs_f64()),
            evicted.to_string(),
            asked.to_string(),
            load,
        ]);
    }
    println!("{PODS} pods on {NODES} nodes, no disruption budget, a build without optimisation; the pods end at once");
    table::print(&rows);
    Ok(())
}

fn come_back(plane: &Plane, nodes: &[&str]) -> Result<()> {
    plane.kubectl(&[&["uncordon"], nodes].concat())?;
    plane.wait(300, "all pods to be ready", || {
        let ready = plane.kubectl(&["get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}"])?;
        ensure!(ready == PODS.to_string(), "{ready} are");
        Ok(())
    })
}

fn metis(plane: &Plane, nodes: &[&str]) -> Result<()> {
    let settings = metisd::config::from_strs("cluster: { kubeconfig: { credential: kubeconfig } }", "");
    let settings = settings.map_err(|all| anyhow::anyhow!("{all:?}"))?.cluster;
    let kubeconfig = Secret::new(std::fs::read(plane.metis_kubeconfig())?);
    let mark = Mark { holder: "bench".into(), run: "shutdown-1".into(), step: "node.drain".into(), reason: "bench".into(), expires: None };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let cluster = RealCluster::new(&settings, &kubeconfig).await?;
        let (_sender, deadline) = watch::channel(tokio::time::Instant::now() + Duration::from_secs(600));
        let one = |node: &str| {
            let (node, deadline, cluster, mark) = (node.to_owned(), deadline.clone(), &cluster, &mark);
            let beside = nodes.iter().map(|&node| node.to_owned()).collect();
            async move {
                cluster.set_cordoned(&node, Some(mark), Duration::from_secs(30)).await?;
                cluster.drain(&DrainOrder { node, beside }, deadline, &|_| {}).await
            }
        };
        let drained = try_join_all(nodes.iter().map(|&node| one(node))).await?;
        ensure!(drained.iter().all(|drained| drained.left.is_empty()), "{drained:?}");
        Ok(())
    })?;
    // The next way finds the nodes as it would without us.
    plane.kubectl(&[&["annotate", "node"], nodes, &["metis.v1/holder-"]].concat())?;
    Ok(())
}

fn kubectl_at_once(plane: &Plane, nodes: &[&str]) -> Result<()> {
    let kubectl = tool("kubectl")?;
    let start = |node: &&str| {
        let mut command = Command::new(&kubectl);
        command.arg("--kubeconfig").arg(plane.kubeconfig()).arg("drain").arg(node).args(FLAGS);
        command.env("HOME", plane.dir()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
    };
    let children = nodes.iter().map(start).collect::<std::io::Result<Vec<_>>>()?;
    for mut child in children {
        ensure!(child.wait().context("kubectl")?.success(), "kubectl drain failed");
    }
    Ok(())
}

fn kubectl_all(plane: &Plane, nodes: &[&str]) -> Result<()> {
    plane.kubectl(&[&["drain"], nodes, &FLAGS].concat()).map(|_| ())
}

fn kubectl_in_turn(plane: &Plane, nodes: &[&str]) -> Result<()> {
    nodes.iter().try_for_each(|node| plane.kubectl(&[&["drain", *node], &FLAGS[..]].concat()).map(|_| ()))
}
