//! Nodes of the laboratory through helper pods, on a real control plane, with the rights that are shipped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metis_tests::hosts::{self, Hosts, Plan, Role, unit};
use metis_tests::nspawn::End;
use metis_tests::plane::{self, Options};
use metisd::cluster::RealCluster;
use metisd::config::from_strs;
use metisd::host::port::{Command, HostError, Hosts as _, Output};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::*;

const PODS: &str = "/api/v1/namespaces/kube-system/pods";

/// metis as far as it makes helper pods, with a runtime of its own.
struct Metis {
    runtime: Runtime,
    hosts: Arc<RealHosts>,
}

impl Metis {
    /// Called in the laboratory's network.
    fn of(site: &Hosts) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let settings = from_strs("cluster: { kubeconfig: { credential: kubeconfig }, call_timeout: 2s }", "").unwrap();
        let kubeconfig = site.cluster().with(|plane| Ok(std::fs::read(plane.metis_kubeconfig())?)).unwrap();
        let cluster = runtime.block_on(RealCluster::new(&settings.cluster, &Secret::new(kubeconfig))).unwrap();
        let _context = runtime.enter();
        Self { hosts: Arc::new(real(site, Some(Arc::new(cluster.pods("kube-system"))))), runtime }
    }

    fn run(&self, host: &Host, argv: &[&str], within: u64) -> Result<Output, HostError> {
        self.runtime.block_on(self.hosts.run(host, &command(argv), Duration::from_secs(within)))
    }

    /// Lets what goes on beside the answers go on.
    fn rest(&self) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(500)).await });
    }
}

fn command(argv: &[&str]) -> Command {
    Command { argv: argv.iter().map(ToString::to_string).collect(), root: true }
}

fn through_pod(site: &Hosts, role: Role) -> Host {
    Host { access: Access::HelperPod, ..of_lab(site, role) }
}

/// A node of that name alone; no host is behind it.
fn bare(site: &Hosts, name: &str) -> Host {
    Host { name: name.into(), node_name: name.to_owned(), ..through_pod(site, Role::Titan13) }
}

/// Helper pods that are there.
fn helpers(site: &Hosts) -> Vec<Value> {
    let list = site.cluster().with(|plane| plane.api()?.get(PODS)).unwrap();
    let named = |pod: &&Value| pod["metadata"]["name"].as_str().unwrap().starts_with("metis-helper-");
    list["items"].as_array().unwrap().iter().filter(named).cloned().collect()
}

fn no_helpers(site: &Hosts, metis: &Metis) {
    let until = Instant::now() + Duration::from_secs(10);
    while !helpers(site).is_empty() {
        assert!(Instant::now() < until, "{:#?}", helpers(site));
        metis.rest();
    }
}

#[test]
fn nodes_are_reached_through_helper_pods_in_the_lab() {
    if !hosts::available("helper pods") || !plane::available("helper pods") {
        return;
    }
    let (name, text) = FORGOTTEN;
    let plan = Plan::new(&[Role::Titan0a, Role::Titan13, Role::Titan15]).k3s(Options::default());
    let site = plan.file(Role::Titan13, format!("etc/systemd/system/{name}"), text).start().unwrap();
    let ready = ["wait", "--for=condition=Ready", "--timeout=60s", "node", "titan-13", "titan-15"];
    site.cluster().with(|plane| plane.wait(60, "the nodes", || plane.kubectl(&ready))).unwrap();
    // Its own thread: it moves into the laboratory's network.
    let lab = Arc::clone(site.lab());
    std::thread::scope(|scope| {
        let work = || {
            lab.enter().unwrap();
            let metis = Metis::of(&site);
            commands(&site, &metis);
            nothing_outlives_its_time(&site, &metis);
            nodes_without_a_kubelet(&site, &metis);
            the_api_server_dies_meanwhile(&site, &metis);
            of_a_metisd_that_was_killed(&site, &metis);
            units_and_power(&site, &metis);
            rights(&site, &metis);
        };
        scope.spawn(work).join().unwrap();
    });
}

/// The second way in where the first one hangs.
fn commands(site: &Hosts, metis: &Metis) {
    site[Role::Titan13].freeze_sshd().unwrap();
    let over_ssh = of_lab(site, Role::Titan13);
    let hung = metis.runtime.block_on(metis.hosts.probe(&over_ssh, Duration::from_secs(2)));
    assert!(matches!(hung, Err(HostError::TimedOut(_))), "{hung:?}");
    let host = through_pod(site, Role::Titan13);
    metis.runtime.block_on(metis.hosts.probe(&host, LIMIT)).unwrap();
    assert_eq!(
        metis.run(&host, &["sh", "-c", "hostname; id -u; systemctl is-active k3s-agent"], 30).unwrap().stdout,
        "titan-13\n0\nactive\n"
    );
    site[Role::Titan13].thaw_sshd().unwrap();

    let failed = metis.run(&host, &["sh", "-c", "echo out; echo why >&2; exit 3"], 30).unwrap_err();
    assert_eq!(failed, HostError::Failed("titan-13: the command of the helper pod ended with status 3: why".to_owned()));
    let absent = metis.run(&host, &["/no/such/program"], 30).unwrap_err();
    assert!(matches!(&absent, HostError::Failed(why) if why.contains("status 127")), "{absent:?}");
    assert_eq!(metis.run(&host, &["printf", "[%s]", "a  b", "$HOME", "it's \"x\""], 30).unwrap().stdout, "[a  b][$HOME][it's \"x\"]");
    // More than a termination message holds: its end counts.
    let much = metis.run(&host, &["sh", "-c", "seq 100000; seq 200000 >&2; echo the end; echo and this >&2"], 30).unwrap();
    assert!(much.stdout.ends_with("100000\nthe end\n") && much.stdout.len() <= 2000, "{}", much.stdout);
    assert!(much.stderr.ends_with("200000\nand this\n") && much.stderr.len() <= 2000, "{}", much.stderr);
    no_helpers(site, metis);
}

