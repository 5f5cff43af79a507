//! Pure: inventory, power domains and how hosts are reached → the hosts that a plan and the adapters work on.

use std::collections::BTreeSet;

use crate::card::merge;
use crate::config::Settings;
use crate::site::{Access, DomainName, Host, MergedNode, NodeName, Returns, Topology};

/// The topology of a site as seen from the host of that name. Hosts that metis may not stop have no access.
pub fn of(settings: &Settings, this_host: &str) -> Topology {
    let names = settings.inventory.nodes.keys();
    let nodes: Vec<MergedNode> = names.filter_map(|name| merge::merge(&settings.inventory, name).ok()).collect();
    let this = this_node(settings, &nodes, this_host);
    let hosts = nodes.iter().map(|node| (node.name.clone(), host(settings, node, this.as_ref() == Some(&node.name))));
    let domains = settings.power.domains.iter().map(|domain| (domain.name.clone(), domain.upses.clone()));
    let local = settings.power.upses.iter().filter(|ups| is_local(ups.name.as_str(), this_host)).map(|ups| ups.name.clone());
    Topology { hosts: hosts.collect(), domains: domains.collect(), local_upses: local.collect() }
}

/// The node that is the host of that name.
pub fn this_host(settings: &Settings, this_host: &str) -> Option<NodeName> {
    of(settings, this_host).hosts.into_values().find(|host| host.this_host).map(|host| host.name)
}

/// `hosts.this_host`, else the node whose name or host name is this host's.
fn this_node(settings: &Settings, nodes: &[MergedNode], this_host: &str) -> Option<NodeName> {
    let short = this_host.split('.').next().unwrap_or(this_host);
    let named = |node: &&MergedNode| [this_host, short].iter().any(|name| node.name.as_str() == *name || node.hostname == *name);
    settings.hosts.this_host.clone().or_else(|| nodes.iter().find(named).map(|node| node.name.clone()))
}

fn host(settings: &Settings, node: &MergedNode, this_host: bool) -> Host {
    let said = &node.settings.host;
    let access = match (said.managed, said.access) {
        (Some(false), _) => Access::None,
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
        k3s: node.settings.k3s.role,
        this_host,
        domains: domains(settings, &node.name),
    }
}

fn address(node: &MergedNode) -> String {
    let own = node.settings.network.address.map(|address| address.to_string());
    node.settings.host.address.clone().or(own).unwrap_or_else(|| node.hostname.clone())
}

fn domains(settings: &Settings, node: &NodeName) -> BTreeSet<DomainName> {
    settings.power.domains.iter().filter(|domain| domain.nodes.contains(node)).map(|domain| domain.name.clone()).collect()
}

/// Whether the upsd of `ups@host[:port]` runs on this host.
fn is_local(ups: &str, this_host: &str) -> bool {
    let host = ups.split_once('@').map_or("localhost", |(_, host)| host);
    let host =
        host.strip_prefix('[').and_then(|rest| rest.split_once(']')).map_or_else(|| host.split(':').next().unwrap_or(host), |(v6, _)| v6);
    matches!(host, "localhost" | "127.0.0.1" | "::1") || host == this_host
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
    fn this_host_is_found_by_name_or_host_name() {
        for (name, expected) in [("titan-db", "titan-db"), ("titan-db.lan", "titan-db"), ("tethys", "titan-24"), ("elsewhere", "")] {
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
    }
}
