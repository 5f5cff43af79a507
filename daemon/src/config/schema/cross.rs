//! What must agree across sections and files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::inventory::NodeDraft;
use super::network::misfits;
use super::{ClusterDraft, HostsDraft, InventoryDraft, MainDraft, PowerDraft};
use crate::config::cursor::{Mention, Report};
use crate::config::diagnostic::Place;
use crate::config::suggest::did_you_mean;
use crate::config::values::{show_duration, split_host};
use crate::site::{Access, Class, Inventory, K3sRole, Node, NodeSettings, Returns};

/// Reports names that refer to nothing, things that exist twice, and settings that do not fit together.
pub fn check(report: &Report, main: &MainDraft, inventory: Option<&InventoryDraft>) {
    domains(report, &main.power, inventory);
    same_upses(report, &main.power);
    cluster(report, &main.cluster, &main.power, inventory);
    peer(report, main);
    if let Some(draft) = inventory {
        if let Some(this_host) = &main.hosts.this_host {
            refer(report, this_host, &names(&draft.node_keys), "node of the inventory", "add it to nodes of the inventory");
        }
        if let Some(peer) = &main.peer.host {
            refer(report, peer, &names(&draft.node_keys), "node of the inventory", "add it to nodes of the inventory");
        }
        nodes(report, draft, &main.hosts);
    }
}

/// The other host is not this one.
fn peer(report: &Report, main: &MainDraft) {
    let (Some(peer), Some(this)) = (&main.peer.host, &main.hosts.this_host) else { return };
    if peer.name == this.name {
        let message = format!("`{}` is this very host by `hosts.this_host` at {}; name the other metis host", peer.name, this.place);
        report.error(&peer.place, &peer.path, message);
    }
}

/// So many names are compared with an unknown one; a file of many unknown names must not cost their square.
const CANDIDATES: usize = 200;

/// Each name is complained about where it stands.
fn refer<T: Display>(report: &Report, mention: &Mention<T>, known: &BTreeSet<&str>, what: &str, add: &str) {
    let name = mention.name.to_string();
    if known.contains(name.as_str()) {
        return;
    }
    let hint =
        did_you_mean(&name, known.iter().copied().take(CANDIDATES)).map(|word| format!("; did you mean `{word}`?")).unwrap_or_default();
    report.error(&mention.place, &mention.path, format!("`{name}` is not a {what}{hint} ({add})"));
}

fn names(mentions: &[Mention<String>]) -> BTreeSet<&str> {
    mentions.iter().map(|mention| mention.name.as_str()).collect()
}

fn domains(report: &Report, power: &PowerDraft, inventory: Option<&InventoryDraft>) {
    let upses = names(&power.upses);
    let nodes = inventory.map(|draft| names(&draft.node_keys));
    let mut feeds: BTreeMap<Vec<&str>, &Place> = BTreeMap::new();
    let mut fed: BTreeMap<&str, &Mention<_>> = BTreeMap::new();
    for domain in &power.domains {
        // A UPS may stand in a file that could not be read.
        for ups in domain.upses.iter().filter(|_| !report.is_incomplete()) {
            refer(report, ups, &upses, "UPS of this site", "add it to power.upses");
        }
        for node in &domain.nodes {
            if let Some(nodes) = &nodes {
                refer(report, node, nodes, "node of the inventory", "add it to nodes of the inventory");
            }
            // A domain is what fails together, so the set of a node's feeds decides on its one domain.
            if let Some(first) = fed.insert(node.name.as_str(), node) {
                let message = format!(
                    "`{}` is in another domain already, at {}; a node with several feeds belongs to one domain that names them all",
                    node.name, first.place
                );
                report.error(&node.place, &node.path, message);
            }
        }
        let mut set: Vec<&str> = domain.upses.iter().map(|ups| ups.name.as_str()).collect();
        set.sort_unstable();
        if set.is_empty() {
            continue;
        }
        if let Some(first) = feeds.insert(set, &domain.place) {
            let message = format!("has the same UPSes as the domain at {first}, so both fail together; make them one domain");
            report.error(&domain.place, &domain.path, message);
        }
    }
}

