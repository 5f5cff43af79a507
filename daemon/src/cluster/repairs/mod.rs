//! Pure: what a start-up mends by itself. What was seen → which repairs are due, each with its cause.
//!
//! A repair is a remedy of a gate: it is looked for while the gate is *not ready*, never while it cannot be told whether it is. It is due
//! on its exact symptom alone, once it has stood for a while under our own eyes (a status of before a power cut is old, whatever time it
//! carries), and never on what a person has suspended or opted out of. It is done once at most for each cause and run.

mod judge;
mod left;
pub mod seen;
mod settings;
mod standing;
mod table;
#[cfg(test)]
mod tests;

pub use judge::{Act, Due, Judgement, critical, due};
pub use left::{Known, left_at_zero};
pub use settings::RepairSettings;
pub use standing::Standing;
pub use table::{REPAIRS, RepairRow, after, allowed, mends, row};

/// Annotation (or label) of an object that metis must not repair, with the value `disabled`.
pub const OPT_OUT: &str = "metis.v1/repair";
