//! This host: clock, boot id, service manager.

pub mod clock;
