//! How the lab's pods and nodes behave without a kubelet.

use std::time::{Duration, Instant};

use metis_tests::plane::{Options, Plane, available};

fn pod(name: &str, annotations: &str, grace: u32, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{{annotations}}}{more}}}\nspec: {{nodeName: titan-13, terminationGracePeriodSeconds: {grace}, containers: [{{name: main, image: web}}]}}\n---\n"
    )
}

fn exists(plane: &Plane, name: &str) -> bool {
    !plane.kubectl(&["get", "pod", name, "--ignore-not-found", "-o", "name"]).unwrap().is_empty()
}

/// How long a pod stays after it was deleted, up to `limit`.
fn end(plane: &Plane, name: &str, limit: Duration) -> Option<Duration> {
    let begun = Instant::now();
    plane.kubectl(&["delete", "pod", name, "--wait=false"]).unwrap();
    while begun.elapsed() < limit {
        if !exists(plane, name) {
            return Some(begun.elapsed());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    None
}

#[test]
fn pods_end_as_their_annotations_say() {
    if !available("ends of pods") {
        return;
    }
    let mut plane = Plane::start(&Options::default()).unwrap();
    plane.kwok(&["titan-13"]).unwrap();
    let finalizer = ", finalizers: [lab.metis/held]";
    let pods = [
        pod("quick", "", 30, ""),
        pod("slow", "lab.metis/stop-after: 4s", 30, ""),
        pod("deaf", "lab.metis/ignore-sigterm: \"true\"", 6, ""),
        pod("stuck", "lab.metis/stuck: \"true\"", 1, ""),
        pod("held", "", 30, finalizer),
        pod("unready", "lab.metis/never-ready: \"true\"", 30, ""),
        pod("foreign", "lab.metis/actor: somebody", 30, ""),
    ];
    plane.apply(&pods.concat()).unwrap();
    plane
        .kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "pod/quick", "pod/slow", "pod/deaf", "pod/stuck", "pod/held"])
        .unwrap();
    plane.kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "--timeout=30s", "pod/unready"]).unwrap();
    let phases = plane
        .kubectl(&[
            "get",
            "pod",
            "unready",
            "foreign",
            "-o",
            "jsonpath={range .items[*]}{.status.phase} {.status.containerStatuses[0].ready},{end}",
        ])
        .unwrap();
    assert_eq!(phases, "Running false,Pending ,");

    let seconds = Duration::from_secs;
    assert!(end(&plane, "quick", seconds(10)).is_some());
    assert!(end(&plane, "slow", seconds(20)).is_some_and(|after| after >= seconds(4)));
    assert!(end(&plane, "deaf", seconds(20)).is_some_and(|after| after >= seconds(5)), "until SIGKILL");
    assert_eq!(end(&plane, "stuck", seconds(4)), None, "its grace period was one second");
    plane.kubectl(&["delete", "pod", "stuck", "--force", "--grace-period=0"]).unwrap();
    assert!(!exists(&plane, "stuck"));
    assert_eq!(end(&plane, "held", seconds(4)), None);
    let held = plane
        .kubectl(&["get", "pod", "held", "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].state.terminated.reason}"])
        .unwrap();
    assert_eq!(held, "Succeeded Completed", "ended, but held by its finalizer");
    plane.kubectl(&["patch", "pod", "held", "--type=merge", "-p", "{\"metadata\":{\"finalizers\":null}}"]).unwrap();
    plane.kubectl(&["wait", "--for=delete", "--timeout=10s", "pod/held"]).unwrap();
    assert_eq!(end(&plane, "foreign", seconds(2)), None, "nobody plays its kubelet");
}

#[test]
fn a_shorter_grace_period_is_heeded_and_jobs_are_done() {
    if !available("grace periods and jobs") {
        return;
    }
    let mut plane = Plane::start(&Options::default()).unwrap();
    plane.kwok(&["titan-13"]).unwrap();
    plane.apply(&pod("deaf", "lab.metis/ignore-sigterm: \"true\"", 600, "")).unwrap();
    let job = |name: &str, code: u8| {
        format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec: {{backoffLimit: 0, template: {{metadata: {{annotations: {{lab.metis/exit-code: \"{code}\"}}}}, spec: {{restartPolicy: Never, containers: [{{name: main, image: web}}]}}}}}}\n---\n"
        )
    };
    plane.apply(&[job("good", 0), job("bad", 1)].concat()).unwrap();
    plane.kubectl(&["wait", "--for=condition=Complete", "--timeout=30s", "job/good"]).unwrap();
    plane.kubectl(&["wait", "--for=condition=Failed", "--timeout=30s", "job/bad"]).unwrap();
    plane.kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "pod/deaf"]).unwrap();
    assert_eq!(end(&plane, "deaf", Duration::from_secs(2)), None, "it has ten minutes");
    plane.kubectl(&["delete", "pod", "deaf", "--grace-period=2", "--wait=false"]).unwrap();
    plane.kubectl(&["wait", "--for=delete", "--timeout=15s", "pod/deaf"]).unwrap();
}

#[test]
fn a_node_whose_kubelet_is_gone_is_found_out_by_its_lease() {
    if !available("leases") {
        return;
    }
    let mut plane = Plane::start(&Options::default()).unwrap();
    plane.kwok(&["titan-13"]).unwrap();
    plane.apply(&pod("web", "", 30, "")).unwrap();
    plane.kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "pod/web"]).unwrap();
    let renewed =
        |plane: &Plane| plane.kubectl(&["-n", "kube-node-lease", "get", "lease", "titan-13", "-o", "jsonpath={.spec.renewTime}"]).unwrap();
    let first = renewed(&plane);
    plane
        .wait(30, "a renewal", || {
            anyhow::ensure!(renewed(&plane) != first);
            Ok(())
        })
        .unwrap();
    plane.kubelets(0).kill();
    let last = renewed(&plane);
    // The stored condition stays as it was until the Lease has run out: 40 s, and up to ten more.
    assert_eq!(
        plane.kubectl(&["get", "node", "titan-13", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"]).unwrap(),
        "True"
    );
    plane.kubectl(&["wait", "--for=condition=Ready=Unknown", "--timeout=90s", "node/titan-13"]).unwrap();
    assert_eq!(renewed(&plane), last);
    assert!(exists(&plane, "web"));
    plane.kubelets(0).start().unwrap();
    plane.kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "node/titan-13"]).unwrap();
}
