//! This host: clock, service manager.

pub mod clock;
pub mod service_manager;
