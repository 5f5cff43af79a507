//! What is asked for when the site is to be stopped.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ShutdownMode;
use crate::site::{Cause, DomainName, OnTrigger};

/// A shutdown as it is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShutdownOrder {
    /// What becomes of the hosts.
    pub mode: ShutdownMode,
    /// For people.
    pub reason: String,
    /// Why it was begun.
    pub cause: Cause,
    /// Only what these domains feed; `None`: the whole site.
    pub domains: Option<BTreeSet<DomainName>>,
    /// Pods are not evicted; nodes are cordoned.
    pub skip_drain: bool,
    /// Neither snapshot nor dump.
    pub skip_etcd_snapshot: bool,
    /// `--drain-timeout`, else the setting.
    pub drain_timeout: Option<Duration>,
    /// `--emergency-drain-timeout`, else the setting.
    pub emergency_drain_timeout: Option<Duration>,
    /// `power.cut_outlets`: the UPSes cut and restore their outlets after this host has halted.
    pub cut_outlets: bool,
    /// Runtime that is left, where the site runs on battery: the plan is cut to it.
    pub remaining: Option<Duration>,
}

impl ShutdownOrder {
    /// What failing UPSes ask for: an emergency of these domains, as the settings say. Disarmed, what powering off would take is estimated.
    pub fn of_ups(domains: BTreeSet<DomainName>, on_trigger: OnTrigger, cut_outlets: bool) -> Self {
        Self {
            mode: if on_trigger == OnTrigger::ClusterOnly { ShutdownMode::ClusterOnly } else { ShutdownMode::HostPoweroff },
            reason: String::new(),
            cause: Cause::Ups { domains: domains.clone() },
            domains: Some(domains),
            skip_drain: false,
            skip_etcd_snapshot: false,
            drain_timeout: None,
            emergency_drain_timeout: None,
            cut_outlets,
            remaining: None,
        }
    }
}
