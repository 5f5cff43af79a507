//! Files → a spanned tree → each room's validated settings, with every mistake of every file reported at once.

mod diagnostic;
mod settings;

pub use diagnostic::{Diagnostic, Place};
pub use settings::{DaemonSettings, HostRole, LogLevel, Origin, Settings};
