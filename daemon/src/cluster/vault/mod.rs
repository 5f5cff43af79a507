//! Vault: whether each of its pods is unsealed (pure), by which orders keys unseal one (pure), and the adapter that speaks to them.
//!
//! It stands in this room and not in one of its own: its gate, its settings and the API that names its pods are here. What it needs of other
//! rooms, the way to a pod and where keys come from, `app` hands in.

mod combos;
mod judge;
mod keys;
mod real;
mod settings;
#[cfg(test)]
pub mod tests;
mod walk;
mod wire;

use std::net::IpAddr;

use serde::Deserialize;

pub use judge::{judge, sealed};
pub use real::{Dial, KeySource, Reach, ReadKeys, RealVault};
pub use settings::{VaultSettings, VaultTls, Via};
pub use wire::Stream;

/// A pod of Vault as the API server shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VaultPod {
    /// Its name.
    pub name: String,
    /// Tells it from an earlier pod of that name.
    pub uid: String,
    /// How often its containers were started again: after each Vault is sealed.
    pub restarts: u64,
    /// Its node; empty while it is not scheduled.
    pub node: String,
    /// Its own address, while it runs.
    pub address: Option<IpAddr>,
    /// `Pending`, `Running`, `Unknown`.
    pub phase: String,
}

impl VaultPod {
    /// What sealed it: this start of this pod. A seal without a new start is somebody's wish.
    pub fn cause(&self) -> String {
        format!("sealed vault {} {} {}", self.name, self.uid, self.restarts)
    }
}

/// `GET /v1/sys/seal-status`, as much of it as is read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct SealStatus {
    /// `shamir`, or the kind of seal that unseals itself.
    #[serde(rename = "type")]
    pub kind: String,
    /// It has been given its keys once.
    pub initialized: bool,
    /// It answers nothing but this.
    pub sealed: bool,
    /// Keys that it takes to unseal it.
    #[serde(rename = "t")]
    pub threshold: usize,
    /// Keys that it was given since the last reset, by whomever.
    pub progress: usize,
    /// Names the attempt that these belong to.
    pub nonce: String,
}

/// What is known of a pod's seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seal {
    /// It says so itself.
    Says(SealStatus),
    /// Its pod does not run, and why.
    Down(String),
    /// Nobody answered at its address, or not as Vault does.
    Silent(String),
}

/// A pod, and what is known of its seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSeen {
    /// The pod.
    pub pod: VaultPod,
    /// Its seal.
    pub seal: Seal,
}

/// Why a pod is sealed still. No text of it holds a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    /// The keys were tried, or there are none: trying again does not help.
    #[error("{0}")]
    Keys(String),
    /// It did not answer, or keys could not be read: it may, and they may, a little later.
    #[error("{0}")]
    Passing(String),
}
