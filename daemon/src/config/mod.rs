//! Files → a spanned tree → each room's validated settings, with every mistake of every file reported at once.

mod check;
mod cursor;
mod diagnostic;
mod load;
mod merge;
mod schema;
mod settings;
mod suggest;
mod tree;
mod values;

pub use check::check_report;
pub use diagnostic::{Diagnostic, Place};
pub use load::{from_bytes, from_strs, inventory_from_str, load};
pub use settings::{DaemonSettings, HostRole, LogLevel, Origin, Settings};

#[cfg(test)]
mod tests;
