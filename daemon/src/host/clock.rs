//! The one source of [`Now`].

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::site::{BootId, Now};

/// Reads the clocks of this host.
#[derive(Debug, Clone)]
pub struct Clock {
    boot_id: BootId,
}

impl Clock {
    /// Reads the boot id once.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn new() -> std::io::Result<Self> {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self { boot_id: BootId::new(text.trim()) })
    }

    /// The present moment.
    pub fn now(&self) -> Now {
        #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
        let wall = jiff::Timestamp::now() + failpoint();
        let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        Now { wall, boot, boot_id: self.boot_id.clone(), synced: synchronised() || failpoint_synced() }
    }
}

/// A test says that the clock is right, on a machine where nobody disciplines it: `METIS_CLOCK_SYNCED` is set.
fn failpoint_synced() -> bool {
    cfg!(debug_assertions) && std::env::var_os("METIS_CLOCK_SYNCED").is_some()
}

/// By how much a test has set the wall clock: seconds in the file that `METIS_WALL_OFFSET` names, read at every look at the clock. A real
/// one cannot be set for a single process (time_namespaces(7) have none). Builds without debug assertions have none of it.
fn failpoint() -> jiff::SignedDuration {
    #[cfg(debug_assertions)]
    if let Some(seconds) = std::env::var_os("METIS_WALL_OFFSET").and_then(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok()) {
        return jiff::SignedDuration::from_secs(seconds);
    }
    jiff::SignedDuration::ZERO
}

/// Whether the kernel's clock is disciplined (adjtimex(2): not `STA_UNSYNC`).
#[allow(unsafe_code, reason = "nix has no adjtimex")]
fn synchronised() -> bool {
    const STA_UNSYNC: i32 = 0x40;
    const TIME_ERROR: i32 = 5;
    // SAFETY: all-zero bytes are a valid timex (plain integers); modes = 0 makes adjtimex only read into it.
    let (state, status) = unsafe {
        let mut timex: nix::libc::timex = std::mem::zeroed();
        (nix::libc::adjtimex(&raw mut timex), timex.status)
    };
    state >= 0 && state != TIME_ERROR && status & STA_UNSYNC == 0
}
