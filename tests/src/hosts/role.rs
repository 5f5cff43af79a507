//! Who the hosts are.

use std::net::Ipv4Addr;

use crate::lab::{BRIDGE, Lab};

/// A host of the laboratory, named after the one of the site that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The coordinator; outside the cluster.
    TitanDb,
    /// The control plane: the k3s server.
    Titan0a,
    /// A worker with volumes.
    Titan13,
    /// A worker with volumes.
    Titan15,
    /// The worker that carries Harbor.
    Titan05,
    /// A worker and the coordinator's peer; its node is titan-24. Has its own UPS.
    Tethys,
}

impl Role {
    /// All six.
    pub const ALL: [Self; 6] = [Self::TitanDb, Self::Titan0a, Self::Titan13, Self::Titan15, Self::Titan05, Self::Tethys];

    /// The host's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::TitanDb => "titan-db",
            Self::Titan0a => "titan-0a",
            Self::Titan13 => "titan-13",
            Self::Titan15 => "titan-15",
            Self::Titan05 => "titan-05",
            Self::Tethys => "tethys",
        }
    }

    /// The name of its Kubernetes node, where it is in the cluster.
    pub fn node(self) -> Option<&'static str> {
        match self {
            Self::TitanDb => None,
            Self::Tethys => Some("titan-24"),
            worker => Some(worker.name()),
        }
    }

    /// What an inventory calls it: as its node, where it is one.
    pub fn inventory_name(self) -> &'static str {
        self.node().unwrap_or(self.name())
    }

    /// Its address on the laboratory's network.
    pub fn address(self) -> Ipv4Addr {
        let last = match self {
            Self::TitanDb => 2,
            Self::Titan05 => 5,
            Self::Titan0a => 10,
            Self::Titan13 => 13,
            Self::Titan15 => 15,
            Self::Tethys => 24,
        };
        Ipv4Addr::new(10, 77, 0, last)
    }

    /// The MAC address of its network interface.
    pub fn mac(self) -> String {
        format!("02:4d:45:54:49:{:02x}", self.address().octets()[3])
    }

    /// Its architecture, as Kubernetes names it. The nodes that are Raspberry Pis say so, though everything here runs on one machine.
    pub fn arch(self) -> &'static str {
        match self {
            Self::TitanDb | Self::Tethys | Self::Titan0a => "amd64",
            Self::Titan13 | Self::Titan15 | Self::Titan05 => "arm64",
        }
    }

    /// What it draws while it is on, in watts.
    pub fn watts(self) -> f64 {
        match self {
            Self::Tethys => 60.0,
            Self::TitanDb => 25.0,
            Self::Titan0a | Self::Titan05 => 8.0,
            Self::Titan13 | Self::Titan15 => 12.0,
        }
    }

    /// Makes its network namespace and its cable to the bridge; the laboratory's end of it.
    ///
    /// # Errors
    /// Where `ip` fails.
    pub(super) fn cable(self, lab: &Lab) -> anyhow::Result<String> {
        let (name, cable) = (self.name(), format!("ve-{}", self.name()));
        lab.ip(&format!("netns add {name}"))?;
        lab.ip(&format!("link add {cable} type veth peer name host0 netns {name} address {}", self.mac()))?;
        lab.ip(&format!("link set {cable} master {BRIDGE}"))?;
        lab.ip(&format!("-n {name} link set lo up"))?;
        lab.ip(&format!("-n {name} address add {}/24 dev host0", self.address()))?;
        lab.ip(&format!("-n {name} link set host0 up"))?;
        Ok(cable)
    }
}
