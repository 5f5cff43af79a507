//! Ends the process within a write, in builds with debug assertions only: tests enumerate what a crash leaves behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Hook, Stage};

/// Names the variable that [`from_env`] reads.
pub const VARIABLE: &str = "METIS_JOURNAL_KILL_AT";

/// A hook from `METIS_JOURNAL_KILL_AT=<n>`: SIGKILL at the n-th stage (from 1) of all writes of this process. Every write has three
/// ([`Stage`]). `None` where the variable is not a number.
pub fn from_env() -> Option<Hook> {
    let at = std::env::var(VARIABLE).ok()?.parse().ok()?;
    Some(kill_at(at))
}

/// See [`from_env`].
pub fn kill_at(at: u64) -> Hook {
    let calls = AtomicU64::new(0);
    Hook(Arc::new(move |_: Stage| {
        if calls.fetch_add(1, Ordering::Relaxed) + 1 == at {
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
    }))
}
