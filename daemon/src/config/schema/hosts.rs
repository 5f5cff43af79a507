//! Section `hosts`, and `host` of the inventory: how hosts are reached, and how each comes back.

use std::path::PathBuf;
use std::time::Duration;

use super::secret::secret;
use crate::config::cursor::{Cursor, Mention, Slot};
use crate::config::values;
use crate::host::Settings;
use crate::site::{Access, HostSettings, NodeName, Returns};

const ACCESS: [(&str, Access); 4] =
    [("ssh", Access::Ssh), ("helper-pod", Access::HelperPod), ("local", Access::Local), ("none", Access::None)];
const RETURNS: [(&str, Returns); 3] = [("ac-cycle", Returns::AcCycle), ("wake-on-lan", Returns::WakeOnLan), ("by-hand", Returns::ByHand)];

/// Section `hosts` with the places that the cross checks need.
pub struct HostsDraft {
    /// What was read.
    pub settings: Settings,
    /// `hosts.this_host`.
    pub this_host: Option<Mention<NodeName>>,
}

/// Section `hosts`.
pub fn hosts(section: &Cursor<'_>) -> HostsDraft {
    let this_host = section.slot("this_host").and_then(|slot| {
        let name: NodeName = slot.scalar(|scalar| values::name(&scalar.text))?;
        Some(Mention { name, place: slot.node.place.clone(), path: slot.path })
    });
    let timeout = values::duration(Duration::from_millis(500)..=Duration::from_secs(60));
    let settings = Settings {
        this_host: this_host.as_ref().map(|mention| mention.name.clone()),
        user: section.value("user", |scalar| values::user_name(&scalar.text)).unwrap_or_else(|| "metis".to_owned()),
        key: section.slot("key").as_ref().and_then(secret),
        known_hosts: section.value("known_hosts", values::path).unwrap_or_else(|| PathBuf::from("/etc/metis/known_hosts")),
        connect_timeout: section.value("connect_timeout", timeout).unwrap_or(Duration::from_secs(5)),
        at_once: section.value("at_once", values::integer(1..=64)).map_or(8, |number| number as u32),
        helper_image: section.value("helper_image", values::container_image),
        helper_namespace: section.value("helper_namespace", values::dns_label).unwrap_or_else(|| "kube-system".to_owned()),
    };
    HostsDraft { settings, this_host }
}

/// Section `host` of defaults, a class or a node.
pub fn host(section: &Cursor<'_>) -> HostSettings {
    let host_keys = section.slot("host_keys");
    if host_keys.as_ref().is_some_and(Slot::is_empty) {
        section.error("`host_keys` is empty, so that no host key would do; name fingerprints, or remove it and `hosts.known_hosts` counts");
    }
    HostSettings {
        access: section.value("access", values::one_of(&ACCESS)),
        address: section.value("address", values::ip_or_name),
        port: section.value("port", values::port),
        user: section.value("user", |scalar| values::user_name(&scalar.text)),
        key: section.slot("key").as_ref().and_then(secret),
        host_keys: host_keys.and_then(|slot| slot.list(values::fingerprint)),
        sudo: section.value("sudo", values::boolean),
        returns: section.value("returns", values::one_of(&RETURNS)),
        mac: section.value("mac", values::mac),
        wake_broadcast: section.section("wake", |wake| wake.value("broadcast", values::ip)),
        node_name: section.value("node_name", values::node_name),
        managed: section.value("managed", values::boolean),
    }
}
