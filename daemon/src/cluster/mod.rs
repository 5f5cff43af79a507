//! The cluster: plans of a shutdown and of a start-up (pure), rules of a drain (pure), and the adapters for Kubernetes, Flux and Longhorn.

mod collect;
mod command;
mod describe;
mod drain;
mod events;
mod examine;
pub mod exposed;
mod exposure;
mod flux;
mod kube;
pub mod lease;
mod mark;
mod mend;
mod objects;
mod observe;
mod order;
mod pods;
pub mod port;
mod real;
pub mod repairs;
mod rights;
pub mod seen;
mod settings;
pub mod shutdown;
pub mod startup;
#[cfg(test)]
mod tests;
pub mod vault;
mod volumes;

pub use describe::stores;
pub use kube::AccessError;
pub use mark::ANNOTATION;
pub use order::ShutdownOrder;
pub use pods::Pods;
pub use real::{RIGHTS, RealCluster};
pub use settings::{Clocks, Datastore, IngressSettings, Protect, Settings, ShutdownMode, ShutdownSettings, StartupSettings};
