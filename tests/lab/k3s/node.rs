//! What a kubelet says of its node when it starts.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::VERSION;
use super::service::Options;

/// Creates the node where there is none, and says which boot of which host it is. Repeats until it is told.
pub async fn register(client: &Client, options: &Options) {
    while let Err(error) = try_register(client, options).await {
        println!("registering the node: {error:#}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

async fn try_register(client: &Client, options: &Options) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let mut labels = json!({
        "kubernetes.io/hostname": options.node, "kubernetes.io/os": "linux", "kubernetes.io/arch": options.arch,
        "node.kubernetes.io/instance-type": "k3s",
    });
    if options.server {
        labels["node-role.kubernetes.io/control-plane"] = json!("true");
    }
    // A kubelet says so; without it the controller-manager attaches nothing to the node.
    let annotations = json!({ "volumes.kubernetes.io/controller-managed-attach-detach": "true" });
    let metadata = json!({ "name": options.node, "labels": labels, "annotations": annotations });
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata });
    let limit = Duration::from_secs(5);
    // Created once; what others have put on it since stays.
    tokio::time::timeout(limit, nodes.patch(&options.node, &PatchParams::apply("k3s"), &Patch::Apply(&node))).await??;
    let status = json!({ "status": {
        "addresses": [{ "type": "InternalIP", "address": options.address }, { "type": "Hostname", "address": options.node }],
        "nodeInfo": {
            "architecture": options.arch, "bootID": file("/proc/sys/kernel/random/boot_id"), "containerRuntimeVersion": "containerd://2.0.5-k3s1",
            "kernelVersion": file("/proc/sys/kernel/osrelease"), "kubeProxyVersion": VERSION, "kubeletVersion": VERSION,
            "machineID": file("/etc/machine-id"), "operatingSystem": "linux", "osImage": "Debian GNU/Linux 12 (bookworm)",
            "systemUUID": file("/etc/machine-id"),
        },
    } });
    tokio::time::timeout(limit, nodes.patch_status(&options.node, &PatchParams::default(), &Patch::Merge(&status))).await??;
    Ok(())
}
