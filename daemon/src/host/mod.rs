//! Hosts: this one's clock and service manager, and every one's units and power, over SSH, a pod or D-Bus.

use std::sync::Arc;

use crate::site::{Secret, SecretRef};

pub mod break_glass;
pub mod clock;
pub mod dump;
pub mod helper_pod;
mod local;
pub mod memory;
pub mod port;
mod reach;
pub mod service_manager;
mod settings;
pub mod ssh;
mod systemctl;
pub mod systemd;
mod tail;
#[cfg(test)]
mod testing;
pub mod units;
mod wake;

pub use reach::RealHosts;
pub use settings::Settings;
pub use wake::MagicPacket;

/// Reads a secret; blocks. Its error holds nothing of the content.
pub type Secrets = Arc<dyn Fn(&SecretRef) -> Result<Secret, String> + Send + Sync>;