fn cluster(report: &Report, cluster: &ClusterDraft, power: &PowerDraft, inventory: Option<&InventoryDraft>) {
    let settings = &cluster.settings;
    if let (Some(host), Some(draft)) = (&cluster.datastore_host, inventory) {
        refer(report, host, &names(&draft.node_keys), "node of the inventory", "add it to nodes of the inventory");
    }
    // Absent UPSes may stand in a file that could not be read.
    if let Some(at) = &cluster.require_ups_battery
        && settings.shutdown.require_ups_battery
        && power.upses.is_empty()
        && !report.is_incomplete()
    {
        report.error(&at.place, &at.path, "the site has no UPS, so no shutdown could be asked for; add one to power.upses or remove this");
    }
    let needed = settings.shutdown.drain_timeout + settings.shutdown.detach_timeout + settings.shutdown.stop_timeout;
    if settings.cordon_lease < needed {
        let at = cluster.cordon_lease.clone().unwrap_or_else(|| cluster.shutdown.clone());
        let message = format!(
            "cordons would end after {} (cluster.cordon_lease) in the midst of a shutdown, whose drain, detach and stop may take {}",
            show_duration(settings.cordon_lease),
            show_duration(needed)
        );
        report.error(&at.place, &at.path, message);
    }
}

/// `ups@host` and `ups@host:3493` are one UPS.
fn same_upses(report: &Report, power: &PowerDraft) {
    let mut seen: BTreeMap<(&str, String, u16), &Mention<String>> = BTreeMap::new();
    for mention in &power.upses {
        let Some((ups, host)) = mention.name.split_once('@') else { continue };
        let Some((host, port)) = split_host(host) else { continue };
        let identity = (ups, host.to_ascii_lowercase(), port.unwrap_or(3493));
        if let Some(first) = seen.insert(identity, mention) {
            let message = format!(
                "is the same UPS as `{}` at {} (3493 is the port where none is given); remove one of them",
                first.name, first.place
            );
            report.error(&mention.place, &mention.path, message);
        }
    }
}

fn nodes(report: &Report, draft: &InventoryDraft, hosts: &HostsDraft) {
    let classes = names(&draft.classes);
    let mut addresses = BTreeMap::new();
    let mut hostnames = BTreeMap::new();
    let mut node_names = BTreeMap::new();
    let mut endpoints = BTreeMap::new();
    for places in &draft.nodes {
        let Some(node) = draft.inventory.nodes.get(&places.name.name) else { continue };
        if let Some(class) = &places.class {
            refer(report, class, &classes, "class of this inventory", "add it to classes");
        }
        let hostname = node.hostname.as_deref().unwrap_or(places.name.name.as_str());
        if let Some(first) = hostnames.insert(hostname, &places.name) {
            let message =
                format!("the host name `{hostname}` belongs to `{}` at {} already; host names must differ", first.name, first.place);
            report.error(&places.hostname.place, &places.hostname.path, message);
        }
        let effective = Effective { inventory: &draft.inventory, node, class: draft.inventory.classes.get(&node.class) };
        if let Some(address) = effective.get(|settings| settings.network.address)
            && let Some(first) = addresses.insert(address, &places.name)
        {
            let message = format!("the address {address} belongs to `{}` at {} already; addresses must differ", first.name, first.place);
            report.error(&places.address.place, &places.address.path, message);
        }
        if let Some(name) = effective.get(|settings| settings.host.node_name.clone())
            && let Some(first) = node_names.insert(name.clone(), &places.name)
        {
            let message = format!("the node name `{name}` belongs to `{}` at {} already; each node has its own", first.name, first.place);
            report.error(&places.name.place, &places.name.path, message);
        }
        if let Some(address) = effective.get(|settings| settings.host.address.clone()) {
            let port = effective.get(|settings| settings.host.port).or_else(|| effective.get(|settings| settings.ssh.port));
            let message = |first: &Mention<_>| {
                format!("is reached at {address} like `{}` at {}, so one would be stopped for the other", first.name, first.place)
            };
            if let Some(first) = endpoints.insert((address.clone(), port.unwrap_or(22)), &places.name) {
                report.error(&places.name.place, &places.name.path, message(first));
            }
        }
        node_fits(report, places, &effective);
        access_fits(report, places, &effective, hosts);
        returns_fit(report, places, &effective);
    }
}

