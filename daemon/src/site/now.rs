//! Time as an argument: decisions take a [`Now`], they never read a clock.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::BootId;

/// The moment at which something is decided.
///
/// Deadlines run on [`Now::boot`]; expiry runs on [`Now::wall`], and only when [`Now::synced`] (else: cannot tell).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Wall-clock time; may jump.
    pub wall: Timestamp,
    /// Time since boot, suspend included (`CLOCK_BOOTTIME`); never jumps, starts anew with every boot.
    pub boot: Duration,
    /// The boot to which [`Now::boot`] belongs.
    pub boot_id: BootId,
    /// Whether the kernel says that its clock is synchronised (adjtimex(2)).
    pub synced: bool,
}

impl Now {
    /// The same moment `by` later; for tests and simulated time.
    pub fn later(&self, by: Duration) -> Self {
        let wall = jiff::SignedDuration::try_from(by).ok().and_then(|d| self.wall.checked_add(d).ok()).unwrap_or(Timestamp::MAX);
        Self { wall, boot: self.boot.saturating_add(by), boot_id: self.boot_id.clone(), synced: self.synced }
    }
}
