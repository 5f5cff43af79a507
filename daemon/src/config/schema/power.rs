//! Section `power`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::secret::secret;
use crate::config::cursor::{Cursor, Mention, Parsed, Slot};
use crate::config::diagnostic::Place;
use crate::config::tree::Scalar;
use crate::config::values;
use crate::power::{Settings, Thresholds, TlsSettings, UpsSettings};
use crate::site::{DomainName, NodeName, OnTrigger, PowerDomain, UpsName};

/// Section `power` with the places that the cross checks need.
pub struct PowerDraft {
    /// What was read.
    pub settings: Settings,
    /// Keys of `upses`, good or bad, with their places.
    pub upses: Vec<Mention<String>>,
    /// What each domain names.
    pub domains: Vec<DomainDraft>,
}

/// A domain with the places of the names in it.
pub struct DomainDraft {
    /// Its name.
    pub name: DomainName,
    /// Where its key stands.
    pub place: Place,
    /// Its key.
    pub path: String,
    /// Its feeds.
    pub upses: Vec<Mention<UpsName>>,
    /// What it feeds.
    pub nodes: Vec<Mention<NodeName>>,
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// What stopped and started sites before metis.
const PREDECESSORS: [&str; 2] = ["ananke.service", "hecate.service"];

const HOUR: Duration = seconds(3600);

/// Section `power`.
pub fn power(section: &Cursor<'_>) -> PowerDraft {
    let on_trigger = section.value("on_trigger", on_trigger).unwrap_or_default();
    // Poll and answer together stay within the 3 s that metis may add to upsd's own MAXAGE, while upsd answers within a second.
    let poll_interval = section.value("poll_interval", values::duration(Duration::from_millis(500)..=seconds(60))).unwrap_or(seconds(2));
    let read_timeout = section.value("read_timeout", values::duration(Duration::from_millis(100)..=seconds(60))).unwrap_or(seconds(5));
    let shutdown_budget = section.value("shutdown_budget", values::duration(seconds(1)..=24 * HOUR)).unwrap_or(seconds(300));
    let thresholds = section.section("thresholds", |section| thresholds(section, poll_interval));
    let cut_outlets = section.value("cut_outlets", values::boolean).unwrap_or_default();
    let predecessors = section.list("predecessors", values::unit_name).unwrap_or_else(|| PREDECESSORS.map(str::to_owned).to_vec());
    let prepared_within =
        section.value("prepared_within", values::duration_or_never(HOUR..=366 * 24 * HOUR)).unwrap_or(Some(30 * 24 * HOUR));
    let raw_upses = section.slot("upses").map(|slot| slot.keys()).unwrap_or_default();
    let upses = section.table("upses", values::ups_name::<UpsName>, |slot, name| Some(slot.section(|section| ups(section, name))));
    let domains: BTreeMap<DomainName, DomainDraft> =
        section.table("domains", values::name::<DomainName>, |slot, name| Some(slot.section(|section| domain(section, slot, name))));
    let domains: Vec<DomainDraft> = domains.into_values().collect();
    let settings = Settings {
        on_trigger,
        poll_interval,
        read_timeout,
        thresholds,
        shutdown_budget,
        cut_outlets,
        prepared_within,
        predecessors,
        budgets: BTreeMap::new(),
        upses: upses.into_values().collect(),
        domains: domains.iter().map(DomainDraft::settings).collect(),
    };
    PowerDraft { settings, upses: raw_upses, domains }
}

/// What an armed metis does; nothing is armed by it.
fn on_trigger(scalar: &Scalar) -> Parsed<OnTrigger> {
    let words = [("observe", OnTrigger::Observe), ("cluster-only", OnTrigger::ClusterOnly), ("host-poweroff", OnTrigger::HostPoweroff)];
    values::word(&words, &scalar.text)
}

/// Section `power.thresholds`; defaults of upsmon.conf(5) where it has them.
fn thresholds(section: &Cursor<'_>, poll_interval: Duration) -> Thresholds {
    let comm_lost_after = section.value("comm_lost_after", values::duration(seconds(1)..=HOUR)).unwrap_or(seconds(15));
    if comm_lost_after <= poll_interval {
        section.error(format!(
            "`comm_lost_after` ({}) must be longer than `power.poll_interval` ({}), or every pause between polls counts as silence",
            values::show_duration(comm_lost_after),
            values::show_duration(poll_interval),
        ));
    }
    Thresholds {
        runtime_safety_factor: section.value("runtime_safety_factor", values::number(1.0..=10.0)).unwrap_or(1.10),
        charge_floor: section.value("charge_floor", values::percent).unwrap_or(20.0),
        max_on_battery: section.value("max_on_battery", values::duration_or_never(seconds(1)..=24 * HOUR)).flatten(),
        debounce_polls: section.value("debounce_polls", values::integer(1..=100)).map_or(3, |polls| polls as u32),
        comm_lost_after,
        off_after: section.value("off_after", values::duration(seconds(0)..=HOUR)).unwrap_or(seconds(30)),
    }
}

fn ups(section: &Cursor<'_>, name: &UpsName) -> UpsSettings {
    let username = section.value("username", values::text);
    let password = section.slot("password");
    match (section.slot("username").is_some(), password.is_some()) {
        (true, false) => {
            section.missing("password", "upsd takes a user name only with its password, such as { file: /etc/metis/nut.password }");
        }
        (false, true) => section.missing("username", "a password alone is of no use; give the user name of upsd.users(5)"),
        _ => {}
    }
    let tls = section.slot("tls").map(|slot| {
        slot.section(|section| {
            let ca_file = section.required("ca_file", "the PEM file with the CA that signed upsd's certificate", values::path);
            let server_name = section.value("server_name", values::dns_name);
            ca_file.map(|ca_file| TlsSettings { ca_file, server_name })
        })
    });
    UpsSettings { name: name.clone(), username, password: password.as_ref().and_then(secret), tls: tls.flatten() }
}

fn domain(section: &Cursor<'_>, slot: &Slot<'_>, name: &DomainName) -> DomainDraft {
    let upses = section.slot("upses");
    if upses.as_ref().is_none_or(Slot::is_empty) {
        section.missing("upses", "the UPSes that feed this domain, such as [pyrphoros@localhost]");
    }
    let nodes = section.slot("nodes");
    if nodes.is_none() {
        section.missing("nodes", "what it feeds, by the names of the inventory; [] where that is nothing of the inventory");
    }
    DomainDraft {
        name: name.clone(),
        place: slot.key_place.clone(),
        path: slot.path.clone(),
        upses: upses.and_then(|slot| slot.set(|scalar| values::ups_name(&scalar.text))).unwrap_or_default(),
        nodes: nodes.and_then(|slot| slot.set(|scalar| values::name(&scalar.text))).unwrap_or_default(),
    }
}

impl DomainDraft {
    fn settings(&self) -> PowerDomain {
        PowerDomain {
            name: self.name.clone(),
            upses: self.upses.iter().map(|ups| ups.name.clone()).collect(),
            nodes: self.nodes.iter().map(|node| node.name.clone()).collect(),
        }
    }
}
