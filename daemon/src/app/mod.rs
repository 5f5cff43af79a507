//! The composition root: wires rooms to real or simulated parts.
