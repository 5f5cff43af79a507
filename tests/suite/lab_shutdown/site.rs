//! The site: six hosts, work on all of them, Flux, volumes, two UPSes, and metisd on titan-db.

use std::time::{Duration, Instant};

use metis_tests::actors::{self, Actor, Volume, Volumes, storage_plane, volume};
use metis_tests::hosts::{self, Hosts, Metis, Plan, Role, Sudo, UpsPlan, Wishes};
use metis_tests::nspawn::{End, Event, State};
use metis_tests::plane::front::Front;
use metis_tests::plane::{self, Flux, Options, Plane};
use serde_json::Value;

/// How long pyrphoros' full battery carries its hosts; it says LB with a fifth of that left.
const RUNTIME: Duration = Duration::from_secs(300);
/// What metisd takes a shutdown to need, in seconds.
const BUDGET: u64 = 130;
/// A charge from which the trigger is a few seconds away: 1.1 budgets are 47.7 %.
const NEARLY: f64 = 50.0;

/// The hosts that pyrphoros feeds.
pub const FED: [Role; 5] = [Role::TitanDb, Role::Titan0a, Role::Titan13, Role::Titan15, Role::Titan05];
/// The hosts with a k3s agent.
pub const AGENTS: [Role; 4] = [Role::Titan13, Role::Titan15, Role::Titan05, Role::Tethys];
/// (node, Longhorn's name of the volume that is attached there)
pub const VOLUMES: [(Role, &str); 2] = [(Role::Titan13, "pvc-13"), (Role::Titan15, "pvc-15")];
/// Every pod of the DaemonSet runs this on its host, and is not evicted.
pub const EXPORTER: &str = "sleep 4200";

/// What a test wants to be otherwise.
#[derive(Default)]
pub struct Wanted {
    pub wishes: Wishes,
    /// metisd talks to a front that fails on demand.
    pub front: bool,
    pub sudo: Option<(Role, Sudo)>,
    /// Further options of nspawn.
    pub options: Vec<(Role, String)>,
    /// Further manifests.
    pub work: String,
}

pub struct Site {
    pub metis: Metis,
    pub front: Option<Front>,
    _actors: [Actor; 2],
    pub hosts: Hosts,
}

impl Site {
    /// All of it, with everything Ready and metisd disarmed; `None` where it cannot be had here.
    pub fn start(test: &str, wanted: &Wanted) -> Option<Self> {
        if !hosts::available(test) || !plane::available(test) {
            return None;
        }
        let options = Options { longhorn: true, flux: Flux::Running, ..Options::default() };
        let plan = Plan::new(&Role::ALL).k3s(options).ups(UpsPlan::pyrphoros(RUNTIME)).ups(UpsPlan::statera(RUNTIME));
        let plan = wanted.sudo.iter().fold(plan, |plan, (role, sudo)| plan.sudo(*role, *sudo));
        let hosts = wanted.options.iter().fold(plan, |plan, (role, option)| plan.option(*role, option)).start().unwrap();
        let furnished = hosts.cluster().with(|plane| {
            let actors = furnish(plane, &wanted.work)?;
            Ok((actors, wanted.front.then(|| plane.front()).transpose()?))
        });
        let (actors, front) = furnished.unwrap();
        let mut wishes = wanted.wishes.clone();
        // The laboratory's hosts halt in a second or two.
        let quick = "shutdown: { halt_time: 5s }";
        wishes.config =
            format!("power: {{ shutdown_budget: {BUDGET}s, cut_outlets: true, prepared_within: never }}\n{quick}\n{}", wishes.config);
        wishes.kubeconfig = front.as_ref().map(|front| front.kubeconfig().to_owned());
        let metis = hosts.install_metis(Role::TitanDb, &wishes).unwrap();
        let site = Self { metis, front, _actors: actors, hosts };
        site.metis.until(Duration::from_secs(20), &["ups"], all_online).unwrap();
        site.hosts.cluster().with(|plane| settled(plane)).unwrap();
        Some(site)
    }

    /// From now on a trigger powers the hosts off.
    pub fn arm(&self) {
        let armed = self.metis.ctl(&["arm", "--mode", "host-poweroff"]).unwrap();
        assert_eq!(armed.code, Some(0), "{armed:?}\n{}", self.metis.log());
        assert!(!armed.err.contains("not seen of the cluster"), "{armed:?}");
    }

    /// The mains of pyrphoros fail, and its battery has a few seconds until the trigger.
    pub fn mains_fail(&self) -> Instant {
        let ups = self.hosts.ups("pyrphoros");
        ups.set_charge(NEARLY);
        ups.set_mains(false);
        Instant::now()
    }

    /// The mains of pyrphoros fail and stay away, until titan-db is off and its UPS has cut the outlets.
    pub fn run_down(&self) {
        let failed = self.mains_fail();
        let off = Event::Is(State::Off(End::PoweredOff));
        let last = self.hosts.wait_event("titan-db", &off, failed, Duration::from_secs(120));
        assert!(last.is_ok(), "{last:?}\n{}", self.metis.log());
        self.hosts.wait_event("pyrphoros", &Event::OutletsOff, failed, Duration::from_secs(20)).unwrap();
    }

    /// The control plane once more, on the data that it left, for a look at what is in it.
    pub fn look_back<T>(&self, look: impl Fn(&Plane) -> anyhow::Result<T>) -> T {
        let looked = self.hosts.cluster().with(|plane| {
            plane.resume()?;
            // Ready, it still answers 429 for resources that it is only beginning to read.
            let looked = plane.wait(30, "the control plane", || look(plane));
            plane.halt();
            looked
        });
        looked.unwrap()
    }
}

