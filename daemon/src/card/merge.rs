//! A node with everything that applies to it: defaults, then its class, then itself.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::site::{
    ClassName, HostSettings, Inventory, JournaldSettings, K3sSettings, MergedNode, NetworkSettings, NodeName, NodeSettings, SshSettings,
    SshUser,
};

/// Why a node cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// The inventory has no such node.
    #[error("the inventory has no node `{node}`; it has: {known}")]
    UnknownNode {
        /// What was asked for.
        node: NodeName,
        /// What there is.
        known: String,
    },
    /// The node's class is not in the inventory.
    #[error("node `{node}` is of class `{class}`, which the inventory lacks; it has: {known}")]
    UnknownClass {
        /// The node.
        node: NodeName,
        /// Its class.
        class: ClassName,
        /// What there is.
        known: String,
    },
}

/// The node as its card is made: a scalar or list of the node replaces its class's, which replaces the defaults'; maps merge key by key.
///
/// # Errors
/// Where the node or its class is unknown.
pub fn merge(inventory: &Inventory, name: &NodeName) -> Result<MergedNode, MergeError> {
    let node = inventory
        .nodes
        .get(name)
        .ok_or_else(|| MergeError::UnknownNode { node: name.clone(), known: names(inventory.nodes.keys().map(NodeName::as_str)) })?;
    let class = inventory.classes.get(&node.class).ok_or_else(|| MergeError::UnknownClass {
        node: name.clone(),
        class: node.class.clone(),
        known: names(inventory.classes.keys().map(ClassName::as_str)),
    })?;
    Ok(MergedNode {
        name: name.clone(),
        hostname: node.hostname.clone().unwrap_or_else(|| name.as_str().to_owned()),
        class: node.class.clone(),
        arch: class.arch,
        image: class.image.clone(),
        settings: overlay(&overlay(&inventory.defaults, &class.settings), &node.settings),
    })
}

/// The merged node for people: secrets as references (`secret file:/…`), and no password of an image's URL.
pub fn masked(node: &MergedNode) -> Value {
    let mut value = serde_json::to_value(node).unwrap_or(Value::Null);
    let secret = |reference: &crate::site::SecretRef| Value::String(format!("secret {reference}"));
    if let (Some(token), Some(slot)) = (&node.settings.k3s.token, value.pointer_mut("/settings/k3s/token")) {
        *slot = secret(token);
    }
    if let (Some(key), Some(slot)) = (&node.settings.host.key, value.pointer_mut("/settings/host/key")) {
        *slot = secret(key);
    }
    for (algorithm, reference) in &node.settings.ssh.host_keys {
        let name = serde_json::to_value(algorithm).unwrap_or(Value::Null);
        let pointer = format!("/settings/ssh/host_keys/{}", name.as_str().unwrap_or_default());
        if let Some(slot) = value.pointer_mut(&pointer) {
            *slot = secret(reference);
        }
    }
    if let Some(Value::Object(users)) = value.pointer_mut("/settings/ssh/users") {
        for (name, user) in &node.settings.ssh.users {
            if let (Some(hash), Some(slot)) = (&user.password_hash, users.get_mut(name).and_then(|user| user.get_mut("password_hash"))) {
                *slot = secret(hash);
            }
        }
    }
    if let (Some(image), Some(slot)) = (&node.image, value.pointer_mut("/image/url")) {
        *slot = Value::String(without_password(&image.url));
    }
    value
}

/// `https://user:password@host/…` → `https://***@host/…`.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_once('/').map_or((rest, String::new()), |(authority, path)| (authority, format!("/{path}")));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://***@{host}{path}"),
        None => url.to_owned(),
    }
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// What `over` says, and where it says nothing, what `base` says.
fn overlay(base: &NodeSettings, over: &NodeSettings) -> NodeSettings {
    NodeSettings {
        network: network(&base.network, &over.network),
        ssh: ssh(&base.ssh, &over.ssh),
        k3s: k3s(&base.k3s, &over.k3s),
        journald: journald(&base.journald, &over.journald),
        hosts: map(&base.hosts, &over.hosts),
        seed: either(base.seed.as_ref(), over.seed.as_ref()),
        host: host(&base.host, &over.host),
    }
}

