//! A draft of `inventory.yaml` from what the cluster and the hosts say of themselves. What nobody says stands as a comment, for a person.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;

use super::facts::Part;

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// When.
    pub at: Timestamp,
    /// Nodes of the cluster.
    pub nodes: Vec<NodeSeen>,
    /// Port at which the host keys were asked for.
    pub ssh_port: u16,
    /// Prefix length of the nodes' network, where the caller knows it.
    pub prefix: Option<u8>,
    /// Why disks of Longhorn are not known.
    pub longhorn: Part<()>,
}

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct NodeSeen {
    /// Its Kubernetes name.
    pub name: String,
    /// Its host name; empty: not known.
    pub hostname: String,
    /// Its first internal address; empty: not known.
    pub address: String,
    /// e.g. `arm64`.
    pub arch: String,
    /// e.g. `Ubuntu 24.04.1 LTS`.
    pub os_image: String,
    /// Version of its kubelet.
    pub version: String,
    /// The control plane runs there.
    pub server: bool,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// All taints, `key=value:Effect`.
    pub taints: Vec<String>,
    /// Disks of Longhorn: mount point, and what Longhorn calls it.
    pub disks: Vec<(String, String)>,
    /// Host keys: algorithm and fingerprint; `None`: nobody asked, because no address is known.
    pub host_keys: Option<Part<Vec<(String, String)>>>,
}

/// What makes nodes one class of cards: role, architecture, version.
type ClassKey = (bool, String, String);

/// The file, and what a person should know before he uses it.
pub fn draft(seen: &Seen) -> (String, Vec<String>) {
    let (nodes, others): (Vec<&NodeSeen>, Vec<&NodeSeen>) =
        seen.nodes.iter().partition(|node| matches!(node.arch.as_str(), "amd64" | "arm64"));
    let classes = classes(&nodes);
    let mut text = head(seen);
    let _ = writeln!(text, "defaults:\n  ssh: {{ port: {} }}", seen.ssh_port);
    match seen.prefix {
        Some(prefix) => _ = writeln!(text, "  network: {{ prefix: {prefix} }}"),
        None => text.push_str("  # Not known to Kubernetes; cards need it (or: metisctl inventory import --network-prefix 24):\n  # network: { prefix: 24 }\n"),
    }
    text.push_str("  # How hosts come back after a power cut is known to nobody but you: ac-cycle, wake-on-lan (then give `mac`) or by-hand.\n  # host: { returns: ac-cycle }\n");
    text.push_str(if classes.is_empty() { "\nclasses: {}\n" } else { "\nclasses:\n" });
    for (key, name) in &classes {
        class(&mut text, key, name, &nodes);
    }
    text.push_str(if nodes.is_empty() { "\nnodes: {}\n" } else { "\nnodes:\n" });
    let names = names(&nodes);
    for (node, name) in nodes.iter().zip(&names) {
        one(&mut text, seen, node, name, &classes[&class_key(node)]);
    }
    for node in &others {
        let _ = writeln!(text, "  # {}: left out, metis makes nothing for its architecture {}", plain(&node.name), plain(&node.arch));
    }
    text.push_str("  # Hosts outside of the cluster are not seen from it, such as one with a UPS or the datastore: add them, with a class of their own.\n");
    (text, notes(seen, &nodes, &others))
}

fn head(seen: &Seen) -> String {
    format!(
        "# metis: inventory, drafted from the live cluster at {:.0}. Read it before you install it as /etc/metis/inventory.yaml, and check it\n# with \
         `metisd --check-config`. What could not be known is a comment.\n#\n# Host keys were taken as they were shown on port {}. Compare each once, on \
         its host: ssh-keygen -l -f /etc/ssh/ssh_host_ed25519_key.pub\n\n",
        seen.at, seen.ssh_port
    )
}

fn notes(seen: &Seen, nodes: &[&NodeSeen], others: &[&NodeSeen]) -> Vec<String> {
    let mut notes = Vec::new();
    let keys = nodes.iter().filter(|node| matches!(&node.host_keys, Some(Ok(keys)) if !keys.is_empty())).count();
    if keys > 0 {
        notes.push(format!("{keys} hosts showed their SSH host keys: compare each once on its host before you trust the draft"));
    }
    for node in nodes {
        match &node.host_keys {
            None => notes.push(format!("{}: Kubernetes tells no address of it, so its SSH host keys were not asked for", node.name)),
            Some(Err(why)) => notes.push(format!("{}: its SSH host keys could not be read: {why}", node.name)),
            Some(Ok(_)) => {}
        }
    }
    notes.extend(others.iter().map(|node| format!("{}: left out, metis makes nothing for its architecture {}", node.name, node.arch)));
    if let Err(why) = &seen.longhorn {
        notes.push(format!("disks of Longhorn are not known: {why}"));
    }
    notes
}

