//! Sections `cluster` and `shutdown`.

use std::time::Duration;

use super::secret::secret;
use crate::cluster::{Datastore, Protect, Settings, ShutdownMode, ShutdownSettings, StartupSettings};
use crate::config::cursor::{Cursor, Mention};
use crate::config::values;
use crate::site::NodeName;

/// Sections `cluster` and `shutdown` with the places that the cross checks need.
pub struct ClusterDraft {
    /// What was read.
    pub settings: Settings,
    /// `cluster.datastore.host`.
    pub datastore_host: Option<Mention<NodeName>>,
    /// `cluster.cordon_lease`, where it is written.
    pub cordon_lease: Option<Mention<()>>,
    /// Section `shutdown`.
    pub shutdown: Mention<()>,
    /// `shutdown.require_ups_battery`, where it is written.
    pub require_ups_battery: Option<Mention<()>>,
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

const HOUR: Duration = seconds(3600);

const MODES: [(&str, ShutdownMode); 2] = [("cluster-only", ShutdownMode::ClusterOnly), ("host-poweroff", ShutdownMode::HostPoweroff)];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    EmbeddedEtcd,
    External,
    Sqlite,
}

const KINDS: [(&str, Kind); 3] = [("embedded-etcd", Kind::EmbeddedEtcd), ("external", Kind::External), ("sqlite", Kind::Sqlite)];

/// Both sections; they make one value, because every plan of a shutdown needs both.
pub fn cluster(cluster: &Cursor<'_>, shutdown: &Cursor<'_>) -> ClusterDraft {
    let kubeconfig = cluster.slot("kubeconfig");
    let endpoints = cluster.slot("endpoints").and_then(|slot| slot.set(values::server_url)).unwrap_or_default();
    for key in ["endpoints", "ca_file"] {
        if kubeconfig.is_none() && cluster.has(key) {
            cluster.missing(
                "kubeconfig",
                &format!("`{key}` says where the API server is, not who asks; write {{ file: /etc/metis/kubeconfig }}"),
            );
        }
    }
    let (datastore, datastore_host) = cluster.section("datastore", datastore);
    ClusterDraft {
        settings: Settings {
            kubeconfig: kubeconfig.as_ref().and_then(secret),
            endpoints: endpoints.into_iter().map(|endpoint| endpoint.name).collect(),
            ca_file: cluster.value("ca_file", values::path),
            call_timeout: time(cluster, "call_timeout", Duration::from_millis(500), seconds(60), seconds(5)),
            datastore,
            cordon_lease: time(cluster, "cordon_lease", seconds(300), 24 * 7 * HOUR, HOUR),
            shutdown: shutdown_settings(shutdown),
            startup: StartupSettings::default(),
        },
        datastore_host,
        cordon_lease: cluster.mention("cordon_lease"),
        shutdown: shutdown.here(),
        require_ups_battery: shutdown.mention("require_ups_battery"),
    }
}

/// A duration from `least` to `most`.
fn time(section: &Cursor<'_>, key: &'static str, least: Duration, most: Duration, default: Duration) -> Duration {
    section.value(key, values::duration(least..=most)).unwrap_or(default)
}

/// `cluster.datastore`; each kind has keys of its own, and one that does not belong to it would do nothing.
fn datastore(section: &Cursor<'_>) -> (Datastore, Option<Mention<NodeName>>) {
    let kind = section.value("kind", values::one_of(&KINDS)).unwrap_or(Kind::EmbeddedEtcd);
    let keep = section.value("keep", values::integer(1..=1000)).unwrap_or(5) as u32;
    let host: Option<NodeName> = section.value("host", |scalar| values::name(&scalar.text));
    let dump = section.value("dump", values::text);
    let belongs = |key: &'static str, to: Kind, word: &str| {
        if kind != to && section.slot(key).is_some() {
            section.error(format!("`{key}` belongs to `kind: {word}` alone; say so or remove it"));
        }
    };
    belongs("keep", Kind::EmbeddedEtcd, "embedded-etcd");
    belongs("host", Kind::External, "external");
    belongs("dump", Kind::External, "external");
    let mention = host.clone().and_then(|name| section.mention("host").map(|at| Mention { name, place: at.place, path: at.path }));
    let datastore = match kind {
        Kind::EmbeddedEtcd => Datastore::EmbeddedEtcd { keep },
        Kind::Sqlite => Datastore::Sqlite,
        Kind::External => {
            if section.slot("host").is_none() {
                section.missing("host", "the node of the inventory that the database runs on; it goes off last and comes first");
            }
            // Without a host a mistake was reported, and these settings are never used.
            Datastore::External { host: host.unwrap_or_else(|| NodeName::new("")), dump }
        }
    };
    (datastore, mention)
}

fn shutdown_settings(section: &Cursor<'_>) -> ShutdownSettings {
    let drain_timeout = time(section, "drain_timeout", seconds(1), 6 * HOUR, seconds(180));
    let emergency_drain_timeout = time(section, "emergency_drain_timeout", seconds(1), 6 * HOUR, seconds(45));
    if emergency_drain_timeout > drain_timeout {
        section.error(format!(
            "`emergency_drain_timeout` ({}) must not be longer than `drain_timeout` ({})",
            values::show_duration(emergency_drain_timeout),
            values::show_duration(drain_timeout)
        ));
    }
    ShutdownSettings {
        mode: section.value("mode", values::one_of(&MODES)).unwrap_or_default(),
        drain_timeout,
        emergency_drain_timeout,
        detach_timeout: time(section, "detach_timeout", seconds(1), HOUR, seconds(60)),
        snapshot_timeout: time(section, "snapshot_timeout", seconds(1), HOUR, seconds(60)),
        stop_timeout: time(section, "stop_timeout", seconds(1), HOUR, seconds(60)),
        poweroff_timeout: time(section, "poweroff_timeout", seconds(1), seconds(600), seconds(20)),
        halt_time: time(section, "halt_time", seconds(1), seconds(600), seconds(30)),
        unreachable_timeout: time(section, "unreachable_timeout", seconds(1), seconds(600), seconds(10)),
        secondaries_timeout: time(section, "secondaries_timeout", seconds(1), seconds(600), seconds(30)),
        protect: pods(section, "protect").unwrap_or_default(),
        storage_plane: pods(section, "storage_plane").unwrap_or_else(default_storage_plane),
        hosts_at_once: section.value("hosts_at_once", values::integer(1..=256)).unwrap_or(16) as u32,
        require_ups_battery: section.value("require_ups_battery", values::boolean).unwrap_or(false),
    }
}

/// Longhorn as a whole: its manager, instance managers and csi-attacher detach volumes; while all workers are cordoned none of them would
/// come back. And CoreDNS, because Longhorn's CSI plugin finds its manager by name (`http://longhorn-backend:9500/v1`).
fn default_storage_plane() -> Vec<Protect> {
    vec![
        Protect { namespace: Some("longhorn-system".to_owned()), selector: String::new() },
        Protect { namespace: Some("kube-system".to_owned()), selector: "k8s-app=kube-dns".to_owned() },
    ]
}

fn pods(section: &Cursor<'_>, key: &'static str) -> Option<Vec<Protect>> {
    section.slot(key)?.sections(|item| {
        let namespace = item.value("namespace", values::dns_label);
        let selector = item.value("selector", values::selector);
        if item.is_readable() && !item.has("namespace") && !item.has("selector") {
            item.error("would keep every pod of the cluster; name a `namespace`, a `selector` or both");
        }
        Some(Protect { namespace, selector: selector.unwrap_or_default() })
    })
}
