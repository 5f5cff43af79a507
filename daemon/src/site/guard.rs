//! What stands in the way of a request, and how far a long step has come.

use serde::{Deserialize, Serialize};

/// A guard that refuses; a refusal lists all of them at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Stable name, e.g. `device.mounted`.
    pub name: String,
    /// What is wrong, on what, and what to do.
    pub message: String,
    /// The flag that waives it, e.g. `--allow-fixed`; `None`: cannot be waived.
    pub waiver: Option<String>,
}

/// Bytes done within a step. Volatile: it never enters the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// What is counted: `fetch`, `unpack`, `write`, `verify`.
    pub stage: &'static str,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all; 0 where it is not known.
    pub total: u64,
}
