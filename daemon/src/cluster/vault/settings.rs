//! `startup.vault` of the configuration, validated.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::site::SecretRef;

/// `startup.vault`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VaultSettings {
    /// Namespace of its pods.
    pub namespace: String,
    /// Labels of its pods, `key=value,…`.
    pub selector: String,
    /// So many pods there must be; one that is not there yet comes sealed.
    pub pods: u32,
    /// Where each of them listens.
    pub port: u16,
    /// How they show who they are; `None`: plain HTTP, inside of SSH only.
    pub tls: Option<VaultTls>,
    /// The way to a pod's address.
    pub via: Via,
    /// Unseal keys, one a line.
    pub keys: Option<SecretRef>,
    /// A command that prints them where these are missing or wrong: program and arguments.
    pub break_glass: Vec<String>,
    /// It may take so long.
    pub break_glass_timeout: Duration,
    /// So long without another unsealed pod is borne.
    pub timeout: Duration,
}

/// How pods of Vault show who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VaultTls {
    /// PEM file with the CAs that are trusted; absent: this host's.
    pub ca_file: Option<PathBuf>,
    /// The name that their certificates must have: an address of a pod is in none.
    pub server_name: String,
}

/// The way to a pod's address, which is none of this host's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// Through the sshd of the pod's node (`direct-tcpip` of RFC 4254 §7.2). The API server's proxy would read the keys and checks no
    /// certificate; its port-forward asks for a right to every port of every pod there.
    Ssh,
    /// By this host's own routes.
    Direct,
}
