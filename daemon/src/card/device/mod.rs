//! The target of a burn: which devices there are, what stands against writing one, and the card writer, a process of its own that
//! opens it exclusively, writes, reads back and puts the partition table last.

mod chunk;
mod client;
mod fault;
mod feed;
mod guard;
mod ioctl;
mod link;
mod list;
mod medium;
mod mounts;
mod protocol;
mod serve;
mod sysfs;
mod write;

pub use client::{Event, Target, WriteError, Writer, write};
pub use fault::{Fault, FaultKind};
pub use guard::{Want, guards};
pub use list::{Device, Kind, Roots, find, list};
pub use protocol::{Milestone, Summary};
pub use serve::serve;

#[cfg(test)]
mod tests;