fn class_key(node: &NodeSeen) -> ClassKey {
    (node.server, node.arch.clone(), node.version.clone())
}

/// `agent-arm64`, and with the version where there are several of it.
fn classes(nodes: &[&NodeSeen]) -> BTreeMap<ClassKey, String> {
    let keys: BTreeSet<ClassKey> = nodes.iter().map(|node| class_key(node)).collect();
    let versions = |server: bool, arch: &str| keys.iter().filter(|(is, of, _)| *is == server && of == arch).count();
    let name = |(server, arch, version): &ClassKey| {
        let role = if *server { "server" } else { "agent" };
        if versions(*server, arch) < 2 {
            return format!("{role}-{arch}");
        }
        label(&format!("{role}-{arch}-{version}"))
    };
    let mut taken = BTreeSet::new();
    keys.iter().map(|key| (key.clone(), unique(name(key), &mut taken))).collect()
}

fn class(text: &mut String, key: &ClassKey, name: &str, nodes: &[&NodeSeen]) {
    let (server, arch, version) = key;
    let systems: BTreeSet<String> = nodes.iter().filter(|node| class_key(node) == *key).map(|node| plain(&node.os_image)).collect();
    let systems: Vec<String> = systems.into_iter().filter(|system| !system.is_empty()).collect();
    if !systems.is_empty() {
        let _ = writeln!(text, "  # {}", systems.join("; "));
    }
    let _ = writeln!(text, "  {name}:\n    arch: {arch}");
    text.push_str("    # Without an image no card is made for this class:\n    # image: { url: \"https://…\", sha256: \"…\" }\n");
    let role = if *server { "server" } else { "agent" };
    if is_k3s(version) {
        let _ = writeln!(text, "    k3s: {{ role: {role}, version: {version} }}   # pinned: a recovery is never an upgrade");
    } else {
        let _ = writeln!(text, "    k3s: {{ role: {role} }}   # its version is none of k3s': {}", plain(version));
    }
}

fn one(text: &mut String, seen: &Seen, node: &NodeSeen, name: &str, class: &str) {
    let _ = writeln!(text, "  {name}:\n    class: {class}");
    let hostname = if is_label(&node.hostname) { node.hostname.as_str() } else { name };
    if hostname != name {
        let _ = writeln!(text, "    hostname: {}", quoted(hostname));
    }
    match (node.address.is_empty(), seen.prefix) {
        (true, _) => {}
        (false, Some(_)) => _ = writeln!(text, "    network: {{ address: {} }}", quoted(&node.address)),
        (false, None) => _ = writeln!(text, "    # network: {{ address: {} }}", plain(&node.address)),
    }
    host(text, node, hostname);
    let labels: Vec<_> = node.labels.iter().filter(|(key, _)| is_own_label(key)).collect();
    let taints: Vec<String> = node.taints.iter().filter(|taint| is_own_taint(taint)).map(|taint| quoted(taint)).collect();
    if !labels.is_empty() || !taints.is_empty() {
        text.push_str("    k3s:\n");
    }
    if !labels.is_empty() {
        text.push_str("      labels:\n");
        for (key, value) in labels {
            let _ = writeln!(text, "        {}: {}", quoted(key), quoted(value));
        }
    }
    if !taints.is_empty() {
        let _ = writeln!(text, "      taints: [{}]", taints.join(", "));
    }
    for (path, uuid) in &node.disks {
        let _ = writeln!(text, "    # Longhorn keeps replicas on {} (its disk {})", plain(path), plain(uuid));
    }
}

fn host(text: &mut String, node: &NodeSeen, hostname: &str) {
    text.push_str("    host:\n");
    if node.address.is_empty() {
        text.push_str("      # Kubernetes tells no address of it; its host name is tried.\n");
    } else {
        let _ = writeln!(text, "      address: {}", quoted(&node.address));
    }
    // Also where it is the default: `host` is never empty then, and a person sees what it is called.
    let _ = writeln!(text, "      node_name: {}", quoted(if node.name.is_empty() { hostname } else { &node.name }));
    match &node.host_keys {
        Some(Ok(keys)) if !keys.is_empty() => {
            let kinds: Vec<String> = keys.iter().map(|(kind, _)| plain(kind)).collect();
            let prints: Vec<String> = keys.iter().map(|(_, print)| quoted(print)).collect();
            let _ = writeln!(text, "      # {}; to be compared\n      host_keys: [{}]", kinds.join(", "), prints.join(", "));
        }
        Some(Ok(_)) => text.push_str("      # host_keys: it showed none that metis takes (ed25519, ecdsa)\n"),
        Some(Err(why)) => _ = writeln!(text, "      # host_keys: could not be read: {}", plain(why)),
        None => text.push_str("      # host_keys: not known\n"),
    }
}

