//! Static network: netplan or systemd-networkd, and keeping what the image brought away from our interface.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

use super::edit::FileEdit;
use super::{Job, RenderError, valid};
use crate::site::NetworkRenderer;

const NETPLAN_DIR: &str = "/etc/netplan";
const NETPLAN_FILE: &str = "90-metis.yaml";
const NETWORKD_DIR: &str = "/etc/systemd/network";

/// The node's network, checked.
pub(super) struct Network<'a> {
    renderer: NetworkRenderer,
    interface: &'a str,
    address: IpAddr,
    prefix: u8,
    gateway: Option<IpAddr>,
    nameservers: &'a [IpAddr],
    search: &'a [String],
}

/// netplan(5), version 2; cloud-init's network-config is the same.
#[derive(Serialize)]
pub(super) struct Ethernets<'a> {
    version: u8,
    ethernets: BTreeMap<&'a str, Ethernet<'a>>,
}

#[derive(Serialize)]
struct Ethernet<'a> {
    dhcp4: bool,
    dhcp6: bool,
    addresses: [String; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "Nameservers::is_empty")]
    nameservers: Nameservers<'a>,
}

#[derive(Serialize)]
struct Route {
    to: &'static str,
    via: IpAddr,
}

#[derive(Serialize)]
struct Nameservers<'a> {
    #[serde(skip_serializing_if = "<[IpAddr]>::is_empty")]
    addresses: &'a [IpAddr],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    search: &'a [String],
}

impl Nameservers<'_> {
    fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.search.is_empty()
    }
}

impl<'a> Network<'a> {
    /// The node's network; `None` where the inventory says nothing of one.
    pub(super) fn of(job: &Job<'a>) -> Result<Option<Self>, RenderError> {
        let settings = &job.node.settings.network;
        let Some(address) = settings.address else { return Ok(None) };
        let because = "network.address is set";
        let interface = settings.interface.as_deref().ok_or_else(|| job.missing("network.interface", because))?;
        valid::interface(interface).map_err(|why| job.bad_value("network.interface", interface, why))?;
        let prefix = settings.prefix.ok_or_else(|| job.missing("network.prefix", because))?;
        valid::prefix(address, prefix).map_err(|why| job.bad_value("network.prefix", &prefix.to_string(), why))?;
        if let Some(gateway) = settings.gateway
            && !valid::same_network(address, gateway, prefix)
        {
            let why = format!("is not in the network of {address}/{prefix}, so the node could not reach it");
            return Err(job.bad_value("network.gateway", &gateway.to_string(), why));
        }
        let search = settings.search.as_deref().unwrap_or_default();
        for domain in search {
            valid::domain(domain).map_err(|why| job.bad_value("network.search", domain, why))?;
        }
        Ok(Some(Self {
            renderer: settings.renderer.ok_or_else(|| job.missing("network.renderer", because))?,
            interface,
            address,
            prefix,
            gateway: settings.gateway,
            nameservers: settings.nameservers.as_deref().unwrap_or_default(),
            search,
        }))
    }

    pub(super) fn ethernets(&self) -> Ethernets<'_> {
        let ethernet = Ethernet {
            dhcp4: false,
            dhcp6: false,
            addresses: [format!("{}/{}", self.address, self.prefix)],
            routes: self.gateway.map(|via| Route { to: "default", via }).into_iter().collect(),
            nameservers: Nameservers { addresses: self.nameservers, search: self.search },
        };
        Ethernets { version: 2, ethernets: [(self.interface, ethernet)].into() }
    }

    fn networkd(&self) -> String {
        let mut text = format!("[Match]\nName={}\n\n[Network]\nDHCP=no\nAddress={}/{}\n", self.interface, self.address, self.prefix);
        if let Some(gateway) = self.gateway {
            let _ = writeln!(text, "Gateway={gateway}");
        }
        for server in self.nameservers {
            let _ = writeln!(text, "DNS={server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "Domains={}", self.search.join(" "));
        }
        text
    }
}

pub(super) fn render(job: &Job<'_>) -> Result<Vec<FileEdit>, RenderError> {
    let Some(network) = Network::of(job)? else { return Ok(Vec::new()) };
    let mut edits = match network.renderer {
        NetworkRenderer::Netplan => netplan(job, &network)?,
        NetworkRenderer::Networkd => networkd(job, &network)?,
    };
    edits.extend(resolv_conf(job, &network));
    Ok(edits)
}

