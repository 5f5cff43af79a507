//! UPSes through NUT: client, policy, budget.

pub mod budget;
pub mod checks;
pub mod files;
pub mod masters;
pub mod nut;
mod observation;
pub mod outlets;
pub mod policy;
pub mod port;
mod primary;
mod reading;
mod settings;
#[cfg(test)]
pub mod testing;

pub use observation::{LinkError, Observation};
pub use policy::{Change, DomainState, Snapshot, Trigger, UpsState, Watch};
pub use primary::{NutPrimary, Resolve};
pub use reading::reading_from_vars;
pub use settings::{Settings, Thresholds, TlsSettings, UpsSettings};
