//! What the tests on real parts share.

pub mod nspawn;
pub mod qemu;
pub mod require;