fn nothing_outlives_its_time(site: &Hosts, metis: &Metis) {
    let (host, machine) = (through_pod(site, Role::Titan13), &site[Role::Titan13]);
    let began = Instant::now();
    let late = metis.run(&host, &["sleep", "4711"], 6).unwrap_err();
    assert!(matches!(&late, HostError::TimedOut(_)) && began.elapsed() < Duration::from_secs(9), "{late:?} {:?}", began.elapsed());
    no_helpers(site, metis);
    machine.wait_for(10, "! pgrep -fx 'sleep 4711'").unwrap();
    // Nobody waits for it any more.
    let dropped = metis.runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(4), metis.hosts.run(&host, &command(&["sleep", "4712"]), LIMIT)).await
    });
    assert!(dropped.is_err());
    no_helpers(site, metis);
    machine.wait_for(10, "! pgrep -fx 'sleep 4712'").unwrap();
}

fn nodes_without_a_kubelet(site: &Hosts, metis: &Metis) {
    site.cluster().with(|plane| plane.nodes(&["titan-98", "titan-99"], &[])).unwrap();
    let began = Instant::now();
    let never = metis.run(&bare(site, "titan-99"), &["true"], 4).unwrap_err();
    assert!(matches!(&never, HostError::Unreachable(why) if why.contains("is the kubelet of titan-99 up?")), "{never:?}");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    no_helpers(site, metis);

    // A kubelet that cannot pull the image says so in two steps.
    let failed = std::thread::scope(|scope| {
        scope.spawn(|| {
            for reason in ["ErrImagePull", "ImagePullBackOff"] {
                let pod = helper_of(site, "titan-98");
                let waiting = json!({ "reason": reason, "message": format!("{reason} of busybox: no route to registry.lan") });
                let container = json!({ "name": "helper", "image": "busybox", "imageID": "", "ready": false, "restartCount": 0, "state": { "waiting": waiting } });
                let status = json!({ "status": { "phase": "Pending", "containerStatuses": [container] } }).to_string();
                site.cluster()
                    .with(|plane| {
                        plane.kubectl(&["-n", "kube-system", "patch", "pod", &pod, "--subresource=status", "--type=strategic", "-p", &status])
                    })
                    .unwrap();
                std::thread::sleep(Duration::from_secs(1));
            }
        });
        metis.run(&bare(site, "titan-98"), &["true"], 30).unwrap_err()
    });
    assert!(matches!(&failed, HostError::Failed(why) if why.contains("ImagePullBackOff: ImagePullBackOff of busybox")), "{failed:?}");
    no_helpers(site, metis);
}

