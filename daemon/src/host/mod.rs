//! This host: clock, service manager, its units.

pub mod clock;
pub mod port;
pub mod service_manager;
mod settings;
pub mod units;

pub use settings::Settings;