fn all_online(ups: &Value) -> bool {
    let domains = ups["domains"].as_array().cloned().unwrap_or_default();
    domains.len() == 2 && domains.iter().all(|domain| domain["verdict"] == "online")
}

/// A pod that uses a volume, a process on its host: the volume is mounted there until it has ended.
fn user_of(name: &str, node: &str) -> String {
    let command = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done";
    deployment(
        name,
        1,
        "lab.metis/actor: process",
        &format!(
            "nodeSelector: {{kubernetes.io/hostname: {node}}}, terminationGracePeriodSeconds: 10, volumes: [{{name: data, persistentVolumeClaim: {{claimName: {name}}}}}], "
        ),
        &format!("command: [sh, -c, \"{command}\"], volumeMounts: [{{name: data, mountPath: /data}}]"),
    )
}

/// A Deployment; `pod` goes into its pods' spec, `container` into their container.
pub fn deployment(name: &str, replicas: u32, annotations: &str, pod: &str, container: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, namespace: default}}\nspec: {{replicas: {replicas}, selector: {{matchLabels: {{app: {name}}}}}, \
         template: {{metadata: {{labels: {{app: {name}}}, annotations: {{{annotations}}}}}, spec: {{{pod}containers: [{{name: main, image: none, {container}}}]}}}}}}\n---\n"
    )
}

/// A budget that never lets one of so many pods go.
pub fn budget(name: &str, least: u32) -> String {
    format!(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: {name}, namespace: default}}\nspec: {{minAvailable: {least}, selector: {{matchLabels: {{app: {name}}}}}}}\n---\n"
    )
}

fn exporter() -> String {
    format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: exporter, namespace: default}}\nspec: {{selector: {{matchLabels: {{app: exporter}}}}, template: {{metadata: {{labels: {{app: exporter}}, \
         annotations: {{lab.metis/actor: process}}}}, spec: {{containers: [{{name: main, image: none, command: [sh, -c, \"exec {EXPORTER}\"]}}]}}}}}}\n---\n"
    )
}

fn release(name: &str, suspend: bool) -> String {
    format!(
        "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {{name: {name}, namespace: default}}\nspec: {{interval: 10m, suspend: {suspend}, chartRef: {{kind: OCIRepository, name: chart}}}}\n---\n"
    )
}

fn child(name: &str, suspend: &str) -> String {
    format!(
        "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {{name: {name}, namespace: flux-system}}\nspec: {{interval: 10m, retryInterval: 5s, path: ./{name}, prune: true, {suspend}sourceRef: {{kind: GitRepository, name: site}}}}\n"
    )
}

/// What runs on the site: Flux's root `cluster` with its children `apps` and `frozen` (which a person has suspended), two HelmReleases (one likewise),
/// Longhorn with a volume in use on each of two workers, a web server, and a process on every node that nothing evicts.
fn furnish(plane: &mut Plane, more: &str) -> anyhow::Result<[Actor; 2]> {
    let nodes: Vec<&str> = Role::ALL.into_iter().filter_map(Role::node).collect();
    plane.wait(60, "the nodes", || plane.kubectl(&[&["wait", "--for=condition=Ready", "--timeout=5s", "node"], &nodes[..]].concat()))?;
    let config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: apps, namespace: default}\ndata: {from: git}\n";
    let files = [("clusters/apps.yaml", child("apps", "")), ("clusters/frozen.yaml", child("frozen", "suspend: true, "))];
    let files: Vec<_> = files.iter().map(|(path, text)| (*path, Some(text.as_str()))).collect();
    plane.flux()?.git.commit(&[&files[..], &[("apps/apps.yaml", Some(config)), ("frozen/frozen.yaml", Some(config))]].concat())?;
    plane.kustomizations(&[("cluster", "./clusters", &[])])?;
    storage_plane(plane, &nodes)?;
    let actors = [Volumes { needs_attacher: true, ..Volumes::default() }.start(plane)?, actors::releases(plane)?];
    let mut work = exporter() + &release("media", false) + &release("held", true) + &deployment("web", 3, "", "", "") + &budget("web", 1);
    for (role, name) in VOLUMES {
        volume(plane, Volume { name, namespace: "default", claim: name })?;
        work += &user_of(name, role.node().unwrap_or_default());
    }
    plane.apply(&(work + more))?;
    Ok(actors)
}

/// Waits until all of it runs.
pub fn settled(plane: &Plane) -> anyhow::Result<()> {
    plane.kubectl(&["wait", "--for=condition=Available", "--timeout=60s", "deployment", "--all", "--all-namespaces"])?;
    plane.kubectl(&["rollout", "status", "--timeout=60s", "daemonset/exporter"])?;
    for (_, name) in VOLUMES {
        let volume = format!("volumes.longhorn.io/{name}");
        plane.kubectl(&["-n", "longhorn-system", "wait", "--for=jsonpath={.status.state}=attached", "--timeout=60s", &volume])?;
    }
    for name in ["cluster", "apps"] {
        let kustomization = format!("kustomization/{name}");
        plane.wait(90, name, || plane.kubectl(&["-n", "flux-system", "wait", "--for=condition=Ready", "--timeout=5s", &kustomization]))?;
    }
    plane.kubectl(&["wait", "--for=condition=Ready", "--timeout=20s", "helmrelease/media"])?;
    Ok(())
}