/// The name of the helper pod on a node, as soon as there is one.
fn helper_of(site: &Hosts, node: &str) -> String {
    let until = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(pod) = helpers(site).iter().find(|pod| pod["spec"]["nodeName"] == node) {
            return pod["metadata"]["name"].as_str().unwrap().to_owned();
        }
        assert!(Instant::now() < until, "no helper pod on {node}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn the_api_server_dies_meanwhile(site: &Hosts, metis: &Metis) {
    let (host, machine) = (through_pod(site, Role::Titan13), &site[Role::Titan13]);
    let die = |back_after: Option<u64>| {
        machine.wait_for(20, "test -e /run/helper-began").unwrap();
        // Until metis has seen it run.
        std::thread::sleep(Duration::from_millis(1500));
        let gone = |plane: &mut metis_tests::plane::Plane| {
            plane.stop_apiserver();
            Ok(())
        };
        site.cluster().with(gone).unwrap();
        if let Some(seconds) = back_after {
            std::thread::sleep(Duration::from_secs(seconds));
            site.cluster().with(metis_tests::plane::Plane::restart).unwrap();
        }
    };
    // Back in time: the answer is there.
    let script = "touch /run/helper-began; sleep 3; rm /run/helper-began; echo alive";
    let done = std::thread::scope(|scope| {
        scope.spawn(|| die(Some(4)));
        metis.run(&host, &["sh", "-c", script], 60)
    });
    assert_eq!(done.unwrap().stdout, "alive\n");

    // Away for good: the time is kept, and what is left over goes the next time.
    let began = Instant::now();
    let lost = std::thread::scope(|scope| {
        scope.spawn(|| die(None));
        metis.run(&host, &["sh", "-c", "touch /run/helper-began; sleep 4713"], 8)
    });
    assert!(matches!(&lost, Err(HostError::TimedOut(why)) if why.contains("may still run there")), "{lost:?}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let refused = metis.run(&host, &["true"], 7).unwrap_err();
    assert!(matches!(&refused, HostError::Unreachable(why) if why.contains("listing helper pods")), "{refused:?}");
    machine.sh("rm /run/helper-began").unwrap();
    site.cluster().with(metis_tests::plane::Plane::restart).unwrap();
    metis.run(&host, &["true"], 30).unwrap();
    no_helpers(site, metis);
    machine.wait_for(10, "! pgrep -fx 'sleep 4713'").unwrap();
}

fn of_a_metisd_that_was_killed(site: &Hosts, metis: &Metis) {
    let (host, machine) = (through_pod(site, Role::Titan15), &site[Role::Titan15]);
    let killed = Metis::of(site);
    let hosts = Arc::clone(&killed.hosts);
    let of = host.clone();
    killed.runtime.spawn(async move { hosts.run(&of, &command(&["sleep", "4714"]), Duration::from_secs(120)).await });
    killed.runtime.block_on(async { tokio::time::sleep(Duration::from_secs(3)).await });
    // As kill -9: nothing of it does anything any more.
    killed.runtime.shutdown_background();
    machine.wait_for(10, "pgrep -fx 'sleep 4714'").unwrap();
    let left = helpers(site);
    assert_eq!(left.len(), 1, "{left:#?}");
    assert_eq!(left[0]["spec"]["activeDeadlineSeconds"], 120, "it would end by itself");
    // One of another metis host that runs is none of ours.
    let labels = ["-n", "kube-system", "label", "pod", left[0]["metadata"]["name"].as_str().unwrap(), "--overwrite"];
    let label = |holder: &str| {
        site.cluster().with(|plane| plane.kubectl(&[&labels[..], &[&format!("metis.v1/holder={holder}")]].concat())).unwrap()
    };
    let own = left[0]["metadata"]["labels"]["metis.v1/holder"].as_str().unwrap().to_owned();
    label("another");
    metis.run(&host, &["true"], 30).unwrap();
    machine.sh("pgrep -fx 'sleep 4714'").unwrap();
    label(&own);
    metis.run(&host, &["true"], 30).unwrap();
    no_helpers(site, metis);
    machine.wait_for(10, "! pgrep -fx 'sleep 4714'").unwrap();
}

fn units_and_power(site: &Hosts, metis: &Metis) {
    // Its own kubelet: nobody would hear of the pod's end.
    let (host, machine) = (through_pod(site, Role::Titan15), &site[Role::Titan15]);
    let agent = unit(Role::Titan15).unwrap();
    machine.sh(&format!("systemctl is-active {agent}")).unwrap();
    metis.runtime.block_on(metis.hosts.stop_unit(&host, agent, LIMIT)).unwrap();
    machine.wait_for(20, &format!("! systemctl is-active {agent}")).unwrap();

    let (host, machine) = (through_pod(site, Role::Titan13), &site[Role::Titan13]);
    machine.sh("systemctl start forgotten.service").unwrap();
    machine.wait_for(10, "systemd-inhibit --list --no-pager | grep apt").unwrap();
    let blockers = metis.runtime.block_on(metis.hosts.blockers(&host, LIMIT)).unwrap();
    assert!(blockers.len() == 1 && blockers[0].starts_with("`apt` (process "), "{blockers:?}");
    // A unit that is not the kubelet is seen stopped.
    metis.runtime.block_on(metis.hosts.stop_unit(&host, "systemd-timesyncd.service", LIMIT)).unwrap();
    metis.runtime.block_on(metis.hosts.power_off(&host, Duration::ZERO, LIMIT)).unwrap();
    assert_eq!(machine.wait_off(Duration::from_secs(60)).unwrap(), End::PoweredOff);
}

fn rights(site: &Hosts, metis: &Metis) {
    let audit = site.cluster().with(|plane| plane.audit()).unwrap();
    let by_metis: Vec<_> =
        audit.iter().filter(|entry| entry.resource == "pods" && entry.name.starts_with("metis-helper-") && entry.is_write()).collect();
    assert!(by_metis.iter().any(|entry| entry.by_metis() && entry.verb == "create"));
    assert!(audit.iter().filter(|entry| entry.by_metis()).all(|entry| entry.code != 403), "the shipped rights suffice");
    site.cluster().with(|plane| plane.kubectl(&["-n", "kube-system", "delete", "rolebinding", "metis"])).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let refused = metis.run(&bare(site, "titan-99"), &["true"], 3).unwrap_err();
        if matches!(&refused, HostError::Refused(why) if why.contains("metis-rbac.yaml") && why.contains("create, get, list and delete of pods"))
        {
            break;
        }
        assert!(Instant::now() < until, "{refused:?}");
    }
}
