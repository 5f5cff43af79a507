//! The cluster: plans of a shutdown (pure), rules of a drain (pure), and the adapters for Kubernetes, Flux and Longhorn.

mod order;
pub mod port;
mod settings;
pub mod shutdown;

pub use order::ShutdownOrder;
pub use settings::{Datastore, Protect, Settings, ShutdownMode, ShutdownSettings};
