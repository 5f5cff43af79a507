//! The composition root: wires rooms to real or simulated parts.

pub mod args;
pub mod logging;
