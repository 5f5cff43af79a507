//! UPSes through NUT: client, policy, budget.

pub mod budget;
pub mod nut;
mod observation;
pub mod policy;
pub mod port;
mod reading;
mod settings;

pub use observation::{LinkError, Observation};
pub use policy::{Change, DomainState, Snapshot, Trigger, UpsState, Watch};
pub use reading::reading_from_vars;
pub use settings::{Settings, Thresholds, TlsSettings, UpsSettings};
