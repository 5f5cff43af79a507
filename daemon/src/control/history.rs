//! Stored facts as they were told, and old runs folded from them.

use super::{DecodeError, Fact, RunRecord, Stamp, State, Told, apply};
use crate::journal::Stored;

impl Told {
    /// A stored fact as it was told.
    ///
    /// # Errors
    /// Where another metis wrote it.
    pub fn decode(stored: &Stored) -> Result<Self, DecodeError> {
        let fact = Fact::decode(&stored.kind, stored.version, &stored.payload)?;
        Ok(Self { stamp: Stamp { seq: stored.seq, now: stored.now() }, fact })
    }
}

/// A run from its own facts, in order; `None` where its admission is not among them.
pub fn fold_run(facts: &[Told]) -> Option<RunRecord> {
    let mut state = State::default();
    for told in facts {
        apply(&mut state, &told.fact, &told.stamp);
    }
    state.runs.pop_back().map(|record| RunRecord::clone(&record))
}
