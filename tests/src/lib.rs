//! What the tests on real parts share.

pub mod actors;
pub mod card;
pub mod daemon;
pub mod hosts;
pub mod lab;
pub mod loopdev;
pub mod medium;
pub mod nspawn;
pub mod nut;
pub mod plane;
pub mod process;
pub mod qemu;
pub mod require;
pub mod site;
pub mod sshd;
pub mod vault;
