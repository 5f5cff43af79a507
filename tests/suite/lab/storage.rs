//! Volumes between the real controller-manager and the storage actor.

use std::time::Duration;

use anyhow::ensure;
use metis_tests::actors::{Volume, Volumes, storage_plane, volume};
use metis_tests::plane::{Options, Plane, available};
use serde_json::{Value, json};

const VOLUME: Volume<'_> = Volume { name: "pvc-1", namespace: "default", claim: "data" };

fn start() -> Plane {
    let mut plane = Plane::start(&Options { longhorn: true, ..Options::default() }).unwrap();
    plane.kwok(&["titan-13", "titan-15"]).unwrap();
    storage_plane(&plane, &["titan-13", "titan-15"]).unwrap();
    plane.kubectl(&["-n", "longhorn-system", "rollout", "status", "--timeout=60s", "deployment/csi-attacher"]).unwrap();
    volume(&plane, VOLUME).unwrap();
    plane
}

fn pod(plane: &Plane, node: &str) {
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: user, annotations: {{lab.metis/stop-after: 3s}}}}\nspec: {{nodeName: {node}, containers: [{{name: main, image: web}}], volumes: [{{name: data, persistentVolumeClaim: {{claimName: data}}}}]}}\n"
    );
    plane.apply(&pod).unwrap();
}

fn state(plane: &Plane) -> String {
    plane
        .kubectl(&[
            "-n",
            "longhorn-system",
            "get",
            "volumes.longhorn.io",
            "pvc-1",
            "-o",
            "jsonpath={.status.state} {.status.currentNodeID}",
        ])
        .unwrap()
}

fn wait_for(plane: &Plane, state: &str) {
    let condition = format!("--for=jsonpath={{.status.state}}={state}");
    plane.kubectl(&["-n", "longhorn-system", "wait", &condition, "--timeout=60s", "volumes.longhorn.io/pvc-1"]).unwrap();
}

fn attachments(plane: &Plane) -> String {
    plane
        .kubectl(&[
            "get",
            "volumeattachments.storage.k8s.io",
            "-o",
            "jsonpath={range .items[*]}{.spec.nodeName} {.status.attached} {.status.detachError.message}{end}",
        ])
        .unwrap()
}

fn attachments_are(plane: &Plane, fits: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let attachments = attachments(plane);
    ensure!(fits(&attachments), "{attachments:?}");
    Ok(())
}

/// Fails while the attacher has a ticket.
fn csi_tickets(plane: &Plane, path: &str) -> anyhow::Result<()> {
    let attachment = plane.api()?.get(path)?;
    ensure!(!attachment.to_string().contains("csi-attacher"), "{attachment}");
    Ok(())
}

#[test]
fn a_volume_is_attached_for_its_pod_and_detached_only_after_it() {
    if !available("volumes") {
        return;
    }
    let plane = start();
    let actor = Volumes::default().start(&plane).unwrap();
    wait_for(&plane, "detached");
    pod(&plane, "titan-13");
    wait_for(&plane, "attached");
    assert_eq!(state(&plane), "attached titan-13");
    plane.wait(10, "the attachment", || attachments_are(&plane, |a| a.starts_with("titan-13 true"))).unwrap();
    let budgets = plane.kubectl(&["-n", "longhorn-system", "get", "pdb", "-o", "name"]).unwrap();
    assert_eq!(budgets.trim(), "poddisruptionbudget.policy/instance-manager-titan-13");

    // Somebody deletes the attachment under the pod: refused, with the reason, for as long as the pod is there.
    plane.kubectl(&["delete", "volumeattachments.storage.k8s.io", "--all", "--wait=false"]).unwrap();
    plane.wait(10, "the refusal", || attachments_are(&plane, |a| a.contains("in use by a pod on titan-13"))).unwrap();
    assert_eq!(state(&plane), "attached titan-13");
    plane.kubectl(&["delete", "pod", "user", "--wait=false"]).unwrap();
    assert_eq!(state(&plane), "attached titan-13", "the pod takes three seconds to end");
    wait_for(&plane, "detached");
    plane.wait(10, "no attachment", || attachments_are(&plane, str::is_empty)).unwrap();
    assert_eq!(plane.kubectl(&["get", "pod", "user", "--ignore-not-found"]).unwrap(), "");
    let budgets = || plane.kubectl(&["-n", "longhorn-system", "get", "pdb", "-o", "name"]);
    let none = || {
        ensure!(budgets()?.is_empty());
        Ok(())
    };
    plane.wait(10, "no budget", none).unwrap();

    // And on another node; a backup's ticket then holds it there after its pod has gone.
    pod(&plane, "titan-15");
    wait_for(&plane, "attached");
    assert_eq!(state(&plane), "attached titan-15");
    let tickets = "/apis/longhorn.io/v1beta2/namespaces/longhorn-system/volumeattachments/pvc-1";
    let ticket =
        |ticket: Value| plane.api().unwrap().merge(tickets, &json!({"spec": {"attachmentTickets": {"backup-1": ticket}}})).unwrap();
    ticket(json!({"id": "backup-1", "nodeID": "titan-15", "type": "backup-controller"}));
    plane.kubectl(&["delete", "pod", "user"]).unwrap();
    plane.wait(20, "only the backup's ticket", || csi_tickets(&plane, tickets)).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(state(&plane), "attached titan-15");
    ticket(Value::Null);
    wait_for(&plane, "detached");
    assert_eq!(actor.stop(), None);
}

#[test]
fn nothing_detaches_while_the_attacher_is_evicted() {
    if !available("the attacher") {
        return;
    }
    let plane = start();
    let _actor = Volumes { needs_attacher: true, takes: Duration::from_millis(200) }.start(&plane).unwrap();
    pod(&plane, "titan-13");
    wait_for(&plane, "attached");
    plane.kubectl(&["cordon", "titan-13", "titan-15"]).unwrap();
    let schedulable = "--for=jsonpath={.status.conditions[1].reason}=KubernetesNodeCordoned";
    plane.kubectl(&["-n", "longhorn-system", "wait", schedulable, "--timeout=20s", "nodes.longhorn.io/titan-13"]).unwrap();
    plane.kubectl(&["-n", "longhorn-system", "delete", "pod", "-l", "app=csi-attacher"]).unwrap();
    plane.kubectl(&["delete", "pod", "user"]).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(state(&plane), "attached titan-13", "its attacher is Pending: every node is cordoned");
    plane.kubectl(&["uncordon", "titan-15"]).unwrap();
    wait_for(&plane, "detached");
}
