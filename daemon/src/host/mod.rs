//! This host: clock, service manager.

pub mod clock;
pub mod port;
pub mod service_manager;
mod settings;

pub use settings::Settings;
