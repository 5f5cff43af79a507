//! Section `power` of the configuration, validated.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::site::{DomainName, NodeName, OnTrigger, PowerDomain, SecretRef, UpsName};

/// Section `power`. A site without any UPS is valid.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// `power.on_trigger`.
    pub on_trigger: OnTrigger,
    /// `power.poll_interval`: how often each upsd is asked.
    pub poll_interval: Duration,
    /// `power.read_timeout`: deadline of every read from upsd.
    pub read_timeout: Duration,
    /// `power.thresholds`.
    pub thresholds: Thresholds,
    /// `power.shutdown_budget`: what a shutdown is taken to need, until real runs were measured.
    pub shutdown_budget: Duration,
    /// `power.cut_outlets`: after this host halted, its own UPSes cut and restore their outlets (see [`super::outlets`]).
    pub cut_outlets: bool,
    /// `power.prepared_within`: metis is armed only where a look at all preparations was green, and not longer ago; `None`: it is not asked for.
    pub prepared_within: Option<Duration>,
    /// `power.predecessors`: units of systems that metis replaces; it is not armed while one of them runs.
    pub predecessors: Vec<String>,
    /// What was learned of it, by domain ([`super::budget::of_plan`]); no setting: it comes from real runs and is in no digest.
    #[serde(skip)]
    pub budgets: BTreeMap<DomainName, Duration>,
    /// `power.upses`.
    pub upses: Vec<UpsSettings>,
    /// `power.domains`.
    pub domains: Vec<PowerDomain>,
}

impl Settings {
    /// The UPSes that feed a node: those of its power domain.
    pub fn feeding(&self, node: &NodeName) -> BTreeSet<UpsName> {
        self.domains.iter().filter(|domain| domain.nodes.contains(node)).flat_map(|domain| domain.upses.iter().cloned()).collect()
    }
}

/// When a UPS or a domain is critical (upsmon(8), upsmon.conf(5)).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Thresholds {
    /// `runtime_safety_factor`: critical when runtime <= factor x budget.
    pub runtime_safety_factor: f64,
    /// `charge_floor`: critical on battery at or below this percentage.
    pub charge_floor: f64,
    /// `max_on_battery`: critical when on battery for longer; `None`: no limit.
    pub max_on_battery: Option<Duration>,
    /// `debounce_polls`: consecutive polls that must agree before a trigger.
    pub debounce_polls: u32,
    /// `comm_lost_after`: on battery and not heard from for this long counts as low battery (upsmon's DEADTIME).
    pub comm_lost_after: Duration,
    /// `off_after`: OFF for this long is critical (upsmon's OFFDURATION).
    pub off_after: Duration,
}

/// A UPS and how its upsd is reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UpsSettings {
    /// `ups@host[:port]`; UPSes with the same host and port share one connection.
    pub name: UpsName,
    /// Login; absent: read only, without LOGIN.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretRef>,
    /// STARTTLS; absent: plain text.
    pub tls: Option<TlsSettings>,
}

/// STARTTLS towards upsd, with an own CA.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TlsSettings {
    /// PEM file with the CA certificates that are trusted; no others are.
    pub ca_file: PathBuf,
    /// Name that upsd's certificate must carry, where that is not the host's.
    pub server_name: Option<String>,
}
