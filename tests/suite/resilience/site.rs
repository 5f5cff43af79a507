//! A simulated site that is in a file, so that it outlives a metisd that is killed; what may stand in it, and what has to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use metis_tests::daemon::Daemon;
use metisd::cluster::port::{AttachedVolume, FluxObject};
use metisd::control::Fact;
use metisd::host::clock::Clock;
use metisd::journal;
use metisd::sim::BatteryModel;
use metisd::sim::site::{Fault, Model, SimHost, SimNode, SimVolume, Tempo};
use metisd::site::{ObjectRef, OnTrigger};

use super::lab::{Outage, Row};

/// The host on which metisd runs, and the one of the datastore.
pub const THIS: &str = "titan-01";
pub const DATASTORE: &str = "titan-db";
pub const SERVER: &str = "titan-0a";
pub const WORKERS: [&str; 2] = ["titan-13", "titan-15"];

const INVENTORY: &str = "
classes:
  server: { arch: arm64, k3s: { role: server }, host: { returns: ac-cycle } }
  agent: { arch: arm64, k3s: { role: agent }, host: { returns: by-hand } }
  outside: { arch: amd64, host: { returns: ac-cycle } }
nodes:
  titan-01: { class: outside, host: { access: local } }
  titan-0a: { class: server, host: { address: 192.0.2.2 } }
  titan-13: { class: agent, host: { address: 192.0.2.13 } }
  titan-15: { class: agent, host: { address: 192.0.2.15 } }
  titan-db: { class: outside, host: { address: 192.0.2.4 } }
";

const MAIN: &str = r#"
daemon: { state_dir: "@DIR@/state", runtime_dir: "@DIR@/run", log_level: info, host_role: coordinator }
inventory: "@DIR@/inventory.yaml"
hosts: { this_host: titan-01 }
startup: { clocks: false, stability_window: 1s }
cluster: { kubeconfig: { file: "@DIR@/kubeconfig" }, datastore: { kind: external, host: titan-db, dump: dump-it } }
power:
  poll_interval: 500ms
  shutdown_budget: 5m
  thresholds: { debounce_polls: 1 }
  upses: { "@UPS@": {} }
  domains: { rack: { upses: ["@UPS@"], nodes: [titan-01, titan-0a, titan-13, titan-15, titan-db] } }
"#;

/// A battery that suffices for less than the shutdown's budget from the first moment, and for more than the shutdown takes.
pub fn outage() -> Outage {
    Outage::with(BatteryModel { capacity_wh: 100.0, load_w: 1285.0, rated_w: 2000.0, charger_w: 5000.0, low_percent: 2.0 }, 1.0)
}

/// A daemon on that site, not started; armed or not.
pub fn daemon(outage: &Outage, armed: bool, model: &Model) -> Daemon {
    let daemon = Daemon::new("", INVENTORY).unwrap();
    let dir = daemon.dir.path().display().to_string();
    std::fs::write(daemon.path("metis.yaml"), MAIN.replace("@DIR@", &dir).replace("@UPS@", &outage.ups())).unwrap();
    std::fs::write(daemon.path("site.json"), serde_json::to_vec(model).unwrap()).unwrap();
    if armed {
        arm(&daemon);
    }
    daemon
}

/// As `metisctl arm` leaves it; what may stand against arming on the machine of the test is none of its business.
fn arm(daemon: &Daemon) {
    let (now, options) = (Clock::new().unwrap().now(), journal::Options::new(daemon.path("state"), daemon.path("run/spill.jsonl")));
    let opened = journal::open(options, &now).unwrap();
    let armed = Fact::Armed { requester: "the test".to_owned(), mode: OnTrigger::HostPoweroff }.record().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(opened.journal.append(vec![armed], &now)).unwrap();
    opened.journal.close();
}