fn netplan(job: &Job<'_>, network: &Network<'_>) -> Result<Vec<FileEdit>, RenderError> {
    if !job.facts.has_netplan {
        return Err(job.image_lacks("network.renderer", "has no netplan; install it in the golden image, or say `networkd`"));
    }
    let file = BTreeMap::from([("network", network.ethernets())]);
    let yaml = serde_yaml::to_string(&file).map_err(|e| job.bad_value("network", "", format!("cannot be written as YAML: {e}")))?;
    let mut edits = vec![FileEdit::file(format!("{NETPLAN_DIR}/{NETPLAN_FILE}"), 0o600, yaml)];
    for (name, known) in job.facts.netplan.iter().filter(|(name, _)| *name != NETPLAN_FILE) {
        let path = format!("{NETPLAN_DIR}/{name}");
        match without_interface(&known.text, network.interface) {
            None => {}
            Some(text) if text.is_empty() => edits.push(FileEdit::remove(path)),
            Some(text) => edits.push(FileEdit::file(path, known.mode, text).owned(known.uid, known.gid).repair()),
        }
    }
    Ok(edits)
}

/// A netplan file of the image without what it says of our interface (netplan adds all files up, and a DHCP rule for `e*` would win
/// over our address). `None`: it says nothing of it; empty: nothing else is in it.
fn without_interface(text: &str, interface: &str) -> Option<String> {
    let mut file: Value = serde_yaml::from_str(text).ok()?;
    let network = file.get_mut("network")?.as_object_mut()?;
    let ethernets = network.get_mut("ethernets")?.as_object_mut()?;
    let before = ethernets.len();
    ethernets.retain(|name, entry| !claims(name, entry, interface));
    if ethernets.len() == before {
        return None;
    }
    if ethernets.is_empty() {
        network.remove("ethernets");
    }
    if network.keys().all(|key| key == "version") {
        return Some(String::new());
    }
    serde_yaml::to_string(&file).ok()
}

/// Whether a netplan entry is about the interface: by its name, a pattern, or the name it gives.
fn claims(name: &str, entry: &Value, interface: &str) -> bool {
    let Some(rule) = entry.get("match") else { return name == interface };
    let gives = entry.get("set-name").and_then(Value::as_str) == Some(interface);
    // No pattern at all: matches every Ethernet interface.
    let any = rule.as_object().is_some_and(serde_json::Map::is_empty);
    gives || any || rule.get("name").and_then(Value::as_str).is_some_and(|pattern| glob(pattern, interface))
}

fn networkd(job: &Job<'_>, network: &Network<'_>) -> Result<Vec<FileEdit>, RenderError> {
    if !job.facts.units.contains("systemd-networkd.service") {
        return Err(job.image_lacks("network.renderer", "has no systemd-networkd; install it in the golden image, or say `netplan`"));
    }
    let own = format!("10-metis-{}.network", network.interface);
    let mut edits = vec![FileEdit::file(format!("{NETWORKD_DIR}/{own}"), 0o644, network.networkd())];
    // What `systemctl enable systemd-networkd` links.
    let links = [
        ("multi-user.target.wants/systemd-networkd.service", "systemd-networkd.service"),
        ("dbus-org.freedesktop.network1.service", "systemd-networkd.service"),
        ("sockets.target.wants/systemd-networkd.socket", "systemd-networkd.socket"),
        ("network-online.target.wants/systemd-networkd-wait-online.service", "systemd-networkd-wait-online.service"),
    ];
    for (link, unit) in links.into_iter().filter(|(_, unit)| job.facts.units.contains(*unit)) {
        edits.push(FileEdit::symlink(format!("/etc/systemd/system/{link}"), format!("{}/{unit}", job.facts.unit_dir)));
    }
    // The first file that matches an interface has it to itself (systemd.network(5)).
    for (name, known) in job.facts.networkd.iter().filter(|(name, _)| **name != own) {
        if name.starts_with("10-metis-") || (*name < own && matches_interface(&known.text, network.interface)) {
            edits.push(FileEdit::remove(format!("{NETWORKD_DIR}/{name}")));
        }
    }
    Ok(edits)
}

