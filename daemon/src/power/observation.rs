//! What the watcher of an upsd tells the policy: a reading, or why there is none.

use serde::{Deserialize, Serialize};

use crate::site::{Reading, UpsName};

/// One poll of one UPS.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// Which UPS was asked for.
    pub ups: UpsName,
    /// What it said, or why nothing was learned.
    pub result: Result<Reading, LinkError>,
    /// Why the configured login does not work; readings go on without it.
    pub login_problem: Option<String>,
}

/// Why a poll brought no reading. The text is shown as the link's state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkError {
    /// upsd answers, its driver has not updated the UPS for MAXAGE (upsd.conf(5)).
    #[error("DATA-STALE: upsd hears nothing new from the UPS's driver")]
    DataStale,
    /// upsd answers, the driver does not run.
    #[error("DRIVER-NOT-CONNECTED: the UPS's driver does not run")]
    DriverNotConnected,
    /// upsd has no such UPS.
    #[error("UNKNOWN-UPS: upsd has no UPS of that name; see ups.conf(5) on its host")]
    UnknownUps,
    /// upsd refused for another reason.
    #[error("upsd refused to list its variables: {0}")]
    Refused(String),
    /// No conversation with upsd: not reached, timed out, closed, TLS, nonsense.
    #[error("{0}")]
    Unreachable(String),
}
