//! Pure: inventory, power domains and how hosts are reached → the hosts that a plan and the adapters work on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::card::merge;
use crate::config::Settings;
use crate::power::files::is_local;
use crate::power::nut::Target;
use crate::site::{Access, DomainName, Host, MergedNode, NodeName, Returns, Topology, UpsName};

/// Where a magic packet goes.
const WAKE_PORT: u16 = 9;

/// The topology of a site as seen from the host of that name. Hosts that metis may not stop have no access.
pub fn of(settings: &Settings, this_host: &str) -> Topology {
    let names = settings.inventory.nodes.keys();
    let nodes: Vec<MergedNode> = names.filter_map(|name| merge::merge(&settings.inventory, name).ok()).collect();
    let this = this_node(settings, &nodes, this_host);
    let hosts: BTreeMap<_, _> =
        nodes.iter().map(|node| (node.name.clone(), host(settings, node, this.as_ref() == Some(&node.name)))).collect();
    let names = names_of_this(this_host, this.and_then(|name| hosts.get(&name)));
    let domains = settings.power.domains.iter().map(|domain| (domain.name.clone(), domain.upses.clone()));
    let local = settings.power.upses.iter().filter(|ups| is_here(&ups.name, &names)).map(|ups| ups.name.clone());
    let storage = nodes.iter().filter(|node| keeps_data(node)).map(|node| node.name.clone());
    Topology { hosts, domains: domains.collect(), local_upses: local.collect(), storage: storage.collect() }
}

/// The node that is the host of that name.
pub fn this_host(settings: &Settings, this_host: &str) -> Option<NodeName> {
    of(settings, this_host).hosts.into_values().find(|host| host.this_host).map(|host| host.name)
}

/// `hosts.this_host`, else the node whose name or host name is this host's.
fn this_node(settings: &Settings, nodes: &[MergedNode], this_host: &str) -> Option<NodeName> {
    let is = |name: &str| [this_host, short(this_host)].iter().any(|this| this.eq_ignore_ascii_case(name));
    let named = |node: &&MergedNode| is(node.name.as_str()) || is(&node.hostname);
    settings.hosts.this_host.clone().or_else(|| nodes.iter().find(named).map(|node| node.name.clone()))
}

fn host(settings: &Settings, node: &MergedNode, this_host: bool) -> Host {
    let said = &node.settings.host;
    let access = match (said.managed, said.access) {
        (Some(false), _) => Access::None,
        // The host that asks is meant; the same inventory serves several, and on the others it is SSH.
        (_, Some(Access::Local)) if !this_host => Access::Ssh,
        (_, Some(access)) => access,
        (_, None) if this_host => Access::Local,
        (_, None) => Access::Ssh,
    };
    let user = said.user.clone().unwrap_or_else(|| settings.hosts.user.clone());
    Host {
        name: node.name.clone(),
        node_name: said.node_name.clone().unwrap_or_else(|| node.hostname.clone()),
        access,
        address: address(node),
        port: said.port.or(node.settings.ssh.port).unwrap_or(22),
        sudo: said.sudo.unwrap_or(user != "root"),
        user,
        key: said.key.clone().or_else(|| settings.hosts.key.clone()),
        host_keys: said.host_keys.clone().unwrap_or_default(),
        returns: said.returns.unwrap_or(Returns::ByHand),
        mac: said.mac.clone(),
        wake: said.mac.as_ref().map(|_| wake(node)),
        k3s: node.settings.k3s.role,
        this_host,
        domains: domains(settings, &node.name),
    }
}

/// Port 9 (discard) of the configured broadcast address, else of its network's, else of the one that no router forwards.
fn wake(node: &MergedNode) -> SocketAddr {
    let network = &node.settings.network;
    let own = match (network.address, network.prefix) {
        (Some(IpAddr::V4(address)), Some(prefix)) if prefix < 31 => {
            let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            Some(IpAddr::from(Ipv4Addr::from(u32::from(address) | hosts)))
        }
        _ => None,
    };
    SocketAddr::new(node.settings.host.wake_broadcast.or(own).unwrap_or(IpAddr::V4(Ipv4Addr::BROADCAST)), WAKE_PORT)
}

/// Whether a label says that Longhorn keeps data there, e.g. `longhorn: "true"` or `node.longhorn.io/create-default-disk: config`.
fn keeps_data(node: &MergedNode) -> bool {
    node.settings.k3s.labels.iter().any(|(key, value)| key.contains("longhorn") && value != "false")
}

fn address(node: &MergedNode) -> String {
    let own = node.settings.network.address.map(|address| address.to_string());
    node.settings.host.address.clone().or(own).unwrap_or_else(|| node.hostname.clone())
}

fn domains(settings: &Settings, node: &NodeName) -> BTreeSet<DomainName> {
    settings.power.domains.iter().filter(|domain| domain.nodes.contains(node)).map(|domain| domain.name.clone()).collect()
}