/// Every host on; of three Flux objects one is suspended by somebody else. `held`: an agent does not stop, so that the point of no return
/// stays out of reach.
pub fn model(outage: &Outage, held: bool) -> Model {
    let mut model = Model { tempo: Tempo { speed: 10, ..Tempo::default() }, ..Model::default() };
    let host = |unit: &str| SimHost {
        on: true,
        units: (!unit.is_empty()).then(|| unit.to_owned()).into_iter().collect(),
        leftovers: 5,
        ..SimHost::default()
    };
    for (name, unit) in [(THIS, ""), (DATASTORE, ""), (SERVER, "k3s.service")] {
        model.hosts.insert(name.to_owned(), host(unit));
    }
    model.nodes.insert(SERVER.to_owned(), SimNode::default());
    for name in WORKERS {
        model.hosts.insert(name.to_owned(), host("k3s-agent.service"));
        let pods = (0..3).map(|pod| (format!("apps/{name}-{pod}"), false)).collect();
        model.nodes.insert(name.to_owned(), SimNode { pods, ..SimNode::default() });
        let volume = AttachedVolume { name: format!("pvc-{name}"), node: name.to_owned(), held_by: "csi".to_owned() };
        model.volumes.push(SimVolume { volume, pod: format!("apps/{name}-0") });
    }
    let flux = |kind: &str, name: &str, suspended| FluxObject { object: ObjectRef::new(kind, "flux-system", name), suspended, mark: None };
    model.flux = vec![flux("Kustomization", "root", false), flux("Kustomization", "apps", false), flux("HelmRelease", "media", true)];
    model.secondaries.insert(outage.ups(), 1);
    if held {
        model.faults.insert(Fault::StopHangs(WORKERS[1].to_owned()));
    }
    model
}

/// The site as it stands.
pub fn read(file: &Path) -> Model {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// How often each thing was done.
pub fn acts(model: &Model) -> BTreeMap<&str, usize> {
    let mut acts = BTreeMap::new();
    for act in &model.log {
        *acts.entry(act.as_str()).or_default() += 1;
    }
    acts
}

/// Where in the order of events something was done first.
pub fn first(model: &Model, act: &str, when: &str) -> usize {
    model.log.iter().position(|line| line == act).unwrap_or_else(|| panic!("{when}: no {act} in {:#?}", model.log))
}

/// What was changed on the site and is not undone: `object change`.
pub fn changed(model: &Model, before: &Model) -> BTreeSet<String> {
    let mut changed = BTreeSet::new();
    for (now, then) in model.flux.iter().zip(&before.flux) {
        if now != then {
            changed.insert(format!("{} suspended", now.object));
        }
    }
    for (name, node) in model.nodes.iter().filter(|(_, node)| node.unschedulable || node.mark.is_some()) {
        assert!(node.unschedulable && node.mark.is_some(), "{name} is half cordoned: {node:?}");
        changed.insert(format!("Node/{name} cordoned"));
    }
    for (name, host) in &model.hosts {
        if host.units != before.hosts[name].units {
            changed.insert(format!("K3sUnit/{name} stopped"));
        }
        // This host's own is not claimed: that the run has ended is recorded before it is ordered.
        if !host.on && name != THIS {
            changed.insert(format!("Host/{name} powered-off"));
        }
    }
    changed
}

/// What the journal knows to be changed and not undone, in the same words.
pub fn claimed(facts: &[Row]) -> BTreeSet<String> {
    let mut held = BTreeSet::new();
    let object = |value: &serde_json::Value| {
        let object: ObjectRef = serde_json::from_value(value.clone()).unwrap();
        object.to_string()
    };
    for fact in facts {
        let payload: serde_json::Value = serde_json::from_str(&fact.payload).unwrap();
        match fact.kind.as_str() {
            "run.claimed" => held.extend(
                payload["claims"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|claim| format!("{} {}", object(&claim["object"]), claim["change"].as_str().unwrap())),
            ),
            "run.released-claims" => {
                for released in payload["objects"].as_array().unwrap().iter().map(object) {
                    held.retain(|claim| claim.split_once(' ').is_some_and(|(name, _)| name != released));
                }
            }
            _ => {}
        }
    }
    held
}
