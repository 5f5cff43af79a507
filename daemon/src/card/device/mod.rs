//! The target of a burn: which devices there are, what stands against writing one, and the card writer, a process of its own that
//! opens it exclusively, writes, reads back and puts the partition table last.

mod guard;
mod list;
mod mounts;
mod sysfs;

pub use guard::{Want, guards};
pub use list::{Device, Kind, Roots, find, list};
