//! k3s on the laboratory's hosts behaves as k3s does: units, kubelets, processes, snapshots, boots.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use metis_tests::hosts::{self, Hosts, Plan, Role};
use metis_tests::nspawn::Event;
use metis_tests::plane;

/// `kubectl` as administrator; must succeed.
fn kubectl(site: &Hosts, line: &str) -> String {
    site.cluster().with(|plane| plane.kubectl(&line.split(' ').collect::<Vec<_>>())).unwrap().trim().to_owned()
}

/// Repeats it until it says that.
fn until(site: &Hosts, seconds: u64, line: &str, wanted: &str) {
    let limit = Instant::now() + Duration::from_secs(seconds);
    loop {
        let said = site.cluster().with(|plane| plane.kubectl(&line.split(' ').collect::<Vec<_>>()));
        if said.as_ref().is_ok_and(|said| said.trim() == wanted) {
            return;
        }
        assert!(Instant::now() < limit, "kubectl {line}: {said:?} and not {wanted:?} after {seconds} s");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn apply(site: &Hosts, manifest: &str) {
    site.cluster().with(|plane| plane.apply(manifest)).unwrap();
}

/// A pod on a node whose container is a real process; `command` runs in a shell. `spec` and `container` go into its specification.
fn pod(name: &str, node: &str, spec: &str, container: &str, command: &str) -> String {
    let command = serde_json::to_string(command).unwrap();
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{lab.metis/actor: process}}}}\nspec: {{nodeName: {node}, {spec} \
         containers: [{{name: main, image: none, command: [sh, -c, {command}], {container}}}]}}\n---\n"
    )
}

/// How many processes of a host have exactly this command line.
fn processes(site: &Hosts, role: Role, pattern: &str) -> usize {
    let out = site[role].output(&["pgrep", "-fxc", pattern]).unwrap();
    String::from_utf8_lossy(&out.stdout).trim().parse().unwrap()
}

const READY: &str = "-o jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";

#[test]
fn full_a_cluster_on_hosts() {
    if !hosts::available("a cluster on hosts") || !plane::available("a cluster on hosts") {
        return;
    }
    let site = Plan::new(&[Role::TitanDb, Role::Titan0a, Role::Titan13, Role::Titan15, Role::Tethys])
        .k3s(plane::Options { longhorn: true, ..plane::Options::default() })
        .start()
        .unwrap();
    for node in ["titan-0a", "titan-13", "titan-15", "titan-24"] {
        until(&site, 60, &format!("get node {node} {READY}"), "True");
    }
    boot_ids(&site);
    a_pod_is_a_process(&site);
    a_probe_decides_what_is_ready(&site);
    a_helper_pod_works_on_its_host(&site);
    pods_end_as_they_like(&site);
    the_agents_stop_leaves_processes(&site);
    a_killed_agent_takes_its_kubelet_along(&site);
    a_frozen_kubelet_ends_nothing(&site);
    snapshots(&site);
    the_servers_stop_takes_the_api_along(&site);
    a_reboot_is_seen(&site);
    a_host_without_power_is_missed(&site);
}

fn boot_ids(site: &Hosts) {
    for role in [Role::Titan0a, Role::Titan13, Role::Tethys] {
        let told = kubectl(site, &format!("get node {} -o jsonpath={{.status.nodeInfo.bootID}}", role.node().unwrap()));
        assert_eq!(told, site[role].sh("cat /proc/sys/kernel/random/boot_id").unwrap().trim());
    }
    assert_eq!(kubectl(site, "get node titan-24 -o jsonpath={.status.addresses[0].address}"), "10.77.0.24");
}

fn a_pod_is_a_process(site: &Hosts) {
    let claim = "volumes: [{name: data, persistentVolumeClaim: {claimName: data}}],";
    let mount = "volumeMounts: [{name: data, mountPath: /data}]";
    apply(
        site,
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n",
    );
    apply(site, &pod("worker", "titan-13", claim, mount, "echo kept >/data/file; exec sleep 4001"));
    until(site, 20, &format!("get pod worker {READY}"), "True");
    assert_eq!(kubectl(site, "get pod worker -o jsonpath={.status.podIP}"), "10.77.0.13");
    assert_eq!(processes(site, Role::Titan13, "sleep 4001"), 1);
    let mounts = site[Role::Titan13].sh("grep /var/lib/kubelet/pods /proc/mounts").unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    // kwok's own pods are beside it.
    apply(
        site,
        "apiVersion: v1\nkind: Pod\nmetadata: {name: plain}\nspec: {nodeName: titan-13, containers: [{name: main, image: none}]}\n",
    );
    until(site, 20, &format!("get pod plain {READY}"), "True");
}