fn short(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

/// Names and addresses by which a UPS's name may mean this host.
fn names_of_this(this_host: &str, this: Option<&Host>) -> Vec<String> {
    let own = this.into_iter().flat_map(|host| [host.address.clone(), host.name.to_string(), host.node_name.clone()]);
    [this_host.to_owned(), short(this_host).to_owned()].into_iter().chain(own).collect()
}

/// Whether its upsd runs on this host.
fn is_here(ups: &UpsName, names: &[String]) -> bool {
    ups.as_str().parse::<Target>().is_ok_and(|target| is_local(&target, names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const MAIN: &str = "
hosts: { user: metis-op, key: { file: /etc/metis/ssh } }
power:
  upses: { 'pyrphoros@localhost': {}, 'statera@tethys.lan:3494': {}, 'local6@[::1]:3493': {} }
  domains:
    pyrphoros: { upses: [pyrphoros@localhost], nodes: [titan-0a, titan-db] }
    statera: { upses: [statera@tethys.lan:3494], nodes: [titan-24] }
";
    const INVENTORY: &str = "
defaults: { ssh: { port: 2277 }, network: { prefix: 24 } }
classes:
  server: { arch: arm64, k3s: { role: server }, host: { returns: ac-cycle } }
  agent: { arch: amd64, k3s: { role: agent } }
  outside: { arch: amd64 }
nodes:
  titan-0a: { class: server, network: { address: 192.168.22.2 } }
  titan-24: { class: agent, hostname: tethys, host: { node_name: titan-24, user: root, port: 22, address: tethys.lan } }
  titan-db: { class: outside }
  titan-jh: { class: agent, host: { managed: false } }
";

    fn hosts(this_host: &str) -> Topology {
        of(&config::from_strs(MAIN, INVENTORY).unwrap_or_else(|errors| panic!("{errors:?}")), this_host)
    }

    #[test]
    fn what_a_host_does_not_say_comes_from_elsewhere() {
        let topology = hosts("titan-db.lan");
        let host = |name: &str| topology.hosts[&NodeName::new(name)].clone();
        let (server, tethys, db, jh) = (host("titan-0a"), host("titan-24"), host("titan-db"), host("titan-jh"));
        assert_eq!((server.address.as_str(), server.port, server.user.as_str(), server.sudo), ("192.168.22.2", 2277, "metis-op", true));
        assert_eq!((server.access, server.returns, server.domains.len()), (Access::Ssh, Returns::AcCycle, 1));
        assert_eq!((tethys.address.as_str(), tethys.port, tethys.user.as_str(), tethys.sudo), ("tethys.lan", 22, "root", false));
        assert_eq!((tethys.node_name.as_str(), tethys.returns), ("titan-24", Returns::ByHand));
        assert_eq!((db.access, db.this_host, db.k3s), (Access::Local, true, None));
        assert_eq!(jh.access, Access::None);
    }

    #[test]
    fn a_magic_packet_goes_to_the_network_of_its_host() {
        let inventory = format!(
            "{INVENTORY}  titan-20: {{ class: agent, network: {{ address: 192.168.22.130, prefix: 25 }}, host: {{ mac: '00:1b:21:3a:4f:5e' }} }}
  titan-21: {{ class: agent, host: {{ mac: '00:1b:21:3a:4f:5f' }}, k3s: {{ labels: {{ longhorn: 'true' }} }} }}
  titan-22: {{ class: agent, host: {{ mac: '00:1b:21:3a:4f:60', wake: {{ broadcast: 10.0.0.255 }} }} }}\n"
        );
        let topology = of(&config::from_strs(MAIN, &inventory).unwrap_or_else(|errors| panic!("{errors:?}")), "titan-db");
        let wake = |name: &str| topology.hosts[&NodeName::new(name)].wake.map(|address| address.to_string());
        assert_eq!(wake("titan-20").as_deref(), Some("192.168.22.255:9"));
        assert_eq!(wake("titan-21").as_deref(), Some("255.255.255.255:9"));
        assert_eq!(wake("titan-22").as_deref(), Some("10.0.0.255:9"));
        assert_eq!((wake("titan-0a"), topology.storage), (None, BTreeSet::from([NodeName::new("titan-21")])));
    }

    #[test]
    fn a_node_says_that_only_a_pod_reaches_it() {
        let inventory = format!("{INVENTORY}  titan-19: {{ class: agent, host: {{ access: helper-pod, node_name: nineteen }} }}\n");
        let main = MAIN.replace("user: metis-op,", "user: metis-op, helper_image: 'registry.lan/busybox:1',");
        let settings = config::from_strs(&main, &inventory).unwrap_or_else(|errors| panic!("{errors:?}"));
        let hosts = of(&settings, "titan-db").hosts;
        let host = &hosts[&NodeName::new("titan-19")];
        assert_eq!((host.access, host.node_name.as_str()), (Access::HelperPod, "nineteen"));
        assert_eq!(hosts.values().filter(|host| host.access == Access::HelperPod).count(), 1);
    }

    #[test]
    fn this_host_is_found_by_name_or_host_name() {
        for (name, expected) in
            [("titan-db", "titan-db"), ("TITAN-DB", "titan-db"), ("titan-db.lan", "titan-db"), ("tethys", "titan-24"), ("elsewhere", "")]
        {
            let topology = hosts(name);
            let found = topology.hosts.values().find(|host| host.this_host).map_or("", |host| host.name.as_str());
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn upses_of_this_host_are_those_whose_upsd_is_here() {
        let names = |host: &str| hosts(host).local_upses.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names("titan-db"), ["local6@[::1]:3493", "pyrphoros@localhost"]);
        assert!(names("tethys.lan").contains(&"statera@tethys.lan:3494".to_owned()));
        assert!(names("tethys").contains(&"statera@tethys.lan:3494".to_owned()), "its address in the inventory");
    }

    #[test]
    fn local_means_the_host_that_asks() {
        let inventory = format!("{INVENTORY}  titan-23: {{ class: outside, host: {{ access: local }} }}\n");
        let settings = config::from_strs(MAIN, &inventory).unwrap_or_else(|errors| panic!("{errors:?}"));
        for (this, access) in [("titan-23", Access::Local), ("titan-db", Access::Ssh)] {
            assert_eq!(of(&settings, this).hosts[&NodeName::new("titan-23")].access, access, "seen from {this}");
        }
    }
}
