//! Why a run was begun, and how long its steps took before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::DomainName;

/// Why a run was begun.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum Cause {
    /// Somebody asked for it.
    #[default]
    Person,
    /// A reading of a UPS: an emergency.
    Ups {
        /// Domains that are about to lose power.
        domains: BTreeSet<DomainName>,
    },
    /// The power failed again during a start-up: an emergency.
    PowerFailedAgain,
    /// A start-up that nobody asked for: the power is back.
    Boot,
}

impl Cause {
    /// Whether the emergency timeout applies and a battery is not asked for.
    pub fn emergency(&self) -> bool {
        matches!(self, Self::Ups { .. } | Self::PowerFailedAgain)
    }
}

/// How long steps are taken to need: learned from real runs, by kind of step and host, or by kind alone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Learned {
    /// `k3s.stop titan-13` or `k3s.stop` → duration (p95 of real runs).
    pub steps: BTreeMap<String, Duration>,
}

impl Learned {
    /// The key of a step of that kind on that host.
    pub fn key(kind: &str, host: &str) -> String {
        if host.is_empty() { kind.to_owned() } else { format!("{kind} {host}") }
    }

    /// What is known of that kind of step on that host, else of that kind anywhere.
    pub fn get(&self, kind: &str, host: &str) -> Option<Duration> {
        self.steps.get(&Self::key(kind, host)).or_else(|| self.steps.get(kind)).copied()
    }
}
