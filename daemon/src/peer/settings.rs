//! Section `peer` of the configuration, validated.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::site::{NodeName, SecretRef};

/// Section `peer`: the other metis host of the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// `peer.host`: its name in the inventory.
    pub host: NodeName,
    /// `peer.user`: SSH user there, who has role maintenance in its `api.roles`; absent: as the inventory says.
    pub user: Option<String>,
    /// `peer.key`: that user's private key; absent: as the inventory says.
    pub key: Option<SecretRef>,
    /// `peer.socket`: of its metisd.
    pub socket: PathBuf,
    /// `peer.ask_timeout`: it answers within this time, the connection included.
    pub ask_timeout: Duration,
    /// `peer.lease_namespace`: of the Lease `metis`.
    pub lease_namespace: String,
    /// `peer.allow_peer_startup`: a start-up does not need the other host's word.
    pub allow_peer_startup: bool,
    /// `peer.auto_peer_failover`: the peer takes a start-up over where the coordinator cannot be reached.
    pub auto_peer_failover: bool,
    /// `peer.takeover_after`: it has to have been so for that long, where nobody asks.
    pub takeover_after: Duration,
}
