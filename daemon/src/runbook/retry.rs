//! How often a step is tried.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How often a step is tried, and the pauses between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts in all; 0 counts as 1.
    pub attempts: u32,
    /// Pause after the first failure; it doubles with each further one.
    pub back_off: Duration,
    /// Longest pause.
    pub longest: Duration,
}

impl Retry {
    /// No second attempt.
    pub const ONCE: Self = Self { attempts: 1, back_off: Duration::ZERO, longest: Duration::ZERO };

    /// The pause after that many failures.
    pub fn pause(&self, failures: u32) -> Duration {
        self.back_off.saturating_mul(1_u32 << failures.saturating_sub(1).min(16)).min(self.longest)
    }
}