/// Whether a `.network` file's `[Match]` may take the interface.
fn matches_interface(text: &str, interface: &str) -> bool {
    let mut in_match = false;
    let mut other_rules = false;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if line.starts_with('[') {
            in_match = line == "[Match]";
        } else if let (true, Some((key, value))) = (in_match, line.split_once('=')) {
            match key.trim() {
                "Name" => return value.split_whitespace().any(|pattern| glob(pattern, interface)),
                "Type" if value.split_whitespace().any(|kind| kind == "ether") => return true,
                _ => other_rules = true,
            }
        }
    }
    !other_rules
}

/// Without systemd-resolved and NetworkManager nobody turns the name servers into `/etc/resolv.conf`.
fn resolv_conf(job: &Job<'_>, network: &Network<'_>) -> Option<FileEdit> {
    let managed = ["systemd-resolved.service", "NetworkManager.service"].iter().any(|unit| job.facts.units.contains(*unit));
    if managed || network.nameservers.is_empty() {
        return None;
    }
    let mut text = String::new();
    for server in network.nameservers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !network.search.is_empty() {
        let _ = writeln!(text, "search {}", network.search.join(" "));
    }
    Some(FileEdit::file("/etc/resolv.conf", 0o644, text))
}

/// Shell patterns: `*`, `?`, `[a-z]`.
fn glob(pattern: &str, text: &str) -> bool {
    fn matches(pattern: &[char], text: &[char]) -> bool {
        match (pattern.first(), text.first()) {
            (None, None) => true,
            (Some('*'), _) => matches(&pattern[1..], text) || (!text.is_empty() && matches(pattern, &text[1..])),
            (Some('?'), Some(_)) => matches(&pattern[1..], &text[1..]),
            (Some('['), Some(c)) => match pattern.iter().skip(2).position(|c| *c == ']') {
                Some(len) => {
                    let (set, rest) = (&pattern[1..len + 2], &pattern[len + 3..]);
                    in_set(set, *c) && matches(rest, &text[1..])
                }
                None => *c == '[' && matches(&pattern[1..], &text[1..]),
            },
            (Some(p), Some(c)) => p == c && matches(&pattern[1..], &text[1..]),
            (Some(_) | None, _) => false,
        }
    }
    fn in_set(set: &[char], c: char) -> bool {
        let ranges = set.windows(3).any(|w| w[1] == '-' && w[0] <= c && c <= w[2]);
        ranges || set.contains(&c)
    }
    // Interface names are at most 15 long, so the search stays small.
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().take(64).collect(), text.chars().collect());
    matches(&pattern, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("end0", "end0", true),
            ("e*", "end0", true),
            ("*", "end0", true),
            ("en*", "eth0", false),
            ("e?d0", "end0", true),
            ("e[nt]*", "end0", true),
            ("eth[0-3]", "eth2", true),
            ("eth[0-3]", "eth4", false),
            ("[", "[", true),
            ("end", "end0", false),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_netplan_file_loses_only_what_is_about_our_interface() {
        let armbian = "network:\n  version: 2\n  renderer: networkd\n  ethernets:\n    all-eth-interfaces:\n      match:\n        name: \"e*\"\n      dhcp4: yes\n";
        let kept = without_interface(armbian, "end0").unwrap();
        assert!(kept.contains("renderer: networkd") && !kept.contains("dhcp4"), "{kept}");
        let cloud = "network:\n  version: 2\n  ethernets:\n    end0:\n      dhcp4: true\n";
        assert_eq!(without_interface(cloud, "end0").as_deref(), Some(""));
        assert_eq!(without_interface(cloud, "eth0"), None);
        assert_eq!(without_interface(": not yaml [", "end0"), None);
        let both = "network:\n  ethernets:\n    end0: {dhcp4: true}\n    usb0: {dhcp4: true}\n";
        let kept = without_interface(both, "end0").unwrap();
        assert!(kept.contains("usb0") && !kept.contains("end0"), "{kept}");
        assert_eq!(without_interface(&kept, "end0"), None, "the second time there is nothing to do");
    }

    #[test]
    fn a_network_file_claims_by_name_type_or_by_saying_nothing() {
        assert!(matches_interface("[Match]\nName=en*\n[Network]\nDHCP=yes\n", "end0"));
        assert!(matches_interface("[Match]\nType=ether\n", "end0"));
        assert!(matches_interface("[Network]\nDHCP=yes\n", "end0"));
        assert!(!matches_interface("[Match]\nName=wl*\n", "end0"));
        assert!(!matches_interface("[Match]\nMACAddress=00:11:22:33:44:55\n", "end0"));
    }
}
