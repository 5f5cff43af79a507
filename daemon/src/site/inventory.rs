//! The inventory: classes of nodes, nodes, and what a node's card carries.
//!
//! `defaults`, a class and a node each hold a [`NodeSettings`]; merged in that order, a scalar or list of the later one replaces,
//! maps merge key by key.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ClassName, HostSettings, NodeName, SecretRef};

/// `/etc/metis/inventory.yaml`, validated.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// What all nodes share.
    pub defaults: NodeSettings,
    /// By name.
    pub classes: BTreeMap<ClassName, Class>,
    /// By name.
    pub nodes: BTreeMap<NodeName, Node>,
}

/// A kind of node: its image and what all of its nodes share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Class {
    /// Processor architecture of the image.
    pub arch: Arch,
    /// The golden image; absent for hosts that metis makes no card for.
    pub image: Option<ImageRef>,
    /// What all nodes of the class share.
    pub settings: NodeSettings,
}

/// Where a golden image is and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// `file:` or `https:`; the ending says the compression (`.xz`, `.zst`, `.gz`, none).
    pub url: String,
    /// SHA-256, hex, of the file as published.
    pub sha256: String,
    /// SHA-256, hex, of the unpacked image, where it is known.
    pub content_sha256: Option<String>,
}

/// Processor architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// `AArch64`.
    Arm64,
}

/// A node of the site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its class.
    pub class: ClassName,
    /// Its host name, where that is not the node's name.
    pub hostname: Option<String>,
    /// What this node alone has.
    pub settings: NodeSettings,
}

/// What a card carries; every part is optional, so that defaults, class and node can each say some of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NodeSettings {
    /// Static network.
    pub network: NetworkSettings,
    /// SSH daemon, users and host keys.
    pub ssh: SshSettings,
    /// k3s configuration.
    pub k3s: K3sSettings,
    /// journald drop-in.
    pub journald: JournaldSettings,
    /// Further lines of `/etc/hosts`: address → names.
    pub hosts: BTreeMap<IpAddr, Vec<String>>,
    /// Where the NoCloud seed goes.
    pub seed: Option<SeedPlace>,
    /// How metis reaches the running host, and how it comes back.
    pub host: HostSettings,
}

/// Static address of the node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetworkSettings {
    /// What reads the configuration.
    pub renderer: Option<NetworkRenderer>,
    /// e.g. `end0`.
    pub interface: Option<String>,
    /// e.g. `192.168.22.43`.
    pub address: Option<IpAddr>,
    /// Prefix length of the network, e.g. 24.
    pub prefix: Option<u8>,
    /// Default route.
    pub gateway: Option<IpAddr>,
    /// Name servers; replaces as a whole.
    pub nameservers: Option<Vec<IpAddr>>,
    /// Search domains; replaces as a whole.
    pub search: Option<Vec<String>>,
}

/// Who configures the node's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkRenderer {
    /// `/etc/netplan/*.yaml`.
    Netplan,
    /// `/etc/systemd/network/*.network`.
    Networkd,
}

/// SSH on the node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SshSettings {
    /// Port of the daemon.
    pub port: Option<u16>,
    /// By user name.
    pub users: BTreeMap<String, SshUser>,
    /// Private host keys, so that a recovered node keeps its identity.
    pub host_keys: BTreeMap<HostKeyAlgorithm, SecretRef>,
}

/// A user of the node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SshUser {
    /// Lines of `authorized_keys`.
    pub keys: Option<Vec<String>>,
    /// Supplementary groups.
    pub groups: Option<Vec<String>>,
    /// Whether sudo asks no password.
    pub sudo: Option<bool>,
    /// A crypt(5) hash, not the password itself.
    pub password_hash: Option<SecretRef>,
}

/// Algorithm of an SSH host key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostKeyAlgorithm {
    /// ssh-ed25519.
    Ed25519,
    /// ecdsa-sha2-nistp*.
    Ecdsa,
    /// ssh-rsa.
    Rsa,
}

/// k3s on the node (docs.k3s.io, `config.yaml.d`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct K3sSettings {
    /// Server or agent; absent: the card carries no k3s configuration.
    pub role: Option<K3sRole>,
    /// e.g. `v1.31.5+k3s1`; pinned: a recovery is never an upgrade.
    pub version: Option<String>,
    /// URL of the server to join.
    pub server: Option<String>,
    /// Join token.
    pub token: Option<SecretRef>,
    /// Node labels; apply at first registration only.
    pub labels: BTreeMap<String, String>,
    /// Node taints `key=value:Effect`; apply at first registration only.
    pub taints: Option<Vec<String>>,
    /// `node-ip`; the network address where absent.
    pub node_ip: Option<IpAddr>,
}

/// What k3s runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum K3sRole {
    /// Control plane.
    Server,
    /// Worker.
    Agent,
}

/// `journald.conf.d` drop-in (journald.conf(5)).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JournaldSettings {
    /// `Storage=`.
    pub storage: Option<String>,
    /// `SystemMaxUse=`, e.g. `200M`.
    pub system_max_use: Option<String>,
    /// `RuntimeMaxUse=`.
    pub runtime_max_use: Option<String>,
    /// `MaxRetentionSec=`, e.g. `1month`.
    pub max_retention: Option<String>,
}

/// Where cloud-init finds its NoCloud seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SeedPlace {
    /// On the FAT boot partition where there is one labelled for it, else below the root.
    Auto,
    /// `/` of the FAT boot partition.
    Boot,
    /// `/var/lib/cloud/seed/nocloud` of the root.
    Root,
    /// The image has no cloud-init.
    None,
}

/// A node with everything that applies to it: defaults, then its class, then itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergedNode {
    /// Its name in the inventory.
    pub name: NodeName,
    /// Its host name.
    pub hostname: String,
    /// Its class.
    pub class: ClassName,
    /// Architecture of its class.
    pub arch: Arch,
    /// Image of its class.
    pub image: Option<ImageRef>,
    /// The merged settings.
    pub settings: NodeSettings,
}
