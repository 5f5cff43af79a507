//! `inventory.yaml`: classes, nodes and what their cards carry.

use std::net::IpAddr;

use super::hosts::host;
use super::network::network;
use super::secret::secret;
use crate::config::cursor::{Cursor, Mention, Parsed, Slot};
use crate::config::values;
use crate::site::{
    Arch, Class, ClassName, HostKeyAlgorithm, ImageRef, Inventory, JournaldSettings, K3sRole, K3sSettings, Node, NodeName, NodeSettings,
    SeedPlace, SshSettings, SshUser,
};

const ARCHES: [(&str, Arch); 2] = [("amd64", Arch::Amd64), ("arm64", Arch::Arm64)];
const K3S_ROLES: [(&str, K3sRole); 2] = [("server", K3sRole::Server), ("agent", K3sRole::Agent)];
const HOST_KEYS: [(&str, HostKeyAlgorithm); 3] =
    [("ed25519", HostKeyAlgorithm::Ed25519), ("ecdsa", HostKeyAlgorithm::Ecdsa), ("rsa", HostKeyAlgorithm::Rsa)];
const SEED_PLACES: [(&str, SeedPlace); 4] =
    [("auto", SeedPlace::Auto), ("boot", SeedPlace::Boot), ("root", SeedPlace::Root), ("none", SeedPlace::None)];
/// journald.conf(5), `Storage=`.
const JOURNAL_STORAGE: [(&str, &str); 4] = [("volatile", "volatile"), ("persistent", "persistent"), ("auto", "auto"), ("none", "none")];

/// The inventory with the places that the cross checks need.
#[derive(Default)]
pub struct InventoryDraft {
    /// What was read.
    pub inventory: Inventory,
    /// Names of classes, good or bad.
    pub classes: Vec<Mention<String>>,
    /// Names of nodes, good or bad.
    pub node_keys: Vec<Mention<String>>,
    /// Places of the good ones.
    pub nodes: Vec<NodeDraft>,
}

/// Places of a node that later checks complain about.
pub struct NodeDraft {
    /// Its name, with its key's place.
    pub name: Mention<NodeName>,
    /// The class it names.
    pub class: Option<Mention<ClassName>>,
    /// Where its host name stands; its key where it has none.
    pub hostname: Mention<()>,
    /// Where its address stands; its key where it has none of its own.
    pub address: Mention<()>,
}

/// Reads `inventory.yaml`.
pub fn inventory(cursor: &Cursor<'_>) -> InventoryDraft {
    let defaults = cursor.section("defaults", settings);
    let class_keys = cursor.slot("classes").map(|slot| slot.keys()).unwrap_or_default();
    let classes = cursor.table("classes", values::name::<ClassName>, |slot, _| Some(slot.section(class)));
    let node_keys = cursor.slot("nodes").map(|slot| slot.keys()).unwrap_or_default();
    let read = cursor.table("nodes", values::name::<NodeName>, |slot, name| Some(slot.section(|section| node(section, slot, name))));
    let mut drafts = Vec::new();
    let mut nodes = std::collections::BTreeMap::new();
    for (name, (node, draft)) in read {
        nodes.insert(name, node);
        drafts.push(draft);
    }
    InventoryDraft { inventory: Inventory { defaults, classes, nodes }, classes: class_keys, node_keys, nodes: drafts }
}

fn class(section: &Cursor<'_>) -> Class {
    // A class that could not be read in full still counts as one, so that its nodes do not complain too.
    let arch = section.required("arch", "amd64 or arm64", values::one_of(&ARCHES)).unwrap_or(Arch::Amd64);
    let image = section.slot("image").and_then(|slot| slot.section(image));
    Class { arch, image, settings: settings(section) }
}

fn image(section: &Cursor<'_>) -> Option<ImageRef> {
    let url = section.required("url", "file:/path or https://host/path", values::image_url);
    let sha256 = section.required("sha256", "the SHA-256 of the file as published, 64 hexadecimal digits", values::sha256);
    let content_sha256 = section.value("content_sha256", values::sha256);
    Some(ImageRef { url: url?, sha256: sha256?, content_sha256 })
}

