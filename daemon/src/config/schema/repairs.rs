//! Section `startup.repairs`.

use crate::cluster::Protect;
use crate::cluster::repairs::{REPAIRS, RepairRow, RepairSettings};
use crate::config::cursor::{Cursor, Parsed};
use crate::config::tree::Scalar;
use crate::config::values;

pub fn repairs(section: &Cursor<'_>) -> RepairSettings {
    let defaults = RepairSettings::default();
    let switched_off = |row: &&RepairRow| row.setting.and_then(|key| section.value(key, values::boolean)) == Some(false);
    RepairSettings {
        off: REPAIRS.iter().filter(switched_off).map(|row| row.repair).collect(),
        controllers: controllers(section).unwrap_or(defaults.controllers),
        git_namespace: section.value("git_namespace", or_empty).unwrap_or(defaults.git_namespace),
        registry_namespace: section.value("registry_namespace", values::dns_label).unwrap_or(defaults.registry_namespace),
        registry_host: section.value("registry_host", registry).unwrap_or(defaults.registry_host),
    }
}

fn controllers(section: &Cursor<'_>) -> Option<Vec<Protect>> {
    section.slot("controllers")?.sections(|item| {
        let namespace = item.required("namespace", "where the pods are that may be deleted while they are stuck", values::dns_label);
        let selector = item.required("selector", "their labels, e.g. k8s-app=kube-dns", values::selector);
        Some(Protect { namespace: Some(namespace?), selector: selector? })
    })
}

/// Empty: it is not in the cluster.
fn or_empty(scalar: &Scalar) -> Parsed<String> {
    if scalar.text.is_empty() { Ok(String::new()) } else { values::dns_label(scalar) }
}

/// `host` or `host:port`, as image references name it.
fn registry(scalar: &Scalar) -> Parsed<String> {
    let text = &scalar.text;
    let (host, port) = text.split_once(':').map_or((text.as_str(), None), |(host, port)| (host, Some(port)));
    let is_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if values::is_dns_name(host) && is_port {
        return Ok(text.clone());
    }
    Err(format!("{} is not host or host:port, e.g. registry.example:5000", values::shown(text)))
}