fn host(base: &HostSettings, over: &HostSettings) -> HostSettings {
    HostSettings {
        access: either(base.access.as_ref(), over.access.as_ref()),
        address: either(base.address.as_ref(), over.address.as_ref()),
        port: either(base.port.as_ref(), over.port.as_ref()),
        user: either(base.user.as_ref(), over.user.as_ref()),
        key: either(base.key.as_ref(), over.key.as_ref()),
        host_keys: either(base.host_keys.as_ref(), over.host_keys.as_ref()),
        sudo: either(base.sudo.as_ref(), over.sudo.as_ref()),
        returns: either(base.returns.as_ref(), over.returns.as_ref()),
        mac: either(base.mac.as_ref(), over.mac.as_ref()),
        wake_broadcast: either(base.wake_broadcast.as_ref(), over.wake_broadcast.as_ref()),
        node_name: either(base.node_name.as_ref(), over.node_name.as_ref()),
        managed: either(base.managed.as_ref(), over.managed.as_ref()),
    }
}

fn either<T: Clone>(base: Option<&T>, over: Option<&T>) -> Option<T> {
    over.or(base).cloned()
}

fn map<K: Clone + Ord, V: Clone>(base: &BTreeMap<K, V>, over: &BTreeMap<K, V>) -> BTreeMap<K, V> {
    base.iter().chain(over).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn network(base: &NetworkSettings, over: &NetworkSettings) -> NetworkSettings {
    NetworkSettings {
        renderer: either(base.renderer.as_ref(), over.renderer.as_ref()),
        interface: either(base.interface.as_ref(), over.interface.as_ref()),
        address: either(base.address.as_ref(), over.address.as_ref()),
        prefix: either(base.prefix.as_ref(), over.prefix.as_ref()),
        gateway: either(base.gateway.as_ref(), over.gateway.as_ref()),
        nameservers: either(base.nameservers.as_ref(), over.nameservers.as_ref()),
        search: either(base.search.as_ref(), over.search.as_ref()),
    }
}

fn ssh(base: &SshSettings, over: &SshSettings) -> SshSettings {
    let mut users = base.users.clone();
    for (name, user) in &over.users {
        let merged = users.get(name).map_or_else(|| user.clone(), |known| ssh_user(known, user));
        users.insert(name.clone(), merged);
    }
    SshSettings { port: either(base.port.as_ref(), over.port.as_ref()), users, host_keys: map(&base.host_keys, &over.host_keys) }
}

fn ssh_user(base: &SshUser, over: &SshUser) -> SshUser {
    SshUser {
        keys: either(base.keys.as_ref(), over.keys.as_ref()),
        groups: either(base.groups.as_ref(), over.groups.as_ref()),
        sudo: either(base.sudo.as_ref(), over.sudo.as_ref()),
        password_hash: either(base.password_hash.as_ref(), over.password_hash.as_ref()),
    }
}

fn k3s(base: &K3sSettings, over: &K3sSettings) -> K3sSettings {
    K3sSettings {
        role: either(base.role.as_ref(), over.role.as_ref()),
        version: either(base.version.as_ref(), over.version.as_ref()),
        server: either(base.server.as_ref(), over.server.as_ref()),
        token: either(base.token.as_ref(), over.token.as_ref()),
        labels: map(&base.labels, &over.labels),
        taints: either(base.taints.as_ref(), over.taints.as_ref()),
        node_ip: either(base.node_ip.as_ref(), over.node_ip.as_ref()),
    }
}

fn journald(base: &JournaldSettings, over: &JournaldSettings) -> JournaldSettings {
    JournaldSettings {
        storage: either(base.storage.as_ref(), over.storage.as_ref()),
        system_max_use: either(base.system_max_use.as_ref(), over.system_max_use.as_ref()),
        runtime_max_use: either(base.runtime_max_use.as_ref(), over.runtime_max_use.as_ref()),
        max_retention: either(base.max_retention.as_ref(), over.max_retention.as_ref()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::path::PathBuf;

    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;
    use crate::site::{Access, Arch, Class, HostKeyAlgorithm, ImageRef, K3sRole, NetworkRenderer, Node, Returns, SecretRef, SeedPlace};

    fn secret_ref() -> impl Strategy<Value = SecretRef> {
        prop_oneof!["[a-z]{1,4}".prop_map(|name| SecretRef::File(PathBuf::from(name))), "[a-z]{1,4}".prop_map(SecretRef::Credential)]
    }

    fn text() -> impl Strategy<Value = Option<String>> {
        option::of("[a-z]{1,3}")
    }

    fn ip() -> impl Strategy<Value = Option<IpAddr>> {
        option::of(any::<[u8; 4]>().prop_map(IpAddr::from))
    }

    fn any_network() -> impl Strategy<Value = NetworkSettings> {
        let renderer = option::of(prop_oneof![Just(NetworkRenderer::Netplan), Just(NetworkRenderer::Networkd)]);
        let nameservers = option::of(vec(any::<[u8; 4]>().prop_map(IpAddr::from), 0..3));
        (renderer, text(), ip(), option::of(0_u8..33), ip(), nameservers, option::of(vec("[a-z]{1,3}", 0..3))).prop_map(
            |(renderer, interface, address, prefix, gateway, nameservers, search)| NetworkSettings {
                renderer,
                interface,
                address,
                prefix,
                gateway,
                nameservers,
                search,
            },
        )
    }

    fn any_ssh() -> impl Strategy<Value = SshSettings> {
        let user =
            (option::of(vec("[a-z]{1,3}", 0..2)), option::of(vec("[a-z]{1,3}", 0..2)), any::<Option<bool>>(), option::of(secret_ref()))
                .prop_map(|(keys, groups, sudo, password_hash)| SshUser { keys, groups, sudo, password_hash });
        let algorithm = prop_oneof![Just(HostKeyAlgorithm::Ed25519), Just(HostKeyAlgorithm::Rsa), Just(HostKeyAlgorithm::Ecdsa)];
        (any::<Option<u16>>(), btree_map("[ab]", user, 0..3), btree_map(algorithm, secret_ref(), 0..3))
            .prop_map(|(port, users, host_keys)| SshSettings { port, users, host_keys })
    }

    fn any_k3s() -> impl Strategy<Value = K3sSettings> {
        let role = option::of(prop_oneof![Just(K3sRole::Server), Just(K3sRole::Agent)]);
        let labels = btree_map("[ab]", "[a-z]{1,2}", 0..3);
        (role, text(), text(), option::of(secret_ref()), labels, option::of(vec("[a-z]{1,3}", 0..2)), ip()).prop_map(
            |(role, version, server, token, labels, taints, node_ip)| K3sSettings { role, version, server, token, labels, taints, node_ip },
        )
    }

    fn any_host() -> impl Strategy<Value = HostSettings> {
        let access = option::of(prop_oneof![Just(Access::Ssh), Just(Access::HelperPod), Just(Access::Local), Just(Access::None)]);
        let returns = option::of(prop_oneof![Just(Returns::AcCycle), Just(Returns::WakeOnLan), Just(Returns::ByHand)]);
        let names = (text(), text(), text(), text());
        let rest = (any::<Option<u16>>(), option::of(secret_ref()), option::of(vec("[a-z]{1,3}", 1..3)));
        (access, returns, names, rest, any::<Option<bool>>(), any::<Option<bool>>(), ip()).prop_map(
            |(access, returns, (address, user, node_name, mac), (port, key, host_keys), sudo, managed, wake_broadcast)| HostSettings {
                access,
                address,
                port,
                user,
                key,
                host_keys,
                sudo,
                returns,
                mac,
                wake_broadcast,
                node_name,
                managed,
            },
        )
    }

    fn settings() -> impl Strategy<Value = NodeSettings> {
        let journald = (text(), text(), text(), text()).prop_map(|(storage, system_max_use, runtime_max_use, max_retention)| {
            JournaldSettings { storage, system_max_use, runtime_max_use, max_retention }
        });
        let hosts = btree_map((0_u8..3).prop_map(|last| IpAddr::from([10, 0, 0, last])), vec("[a-z]{1,3}", 0..3), 0..3);
        let seed = option::of(prop_oneof![Just(SeedPlace::Auto), Just(SeedPlace::Boot), Just(SeedPlace::Root), Just(SeedPlace::None)]);
        (any_network(), any_ssh(), any_k3s(), journald, hosts, seed, any_host())
            .prop_map(|(network, ssh, k3s, journald, hosts, seed, host)| NodeSettings { network, ssh, k3s, journald, hosts, seed, host })
    }

    fn site(defaults: NodeSettings, class: NodeSettings, node: NodeSettings) -> Inventory {
        let class = Class { arch: Arch::Arm64, image: None, settings: class };
        let node = Node { class: "rpi4".into(), hostname: None, settings: node };
        Inventory { defaults, classes: [("rpi4".into(), class)].into(), nodes: [("titan-13".into(), node)].into() }
    }

    proptest! {
        #[test]
        fn merging_is_associative(a in settings(), b in settings(), c in settings()) {
            prop_assert_eq!(overlay(&overlay(&a, &b), &c), overlay(&a, &overlay(&b, &c)));
        }

        #[test]
        fn merging_twice_is_merging_once(a in settings(), b in settings()) {
            let once = overlay(&a, &b);
            prop_assert_eq!(overlay(&once, &b), once.clone());
            prop_assert_eq!(overlay(&a, &a), a.clone());
            prop_assert_eq!(overlay(&NodeSettings::default(), &once), once.clone());
            prop_assert_eq!(overlay(&once, &NodeSettings::default()), once);
        }

        #[test]
        fn what_the_node_says_stands(defaults in settings(), class in settings(), node in settings()) {
            let merged = merge(&site(defaults, class, node.clone()), &"titan-13".into()).unwrap().settings;
            prop_assert_eq!(overlay(&merged, &node), merged.clone());
            for (address, names) in &node.hosts {
                prop_assert_eq!(merged.hosts.get(address), Some(names));
            }
            prop_assert!(node.network.address.is_none() || merged.network.address == node.network.address);
            prop_assert!(node.k3s.taints.is_none() || merged.k3s.taints == node.k3s.taints);
        }

        #[test]
        fn masking_never_panics_and_keeps_the_shape(defaults in settings(), class in settings(), node in settings()) {
            let merged = merge(&site(defaults, class, node), &"titan-13".into()).unwrap();
            let value = masked(&merged);
            prop_assert_eq!(value.pointer("/name").and_then(Value::as_str), Some("titan-13"));
            if merged.settings.k3s.token.is_some() {
                let shown = value.pointer("/settings/k3s/token").and_then(Value::as_str).unwrap_or_default();
                prop_assert!(shown.starts_with("secret "));
            }
        }
    }

    #[test]
    fn a_nodes_list_replaces_and_its_map_entry_joins() {
        let mut defaults = NodeSettings::default();
        defaults.network.search = Some(vec!["lan".into(), "home".into()]);
        defaults.k3s.labels = [("site".into(), "bstein".into())].into();
        defaults.ssh.users = [("atlas".into(), SshUser { sudo: Some(true), keys: Some(vec!["old".into()]), ..SshUser::default() })].into();
        let mut node = NodeSettings::default();
        node.network.search = Some(vec![]);
        node.k3s.labels = [("disk".into(), "ssd".into())].into();
        node.ssh.users = [("atlas".into(), SshUser { keys: Some(vec!["new".into()]), ..SshUser::default() })].into();
        let merged = merge(&site(defaults, NodeSettings::default(), node), &"titan-13".into()).unwrap();
        assert_eq!(merged.hostname, "titan-13");
        assert_eq!(merged.settings.network.search, Some(vec![]));
        assert_eq!(merged.settings.k3s.labels.len(), 2);
        let atlas = &merged.settings.ssh.users["atlas"];
        assert_eq!((atlas.sudo, atlas.keys.as_deref()), (Some(true), Some(&["new".to_owned()][..])));
    }

    #[test]
    fn what_is_unknown_is_named_with_what_there_is() {
        let mut inventory = site(NodeSettings::default(), NodeSettings::default(), NodeSettings::default());
        let error = merge(&inventory, &"titan-99".into()).unwrap_err();
        assert_eq!(error.to_string(), "the inventory has no node `titan-99`; it has: titan-13");
        inventory.classes.clear();
        let error = merge(&inventory, &"titan-13".into()).unwrap_err();
        assert_eq!(error.to_string(), "node `titan-13` is of class `rpi4`, which the inventory lacks; it has: none");
    }

    #[test]
    fn masked_shows_references_and_no_password() {
        let mut inventory = site(NodeSettings::default(), NodeSettings::default(), NodeSettings::default());
        let class = inventory.classes.get_mut(&"rpi4".into()).unwrap();
        class.image = Some(ImageRef { url: "https://u:hunter2@img.lan/a.xz".into(), sha256: "00".into(), content_sha256: None });
        class.settings.k3s.token = Some(SecretRef::File("/etc/metis/token".into()));
        class.settings.ssh.host_keys = [
            (HostKeyAlgorithm::Ed25519, SecretRef::Credential("t13".into())),
            (HostKeyAlgorithm::Ecdsa, SecretRef::Credential("t13-ecdsa".into())),
        ]
        .into();
        let user = SshUser { password_hash: Some(SecretRef::Credential("hash".into())), ..SshUser::default() };
        class.settings.ssh.users = [("atlas".into(), user)].into();
        class.settings.host.key = Some(SecretRef::File("/etc/metis/ssh_key".into()));
        let value = masked(&merge(&inventory, &"titan-13".into()).unwrap());
        assert_eq!(value.pointer("/image/url").unwrap(), "https://***@img.lan/a.xz");
        assert_eq!(value.pointer("/settings/k3s/token").unwrap(), "secret file:/etc/metis/token");
        assert_eq!(value.pointer("/settings/ssh/host_keys/ed25519").unwrap(), "secret credential:t13");
        assert_eq!(value.pointer("/settings/ssh/host_keys/ecdsa").unwrap(), "secret credential:t13-ecdsa");
        assert_eq!(value.pointer("/settings/ssh/users/atlas/password_hash").unwrap(), "secret credential:hash");
        assert_eq!(value.pointer("/settings/host/key").unwrap(), "secret file:/etc/metis/ssh_key");
        assert!(!value.to_string().contains("hunter2"));
    }
}
