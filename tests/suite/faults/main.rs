//! A burn, and everything that can go wrong with it: real metisd, real metisctl, real block devices.
//!
//! Whatever fails, it is said clearly, with the right exit code; the card has no partition table; the daemon lives and burns the same
//! card right afterwards; the run is closed with its reason, also after a restart; the cache holds only what was verified; and no secret
//! is in any log, output or journal.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

mod bench;
mod guards;
mod happy;
mod medium;
mod process;
mod source;
mod stream;
