//! The site of the rehearsals: six hosts on one UPS.

use crate::cluster::port::{AttachedVolume, FluxObject};
use crate::config::{self, Settings};
use crate::sim::site::{Model, SimHost, SimNode, SimVolume, Site};
use crate::site::ObjectRef;

const MAIN: &str = "
daemon: { host_role: coordinator }
hosts: { this_host: titan-db }
power:
  shutdown_budget: 240s
  upses: { pyrphoros@localhost: {} }
  domains:
    pyrphoros: { upses: [pyrphoros@localhost], nodes: [titan-0a, titan-05, titan-13, titan-15, titan-db] }
cluster:
  kubeconfig: { file: /etc/metis/kubeconfig }
";

const INVENTORY: &str = "
defaults:
  host: { returns: ac-cycle }
  network: { prefix: 24 }
classes:
  server: { arch: arm64, k3s: { role: server } }
  agent: { arch: arm64, k3s: { role: agent } }
  outside: { arch: amd64 }
nodes:
  titan-0a: { class: server, network: { address: 192.168.22.2 } }
  titan-05: { class: agent, network: { address: 192.168.22.5 } }
  titan-13: { class: agent, network: { address: 192.168.22.43 } }
  titan-15: { class: agent, network: { address: 192.168.22.45 } }
  titan-db: { class: outside, host: { access: local } }
";

/// Nodes that pods run on.
pub const WORKERS: [&str; 3] = ["titan-05", "titan-13", "titan-15"];
/// All hosts.
pub const HOSTS: [&str; 5] = ["titan-0a", "titan-05", "titan-13", "titan-15", "titan-db"];

/// The configuration of that site.
pub fn settings() -> Settings {
    config::from_strs(MAIN, INVENTORY).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// The same with that taken out and put in.
pub fn settings_with(main: (&str, &str), inventory: (&str, &str)) -> Settings {
    let (main, inventory) = (MAIN.replace(main.0, main.1), INVENTORY.replace(inventory.0, inventory.1));
    config::from_strs(&main, &inventory).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// Every host on, k3s up, three Flux objects of which one is suspended by somebody else, two volumes attached.
pub fn site() -> Site {
    let mut model = Model::default();
    for name in HOSTS {
        let units = match name {
            "titan-db" => Vec::new(),
            "titan-0a" => vec!["k3s.service".to_owned()],
            _ => vec!["k3s-agent.service".to_owned()],
        };
        let leftovers = u32::from(name != "titan-db") * 5;
        model.hosts.insert(name.to_owned(), SimHost { on: true, units: units.into_iter().collect(), leftovers, ..SimHost::default() });
    }
    for name in WORKERS {
        let pods = (0..4).map(|pod| (format!("apps/{name}-{pod}"), false)).collect();
        model.nodes.insert(name.to_owned(), SimNode { pods, ..SimNode::default() });
        let volume = AttachedVolume { name: format!("pvc-{name}"), node: name.to_owned(), held_by: "csi".to_owned() };
        model.volumes.push(SimVolume { volume, pod: format!("apps/{name}-0") });
    }
    model.nodes.insert("titan-0a".to_owned(), SimNode::default());
    let flux = |kind: &str, name: &str, suspended| FluxObject { object: ObjectRef::new(kind, "flux-system", name), suspended, mark: None };
    model.flux = vec![flux("Kustomization", "root", false), flux("Kustomization", "apps", false), flux("HelmRelease", "media", true)];
    Site::new(model)
}
