//! Hosts as metis reaches them, and how each comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{DomainName, K3sRole, NodeName, SecretRef, UpsName};

/// How a host is reached and powered; part of the inventory, every value optional so that defaults, class and node can each say some.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HostSettings {
    /// How commands get there; SSH where absent, `local` for this host.
    pub access: Option<Access>,
    /// Name or address; the node's network address where absent, else its host name.
    pub address: Option<String>,
    /// SSH port; `ssh.port` where absent, else 22.
    pub port: Option<u16>,
    /// SSH user; `hosts.user` where absent.
    pub user: Option<String>,
    /// SSH private key; `hosts.key` where absent.
    pub key: Option<SecretRef>,
    /// Fingerprints `SHA256:…` of its host keys (ssh-keygen -l); `hosts.known_hosts` counts where absent.
    pub host_keys: Option<Vec<String>>,
    /// Whether commands need `sudo -n`; true where absent and the user is not root.
    pub sudo: Option<bool>,
    /// How it comes back after its power was gone; `by-hand` where absent.
    pub returns: Option<Returns>,
    /// MAC address that a magic packet wakes, `aa:bb:cc:dd:ee:ff`.
    pub mac: Option<String>,
    /// `wake.broadcast`: where a magic packet for it goes; the broadcast address of its network where absent.
    pub wake_broadcast: Option<IpAddr>,
    /// Its name as a Kubernetes node; its host name where absent.
    pub node_name: Option<String>,
    /// Whether metis may stop and power it off at all; true where absent.
    pub managed: Option<bool>,
}

/// How commands get to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// SSH.
    Ssh,
    /// A short-lived privileged pod on the node.
    HelperPod,
    /// This host: systemd over D-Bus.
    Local,
    /// Not at all: it is left alone and named in the plan.
    None,
}

impl Access {
    /// `ssh`, `helper-pod`, `local` or `none`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::HelperPod => "helper-pod",
            Self::Local => "local",
            Self::None => "none",
        }
    }
}

/// How a host comes back after its power was gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Returns {
    /// By itself when its power is cut and comes back (BIOS: restore on AC; a Pi always does).
    AcCycle,
    /// By a magic packet.
    WakeOnLan,
    /// A person presses a button.
    ByHand,
}

impl Returns {
    /// `ac-cycle`, `wake-on-lan` or `by-hand`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AcCycle => "ac-cycle",
            Self::WakeOnLan => "wake-on-lan",
            Self::ByHand => "by-hand",
        }
    }
}

/// A host with everything that applies to it: what a plan and the host adapters need to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// Its name in the inventory.
    pub name: NodeName,
    /// Its name as a Kubernetes node.
    pub node_name: String,
    /// How commands get there.
    pub access: Access,
    /// Name or address.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// SSH user.
    pub user: String,
    /// SSH private key.
    pub key: Option<SecretRef>,
    /// Fingerprints of its host keys; empty: `hosts.known_hosts` counts.
    pub host_keys: Vec<String>,
    /// Commands need `sudo -n`.
    pub sudo: bool,
    /// How it comes back.
    pub returns: Returns,
    /// MAC address that a magic packet wakes.
    pub mac: Option<String>,
    /// Where a magic packet for it goes.
    #[serde(default)]
    pub wake: Option<SocketAddr>,
    /// What k3s runs as there; `None`: it is outside the cluster.
    pub k3s: Option<K3sRole>,
    /// This is the host on which this metisd runs.
    pub this_host: bool,
    /// Power domains that feed it.
    pub domains: BTreeSet<DomainName>,
}

/// All hosts of the site and what powers them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Topology {
    /// By name.
    pub hosts: BTreeMap<NodeName, Host>,
    /// UPSes by power domain.
    pub domains: BTreeMap<DomainName, BTreeSet<UpsName>>,
    /// UPSes whose upsd runs on this host.
    pub local_upses: BTreeSet<UpsName>,
    /// Hosts on which Longhorn keeps data, by their labels.
    #[serde(default)]
    pub storage: BTreeSet<NodeName>,
}