/// What the way to a host needs.
fn access_fits(report: &Report, places: &NodeDraft, effective: &Effective<'_>, hosts: &HostsDraft) {
    let Some(access) = effective.get(|settings| settings.host.access) else { return };
    let problem = match access {
        Access::HelperPod if effective.get(|settings| settings.k3s.role).is_none() => {
            "has `host.access: helper-pod`, but no `k3s.role`: a pod runs on nodes of the cluster only; use ssh, or give its role"
                .to_owned()
        }
        // It may stand in a file that could not be read.
        Access::HelperPod if hosts.settings.helper_image.is_none() && !report.is_incomplete() => {
            "has `host.access: helper-pod`, but metis.yaml has no `hosts.helper_image` for that pod; give it, or use ssh".to_owned()
        }
        Access::Local => match &hosts.this_host {
            Some(this) if this.name != places.name.name => {
                format!("has `host.access: local`, but this host is `{}` by `hosts.this_host` at {}; use ssh", this.name, this.place)
            }
            _ => return,
        },
        Access::HelperPod | Access::Ssh | Access::None => return,
    };
    report.error(&places.name.place, &places.name.path, problem);
}

/// What the way back needs.
fn returns_fit(report: &Report, places: &NodeDraft, effective: &Effective<'_>) {
    let wakes = effective.get(|settings| settings.host.returns) == Some(Returns::WakeOnLan);
    if wakes && effective.get(|settings| settings.host.mac.clone()).is_none() {
        let message = "has `host.returns: wake-on-lan`, but no `host.mac`: no magic packet can be sent, so that it stays off until a person \
                       presses its button";
        report.remark(&places.name.place, &places.name.path, message);
    }
}

/// A node with its class and the defaults: the first of node, class and defaults that says something counts.
struct Effective<'a> {
    inventory: &'a Inventory,
    node: &'a Node,
    class: Option<&'a Class>,
}

impl Effective<'_> {
    fn get<T>(&self, read: impl Fn(&NodeSettings) -> Option<T>) -> Option<T> {
        read(&self.node.settings).or_else(|| self.class.and_then(|class| read(&class.settings))).or_else(|| read(&self.inventory.defaults))
    }
}

/// What a card of this node could not be made of, or would not work with.
fn node_fits(report: &Report, places: &NodeDraft, effective: &Effective<'_>) {
    let at_address = |message: String| report.error(&places.address.place, &places.address.path, message);
    let missing = |what: &str, key: &str| {
        let message = format!("{what}, but neither the node nor its class nor `defaults` has `{key}`");
        report.error(&places.name.place, &places.name.path, message);
    };
    if let Some(address) = effective.get(|settings| settings.network.address) {
        match effective.get(|settings| settings.network.prefix) {
            Some(prefix) => {
                if let Some(message) = misfits(address, prefix, effective.get(|settings| settings.network.gateway)) {
                    at_address(message);
                }
            }
            None => missing("has a static address", "network.prefix"),
        }
    }
    if effective.class.is_none_or(|class| class.image.is_none()) {
        return;
    }
    if effective.get(|settings| settings.network.address).is_some() {
        if effective.get(|settings| settings.network.interface.clone()).is_none() {
            missing("has a static address", "network.interface");
        }
        if effective.get(|settings| settings.network.renderer).is_none() {
            missing("has a static address", "network.renderer");
        }
    }
    if effective.get(|settings| settings.k3s.role) == Some(K3sRole::Agent) {
        if effective.get(|settings| settings.k3s.server.clone()).is_none() {
            missing("is a k3s agent", "k3s.server");
        }
        if effective.get(|settings| settings.k3s.token.clone()).is_none() {
            missing("is a k3s agent", "k3s.token");
        }
    }
}