fn node(section: &Cursor<'_>, slot: &Slot<'_>, name: &NodeName) -> (Node, NodeDraft) {
    let class = section.required("class", "one of `classes`", |scalar| values::name::<ClassName>(&scalar.text));
    let hostname = section.value("hostname", values::dns_label);
    let key = Mention { name: (), place: slot.key_place.clone(), path: slot.path.clone() };
    let at = |slot: Option<Slot<'_>>| {
        slot.map_or_else(|| key.clone(), |slot| Mention { name: (), place: slot.node.place.clone(), path: slot.path.clone() })
    };
    let mut address = None;
    let settings = settings_noting(section, &mut |section| address = section.slot("address").map(|slot| at(Some(slot))));
    let class_mention = class.clone().zip(section.slot("class")).map(|(name, slot)| {
        let place = slot.node.place.clone();
        Mention { name, place, path: slot.path.clone() }
    });
    let draft = NodeDraft {
        name: Mention { name: name.clone(), place: key.place.clone(), path: key.path.clone() },
        class: class_mention,
        hostname: at(section.slot("hostname")),
        address: address.unwrap_or_else(|| key.clone()),
    };
    (Node { class: class.unwrap_or_else(|| ClassName::new("")), hostname, settings }, draft)
}

fn settings(section: &Cursor<'_>) -> NodeSettings {
    settings_noting(section, &mut |_| {})
}

/// What defaults, classes and nodes have in common; `note` sees the section `network`.
fn settings_noting(section: &Cursor<'_>, note: &mut dyn FnMut(&Cursor<'_>)) -> NodeSettings {
    NodeSettings {
        network: section.section("network", |section| {
            note(section);
            network(section)
        }),
        ssh: section.section("ssh", ssh),
        k3s: section.section("k3s", k3s),
        journald: section.section("journald", journald),
        hosts: section.table("hosts", address_key, |slot, _| slot.list(values::dns_name)),
        seed: section.value("seed", values::one_of(&SEED_PLACES)),
        host: section.section("host", host),
    }
}

fn address_key(key: &str) -> Parsed<IpAddr> {
    key.parse().map_err(|_| format!("{} is not an IP address; write `address: [name, …]`", values::shown(key)))
}

fn ssh(section: &Cursor<'_>) -> SshSettings {
    SshSettings {
        port: section.value("port", values::port),
        users: section.table("users", values::user_name, |slot, _| Some(slot.section(user))),
        host_keys: section.table("host_keys", |key| values::word(&HOST_KEYS, key), |slot, _| secret(slot)),
    }
}

fn user(section: &Cursor<'_>) -> SshUser {
    SshUser {
        keys: section.list("keys", values::authorized_key),
        groups: section.list("groups", values::group_name),
        sudo: section.value("sudo", values::boolean),
        password_hash: section.slot("password_hash").as_ref().and_then(secret),
    }
}

fn k3s(section: &Cursor<'_>) -> K3sSettings {
    let taints = section.slot("taints");
    let taints = taints.and_then(|slot| {
        let taints: Vec<String> = slot.set(values::taint)?.into_iter().map(|taint| taint.name).collect();
        report_same_taints(&slot, &taints);
        Some(taints)
    });
    K3sSettings {
        role: section.value("role", values::one_of(&K3S_ROLES)),
        version: section.value("version", values::k3s_version),
        server: section.value("server", values::server_url),
        token: section.slot("token").as_ref().and_then(secret),
        labels: section.table("labels", values::label_key, |slot, _| slot.scalar(values::label_value)),
        taints,
        node_ip: section.value("node_ip", values::ip),
    }
}

/// Kubernetes refuses a node with two taints of one key and effect.
fn report_same_taints(slot: &Slot<'_>, taints: &[String]) {
    let mut seen = std::collections::BTreeMap::new();
    for taint in taints {
        if let Some(first) = seen.insert(values::taint_identity(taint), taint) {
            slot.error(format!("has `{first}` and `{taint}`: a node can have only one taint of a key and effect"));
        }
    }
}

fn journald(section: &Cursor<'_>) -> JournaldSettings {
    JournaldSettings {
        storage: section.value("storage", values::one_of(&JOURNAL_STORAGE)).map(str::to_owned),
        system_max_use: section.value("system_max_use", values::journal_size),
        runtime_max_use: section.value("runtime_max_use", values::journal_size),
        max_retention: section.value("max_retention", values::time_span),
    }
}
