//! Section `startup`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::repairs::repairs;
use super::services;
use crate::cluster::{Clocks, StartupSettings};
use crate::config::cursor::{Cursor, Parsed};
use crate::config::tree::Scalar;
use crate::config::values;
use crate::site::OnBoot;

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

const ON_BOOT: [(&str, OnBoot); 3] = [("never", OnBoot::Never), ("after_outage", OnBoot::AfterOutage), ("always", OnBoot::Always)];

/// `true` as it was written before there was a quorum.
const CLOCKS: [(&str, Clocks); 4] =
    [("strict", Clocks::Strict), ("quorum", Clocks::Quorum), ("false", Clocks::Off), ("true", Clocks::Strict)];

const DAY: Duration = minutes(24 * 60);

pub fn startup(section: &Cursor<'_>) -> StartupSettings {
    let time = |key: &'static str, default: Duration| section.value(key, values::duration(Duration::from_secs(1)..=DAY)).unwrap_or(default);
    let defaults = StartupSettings::default();
    StartupSettings {
        on_boot: section.value("on_boot", values::one_of(&ON_BOOT)).unwrap_or(defaults.on_boot),
        min_battery: section.value("min_battery", values::integer(0..=100)).map_or(defaults.min_battery, |percent| percent as u8),
        require_ups_battery: section.value("require_ups_battery", values::boolean).unwrap_or(defaults.require_ups_battery),
        clocks: section.value("clocks", values::one_of(&CLOCKS)).unwrap_or(defaults.clocks),
        clock_timeout: time("clock_timeout", defaults.clock_timeout),
        packages: section.slot("packages").map_or(defaults.packages, |_| names(section, "packages", package)),
        api_timeout: time("api_timeout", defaults.api_timeout),
        node_timeout: time("node_timeout", defaults.node_timeout),
        source: section.value("flux_source", object_name).unwrap_or(defaults.source),
        expected_url: section.value("expected_flux_url", values::text).unwrap_or(defaults.expected_url),
        expected_branch: section.value("expected_flux_branch", values::text).unwrap_or(defaults.expected_branch),
        source_timeout: time("source_timeout", defaults.source_timeout),
        flux_ready_timeout: time("flux_ready_timeout", defaults.flux_ready_timeout),
        optional: names(section, "optional_kustomizations", object_name),
        namespaces: names(section, "namespaces", values::dns_label),
        convergence_timeout: time("convergence_timeout", defaults.convergence_timeout),
        ingress: section.section("ingress", services::ingress),
        services: services::services(section),
        endpoints: names(section, "critical_endpoints", object_name),
        checklist_timeout: time("checklist_timeout", defaults.checklist_timeout),
        stability_window: time("stability_window", defaults.stability_window),
        stability_timeout: time("stability_timeout", defaults.stability_timeout),
        vault: section.slot("vault").map(|slot| slot.section(super::vault::vault)),
        repairs: section.section("repairs", repairs),
    }
}

fn names(section: &Cursor<'_>, key: &'static str, parse: impl Fn(&Scalar) -> Parsed<String>) -> BTreeSet<String> {
    let mentions = section.slot(key).and_then(|slot| slot.set(parse)).unwrap_or_default();
    mentions.into_iter().map(|mention| mention.name).collect()
}

/// Name of a Debian package (Debian policy, 5.6.1).
fn package(scalar: &Scalar) -> Parsed<String> {
    let text = &scalar.text;
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    if text.len() >= 2 && text.bytes().all(inner) && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Ok(text.clone());
    }
    Err(format!("{} is no name of a Debian package; write one such as open-iscsi", values::shown(text)))
}

/// `namespace/name`.
fn object_name(scalar: &Scalar) -> Parsed<String> {
    let text = &scalar.text;
    match text.split_once('/') {
        Some((namespace, name)) if values::is_dns_name(namespace) && values::is_dns_name(name) => Ok(text.clone()),
        _ => Err(format!("{} is not namespace/name, e.g. flux-system/flux-system", values::shown(text))),
    }
}
