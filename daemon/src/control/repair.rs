//! Repairs of a run: recorded before they are done, and once they are. Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::{Fact, Reply};
use crate::site::{Guard, RepairCase, RunId, StepId};

/// A repair that a run has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairRecord {
    /// Which, and of what.
    #[serde(flatten)]
    pub case: RepairCase,
    /// In this step.
    pub step: StepId,
    /// When it was begun first.
    pub at: Timestamp,
    /// How it ended; `None`: it is under way, or was cut off: whoever comes next looks first whether it is still due.
    pub ended: Option<RepairEnd>,
}

/// How a repair ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairEnd {
    /// It was done; else it was refused.
    pub done: bool,
    /// For people.
    pub detail: String,
}

/// Records that it is about to be done. What was cut off before its end may be begun again: it is due only where it was not done.
pub(super) fn begin(draft: &mut Draft<'_>, run: &RunId, step: &StepId, case: &RepairCase) -> Reply {
    let Some(record) = draft.state.run(run).filter(|record| record.run.outcome.is_none()) else { return Reply::NoSuchRun };
    match record.repairs.iter().find(|known| known.case == *case) {
        None => {
            draft.add(Fact::RepairBegun { run: run.clone(), step: step.clone(), case: case.clone() });
            Reply::Noted
        }
        Some(known) if known.ended.is_none() => Reply::Noted,
        Some(_) => {
            let message = format!("{} was used for {} already: once per cause and run", case.repair.name(), case.cause);
            Reply::Refused { guards: vec![Guard { name: "repair.used".to_owned(), message, waiver: None }] }
        }
    }
}

/// Records how it ended.
pub(super) fn end(draft: &mut Draft<'_>, run: &RunId, step: &StepId, case: &RepairCase, end: &RepairEnd) -> Reply {
    let open = |known: &RepairRecord| known.case == *case && known.ended.is_none();
    if !draft.state.run(run).is_some_and(|record| record.repairs.iter().any(open)) {
        return Reply::NoSuchRun;
    }
    draft.add(Fact::RepairEnded { run: run.clone(), step: step.clone(), case: case.clone(), end: end.clone() });
    Reply::Noted
}

/// What the two facts do to a run's record.
pub(super) fn apply(repairs: &mut Vec<RepairRecord>, fact: &Fact, at: Timestamp) {
    match fact {
        Fact::RepairBegun { step, case, .. } if !repairs.iter().any(|known| known.case == *case) => {
            repairs.push(RepairRecord { case: case.clone(), step: step.clone(), at, ended: None });
        }
        Fact::RepairEnded { case, end, .. } => {
            for known in repairs.iter_mut().filter(|known| known.case == *case) {
                known.ended = Some(end.clone());
            }
        }
        _ => {}
    }
}
