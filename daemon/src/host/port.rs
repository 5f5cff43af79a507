//! What metis does to hosts; the second implementation is `sim`.

use std::time::Duration;

use serde_json::Value;

use crate::site::Host;

/// Hosts of the site. Every call ends within the time it is given; a future that is dropped leaves nothing behind but what was done.
#[tonic::async_trait]
pub trait Hosts: Send + Sync {
    /// Runs a real command there, with the rights that later ones need: an open port proves nothing.
    async fn probe(&self, host: &Host, within: Duration) -> Result<(), HostError>;

    /// Runs a command to its end.
    async fn run(&self, host: &Host, command: &Command, within: Duration) -> Result<Output, HostError>;

    /// Stops a unit, one that has not stopped in most of that time by force, and sees it inactive; one that is not there or not active is done.
    /// Where the host is reached through its kubelet and the unit is that kubelet (`k3s*`), it is done once the order was taken.
    async fn stop_unit(&self, host: &Host, unit: &str, within: Duration) -> Result<Stopped, HostError>;

    /// Starts a unit without waiting for it to be up (`--no-block`).
    async fn start_unit(&self, host: &Host, unit: &str, within: Duration) -> Result<(), HostError>;

    /// Who holds a lock that would block the host's power-off (systemd-inhibit(1)), for people. [`Hosts::power_off`] passes over them.
    async fn blockers(&self, host: &Host, within: Duration) -> Result<Vec<String>, HostError>;

    /// Orders the host to power off; done once it was taken, not once it is off.
    async fn power_off(&self, host: &Host, delay: Duration, within: Duration) -> Result<(), HostError>;
}

/// Wakes hosts; the second implementation is `sim`.
#[tonic::async_trait]
pub trait Waker: Send + Sync {
    /// Sends a magic packet. Nobody answers one: that the host is up says another probe.
    async fn wake(&self, host: &Host) -> Result<(), HostError>;
}

/// The cluster's pods, as far as helper pods need them; the second implementation is in their tests. Errors say what, not on which host.
#[tonic::async_trait]
pub trait Pods: Send + Sync {
    /// Makes a pod; one of its name is the same one.
    async fn create(&self, pod: &Value, within: Duration) -> Result<(), HostError>;

    /// A pod as it is; `None`: it is gone.
    async fn get(&self, name: &str, within: Duration) -> Result<Option<Value>, HostError>;

    /// The pods of a node with these labels (`key=value,…`).
    async fn of_node(&self, node: &str, labels: &str, within: Duration) -> Result<Vec<Value>, HostError>;

    /// Removes a pod at once; one that is gone is done.
    async fn delete(&self, name: &str, within: Duration) -> Result<(), HostError>;
}

/// How a unit came to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It was told to, or did not run.
    Asked,
    /// It took the order; nobody is left there who could be asked.
    Ordered,
    /// Its main process was killed.
    Killed,
}

/// A command for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments; no shell reads them.
    pub argv: Vec<String>,
    /// As root.
    pub root: bool,
}

/// What a command that ended with 0 said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Output {
    /// Standard output, at most 64 KiB.
    pub stdout: String,
    /// Standard error, at most 64 KiB.
    pub stderr: String,
}

/// Why a host did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// No connection: off, cable, no route, nothing listens.
    #[error("{0}")]
    Unreachable(String),
    /// The connection was not to be trusted, or did not trust us: host key, user key.
    #[error("{0}")]
    Refused(String),
    /// It let us in, but not act as root.
    #[error("{0}")]
    Denied(String),
    /// The command ended with another status than 0.
    #[error("{0}")]
    Failed(String),
    /// It did not answer in time.
    #[error("{0}")]
    TimedOut(String),
}