fn a_probe_decides_what_is_ready(site: &Hosts) {
    let probe = "readinessProbe: {exec: {command: [test, -e, /root/ready]}, periodSeconds: 1}";
    apply(site, &pod("probed", "titan-15", "", probe, "exec sleep 4002"));
    until(site, 20, "get pod probed -o jsonpath={.status.phase}", "Running");
    until(site, 5, &format!("get pod probed {READY}"), "False");
    site[Role::Titan15].sh("touch /root/ready").unwrap();
    until(site, 5, &format!("get pod probed {READY}"), "True");
}

fn a_helper_pod_works_on_its_host(site: &Hosts) {
    let helper = |name: &str, script: &str| {
        let script = serde_json::to_string(script).unwrap();
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: titan-15, hostPID: true, restartPolicy: Never, \
             containers: [{{name: main, image: none, command: [sh, -c, {script}], securityContext: {{privileged: true}}}}]}}\n"
        )
    };
    apply(site, &helper("helper", "nsenter -t 1 -m -u -i -n -- sh -c 'hostname; systemctl is-active k3s-agent' >/dev/termination-log"));
    until(site, 20, "get pod helper -o jsonpath={.status.phase}", "Succeeded");
    let message = "-o jsonpath={.status.containerStatuses[0].state.terminated.message}";
    assert_eq!(kubectl(site, &format!("get pod helper {message}")), "titan-15\nactive");
    apply(site, &helper("wrong", "echo no such thing >/dev/termination-log; exit 3"));
    until(site, 20, "get pod wrong -o jsonpath={.status.phase}", "Failed");
    let terminated = "-o jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
    assert_eq!(
        (kubectl(site, &format!("get pod wrong {message}")), kubectl(site, &format!("get pod wrong {terminated}"))),
        ("no such thing".to_owned(), "3".to_owned())
    );
    apply(site, &helper("late", "touch /tmp/own; exec sleep 4006").replace("hostPID: true,", "hostPID: true, activeDeadlineSeconds: 2,"));
    until(site, 20, "get pod late -o jsonpath={.status.reason}", "DeadlineExceeded");
    assert_eq!((processes(site, Role::Titan15, "sleep 4006"), site[Role::Titan15].sh("ls /tmp/own || true").unwrap().as_str()), (0, ""));
    kubectl(site, "delete pod helper wrong late --timeout=20s");
}

fn pods_end_as_they_like(site: &Hosts) {
    let quick = "trap 'echo asked >/root/asked; exit 0' TERM; while :; do sleep 0.1; done";
    let deaf = "trap '' TERM; while :; do sleep 4003; done";
    apply(site, &pod("quick", "titan-15", "terminationGracePeriodSeconds: 30,", "", quick));
    apply(site, &pod("deaf", "titan-15", "terminationGracePeriodSeconds: 3,", "", deaf));
    for name in ["quick", "deaf"] {
        until(site, 20, &format!("get pod {name} {READY}"), "True");
    }
    let begun = Instant::now();
    kubectl(site, "delete pod quick --timeout=20s");
    assert!(begun.elapsed() < Duration::from_secs(15) && site[Role::Titan15].sh("cat /root/asked").unwrap() == "asked\n");
    let begun = Instant::now();
    kubectl(site, "delete pod deaf --timeout=20s");
    assert!(begun.elapsed() >= Duration::from_secs(2), "it had its grace period");
    assert_eq!(processes(site, Role::Titan15, "sleep 4003"), 0);
}

fn the_agents_stop_leaves_processes(site: &Hosts) {
    let host = &site[Role::Titan13];
    host.sh("systemctl stop k3s-agent").unwrap();
    assert_eq!(
        (processes(site, Role::Titan13, "sleep 4001"), host.sh("systemctl is-active k3s-agent || true").unwrap().trim()),
        (1, "inactive")
    );
    assert!(!host.sh("ps -e -o args=").unwrap().contains("/kwok"), "its kubelet is gone");
    // Its shim finds it again.
    host.sh("systemctl start k3s-agent").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(
        (
            processes(site, Role::Titan13, "sleep 4001"),
            kubectl(site, "get pod worker -o jsonpath={.status.containerStatuses[0].restartCount}")
        ),
        (1, "0".to_owned())
    );
    host.sh("k3s-killall.sh").unwrap();
    assert_eq!(processes(site, Role::Titan13, "sleep 4001"), 0);
    host.sh("! grep /var/lib/kubelet /proc/mounts").unwrap();
    // Nobody has told the API server.
    assert_eq!(kubectl(site, &format!("get pod worker {READY}")), "True");
    host.sh("systemctl start k3s-agent").unwrap();
    until(site, 30, "get pod worker -o jsonpath={.status.containerStatuses[0].restartCount}", "1");
    until(site, 30, &format!("get pod worker {READY}"), "True");
}

