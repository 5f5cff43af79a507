//! Section `hosts` of the configuration, validated.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::site::{NodeName, SecretRef};

/// Section `hosts`: how hosts of the inventory are reached that say nothing else themselves.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// `hosts.this_host`: this host's name in the inventory; absent: the node whose name or host name is this host's.
    pub this_host: Option<NodeName>,
    /// `hosts.user`: SSH user.
    pub user: String,
    /// `hosts.key`: SSH private key.
    pub key: Option<SecretRef>,
    /// `hosts.known_hosts`: known_hosts(5) file for hosts that pin no fingerprints.
    pub known_hosts: PathBuf,
    /// `hosts.connect_timeout`: until a connection stands, authentication included.
    pub connect_timeout: Duration,
    /// `hosts.at_once`: connections being made or used at once.
    pub at_once: u32,
    /// `hosts.helper_image`: multi-arch image of the helper pod; it needs `sh`, `tail` and `nsenter`.
    pub helper_image: Option<String>,
    /// `hosts.helper_namespace`.
    pub helper_namespace: String,
}
