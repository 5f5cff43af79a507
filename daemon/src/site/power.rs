//! Nouns of power: what a UPS says, what it means, what it feeds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{DomainName, NodeName, UpsName};

/// One successful reading of one UPS.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Reading {
    /// Tokens of `ups.status`, split on spaces; unknown ones are kept.
    pub status: BTreeSet<String>,
    /// `battery.charge` in percent; absent where the UPS says no number.
    pub charge: Option<f64>,
    /// `battery.runtime`; absent where the UPS says no number.
    pub runtime: Option<Duration>,
    /// `ups.load` in percent.
    pub load: Option<f64>,
    /// Every variable of `LIST VAR`, unescaped.
    pub vars: BTreeMap<String, String>,
}

/// What is believed of a UPS or of a power domain. The order is that of urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Fed by the mains.
    Online,
    /// Never heard from, or not for too long while on line: it cannot be told.
    Unknown,
    /// Fed by its battery.
    OnBattery,
    /// About to lose power: a trigger.
    Critical,
}

/// What fails together: the UPSes that feed it and what they feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PowerDomain {
    /// Its name.
    pub name: DomainName,
    /// The feeds; the domain is up while one of them is.
    pub upses: BTreeSet<UpsName>,
    /// Nodes and hosts of the inventory that are fed by it.
    pub nodes: BTreeSet<NodeName>,
}

/// When the cluster is started without a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBoot {
    /// Never.
    #[default]
    Never,
    /// After a stop that a UPS caused, and after a boot that nobody ordered.
    AfterOutage,
    /// After every boot of this host.
    Always,
}

/// What metis does when a trigger is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnTrigger {
    /// Disarmed: the trigger is journaled, shown and logged, and nothing else.
    #[default]
    Observe,
    /// Stops k3s on all hosts; hosts stay on.
    ClusterOnly,
    /// Stops k3s, then powers the hosts off.
    HostPoweroff,
}