fn a_killed_agent_takes_its_kubelet_along(site: &Hosts) {
    let host = &site[Role::Titan15];
    let kubelet = host.sh("pidof kwok").unwrap();
    host.sh("systemctl kill --kill-who=main -s KILL k3s-agent").unwrap();
    host.wait_for(20, &format!("systemctl is-active k3s-agent && test $(pidof kwok) != {}", kubelet.trim())).unwrap();
    assert_eq!(processes(site, Role::Titan15, "sleep 4002"), 1);
}

fn a_frozen_kubelet_ends_nothing(site: &Hosts) {
    let host = &site[Role::Titan15];
    apply(site, &pod("held", "titan-15", "terminationGracePeriodSeconds: 1,", "", "exec sleep 4005"));
    until(site, 20, &format!("get pod held {READY}"), "True");
    host.freeze_k3s().unwrap();
    kubectl(site, "delete pod held --wait=false");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((processes(site, Role::Titan15, "sleep 4005"), kubectl(site, "get pod held -o name").as_str()), (1, "pod/held"));
    host.thaw_k3s().unwrap();
    kubectl(site, "wait --for=delete pod/held --timeout=20s");
    assert_eq!(processes(site, Role::Titan15, "sleep 4005"), 0);
}

fn snapshots(site: &Hosts) {
    let host = &site[Role::Titan0a];
    for _ in 0..3 {
        let said = host.sh("k3s etcd-snapshot save --name metis-pre").unwrap();
        assert!(said.contains("Snapshot metis-pre-titan-0a-") && said.contains("saved"), "{said}");
        std::thread::sleep(Duration::from_millis(1100));
    }
    host.sh("k3s etcd-snapshot save --name other").unwrap();
    host.sh("k3s etcd-snapshot prune --name metis-pre --snapshot-retention 2").unwrap();
    let listed = host.sh("k3s etcd-snapshot ls").unwrap();
    assert_eq!((listed.matches(" file:///").count(), listed.matches("other-titan-0a").count()), (3, 2), "{listed}");
    site[Role::TitanDb].sh("dump-datastore /root/dump && test $(stat -c %s /root/dump) -gt 100000").unwrap();
    host.sh("for f in /var/lib/rancher/k3s/server/db/snapshots/*; do test $(stat -c %s $f) -gt 100000; done").unwrap();
}

fn the_servers_stop_takes_the_api_along(site: &Hosts) {
    let host = &site[Role::Titan0a];
    host.sh("systemctl stop k3s").unwrap();
    site.cluster().wait(false, Duration::from_secs(10)).unwrap();
    let refused = site.cluster().with(|plane| plane.kubectl(&["get", "--raw", "/readyz"])).unwrap_err();
    assert!(format!("{refused:#}").contains("refused"), "{refused:#}");
    assert!(!host.output(&["k3s", "etcd-snapshot", "save"]).unwrap().status.success());
    host.sh("systemctl start k3s").unwrap();
    site.cluster().wait(true, Duration::from_secs(30)).unwrap();
    until(site, 20, &format!("get pod worker {READY}"), "True");
    apply(site, &pod("later", "titan-13", "", "", "exec sleep 4004"));
    until(site, 60, &format!("get pod later {READY}"), "True");
}

fn a_reboot_is_seen(site: &Hosts) {
    let host = &site[Role::Titan15];
    let before = host.sh("cat /proc/sys/kernel/random/boot_id").unwrap();
    let asked = Instant::now();
    host.sh("systemctl reboot").unwrap();
    site.wait_event("titan-15", &Event::Rebooting, asked, Duration::from_secs(60)).unwrap();
    host.wait_on().unwrap();
    let boot = host.sh("cat /proc/sys/kernel/random/boot_id").unwrap();
    assert_ne!(boot, before);
    until(site, 60, "get node titan-15 -o jsonpath={.status.nodeInfo.bootID}", boot.trim());
    until(site, 60, "get pod probed -o jsonpath={.status.containerStatuses[0].state.running.startedAt}", &started(site));
}

/// When the process of the pod `probed` was started in this boot.
fn started(site: &Hosts) -> String {
    let line = site[Role::Titan15].wait_for(60, "cat /run/k3s/pods/*/run.json").unwrap();
    let run: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
    // Kubernetes keeps whole seconds.
    run["at"].as_str().unwrap().split('.').next().unwrap().to_owned() + "Z"
}

fn a_host_without_power_is_missed(site: &Hosts) {
    site[Role::Titan13].cut_power().unwrap();
    until(site, 90, &format!("get node titan-13 {READY}"), "Unknown");
    // What ran there is still said to be, and is to come back.
    assert_eq!(kubectl(site, "get pod worker -o jsonpath={.status.phase}"), "Running");
    site[Role::Titan13].power_on().unwrap();
    until(site, 60, &format!("get node titan-13 {READY}"), "True");
    site[Role::Titan13].wait_for(30, "pgrep -fx 'sleep 4001'").unwrap();
}