/// Names of the inventory: Kubernetes' own without dots, each once.
fn names(nodes: &[&NodeSeen]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    nodes.iter().map(|node| unique(label(&node.name), &mut taken)).collect()
}

fn unique(name: String, taken: &mut BTreeSet<String>) -> String {
    let mut found = name.clone();
    let mut number = 2;
    while !taken.insert(found.clone()) {
        found = format!("{}-{number}", name.chars().take(58).collect::<String>());
        number += 1;
    }
    found
}

/// The nearest DNS label.
fn label(text: &str) -> String {
    let mapped: String = text.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    let trimmed = mapped.trim_matches('-');
    if trimmed.is_empty() { "node".to_owned() } else { trimmed.to_owned() }
}

fn is_label(text: &str) -> bool {
    !text.is_empty() && label(text) == text
}

/// Not those that Kubernetes, k3s and its upgrade controller set by themselves: a node may not give most of them to itself.
fn is_own_label(key: &str) -> bool {
    let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
    let within = |domain: &str| prefix == domain || prefix.ends_with(&format!(".{domain}"));
    !["kubernetes.io", "k8s.io", "k3s.io", "k3s.cattle.io", "upgrade.cattle.io"].iter().any(|domain| within(domain))
}

/// Not those that the node controller sets and clears.
fn is_own_taint(taint: &str) -> bool {
    let (subject, effect) = taint.rsplit_once(':').unwrap_or((taint, ""));
    let own = !subject.starts_with("node.kubernetes.io/") && !subject.starts_with("node.cloudprovider.kubernetes.io/");
    own && matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute")
}

/// `v1.31.5+k3s1`.
fn is_k3s(version: &str) -> bool {
    let Some((release, build)) = version.strip_prefix('v').and_then(|rest| rest.split_once("+k3s")) else { return false };
    let number = |part: &str| !part.is_empty() && part.len() <= 6 && part.bytes().all(|byte| byte.is_ascii_digit());
    release.split('.').count() == 3 && release.split('.').all(number) && number(build)
}

