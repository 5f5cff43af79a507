//! Answers of `arm` and `disarm`.

use std::fmt::Write as _;

use metis_proto::v1;
use serde::Serialize;

use super::plan::GuardView;
use super::shutdown::mode;
use crate::human::Look;
use crate::output::{Tone, toned};

/// Answer of `arm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ArmView {
    /// Nothing was changed: it was only asked what stands against it.
    pub check: bool,
    /// Whether a trigger is acted upon now.
    pub armed: bool,
    /// What it leads to, or would: cluster-only or host-poweroff.
    pub mode: &'static str,
    /// What stands against arming.
    pub refusals: Vec<GuardView>,
    /// Worth knowing; none of them blocks.
    pub warnings: Vec<String>,
}

/// Answer of `disarm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DisarmView {
    /// Always false.
    pub armed: bool,
    /// It was armed until now.
    pub was_armed: bool,
    /// Shutdowns that go on.
    pub active: Vec<String>,
    #[serde(skip)]
    flags: String,
}

impl ArmView {
    /// `check`: nothing was to be changed.
    pub fn new(answer: v1::ArmResponse, check: bool) -> Self {
        Self {
            check,
            armed: answer.armed,
            mode: mode(answer.mode),
            refusals: answer.refusals.into_iter().map(Into::into).collect(),
            warnings: answer.warnings,
        }
    }

    /// What holds now, then what stands against it.
    pub fn table(&self, look: &Look) -> String {
        let mut s = match (self.check, self.armed) {
            (false, _) => format!("{}: a trigger leads to {}", toned("ARMED", Tone::Good, look), self.mode),
            (true, armed) => {
                let now = if armed { "armed" } else { "disarmed" };
                match self.refusals.len() {
                    0 => format!("{now}; nothing stands against arming for {}", self.mode),
                    1 => format!("{now}; one guard stands against arming for {}", self.mode),
                    n => format!("{now}; {n} guards stand against arming for {}", self.mode),
                }
            }
        };
        for warning in &self.warnings {
            let _ = write!(s, "\n{} {warning}", toned("warning:", Tone::Warn, look));
        }
        for guard in &self.refusals {
            let _ = write!(s, "\n{} {guard}", toned("would be refused:", Tone::Bad, look));
        }
        s
    }
}

impl DisarmView {
    /// `flags`: those that lead to this daemon.
    pub fn new(answer: v1::DisarmResponse, flags: &str) -> Self {
        Self { armed: false, was_armed: answer.was_armed, active: answer.active, flags: flags.to_owned() }
    }

    /// What holds now, and what goes on nevertheless.
    pub fn table(&self, look: &Look) -> String {
        let before = if self.was_armed { "" } else { " (it was before)" };
        let mut s = format!("{}{before}: a trigger is recorded and shown, not acted on", toned("DISARMED", Tone::Warn, look));
        for run in &self.active {
            let _ = write!(s, "\n{run} goes on; to end it: metisctl{} run cancel {run}", self.flags);
        }
        s
    }
}
