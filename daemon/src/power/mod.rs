//! UPSes through NUT: client, policy, budget.

mod settings;

pub use settings::{Settings, Thresholds, TlsSettings, UpsSettings};
