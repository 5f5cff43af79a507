//! A simulated site.
