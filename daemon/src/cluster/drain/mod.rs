//! Draining a node: which pods go (`filter`), how hard each is asked to as time runs out (`ladder`), which disruption budgets can never be
//! met (`budget`): all pure. `run` does it.

mod budget;
mod filter;
mod ladder;
mod pods;
mod run;
#[cfg(test)]
mod tests;

pub use filter::{Fate, Rules, daemon_set, fate};
pub use run::{Drain, drain};
