//! Pure: plans as data, and the runner over them. Knows no domain words.
//!
//! A [`Runbook`] says what is to be done; a [`Run`] is a runbook with the state of its steps; [`next()`] says what has to happen now;
//! [`settle()`] says what the end of an attempt means; [`cut()`] shares out the time that is left.

mod cut;
mod next;
mod retry;
mod run;
mod settle;
#[cfg(test)]
mod tests;
mod types;
mod verdict;

pub use cut::{cut, least};
pub use next::{ABORT_GRACE, Order, next};
pub use retry::Retry;
pub use run::{Hold, MILESTONES_KEPT, Run, StepState};
pub use settle::{resume, settle};
pub use types::{Form, Limit, Mode, OnFailure, Outcome, Phase, PlannedStep, Replay, Runbook, Status, StepResult};