/// A double-quoted scalar of YAML; JSON's are.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// For a comment: of one line.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c.is_alphanumeric() { c } else { ' ' }).take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::inventory_from_str;
    use crate::site::{Arch, Inventory, K3sRole, NodeName};
    use proptest::prelude::*;

    fn node(name: &str, address: &str, server: bool, version: &str) -> NodeSeen {
        NodeSeen {
            name: name.to_owned(),
            hostname: name.to_owned(),
            address: address.to_owned(),
            arch: "arm64".to_owned(),
            os_image: "Ubuntu 24.04.1 LTS".to_owned(),
            version: version.to_owned(),
            server,
            host_keys: Some(Ok(vec![("ssh-ed25519".to_owned(), format!("SHA256:{}", "A".repeat(43)))])),
            ..NodeSeen::default()
        }
    }

    fn site() -> Seen {
        let text = |all: &[(&str, &str)]| all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>();
        let mut worker = node("titan-13", "192.168.22.43", false, "v1.31.5+k3s1");
        worker.labels =
            text(&[("longhorn", "true"), ("kubernetes.io/arch", "arm64"), ("egress.k3s.io/cluster", "true"), ("example.net/rack", "2")])
                .into_iter()
                .collect();
        worker.taints = vec!["dedicated=media:NoSchedule".into(), "node.kubernetes.io/unschedulable:NoSchedule".into()];
        worker.disks = text(&[("/mnt/astreae", "0f4c")]);
        let mut tethys = node("titan-24", "192.168.22.24", false, "v1.33.3+k3s1");
        (tethys.hostname, tethys.arch) = ("tethys".into(), "amd64".into());
        tethys.host_keys = Some(Err("192.168.22.24:2277: Connection refused".into()));
        let mut old = node("pi-1", "192.168.22.9", false, "v1.31.5+k3s1");
        old.arch = "arm".into();
        Seen {
            at: Timestamp::from_second(1_800_000_000).unwrap(),
            nodes: vec![
                node("titan-0a", "192.168.22.2", true, "v1.33.3+k3s1"),
                worker,
                tethys,
                node("titan-05", "192.168.22.5", false, "v1.33.3+k3s1"),
                old,
            ],
            ssh_port: 2277,
            prefix: None,
            longhorn: Ok(()),
        }
    }

    fn read(text: &str) -> Inventory {
        inventory_from_str(text)
            .unwrap_or_else(|errors| panic!("{}\n{text}", errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
    }

    #[test]
    fn the_draft_reads_as_what_was_seen() {
        let (text, notes) = draft(&site());
        insta::assert_snapshot!("draft", text);
        let inventory = read(&text);
        assert_eq!(inventory.nodes.len(), 4);
        assert_eq!(inventory.defaults.ssh.port, Some(2277));
        let of = |name: &str| &inventory.nodes[&NodeName::new(name)];
        let class = |name: &str| &inventory.classes[&of(name).class];
        assert_eq!(
            (class("titan-0a").settings.k3s.role, class("titan-13").settings.k3s.role),
            (Some(K3sRole::Server), Some(K3sRole::Agent))
        );
        assert_eq!((class("titan-24").arch, class("titan-13").arch), (Arch::Amd64, Arch::Arm64));
        assert_eq!(class("titan-13").settings.k3s.version.as_deref(), Some("v1.31.5+k3s1"), "each keeps its own version");
        assert_eq!(class("titan-05").settings.k3s.version.as_deref(), Some("v1.33.3+k3s1"));
        let worker = &of("titan-13").settings;
        assert_eq!(worker.k3s.labels.keys().map(String::as_str).collect::<Vec<_>>(), ["example.net/rack", "longhorn"]);
        assert_eq!(worker.k3s.taints.as_deref(), Some(&["dedicated=media:NoSchedule".to_owned()][..]));
        assert_eq!(worker.host.host_keys.as_ref().unwrap().len(), 1);
        assert_eq!(worker.host.address.as_deref(), Some("192.168.22.43"));
        assert_eq!(
            (of("titan-24").hostname.as_deref(), of("titan-24").settings.host.node_name.as_deref()),
            (Some("tethys"), Some("titan-24"))
        );
        assert_eq!(of("titan-24").settings.host.host_keys, None);
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes[1].contains("titan-24: its SSH host keys could not be read") && notes[2].starts_with("pi-1: left out"), "{notes:?}");
    }

    #[test]
    fn with_a_prefix_cards_have_their_address() {
        let (text, _) = draft(&Seen { prefix: Some(24), ..site() });
        let inventory = read(&text);
        let worker = &inventory.nodes[&NodeName::new("titan-13")].settings;
        assert_eq!(
            (worker.network.address.map(|address| address.to_string()).as_deref(), inventory.defaults.network.prefix),
            (Some("192.168.22.43"), Some(24))
        );
    }

    #[test]
    fn an_empty_cluster_is_a_draft_too() {
        let (text, notes) = draft(&Seen { nodes: Vec::new(), longhorn: Err("403".into()), ..site() });
        assert!(read(&text).nodes.is_empty());
        assert_eq!(notes, ["disks of Longhorn are not known: 403"]);
    }

    prop_compose! {
        fn odd_node()(
            name in "[a-z0-9.-]{1,70}", hostname in "(?s).{0,12}", octet in 1u8..250, arch in prop::sample::select(vec!["arm64", "amd64", "arm", "x\ny"]),
            os_image in "(?s).{0,40}", version in "(v1\\.[0-9]{1,2}\\.[0-9]\\+k3s[0-9])|(?s).{0,20}", server in any::<bool>(),
            labels in prop::collection::btree_map("[a-z]{1,5}(\\.io/[a-z]{1,5})?", "[a-zA-Z0-9]{0,8}", 0..3), why in "(?s).{0,40}",
        ) -> NodeSeen {
            NodeSeen {
                name, hostname, address: format!("10.0.0.{octet}"), arch: arch.to_owned(), os_image, version, server, labels,
                taints: vec!["a=b:NoSchedule".into(), "odd".into()], disks: vec![("/mnt\n# x".into(), String::new())], host_keys: Some(Err(why)),
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_a_node_says_the_draft_can_be_read(nodes in prop::collection::vec(odd_node(), 0..4), prefix in prop::option::of(8u8..25)) {
            let mut nodes = nodes;
            // Of a live cluster names, host names and addresses differ.
            for (number, node) in nodes.iter_mut().enumerate() {
                node.name = format!("n{number}{}", node.name.trim_end_matches(['.', '-']).replace("..", ".").replace("-.", ".").replace(".-", "."));
                node.address = format!("10.0.{number}.7");
                node.hostname = if node.hostname.len() % 2 == 0 { node.name.clone() } else { node.hostname.clone() + &number.to_string() };
            }
            let (text, _) = draft(&Seen { nodes, prefix, ..site() });
            let read = inventory_from_str(&text);
            let known = |error: &crate::config::Diagnostic| error.to_string().contains("differ") || error.to_string().contains("name of a node");
            if let Err(errors) = read {
                prop_assert!(errors.iter().all(known), "{errors:?}\n{text}");
            }
        }
    }
}
