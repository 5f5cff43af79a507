//! What the files say, validated: one value that a run is pinned to by its digest.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::diagnostic::{Diagnostic, Place};
use crate::api::Settings as ApiSettings;
use crate::card::Settings as CardSettings;
use crate::cluster::Settings as ClusterSettings;
use crate::host::Settings as HostsSettings;
use crate::peer::Settings as PeerSettings;
use crate::power::Settings as PowerSettings;
use crate::site::{Inventory, SettingsDigest};

/// The whole configuration, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Section `daemon`.
    pub daemon: DaemonSettings,
    /// Section `api`.
    pub api: ApiSettings,
    /// Section `power`.
    pub power: PowerSettings,
    /// Sections `cluster`, `shutdown` and `startup`.
    pub cluster: ClusterSettings,
    /// Section `card`.
    pub card: CardSettings,
    /// Section `hosts`.
    pub hosts: HostsSettings,
    /// Section `peer`; `None`: the site has no other metis host.
    pub peer: Option<PeerSettings>,
    /// The inventory file.
    pub inventory: Inventory,
    /// SHA-256 over all of the above in a canonical form; equal settings have equal digests, however they were written.
    pub digest: SettingsDigest,
    /// The files that were read, in the order in which they were merged, the inventory last.
    pub files: Vec<PathBuf>,
    /// Where every value of the configuration files comes from, by key. What is absent has its default.
    pub origins: BTreeMap<String, Origin>,
    /// What is valid, and yet will not do what it seems to, each with its place.
    pub remarks: Vec<Diagnostic>,
}

impl Settings {
    /// Puts the sections together and computes their digest.
    #[allow(clippy::too_many_arguments, reason = "one for each section")]
    pub fn new(
        daemon: DaemonSettings,
        api: ApiSettings,
        power: PowerSettings,
        cluster: ClusterSettings,
        card: CardSettings,
        hosts: HostsSettings,
        peer: Option<PeerSettings>,
        inventory: Inventory,
    ) -> Self {
        // Struct fields keep their order and maps are sorted (`BTreeMap`), so the JSON is canonical.
        let digest = digest(&(&daemon, &api, &power, &cluster, &card, &hosts, &peer, &inventory));
        Self {
            daemon,
            api,
            power,
            cluster,
            card,
            hosts,
            peer,
            inventory,
            digest,
            files: Vec::new(),
            origins: BTreeMap::new(),
            remarks: Vec::new(),
        }
    }
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The place that counts.
    pub place: Place,
    /// Places in earlier files that it replaces, oldest first.
    pub replaced: Vec<Place>,
}

/// Section `daemon`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DaemonSettings {
    /// `daemon.state_dir`: journal, history, cache, reports; survives reboots.
    pub state_dir: PathBuf,
    /// `daemon.runtime_dir`: what a reboot may lose.
    pub runtime_dir: PathBuf,
    /// `daemon.host_role`.
    pub host_role: HostRole,
    /// `daemon.log_level`.
    pub log_level: LogLevel,
}

/// What this host is to the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HostRole {
    /// Commands shutdown and start-up.
    Coordinator,
    /// Takes over where the coordinator cannot be reached.
    Peer,
    /// Watches.
    #[default]
    Observer,
    /// Burns cards; no power role.
    Cards,
}

impl HostRole {
    /// All roles with the words that the files use.
    pub const ALL: [(&'static str, Self); 4] =
        [("coordinator", Self::Coordinator), ("peer", Self::Peer), ("observer", Self::Observer), ("cards", Self::Cards)];

    /// The word that the files use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Peer => "peer",
            Self::Observer => "observer",
            Self::Cards => "cards",
        }
    }
}

impl fmt::Display for HostRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is worth a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Failures.
    Error,
    /// And what may become one.
    Warn,
    /// And what happened.
    #[default]
    Info,
    /// And why.
    Debug,
    /// And every exchange.
    Trace,
}

impl LogLevel {
    /// All levels with the words that the files use.
    pub const ALL: [(&'static str, Self); 5] =
        [("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug), ("trace", Self::Trace)];

    /// The word that the files use, which is also a tracing filter directive.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// SHA-256, hex, over the JSON of the sections.
fn digest(sections: &impl Serialize) -> SettingsDigest {
    // Serialising fails only on map keys that are not text, of which the sections have none.
    let json = serde_json::to_vec(sections).unwrap_or_default();
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(&json) {
        let _ = write!(hex, "{byte:02x}");
    }
    SettingsDigest::new(hex)
}
