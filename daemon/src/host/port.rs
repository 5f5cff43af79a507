//! What metis does to hosts; the second implementation is `sim`.

use std::time::Duration;

use crate::site::Host;

/// Hosts of the site. Every call ends within the time it is given; a future that is dropped leaves nothing behind but what was done.
#[tonic::async_trait]
pub trait Hosts: Send + Sync {
    /// Runs a real command there, with the rights that later ones need: an open port proves nothing.
    async fn probe(&self, host: &Host, within: Duration) -> Result<(), HostError>;

    /// Runs a command to its end.
    async fn run(&self, host: &Host, command: &Command, within: Duration) -> Result<Output, HostError>;

    /// Stops a unit and sees it inactive; one that is not there or not active is done.
    async fn stop_unit(&self, host: &Host, unit: &str, within: Duration) -> Result<(), HostError>;

    /// Starts a unit without waiting for it to be up (`--no-block`).
    async fn start_unit(&self, host: &Host, unit: &str, within: Duration) -> Result<(), HostError>;

    /// Orders the host to power off; done once it was taken, not once it is off.
    async fn power_off(&self, host: &Host, delay: Duration, within: Duration) -> Result<(), HostError>;
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
