//! Recovery: the newest checkpoint and the facts after it add up to the state.

use super::{Fact, Stamp, State, apply};
use crate::journal::Stored;

/// Folds what the journal found. What cannot be read is skipped and told: a daemon that watches is worth more than one that refuses to.
pub fn fold(checkpoint: Option<&(u64, String)>, tail: &[Stored]) -> (State, Vec<String>) {
    let mut problems = Vec::new();
    let mut state = State::default();
    if let Some((seq, payload)) = checkpoint {
        match serde_json::from_str(payload) {
            Ok(stored) => state = stored,
            Err(error) => problems.push(format!("the journal's checkpoint at {seq} cannot be read, older history is not shown: {error}")),
        }
    }
    for stored in tail {
        match Fact::decode(&stored.kind, stored.version, &stored.payload) {
            Ok(fact) => apply(&mut state, &fact, &Stamp { seq: stored.seq, now: stored.now() }),
            Err(error) => problems.push(format!("fact {} of the journal is left out: {error}", stored.seq)),
        }
    }
    (state, problems)
}
