//! Settings for tests of this room.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Settings, Thresholds, UpsSettings};
use crate::site::{OnTrigger, PowerDomain, UpsName};

const POLL: Duration = Duration::from_secs(2);

/// These UPSes feed one domain, `site`; polls every 2 s.
pub fn settings(upses: &[&str]) -> Settings {
    let names: BTreeSet<UpsName> = upses.iter().map(|name| UpsName::from(*name)).collect();
    Settings {
        on_trigger: OnTrigger::Observe,
        poll_interval: POLL,
        read_timeout: Duration::from_secs(2),
        thresholds: Thresholds {
            runtime_safety_factor: 1.10,
            charge_floor: 20.0,
            max_on_battery: Some(Duration::from_mins(10)),
            debounce_polls: 3,
            comm_lost_after: Duration::from_secs(15),
            off_after: Duration::from_secs(30),
        },
        shutdown_budget: Duration::from_mins(5),
        cut_outlets: false,
        prepared_within: None,
        predecessors: Vec::new(),
        budgets: BTreeMap::new(),
        upses: names.iter().map(|name| UpsSettings { name: name.clone(), username: None, password: None, tls: None }).collect(),
        domains: vec![PowerDomain { name: "site".into(), upses: names, nodes: BTreeSet::new() }],
    }
}
